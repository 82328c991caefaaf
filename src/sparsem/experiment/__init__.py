"""Experiments that answer a question by measuring, on any sample with ground truth."""
