"""Paths and patterns that a settings file names, relative to its folder."""

import glob
from collections.abc import Sequence
from pathlib import Path

from sparsem.errors import InputError
from sparsem.io.readers.file_names import natural_key


def find_files(root: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the files and folders of paths and patterns; a pattern's in the order of numbers.

    Raises:
        InputError: there is no such file, or no file matches a pattern.
    """
    files: list[Path] = []
    for pattern in patterns:
        matches = [pattern]
        if any(mark in pattern for mark in "*?[") and not (root / pattern).exists():
            # Path.glob would take marks in the name of the root folder for a pattern.
            matches = sorted(glob.glob(pattern, root_dir=root), key=natural_key)  # noqa: PTH207
        if not matches:
            raise InputError(f"No file matches {pattern} in {root}.")
        files += [root / match for match in matches]
    for file in files:
        if not file.exists():
            raise InputError(f"There is no file {file}.")
    return files
