"""Pages, plots, renderings and exported files."""
