"""Gray-level co-occurrence in an object.

Haralick 1973; Machireddy et al. 2023, equations 10 to 13.

Gray levels are (z, y, x) integers 1 to N, and 0 outside the object. Pairs of voxels are counted in
13 directions, each both ways, that is, at 26 offsets. The counts of all directions are added and
then normalized, so every pair has the same weight.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

Gray = NDArray[np.uint8] | NDArray[np.uint16]
Floats = NDArray[np.float64]

# The 13 directions (z, y, x) of which no two are opposite.
DIRECTIONS = tuple(
    direction for direction in product((0, 1), (-1, 0, 1), (-1, 0, 1)) if direction > (0, 0, 0)
)


class CoOccurrenceFeatures(NamedTuple):
    """Features of a co-occurrence matrix; NaN if there is no pair of voxels.

    Attributes:
        homogeneity: sum p / (1 + (i - j)^2), equation 10.
        correlation: equation 11; 1 if there is only one gray level.
        variance: sum (i - mu)^2 p, Haralick's sum of squares. Equation 12 is printed as the
            contrast.
        contrast: sum (i - j)^2 p, equation 13.
    """

    homogeneity: float
    correlation: float
    variance: float
    contrast: float


def pair_offsets(distance: float, voxel: Sequence[float]) -> NDArray[np.int64]:
    """Return the offsets in voxels from one voxel of a pair to the other, for all 13 directions.

    Args:
        distance: length of the step along each axis of a direction, rounded to voxels, at least
            one voxel.
        voxel: edge lengths (z, y, x), in the unit of ``distance``.

    Returns:
        (13, 3), z, y, x.
    """
    steps = [max(1, round(distance / edge)) for edge in voxel]
    return np.array(DIRECTIONS, np.int64) * np.array(steps, np.int64)


def co_occurrence_matrix(gray: Gray, levels: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the ordered pairs of voxels that have the levels (i, j), both ways along every offset.

    Args:
        gray: (z, y, x), levels 1 to ``levels``, 0 outside the object.
        levels: number of gray levels.
        offsets: (n, 3), z, y, x, see ``pair_offsets``.

    Returns:
        (levels, levels), symmetric.
    """
    contiguous = np.ascontiguousarray(gray)
    counts = np.zeros((levels + 1, levels + 1), np.int64)
    _count_pairs(contiguous, np.ascontiguousarray(offsets), counts)
    forward: NDArray[np.int64] = counts[1:, 1:]
    return forward + forward.T


def co_occurrence_features(matrix: NDArray[np.int64]) -> CoOccurrenceFeatures:
    """Compute the features of a symmetric matrix of counts; levels are numbered from 1."""
    total = matrix.sum()
    if not total:
        return CoOccurrenceFeatures(*[float("nan")] * 4)
    p = matrix / total
    level = np.arange(1, len(p) + 1)
    squared_difference = (level[:, None] - level[None]) ** 2  # (i - j)^2
    mean = float(p.sum(axis=1) @ level)
    variance = float(p.sum(axis=1) @ (level - mean) ** 2)
    covariance = float(level @ p @ level) - mean**2
    return CoOccurrenceFeatures(
        homogeneity=float((p / (1 + squared_difference)).sum()),
        correlation=covariance / variance if variance > 0 else 1.0,
        variance=variance,
        contrast=float((squared_difference * p).sum()),
    )


@compiled()
def _count_pairs(gray: Any, offsets: Any, counts: Any) -> None:
    """Add the pairs of all offsets, in the forward direction only.

    Row 0 and column 0 of the counts take the pairs with a voxel outside the object, so that no
    voxel has to be tested; voxels before the first and after the last one of the object in a row
    are left out.
    """
    depth, rows, _ = gray.shape
    first, last = _extents_of_rows(gray)
    for dz, dy, dx in offsets:
        for z in range(depth - dz):
            for y in range(max(0, -dy), rows - max(0, dy)):
                row, shifted_row = gray[z, y], gray[z + dz, y + dy]
                left = max(first[z, y], first[z + dz, y + dy] - dx)
                right = min(last[z, y], last[z + dz, y + dy] - dx)
                for x in range(left, right):
                    counts[row[x], shifted_row[x + dx]] += 1


@compiled()
def _extents_of_rows(gray: Any) -> Any:
    """Return the first voxel of the object in every row, and the last one plus one."""
    depth, rows, columns = gray.shape
    first = np.full((depth, rows), columns)
    last = np.zeros((depth, rows), np.int64)
    for z in range(depth):
        for y in range(rows):
            for x in range(columns):
                if gray[z, y, x]:
                    first[z, y] = min(first[z, y], x)
                    last[z, y] = x + 1
    return first, last
