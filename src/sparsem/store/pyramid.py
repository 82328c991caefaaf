"""Coarser levels of a volume: the mean for images and probabilities, the mode for labels (an id is never interpolated).

Arrays are (z, y, x). A level is ceil(n / factor) long on each axis; the last voxel of an odd axis stands for what is left.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def coarser(fine: Array, factors: Sequence[int], labels: bool) -> Array:
    """The next level: modes of ``labels``, else means. Slice by slice of the result, so that little is held beside it."""
    make = coarser_mode if labels else coarser_mean
    thick = factors[0]
    out = np.empty(
        [-(-length // factor) for length, factor in zip(fine.shape, factors, strict=True)],
        fine.dtype,
    )
    for z in range(len(out)):
        out[z] = make(
            fine[z * thick : (z + 1) * thick], (min(thick, len(fine) - z * thick), *factors[1:])
        )[0]
    return out


def coarser_mean(fine: Array, factors: Sequence[int]) -> Array:
    """Mean over cells of ``factors`` (1 or 2 an axis) voxels; integers are rounded half up. Keeps the dtype."""
    whole = np.issubdtype(fine.dtype, np.integer)
    wide = (
        {1: np.int16, 2: np.int32}.get(fine.dtype.itemsize, np.int64) if whole else np.float64
    )  # holds the sum of eight voxels
    total = fine
    for axis, factor in enumerate(
        factors
    ):  # one axis after the other: the strided one, x, comes last, when little is left
        if factor == 2:
            total = _pair_sums(total, axis, wide)
    halvings = list(factors).count(2)
    mean = (total + (2**halvings >> 1)) >> halvings if whole else total / 2**halvings
    return np.asarray(mean, fine.dtype)


def coarser_mode(fine: Array, factors: Sequence[int]) -> Array:
    """Most frequent label over cells of ``factors`` (1 or 2 an axis) voxels; of equally frequent ones the largest id."""
    if fine.dtype == np.uint8 and fine.max(initial=0) <= 1:  # a mask: the mode is a vote
        return coarser_mean(fine, factors)
    parts = np.stack(_cells(fine, factors))
    mode: Array = parts[0].copy()
    mixed = np.nonzero(
        (parts != parts[0]).any(axis=0)
    )  # most cells hold one label; only the others are counted
    if mixed[0].size:
        candidates = np.sort(parts[:, mixed[0], mixed[1], mixed[2]], axis=0)[
            ::-1
        ]  # (cell voxels, mixed cells), largest id first
        votes = (candidates[:, None] == candidates[None]).sum(axis=1)
        mode[mixed] = np.take_along_axis(candidates, votes.argmax(axis=0)[None], axis=0)[0]
    return mode


def _pair_sums(fine: Array, axis: int, wide: type) -> Array:
    """Sums of neighbors along an axis; the last voxel of an odd axis counts twice."""
    along = fine.swapaxes(0, axis)
    total: Array = along[::2].astype(wide)
    total[: len(along) // 2] += along[1::2]
    if len(along) % 2:
        total[-1] += along[-1]
    return total.swapaxes(0, axis)


def _cells(fine: Array, factors: Sequence[int]) -> list[Array]:
    """The first voxel of every cell, the second, ...: prod(factors) views (Z, Y, X)."""
    short = [(0, -length % factor) for length, factor in zip(fine.shape, factors, strict=True)]
    padded = np.pad(fine, short, mode="edge") if any(after for _, after in short) else fine
    fz, fy, fx = factors
    return [padded[z::fz, y::fy, x::fx] for z in range(fz) for y in range(fy) for x in range(fx)]
