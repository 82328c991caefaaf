"""Primitives of one image."""
