"""Shape of objects from their sums, surfaces and convex hulls.

Machireddy et al. 2023, equations 5 to 7. Lengths are in µm.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.measure.features.hull import Hulls, measure_hulls, slice_corners
from sparsem.measure.features.moments import Moments, object_moments, renumber_consecutively
from sparsem.measure.features.surface import SurfaceSums, surface_sums

Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def shape_columns(
    moments: Moments, surface: SurfaceSums, hulls: Hulls, ends: Ints, voxel: VoxelSize
) -> Columns:
    """Compute the columns of the shape of n objects, one number an object.

    The data dictionary describes the columns.

    Args:
        moments: sums over the voxels of the objects.
        surface: surfaces of the objects, in µm.
        hulls: convex hulls of the objects, in µm.
        ends: (z, y, x) where the measured volume ends, (3,) or (n, 3).
        voxel: nm.
    """
    volumes = moments.voxels * voxel.volume_um3
    # The normals of bodies of a few voxels are those of rounder bodies. No body has less surface
    # than the ball of the same volume.
    ball_areas = np.cbrt(36 * np.pi) * volumes ** (2 / 3)
    areas = np.maximum(surface.area, ball_areas)
    extents = (moments.high - moments.low) * np.array(voxel.micrometers)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "object": moments.ids,
            "cut_by_edge": _is_cut(moments, ends),
            "voxels": moments.voxels,
            **_box_columns(moments, voxel),
            "volume_um3": volumes,
            "surface_um2": areas,
            "surface_to_volume_per_um": areas / volumes,
            "equivalent_diameter_um": np.cbrt(6 * volumes / np.pi),
            **_axis_columns(moments, voxel),
            "max_feret_um": hulls.max_feret,
            "min_feret_um": hulls.min_feret,
            **_hull_columns(moments, hulls.voxels, voxel),
            "sphericity": ball_areas / areas,
            "circular_variance": circular_variance(surface),
            "box_fill": volumes / extents.prod(axis=1),
        }


def _hull_columns(moments: Moments, convex: Ints, voxel: VoxelSize) -> Columns:
    """Return the volume of the convex hulls and the part that objects fill; NaN without a hull."""
    has_hull = convex > 0
    return {
        "convex_volume_um3": np.where(has_hull, convex * voxel.volume_um3, np.nan),
        "solidity": np.where(has_hull, moments.voxels / convex, np.nan),
    }


def circular_variance(surface: SurfaceSums) -> Floats:
    """Return the variance of the radius over the surface, over its squared mean, (n,).

    Equation 7 of Machireddy et al. 2023. Every part of the surface has the weight of its area.
    """
    mean_radius = surface.radius / surface.area
    variance = np.maximum(surface.radius_squared / surface.area - mean_radius**2, 0)
    return np.asarray(variance / mean_radius**2, np.float64)


def shapes(labels: NDArray[Any], voxel: VoxelSize) -> Columns:
    """Measure the shape of every object of a label volume in memory, see ``shape_columns``.

    Args:
        labels: (z, y, x), 0 is background.
        voxel: nm.
    """
    moments = object_moments(np.asarray(labels))
    index, ids = renumber_consecutively(np.asarray(labels))
    surface = surface_sums(index, voxel.micrometers, moments.centroids)
    hulls = _hulls_of(index, len(ids), voxel)
    return shape_columns(moments, surface, hulls, np.array(index.shape), voxel)


def _hulls_of(index: NDArray[np.uint32], count: int, voxel: VoxelSize) -> Hulls:
    """Measure the convex hull of every object 1 to ``count`` of labels (z, y, x)."""
    owners = []
    corners = []
    for z, section in enumerate(index):
        corner_labels, yx = slice_corners(section, count)
        owners.append(corner_labels)
        corners.append(np.column_stack([np.full(len(yx), z), yx]))
    points = np.concatenate(corners)
    return measure_hulls(np.concatenate(owners), points, count, voxel.micrometers)


def _is_cut(moments: Moments, ends: Ints) -> NDArray[np.bool_]:
    """Find the objects that touch the border of the volume, (n,)."""
    touches = (moments.low == 0) | (moments.high == ends)
    # If no object is thicker than a slice, the slices are separate images: no border across z.
    is_thick = (moments.high - moments.low > 1).any(axis=0)
    has_border = is_thick | (np.arange(3) > 0)
    return np.asarray(touches[:, has_border].any(axis=1), np.bool_)


def _box_columns(moments: Moments, voxel: VoxelSize) -> Columns:
    """Return bounding box and centroid of every object along z, y and x."""
    columns: Columns = {}
    centroids = moments.centroids
    for k, axis in enumerate("zyx"):
        low = moments.low[:, k]
        high = moments.high[:, k]
        edge = voxel.micrometers[k]
        columns[f"first_{axis}"] = low
        columns[f"last_{axis}"] = high - 1
        columns[f"centroid_{axis}_um"] = (centroids[:, k] + 0.5) * edge
        columns[f"extent_{axis}_um"] = (high - low) * edge
    return columns


def _axis_columns(moments: Moments, voxel: VoxelSize) -> Columns:
    """Return the axes of the ellipsoids with the same second moments, and the longest direction."""
    covariances = moments.covariances(np.array(voxel.micrometers))
    eigenvalues, eigenvectors = np.linalg.eigh(covariances)
    lengths = 2 * np.sqrt(5 * np.maximum(eigenvalues[:, ::-1], 0))  # (n, 3), longest first
    longest = eigenvectors[:, :, 2]
    sign = _sign_of_largest(longest)
    columns: Columns = {}
    for k, name in enumerate(("major", "middle", "minor")):
        columns[f"axis_{name}_um"] = lengths[:, k]
    for k, axis in enumerate("zyx"):
        columns[f"axis_major_{axis}"] = longest[:, k] * sign
    return columns


def _sign_of_largest(vectors: Floats) -> Ints:
    """Return the sign (n,) of the component of the largest magnitude of vectors (n, 3).

    An axis has no sign: multiplied with this one, its largest component is positive.
    """
    largest_component = vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)]
    return np.where(largest_component < 0, -1, 1)
