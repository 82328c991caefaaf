"""Crops of a level of an image pyramid, each around one object or several.

Boxes are (n, 3) lowest and highest-plus-one voxels (z, y, x) of the full resolution.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.store.cached import CachedArray, ChunkCache
from sparsem.store.volume import Volume

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Small objects that lie close together are read in one crop of up to this size.
GROUP_VOXELS = 2**24
# Chunks of the last crops of this process: the next objects lie in the same ones.
CHUNKS = ChunkCache(max_bytes=128_000_000)


class Crop(NamedTuple):
    """A box in a level of a volume.

    Attributes:
        level: level of the pyramid.
        low: first voxel (z, y, x), in voxels of the level.
        high: last voxel plus one.
    """

    level: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    def read(self, volume: Volume) -> NDArray[Any]:
        """Return the voxels of the crop, (z, y, x)."""
        box = tuple(slice(low, high) for low, high in zip(self.low, self.high, strict=True))
        n_voxels = math.prod(high - low for low, high in zip(self.low, self.high, strict=True))
        if n_voxels > GROUP_VOXELS:
            return volume.lazy(self.level)[box]
        return CachedArray(volume, self.level, CHUNKS)[box]

    def slices_of(self, inner: "Crop") -> tuple[slice, ...]:
        """Return the index in this crop's voxels of another crop of the same level."""
        return tuple(
            slice(low - start, high - start)
            for low, high, start in zip(inner.low, inner.high, self.low, strict=True)
        )


def downsampling_factors(volume: Volume, level: int) -> Ints:
    """Return the voxels of the full resolution that a voxel of a level spans, (z, y, x)."""
    ratios = np.array(volume.voxel_size_of(level)) / np.array(volume.voxel_size)
    return np.asarray(np.round(ratios), np.int64)


def finest_level_within(volume: Volume, low: Ints, high: Ints, max_voxels: int) -> int:
    """Return the finest level at which the largest box has at most ``max_voxels`` voxels.

    If there is no such level, return the coarsest.
    """
    for level in range(volume.levels):
        sides = np.ceil((high - low) / downsampling_factors(volume, level))
        if sides.prod(axis=1).max(initial=0) <= max_voxels:
            return level
    return volume.levels - 1


def near_isotropic_level(volume: Volume) -> int:
    """Return the finest level whose voxels are less than twice as long as wide.

    If there is no such level, return the coarsest.
    """
    for level in range(volume.levels):
        if _is_near_isotropic(volume.voxel_size_of(level)):
            return level
    return volume.levels - 1


def level_nearest_to(volume: Volume, edge_nm: float) -> int:
    """Return the level whose longest voxel edge is nearest to a length, by ratio."""

    def distance(level: int) -> float:
        return float(abs(np.log(max(volume.voxel_size_of(level)) / edge_nm)))

    return min(range(volume.levels), key=distance)


def crop_around(
    volume: Volume,
    level: int,
    low: Sequence[int] | Ints,
    high: Sequence[int] | Ints,
    margin: int = 0,
) -> Crop:
    """Return the crop of a level that holds a box of the full resolution.

    Args:
        volume: volume to crop.
        level: level of the pyramid.
        low: first voxel of the box (z, y, x), full resolution.
        high: last voxel plus one.
        margin: voxels of the level around the box, as far as the volume continues.
    """
    factors = downsampling_factors(volume, level)
    first = np.maximum(np.asarray(low) // factors - margin, 0)
    last = np.minimum(
        _ceil_divide(np.asarray(high), factors) + margin, volume.snapshot.levels[level].shape
    )
    return Crop(level, _three(first), _three(last))


def crops_around(volume: Volume, level: int, low: Ints, high: Ints) -> tuple[Crop, list[Crop]]:
    """Return the crop of a level that holds all boxes, (n, 3), and the crop of each box."""
    outer = crop_around(volume, level, low.min(axis=0), high.max(axis=0))
    crops = [
        crop_around(volume, level, box_low, box_high)
        for box_low, box_high in zip(low, high, strict=True)
    ]
    return outer, crops


def positions_in_crop(positions: Floats, volume: Volume, crop: Crop) -> Floats:
    """Convert positions (n, 3) from voxels of the full resolution to voxels of a crop.

    The center of a voxel has whole numbers in both.
    """
    factors = downsampling_factors(volume, crop.level)
    in_level = (positions + 0.5) / factors - 0.5
    return np.asarray(in_level - np.array(crop.low), np.float64)


def crop_groups(
    volume: Volume, level: int, low: Ints, high: Ints, max_voxels: int = GROUP_VOXELS
) -> list[Ints]:
    """Group objects that are read in one crop.

    Objects are taken in the order of the chunks in which they begin. A group holds objects whose
    common box has at most ``max_voxels`` voxels, or one larger object.

    Args:
        volume: volume of the objects.
        level: level of the pyramid.
        low: boxes of the objects, (n, 3).
        high: boxes of the objects, (n, 3).
        max_voxels: of a common box, voxels of the level.

    Returns:
        The indices of the objects of each group.
    """
    factors = downsampling_factors(volume, level)
    first = low // factors
    last = _ceil_divide(high, factors)
    chunks = first // np.array(volume.snapshot.levels[level].chunks)
    order = np.lexsort((chunks[:, 2], chunks[:, 1], chunks[:, 0]))
    if not len(order):
        return []
    return _groups_in_order(order, first, last, max_voxels)


def batches_of_objects(
    volume: Volume, level: int, low: Ints, high: Ints, max_voxels: int = GROUP_VOXELS
) -> list[Ints]:
    """Batch objects that are measured one after the other, each in a crop of its own.

    Args:
        volume: volume of the objects.
        level: level of the pyramid.
        low: boxes of the objects, (n, 3).
        high: boxes of the objects, (n, 3).
        max_voxels: voxels of the level in all boxes of a batch, unless it is one object.

    Returns:
        The indices of the objects of each batch, ascending.
    """
    sides = _ceil_divide(high - low, downsampling_factors(volume, level))
    starts: list[int] = []
    voxels = max_voxels + 1
    for index, box_voxels in enumerate(sides.prod(axis=1).tolist()):
        voxels += box_voxels
        if voxels > max_voxels:
            starts.append(index)
            voxels = box_voxels
    return [batch for batch in np.split(np.arange(len(low)), starts) if len(batch)]


def _groups_in_order(order: Ints, first: Ints, last: Ints, max_voxels: int) -> list[Ints]:
    """Return groups of consecutive objects of ``order`` whose common box is not too large."""
    groups: list[Ints] = []
    start = 0
    group_low = first[order[0]]
    group_high = last[order[0]]
    for position, index in enumerate(order):
        wider_low = np.minimum(group_low, first[index])
        wider_high = np.maximum(group_high, last[index])
        is_too_large = (wider_high - wider_low).prod() > max_voxels
        if is_too_large and position > start:
            groups.append(order[start:position])
            start = position
            wider_low = first[index]
            wider_high = last[index]
        group_low = wider_low
        group_high = wider_high
    groups.append(order[start:])
    return groups


def _ceil_divide(numbers: Ints, divisors: Ints) -> Ints:
    """Return quotients, rounded up."""
    return -(-numbers // divisors)


def _is_near_isotropic(voxel: VoxelSize) -> bool:
    """Return True if voxels are less than twice as long as wide."""
    return max(voxel) < 2 * min(voxel)


def _three(numbers: Ints) -> tuple[int, int, int]:
    """Return z, y and x as a tuple."""
    z, y, x = (int(number) for number in numbers)
    return z, y, x
