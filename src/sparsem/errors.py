"""The errors of sparsem, as one tree.

    SparsemError                 base of all; the command line prints it and exits with code 2
    ├── InputError               a file, array or slice is not what was expected
    ├── SettingsError            a setting is unknown or out of range
    ├── SampleError              a sample lacks something, is damaged, or is in use
    ├── ResumeError              a finished or unfinished result was computed with other settings
    ├── ResourceError            the work does not fit into memory or onto the disk
    └── MissingExtraError        an optional part of sparsem is not installed

A message says what was expected, what was found, where, and what to do.
"""


class SparsemError(Exception):
    """Base of every error that the user can correct."""


class InputError(SparsemError):
    """A file, array or slice is not what was expected."""


class SettingsError(SparsemError):
    """A setting is unknown or out of range."""


class SampleError(SparsemError):
    """A sample lacks something, is damaged, or is in use by another run."""


class ResumeError(SparsemError):
    """A result exists that was computed with other settings, inputs or another version."""


class ResourceError(SparsemError):
    """The work needs more memory or disk than is free."""


class MissingExtraError(SparsemError, ImportError):
    """An optional part of sparsem is not installed."""
