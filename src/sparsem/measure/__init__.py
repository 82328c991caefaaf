"""Measurements of objects and cells, in tables with units.

``measure.measure`` is the stage. ``measure.features`` holds functions of arrays.
"""
