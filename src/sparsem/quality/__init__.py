"""Image quality: noise, sharpness, stripes, resolution, and which slices to review."""
