"""Boxes around objects in images: files, tables, constraints and counts."""
