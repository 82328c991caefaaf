"""Shape of objects in separate images, which have an area and no volume.

It is computed from the same sums as the shape of bodies, see ``shape.py``. Lengths are in µm.
"""

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.measure.features.hull import Hulls
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.shape import Columns, circular_variance
from sparsem.measure.features.surface import SurfaceSums


def outline_columns(
    moments: Moments,
    surface: SurfaceSums,
    hulls: Hulls,
    ends: NDArray[np.int64],
    voxel: VoxelSize,
) -> Columns:
    """Compute the columns of n objects that lie in one slice each, one number an object.

    The data dictionary describes the columns.

    Args:
        moments: sums over the voxels of the objects.
        surface: surfaces of the objects as if every slice continued above and below without end,
            for the thickness of one slice, in µm.
        hulls: convex hulls of the objects, in µm.
        ends: (z, y, x) where the image of each object ends, (n, 3).
        voxel: nm. The thickness of a slice has no influence on the result.
    """
    thickness, *plane = voxel.micrometers
    edges = np.array(plane)
    pixel = float(edges.prod())
    area = moments.voxels * pixel
    perimeter = surface.area / thickness
    low = moments.low[:, 1:]
    high = moments.high[:, 1:]
    extents = (high - low) * edges
    return {
        "object": moments.ids,
        "image": moments.low[:, 0],
        "cut_by_edge": ((low == 0) | (high == ends[:, 1:])).any(axis=1),
        "pixels": moments.voxels,
        **_box_columns(moments, edges),
        "area_um2": area,
        "perimeter_um": perimeter,
        "circle_diameter_um": 2 * np.sqrt(area / np.pi),
        "max_feret_um": hulls.max_feret,
        "min_feret_um": hulls.min_feret,
        **_ellipse_columns(moments, voxel),
        "convex_area_um2": hulls.voxels * pixel,
        "solidity": moments.voxels / hulls.voxels,
        "circularity": 4 * np.pi * area / perimeter**2,
        "circular_variance": circular_variance(surface),
        "box_fill": area / extents.prod(axis=1),
    }


def _ellipse_columns(moments: Moments, voxel: VoxelSize) -> Columns:
    """Return the axes of the ellipses with the same second moments, and their ratio."""
    axes = _ellipse_axes(moments, voxel)
    return {
        "ellipse_major_um": axes[:, 0],
        "ellipse_minor_um": axes[:, 1],
        "elongation": axes[:, 0] / axes[:, 1],
    }


def _ellipse_axes(moments: Moments, voxel: VoxelSize) -> NDArray[np.float64]:
    """Return the axes of the ellipses with the same second moments, (n, 2), the longer first."""
    covariances = moments.covariances(np.array(voxel.micrometers))[:, 1:, 1:]
    eigenvalues = np.linalg.eigvalsh(covariances)
    return np.asarray(4 * np.sqrt(np.maximum(eigenvalues[:, ::-1], 0)), np.float64)


def _box_columns(moments: Moments, edges: NDArray[np.float64]) -> Columns:
    """Return bounding box and centroid of every object along y and x."""
    columns: Columns = {}
    for k, axis in enumerate("yx"):
        low = moments.low[:, k + 1]
        high = moments.high[:, k + 1]
        columns[f"first_{axis}"] = low
        columns[f"last_{axis}"] = high - 1
        columns[f"centroid_{axis}_um"] = (moments.centroids[:, k + 1] + 0.5) * edges[k]
        columns[f"extent_{axis}_um"] = (high - low) * edges[k]
    return columns
