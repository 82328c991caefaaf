"""The sample on disk: one OME-Zarr that holds the image and everything computed from it."""
