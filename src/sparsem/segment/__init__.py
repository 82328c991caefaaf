"""Segmentation networks: training on a few labeled slices, and prediction."""
