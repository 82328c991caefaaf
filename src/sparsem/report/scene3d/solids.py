"""Structures as solids: colored meshes of a part of a sample, at a level of the pyramid that is fine enough and fits."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from sparsem.measure.crops import Crop, crop_around, finest_level_within
from sparsem.report.encode import cell_color
from sparsem.report.layers import Layer
from sparsem.report.mesh import Mesh, mesh_of, simplified
from sparsem.store.volume import Volume

LEAST_TRIANGLES = 60  # of a cell: fewer are no shape
SLAB = 64  # slices that are meshed at once

Axis = Literal["z", "y", "x"]
Box = tuple[
    NDArray[np.int64], NDArray[np.int64]
]  # lowest and highest-plus-one voxel (z, y, x) of the full resolution


class Solid(NamedTuple):
    """A mesh with its name and color (red, green, blue); vertices in µm from the volume's corner."""

    name: str
    color: tuple[int, int, int]
    mesh: Mesh


class Cut(NamedTuple):
    """What is taken away so that one sees inside: everything before a plane across an axis.

    Attributes:
        axis: across which.
        at: where, as a part of the box: 0 takes nothing away.
    """

    axis: Axis
    at: float


def whole_box(volume: Volume) -> Box:
    """All of a volume."""
    return np.zeros(3, np.int64), np.array(volume.shape, np.int64)


def solids_of(
    layer: Layer, box: Box, voxels: float, triangles: int, cut: Cut | None = None
) -> Iterator[Solid]:
    """The solids of a structure: one, or one for each cell.

    Args:
        layer: with labels; without there are none.
        box: the part of the volume.
        voxels: the finest level is taken at which the box holds at most so many.
        triangles: of all solids together, about; 0 for as many as there are.
        cut: takes a part of the box away.
    """
    labels = layer.labels
    if labels is None:
        return
    level = finest_level_within(labels, box[0][None], box[1][None], int(voxels))
    piece = crop_around(labels, level, *box)
    voxel = labels.voxel_size_of(level).micrometers
    if layer.cells:
        yield from _cells(
            _cut(_only(piece.read(labels), layer.only), cut), voxel, np.array(piece.low), triangles
        )
        return
    shape = tuple(b - a for a, b in zip(piece.low, piece.high, strict=True))
    mesh = mesh_of(lambda first, last: _slab(layer, piece, first, last, cut), shape, voxel, SLAB)
    yield Solid(
        layer.name,
        layer.color,
        _placed(simplified(mesh, triangles) if triangles else mesh, piece.low, voxel),
    )


def _only(labels: NDArray[Any], numbers: Sequence[int] | None) -> NDArray[Any]:
    return labels if numbers is None else np.where(np.isin(labels, numbers), labels, 0)


def _slab(layer: Layer, piece: Crop, first: int, last: int, cut: Cut | None) -> NDArray[np.bool_]:
    if layer.labels is None:
        raise AssertionError(f"{layer.name} has no labels")
    part = Crop(
        piece.level, (piece.low[0] + first, *piece.low[1:]), (piece.low[0] + last, *piece.high[1:])
    )
    return (
        _cut(_only(part.read(layer.labels), layer.only), cut, piece.high[0] - piece.low[0], first)
        > 0
    )


def _cut(
    labels: NDArray[Any], cut: Cut | None, depth: int | None = None, first: int = 0
) -> NDArray[Any]:
    """Labels of a slab that begins at slice ``first`` of ``depth``, without what is cut away."""
    if cut is None:
        return labels
    axis = "zyx".index(cut.axis)
    length = (depth or len(labels)) if axis == 0 else labels.shape[axis]
    gone = round(cut.at * length) - (first if axis == 0 else 0)
    labels = labels.copy()
    labels[tuple(slice(0, max(0, gone)) if one == axis else slice(None) for one in range(3))] = 0
    return labels


def _cells(
    labels: NDArray[Any], voxel: Sequence[float], low: NDArray[np.int64], triangles: int
) -> Iterator[Solid]:
    ids, numbers = np.unique(labels, return_inverse=True)
    if ids[0] != 0:
        ids, numbers = np.concatenate([[0], ids]), numbers + 1
    numbers = numbers.reshape(labels.shape).astype(np.int32)
    whole = max(1, int((numbers > 0).sum()))
    for number, box in enumerate(find_objects(numbers), 1):
        mask = numbers[box] == number
        mesh = _mesh(mask, voxel)
        if triangles:
            mesh = simplified(mesh, max(LEAST_TRIANGLES, int(triangles * mask.sum() / whole)))
        cell = int(ids[number])
        yield Solid(
            str(cell), cell_color(cell), _placed(mesh, low + [side.start for side in box], voxel)
        )


def _mesh(mask: NDArray[np.bool_], voxel: Sequence[float]) -> Mesh:
    return mesh_of(lambda first, last: mask[first:last], mask.shape, voxel, SLAB)


def _placed(mesh: Mesh, low: Sequence[int] | NDArray[np.int64], voxel: Sequence[float]) -> Mesh:
    return Mesh(mesh.vertices + np.asarray(low) * np.asarray(voxel), mesh.triangles)
