"""Glob patterns: the files that one names, and a pattern for files of one kind."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from sparsem.io.readers.file_names import split_names
from sparsem.io.readers.file_order import series_order

LAST_WORD = re.compile(r"[^\W\d_]*[ _.=-]*$")


def is_pattern(source: str | Path) -> bool:
    """Whether a source is no path that is there, but may be a pattern."""
    has_wildcard = any(mark in str(source) for mark in "*?[")
    return has_wildcard and not Path(source).exists()


def files_of_pattern(source: str | Path) -> list[Path]:
    """Find the files that a pattern names; a folder of it that is there as written is no pattern."""
    path = Path(source).absolute()
    folder = Path(path.anchor)
    parts = list(path.parts[1:])
    written = []
    while len(parts) > 1 and (folder / parts[0]).is_dir():
        folder /= parts[0]
        written.append(glob.escape(parts.pop(0)))
    literal = os.path.join(glob.escape(path.anchor), *written)  # noqa: PTH118  # of a pattern
    wild = os.path.join(*parts)  # noqa: PTH118
    for pattern in (wild, wild.replace("[", "[[]")):  # files may have brackets in their names too
        found = glob.glob(os.path.join(literal, pattern))  # noqa: PTH118, PTH207
        if found:
            return [Path(name) for name in found]
    return []


def pattern_for_one_kind(names: Sequence[str], pair: tuple[int, int]) -> str | None:
    """Find a pattern of names that are in order, with one of two names that are not.

    Returns:
        A pattern such as ``*ch00*.tif``; None where none was found.
    """
    pair_names = names[pair[0]], names[pair[1]]
    best, n_best = None, 0
    for pattern in dict.fromkeys(_patterns(*pair_names)):
        chosen = [name for name in names if fnmatchcase(name, pattern)]
        is_of_one = (pair_names[0] in chosen) != (pair_names[1] in chosen)
        if is_of_one and len(chosen) > n_best and not series_order(chosen).fault:
            best, n_best = pattern, len(chosen)
    return best


def _patterns(name: str, other: str) -> Iterator[str]:
    """Patterns by what differs in two names, those that are easiest to read first."""
    if "/" in name + other:
        return
    endings = PurePosixPath(name).suffix, PurePosixPath(other).suffix
    if endings[0] != endings[1]:
        yield f"*{endings[0]}"
    first, second = split_names([name, other])
    ending = glob.escape(endings[0])
    if len(first.parts) == len(second.parts):
        for part, changed in zip(reversed(first.parts), reversed(second.parts), strict=True):
            if part.written != changed.written:
                word = LAST_WORD.search(part.before)
                for before in (word.group() if word else "", part.before):
                    yield f"*{glob.escape(before)}{part.written}*{ending}"
                    yield f"*{glob.escape(before)}{part.written}{glob.escape(part.after)}*{ending}"
            if part.after != changed.after and part.after:
                yield f"*{glob.escape(part.after)}{'*' if part is not first.parts[-1] else ''}{ending}"
            if part.before != changed.before and part.before:
                yield f"*{glob.escape(part.before)}*{ending}"
    for part in first.parts:
        before, after = glob.escape(part.before), glob.escape(part.after)
        yield glob.escape(name).replace(f"{before}{part.written}{after}", f"{before}*{after}", 1)
    for one, suffix in zip((name, other), endings, strict=True):
        stem = one.removesuffix(suffix)
        yield re.sub(r"\d", "?", glob.escape(stem)) + suffix
