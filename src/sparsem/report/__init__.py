"""Pictures for the eye."""
