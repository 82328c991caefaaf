"""Overlaps of label maps: how many pixels of each region are in each region of another map.

Labels are unsigned integers of any shape; 0 is background.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

Labels = NDArray[Any]
Ids = NDArray[np.uint32]


class Overlaps(NamedTuple):
    """Pairs of labels that have pixels in common, ascending by (first, second).

    Attributes:
        first: (n,) label in the first map.
        second: (n,) label in the second map.
        pixels: (n,) int64, the number of common pixels.
    """

    first: Ids
    second: Ids
    pixels: NDArray[np.int64]


def overlaps(first: Labels, second: Labels, known: NDArray[np.bool_] | None = None) -> Overlaps:
    """Count the pixels that every pair of labels has in common; label 0 is included.

    Labels are constant along most of a row, so runs of equal pairs are counted and not pixels: a
    hundred times fewer to sort.

    Args:
        first: label map of any shape.
        second: label map of the same shape.
        known: pixels that count; all if not given.

    Raises:
        ValueError: the maps differ in shape, or hold labels beyond 32 bits.
    """
    if first.shape != second.shape:
        raise ValueError(f"label maps of {first.shape} and {second.shape} cannot be compared")
    first_flat = _flatten(first, known)
    second_flat = _flatten(second, known)
    if not first_flat.size:
        return add_overlaps([])
    starts = _starts_of_runs(first_flat, second_flat)
    lengths = np.diff(starts, append=first_flat.size)
    return sum_equal_pairs(first_flat[starts], second_flat[starts], lengths)


def label_sizes(labels: Labels) -> tuple[Ids, NDArray[np.int64]]:
    """Return the labels of a map except 0, ascending, and how many pixels each has.

    Runs are counted, not pixels.
    """
    flat = _flatten(labels, None)
    starts = _starts_of_runs(flat, flat)
    lengths = np.diff(starts, append=flat.size)
    ids, id_of_run = np.unique(flat[starts], return_inverse=True)
    pixels = np.bincount(id_of_run, weights=lengths, minlength=len(ids)).astype(np.int64)
    return ids[ids > 0], pixels[ids > 0]


def positions_in(ids: NDArray[Any], values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the position of every value in ascending ``ids``, counted from 1.

    It is 0 for values that are missing. Values have any shape.
    """
    if not len(ids):
        return np.zeros(values.shape, np.int64)
    indices = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    return np.where(ids[indices] == values, indices + 1, 0)


def renumber(ids: NDArray[Any], labels: Labels) -> NDArray[np.uint32]:
    """Return for every label its position in ascending ``ids``, as ``positions_in``.

    Labels are searched once for each run of equal ones: much faster for whole volumes. Labels that
    are numbered from 1 without gaps are returned as they are.
    """
    is_numbered = len(ids) > 0 and ids[0] == 1 and ids[-1] == len(ids)
    if is_numbered and labels.dtype.kind == "u" and labels.max(initial=0) <= len(ids):
        return labels.astype(np.uint32, copy=False)
    numbers = np.empty(labels.shape, np.uint32)
    _renumber(np.asarray(ids, np.uint32), _flatten(labels, None), numbers.reshape(-1))
    return numbers


@compiled()
def _renumber(ids: Any, labels: Any, numbers: Any) -> None:
    """Write the position of each label among the ids, from 1; 0 if it is not among them."""
    previous = np.uint32(0)
    number = np.uint32(0)
    for index in range(len(labels)):
        if labels[index] != previous:
            previous = labels[index]
            position = np.searchsorted(ids, previous)
            is_known = position < len(ids) and ids[position] == previous
            number = np.uint32(position + 1 if is_known else 0)
        numbers[index] = number


def resample_labels(labels: Labels, shape: tuple[int, int]) -> Labels:
    """Return a label map (y, x) at another resolution; labels are never interpolated.

    Every pixel has the label in its middle.
    """
    if labels.shape == shape:
        return labels
    y = _pixel_centers(labels.shape[0], shape[0])
    x = _pixel_centers(labels.shape[1], shape[1])
    return labels[np.ix_(y, x)]


def _pixel_centers(old: int, new: int) -> NDArray[np.int_]:
    """Return the pixels of an axis of ``old`` pixels in the middle of each of ``new`` pixels."""
    return ((np.arange(new) + 0.5) * old / new).astype(int)


def add_overlaps(parts: Sequence[Overlaps]) -> Overlaps:
    """Return the overlaps of a whole from those of its parts."""
    if not parts:
        return Overlaps(np.empty(0, np.uint32), np.empty(0, np.uint32), np.empty(0, np.int64))
    return sum_equal_pairs(
        np.concatenate([part.first for part in parts]),
        np.concatenate([part.second for part in parts]),
        np.concatenate([part.pixels for part in parts]),
    )


@compiled()
def _starts_of_runs(first: Any, second: Any) -> Any:
    """Return where the runs of equal pairs of labels begin."""
    n_runs = min(1, len(first))
    for index in range(1, len(first)):
        n_runs += (first[index] != first[index - 1]) | (second[index] != second[index - 1])
    starts = np.empty(n_runs, np.int64)
    if n_runs:
        starts[0] = 0
    number = 1
    for index in range(1, len(first)):
        if first[index] != first[index - 1] or second[index] != second[index - 1]:
            starts[number] = index
            number += 1
    return starts


def sum_equal_pairs(first: Ids, second: Ids, pixels: NDArray[np.int64]) -> Overlaps:
    """Return one row for each pair, ascending, from pairs that may occur several times."""
    encoded = first.astype(np.uint64) << np.uint64(32) | second
    pairs, pair_of_row = np.unique(encoded, return_inverse=True)
    total = np.bincount(pair_of_row, weights=pixels).astype(np.int64)
    return Overlaps((pairs >> np.uint64(32)).astype(np.uint32), pairs.astype(np.uint32), total)


def _flatten(labels: Labels, known: NDArray[np.bool_] | None) -> NDArray[np.uint32]:
    """Return the labels of known pixels as a flat array of uint32.

    Raises:
        ValueError: a label exceeds 32 bits.
    """
    flat = labels.ravel() if known is None else labels[known]
    if flat.dtype.itemsize > 4 and flat.max(initial=0) >= 2**32:
        raise ValueError(f"label {flat.max()} does not fit into 32 bits; renumber the labels")
    return flat.astype(np.uint32, copy=False)
