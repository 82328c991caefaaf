"""Distances between structures, from surface to surface.

Masks are boolean (z, y, x). Lengths have the unit of ``voxel``, the edge lengths (z, y, x).
"""

from collections.abc import Sequence

import edt
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]
Floats = NDArray[np.float64]


def depth_within(mask: Mask, voxel: Sequence[float], open_sides: bool = True) -> Field:
    """Return the distance of every voxel in an object to the nearest voxel outside the object.

    Distances run from voxel center to voxel center.

    Args:
        mask: the object.
        voxel: edge lengths (z, y, x).
        open_sides: the border of the array is no surface, because the object may continue beyond.

    Returns:
        (z, y, x), 0 outside the object; infinite everywhere if the object has no surface, that is,
        if it fills the array and ``open_sides`` is set.
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
    """Return the distance of every voxel to the nearest voxel of an object.

    Distances run from voxel center to voxel center. They are 0 in the object, and infinite
    everywhere if the mask is empty.
    """
    return depth_within(~mask, voxel)


def half_edge(voxel: Sequence[float]) -> float:
    """Return half the geometric mean of a voxel's edges.

    This is the distance from a voxel's center to a surface that passes next to the voxel.
    """
    edges = np.asarray(voxel, np.float64)
    return float(np.prod(edges) ** (1 / 3)) / 2


def minimum_distances(labels: NDArray[np.uint32], count: int, distances: Field) -> Floats:
    """Return the smallest distance over the voxels of each object 1 to ``count``.

    Args:
        labels: (z, y, x), 0 is background.
        count: number of objects.
        distances: (z, y, x).

    Returns:
        (count,), infinite for an object without voxels.
    """
    minimum = np.full(count + 1, np.inf)
    is_object = labels > 0
    np.minimum.at(minimum, labels[is_object], distances[is_object])
    return minimum[1:]


def sample_distances(distances: Field, positions: Floats) -> Floats:
    """Interpolate distances linearly at positions (n, 3) in voxels.

    Returns:
        (n,), NaN if any distance is infinite: then no surface exists to be distant from.
    """
    if not np.isfinite(distances).all():
        return np.full(len(positions), np.nan)
    samples = map_coordinates(distances, positions.T, order=1, mode="nearest")
    return np.asarray(samples, np.float64)
