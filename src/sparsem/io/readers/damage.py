"""Errors that libraries raise on damaged files, turned into one sentence."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tifffile

from sparsem.errors import InputError, SparsemError

# Errors that the libraries raise when they decode a damaged file.
UNREADABLE = (
    tifffile.TiffFileError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    RuntimeError,
    struct.error,
    NotImplementedError,
)

MAX_REASON_LENGTH = 200  # characters of a library's message that are shown


@contextmanager
def refuse_damaged_file(path: Path, file_format: str) -> Iterator[None]:
    """Turn any error that a library raises on a damaged file into one sentence.

    Args:
        path: the file that is read.
        file_format: its format, for the message.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        yield
    except (SparsemError, MemoryError):
        raise
    except Exception as error:  # parsers raise almost any exception on damaged files
        reason = _first_line(error)
        raise InputError(
            f"{path.name} cannot be read as {file_format} ({reason}); is it complete?"
        ) from None


def _first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has no message."""
    message = str(error).strip()
    if not message:
        return type(error).__name__
    return message.splitlines()[0][:MAX_REASON_LENGTH]
