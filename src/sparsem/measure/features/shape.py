"""Shape of objects from their sums, surfaces and convex hulls (Machireddy et al. 2023, equations 5 to 7). Lengths are in µm."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.measure.features.hull import convex_voxels_per_object, slice_corners
from sparsem.measure.features.moments import Moments, compact_labels, object_moments
from sparsem.measure.features.surface import SurfaceSums, surface_sums

Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]


def shape_columns(
    found: Moments,
    bounds: SurfaceSums,
    convex: NDArray[np.int64],
    ends: NDArray[np.int64],
    voxel: VoxelSize,
) -> Columns:
    """One number an object in every column; see the data dictionary.

    Args:
        found: sums of the n objects.
        bounds: their surfaces, in µm.
        convex: voxels in their convex hulls, (n,); 0 where that is not defined.
        ends: (z, y, x) where what they were measured in ends, (3,) or (n, 3).
        voxel: nm.
    """
    edges = np.array(voxel.micrometers)
    volumes = found.voxels * voxel.volume_um3
    # Where no object is more than a slice thick the slices are pictures: no border across z cuts anything.
    thick = (found.high - found.low > 1).any(axis=0) | (np.arange(3) > 0)
    cut = ((found.low == 0) | (found.high == ends))[:, thick].any(axis=1)
    extents = (found.high - found.low) * edges
    values, vectors = (np.asarray(one) for one in np.linalg.eigh(found.covariances(edges)))
    axes = 2 * np.sqrt(5 * np.maximum(values[:, ::-1], 0))  # (n, 3), longest first
    major = vectors[:, :, 2]
    turned = np.where(
        major[np.arange(len(major)), np.abs(major).argmax(axis=1)] < 0, -1, 1
    )  # an axis has no sign: its largest part is positive
    # Normals of bodies of a few voxels are those of rounder ones; no body has less surface than the ball of its volume.
    of_balls = np.cbrt(36 * np.pi) * volumes ** (2 / 3)
    areas = np.maximum(bounds.area, of_balls)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_radius = bounds.radius / bounds.area
        columns: Columns = {
            "object": found.ids,
            "cut_by_edge": cut,
            "voxels": found.voxels,
            "first_z": found.low[:, 0],
            "last_z": found.high[:, 0] - 1,
            **{f"first_{axis}": found.low[:, k] for k, axis in enumerate("zyx") if k},
            **{f"last_{axis}": found.high[:, k] - 1 for k, axis in enumerate("zyx") if k},
            **{
                f"centroid_{axis}_um": (found.centroids[:, k] + 0.5) * edges[k]
                for k, axis in enumerate("zyx")
            },
            **{f"extent_{axis}_um": extents[:, k] for k, axis in enumerate("zyx")},
            "volume_um3": volumes,
            "surface_um2": areas,
            "equivalent_diameter_um": np.cbrt(6 * volumes / np.pi),
            **{
                f"axis_{name}_um": axes[:, k] for k, name in enumerate(("major", "middle", "minor"))
            },
            **{f"axis_major_{axis}": major[:, k] * turned for k, axis in enumerate("zyx")},
            "convex_volume_um3": np.where(convex > 0, convex * voxel.volume_um3, np.nan),
            "solidity": np.where(convex > 0, found.voxels / convex, np.nan),
            "sphericity": of_balls / areas,
            "circular_variance": np.maximum(bounds.radius_squared / bounds.area - mean_radius**2, 0)
            / mean_radius**2,
            "box_fill": volumes / extents.prod(axis=1),
        }
    return columns


def shapes(labels: NDArray[Any], voxel: VoxelSize) -> Columns:
    """Shape of every object of a label volume (z, y, x) in memory; see ``shape_columns``."""
    found = object_moments(np.asarray(labels))
    index, ids = compact_labels(np.asarray(labels))
    bounds = surface_sums(index, voxel.micrometers, found.centroids)
    corners = [slice_corners(one, len(ids)) for one in index]
    of = np.concatenate([owner for owner, _ in corners])
    places = np.concatenate(
        [np.column_stack([np.full(len(place), z), place]) for z, (_, place) in enumerate(corners)]
    )
    return shape_columns(
        found, bounds, convex_voxels_per_object(of, places, len(ids)), np.array(index.shape), voxel
    )
