"""Rows of the tables that belong to one object, and contacts, as the page shows them."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import pyarrow as pa

from sparsem.report.layers import StructureLayer
from sparsem.report.plots.colors import N_CELL_COLORS, RGB, cell_color
from sparsem.store.sample import Sample

MAX_CONTACTS = 20  # pairs on the page, those of the largest area
SIDES = ("first", "second")
CONTACT_COLUMNS = (*SIDES, "area_um2", "sites", "mean_distance_nm", "min_distance_nm")

Tables = Mapping[str, pa.Table]


def color_cycle() -> list[RGB]:
    """Return the colors of objects; an object has that of its number modulo their count."""
    return [cell_color(number) for number in range(N_CELL_COLORS)]


def rows_of_objects(layers: Sequence[StructureLayer], tables: Tables) -> dict[str, Any]:
    """Return where the page finds the rows of the objects of every numbered structure.

    Args:
        layers: structures on the page.
        tables: name -> table.

    Returns:
        Structure -> ``color``, that of the structure, null for cells; and ``tables``, a list of
        ``table``, its ``columns`` that hold the number of the object, and ``only``, column ->
        value of its rows that belong to the structure.
    """
    numbered = [layer for layer in layers if layer.numbered]
    names = [layer.name for layer in numbered]
    return {
        layer.name: {
            "color": None if layer.cells else list(layer.color),
            "tables": _tables_of(layer.name, names, tables),
        }
        for layer in numbered
    }


def _tables_of(name: str, names: Sequence[str], tables: Tables) -> list[dict[str, Any]]:
    """Return the tables with rows of the objects of a structure, see ``rows_of_objects``."""
    rows = []
    for table in (name, f"skeletons_{name}"):
        if table in tables:
            column = "object" if "object" in tables[table].column_names else "cell"
            rows.append({"table": table, "columns": [column], "only": {}})
    for pair in _pairs_in_contact(names, tables):
        if name in pair:
            rows += _tables_of_contacts(name, pair)
    return rows


def _tables_of_contacts(name: str, pair: tuple[str, str]) -> list[dict[str, Any]]:
    """Return the tables of contacts with rows of the objects of one structure of a pair."""
    ending = "_".join(pair)
    columns = [side for side, side_name in zip(SIDES, pair, strict=True) if side_name == name]
    only = {"structure": name}
    return [
        {"table": f"contact_fraction_{ending}", "columns": ["object"], "only": only},
        {"table": f"contacts_{ending}", "columns": columns, "only": {}},
    ]


def _pairs_in_contact(names: Sequence[str], tables: Tables) -> list[tuple[str, str]]:
    """Return the pairs of structures whose contacts were measured."""
    pairs = product(names, repeat=2)
    return [(first, second) for first, second in pairs if f"contacts_{first}_{second}" in tables]


def outdated_of_objects(sample: Sample, layers: Sequence[StructureLayer]) -> dict[str, list[str]]:
    """Return the stages whose tables belong to earlier objects than those of the layers.

    Returns:
        The command that measures them again -> the names of their tables.
    """
    present = {layer.name: layer.labels.fingerprint for layer in layers if layer.labels}
    path = sample.path.name
    outdated = {}
    for name, fingerprint in present.items():
        if _differs(sample, f"skeletons-{name}", {"labels": fingerprint}):
            outdated[f"skeletons {path} {name}"] = [f"skeletons_{name}", f"skeleton_lines_{name}"]
    for first, second in product(present, repeat=2):
        inputs = {"first": present[first], "second": present[second]}
        pair = f"{first}_{second}"
        if _differs(sample, f"contacts-{pair}", inputs):
            tables = [f"contacts_{pair}", f"contact_fraction_{pair}"]
            outdated[f"contacts {path} {first} {second}"] = tables
    return outdated


def _differs(sample: Sample, stage: str, present: Mapping[str, str]) -> bool:
    """Return True if a stage ran, and on other inputs than the present ones."""
    recorded = sample.last_settings(stage)
    read = {name: recorded.get(f"input {name}") for name in present}
    return any(read.values()) and read != present


def contact_summaries(layers: Sequence[StructureLayer], tables: Tables) -> list[dict[str, Any]]:
    """Return the contacts of every pair of structures: sums, and the pairs of the largest area.

    Args:
        layers: structures on the page.
        tables: name -> table.

    Returns:
        Dictionaries with ``first``, ``second``, ``pairs``, ``sites``, ``area_um2``, and ``rows``,
        at most ``MAX_CONTACTS`` of ``CONTACT_COLUMNS``.
    """
    names = [layer.name for layer in layers if layer.numbered]
    summaries = []
    for first, second in _pairs_in_contact(names, tables):
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
