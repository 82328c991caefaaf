"""Synthetic tumor volumes with exact ground truth."""
