"""Measurements: what an object is in numbers, with units. Functions here take arrays; ``measure.tables`` is the stage."""
