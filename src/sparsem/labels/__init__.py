"""Label volumes."""
