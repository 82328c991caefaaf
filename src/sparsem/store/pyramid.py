"""Coarser levels of a volume: the mean of images and probabilities, the mode of labels.

Arrays are (z, y, x). A level is ceil(n / factor) long along each axis; the last voxel of an odd
axis stands for the one that is missing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Integer types that hold the sum of eight voxels, by the bytes of a voxel.
SUM_TYPES = {1: np.int16, 2: np.int32}


def coarser(fine: Array, factors: Sequence[int], labels: bool) -> Array:
    """Return the next level: modes of ``labels``, else means.

    The result is computed slice by slice, so that little more memory is needed than for input and
    output.
    """
    reduce = coarser_mode if labels else coarser_mean
    thickness, *factors_yx = factors
    shape = [-(-length // factor) for length, factor in zip(fine.shape, factors, strict=True)]
    out = np.empty(shape, fine.dtype)
    for z in range(len(out)):
        slab = fine[z * thickness : (z + 1) * thickness]
        out[z] = reduce(slab, (len(slab), *factors_yx))[0]
    return out


def coarser_mean(fine: Array, factors: Sequence[int]) -> Array:
    """Return the mean over cells of ``factors`` (1 or 2 per axis) voxels in the dtype of ``fine``.

    Integers are rounded half up.
    """
    is_integer = np.issubdtype(fine.dtype, np.integer)
    sum_type: type = SUM_TYPES.get(fine.dtype.itemsize, np.int64) if is_integer else np.float64
    total = fine
    # One axis after the other: x, whose access is strided, comes last, when little is left.
    for axis, factor in enumerate(factors):
        if factor == 2:
            total = _pair_sums(total, axis, sum_type)
    halvings = list(factors).count(2)
    if is_integer:
        half = 2**halvings >> 1
        mean = (total + half) >> halvings
    else:
        mean = total / 2**halvings
    return np.asarray(mean, fine.dtype)


def coarser_mode(fine: Array, factors: Sequence[int]) -> Array:
    """Return the most frequent label over cells of ``factors`` (1 or 2 per axis) voxels.

    Of equally frequent ones the largest id.
    """
    if fine.dtype == np.uint8 and fine.max(initial=0) <= 1:
        return coarser_mean(fine, factors)  # the mode of a mask is a vote
    parts = np.stack(_cell_voxels(fine, factors))
    mode: Array = parts[0].copy()
    # Most cells hold a single label; votes are counted in the others only.
    mixed = np.nonzero((parts != parts[0]).any(axis=0))
    if mixed[0].size:
        ascending = np.sort(parts[:, mixed[0], mixed[1], mixed[2]], axis=0)
        candidates = ascending[::-1]  # (voxels of a cell, mixed cells), largest id first
        votes = (candidates[:, None] == candidates[None]).sum(axis=1)
        winner = votes.argmax(axis=0)[None]
        mode[mixed] = np.take_along_axis(candidates, winner, axis=0)[0]
    return mode


def _pair_sums(fine: Array, axis: int, sum_type: type) -> Array:
    """Return sums of pairs of neighbors along an axis.

    The last voxel of an odd axis counts twice.
    """
    along = fine.swapaxes(0, axis)
    total: Array = along[::2].astype(sum_type)
    total[: len(along) // 2] += along[1::2]
    if len(along) % 2:
        total[-1] += along[-1]
    return total.swapaxes(0, axis)


def _cell_voxels(fine: Array, factors: Sequence[int]) -> list[Array]:
    """Return the first voxel of every cell, the second, ...: prod(factors) views (Z, Y, X)."""
    padding = [(0, -length % factor) for length, factor in zip(fine.shape, factors, strict=True)]
    is_odd = any(after for _, after in padding)
    padded = np.pad(fine, padding, mode="edge") if is_odd else fine
    fz, fy, fx = factors
    offsets = np.ndindex(fz, fy, fx)
    return [padded[z::fz, y::fy, x::fx] for z, y, x in offsets]
