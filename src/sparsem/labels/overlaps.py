"""Label maps as sets of regions: how much of each lies in each of another map. Labels are unsigned integers of any shape; 0 is nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[Any]
Ids = NDArray[np.uint32]


class Overlaps(NamedTuple):
    """Pairs of labels that share pixels, ascending by (first, second).

    Attributes:
        first: label in the first map, (n,).
        second: label in the second, (n,).
        pixels: how many they share, (n,) int64.
    """

    first: Ids
    second: Ids
    pixels: NDArray[np.int64]


def overlaps(first: Labels, second: Labels, known: NDArray[np.bool_] | None = None) -> Overlaps:
    """Count the pixels that every pair of labels shares, 0 among them.

    Labels are constant along most of a row, so runs of equal pairs are counted and not pixels: a hundred times fewer to sort.

    Raises:
        ValueError: the maps differ in shape, or hold labels beyond 32 bit.
    """
    if first.shape != second.shape:
        raise ValueError(f"label maps of {first.shape} and {second.shape} cannot be compared")
    one, two = (_flat(labels, known) for labels in (first, second))
    if not one.size:
        return add_overlaps([])
    starts = np.concatenate(
        [[0], np.flatnonzero((one[1:] != one[:-1]) | (two[1:] != two[:-1])) + 1]
    )
    lengths = np.diff(starts, append=one.size)
    return _counted(one[starts], two[starts], lengths)


def label_sizes(labels: Labels) -> tuple[Ids, NDArray[np.int64]]:
    """The labels of a map but 0, ascending, and how many pixels each has; runs are counted, not pixels."""
    flat = _flat(labels, None)
    starts = (
        np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
        if flat.size
        else np.empty(0, int)
    )
    ids, which = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(
        which, weights=np.diff(starts, append=flat.size), minlength=len(ids)
    ).astype(np.int64)
    return ids[ids > 0], pixels[ids > 0]


def positions_in(ids: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """Place of every value among ascending ``ids``, from 1; 0 for one that is not among them. Any shape."""
    if not len(ids):
        return np.zeros(values.shape, np.int64)
    places = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    return np.where(ids[places] == values, places + 1, 0)


def resample_labels(labels: Labels, shape: tuple[int, int]) -> Labels:
    """A label map (y, x) at another resolution: the label in the middle of every pixel; an id is never interpolated."""
    y, x = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(shape, labels.shape, strict=True)
    )
    return labels if labels.shape == shape else labels[np.ix_(y, x)]


def add_overlaps(parts: Sequence[Overlaps]) -> Overlaps:
    """The overlaps of a whole from those of its parts."""
    if not parts:
        return Overlaps(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.int64))
    first, second, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _counted(first, second, counts)


def _counted(first: Ids, second: Ids, pixels: NDArray[np.int64]) -> Overlaps:
    """One row a pair, ascending, from pairs that may come several times."""
    pairs, which = np.unique(first.astype(np.uint64) << np.uint64(32) | second, return_inverse=True)
    total = np.bincount(which, weights=pixels).astype(np.int64)
    return Overlaps((pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32), total)


def _flat(labels: Labels, known: NDArray[np.bool_] | None) -> NDArray[np.uint32]:
    chosen = labels.ravel() if known is None else labels[known]
    if chosen.dtype.itemsize > 4 and chosen.max(initial=0) >= 2**32:
        raise ValueError(f"label {chosen.max()} does not fit into 32 bit; renumber the labels")
    return chosen.astype(np.uint32, copy=False)
