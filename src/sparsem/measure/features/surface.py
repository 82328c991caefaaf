"""Surface area by digital surface integration: what every voxel face adds depends on the normal of the surface around it.

The faces of a voxelised object overestimate its area, by half for a ball and however fine the voxels are. But of the faces
of a plane with normal n those towards x, y, z add up to n_x, n_y, n_z times its area, so a face counts |n|_2 / |n|_1, and
the sum is right for any orientation (after Lachaud and Vialard 2003, who take the cosine between face and normal: that errs by
3 % where this one errs by 0.3 %, since the windows of faces on a step see a steeper surface than there is; measured on balls).

The normal is the slope of the object under a Gaussian. Nothing is smoothed away: a sheet of one voxel keeps both of its sides.
Beyond the volume lies outside, so an object that is cut by its border is closed there.

Labels are (z, y, x), lengths in the unit of ``voxel``.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.workflow.compiled import compiled

SIGMA = 1.2  # of the window, in voxels of the coarsest axis: less leaves the stairs in, more rounds edges off
WIDEST = 3.0  # the other axes' Gaussian is wider by the ratio of edge lengths, but at most by this: a window of 2,000 voxels
CUT = 2.5  # sigmas at which a window ends

Floats = NDArray[np.float64]
Edges = tuple[float, float, float]


class SurfaceSums(NamedTuple):
    """Sums over the surface of every object; additive over slices.

    Attributes:
        area: of its surface, (n,).
        radius: area times distance from the centroid, summed, (n,).
        radius_squared: area times squared distance, summed, (n,).
    """

    area: Floats
    radius: Floats
    radius_squared: Floats


def slice_surface_sums(
    labels: NDArray[np.uint32], own: int, first_z: int, voxel: Edges, centroids: Floats
) -> SurfaceSums:
    """Surface of every object in one slice: the faces within it, and those towards the next one.

    Args:
        labels: (z, y, x) the slice and ``reach(voxel)`` slices on each side, fewer only where the volume ends; 0 is nothing,
            objects are numbered 1 to n.
        own: which slice of ``labels`` it is.
        first_z: place of ``labels[0]`` in the volume; the first slice of the volume has the faces below it too.
        voxel: edge lengths (z, y, x).
        centroids: (n, 3) of the objects, in voxels of the volume.
    """
    out = np.zeros((3, len(centroids) + 1))
    _slice(
        labels, own, first_z, np.array(voxel, np.float64), centroids, *_windows(tuple(voxel)), out
    )
    return SurfaceSums(*out[:, 1:])


def surface_sums(labels: NDArray[np.uint32], voxel: Edges, centroids: Floats) -> SurfaceSums:
    """Surface of every object of a volume in memory; see ``slice_surface_sums``."""
    total, halo = np.zeros((3, len(centroids))), surface_reach(voxel)
    for z in range(len(labels)):
        low = max(0, z - halo)
        total += slice_surface_sums(labels[low : z + halo + 1], z - low, low, voxel, centroids)
    return SurfaceSums(*total)


def surface_reach(voxel: Edges) -> int:
    """Slices on each side of a slice that its surface depends on."""
    return len(_windows(tuple(voxel))[0][0]) // 2


@lru_cache(maxsize=8)
def _windows(
    voxel: Edges,
) -> tuple[tuple[Floats, ...], tuple[Floats, ...], tuple[Floats, ...], tuple[Floats, ...]]:
    """For each axis: a Gaussian and its slope around a voxel's center, and both around a face; slopes are per unit of length."""
    sigmas = [SIGMA * min(WIDEST, max(voxel) / edge) for edge in voxel]
    reaches = [int(np.ceil(CUT * sigma)) for sigma in sigmas]
    middle = [
        _gaussian(np.arange(-r, r + 1.0), sigma, edge)
        for r, sigma, edge in zip(reaches, sigmas, voxel, strict=True)
    ]
    between = [
        _gaussian(np.arange(-r + 0.5, r), sigma, edge)
        for r, sigma, edge in zip(reaches, sigmas, voxel, strict=True)
    ]
    smooth, slope, smooth_face, slope_face = (
        tuple(one[k] for one in of) for of in (middle, between) for k in (0, 1)
    )
    return smooth, slope, smooth_face, slope_face


def _gaussian(at: Floats, sigma: float, edge: float) -> tuple[Floats, Floats]:
    weights = np.exp(-(at**2) / (2 * sigma**2))
    return weights / weights.sum(), at * weights / (at**2 * weights).sum() / edge


@compiled()
def _slice(labels, own, first_z, voxel, centroids, smooth, slope, smooth_face, slope_face, out):  # type: ignore[no-untyped-def]
    depth, rows, columns = labels.shape
    below = own - 1 if own + first_z == 0 else own
    for axis in range(3):
        dz, dy, dx = int(axis == 0), int(axis == 1), int(axis == 2)
        face = voxel[0] * voxel[1] * voxel[2] / voxel[axis]
        if axis == 0:
            sm, sl = (smooth_face[0], smooth[1], smooth[2]), (slope_face[0], slope[1], slope[2])
        elif axis == 1:
            sm, sl = (smooth[0], smooth_face[1], smooth[2]), (slope[0], slope_face[1], slope[2])
        else:
            sm, sl = (smooth[0], smooth[1], smooth_face[2]), (slope[0], slope[1], slope_face[2])
        for z in range(below if axis == 0 else own, own + 1):
            for y in range(-dy, rows):
                for x in range(-dx, columns):
                    here = labels[z, y, x] if z >= 0 and y >= 0 and x >= 0 else np.uint32(0)
                    ends = z + dz >= depth or y + dy >= rows or x + dx >= columns
                    there = np.uint32(0) if ends else labels[z + dz, y + dy, x + dx]
                    if here == there:
                        continue
                    place = (z + first_z + dz / 2, y + dy / 2, x + dx / 2)
                    first = (
                        z + dz - len(sm[0]) // 2,
                        y + dy - len(sm[1]) // 2,
                        x + dx - len(sm[2]) // 2,
                    )
                    for label in (here, there):
                        if label:
                            part = face * _share(labels, label, first, sm, sl)
                            squared = 0.0
                            for along in range(3):
                                squared += (
                                    (place[along] - centroids[label - 1, along]) * voxel[along]
                                ) ** 2
                            out[0, label] += part
                            out[1, label] += part * np.sqrt(squared)
                            out[2, label] += part * squared


@compiled()
def _share(labels, label, first, smooth, slope):  # type: ignore[no-untyped-def]
    """|n|_2 / |n|_1 of an object's normal in the window that begins at voxel ``first``."""
    depth, rows, columns = labels.shape
    gz, gy, gx = 0.0, 0.0, 0.0
    for k in range(max(0, -first[0]), min(len(smooth[0]), depth - first[0])):
        for j in range(max(0, -first[1]), min(len(smooth[1]), rows - first[1])):
            level, tilt = 0.0, 0.0
            row = labels[first[0] + k, first[1] + j]
            for i in range(max(0, -first[2]), min(len(smooth[2]), columns - first[2])):
                if row[first[2] + i] == label:
                    level += smooth[2][i]
                    tilt += slope[2][i]
            gz += slope[0][k] * smooth[1][j] * level
            gy += smooth[0][k] * slope[1][j] * level
            gx += smooth[0][k] * smooth[1][j] * tilt
    total = abs(gz) + abs(gy) + abs(gx)
    return np.sqrt(gz * gz + gy * gy + gx * gx) / total if total > 0 else 1.0
