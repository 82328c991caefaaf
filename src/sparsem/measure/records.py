"""Objects on the way to their table, and the tables: tidy, one row an object, units in the names of the columns."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.measure.dictionary import OBJECT, dictionary_table
from sparsem.measure.moments import Moments
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.shape import Columns
from sparsem.regions import Overlaps
from sparsem.stage import forget
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


class Specks(NamedTuple):
    """Parts of a mask that are too small to be measured."""

    parts: int
    voxels: int


@dataclass
class Objects:
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


def tables_of(sample: Sample) -> list[str]:
    """Names of all tables that the last run wrote, as the table ``measured`` lists them."""
    kept = sample.read_table("measured").schema.metadata or {}
    return [str(name) for name in json.loads(kept[b"sparsem"])["tables"]]


def forget_unless_whole(sample: Sample) -> None:
    """Where a table is missing nothing counts as measured: it is done again."""
    try:
        whole = set(tables_of(sample)) <= set(sample.tables)
    except (SampleError, KeyError, ValueError, OSError):
        whole = False
    if not whole:
        forget(sample, "measure")


def write_tables(
    sample: Sample, objects: Mapping[str, Objects], specks: Mapping[str, Specks], protruding: pa.Table | None, settings: MeasureSettings
) -> None:
    """Write ``tables/NAME`` and ``pattern_NAME`` of every structure, ``protrusions``, ``dictionary`` and ``measured``."""
    made: dict[str, pa.Table] = {}
    columns: dict[str, None] = {}
    for name, one in objects.items():
        order = sorted(one.columns, key=lambda column: list(OBJECT).index(column) if column in OBJECT else len(OBJECT))
        notes = {"settings": settings.model_dump(mode="json"), "voxel_nm": list(one.volume.voxel_size), **one.notes}
        metadata = {"sparsem": json.dumps(notes)}
        made[name] = pa.table({column: _nulls(one.columns[column]) for column in order}, metadata=metadata)
        columns |= dict.fromkeys(order)
        if one.spectra is not None:
            made[f"pattern_{name}"] = _pattern_table(one.found.ids, *one.spectra)
    if protruding is not None:
        made["protrusions"] = protruding
    made["dictionary"] = dictionary_table(columns)
    _remove_earlier(sample)
    for name, table in made.items():
        sample.write_table(name, table)
    summary = _summary(objects, specks, settings)
    listed = {"sparsem": json.dumps({"tables": [*made, "measured"]})}
    sample.write_table("measured", summary.replace_schema_metadata(listed))


def _remove_earlier(sample: Sample) -> None:
    """Tables of an earlier run: what this run does not measure must not stay beside what it does."""
    try:
        names = tables_of(sample)
    except (SampleError, KeyError, ValueError, OSError):
        return
    for name in names:
        sample.remove_table(name)


def _pattern_table(ids: NDArray[np.uint32], spectra: NDArray[np.float64], step: float) -> pa.Table:
    """One row an object and size; closings have negative sizes."""
    sizes = np.arange(spectra.shape[1]) - spectra.shape[1] // 2
    columns = {"object": np.repeat(ids, len(sizes)), "size": np.tile(sizes, len(ids)), "size_nm": np.tile(sizes * step, len(ids))}
    return pa.table({**columns, "part": _nulls(spectra.ravel())})


def _summary(objects: Mapping[str, Objects], specks: Mapping[str, Specks], settings: MeasureSettings) -> pa.Table:
    """One row a structure."""
    rows = []
    for name, one in objects.items():
        what, unit, step, extent = _extent(one.volume)
        total = float(one.columns[f"{what}_{unit}"].sum())
        outside = int((one.columns["cell"] == 0).sum()) if "cell" in one.columns and name != settings.cells else None
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
    return pa.Table.from_pylist(rows)


def _extent(volume: Volume) -> tuple[str, str, float, float]:
    """Volume or, of pictures, area: what it is, its unit, that of a voxel or pixel, and that of all there is."""
    voxel = volume.voxel_size
    if volume.sizes:
        pixel = voxel.y * voxel.x * 1e-6
        return "area", "um2", pixel, pixel * sum(math.prod(size) for size in volume.sizes)
    return "volume", "um3", voxel.volume_um3, float(np.prod(volume.shape, dtype=np.float64)) * voxel.volume_um3


def _nulls(column: NDArray[Any]) -> Any:
    """A column in which what is not known is empty, and not a number that is none."""
    return pa.array(column, from_pandas=True) if column.dtype.kind == "f" else pa.array(column)
