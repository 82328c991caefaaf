"""Errors that the window shows as a sentence: it goes on, and nothing that was painted is lost."""

from sparsem.errors import SparsemError

# Of what the user can correct; of disks; of files and arrays of other programs; of large slices.
SHOWN_ERRORS = (SparsemError, OSError, ValueError, MemoryError)
