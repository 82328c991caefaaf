"""Masks of the objects in boxes."""
