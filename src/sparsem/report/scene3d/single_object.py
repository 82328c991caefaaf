"""One object of a sample with the objects inside and around it, from ``measure``'s tables."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError, SampleError
from sparsem.labels.object_index import object_index
from sparsem.labels.results import is_outdated, result_labels
from sparsem.report.layers import StructureLayer, require_numbers
from sparsem.report.scene3d.solids import Box
from sparsem.store.sample import Sample

MARGIN = 0.05  # around an object, as a fraction of its box


class SingleObject(NamedTuple):
    """One object of a table.

    Attributes:
        structure: name of the table; empty for an object of the only structure.
        number: of the object.
    """

    structure: str
    number: int


def parse_object(text: str) -> SingleObject:
    """Return the object that ``NAME=NUMBER`` names, or ``NUMBER``, of a structure without a name.

    Raises:
        InputError: the text has another form.
    """
    name, _, number = text.rpartition("=")
    if not number.isdigit():
        raise InputError(
            "--object expects a number, or NAME=NUMBER, for example nucleus=3, for the object with "
            f"those inside and around it; got '{text}'."
        )
    return SingleObject(name, int(number))


def select_object_alone(
    sample: Sample, layers: Sequence[StructureLayer], number: int
) -> tuple[StructureLayer, Box]:
    """Return the layer of one object without any others, and the box around it.

    Args:
        sample: the sample.
        layers: the layer of the structure, and no other.
        number: of the object.

    Raises:
        InputError: there are several layers, or no such object.
        SampleError: the objects have no numbers.
    """
    if len(layers) != 1:
        names = ", ".join(layer.name for layer in layers)
        raise InputError(
            f"--object {number} draws one object of one structure, but there are {names}; add "
            f"--structure NAME, or use --object NAME={number}."
        )
    layer = layers[0]
    labels = require_numbers(sample, layer)
    box = object_index(sample, labels.directory.name, quiet=True).box_of([number])
    first = np.array([side.start for side in box])
    last = np.array([side.stop - 1 for side in box])
    return replace(layer, only=(number,)), _with_margin(first, last, labels.shape)


def box_around_object(sample: Sample, single: SingleObject) -> Box:
    """Return the box around an object, with a margin.

    Raises:
        InputError: the table has no such object.
        SampleError: the structure has changed since it was measured.
    """
    row = _row_of_object(sample, single)
    shape = result_labels(sample, single.structure).shape
    first = np.array([row[f"first_{axis}"] for axis in "zyx"])
    last = np.array([row[f"last_{axis}"] for axis in "zyx"])
    return _with_margin(first, last, shape)


def _with_margin(first: NDArray[np.int64], last: NDArray[np.int64], shape: tuple[int, ...]) -> Box:
    """Return the box around the voxels from the first to the last one, and some more."""
    margin = np.ceil(MARGIN * (last - first) + 2).astype(np.int64)
    return np.maximum(first - margin, 0), np.minimum(last + 1 + margin, shape)


def select_object_layers(
    sample: Sample, layers: Sequence[StructureLayer], single: SingleObject, cells: str
) -> list[StructureLayer]:
    """Return the layers of an object, of the objects inside it, and of those around it.

    Args:
        sample: with the tables of ``measure``.
        layers: all layers.
        single: the object.
        cells: name of the cells.

    Raises:
        InputError: the table has no such object.
        SampleError: the structure has changed since it was measured.
    """
    row = _row_of_object(sample, single)
    around = {cells: int(row.get("cell") or 0), "nucleus": int(row.get("nucleus") or 0)}
    # Column of other tables that holds the number of the object around each of their objects.
    column = {cells: "cell", "nucleus": "nucleus"}.get(single.structure)
    selected = []
    for layer in layers:
        if layer.name == single.structure:
            numbers = [single.number]
        elif around.get(layer.name, 0):
            numbers = [around[layer.name]]
        else:
            numbers = _numbers_inside(sample, layer.name, column, single.number)
        if numbers:
            selected.append(replace(layer, only=tuple(numbers)))
    return selected


def _numbers_inside(sample: Sample, name: str, column: str | None, number: int) -> list[int]:
    """Return the objects of a table that ``column`` assigns to an object around them."""
    if column is None or name not in sample.tables:
        return []
    table = sample.read_table(name)
    if column not in table.column_names:
        return []
    is_inside = table[column].to_numpy() == number
    return list(table["object"].to_numpy()[is_inside].tolist())


def _row_of_object(sample: Sample, single: SingleObject) -> Mapping[str, Any]:
    """Return the row of an object in the table of its structure, which must not be outdated."""
    table = sample.read_table(single.structure)
    id_column = "object" if "object" in table.column_names else "cell"
    ids = table[id_column].to_pylist()
    if single.number not in ids:
        raise InputError(
            f"tables/{single.structure} of {sample.path.name} has no object {single.number}; it "
            f"has {len(ids)}, see tables/{single.structure}.csv."
        )
    if is_outdated(sample, single.structure, "measure"):
        raise SampleError(
            f"{single.structure} has changed since it was measured; run 'sparsem measure "
            f"{sample.path.name} --overwrite' first."
        )
    return dict(table.slice(ids.index(single.number), 1).to_pylist()[0])
