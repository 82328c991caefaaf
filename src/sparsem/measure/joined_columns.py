"""The table of a structure with the numbers that other stages measured of the same objects."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.labels.objects import numbered_objects
from sparsem.labels.results import is_outdated, result_names
from sparsem.measure.features.skeleton import SKELETON_COLUMNS
from sparsem.measure.statistics import statistics_table
from sparsem.store.sample import Sample

Floats = NDArray[np.float64]

SIDES = ("first", "second")  # of a pair: columns of the table, and inputs of the stage
# Columns of contacts with a structure, whose name comes first.
N_CONTACTS, CONTACT_FRACTION = "_contacts", "_contact_fraction"


def join_columns(sample: Sample, name: str, table: pa.Table) -> pa.Table:
    """Return the table of a structure with the skeletons and contacts of its objects.

    Numbers of earlier objects are left out.

    Args:
        sample: sample with the tables of ``skeletons`` and ``contacts``, if they ran.
        name: name of the structure.
        table: its table, with a column ``object`` or ``cell``.
    """
    column = "object" if "object" in table.column_names else "cell"
    ids = table[column].to_numpy()
    joined = _skeleton_columns(sample, name, ids) if has_current_skeletons(sample, name) else {}
    for pair in pairs_in_contact(sample, result_names(sample)):
        if name in pair:
            joined |= _contact_columns(sample, name, pair, ids)
    for title, values in joined.items():
        table = table.append_column(title, pa.array(values, from_pandas=True))
    return table


def joined_table(sample: Sample, name: str) -> pa.Table:
    """Return ``tables/NAME`` of a structure with the skeletons and contacts of its objects.

    Without them if the objects have other numbers now than when they were measured.

    Raises:
        SampleError: the table is damaged.
    """
    try:
        table = sample.read_table(name)
    except (pa.ArrowException, OSError) as error:
        path = sample.path.name
        raise SampleError(
            f"The table {name} of {path} is damaged ({error}); run 'sparsem measure {path} "
            "--overwrite'."
        ) from error
    return table if is_outdated(sample, name, "measure") else join_columns(sample, name, table)


def renew_statistics(sample: Sample) -> None:
    """Write ``tables/statistics`` of a measured sample again, with skeletons and contacts."""
    if "measured" not in sample.tables:
        return
    names = sample.read_table("measured")["structure"].to_pylist()
    tables = {name: joined_table(sample, name) for name in names}
    sample.write_table("statistics", statistics_table(tables))


def _is_current(sample: Sample, stage: str, inputs: Mapping[str, str]) -> bool:
    """Return True if a stage measured the objects that the sample holds now.

    Args:
        sample: the sample.
        stage: name of the stage.
        inputs: name of an input of the stage -> structure.
    """
    recorded = sample.last_settings(stage)
    if not recorded:
        return False
    try:
        present = {key: numbered_objects(sample, name) for key, name in inputs.items()}
    except SampleError:
        return False
    return all(recorded.get(f"input {key}") == now.fingerprint for key, now in present.items())


def has_current_skeletons(sample: Sample, name: str) -> bool:
    """Return True if the skeletons in the sample are those of the objects that it holds now."""
    has_table = f"skeletons_{name}" in sample.tables
    return has_table and _is_current(sample, f"skeletons-{name}", {"labels": name})


def pairs_in_contact(sample: Sample, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs of structures whose contacts are those of the objects of the sample now.

    Names may contain the underscore that joins them, so that the inputs of the stage decide.
    """
    tables = sample.tables
    pairs = []
    for pair in product(names, names):
        ending = "_".join(pair)
        has_tables = f"contacts_{ending}" in tables and f"contact_fraction_{ending}" in tables
        inputs = dict(zip(SIDES, pair, strict=True))
        if has_tables and _is_current(sample, f"contacts-{ending}", inputs):
            pairs.append(pair)
    return pairs


def _skeleton_columns(sample: Sample, name: str, ids: NDArray[Any]) -> dict[str, Floats]:
    """Return the numbers (n,) of the skeletons of objects."""
    skeletons = sample.read_table(f"skeletons_{name}")
    keys = skeletons["object"].to_numpy()
    measures = {measure: skeletons[measure].to_numpy() for measure in SKELETON_COLUMNS}
    return {measure: _in_order_of(ids, keys, values) for measure, values in measures.items()}


def _contact_columns(
    sample: Sample, name: str, pair: tuple[str, str], ids: NDArray[Any]
) -> dict[str, Floats]:
    """Return number and fraction (n,) of the contacts of objects with those of a structure."""
    ending = "_".join(pair)
    partner = pair[1] if pair[0] == name else pair[0]
    surfaces = sample.read_table(f"contact_fraction_{ending}")
    surfaces = surfaces.filter(pc.equal(surfaces["structure"], name))
    pairs = sample.read_table(f"contacts_{ending}")
    in_contact = [
        pairs[side].to_numpy() for side, owner in zip(SIDES, pair, strict=True) if owner == name
    ]
    numbers, counts = np.unique(np.concatenate(in_contact), return_counts=True)
    n_contacts = _in_order_of(ids, numbers, counts)
    fractions = surfaces["contact_fraction"].to_numpy()
    return {
        f"{partner}{N_CONTACTS}": np.nan_to_num(n_contacts),
        f"{partner}{CONTACT_FRACTION}": _in_order_of(ids, surfaces["object"].to_numpy(), fractions),
    }


def _in_order_of(ids: NDArray[Any], keys: NDArray[Any], values: NDArray[Any]) -> Floats:
    """Return the values of objects (n,) in the order of ``ids``; NaN for those without one."""
    known = dict(zip(keys.tolist(), values.tolist(), strict=True))
    return np.array([known.get(number, np.nan) for number in ids.tolist()], np.float64)
