"""What can go wrong, as one tree.

    SparsemError                 everything below; the command line prints it as one sentence and exits with 2
    ├── InputError               a file, array or slice is not what was expected
    ├── SettingsError            an unknown key, a value out of range
    ├── SampleError              a sample lacks a piece, is damaged, or is in use
    ├── ResumeError              an unfinished or finished result was made with other settings
    └── ResourceError            what a stage needs does not fit into memory or onto the disk

A message says what was expected, what was found, where, and what to do.
"""


class SparsemError(Exception):
    """Base of every error that is the caller's to mend."""


class InputError(SparsemError):
    """A file, array or slice is not what was expected."""


class SettingsError(SparsemError):
    """A setting is unknown or out of range."""


class SampleError(SparsemError):
    """A sample lacks a piece, is damaged, or is in use by another run."""


class ResumeError(SparsemError):
    """A result exists that was made with other settings, inputs or another version."""


class ResourceError(SparsemError):
    """A stage needs more memory or disk than there is."""
