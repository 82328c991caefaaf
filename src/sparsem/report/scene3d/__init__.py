"""Structures in 3D: meshes, renderings and the scene of the page."""
