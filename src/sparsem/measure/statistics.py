"""Statistics for a paper: quartiles and numbers of every measure, per object and per cell.

Objects of one cell are not independent of each other, so a test that takes every object as a
measurement finds differences that are not there (Lazic 2010). Rows per cell have one value for each
cell, the median of its objects.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.measure.dictionary import describe_column, feature_columns

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

SCHEMA = pa.schema(
    [
        ("structure", pa.string()),
        ("measure", pa.string()),
        ("unit", pa.string()),
        ("per", pa.string()),
        ("objects", pa.string()),
        ("n", pa.int64()),
        ("lower_quartile", pa.float64()),
        ("median", pa.float64()),
        ("upper_quartile", pa.float64()),
    ]
)


class Quartiles(NamedTuple):
    """The statistics of a measure.

    Attributes:
        structure: name of the structure.
        measure: the column of its table.
        unit: unit of the numbers.
        per: ``object`` or ``cell``: whose number one value is.
        objects: ``all``, or ``not cut``: only those whose number the border does not falsify.
        n: number of values.
        lower_quartile: value below which a quarter of the values lie; None without values.
        median: middle value.
        upper_quartile: value above which a quarter of the values lie.
    """

    structure: str
    measure: str
    unit: str
    per: str
    objects: str
    n: int
    lower_quartile: float | None
    median: float | None
    upper_quartile: float | None


def statistics_table(tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return the statistics of all measures of structures, from name -> table of its objects."""
    rows = [row for name, table in tables.items() for row in statistics_of(name, table)]
    return pa.Table.from_pylist([row._asdict() for row in rows], SCHEMA)


def statistics_of(name: str, table: pa.Table) -> Iterator[Quartiles]:
    """Yield the statistics of every measure of a structure, from the table of its objects."""
    cut = cut_columns(table)
    cells = table["cell"].to_numpy() if "cell" in table.column_names else None
    is_organelle = "object" in table.column_names
    for column in feature_columns(table.column_names):
        values = table[column].to_numpy().astype(np.float64)
        is_cut = cut_objects(cut, column, len(values))
        for objects, is_counted in (("all", np.ones_like(is_cut)), ("not cut", ~is_cut)):
            per = "object" if is_organelle else "cell"
            yield _quartiles(name, column, per, objects, values[is_counted])
            if is_organelle and cells is not None:
                medians = medians_of_cells(values[is_counted], cells[is_counted])
                yield _quartiles(name, column, "cell", objects, medians)


def cut_columns(table: pa.Table) -> dict[str, Mask]:
    """Return the columns of a table that flag the numbers that the border falsifies, (n,) each."""
    names = [name for name in table.column_names if name.endswith("cut_by_edge")]
    return {name: table[name].to_numpy().astype(bool) for name in names}


def cut_objects(cut: Mapping[str, Mask], column: str, count: int) -> Mask:
    """Return the objects (n,) whose number in a column the border of the volume falsifies."""
    entry = describe_column(column)
    is_cut = np.zeros(count, bool)
    for cut_column in {"cut_by_edge", entry.cut_by if entry else ""} & cut.keys():
        is_cut |= cut[cut_column]
    return is_cut


def medians_of_cells(values: Floats, cells: NDArray[Any]) -> Floats:
    """Return the median of the known values of every cell; objects in no cell are left out."""
    is_counted = np.isfinite(values) & (cells > 0)
    known, owners = values[is_counted], cells[is_counted]
    order = np.argsort(owners, kind="stable")
    starts = np.unique(owners[order], return_index=True)[1]
    if not len(starts):
        return np.empty(0)
    return np.array([np.median(of_cell) for of_cell in np.split(known[order], starts[1:])])


def _quartiles(name: str, column: str, per: str, objects: str, values: Floats) -> Quartiles:
    """Return the statistics of the known values."""
    entry = describe_column(column)
    known = values[np.isfinite(values)]
    low, middle, high = (
        np.quantile(known, (0.25, 0.5, 0.75)).tolist() if len(known) else (None, None, None)
    )
    unit = entry.unit if entry else ""
    return Quartiles(name, column, unit, per, objects, len(known), low, middle, high)
