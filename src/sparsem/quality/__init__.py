"""What an image is like, before anything is found in it: noise, sharpness, stripes, resolution; and which slices to look at."""
