"""Detection of objects in boxes, in images of any size: training, inference, masks and scores."""
