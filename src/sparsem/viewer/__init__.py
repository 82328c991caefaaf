"""The window: a napari plugin that shows a sample, and in which one labels, trains and reviews."""
