"""Surfaces of structures as triangle meshes, computed block by block without seams.

The mask is smoothed a little, and marching cubes takes its surface at one half. Smoothing removes
volume, most of it from small and thin bodies, so every body is then moved along its normals until
it has the volume of its voxels.

Blocks share one slice of voxels, whose smoothed values are the same in both. Vertices on it are
therefore identical bit for bit, and are joined. Everything beyond the volume counts as outside, so
meshes are closed.

Vertices are (n, 3) z, y, x in the unit of ``voxel``. Triangles are (m, 3) indices of vertices,
counter-clockwise as seen from outside in a right-handed (x, y, z).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cc3d
import fast_simplification
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import marching_cubes

SIGMA = 0.8  # of the smoothing, voxels: less shows steps, more removes thin parts
RADIUS = 3  # of the smoothing, voxels
LEVEL = 0.5  # of the surface
BLOCK_DEPTH = 64  # slices of a mask in memory that are meshed at once
MIN_INSIDE = 0.55  # smallest smoothed value of a voxel of the mask: just above the surface

MAX_STEP = 0.25  # by which a surface moves at once, voxels
MAX_STEPS = 30
VOLUME_TOLERANCE = 0.005  # relative difference between the volume of a body and of its voxels
MAX_VOLUME_ERROR = 0.01  # the same of simplified meshes

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Reads the slices from a first one to a last one (exclusive) of a mask, (z, y, x) boolean.
MaskReader = Callable[[int, int], NDArray[np.bool_]]
# First slice of a block, and vertices and triangles in voxels from there.
SurfaceBlock = tuple[int, tuple[NDArray[Any], NDArray[Any]]]


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes:
        vertices: (n, 3) z, y, x.
        triangles: (m, 3) indices of vertices.
    """

    vertices: Floats
    triangles: Ints


def mesh_from_mask(
    read: MaskReader, shape: Sequence[int], voxel: Sequence[float], depth: int
) -> Mesh:
    """Return the surface of a mask of any size.

    Args:
        read: reads slices of the mask.
        shape: (z, y, x) of the mask.
        voxel: edge lengths (z, y, x) of a voxel.
        depth: slices in a block; it changes the memory that is needed, not the mesh.
    """
    vertices, triangles = _join_blocks(_surface_blocks(read, shape, depth))
    if not len(triangles):
        return Mesh(vertices, triangles)
    body_of_vertex, n_voxels = _bodies_of_vertices(vertices, read(0, shape[0]))
    edges = np.asarray(voxel, np.float64)
    mesh = Mesh((vertices + 0.5) * edges, triangles)
    volumes = n_voxels * edges.prod()
    return restore_volumes(mesh, body_of_vertex, volumes, MAX_STEP * edges.min())


def _surface_blocks(read: MaskReader, shape: Sequence[int], depth: int) -> list[SurfaceBlock]:
    """Return the surface of a mask in blocks that share one slice."""
    blocks = []
    # From one slice before the first one to one after the last one, where the mesh is closed.
    for start in range(-1, shape[0], depth):
        stop = min(start + depth, shape[0])
        smoothed = _smooth_slices(read, shape, start, stop + 1)
        blocks.append((start, _extract_surface(smoothed)))
    return blocks


def restore_volumes(mesh: Mesh, body_of_vertex: Ints, volumes: Floats, max_step: float) -> Mesh:
    """Return the mesh with every body moved along its normals until it encloses its volume.

    Args:
        mesh: closed; of several bodies, each of one or more closed surfaces.
        body_of_vertex: (n,) index of its body in ``volumes``.
        volumes: (k,) volumes that the bodies should have.
        max_step: largest distance by which a vertex moves at once.
    """
    vertices, triangles = mesh.vertices.copy(), mesh.triangles
    body_of_triangle = body_of_vertex[triangles[:, 0]]
    for _ in range(MAX_STEPS):
        cross, signed_volumes = _normals_and_volumes(vertices, triangles)
        enclosed = np.bincount(body_of_triangle, signed_volumes, len(volumes))
        area = np.bincount(body_of_triangle, np.linalg.norm(cross, axis=1) / 2, len(volumes))
        missing = volumes - enclosed
        is_off = (np.abs(missing) > VOLUME_TOLERANCE * volumes) & (area > 0)
        if not is_off.any():
            break
        step = np.clip(missing / np.where(area > 0, area, 1), -max_step, max_step)
        distance = np.where(is_off, step, 0)
        vertices += _displacements(distance[body_of_vertex], triangles, cross)
    return Mesh(vertices, triangles)


