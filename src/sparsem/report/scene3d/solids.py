"""Structures as colored meshes of a part of a sample.

Meshes are made from the finest level of the pyramid that does not exceed a number of voxels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from sparsem.measure.crops import Crop, crop_around, finest_level_within
from sparsem.measure.features.moments import renumber_consecutively
from sparsem.report.layers import StructureLayer
from sparsem.report.mesh import (
    BLOCK_DEPTH,
    Mesh,
    enclosed_volume,
    mesh_from_mask,
    simplify_to_volume,
    surface_of,
)
from sparsem.report.plots.colors import RGB, cell_color
from sparsem.report.settings import Axis
from sparsem.store.volume import Volume

MIN_OBJECT_TRIANGLES = 60  # fewer do not show a shape
# Triangles of a surface for each one of its mesh; of more, the surface is made of larger voxels.
MAX_SIMPLIFICATION = 20
MIN_TRIANGLES = 30  # of an object among so many that all together would be too large

# Lowest and highest-plus-one voxel (z, y, x) of the full resolution.
Box = tuple[NDArray[np.int64], NDArray[np.int64]]


class Solid(NamedTuple):
    """A colored mesh.

    Attributes:
        name: of the structure, or number of the object.
        color: of its surface.
        mesh: vertices in µm from the corner of the volume.
        n_full_triangles: number of triangles before the mesh was simplified.
    """

    name: str
    color: RGB
    mesh: Mesh
    n_full_triangles: int


class Cut(NamedTuple):
    """A plane across an axis; everything before it is removed, so that the inside is visible.

    Attributes:
        axis: across which axis.
        position: of the plane, as a fraction of the box: 0 removes nothing.
    """

    axis: Axis
    position: float


def volume_box(volume: Volume) -> Box:
    """Return the box around a whole volume."""
    return np.zeros(3, np.int64), np.array(volume.shape, np.int64)


def solids_of(
    layer: StructureLayer, box: Box, max_voxels: float, n_triangles: int, cut: Cut | None = None
) -> Iterator[Solid]:
    """Yield the meshes of a structure: one, or one for each object of a separate layer.

    Args:
        layer: a layer without labels has no mesh.
        box: part of the volume.
        max_voxels: the finest level is read at which the box holds at most so many voxels.
        n_triangles: approximate number of triangles of all meshes together; 0 for no limit.
        cut: removes a part of the box.
    """
    labels = layer.labels
    if labels is None:
        return
    level = finest_level_within(labels, box[0][None], box[1][None], int(max_voxels))
    piece = crop_around(labels, level, *box)
    voxel_um = labels.voxel_size_of(level).micrometers
    if layer.separate:
        objects = _cut_away(_select(piece.read(labels), layer.only), cut)
        yield from _object_solids(objects, voxel_um, np.array(piece.low), n_triangles)
        return

    def read_slices(first: int, last: int) -> NDArray[np.bool_]:
        return _read_mask(labels, layer.only, piece, first, last, cut)

    shape = tuple(high - low for low, high in zip(piece.low, piece.high, strict=True))
    surface = mesh_from_mask(read_slices, shape, voxel_um, BLOCK_DEPTH)
    mesh = simplify_to_volume(surface, n_triangles, enclosed_volume(surface), voxel_um)
    moved = Mesh(mesh.vertices + np.array(piece.low) * voxel_um, mesh.triangles)
    yield Solid(layer.name, layer.color, moved, len(surface.triangles))


def _select(labels: NDArray[Any], numbers: Sequence[int] | None) -> NDArray[Any]:
    """Return the labels with those numbers only; all if None."""
    return labels if numbers is None else np.where(np.isin(labels, numbers), labels, 0)


def _read_mask(
    labels: Volume,
    numbers: Sequence[int] | None,
    piece: Crop,
    first: int,
    last: int,
    cut: Cut | None,
) -> NDArray[np.bool_]:
    """Return slices ``first`` to ``last`` (exclusive) of a piece as a mask."""
    low, high = piece.low, piece.high
    block = Crop(piece.level, (low[0] + first, *low[1:]), (low[0] + last, *high[1:]))
    selected = _select(block.read(labels), numbers)
    return _cut_away(selected, cut, high[0] - low[0], first) > 0


def _cut_away(
    labels: NDArray[Any], cut: Cut | None, depth: int | None = None, first: int = 0
) -> NDArray[Any]:
    """Return labels without the part before the plane of a cut.

    Args:
        labels: (z, y, x), slices from ``first`` on.
        cut: nothing is removed without one.
        depth: slices of the whole piece; those of ``labels`` if None.
        first: number of the first slice in the piece.
    """
    if cut is None:
        return labels
    axis = "zyx".index(cut.axis)
    if axis == 0:
        end = round(cut.position * (depth or len(labels))) - first
    else:
        end = round(cut.position * labels.shape[axis])
    removed = [slice(None)] * 3
    removed[axis] = slice(0, max(0, end))
    labels = labels.copy()
    labels[tuple(removed)] = 0
    return labels


def _object_solids(
    labels: NDArray[Any], voxel_um: Sequence[float], low: NDArray[np.int64], n_triangles: int
) -> Iterator[Solid]:
    """Yield one mesh for each object of labels (z, y, x) that begin at voxel ``low``."""
    indices, ids = renumber_consecutively(labels.astype(np.uint32, copy=False))
    voxels = np.bincount(indices.ravel(), minlength=len(ids) + 1)[1:]
    counts = _share_triangles(voxels, n_triangles)
    volumes = voxels * np.prod(voxel_um)
    for index, box in enumerate(find_objects(indices.astype(np.int32))):
        corner_um = (low + [side.start for side in box]) * np.asarray(voxel_um)
        mask, edges_um = _coarse_enough(indices[box] == index + 1, voxel_um, counts[index])
        number = int(ids[index])
        yield _object_solid(number, mask, corner_um, edges_um, volumes[index], counts[index])


def full_solids(
    labels: Volume, objects: NDArray[np.int64], max_voxels: float, n_triangles: int
) -> Iterator[Solid]:
    """Yield one mesh for each object, which encloses the volume of its voxels.

    Every object is read on its own, so that its mesh is as fine as the object is small.

    Args:
        labels: numbered objects.
        objects: those to mesh and their boxes and voxels, (n, 8), see ``object_boxes``.
        max_voxels: the finest level is read at which the box of an object has at most so many.
        n_triangles: approximate number of triangles of all meshes together; 0 for no limit.
    """
    counts = _share_triangles(objects[:, 7], n_triangles)
    voxel_um3 = labels.voxel_size.volume_um3
    for row, count in zip(objects, counts, strict=True):
        number, *box, voxels = row.tolist()
        low, high = np.array(box[:3]), np.array(box[3:])
        level = finest_level_within(labels, low[None], high[None], int(max_voxels))
        piece = crop_around(labels, level, low, high)
        voxel_um = labels.voxel_size_of(level).micrometers
        mask = piece.read(labels) == number
        corner_um = np.array(piece.low) * voxel_um
        yield _object_solid(number, mask, corner_um, voxel_um, voxels * voxel_um3, count)


def _object_solid(
    number: int,
    mask: NDArray[np.bool_],
    corner_um: NDArray[np.float64],
    voxel_um: Sequence[float],
    volume: float,
    n_triangles: int,
) -> Solid:
    """Return the mesh of one object, in the color of its number."""
    surface = surface_of(mask, voxel_um)
    mesh = simplify_to_volume(surface, n_triangles, volume, voxel_um)
    moved = Mesh(mesh.vertices + corner_um, mesh.triangles)
    return Solid(str(number), cell_color(number), moved, len(surface.triangles))


def _coarse_enough(
    mask: NDArray[np.bool_], voxel_um: Sequence[float], n_triangles: int
) -> tuple[NDArray[np.bool_], Sequence[float]]:
    """Return a mask (z, y, x) whose surface is not much finer than its mesh, and its voxels.

    The surface of all voxels of a nucleus has 70 times the triangles that a page shows, and to
    compute and to simplify it takes most of the time of the page.

    Args:
        mask: one object.
        voxel_um: edges of its voxels.
        n_triangles: of its mesh; 0 for no limit.
    """
    while n_triangles and 2 * _count_faces(mask) > MAX_SIMPLIFICATION * n_triangles:
        is_fine = np.array(voxel_um) < 1.5 * min(voxel_um)
        factors = np.where(is_fine, 2, 1)
        mask = _pool(mask, factors)
        voxel_um = (factors * voxel_um).tolist()
    return mask, voxel_um


def _count_faces(mask: NDArray[np.bool_]) -> int:
    """Return the number of faces between voxels of a mask and others; a mesh has twice as many."""
    padded = np.pad(mask, 1)
    return sum(int(np.count_nonzero(np.diff(padded, axis=axis))) for axis in range(3))


def _pool(mask: NDArray[np.bool_], factors: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask of larger voxels: those of which a quarter is set, so that fibers remain."""
    n_voxels = -(-np.array(mask.shape) // factors)
    padding = n_voxels * factors - mask.shape
    padded = np.pad(mask, [(0, size) for size in padding])
    (depth, height, width), (by_z, by_y, by_x) = n_voxels, factors
    voxels = padded.reshape(depth, by_z, height, by_y, width, by_x)
    counts = voxels.sum(axis=(1, 3, 5), dtype=np.uint8)
    return np.asarray(4 * counts >= factors.prod())


def _share_triangles(voxels: NDArray[np.int64], n_triangles: int) -> list[int]:
    """Return the triangles of every object, shared by their surface; 0 for no limit.

    Args:
        voxels: (n,) voxels of the objects.
        n_triangles: of all objects together; 0 for no limit.
    """
    if not n_triangles or not len(voxels):
        return [0] * len(voxels)
    smallest_share = max(MIN_TRIANGLES, min(MIN_OBJECT_TRIANGLES, n_triangles // len(voxels)))
    surfaces = voxels ** (2 / 3)
    rest = max(0, n_triangles - smallest_share * len(voxels))
    shares = smallest_share + (rest * surfaces / surfaces.sum()).astype(np.int64)
    return list(shares.tolist())
