"""Splitting of objects of any size: the boundary of a large one is found at a coarser level.

Boxes and positions are (z, y, x) in voxels of the full resolution unless a level is named.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from sparsem.geometry import Box
from sparsem.labels.editing import Positions, split_mask
from sparsem.store.volume import Volume


class Parts(NamedTuple):
    """The parts 1 and 2 of an object at a level of the pyramid.

    Attributes:
        parts: (z, y, x) uint8 in the bounding box of the object at the level.
        start: position of the box at the level.
        factors: by how much the level is smaller than the full resolution, (z, y, x).
    """

    parts: NDArray[np.uint8]
    start: tuple[int, ...]
    factors: tuple[int, ...]

    def at(self, box: Box) -> NDArray[np.uint8]:
        """Return the parts in a box of the full resolution; those of the nearest voxels outside."""
        indices = []
        axes = zip(box, self.start, self.factors, self.parts.shape, strict=True)
        for axis, start, factor, length in axes:
            positions = np.arange(axis.start, axis.stop) // factor - start
            indices.append(np.clip(positions, 0, length - 1))
        return self.parts[np.ix_(*indices)]


def split_at_level(
    labels: Volume,
    object_id: int,
    seeds: tuple[Positions, Positions],
    probability: Volume | None,
    box: Box,
    level: int,
) -> Parts:
    """Return the parts of an object, found at a level of the pyramid.

    Raises:
        InputError: a seed is lost at the level.
    """
    factors = _factors(labels, level)
    z, y, x = (slice(a.start // f, -(-a.stop // f)) for a, f in zip(box, factors, strict=True))
    corner = (z.start, y.start, x.start)
    inside = labels.lazy(level)[z, y, x] == object_id
    first, second = (np.reshape(positions, (-1, 3)) // factors for positions in seeds)
    if level:
        inside[tuple((np.concatenate([first, second]) - corner).T)] = True
    weights = None if probability is None else probability.lazy(level)[z, y, x]
    voxel_nm = labels.voxel_size_of(level)
    parts = split_mask(
        inside, np.unique(first, axis=0), np.unique(second, axis=0), weights, voxel_nm, corner
    )
    if level:
        nearest_voxel = distance_transform_edt(
            parts == 0, sampling=voxel_nm, return_distances=False, return_indices=True
        )
        parts = parts[tuple(nearest_voxel)]
    return Parts(parts, corner, factors)


def _factors(volume: Volume, level: int) -> tuple[int, ...]:
    """Return by how much a level is smaller than the full resolution, (z, y, x)."""
    lengths = zip(volume.voxel_size_of(level), volume.voxel_size, strict=True)
    return tuple(round(coarse / fine) for coarse, fine in lengths)


def level_for(labels: Volume, box: Box, max_voxels: float) -> int:
    """Return the finest level at which a box holds at most so many voxels; else the coarsest."""
    for level in range(labels.levels):
        if voxels_in(box) / float(np.prod(_factors(labels, level))) <= max_voxels:
            return level
    return labels.levels - 1


def voxels_in(box: Box) -> int:
    """Return the number of voxels in a box."""
    return int(np.prod([axis.stop - axis.start for axis in box], dtype=np.int64))