def _normals_and_volumes(vertices: Floats, triangles: Ints) -> tuple[Floats, Floats]:
    """Return the normals of triangles (m, 3) x, y, z, and the volumes (m,) to the origin.

    A normal is as long as twice the area of its triangle; volumes have a sign.
    """
    # In (x, y, z), in which triangles are counter-clockwise as seen from outside.
    a, b, c = (vertices[triangles[:, k]][:, ::-1] for k in range(3))
    signed_volumes = np.einsum("ij,ij->i", a, np.cross(b, c)) / 6
    return np.cross(b - a, c - a), signed_volumes


def _displacements(distance: Floats, triangles: Ints, cross: Floats) -> Floats:
    """Return vectors (n, 3) z, y, x that move vertices along their normals by a distance (n,)."""
    normals = _vertex_normals(triangles, cross, len(distance))
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.asarray(distance[:, None] * normals / np.where(lengths > 0, lengths, 1))


def _vertex_normals(triangles: Ints, cross: Floats, n_vertices: int) -> Floats:
    """Return the sums of the normals around every vertex, (n, 3) z, y, x, not normalized.

    Args:
        triangles: (m, 3) indices of vertices.
        cross: (m, 3) normals of triangles x, y, z, as long as twice their area.
        n_vertices: number of vertices.
    """
    components = []
    for axis in (2, 1, 0):
        parts = (np.bincount(triangles[:, k], cross[:, axis], n_vertices) for k in range(3))
        components.append(sum(parts))
    return np.stack(components, axis=1)


def _bodies_of_vertices(vertices: Floats, mask: NDArray[np.bool_]) -> tuple[Ints, Floats]:
    """Return the body of the mask on which every vertex lies, and the voxels of every body.

    Args:
        vertices: (n, 3), in voxels.
        mask: (z, y, x).

    Returns:
        (n,) numbers of bodies from 1, and (k,) numbers of voxels by number of the body.
    """
    bodies = cc3d.connected_components(np.ascontiguousarray(mask).view(np.uint8), connectivity=26)
    body_of_vertex = _bodies_near(vertices, bodies)
    n_bodies = int(body_of_vertex.max(initial=0))
    n_voxels = np.bincount(bodies.ravel(), minlength=n_bodies + 1).astype(np.float64)
    n_voxels[0] = 0
    return body_of_vertex, n_voxels


def _bodies_near(vertices: Floats, bodies: NDArray[Any]) -> Ints:
    """Return the number of the nearest body (n,) of each vertex (n, 3), 0 if none is near."""
    last = np.array(bodies.shape) - 1
    body_of_vertex = np.zeros(len(vertices), np.int64)
    low = np.floor(vertices).astype(np.int64)
    # One of the eight voxels around a vertex belongs to the mask; in the smoothed corner of a
    # cavity, one of the voxels around these.
    for offset in sorted(np.ndindex(4, 4, 4), key=_distance_from_middle):
        unknown = np.flatnonzero(body_of_vertex == 0)
        if not unknown.size:
            break
        position = low[unknown] + offset - 1
        is_inside = ((position >= 0) & (position <= last)).all(axis=1)
        body = bodies[tuple(np.clip(position, 0, last).T)]
        body_of_vertex[unknown] = np.where(is_inside, body, 0)
    return body_of_vertex


def _distance_from_middle(corner: tuple[int, ...]) -> int:
    """Return twice the Chebyshev distance from the middle of a cube of four voxels."""
    return max(abs(2 * index - 3) for index in corner)


def surface_of(mask: NDArray[np.bool_], voxel: Sequence[float]) -> Mesh:
    """Return the surface of a mask (z, y, x) that is in memory.

    Args:
        mask: the mask.
        voxel: edge lengths (z, y, x) of a voxel.
    """
    return mesh_from_mask(lambda first, last: mask[first:last], mask.shape, voxel, BLOCK_DEPTH)


def enclosed_volume(mesh: Mesh) -> float:
    """Return the volume inside a closed mesh."""
    _, signed_volumes = _normals_and_volumes(mesh.vertices, mesh.triangles)
    return float(signed_volumes.sum())


def simplify_to_volume(mesh: Mesh, n_triangles: int, volume: float, voxel: Sequence[float]) -> Mesh:
    """Return a mesh with at most about ``n_triangles`` triangles that encloses a volume.

    Args:
        mesh: closed surfaces of one body.
        n_triangles: approximate number of triangles; 0 for all. There are more where so few
            cannot enclose the volume.
        volume: volume to enclose, within ``MAX_VOLUME_ERROR``.
        voxel: edge lengths (z, y, x) of the voxels of the mesh.
    """
    simple = simplify(mesh, n_triangles) if n_triangles else mesh
    restored = _restore_volume(simple, volume, voxel)
    if abs(enclosed_volume(restored) - volume) <= MAX_VOLUME_ERROR * volume or simple is mesh:
        return restored
    # So few triangles do not enclose the volume, however they are moved.
    return simplify_to_volume(mesh, 2 * max(n_triangles, len(simple.triangles)), volume, voxel)


