"""Cells: the organelles in each, their distances to nucleus and membrane, and protrusions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.labels.distance_transform import distances_inside
from sparsem.labels.overlaps import positions_in, renumber
from sparsem.measure.cell_columns import (
    PROTRUSION_COLUMNS,
    distance_columns,
    organelle_columns,
    protrusion_columns,
    protrusion_table,
    unassigned_cells,
)
from sparsem.measure.containment import contents_of, main_containers
from sparsem.measure.crops import Crop, batches_of_objects, crop_around, positions_in_crop
from sparsem.measure.features.distances import (
    minimum_distances,
    sample_distances,
)
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.protrusions import find_protrusions
from sparsem.measure.features.skeleton import skeleton_numbers
from sparsem.measure.features.surface import Edges
from sparsem.measure.links import run_links
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.structures import MeasuredStructure, level_in_budget
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage

Field = NDArray[np.float32]
Floats = NDArray[np.float64]
Structures = Mapping[str, MeasuredStructure]

# A cell needs so many times the arrays of another object, and so gets a smaller part of the budget.
CELL_ARRAYS = 4
# The surfaces to which distances are measured, as in the names of columns and arrays.
TARGETS = ("nucleus", "membrane")


class CellLink(NamedTuple):
    """A cell, its nuclei, and the objects in it.

    Attributes:
        cells: labels of the cells.
        level: level of the pyramid at which the cell is measured.
        moments: sums over the voxels of the cell.
        nuclei: labels of the nuclei; None if there are none.
        organelles: labels and moments of the objects in the cell, by structure.
        protrusion_um: width below which parts of the cell are protrusions.
    """

    cells: Volume
    level: int
    moments: Moments
    nuclei: Volume | None
    organelles: Mapping[str, tuple[Volume, Moments]]
    protrusion_um: float


def measure_cells(
    stage: Stage, structures: Structures, settings: MeasureSettings
) -> pa.Table | None:
    """Add to the columns the cell of every organelle, the organelles of every cell, and distances.

    Returns:
        The table of the protrusions; None if no cells are measured.
    """
    if settings.cells not in structures:
        return None
    cells = structures[settings.cells]
    organelles = {name: item for name, item in structures.items() if name != settings.cells}
    _add_contents(cells, organelles, settings)
    level = level_in_budget(cells, settings, CELL_ARRAYS)
    cell_arrays = _arrays_of_cells(stage, structures, level, settings)
    for name, organelle in _free_organelles(structures, settings).items():
        _add_distances(cell_arrays, name, organelle, cells, level)
    shape = (-1, len(PROTRUSION_COLUMNS))
    protrusions = [arrays["protrusions"].reshape(shape) for arrays in cell_arrays]
    unassigned = unassigned_cells(stage.sample, settings.cells)
    _add_cell_columns(cells, protrusions, level, unassigned)
    return protrusion_table(cells.ids, protrusions)


def _add_cell_columns(
    cells: MeasuredStructure, protrusions: list[Floats], level: int, unassigned: NDArray[Any]
) -> None:
    """Add protrusions, level, number and annotation of every cell to the columns."""
    cells.columns |= protrusion_columns(protrusions)
    cells.columns["distance_level"] = np.full(cells.count, level)
    cells.columns["cell"] = cells.columns.pop("object")
    cells.columns["annotated"] = ~np.isin(cells.ids, unassigned)


def cell_measures(links: Sequence[CellLink], _previous: None) -> Arrays:
    """Measure several cells, see ``measures_of_cell``.

    Returns:
        The arrays of every cell, as ``NUMBER.NAME`` with its number among the cells of the link.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for number, link in enumerate(links):
        of_cell = measures_of_cell(link)
        arrays |= {f"{number}.{name}": array for name, array in of_cell.items()}
    return arrays


