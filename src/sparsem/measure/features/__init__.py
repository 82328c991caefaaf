"""Measured features: pure functions of arrays."""
