"""Hand-labeled slices, and ground truth."""
