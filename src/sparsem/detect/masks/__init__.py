"""Masks of detected boxes."""
