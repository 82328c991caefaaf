"""Features of objects, as pure functions of arrays."""
