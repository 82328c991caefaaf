"""Distances of objects and positions to a surface.

They are measured from voxel center to voxel center (see ``distance_transform``). Masks are boolean
(z, y, x). Lengths have the unit of ``voxel``, the edge lengths (z, y, x).
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial import cKDTree

from sparsem.compiled import compiled
from sparsem.labels.neighbors import neighbor_slices

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


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
    _lower_minimum(labels.reshape(-1), distances.reshape(-1), minimum)
    return minimum[1:]


def sample_distances(distances: Field, positions: Floats) -> Floats:
    """Interpolate distances linearly at positions (n, 3) in voxels.

    Returns:
        (n,), NaN if the distances are infinite: then no surface exists to be distant from.
    """
    if not len(positions) or np.isinf(distances.flat[0]):  # all are infinite, or none
        return np.full(len(positions), np.nan)
    samples = map_coordinates(distances, positions.T, order=1, mode="nearest")
    return np.asarray(samples, np.float64)


def depths_at(mask: Mask, voxel: Sequence[float], positions: Floats) -> Floats:
    """Return how far positions lie within an object: the distance to the nearest voxel outside.

    The distances of the eight voxels around a position are interpolated linearly. They are those of
    ``distances_inside``, and computed for these voxels only: the nearest voxel outside of an object
    is always the neighbor of a voxel inside.

    Args:
        mask: the object; the border of the array is no surface.
        voxel: edge lengths (z, y, x).
        positions: (n, 3) in voxels; beyond the array they count as on its border.

    Returns:
        (n,), NaN if no voxel is outside.
    """
    surface = _voxels_around(mask)
    if not len(surface):
        return np.full(len(positions), np.nan)
    edges = np.asarray(voxel, np.float64)
    tree = cKDTree(surface * edges, compact_nodes=False, balanced_tree=False)
    last_voxel = np.array(mask.shape) - 1
    inside_array = np.clip(positions, 0, last_voxel)
    first = np.floor(inside_array).astype(np.int64)
    fractions = inside_array - first
    depths = np.zeros(len(positions))
    for corner in product((0, 1), repeat=3):
        nearby = np.minimum(first + np.array(corner), last_voxel)
        weights = np.where(corner, fractions, 1 - fractions).prod(axis=1)
        distances, _ = tree.query(nearby * edges)
        depths += weights * np.where(mask[tuple(nearby.T)], distances, 0)
    return depths


def _voxels_around(mask: Mask) -> Ints:
    """Return the voxels outside of an object with a face in common with it, (n, 3)."""
    is_next = np.zeros_like(mask)
    for axis in range(3):
        lower, upper = neighbor_slices(axis)
        is_next[lower] |= mask[upper]
        is_next[upper] |= mask[lower]
    is_next &= ~mask
    return np.argwhere(is_next)


@compiled()
def _lower_minimum(labels: Any, distances: Any, minimum: Any) -> None:
    """Lower the minimum of the object of every voxel to its distance, in place."""
    for index in range(len(labels)):
        label = labels[index]
        if label and distances[index] < minimum[label]:
            minimum[label] = distances[index]