def measures_of_cell(link: CellLink) -> Arrays:
    """Measure the distances of a cell's organelles to its nuclei and membrane, and its protrusions.

    Returns:
        ``STRUCTURE.nucleus`` and ``STRUCTURE.membrane``, (n,), µm; and ``protrusions``, (m, 10),
        see ``PROTRUSION_COLUMNS``.
    """
    low, high = link.moments.low[0], link.moments.high[0]
    crop = crop_around(link.cells, link.level, low, high, margin=1)
    edges = link.cells.voxel_size_of(link.level).micrometers
    cell = crop.read(link.cells) == link.moments.ids[0]
    surfaces = {
        "nucleus": _distances_to_nuclei(link, crop, cell),
        "membrane": distances_inside(cell, edges),
    }
    arrays: dict[str, NDArray[Any]] = {}
    for name, (volume, moments) in link.organelles.items():
        index = renumber(moments.ids, crop.read(volume))
        centroids = positions_in_crop(moments.centroids, volume, crop)
        for target, distances in surfaces.items():
            arrays[f"{name}.{target}"] = _organelle_distances(index, distances, centroids)
    arrays["protrusions"] = _protrusion_rows(cell, edges, link.protrusion_um)
    return arrays


def _protrusion_rows(cell: NDArray[np.bool_], edges: Edges, width: float) -> Floats:
    """Return the protrusions of a cell, (m, 10), see ``PROTRUSION_COLUMNS``."""
    rows = [np.empty((0, len(PROTRUSION_COLUMNS)))]
    for item in find_protrusions(cell, edges, width):
        numbers = [item.length, item.volume, item.attached, *skeleton_numbers(item.skeleton)]
        rows.append(np.array(numbers, float)[None])
    return np.concatenate(rows)


def _distances_to_nuclei(link: CellLink, crop: Crop, cell: NDArray[np.bool_]) -> Field | None:
    """Return the distance of every voxel to the nuclei of the cell; None if it has no nucleus."""
    if link.nuclei is None:
        return None
    nucleus = cell & (crop.read(link.nuclei) > 0)
    if not nucleus.any():
        return None
    return distances_inside(~nucleus, link.cells.voxel_size_of(link.level).micrometers)


def _organelle_distances(
    index: NDArray[np.uint32], distances: Field | None, centroids: Floats
) -> Floats:
    """Return the smallest distance over each object, (n,), NaN where no surface exists.

    An object that is too small for the level of the crop has the distance of its centroid.

    Args:
        index: objects 1 to n, (z, y, x).
        distances: distance of every voxel, (z, y, x); None if there is nothing to be distant from.
        centroids: centroids of the objects in voxels of the crop, (n, 3).
    """
    count = len(centroids)
    if distances is None:
        return np.full(count, np.nan)
    minimum = minimum_distances(index, count, distances)
    is_missing = ~np.isfinite(minimum)
    minimum[is_missing] = sample_distances(distances, centroids[is_missing])
    return np.where(np.isfinite(minimum), minimum, np.nan)


def _free_organelles(
    structures: Structures, settings: MeasureSettings
) -> dict[str, MeasuredStructure]:
    """Return the structures whose distance to nucleus and membrane is measured."""
    excluded = (settings.cells, settings.nucleus, settings.nucleolus)
    return {name: item for name, item in structures.items() if name not in excluded}


def _add_contents(
    cells: MeasuredStructure, organelles: Structures, settings: MeasureSettings
) -> None:
    """Add the cell of every organelle, and the organelles of every cell, to the columns."""
    cell_volumes = cells.columns["volume_um3"]
    voxel_um3 = cells.volume.voxel_size.volume_um3
    for name, organelle in organelles.items():
        overlaps = organelle.overlaps[settings.cells]
        unmeasured_cells = np.setdiff1d(overlaps.second, cells.ids)
        owners, fractions = main_containers(
            overlaps, organelle.ids, organelle.moments.voxels, unmeasured_cells
        )
        organelle.columns |= {"cell": owners, "fraction_in_cell": fractions}
        cells.columns |= organelle_columns(
            name, owners, overlaps, cells.ids, cell_volumes, voxel_um3
        )
    if settings.nucleus in organelles:
        nucleus_volumes = cells.columns[f"{settings.nucleus}_volume_um3"]
        cells.columns["cytoplasm_volume_um3"] = cell_volumes - nucleus_volumes


