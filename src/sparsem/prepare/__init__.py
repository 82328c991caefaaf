"""What is done to an image before anything is found in it: slices put over each other, brightness made even."""
