"""Gray-level co-occurrence within an object (Haralick 1973; Machireddy et al. 2023, equations 10 to 13).

Gray levels are (z, y, x) integers 1 to N, 0 outside the object. Pairs are counted in 13 directions both ways, that is 26
offsets; the counts of all directions are added and then normalized, so every pair weighs the same.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.workflow.compiled import compiled

Gray = NDArray[np.uint8] | NDArray[np.uint16]
Floats = NDArray[np.float64]

DIRECTIONS = tuple(
    one for one in product((0, 1), (-1, 0, 1), (-1, 0, 1)) if one > (0, 0, 0)
)  # 13; the others are their opposites


class CoOccurrenceFeatures(NamedTuple):
    """Features of a co-occurrence matrix; NaN where there is no pair.

    Attributes:
        homogeneity: sum p / (1 + (i - j)^2), equation 10.
        correlation: equation 11; 1 where there is one gray level only.
        variance: sum (i - mu)^2 p. Equation 12 is printed as the contrast; this is Haralick's sum of squares.
        contrast: sum (i - j)^2 p, equation 13.
    """

    homogeneity: float
    correlation: float
    variance: float
    contrast: float


def pair_offsets(distance: float, voxel: Sequence[float]) -> NDArray[np.int64]:
    """The 13 directions as steps of about ``distance`` along each axis that they go along, at least one voxel: (13, 3)."""
    steps = [max(1, round(distance / edge)) for edge in voxel]
    return np.array(DIRECTIONS, np.int64) * np.array(steps, np.int64)


def co_occurrence_matrix(gray: Gray, levels: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many ordered pairs of voxels have levels (i, j), both ways along every offset: symmetric (levels, levels)."""
    padded = np.ascontiguousarray(gray)
    counts = np.zeros((levels + 1, levels + 1), np.int64)
    for offset in offsets:
        _count(padded, int(offset[0]), int(offset[1]), int(offset[2]), counts)
    forward: NDArray[np.int64] = counts[1:, 1:]
    return forward + forward.T


def co_occurrence_features(matrix: NDArray[np.int64]) -> CoOccurrenceFeatures:
    """Features of a symmetric matrix of counts; levels are numbered from 1."""
    total = matrix.sum()
    if not total:
        return CoOccurrenceFeatures(*[float("nan")] * 4)
    p = matrix / total
    level = np.arange(1, len(p) + 1)
    apart = (level[:, None] - level[None]) ** 2
    mean = float(p.sum(axis=1) @ level)
    variance = float(p.sum(axis=1) @ (level - mean) ** 2)
    together = float(level @ p @ level) - mean**2
    return CoOccurrenceFeatures(
        float((p / (1 + apart)).sum()),
        together / variance if variance > 0 else 1.0,
        variance,
        float((apart * p).sum()),
    )


@compiled()
def _count(gray, dz, dy, dx, counts):  # type: ignore[no-untyped-def]
    """Forward pairs of one offset. Row 0 and column 0 of the counts take what lies outside, so no voxel is tested."""
    depth, rows, columns = gray.shape
    left, right = max(0, -dx), columns - max(0, dx)
    for z in range(depth - dz):
        for y in range(max(0, -dy), rows - max(0, dy)):
            here, there = gray[z, y], gray[z + dz, y + dy]
            for x in range(left, right):
                counts[here[x], there[x + dx]] += 1
