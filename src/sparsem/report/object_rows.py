"""Rows of the tables that belong to one object, and contacts, as the page shows them."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pyarrow as pa

from sparsem.labels.results import result_names
from sparsem.measure.joined_columns import SIDES, has_current_skeletons
from sparsem.report.layers import StructureLayer
from sparsem.report.plots.colors import N_CELL_COLORS, RGB, cell_color
from sparsem.store.sample import Sample

MAX_CONTACTS = 20  # pairs on the page, those of the largest area
CONTACT_COLUMNS = (*SIDES, "area_um2", "sites", "mean_distance_nm", "min_distance_nm")

Tables = Mapping[str, pa.Table]
Pair = tuple[str, str]


def color_cycle() -> list[RGB]:
    """Return the colors of objects; an object has that of its number modulo their count."""
    return [cell_color(number) for number in range(N_CELL_COLORS)]


def rows_of_objects(
    layers: Sequence[StructureLayer], tables: Tables, pairs: Sequence[Pair]
) -> dict[str, Any]:
    """Return where the page finds the rows of the objects of every numbered structure.

    Args:
        layers: structures on the page.
        tables: name -> table.
        pairs: structures whose contacts were measured.

    Returns:
        Structure -> ``color``, that of the structure, null for cells; and ``tables``, a list of
        ``table``, its ``columns`` that hold the number of the object, and ``only``, column ->
        value of its rows that belong to the structure.
    """
    return {
        layer.name: {
            "color": None if layer.cells else list(layer.color),
            "tables": _tables_of(layer.name, tables, pairs),
        }
        for layer in layers
        if layer.numbered
    }


def _tables_of(name: str, tables: Tables, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the tables with rows of the objects of a structure, see ``rows_of_objects``."""
    rows = []
    for table in (name, f"skeletons_{name}"):
        if table in tables:
            column = "object" if "object" in tables[table].column_names else "cell"
            rows.append({"table": table, "columns": [column], "only": {}})
    for pair in pairs:
        if name in pair:
            rows += _tables_of_contacts(name, pair)
    return rows


def _tables_of_contacts(name: str, pair: Pair) -> list[dict[str, Any]]:
    """Return the tables of contacts with rows of the objects of one structure of a pair."""
    ending = "_".join(pair)
    columns = [side for side, side_name in zip(SIDES, pair, strict=True) if side_name == name]
    only = {"structure": name}
    return [
        {"table": f"contact_fraction_{ending}", "columns": ["object"], "only": only},
        {"table": f"contacts_{ending}", "columns": columns, "only": {}},
    ]


def outdated_of_objects(sample: Sample, pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Return the stages whose tables belong to other objects than those of the sample now.

    Args:
        sample: the sample.
        pairs: structures whose contacts are up to date.

    Returns:
        The command that measures them again -> the names of their tables.
    """
    names = result_names(sample)
    present = sample.tables
    path = sample.path.name
    outdated = {}
    for name in names:
        if f"skeletons_{name}" in present and not has_current_skeletons(sample, name):
            outdated[f"skeletons {path} {name}"] = [f"skeletons_{name}", f"skeleton_lines_{name}"]
    current = {"_".join(pair) for pair in pairs}
    for first, second in product(names, repeat=2):
        ending = f"{first}_{second}"
        if f"contacts_{ending}" in present and ending not in current:
            tables = [f"contacts_{ending}", f"contact_fraction_{ending}"]
            outdated[f"contacts {path} {first} {second}"] = tables
    return outdated


def contact_summaries(tables: Tables, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Return the contacts of every pair of structures: sums, and the pairs of the largest area.

    Args:
        tables: name -> table.
        pairs: structures whose contacts were measured.

    Returns:
        Dictionaries with ``first``, ``second``, ``pairs``, ``sites``, ``area_um2``, and ``rows``,
        at most ``MAX_CONTACTS`` of ``CONTACT_COLUMNS``.
    """
    summaries = []
    for first, second in pairs:
        table = tables[f"contacts_{first}_{second}"]
        largest = table.sort_by([("area_um2", "descending")]).slice(0, MAX_CONTACTS)
        summary = {
            "first": first,
            "second": second,
            "pairs": table.num_rows,
            "sites": int(table["sites"].to_numpy().sum()),
            "area_um2": float(table["area_um2"].to_numpy().sum()),
            "rows": largest.select(CONTACT_COLUMNS).to_pylist(),
        }
        summaries.append(summary)
    return summaries
