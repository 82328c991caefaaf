"""Places to review, and those that a person accepted."""
