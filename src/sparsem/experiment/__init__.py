"""Questions that are answered by measuring, on any sample with truth."""
