"""Detectors of objects."""
