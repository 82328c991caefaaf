"""Structures in 3D."""
