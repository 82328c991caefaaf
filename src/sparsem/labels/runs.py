"""Runs of equal labels along x: what labels are, in a hundredth of the voxels.

Objects are many pixels wide, so a row crosses few of them. Sums over the voxels of objects are
sums over runs.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.labels.overlaps import Overlaps, sum_equal_pairs

Ints = NDArray[np.int64]


class LabelRuns(NamedTuple):
    """Runs of equal labels except 0, none longer than a row, in the order of the voxels.

    Attributes:
        starts: flat index of the first voxel of every run, (n,).
        stops: flat index of the last voxel plus one, (n,).
        labels: label of every run, (n,).
    """

    starts: Ints
    stops: Ints
    labels: NDArray[np.uint32]


def label_runs(labels: NDArray[Any]) -> LabelRuns:
    """Return the runs of labels (..., x), unsigned integers of up to 32 bits."""
    columns = labels.shape[-1]
    flat = np.ascontiguousarray(labels).reshape(-1)
    n_runs = _count_runs(flat, columns)
    runs = LabelRuns(
        np.empty(n_runs, np.int64), np.empty(n_runs, np.int64), np.empty(n_runs, np.uint32)
    )
    _write_runs(flat, columns, *runs)
    return runs


def overlaps_of_runs(runs: LabelRuns, second: NDArray[Any]) -> Overlaps:
    """Count the voxels that runs have in common with the labels of another map, 0 included.

    Only the voxels of the runs are read.

    Args:
        runs: runs of a map.
        second: labels of the shape of that map, unsigned integers of up to 32 bits.
    """
    flat = np.ascontiguousarray(second).reshape(-1)
    n_pairs = _count_pairs(runs, flat)
    columns = (
        np.empty(n_pairs, np.uint32),
        np.empty(n_pairs, np.uint32),
        np.empty(n_pairs, np.int64),
    )
    _write_pairs(runs, flat, *columns)
    return sum_equal_pairs(*columns)


@compiled()
def _count_runs(flat: Any, columns: Any) -> Any:
    """Return the number of runs."""
    count = 0
    for start in range(0, len(flat), columns):
        row = flat[start : start + columns]
        count += row[0] != 0
        for x in range(1, columns):
            count += (row[x] != row[x - 1]) & (row[x] != 0)
    return count


@compiled()
def _write_runs(flat: Any, columns: Any, starts: Any, stops: Any, labels: Any) -> None:
    """Write starts, stops and labels of all runs."""
    number = -1
    for start in range(0, len(flat), columns):
        row = flat[start : start + columns]
        previous = row[0] ^ row[0]
        for x in range(columns):
            if row[x] == previous:
                continue
            if previous:
                stops[number] = start + x
            if row[x]:
                number += 1
                starts[number] = start + x
                labels[number] = row[x]
            previous = row[x]
        if previous:
            stops[number] = start + columns


@compiled()
def _count_pairs(runs: Any, second: Any) -> Any:
    """Return the number of runs of equal pairs of labels."""
    count = len(runs.starts)
    for number in range(len(runs.starts)):
        for index in range(runs.starts[number] + 1, runs.stops[number]):
            count += second[index] != second[index - 1]
    return count


@compiled()
def _write_pairs(
    runs: Any, second: Any, first_labels: Any, second_labels: Any, voxels: Any
) -> None:
    """Write the labels of all runs of equal pairs, and their voxels."""
    pair = 0
    for number in range(len(runs.starts)):
        start, stop = runs.starts[number], runs.stops[number]
        begin = start
        for index in range(start + 1, stop + 1):
            if index == stop or second[index] != second[index - 1]:
                first_labels[pair] = runs.labels[number]
                second_labels[pair] = second[begin]
                voxels[pair] = index - begin
                begin = index
                pair += 1
