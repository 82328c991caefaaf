"""Text for people: paths in a shell, sizes, lists of slices."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

MAX_LISTED = 12  # numbers in a sentence


def in_shell(path: str | Path) -> str:
    """Return a path as it is typed in a shell, in quotes if it has special characters."""
    if os.name == "nt":
        return subprocess.list2cmdline([str(path)])
    return shlex.quote(str(path))


def size_in_words(shape: Sequence[int]) -> str:
    """Return a shape as text.

    >>> size_in_words((48, 512, 512))
    '48 x 512 x 512'
    """
    return " x ".join(map(str, shape))


def lengths_in_words(lengths: Sequence[float]) -> str:
    """Return lengths as text.

    >>> lengths_in_words((8.0, 4.5, 4.5))
    '8 x 4.5 x 4.5'
    """
    return " x ".join(f"{length:g}" for length in lengths)
