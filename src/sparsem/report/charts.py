"""All plots of a page, from the tables of its samples."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.measure.dictionary import feature_columns
from sparsem.measure.statistics import Quartiles, cut_columns, statistics_of
from sparsem.report.notices import Notice
from sparsem.report.plots.curves import pattern_spectra
from sparsem.report.plots.strip_plots import Strip, strip_plots
from sparsem.report.sample_charts import (
    concatenate_tables,
    measured_structures,
    organelle_plots,
    sample_plots,
)
from sparsem.report.view import Plot, SampleView

STRIP_CAPTION = (
    "Each mark is one object. Thick line: median; thin lines: quartiles. Hollow marks are objects "
    "that the border of the volume cuts; median and quartiles leave them out, unless there are no "
    "other objects. Table: median (quartiles) and number of values, of all objects and of those "
    "that are not cut; per cell, each cell is one value, the median of its objects. Objects of one "
    "cell are not independent: the n of a test is the number of cells or samples."
)
SPECTRUM_CAPTION = (
    "Fraction of the brightness that lies in structures of each size. Line: median of all objects; "
    "band: quartiles."
)


def report_plots(views: Sequence[SampleView], cells: str) -> Iterator[Plot]:
    """Yield all plots of a page, and add notices about textures that cannot be compared.

    Args:
        views: the samples of the page.
        cells: name of the cells.
    """
    names = list(dict.fromkeys(name for view in views for name in view.structures))
    _warn_of_different_texture_voxels(views, names)
    for view in views:
        yield from sample_plots(view, names)
    for view in views:
        yield from organelle_plots(view, cells)
    for name in names:
        yield from _feature_plots(views, name)
        yield from _spectrum_plots(views, name)


def _feature_plots(views: Sequence[SampleView], name: str) -> Iterator[Plot]:
    """Yield the strip plots of every feature of a structure, samples next to each other."""
    tables = {}
    for view in views:
        if name in measured_structures(view) and view.tables[name].num_rows:
            tables[view.name] = view.tables[name]
    all_columns = [column for table in tables.values() for column in table.column_names]
    columns = feature_columns(dict.fromkeys(all_columns))
    if columns:
        svg = strip_plots([_strip(sample, table) for sample, table in tables.items()], columns)
        data = concatenate_tables(tables, "sample")
        rows = _statistics_rows(tables, name)
        yield Plot(f"{name}: every feature", STRIP_CAPTION, svg, f"{name}.csv", data, rows)


def _strip(sample: str, table: pa.Table) -> Strip:
    values: dict[str, NDArray[np.float64]] = {}
    for column in table.column_names:
        if not pa.types.is_string(table[column].type):
            values[column] = table[column].to_numpy().astype(np.float64)
    return Strip(sample, values, cut_columns(table))


def _statistics_rows(tables: Mapping[str, pa.Table], name: str) -> list[dict[str, str]]:
    """Return the statistics of every measure as text: one row a measure, columns of samples."""
    rows: dict[str, dict[str, str]] = {}
    for sample, table in tables.items():
        for item in statistics_of(name, table):
            row = rows.setdefault(item.measure, {"measure": item.measure})
            row[f"{sample}: per {item.per}, {item.objects}"] = _quartiles_text(item)
    titles = dict.fromkeys(title for row in rows.values() for title in row)
    return [{title: row.get(title, "") for title in titles} for row in rows.values()]


def _quartiles_text(item: Quartiles) -> str:
    """Return median, quartiles and number of values."""
    if item.median is None:
        return "n = 0"
    return (
        f"{item.median:.3g} ({item.lower_quartile:.3g} to {item.upper_quartile:.3g}), n = {item.n}"
    )


def _spectrum_plots(views: Sequence[SampleView], name: str) -> Iterator[Plot]:
    """Yield the plot of the pattern spectra of a structure, one curve per sample."""
    table_name = f"pattern_{name}"
    tables = {}
    for view in views:
        if table_name in view.tables and name in measured_structures(view):
            tables[view.name] = view.tables[table_name]
    if tables:
        svg = pattern_spectra({sample: _spectra(table) for sample, table in tables.items()})
        data = concatenate_tables(tables, "sample")
        yield Plot(f"{name}: pattern spectrum", SPECTRUM_CAPTION, svg, f"{table_name}.csv", data)


def _spectra(table: pa.Table) -> tuple[Any, Any]:
    """Return sizes in nm (k,) and fractions of the brightness (n objects, k)."""
    sizes = np.unique(table["size_nm"].to_numpy())
    fractions = table["part"].to_numpy().astype(np.float64)
    return sizes, fractions.reshape(-1, len(sizes))


def _warn_of_different_texture_voxels(views: Sequence[SampleView], names: Sequence[str]) -> None:
    """Add a warning to every sample if textures were measured with voxels of different sizes."""
    for name in names:
        sizes = _texture_voxel_sizes(views, name)
        if len(set(sizes.values())) <= 1:
            continue
        listed = ", ".join(f"{sample} {size:g} nm" for sample, size in sizes.items())
        text = (
            f"Texture of {name} cannot be compared: its voxels differ ({listed}); set --texture-nm."
        )
        for view in views:
            view.notices.insert(0, Notice(text, True))


def _texture_voxel_sizes(views: Sequence[SampleView], name: str) -> Mapping[str, float]:
    """Return sample -> edge in nm of the voxels with which its texture was measured."""
    sizes = {}
    for view in views:
        table = view.tables.get(name)
        if table is not None and "texture_voxel_nm" in table.column_names and table.num_rows:
            sizes[view.name] = table["texture_voxel_nm"][0].as_py()
    return sizes
