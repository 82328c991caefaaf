"""Primitives of one image: black areas, power spectrum, noise, stripes."""
