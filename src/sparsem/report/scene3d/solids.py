"""Structures as colored meshes of a part of a sample.

Meshes are made from the finest level of the pyramid that does not exceed a number of voxels.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from sparsem.measure.crops import Crop, crop_around, finest_level_within
from sparsem.report.layers import StructureLayer
from sparsem.report.mesh import Mesh, mesh_from_mask, simplify
from sparsem.report.plots.colors import RGB, cell_color
from sparsem.store.volume import Volume

MIN_CELL_TRIANGLES = 60  # fewer triangles do not show a shape
BLOCK_DEPTH = 64  # slices that are meshed at once

Axis = Literal["z", "y", "x"]
# Lowest and highest-plus-one voxel (z, y, x) of the full resolution.
Box = tuple[NDArray[np.int64], NDArray[np.int64]]


class Solid(NamedTuple):
    """A colored mesh.

    Attributes:
        name: of the structure, or number of the cell.
        color: of its surface.
        mesh: vertices in µm from the corner of the volume.
    """

    name: str
    color: RGB
    mesh: Mesh


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
    """Yield the meshes of a structure: one, or one for each cell.

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
    if layer.cells:
        cells = _cut_away(_select(piece.read(labels), layer.only), cut)
        yield from _cell_solids(cells, voxel_um, np.array(piece.low), n_triangles)
        return

    def read_slices(first: int, last: int) -> NDArray[np.bool_]:
        return _read_mask(labels, layer.only, piece, first, last, cut)

    shape = tuple(high - low for low, high in zip(piece.low, piece.high, strict=True))
    mesh = mesh_from_mask(read_slices, shape, voxel_um, BLOCK_DEPTH)
    if n_triangles:
        mesh = simplify(mesh, n_triangles)
    yield Solid(layer.name, layer.color, _translate(mesh, piece.low, voxel_um))


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


def _cell_solids(
    labels: NDArray[Any], voxel_um: Sequence[float], low: NDArray[np.int64], n_triangles: int
) -> Iterator[Solid]:
    """Yield one mesh for each cell; triangles are divided among cells by their volume."""
    ids, indices = _numbered_from_one(labels)
    n_cell_voxels = max(1, int((indices > 0).sum()))
    for index, box in enumerate(find_objects(indices), 1):
        mask = indices[box] == index
        mesh = _mask_mesh(mask, voxel_um)
        if n_triangles:
            fraction_of_triangles = int(n_triangles * mask.sum() / n_cell_voxels)
            mesh = simplify(mesh, max(MIN_CELL_TRIANGLES, fraction_of_triangles))
        cell = int(ids[index])
        corner = low + [side.start for side in box]
        yield Solid(str(cell), cell_color(cell), _translate(mesh, corner, voxel_um))


def _numbered_from_one(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return 0 and the numbers of all cells, and labels that are indices into them."""
    ids, indices = np.unique(labels, return_inverse=True)
    if ids[0] != 0:
        ids, indices = np.concatenate([[0], ids]), indices + 1
    return ids, indices.reshape(labels.shape).astype(np.int32)


def _mask_mesh(mask: NDArray[np.bool_], voxel_um: Sequence[float]) -> Mesh:
    """Return the surface of a mask that is in memory."""
    return mesh_from_mask(lambda first, last: mask[first:last], mask.shape, voxel_um, BLOCK_DEPTH)


def _translate(
    mesh: Mesh, low: Sequence[int] | NDArray[np.int64], voxel_um: Sequence[float]
) -> Mesh:
    """Return a mesh moved by the voxel ``low`` at which its piece begins."""
    return Mesh(mesh.vertices + np.asarray(low) * np.asarray(voxel_um), mesh.triangles)
