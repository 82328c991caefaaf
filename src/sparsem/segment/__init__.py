"""Pixel networks trained on a few labeled slices, and their predictions."""
