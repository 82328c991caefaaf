"""Organelles per cell. Every object counts in one cell; of its voxels each counts where it lies (paper: organelles per cell)."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.labels.overlaps import Overlaps, positions_in
from sparsem.store.sample import Sample

Columns = dict[str, NDArray[Any]]
Ids = NDArray[np.uint32]
Floats = NDArray[np.float64]


def organelle_columns(
    name: str, holder: Ids, shared: Overlaps, cells: Ids, cell_um3: Floats, voxel_um3: float
) -> Columns:
    """Count, volume, volume fraction and density of one organelle in every cell.

    Args:
        name: of the organelle.
        holder: the cell that holds most of each object, 0 for none: (objects,).
        shared: voxels that objects (first) share with cells (second).
        cells: their ids, ascending, (n,).
        cell_um3: their volumes.
        voxel_um3: volume of a voxel.
    """
    counts = np.bincount(positions_in(cells, holder), minlength=len(cells) + 1)[1:]
    voxels = np.bincount(
        positions_in(cells, shared.second), weights=shared.pixels, minlength=len(cells) + 1
    )[1:]
    volume = voxels * voxel_um3
    return {
        f"{name}_count": counts,
        f"{name}_volume_um3": volume,
        f"{name}_volume_fraction": volume / cell_um3,
        f"{name}_density_per_um3": counts / cell_um3,
    }


def distance_columns(name: str, holder: Ids, distances: Columns, cells: Ids) -> Columns:
    """Median distances of one organelle in every cell; NaN for a cell that has none.

    Args:
        name: of the organelle.
        holder: the cell of each object, 0 for none, (objects,).
        distances: of each object by name of the column, (objects,) each.
        cells: their ids, ascending, (n,).
    """
    places, out = positions_in(cells, holder), {}
    for column, values in distances.items():
        known = np.isfinite(values)
        of_cell = [values[known & (places == place)] for place in range(1, len(cells) + 1)]
        out[f"{name}_{column}"] = np.array(
            [np.median(some) if some.size else np.nan for some in of_cell]
        )
    return out


def protrusion_columns(found: list[Floats]) -> Columns:
    """Of every cell: number, length and volume of its protrusions, each (m, 3) length µm, volume µm³, attached."""
    return {
        "protrusions": np.array([len(one) for one in found], np.int64),
        "protrusion_length_um": np.array([one[:, 0].sum() for one in found]),
        "longest_protrusion_um": np.array([one[:, 0].max(initial=0) for one in found]),
        "protrusion_volume_um3": np.array([one[:, 1].sum() for one in found]),
    }


def protrusion_table(cells: Ids, found: list[Floats]) -> pa.Table:
    """One row a protrusion."""
    rows = np.concatenate([np.empty((0, 3)), *found])
    owner = np.repeat(cells, [len(one) for one in found])
    return pa.table(
        {
            "cell": owner,
            "length_um": rows[:, 0],
            "volume_um3": rows[:, 1],
            "attached": rows[:, 2] > 0,
        }
    )


def unassigned(sample: Sample, cells: str) -> NDArray[np.uint32]:
    """Return the identities in labels of cells that meet no annotated cell, from the table of tracks; none if there is no such table."""
    if f"tracks_{cells}" not in sample.tables:
        return np.empty(0, np.uint32)
    tracks = sample.read_table(f"tracks_{cells}")
    identities = tracks["identity"].to_numpy()[~tracks["in_cell"].to_numpy()]
    return np.unique(identities[identities > 0]).astype(np.uint32)
