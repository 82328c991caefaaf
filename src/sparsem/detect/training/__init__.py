"""Training of detectors on boxes."""
