"""The tables that ``measure`` writes: tidy, one row an object, units in the names of columns."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.measure.dictionary import OBJECT_COLUMNS, dictionary_table
from sparsem.measure.joined_columns import join_columns, joined_table
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.statistics import statistics_table
from sparsem.measure.structures import MeasuredStructure, SmallComponents
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.stage import forget

Row = dict[str, Any]
Tables = dict[str, pa.Table]


class Extent(NamedTuple):
    """The measure of size of a structure: volume, or area in separate images.

    Attributes:
        quantity: ``volume`` or ``area``.
        unit: unit as in the names of columns.
        per_voxel: volume of a voxel, or area of a pixel.
        total: volume of the whole stack, or area of all images.
    """

    quantity: str
    unit: str
    per_voxel: float
    total: float


def measured_tables(sample: Sample) -> list[str]:
    """Return the names of all tables of the last run, as the table ``measured`` lists them."""
    if "measured" not in sample.tables:
        return []
    return [str(name) for name in sample.table_notes("measured")["tables"]]


def forget_incomplete_result(sample: Sample) -> None:
    """Forget the result of the last run if one of its tables is missing, so that it is repeated."""
    tables = _earlier_tables(sample)
    is_complete = bool(tables) and set(tables) <= set(sample.tables)
    if not is_complete:
        forget(sample, "measure")


def write_measure_tables(
    sample: Sample,
    structures: Mapping[str, MeasuredStructure],
    small_components: Mapping[str, SmallComponents],
    protrusions: pa.Table | None,
    settings: MeasureSettings,
    labels: Mapping[str, Volume],
) -> None:
    """Write all tables of a run.

    These are ``tables/NAME`` and ``pattern_NAME`` of every structure, ``protrusions``,
    ``dictionary``, ``statistics`` and ``measured``. Tables of structures that an earlier run
    measured, and this one does not, stay as long as their labels exist.

    Args:
        sample: sample to write to.
        structures: measured structures, by name.
        small_components: components of masks that are too small, by structure.
        protrusions: table of the protrusions of cells; None if no cells are measured.
        settings: settings of the stage.
        labels: labels of every structure, whose fingerprints show later whether a table is
            outdated.
    """
    earlier_rows, earlier_tables = _results_to_keep(sample, list(structures), settings)
    tables = _structure_tables(structures, settings, labels)
    if protrusions is not None:
        tables["protrusions"] = protrusions
    columns = _column_names(sample, earlier_tables, [tables[name] for name in structures])
    tables["dictionary"] = dictionary_table(columns)
    earlier_names = [str(row["structure"]) for row in earlier_rows]
    joined = {name: joined_table(sample, name) for name in earlier_names}
    joined |= {name: join_columns(sample, name, tables[name]) for name in structures}
    tables["statistics"] = statistics_table(joined)
    _replace_tables(sample, tables, earlier_tables)
    # ``measured`` lists all tables and is written last: until then nothing counts as measured.
    rows = _summary_rows(structures, small_components, settings)
    summary = pa.Table.from_pylist([*earlier_rows, *rows])
    notes = {"tables": [*earlier_tables, *tables, "measured"]}
    sample.write_table("measured", summary.replace_schema_metadata(_metadata(notes)))


def _replace_tables(sample: Sample, tables: Tables, tables_to_keep: Sequence[str]) -> None:
    """Write tables, after those of an earlier run that are not kept were removed."""
    for name in _earlier_tables(sample):
        if name not in tables_to_keep:
            sample.remove_table(name)
    for name, table in tables.items():
        sample.write_table(name, table)


def _earlier_tables(sample: Sample) -> list[str]:
    """Return the names of the tables of an earlier run.

    There are none if there was no run, or if its list of tables is damaged.
    """
    try:
        return measured_tables(sample)
    except (SampleError, KeyError, ValueError, OSError):
        return []


def _results_to_keep(
    sample: Sample, measured: Sequence[str], settings: MeasureSettings
) -> tuple[list[Row], list[str]]:
    """Return the results of structures that only an earlier run measured.

    Returns:
        The rows of the table ``measured``, and the names of the tables. There are none if this run
        measures all structures.
    """
    earlier_tables = _earlier_tables(sample)
    if not settings.structures or not earlier_tables:
        return [], []
    rows: list[Row] = []
    tables: list[str] = []
    for row in sample.read_table("measured").to_pylist():
        name = str(row["structure"])
        has_labels = name in sample.names("labels")
        if name in measured or not has_labels or name not in earlier_tables:
            continue
        rows.append(row)
        tables += [table for table in _tables_of(name, settings) if table in earlier_tables]
    return rows, tables


def _tables_of(name: str, settings: MeasureSettings) -> list[str]:
    """Return the tables that a structure may have."""
    tables = [name, f"pattern_{name}"]
    if name == settings.cells:
        tables.append("protrusions")
    return tables


def _column_names(
    sample: Sample, earlier_tables: Sequence[str], object_tables: Sequence[pa.Table]
) -> list[str]:
    """Return the columns of all tables, each once, in the order of their first occurrence."""
    names: dict[str, None] = {}
    for table_name in earlier_tables:
        names |= dict.fromkeys(sample.read_table(table_name).column_names)
    for table in object_tables:
        names |= dict.fromkeys(table.column_names)
    return list(names)


def _structure_tables(
    structures: Mapping[str, MeasuredStructure],
    settings: MeasureSettings,
    labels: Mapping[str, Volume],
) -> Tables:
    """Return ``NAME`` and ``pattern_NAME`` of every structure."""
    tables: Tables = {}
    for name, structure in structures.items():
        tables[name] = _object_table(structure, settings, labels[name])
        if structure.spectra is not None:
            tables[f"pattern_{name}"] = _pattern_table(structure.ids, *structure.spectra)
    return tables


def _object_table(
    structure: MeasuredStructure, settings: MeasureSettings, labels: Volume
) -> pa.Table:
    """Return the table of a structure, its columns in the order of the data dictionary."""
    order = {column: position for position, column in enumerate(OBJECT_COLUMNS)}
    names = sorted(structure.columns, key=lambda column: order.get(column, len(order)))
    notes = {
        "settings": settings.model_dump(mode="json"),
        "voxel_nm": list(structure.volume.voxel_size),
        **structure.notes,
        "labels": labels.fingerprint,
        "objects": structure.volume.fingerprint,
    }
    columns = {name: with_nulls(structure.columns[name]) for name in names}
    return pa.table(columns, metadata=_metadata(notes))


def _pattern_table(ids: NDArray[np.uint32], spectra: NDArray[np.float64], step: float) -> pa.Table:
    """Return the pattern spectra, one row an object and size; closings have negative sizes."""
    sizes = np.arange(spectra.shape[1]) - spectra.shape[1] // 2
    return pa.table(
        {
            "object": np.repeat(ids, len(sizes)),
            "size": np.tile(sizes, len(ids)),
            "size_nm": np.tile(sizes * step, len(ids)),
            "part": with_nulls(spectra.ravel()),
        }
    )


def _summary_rows(
    structures: Mapping[str, MeasuredStructure],
    small_components: Mapping[str, SmallComponents],
    settings: MeasureSettings,
) -> list[Row]:
    """Return the rows of the table ``measured``, one a structure."""
    rows = []
    for name, structure in structures.items():
        in_no_cell = None
        if "cell" in structure.columns and name != settings.cells:
            in_no_cell = int((structure.columns["cell"] == 0).sum())
        rows.append(_summary_row(name, structure, small_components[name], in_no_cell))
    return rows


def _summary_row(
    name: str, structure: MeasuredStructure, small: SmallComponents, in_no_cell: int | None
) -> Row:
    """Return the row of a structure: numbers of objects, and their size in total."""
    extent = _extent(structure.volume)
    size_column = f"{extent.quantity}_{extent.unit}"
    sizes = structure.columns[size_column]
    total = float(sizes.sum())
    crosses_gap = structure.columns.get("crosses_gap", np.zeros(structure.count, bool))
    return {
        "structure": name,
        "objects": structure.count,
        "cut_by_edge": int(structure.columns["cut_by_edge"].sum()),
        "crosses_gap": int(crosses_gap.sum()),
        "in_no_cell": in_no_cell,
        size_column: total,
        f"{size_column}_without_gaps": float(sizes[~crosses_gap].sum()),
        f"{extent.quantity}_fraction": total / extent.total,
        "small_components": small.components,
        f"small_components_{size_column}": small.voxels * extent.per_voxel,
        "texture_level": structure.notes.get("texture", {}).get("level"),
    }


def _extent(volume: Volume) -> Extent:
    """Return how the size of structures in a volume is measured."""
    voxel = volume.voxel_size
    if volume.sizes:
        pixel = voxel.y * voxel.x * 1e-6
        pixels = sum(math.prod(size) for size in volume.sizes)
        return Extent("area", "um2", pixel, pixel * pixels)
    voxels = float(np.prod(volume.shape, dtype=np.float64))
    return Extent("volume", "um3", voxel.volume_um3, voxels * voxel.volume_um3)


def _metadata(notes: Mapping[str, Any]) -> dict[str, str]:
    """Return notes as the metadata of a table."""
    return {"sparsem": json.dumps(notes)}


def with_nulls(column: NDArray[Any]) -> Any:
    """Return a column in which unknown values are empty instead of NaN."""
    if column.dtype.kind == "f":
        return pa.array(column, from_pandas=True)
    return pa.array(column)
