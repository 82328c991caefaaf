"""sparsem: from a raw volume-EM stack and a few labeled slices to every organelle and every cell."""

__version__ = "0.1.0"