def _arrays_of_cells(
    stage: Stage, structures: Structures, level: int, settings: MeasureSettings
) -> list[Arrays]:
    """Measure distances and protrusions; return the arrays of every cell, (cells,)."""
    cells = structures[settings.cells]
    inputs = _inputs_of_cells(structures, level, settings)
    batches = batches_of_objects(cells.volume, level, cells.moments.low, cells.moments.high)
    links = {f"cells.{k}": [inputs[cell] for cell in batch] for k, batch in enumerate(batches)}
    results = run_links(stage, "cells", cell_measures, links)
    cell_arrays: list[dict[str, NDArray[Any]]] = [{} for _ in cells.ids]
    for k, batch in enumerate(batches):
        for key, array in results.arrays(f"cells.{k}").items():
            number, _, name = key.partition(".")
            cell_arrays[batch[int(number)]][name] = array
    return list(cell_arrays)


def _inputs_of_cells(
    structures: Structures, level: int, settings: MeasureSettings
) -> list[CellLink]:
    """Return what the measurement of every cell needs."""
    cells = structures[settings.cells]
    nuclei = structures[settings.nucleus].volume if settings.nucleus in structures else None
    free_organelles = _free_organelles(structures, settings)
    contents = {
        name: contents_of(cells.ids, organelle.columns["cell"])
        for name, organelle in free_organelles.items()
    }
    inputs = []
    for k in range(cells.count):
        organelles = {
            name: (organelle.volume, organelle.moments.select(contents[name][k]))
            for name, organelle in free_organelles.items()
        }
        moments = cells.moments.select(np.array([k]))
        width = settings.protrusion_nm / 1000
        inputs.append(CellLink(cells.volume, level, moments, nuclei, organelles, width))
    return inputs


def _add_distances(
    cell_arrays: Sequence[Arrays],
    name: str,
    organelle: MeasuredStructure,
    cells: MeasuredStructure,
    level: int,
) -> None:
    """Add the distances of a structure's objects, and their medians per cell, to the columns.

    Args:
        cell_arrays: arrays that the link of each cell returned, (cells,).
        name: name of the structure.
        organelle: objects of the structure.
        cells: the cells.
        level: level of the pyramid at which distances were measured.
    """
    owners = organelle.columns["cell"]
    distances = _distances_of_objects(cell_arrays, name, owners, cells.ids)
    organelle.columns |= distances
    organelle.columns["distance_level"] = np.full(organelle.count, level)
    organelle.columns["cell_cut_by_edge"] = _is_owner_cut(cells, owners)
    cells.columns |= distance_columns(name, owners, distances, cells.ids)


def _distances_of_objects(
    cell_arrays: Sequence[Arrays], name: str, owners: NDArray[Any], cells: NDArray[np.uint32]
) -> dict[str, Floats]:
    """Return column -> distance of every object (n,), from those of the objects in each cell."""
    distances = {f"distance_to_{target}_um": np.full(len(owners), np.nan) for target in TARGETS}
    for in_cell, arrays in zip(contents_of(cells, owners), cell_arrays, strict=True):
        for target in TARGETS:
            distances[f"distance_to_{target}_um"][in_cell] = arrays[f"{name}.{target}"]
    return distances


def _is_owner_cut(cells: MeasuredStructure, owners: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True for objects (n,) whose cell is cut by the border; False without a cell."""
    is_cut = np.concatenate([[False], cells.columns["cut_by_edge"]])
    return is_cut[positions_in(cells.ids, owners)]
