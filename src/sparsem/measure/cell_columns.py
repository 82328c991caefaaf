"""Columns of the table of cells: organelles per cell, their distances, and protrusions.

Every object counts in one cell; each of its voxels counts in the cell in which it lies (paper:
organelles per cell).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.labels.overlaps import Overlaps, positions_in
from sparsem.measure.containment import contents_of
from sparsem.measure.features.skeleton import COUNT_COLUMNS, SKELETON_COLUMNS
from sparsem.measure.tables import with_nulls
from sparsem.store.sample import Sample

# The columns of the table of protrusions, after that of the cell.
PROTRUSION_COLUMNS = ("length_um", "volume_um3", "attached", *SKELETON_COLUMNS)

Columns = dict[str, NDArray[Any]]
Ids = NDArray[np.uint32]
Floats = NDArray[np.float64]


def organelle_columns(
    name: str, owners: Ids, overlaps: Overlaps, cells: Ids, cell_um3: Floats, voxel_um3: float
) -> Columns:
    """Return count, volume, volume fraction and density of an organelle in every cell, (n,) each.

    Args:
        name: name of the organelle.
        owners: the cell that holds most of each object, 0 for none, (objects,).
        overlaps: voxels that objects (first) share with cells (second).
        cells: ids of the cells, ascending, (n,).
        cell_um3: volumes of the cells, (n,).
        voxel_um3: volume of a voxel.
    """
    n_bins = len(cells) + 1  # bin 0 holds objects and voxels in no cell
    counts = np.bincount(positions_in(cells, owners), minlength=n_bins)[1:]
    containers = positions_in(cells, overlaps.second)
    voxels = np.bincount(containers, weights=overlaps.pixels, minlength=n_bins)[1:]
    volume = voxels * voxel_um3
    return {
        f"{name}_count": counts,
        f"{name}_volume_um3": volume,
        f"{name}_volume_fraction": volume / cell_um3,
        f"{name}_density_per_um3": counts / cell_um3,
    }


def distance_columns(name: str, owners: Ids, distances: Columns, cells: Ids) -> Columns:
    """Return the median distances of an organelle in every cell, (n,) each.

    A cell without this organelle has NaN.

    Args:
        name: name of the organelle.
        owners: the cell of each object, 0 for none, (objects,).
        distances: distances of each object by name of the column, (objects,) each.
        cells: ids of the cells, ascending, (n,).
    """
    contents = contents_of(cells, owners)
    columns = {}
    for column, values in distances.items():
        medians = []
        for objects in contents:
            known = values[objects][np.isfinite(values[objects])]
            medians.append(np.median(known) if known.size else np.nan)
        columns[f"{name}_{column}"] = np.array(medians)
    return columns


def protrusion_columns(protrusions: Sequence[Floats]) -> Columns:
    """Return number, length and volume of the protrusions of every cell, (n,) each.

    Args:
        protrusions: protrusions of each cell, (m, 10), see ``PROTRUSION_COLUMNS``.
    """
    return {
        "protrusions": np.array([len(rows) for rows in protrusions], np.int64),
        "protrusion_length_um": np.array([rows[:, 0].sum() for rows in protrusions]),
        "longest_protrusion_um": np.array([rows[:, 0].max(initial=0) for rows in protrusions]),
        "protrusion_volume_um3": np.array([rows[:, 1].sum() for rows in protrusions]),
    }


def protrusion_table(cells: Ids, protrusions: Sequence[Floats]) -> pa.Table:
    """Return the table of all protrusions, one row each.

    Args:
        cells: ids of the cells, (n,).
        protrusions: protrusions of each cell, see ``protrusion_columns``.
    """
    rows = np.concatenate([np.empty((0, len(PROTRUSION_COLUMNS))), *protrusions])
    columns = dict(zip(PROTRUSION_COLUMNS, rows.T, strict=True))
    columns["attached"] = columns["attached"] > 0
    for name in COUNT_COLUMNS:
        columns[name] = columns[name].astype(np.int64)
    of_cells = np.repeat(cells, [len(of_cell) for of_cell in protrusions])
    return pa.table(
        {"cell": of_cells, **{name: with_nulls(column) for name, column in columns.items()}}
    )


def unassigned_cells(sample: Sample, cells: str) -> Ids:
    """Return the labels of cells that meet no annotated cell.

    They are the identities of tracks outside annotated cells, in the table ``tracks_CELLS``. If
    there is no such table, there are none.
    """
    if f"tracks_{cells}" not in sample.tables:
        return np.empty(0, np.uint32)
    tracks = sample.read_table(f"tracks_{cells}")
    is_outside = ~tracks["in_cell"].to_numpy()
    identities = tracks["identity"].to_numpy()[is_outside]
    return np.unique(identities[identities > 0]).astype(np.uint32)
