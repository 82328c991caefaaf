"""Objects on the way to their table, and the tables: tidy, one row an object, units in the names of the columns."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.labels.overlaps import Overlaps
from sparsem.measure.dictionary import OBJECT, dictionary_table
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.shape import Columns
from sparsem.measure.settings import MeasureSettings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.stage import forget


class SmallComponents(NamedTuple):
    """Parts of a mask that are too small to be measured."""

    parts: int
    voxels: int


@dataclass
class MeasuredStructure:
    """A structure's objects on the way to its table.

    Attributes:
        volume: where they are numbered.
        found: their sums.
        shared: voxels that they share with cells and with nuclei.
        columns: what is measured so far.
        spectra: pattern spectra, (n, 2 sizes), and the step between sizes in nm.
        notes: how it was measured, for the table's metadata.
    """

    volume: Volume
    found: Moments
    shared: Mapping[str, Overlaps]
    columns: Columns = field(default_factory=dict)
    spectra: tuple[NDArray[np.float64], float] | None = None
    notes: dict[str, Any] = field(default_factory=dict)


def measured_tables(sample: Sample) -> list[str]:
    """Names of all tables that the last run wrote, as the table ``measured`` lists them."""
    if "measured" not in sample.tables:
        return []
    return [str(name) for name in sample.table_notes("measured")["tables"]]


def forget_incomplete_result(sample: Sample) -> None:
    """Where a table is missing nothing counts as measured: it is done again."""
    try:
        listed = measured_tables(sample)
        whole = bool(listed) and set(listed) <= set(sample.tables)
    except (SampleError, KeyError, ValueError, OSError):
        whole = False
    if not whole:
        forget(sample, "measure")


def write_measure_tables(
    sample: Sample,
    objects: Mapping[str, MeasuredStructure],
    specks: Mapping[str, SmallComponents],
    protruding: pa.Table | None,
    settings: MeasureSettings,
    labels: Mapping[str, Volume],
) -> None:
    """Write ``tables/NAME`` and ``pattern_NAME`` of every structure, ``protrusions``, ``dictionary`` and ``measured``.

    Tables of structures that an earlier run measured, and this one does not, stay as long as their labels are there.

    Args:
        sample: to write to.
        objects: of every structure.
        specks: parts of masks that were too small.
        protruding: protrusions of cells; None if no cells were measured.
        settings: of the stage.
        labels: the labels of every structure, by whose fingerprint a table is known as outdated.
    """
    made: dict[str, pa.Table] = {}
    kept_rows, kept_tables = _kept(sample, list(objects), settings)
    columns: dict[str, None] = {}
    for name in kept_tables:
        columns |= dict.fromkeys(sample.read_table(name).column_names)
    for name, one in objects.items():
        order = sorted(
            one.columns,
            key=lambda column: list(OBJECT).index(column) if column in OBJECT else len(OBJECT),
        )
        notes = {
            "settings": settings.model_dump(mode="json"),
            "voxel_nm": list(one.volume.voxel_size),
            **one.notes,
        }
        notes["labels"] = labels[name].fingerprint
        metadata = {"sparsem": json.dumps(notes)}
        made[name] = pa.table(
            {column: _nulls(one.columns[column]) for column in order}, metadata=metadata
        )
        columns |= dict.fromkeys(order)
        if one.spectra is not None:
            made[f"pattern_{name}"] = _pattern_table(one.found.ids, *one.spectra)
    if protruding is not None:
        made["protrusions"] = protruding
    made["dictionary"] = dictionary_table(columns)
    for name in _earlier_tables(sample):
        if name not in kept_tables:
            sample.remove_table(name)
    for name, table in made.items():
        sample.write_table(name, table)
    summary = pa.Table.from_pylist([*kept_rows, *_summary(objects, specks, settings)])
    listed = {"sparsem": json.dumps({"tables": [*kept_tables, *made, "measured"]})}
    sample.write_table("measured", summary.replace_schema_metadata(listed))


def _earlier_tables(sample: Sample) -> list[str]:
    """Return the names of the tables of an earlier run; none if there was none, or its list is damaged."""
    try:
        return measured_tables(sample)
    except (SampleError, KeyError, ValueError, OSError):
        return []


def _kept(
    sample: Sample, measured: Sequence[str], settings: MeasureSettings
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the rows of ``measured``, and the names of the tables, of structures that only an earlier run measured."""
    earlier = _earlier_tables(sample)
    if not settings.structure or not earlier:  # everything was measured now
        return [], []
    rows, tables = [], []
    for row in sample.read_table("measured").to_pylist():
        name = str(row["structure"])
        if name in measured or name not in sample.names("labels") or name not in earlier:
            continue
        rows.append(row)
        tables += [table for table in (name, f"pattern_{name}") if table in earlier]
        if name == settings.cells and "protrusions" in earlier:
            tables.append("protrusions")
    return rows, tables


def _pattern_table(ids: NDArray[np.uint32], spectra: NDArray[np.float64], step: float) -> pa.Table:
    """One row an object and size; closings have negative sizes."""
    sizes = np.arange(spectra.shape[1]) - spectra.shape[1] // 2
    columns = {
        "object": np.repeat(ids, len(sizes)),
        "size": np.tile(sizes, len(ids)),
        "size_nm": np.tile(sizes * step, len(ids)),
    }
    return pa.table({**columns, "part": _nulls(spectra.ravel())})


def _summary(
    objects: Mapping[str, MeasuredStructure],
    specks: Mapping[str, SmallComponents],
    settings: MeasureSettings,
) -> list[dict[str, Any]]:
    """Return one row a structure."""
    rows = []
    for name, one in objects.items():
        what, unit, step, extent = _extent(one.volume)
        total = float(one.columns[f"{what}_{unit}"].sum())
        outside = (
            int((one.columns["cell"] == 0).sum())
            if "cell" in one.columns and name != settings.cells
            else None
        )
        rows.append(
            {
                "structure": name,
                "objects": len(one.found.ids),
                "cut_by_edge": int(one.columns["cut_by_edge"].sum()),
                "in_no_cell": outside,
                f"{what}_{unit}": total,
                f"{what}_fraction": total / extent,
                "specks": specks[name].parts,
                f"specks_{what}_{unit}": specks[name].voxels * step,
                "texture_level": one.notes.get("texture", {}).get("level"),
            }
        )
    return rows


def _extent(volume: Volume) -> tuple[str, str, float, float]:
    """Volume or, of pictures, area: what it is, its unit, that of a voxel or pixel, and that of all there is."""
    voxel = volume.voxel_size
    if volume.sizes:
        pixel = voxel.y * voxel.x * 1e-6
        return "area", "um2", pixel, pixel * sum(math.prod(size) for size in volume.sizes)
    return (
        "volume",
        "um3",
        voxel.volume_um3,
        float(np.prod(volume.shape, dtype=np.float64)) * voxel.volume_um3,
    )


def _nulls(column: NDArray[Any]) -> Any:
    """A column in which what is not known is empty, and not a number that is none."""
    return pa.array(column, from_pandas=True) if column.dtype.kind == "f" else pa.array(column)
