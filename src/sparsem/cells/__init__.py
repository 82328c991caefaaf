"""Single cells with their protrusions, from a few labeled slices (paper 3.3)."""
