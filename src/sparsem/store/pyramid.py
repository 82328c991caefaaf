"""Coarser levels of a volume: the mean of images and probabilities, the mode of labels.

Arrays are (z, y, x). A level is ceil(n / factor) long along each axis; the last voxel of an odd
axis stands for the one that is missing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

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
    shape = [-(-length // factor) for length, factor in zip(fine.shape, factors, strict=True)]
    mode = np.empty(shape, fine.dtype)
    _write_mode(fine, *factors, mode)
    return mode


@compiled()
def _write_mode(fine: Any, fz: Any, fy: Any, fx: Any, mode: Any) -> None:
    """Write the mode of every cell; the last voxel of an odd axis stands for the missing one."""
    depth, rows, columns = fine.shape
    cell = np.empty(fz * fy * fx, fine.dtype)
    is_mixed = np.empty(mode.shape[2], fine.dtype)
    for z in range(mode.shape[0]):
        for y in range(mode.shape[1]):
            _write_first_labels(fine, (fz, fy, fx), (z, y), mode[z, y], is_mixed)
            for x in range(mode.shape[2]):
                if not is_mixed[x]:
                    continue
                count = 0
                for k in range(fz):
                    for j in range(fy):
                        for i in range(fx):
                            voxel_z = min(z * fz + k, depth - 1)
                            voxel_y = min(y * fy + j, rows - 1)
                            cell[count] = fine[voxel_z, voxel_y, min(x * fx + i, columns - 1)]
                            count += 1
                mode[z, y, x] = _most_frequent(cell)


@compiled()
def _write_first_labels(fine: Any, factors: Any, row: Any, first: Any, is_mixed: Any) -> None:
    """Write the first label of the cells of a row, and not 0 where a cell holds several labels.

    Many cells are compared at once.
    """
    fz, fy, fx = factors
    z, y = row
    depth, rows, columns = fine.shape
    n_whole = columns // fx
    first_row = fine[z * fz, y * fy]
    for x in range(len(first)):
        first[x] = first_row[x * fx]
        is_mixed[x] = x >= n_whole
    for k in range(fz):
        for j in range(fy):
            labels = fine[min(z * fz + k, depth - 1), min(y * fy + j, rows - 1)]
            for i in range(fx):
                for x in range(n_whole):
                    is_mixed[x] |= labels[x * fx + i] ^ first[x]


@compiled()
def _most_frequent(labels: Any) -> Any:
    """Return the most frequent label; of equally frequent ones the largest."""
    winner, most_votes = labels[0], 0
    for candidate in labels:
        votes = 0
        for label in labels:
            votes += label == candidate
        if votes > most_votes or (votes == most_votes and candidate > winner):
            winner, most_votes = candidate, votes
    return winner


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
