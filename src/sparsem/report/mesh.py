"""Surfaces of structures as triangles, made block by block without seams.

The mask is smoothed a little and its surface of one half taken by marching cubes. Blocks share one slice of voxels, whose smoothed
values are the same on both sides, so vertices on it are the same bit for bit and are joined. Beyond the volume lies outside, so meshes
are closed. Vertices are (n, 3) z, y, x, in the unit of ``voxel``; triangles (m, 3) places of vertices, seen from outside counter-clockwise
in a right-handed (x, y, z).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

SIGMA = 0.8  # voxels: less shows steps, more eats what is thin
REACH = 3  # voxels that the smoothing looks at
THIN = 0.55  # least value of a voxel of the mask: just above the surface

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
ReadMask = Callable[[int, int], NDArray[np.bool_]]  # slices first to last of a mask


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes:
        vertices: (n, 3) z, y, x.
        triangles: (m, 3) places of vertices.
    """

    vertices: Floats
    triangles: Ints


def mesh_of(read: ReadMask, shape: Sequence[int], voxel: Sequence[float], depth: int) -> Mesh:
    """The surface of a mask of any size.

    Args:
        read: gives slices ``first`` to ``last`` (exclusive) of the mask, (z, y, x) boolean.
        shape: of the whole mask.
        voxel: edge lengths (z, y, x).
        depth: slices a block; changes the memory, not the mesh.
    """
    parts = []
    for start in range(-1, shape[0], depth):  # from a slice below the first one to one above the last: there the mesh is closed
        stop = min(start + depth, shape[0])
        slab = _smoothed(read, shape, start, stop + 1)
        parts.append((start, _marched(slab)))
    vertices, triangles = _welded(parts)
    return Mesh((vertices + 0.5) * np.asarray(voxel, np.float64), triangles)


def simplified(mesh: Mesh, triangles: int) -> Mesh:
    """The mesh with at most about that many triangles (quadric error metric)."""
    if len(mesh.triangles) <= triangles:
        return mesh
    vertices, faces = mesh.vertices.astype(np.float32), mesh.triangles.astype(np.int32)
    fewer, kept = fast_simplification.simplify(vertices, faces, target_count=triangles)
    return Mesh(fewer.astype(np.float64), kept.astype(np.int64))


def _smoothed(read: ReadMask, shape: Sequence[int], start: int, stop: int) -> NDArray[np.float32]:
    """Slices of the smoothed mask with a rim of one voxel; what lies beyond the volume is outside."""
    low, high = max(0, start - REACH), min(shape[0], stop + REACH)
    mask = read(low, high)
    around = (low - (start - REACH), stop + REACH - high)
    padded = np.pad(mask, (around, (1, 1), (1, 1))).astype(np.float32)
    smooth = gaussian_filter(padded, SIGMA, radius=REACH, mode="constant")
    # What is one voxel thin would be smoothed away: a voxel of the mask stays inside.
    smooth = np.where((padded > 0) & (smooth <= THIN), np.float32(THIN), smooth)
    out = smooth[REACH : REACH + stop - start]
    out[:, [0, -1]] = 0
    out[:, :, [0, -1]] = 0
    if start < 0:
        out[0] = 0
    if stop > shape[0]:
        out[-1] = 0
    return np.asarray(out, np.float32)


def _marched(slab: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    if slab.max() <= 0.5 or len(slab) < 2:
        return np.empty((0, 3), np.float32), np.empty((0, 3), np.int32)
    vertices, triangles, _, _ = marching_cubes(slab, 0.5, gradient_direction="descent", allow_degenerate=False)
    return vertices - np.array([0, 1, 1], np.float32), triangles


def _welded(parts: Sequence[tuple[int, tuple[NDArray[Any], NDArray[Any]]]]) -> tuple[Floats, Ints]:
    """Vertices (voxels) and triangles of all blocks, those on shared slices once."""
    vertices: list[Floats] = []
    triangles: list[Ints] = []
    count, last = 0, (np.empty((0, 3)), np.empty(0, np.int64))  # vertices on the top slice of the block before, and their places
    for start, (own, faces) in parts:
        points = own.astype(np.float64) + np.array([start, 0, 0])
        known = {tuple(point): int(place) for point, place in zip(last[0].tolist(), last[1].tolist(), strict=True)}
        places = np.full(len(points), -1, np.int64)
        for bottom in np.flatnonzero(points[:, 0] == start):
            places[bottom] = known.get(tuple(points[bottom].tolist()), -1)
        new = np.flatnonzero(places < 0)
        places[new] = count + np.arange(len(new))
        count += len(new)
        vertices.append(points[new])
        triangles.append(places[faces] if len(faces) else np.empty((0, 3), np.int64))
        top = np.flatnonzero(points[:, 0] == points[:, 0].max(initial=-2))
        last = points[top], places[top]
    return np.concatenate([np.empty((0, 3)), *vertices]), np.concatenate([np.empty((0, 3), np.int64), *triangles])
