"""Which level of a pyramid an object is looked at, and the piece of it that holds the object.

Boxes are (n, 3) lowest and highest-plus-one voxels (z, y, x) of the full resolution.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.store.volume import Volume

Ints = NDArray[np.int64]

GROUP_VOXELS = 2**24  # small objects that lie together are read in one piece of up to this size


class Crop(NamedTuple):
    """A part of a level of a volume.

    Attributes:
        level: of the pyramid.
        low: its first voxel (z, y, x), in voxels of that level.
        high: beyond its last voxel.
    """

    level: int
    low: tuple[int, int, int]
    high: tuple[int, int, int]

    def of(self, volume: Volume) -> NDArray[Any]:
        """Its voxels."""
        return volume.kept(self.level)[
            tuple(slice(a, b) for a, b in zip(self.low, self.high, strict=True))
        ]

    def inner(self, other: "Crop") -> tuple[slice, ...]:
        """Where another piece of the same level lies in the voxels of this one."""
        return tuple(
            slice(a - start, b - start)
            for a, b, start in zip(other.low, other.high, self.low, strict=True)
        )


def downsampling_factors(volume: Volume, level: int) -> Ints:
    """How many voxels of the full resolution a voxel of a level spans, (z, y, x)."""
    return np.asarray(
        np.round(np.array(volume.voxel_size_of(level)) / np.array(volume.voxel_size)), np.int64
    )


def finest_level_within(volume: Volume, low: Ints, high: Ints, budget: int) -> int:
    """The finest level at which the largest box holds at most ``budget`` voxels; the coarsest if none does."""
    for level in range(volume.levels):
        sides = np.ceil((high - low) / downsampling_factors(volume, level))
        if sides.prod(axis=1).max(initial=0) <= budget:
            return level
    return volume.levels - 1


def near_isotropic_level(volume: Volume) -> int:
    """The finest level whose voxels are less than twice as long as they are wide; the coarsest if there is none."""
    even = (level for level in range(volume.levels) if _is_even(volume.voxel_size_of(level)))
    return next(even, volume.levels - 1)


def level_nearest_to(volume: Volume, edge_nm: float) -> int:
    """The level whose longest edge is nearest to a length, by ratio."""
    return min(
        range(volume.levels),
        key=lambda level: abs(np.log(max(volume.voxel_size_of(level)) / edge_nm)),
    )


def crop_around(
    volume: Volume, level: int, low: Sequence[int] | Ints, high: Sequence[int] | Ints, rim: int = 0
) -> Crop:
    """The piece of a level that holds a box of the full resolution, with a rim of voxels where the volume goes on."""
    factors, shape = downsampling_factors(volume, level), volume.level(level).shape
    first = np.maximum(np.asarray(low) // factors - rim, 0)
    last = np.minimum(-(-np.asarray(high) // factors) + rim, shape)
    return Crop(level, _three(first), _three(last))


def crop_groups(
    volume: Volume, level: int, low: Ints, high: Ints, voxels: int = GROUP_VOXELS
) -> list[Ints]:
    """Places of objects that are read in one piece: neighbors whose common box stays within ``voxels``, or one that is larger."""
    factors = downsampling_factors(volume, level)
    first, last = low // factors, -(-high // factors)
    chunks = first // np.array(volume.level(level).chunks)
    made: list[Ints] = []
    start, box = 0, (np.empty(3, np.int64), np.empty(3, np.int64))
    order = np.lexsort((chunks[:, 2], chunks[:, 1], chunks[:, 0]))
    for place, number in enumerate(order):
        wider = np.minimum(box[0], first[number]), np.maximum(box[1], last[number])
        if place == start or (wider[1] - wider[0]).prod() > voxels:
            made += [order[start:place]] if place > start else []
            start, wider = place, (first[number], last[number])
        box = wider
    return [*made, order[start:]] if len(order) else []


def _is_even(voxel: VoxelSize) -> bool:
    return max(voxel) < 2 * min(voxel)


def _three(numbers: Ints) -> tuple[int, int, int]:
    z, y, x = (int(one) for one in numbers)
    return z, y, x
