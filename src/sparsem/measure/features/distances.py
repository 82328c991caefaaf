"""Distances between structures, surface to surface. Masks are boolean (z, y, x), lengths in the unit of ``voxel``."""

from collections.abc import Sequence

import edt
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]


def depth_within(mask: Mask, voxel: Sequence[float], open_sides: bool = True) -> Field:
    """How far every voxel's center lies from that of the nearest voxel outside of the object that it is in; 0 outside.

    Args:
        mask: the object.
        voxel: edge lengths (z, y, x).
        open_sides: the array's border is no surface (the object may go on beyond it).
    """
    if mask.all() and open_sides:
        return np.full(mask.shape, np.inf, np.float32)
    distance = edt.edt(
        np.ascontiguousarray(mask),
        anisotropy=tuple(voxel),
        black_border=not open_sides,
        order="C",
        parallel=1,
    )
    return np.asarray(np.where(mask, distance, 0), np.float32)


def distance_to(mask: Mask, voxel: Sequence[float]) -> Field:
    """How far every voxel's center lies from that of an object's nearest voxel; 0 in it, infinite where there is none."""
    return depth_within(~mask, voxel)


def half_edge(voxel: Sequence[float]) -> float:
    """Half the geometric mean of a voxel's edges: from a voxel's center to a surface that passes beside it."""
    return float(np.prod(np.asarray(voxel, np.float64)) ** (1 / 3)) / 2


def minimum_distances(
    labels: NDArray[np.uint32], count: int, distances: Field
) -> NDArray[np.float64]:
    """The smallest distance over the voxels of each object 1 to ``count``, infinite for one without voxels: (count,)."""
    out = np.full(count + 1, np.inf)
    inside = labels > 0
    np.minimum.at(out, labels[inside], distances[inside])
    return out[1:]