def _restore_volume(mesh: Mesh, volume: float, voxel: Sequence[float]) -> Mesh:
    """Return a mesh of one body that encloses a volume."""
    of_one_body = np.zeros(len(mesh.vertices), np.int64)
    return restore_volumes(mesh, of_one_body, np.array([volume]), MAX_STEP * min(voxel))


def simplify(mesh: Mesh, n_triangles: int) -> Mesh:
    """Return the mesh with at most about ``n_triangles`` triangles (quadric error metric)."""
    if len(mesh.triangles) <= n_triangles:
        return mesh
    vertices, triangles = fast_simplification.simplify(
        mesh.vertices.astype(np.float32),
        mesh.triangles.astype(np.int32),
        target_count=n_triangles,
    )
    return Mesh(vertices.astype(np.float64), triangles.astype(np.int64))


def _smooth_slices(
    read: MaskReader, shape: Sequence[int], start: int, stop: int
) -> NDArray[np.float32]:
    """Return slices of the smoothed mask with a margin of one voxel along y and x.

    Everything beyond the volume is outside, 0.
    """
    low, high = max(0, start - RADIUS), min(shape[0], stop + RADIUS)
    slices_beyond = (low - (start - RADIUS), stop + RADIUS - high)
    smooth = _smooth(np.pad(read(low, high), (slices_beyond, (1, 1), (1, 1))))
    slab = smooth[RADIUS : RADIUS + stop - start]
    slab[:, [0, -1]] = 0
    slab[:, :, [0, -1]] = 0
    if start < 0:
        slab[0] = 0
    if stop > shape[0]:
        slab[-1] = 0
    return np.asarray(slab, np.float32)


def _smooth(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return a mask (z, y, x) smoothed to values of 0 to 1; its voxels stay inside."""
    padded = mask.astype(np.float32)
    smooth = gaussian_filter(padded, SIGMA, radius=RADIUS, mode="constant")
    # Smoothing would remove parts of one voxel's thickness: voxels of the mask stay inside.
    is_lost = (padded > 0) & (smooth <= MIN_INSIDE)
    return np.where(is_lost, np.float32(MIN_INSIDE), smooth)


def _extract_surface(slab: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return vertices and triangles of a slab of ``_smooth_slices``, in voxels from its corner."""
    if slab.max() <= LEVEL or len(slab) < 2:
        return np.empty((0, 3), np.float32), np.empty((0, 3), np.int32)
    vertices, triangles, _, _ = marching_cubes(
        slab, LEVEL, gradient_direction="descent", allow_degenerate=False
    )
    margin = np.array([0, 1, 1], np.float32)
    return vertices - margin, triangles


def _join_blocks(blocks: Sequence[SurfaceBlock]) -> tuple[Floats, Ints]:
    """Return vertices (in voxels) and triangles of all blocks; shared vertices occur once.

    Args:
        blocks: first slice of every block, its vertices and its triangles.
    """
    vertices: list[Floats] = [np.empty((0, 3))]
    triangles: list[Ints] = [np.empty((0, 3), np.int64)]
    n_vertices = 0
    # Vertices on the top slice of the previous block -> their indices.
    index_of_vertex: dict[tuple[float, ...], int] = {}
    for start, (block_vertices, block_triangles) in blocks:
        points = block_vertices.astype(np.float64) + np.array([start, 0, 0])
        indices = _indices_on_slice(points, start, index_of_vertex)
        new = np.flatnonzero(indices < 0)
        indices[new] = n_vertices + np.arange(len(new))
        n_vertices += len(new)
        vertices.append(points[new])
        if len(block_triangles):
            triangles.append(indices[block_triangles])
        top = np.flatnonzero(points[:, 0] == points[:, 0].max(initial=-2))
        index_of_vertex = {tuple(points[k].tolist()): int(indices[k]) for k in top}
    return np.concatenate(vertices), np.concatenate(triangles)


def _indices_on_slice(
    points: Floats, z: int, index_of_vertex: Mapping[tuple[float, ...], int]
) -> Ints:
    """Return the indices (n,) of points that are known vertices on slice ``z``; -1 for others."""
    indices = np.full(len(points), -1, np.int64)
    for k in np.flatnonzero(points[:, 0] == z):
        indices[k] = index_of_vertex.get(tuple(points[k].tolist()), -1)
    return indices
