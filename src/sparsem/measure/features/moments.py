"""Sums over the voxels of every object, from which volume, centroid, axes and bounding box follow.

The sums are whole numbers: added over blocks in any order, they give the same result. An object may
therefore be larger than memory. Labels are (z, y, x) uint32; positions are in voxels of the volume.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.labels.overlaps import label_sizes, renumber
from sparsem.labels.runs import LabelRuns, label_runs

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.uint32]

# Bounds of an object without voxels: beyond any position, so that the first voxel replaces them.
EMPTY_LOW = 2**62
EMPTY_HIGH = -1
# The pairs of axes of the columns of ``Moments.second``: zz, yy, xx, zy, zx, yx.
AXIS_PAIRS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))


class Moments(NamedTuple):
    """Sums over the voxels of n objects, ascending by id.

    Attributes:
        ids: ids of the objects, (n,).
        voxels: number of voxels, (n,).
        first: sums of z, y, x, (n, 3).
        second: sums of zz, yy, xx, zy, zx, yx, (n, 6).
        low: smallest z, y, x, (n, 3).
        high: largest z, y, x, plus one, (n, 3).
    """

    ids: Ids
    voxels: Ints
    first: Ints
    second: Ints
    low: Ints
    high: Ints

    @property
    def centroids(self) -> Floats:
        """Centroids of the objects, (n, 3), in voxels."""
        return self.first / self.voxels[:, None]

    def covariances(self, voxel: Sequence[float] | Floats) -> Floats:
        """Return the covariance matrices of the objects, (n, 3, 3), in squared units of ``voxel``.

        Each voxel is spread over its own box, which adds 1/12 of a squared edge to each variance.
        """
        edges = np.asarray(voxel, np.float64)
        mean = self.centroids
        covariances = np.empty((len(self.ids), 3, 3))
        for number, (a, b) in enumerate(AXIS_PAIRS):
            mean_product = self.second[:, number] / self.voxels
            spread = mean_product - mean[:, a] * mean[:, b] + (a == b) / 12
            covariances[:, a, b] = covariances[:, b, a] = spread * edges[a] * edges[b]
        return covariances

    def select(self, objects: NDArray[Any]) -> "Moments":
        """Return the moments of some of the objects, given as a mask or as indices."""
        return Moments(*(column[objects] for column in self))


def object_moments(labels: NDArray[np.uint32], first_z: int = 0) -> Moments:
    """Sum over the voxels of every object in a block.

    Args:
        labels: (z, y, x).
        first_z: slice of the volume that is the first slice of ``labels``.
    """
    return moments_of_runs(label_runs(labels), labels.shape[1:], first_z)


def moments_of_runs(runs: LabelRuns, shape: tuple[int, int], first_z: int = 0) -> Moments:
    """Sum over the voxels of every object in a block, of whose labels the runs are known.

    Args:
        runs: runs of the labels of the block.
        shape: rows and columns of the block.
        first_z: slice of the volume that is the first slice of the block.
    """
    ids, index = np.unique(runs.labels, return_inverse=True)
    sums = np.zeros((len(ids), 10), np.int64)
    low = np.full((len(ids), 3), EMPTY_LOW)
    high = np.full((len(ids), 3), EMPTY_HIGH)
    _add_runs(runs, index, shape, first_z, sums, low, high)
    return Moments(ids, sums[:, 0], sums[:, 1:4], sums[:, 4:], low, high)


def combine_moments(parts: Sequence[Moments]) -> Moments:
    """Return the moments of whole objects from the moments of their parts."""
    part_ids = [part.ids for part in parts] or [np.empty(0, np.uint32)]
    ids, indices = np.unique(np.concatenate(part_ids), return_inverse=True)
    total = _empty_moments(ids)
    start = 0
    for part in parts:
        stop = start + len(part.ids)
        _add_part(total, indices[start:stop], part)
        start = stop
    return total


def _add_part(total: Moments, rows: NDArray[np.intp], part: Moments) -> None:
    """Add the moments of a part to those of its objects in place; ``rows`` are their positions."""
    total.voxels[rows] += part.voxels
    total.first[rows] += part.first
    total.second[rows] += part.second
    total.low[rows] = np.minimum(total.low[rows], part.low)
    total.high[rows] = np.maximum(total.high[rows], part.high)


def _empty_moments(ids: Ids) -> Moments:
    """Return the moments of objects to which no voxel was added yet."""
    n = len(ids)
    return Moments(
        ids,
        voxels=np.zeros(n, np.int64),
        first=np.zeros((n, 3), np.int64),
        second=np.zeros((n, 6), np.int64),
        low=np.full((n, 3), EMPTY_LOW),
        high=np.full((n, 3), EMPTY_HIGH),
    )


def renumber_consecutively(labels: NDArray[Any]) -> tuple[NDArray[np.uint32], Ids]:
    """Renumber labels 1 to n in ascending order of their ids; 0 stays 0.

    Returns:
        The renumbered labels, of the shape of ``labels``, and the ids, (n,).
    """
    ids, _ = label_sizes(labels)
    return renumber(ids, labels), ids


@compiled()
def _add_runs(
    runs: Any, objects: Any, shape: Any, first_z: Any, sums: Any, low: Any, high: Any
) -> None:
    """Add runs of labels to the sums of their objects: a run needs no loop over its voxels.

    Columns of ``sums`` are voxels, z, y, x, zz, yy, xx, zy, zx, yx.
    """
    rows, columns = shape
    for number in range(len(runs.starts)):
        line = runs.starts[number] // columns
        start = runs.starts[number] - line * columns
        n = runs.stops[number] - runs.starts[number]
        z, y = line // rows + first_z, line % rows
        last = start + n - 1
        sum_x = n * (start + last) // 2
        squares_before = (start - 1) * start * (2 * start - 1) // 6  # of 0 to start - 1
        sum_xx = last * (last + 1) * (2 * last + 1) // 6 - squares_before
        row = sums[objects[number]]
        row[0] += n
        row[1] += n * z
        row[2] += n * y
        row[3] += sum_x
        row[4] += n * z * z
        row[5] += n * y * y
        row[6] += sum_xx
        row[7] += n * z * y
        row[8] += z * sum_x
        row[9] += y * sum_x
        lower, upper = low[objects[number]], high[objects[number]]
        lower[0], upper[0] = min(lower[0], z), max(upper[0], z + 1)
        lower[1], upper[1] = min(lower[1], y), max(upper[1], y + 1)
        lower[2], upper[2] = min(lower[2], start), max(upper[2], last + 1)
