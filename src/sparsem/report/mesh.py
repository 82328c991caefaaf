"""Surfaces of structures as triangles, made block by block without seams.

The mask is smoothed a little and its surface of one half taken by marching cubes. Smoothing takes volume away, of small and thin bodies
most of it, so every body is then moved along its normals until it has the volume of its voxels.

Blocks share one slice of voxels, whose smoothed values are the same on both sides, so vertices on it are the same bit for bit and are
joined. Beyond the volume lies outside, so meshes are closed. Vertices are (n, 3) z, y, x, in the unit of ``voxel``; triangles (m, 3)
places of vertices, seen from outside counter-clockwise in a right-handed (x, y, z).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cc3d
import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

SIGMA = 0.8  # voxels: less shows steps, more eats what is thin
REACH = 3  # voxels that the smoothing looks at
THIN = 0.55  # least value of a voxel of the mask: just above the surface

STEP = 0.25  # by how many voxels a surface moves at once
STEPS = 30
CLOSE = 0.005  # part of its volume that a body may differ from its voxels

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
    for start in range(
        -1, shape[0], depth
    ):  # from a slice below the first one to one above the last: there the mesh is closed
        stop = min(start + depth, shape[0])
        slab = _smoothed(read, shape, start, stop + 1)
        parts.append((start, _marched(slab)))
    vertices, triangles = _welded(parts)
    if not len(triangles):
        return Mesh(vertices, triangles)
    body, voxels = _bodies(vertices, read(0, shape[0]))
    edges = np.asarray(voxel, np.float64)
    return with_volumes(
        Mesh((vertices + 0.5) * edges, triangles), body, voxels * edges.prod(), STEP * edges.min()
    )


def with_volumes(mesh: Mesh, body: Ints, volumes: Floats, step: float) -> Mesh:
    """Return the mesh with every body moved along its normals until it encloses its volume.

    Args:
        mesh: closed; of several bodies, each of one or more closed surfaces.
        body: of every vertex, the place of its body in ``volumes``.
        volumes: that the bodies are to have.
        step: the most by which a vertex moves at once.
    """
    vertices, triangles = mesh.vertices.copy(), mesh.triangles
    owner = body[triangles[:, 0]]
    for _ in range(STEPS):
        # In (x, y, z), in which triangles are counter-clockwise from outside.
        a, b, c = (vertices[triangles[:, k]][:, ::-1] for k in range(3))
        across = np.cross(b - a, c - a)
        enclosed = np.bincount(owner, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6, len(volumes))
        area = np.bincount(owner, np.linalg.norm(across, axis=1) / 2, len(volumes))
        lacks = volumes - enclosed
        is_off = (np.abs(lacks) > CLOSE * volumes) & (area > 0)
        if not is_off.any():
            break
        distance = np.where(is_off, np.clip(lacks / np.where(area > 0, area, 1), -step, step), 0)
        normals = np.stack(
            [
                sum(np.bincount(triangles[:, k], across[:, axis], len(vertices)) for k in range(3))
                for axis in (2, 1, 0)
            ],
            axis=1,
        )
        lengths = np.linalg.norm(normals, axis=1, keepdims=True)
        vertices += distance[body][:, None] * normals / np.where(lengths > 0, lengths, 1)
    return Mesh(vertices, triangles)


def _bodies(vertices: Floats, mask: NDArray[np.bool_]) -> tuple[Ints, Floats]:
    """Return for every vertex (in voxels) the body of the mask that it is on, and the voxels of every body."""
    parts = cc3d.connected_components(np.ascontiguousarray(mask).view(np.uint8), connectivity=26)
    last = np.array(mask.shape) - 1
    body = np.zeros(len(vertices), np.int64)
    low = np.floor(vertices).astype(np.int64)
    # One of the eight voxels around it is of the mask; in the smoothed corner of a cavity one of those around these.
    around = sorted(np.ndindex(4, 4, 4), key=lambda corner: max(abs(2 * one - 3) for one in corner))
    for corner in around:
        unknown = np.flatnonzero(body == 0)
        if not unknown.size:
            break
        place = low[unknown] + corner - 1
        is_inside = ((place >= 0) & (place <= last)).all(axis=1)
        body[unknown] = np.where(is_inside, parts[tuple(np.clip(place, 0, last).T)], 0)
    voxels = np.bincount(parts.ravel(), minlength=int(body.max(initial=0)) + 1).astype(np.float64)
    voxels[0] = 0
    return body, voxels


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
    vertices, triangles, _, _ = marching_cubes(
        slab, 0.5, gradient_direction="descent", allow_degenerate=False
    )
    return vertices - np.array([0, 1, 1], np.float32), triangles


def _welded(parts: Sequence[tuple[int, tuple[NDArray[Any], NDArray[Any]]]]) -> tuple[Floats, Ints]:
    """Vertices (voxels) and triangles of all blocks, those on shared slices once."""
    vertices: list[Floats] = []
    triangles: list[Ints] = []
    count, last = (
        0,
        (np.empty((0, 3)), np.empty(0, np.int64)),
    )  # vertices on the top slice of the block before, and their places
    for start, (own, faces) in parts:
        points = own.astype(np.float64) + np.array([start, 0, 0])
        known = {
            tuple(point): int(place)
            for point, place in zip(last[0].tolist(), last[1].tolist(), strict=True)
        }
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
    return np.concatenate([np.empty((0, 3)), *vertices]), np.concatenate(
        [np.empty((0, 3), np.int64), *triangles]
    )
