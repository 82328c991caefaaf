"""Single cells with their protrusions, from a few labelled slices (paper 3.3)."""
