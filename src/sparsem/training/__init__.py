"""The training loop, shared by pixel networks and detectors."""
