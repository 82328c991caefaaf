"""Sums over the voxels of every object, from which volume, centroid, axes and box follow.

They are whole numbers and add up over blocks in any order to the same result, so an object may be larger than memory.
Labels are (z, y, x) uint32; positions are in voxels of the volume.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import label_sizes
from sparsem.workflow.compiled import compiled

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.uint32]


class Moments(NamedTuple):
    """Sums of n objects, ascending by id.

    Attributes:
        ids: of the objects, (n,).
        voxels: how many, (n,).
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
        """(n, 3), voxels."""
        return self.first / self.voxels[:, None]

    def covariances(self, voxel: Sequence[float] | Floats) -> Floats:
        """(n, 3, 3) of the objects' voxels, each spread over its own box, in squared units of ``voxel``."""
        edges, mean = np.asarray(voxel, np.float64), self.centroids
        out = np.empty((len(self.ids), 3, 3))
        for number, (a, b) in enumerate(((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))):
            spread = self.second[:, number] / self.voxels - mean[:, a] * mean[:, b] + (a == b) / 12
            out[:, a, b] = out[:, b, a] = spread * edges[a] * edges[b]
        return out

    def of(self, chosen: NDArray[Any]) -> "Moments":
        """Some of the objects, by a mask or by places."""
        return Moments(*(column[chosen] for column in self))


def object_moments(labels: NDArray[np.uint32], first_z: int = 0) -> Moments:
    """Sums of every object in ``labels``, whose first slice is ``first_z`` of the volume."""
    index, ids = compact_labels(labels)
    sums, low, high = (
        np.zeros((len(ids), 10), np.int64),
        np.full((len(ids), 3), 2**62),
        np.full((len(ids), 3), -1),
    )
    _add_runs(index, first_z, sums, low, high)
    return Moments(ids, sums[:, 0], sums[:, 1:4], sums[:, 4:], low, high)


def combine_moments(parts: Sequence[Moments]) -> Moments:
    """The sums of a whole from those of its parts."""
    ids, which = np.unique(
        np.concatenate([one.ids for one in parts]) if parts else np.empty(0, np.uint32),
        return_inverse=True,
    )
    n = len(ids)
    voxels, first, second = (np.zeros((n, *width), np.int64) for width in ((), (3,), (6,)))
    total = Moments(ids, voxels, first, second, np.full((n, 3), 2**62), np.full((n, 3), -1))
    start = 0
    for part in parts:
        places = which[start : start + len(part.ids)]
        start += len(part.ids)
        for name in ("voxels", "first", "second"):
            getattr(total, name)[places] += getattr(part, name)
        total.low[places] = np.minimum(total.low[places], part.low)
        total.high[places] = np.maximum(total.high[places], part.high)
    return total


def compact_labels(labels: NDArray[Any]) -> tuple[NDArray[np.uint32], Ids]:
    """Labels renumbered 1 to n in ascending order of their ids, 0 staying 0; and the ids, (n,)."""
    ids, _ = label_sizes(labels)
    if not len(ids) or int(ids[-1]) == len(ids):
        return labels.astype(np.uint32, copy=False), ids
    index = np.empty(labels.shape, np.uint32)
    _renumber(labels.reshape(-1), ids, index.reshape(-1))
    return index, ids


@compiled()
def _renumber(labels, ids, out):  # type: ignore[no-untyped-def]
    before, number = np.uint32(0), np.uint32(0)
    for place in range(len(labels)):
        if labels[place] != before:
            before = labels[place]
            number = np.uint32(np.searchsorted(ids, before) + 1) if before else np.uint32(0)
        out[place] = number


@compiled()
def _add_runs(labels, first_z, sums, low, high):  # type: ignore[no-untyped-def]
    depth, rows, columns = labels.shape
    for k in range(depth):
        z = k + first_z
        for y in range(rows):
            x = 0
            while x < columns:
                label = labels[k, y, x]
                start = x
                while x < columns and labels[k, y, x] == label:
                    x += 1
                if label == 0:
                    continue
                n, last = x - start, x - 1
                to_x = n * (start + last) // 2
                below = (start - 1) * start * (2 * start - 1) // 6  # squares of 0 to start - 1
                squares = last * (last + 1) * (2 * last + 1) // 6 - below
                row = sums[label - 1]
                row[0] += n
                row[1] += n * z
                row[2] += n * y
                row[3] += to_x
                row[4] += n * z * z
                row[5] += n * y * y
                row[6] += squares
                row[7] += n * z * y
                row[8] += z * to_x
                row[9] += y * to_x
                lower, upper = low[label - 1], high[label - 1]
                lower[0], upper[0] = min(lower[0], z), max(upper[0], z + 1)
                lower[1], upper[1] = min(lower[1], y), max(upper[1], y + 1)
                lower[2], upper[2] = min(lower[2], start), max(upper[2], x)
