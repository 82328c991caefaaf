"""Shape of objects in pictures, which have an area and no volume, from the same sums as that of bodies. Lengths are in µm."""

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.shape import Columns
from sparsem.measure.features.surface import SurfaceSums


def outline_columns(
    found: Moments,
    bounds: SurfaceSums,
    convex: NDArray[np.int64],
    ends: NDArray[np.int64],
    voxel: VoxelSize,
) -> Columns:
    """One number an object in every column; see the data dictionary.

    Args:
        found: sums of the n objects, each in one slice.
        bounds: surfaces of the objects as if every slice went on for ever above and below: those of a slice's thickness, in µm.
        convex: pixels in their convex hulls, (n,).
        ends: (z, y, x) where the picture of each object ends, (n, 3).
        voxel: nm; the thickness of a slice means nothing.
    """
    thickness, *plane = voxel.micrometers
    edges = np.array(plane)
    pixel = float(edges.prod())
    area, perimeter = found.voxels * pixel, bounds.area / thickness
    low, high, centers = found.low[:, 1:], found.high[:, 1:], (found.centroids[:, 1:] + 0.5) * edges
    extents = (high - low) * edges
    values = np.linalg.eigvalsh(found.covariances(np.array(voxel.micrometers))[:, 1:, 1:])
    axes = 4 * np.sqrt(np.maximum(values[:, ::-1], 0))  # (n, 2), longest first
    mean_radius = bounds.radius / bounds.area
    return {
        "object": found.ids,
        "picture": found.low[:, 0],
        "cut_by_edge": ((low == 0) | (high == ends[:, 1:])).any(axis=1),
        "pixels": found.voxels,
        **{f"first_{axis}": low[:, k] for k, axis in enumerate("yx")},
        **{f"last_{axis}": high[:, k] - 1 for k, axis in enumerate("yx")},
        **{f"centroid_{axis}_um": centers[:, k] for k, axis in enumerate("yx")},
        **{f"extent_{axis}_um": extents[:, k] for k, axis in enumerate("yx")},
        "area_um2": area,
        "perimeter_um": perimeter,
        "circle_diameter_um": 2 * np.sqrt(area / np.pi),
        **{f"ellipse_{name}_um": axes[:, k] for k, name in enumerate(("major", "minor"))},
        "elongation": axes[:, 0] / axes[:, 1],
        "convex_area_um2": convex * pixel,
        "solidity": found.voxels / convex,
        "circularity": 4 * np.pi * area / perimeter**2,
        "circular_variance": np.maximum(bounds.radius_squared / bounds.area - mean_radius**2, 0)
        / mean_radius**2,
        "box_fill": area / extents.prod(axis=1),
    }
