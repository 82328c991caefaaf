"""The training loop, which segmentation networks and detectors share."""
