"""Coarser levels of a volume: the mean for images and probabilities, the mode for labels (an id is never interpolated).

Arrays are (z, y, x). A level is ceil(n / factor) long on each axis; the last voxel of an odd axis stands for what is left.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def coarser_mean(fine: Array, factors: Sequence[int]) -> Array:
    """Mean over cells of ``factors`` (1 or 2 an axis) voxels; integers are rounded half up. Keeps the dtype."""
    parts = _cells(fine, factors)
    whole = np.issubdtype(fine.dtype, np.integer)
    wide = {1: np.uint16, 2: np.uint32}.get(fine.dtype.itemsize, np.int64)  # wide enough for twice the sum of eight voxels
    total = np.zeros(parts[0].shape, wide if whole else np.float64)
    for part in parts:
        total += part
    mean = (2 * total + len(parts)) // (2 * len(parts)) if whole else total / len(parts)
    return np.asarray(mean, fine.dtype)


def coarser_mode(fine: Array, factors: Sequence[int]) -> Array:
    """Most frequent label over cells of ``factors`` (1 or 2 an axis) voxels; of equally frequent ones the largest id."""
    if fine.dtype == np.uint8 and fine.max(initial=0) <= 1:  # a mask: the mode is a vote
        return coarser_mean(fine, factors)
    parts = np.stack(_cells(fine, factors))
    mode: Array = parts[0].copy()
    mixed = np.nonzero((parts != parts[0]).any(axis=0))  # most cells hold one label; only the others are counted
    if mixed[0].size:
        candidates = np.sort(parts[:, mixed[0], mixed[1], mixed[2]], axis=0)[::-1]  # (cell voxels, mixed cells), largest id first
        votes = (candidates[:, None] == candidates[None]).sum(axis=1)
        mode[mixed] = np.take_along_axis(candidates, votes.argmax(axis=0)[None], axis=0)[0]
    return mode


def _cells(fine: Array, factors: Sequence[int]) -> list[Array]:
    """The first voxel of every cell, the second, ...: prod(factors) views (Z, Y, X)."""
    short = [(0, -length % factor) for length, factor in zip(fine.shape, factors, strict=True)]
    padded = np.pad(fine, short, mode="edge") if any(after for _, after in short) else fine
    fz, fy, fx = factors
    return [padded[z::fz, y::fy, x::fx] for z in range(fz) for y in range(fy) for x in range(fx)]
