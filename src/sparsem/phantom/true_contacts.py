"""The true contacts between the mitochondria of a phantom, from their labels."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize

NM2 = 1e-6  # um2

Ints = NDArray[np.int64]


def contacts_table(slabs: Iterable[NDArray[np.uint32]], voxel: VoxelSize) -> pa.Table:
    """Return a row for each pair of objects that touch.

    ``area_um2`` is the length of the vector area of their common faces (the sum of normal times
    area), which is the area of the flat contact that they approximate, whatever its direction.
    ``faces`` is their number.

    Args:
        slabs: labels (z, y, x) of consecutive slices; each begins with the last slice of the one
            before it.
        voxel: edge lengths.
    """
    parts = [(np.empty((0, 2), np.int64), np.empty((0, 4), np.int64))]
    for number, slab in enumerate(slabs):
        parts.append(_faces_along(slab, 0))
        # The first slice of a slab was counted in the one before it.
        counted = slab[1:] if number else slab
        parts += [_faces_along(counted, axis) for axis in (1, 2)]
    pairs, faces = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return _table(*_sum_faces(pairs, faces), voxel)


def _table(pairs: Ints, sums: Ints, voxel: VoxelSize) -> pa.Table:
    """Return the table of pairs (n, 2) and the sums (n, 4) of their faces."""
    z, y, x = voxel
    vectors_nm2 = sums[:, :3] * np.array([y * x, z * x, z * y])
    columns = {
        "first": pairs[:, 0],
        "second": pairs[:, 1],
        "area_um2": np.linalg.norm(vectors_nm2, axis=1) * NM2,
        "faces": sums[:, 3],
    }
    return pa.table(columns)


def _sum_faces(pairs: Ints, faces: Ints) -> tuple[Ints, Ints]:
    """Return every pair of objects once, ascending, and the sum (n, 4) of its faces."""
    unique, row = np.unique(pairs, axis=0, return_inverse=True)
    sums = np.zeros((len(unique), 4), np.int64)
    np.add.at(sums, row.reshape(-1), faces)
    return unique, sums


def _faces_along(labels: NDArray[np.uint32], axis: int) -> tuple[Ints, Ints]:
    """Return the pairs (n, 2) of objects at faces across an axis, and these faces (n, 4).

    A face is its normal, which points from the object with the smaller number, and a 1.
    """
    first, second = _touching_along(np.moveaxis(labels, axis, 0))
    faces = np.zeros((len(first), 4), np.int64)
    faces[:, axis] = np.where(first < second, 1, -1)
    faces[:, 3] = 1
    return np.sort(np.column_stack([first, second]), axis=1), faces


def _touching_along(labels: NDArray[np.uint32]) -> tuple[Ints, Ints]:
    """Return the objects (n,) before and after every face across the first axis."""
    before, after = labels[:-1], labels[1:]
    is_contact = (before != after) & (before > 0) & (after > 0)
    return before[is_contact].astype(np.int64), after[is_contact].astype(np.int64)
