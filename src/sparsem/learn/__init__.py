"""Learning from labelled slices."""
