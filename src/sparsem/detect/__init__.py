"""Boxes around objects in pictures of any size: learning, finding, masks, constraints, scores."""
