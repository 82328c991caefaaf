"""Glob patterns: the files that a pattern matches, and a pattern for files of one kind."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from sparsem.io.readers.file_names import FileName, NamePart, split_names
from sparsem.io.readers.file_order import series_order

LAST_WORD = re.compile(r"[^\W\d_]*[ _.=-]*$")


def is_pattern(source: str | Path) -> bool:
    """Return whether a source is no existing path, but may be a pattern."""
    has_wildcard = any(mark in str(source) for mark in "*?[")
    return has_wildcard and not Path(source).exists()


def files_of_pattern(source: str | Path) -> list[Path]:
    """Return the files that a pattern matches.

    A folder in it that exists as written is taken literally.
    """
    literal, wild = _split_at_wildcard(Path(source).absolute())
    for pattern in (wild, wild.replace("[", "[[]")):  # files may have brackets in their names too
        matches = glob.glob(os.path.join(literal, pattern))  # noqa: PTH118, PTH207
        if matches:
            return [Path(name) for name in matches]
    return []


def _split_at_wildcard(path: Path) -> tuple[str, str]:
    """Return a pattern of the leading folders that exist as written, and the rest of the path."""
    folder = Path(path.anchor)
    parts = list(path.parts[1:])
    literal_parts = []
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts[0]
        literal_parts.append(glob.escape(parts.pop(0)))
    literal = os.path.join(glob.escape(path.anchor), *literal_parts)  # noqa: PTH118  # a pattern
    wild = os.path.join(*parts)  # noqa: PTH118
    return literal, wild


def pattern_for_one_kind(names: Sequence[str], pair: tuple[int, int]) -> str | None:
    """Find a pattern of names that give an order, with one of two names that are in conflict.

    Returns:
        A pattern such as ``*ch00*.tif``, the one with most names; None if there is none.
    """
    first, second = names[pair[0]], names[pair[1]]
    best_pattern = None
    best_count = 0
    for pattern in dict.fromkeys(_patterns(first, second)):
        matches = [name for name in names if fnmatchcase(name, pattern)]
        separates = (first in matches) != (second in matches)
        if separates and len(matches) > best_count and not series_order(matches).fault:
            best_pattern = pattern
            best_count = len(matches)
    return best_pattern


def _patterns(first_name: str, second_name: str) -> Iterator[str]:
    """Yield patterns by the differences of two names, those that are easiest to read first."""
    if "/" in first_name + second_name:
        return
    first_ending = PurePosixPath(first_name).suffix
    second_ending = PurePosixPath(second_name).suffix
    if first_ending != second_ending:
        yield f"*{first_ending}"
    first, second = split_names([first_name, second_name])
    if len(first.parts) == len(second.parts):
        yield from _patterns_by_difference(first, second, glob.escape(first_ending))
    yield from _patterns_by_number(first)
    for name, ending in ((first_name, first_ending), (second_name, second_ending)):
        stem = name.removesuffix(ending)
        yield re.sub(r"\d", "?", glob.escape(stem)) + ending


def _patterns_by_number(name: FileName) -> Iterator[str]:
    """Yield the patterns of a name in which any number may stand in place of one of its own."""
    for part in name.parts:
        before = glob.escape(part.before)
        after = glob.escape(part.after)
        numbered = f"{before}{part.written}{after}"
        yield glob.escape(name.name).replace(numbered, f"{before}*{after}", 1)


def _patterns_by_difference(first: FileName, second: FileName, ending: str) -> Iterator[str]:
    """Yield patterns by the numbers and texts in which two names differ, from the last on."""
    for part, second_part in zip(reversed(first.parts), reversed(second.parts), strict=True):
        before = glob.escape(part.before)
        after = glob.escape(part.after)
        if part.written != second_part.written:
            yield from _patterns_with_number(part, ending)
        if part.after != second_part.after and part.after:
            is_last = part is first.parts[-1]
            yield f"*{after}{ending}" if is_last else f"*{after}*{ending}"
        if part.before != second_part.before and part.before:
            yield f"*{before}*{ending}"


def _patterns_with_number(part: NamePart, ending: str) -> Iterator[str]:
    """Yield the patterns of a number with the last word before it, then with all text before it."""
    word = LAST_WORD.search(part.before)
    last_word = word.group() if word else ""
    for text in (last_word, part.before):
        numbered = f"{glob.escape(text)}{part.written}"
        yield f"*{numbered}*{ending}"
        yield f"*{numbered}{glob.escape(part.after)}*{ending}"
