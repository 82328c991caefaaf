"""Statistics of measures: quartiles with and without cut objects, per object and per cell."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sparsem.errors import SampleError
from sparsem.labels.objects import objects
from sparsem.measure.contacts import contacts
from sparsem.measure.measure import measure
from sparsem.measure.skeletons import skeletons
from sparsem.measure.statistics import medians_of_cells, statistics_table
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.test_measure import tissue_of

VOLUMES = [1.0, 2.0, 3.0, 4.0, 100.0, None]
ORGANELLES = pa.table(
    {
        "object": [1, 2, 3, 4, 5, 6],
        "cell": [7, 7, 7, 9, 9, 0],
        "volume_um3": VOLUMES,
        "distance_to_nucleus_um": [1.0, 1.0, 2.0, 5.0, 6.0, 7.0],
        "cut_by_edge": [False, False, False, False, True, False],
        "cell_cut_by_edge": [True, True, True, False, False, False],
        "first_z": [0, 0, 0, 0, 0, 0],
    }
)


def row_of(table: pa.Table, **keys: str) -> dict[str, object]:
    rows = [row for row in table.to_pylist() if all(row[key] == keys[key] for key in keys)]
    assert len(rows) == 1
    return dict(rows[0])


def test_quartiles_with_and_without_cut_objects() -> None:
    table = statistics_table({"mitochondrion": ORGANELLES})
    assert set(table["measure"].to_pylist()) == {"volume_um3", "distance_to_nucleus_um"}
    everything = row_of(table, measure="volume_um3", per="object", objects="all")
    assert everything["unit"] == "µm³"
    known = [value for value in VOLUMES if value is not None]
    assert [everything[key] for key in ("lower_quartile", "median", "upper_quartile")] == list(
        np.quantile(known, [0.25, 0.5, 0.75])
    )
    assert everything["n"] == 5  # an unknown number does not count
    whole = row_of(table, measure="volume_um3", per="object", objects="not cut")
    assert (whole["n"], whole["median"]) == (4, 2.5)
    # Distances are wrong where the cell is cut, too.
    distance = row_of(table, measure="distance_to_nucleus_um", per="object", objects="not cut")
    assert (distance["n"], distance["median"]) == (2, 6.0)


def test_a_cell_is_one_value() -> None:
    table = statistics_table({"mitochondrion": ORGANELLES})
    per_cell = row_of(table, measure="volume_um3", per="cell", objects="all")
    assert (per_cell["n"], per_cell["median"]) == (2, np.median([2, 52]))
    cells = ORGANELLES.drop_columns(["object"])
    of_cells = statistics_table({"cells": cells})
    assert set(of_cells["per"].to_pylist()) == {"cell"}
    assert row_of(of_cells, measure="volume_um3", objects="all")["n"] == 5


def test_medians_of_cells_equal_a_plain_version() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=500)
    values[random.random(500) < 0.1] = np.nan
    cells = random.integers(0, 40, 500)
    expected = [
        np.nanmedian(values[cells == cell])
        for cell in range(1, 40)
        if np.isfinite(values[cells == cell]).any()
    ]
    np.testing.assert_allclose(medians_of_cells(values, cells), expected)
    assert len(medians_of_cells(np.array([1.0]), np.array([0]))) == 0


def test_structures_without_objects_have_rows_without_numbers() -> None:
    table = statistics_table({"nucleus": ORGANELLES.slice(0, 0)})
    assert set(table["n"].to_pylist()) == {0}
    assert table["median"].null_count == table.num_rows
    assert statistics_table({}).num_rows == 0


@pytest.mark.parametrize("column", ["lower_quartile", "median", "upper_quartile"])
def test_numbers_are_floating(column: str) -> None:
    assert statistics_table({})[column].type == pa.float64()


def test_skeletons_and_contacts_are_in_the_statistics_and_renewed(tmp_path: Path) -> None:
    sample = tissue_of(tmp_path / "s.zarr")
    measure(sample, texture=False)
    before = sample.read_table("statistics").num_rows
    skeletons(sample, "mitochondrion")
    contacts(sample, "mitochondrion", "nucleus", distance_nm=400)
    contacts(sample, "mitochondrion", "mitochondrion", distance_nm=400)
    names = ("nucleus_contacts", "nucleus_contact_fraction", "mitochondrion_contacts")
    rows = rows_of(sample, "mitochondrion")
    assert sample.read_table("statistics").num_rows > before
    pairs = sample.read_table("contacts_mitochondrion_nucleus").to_pydict()
    ids = sample.read_table("mitochondrion")["object"].to_pylist()
    counts = [pairs["first"].count(number) for number in ids]
    assert rows["nucleus_contacts", "object", "all"]["n"] == len(ids)
    assert rows["nucleus_contacts", "object", "all"]["median"] == np.median(counts)
    fractions = sample.read_table("contact_fraction_mitochondrion_nucleus").to_pydict()
    of_mitochondria = [
        fraction
        for structure, fraction in zip(
            fractions["structure"], fractions["contact_fraction"], strict=True
        )
        if structure == "mitochondrion"
    ]
    median = rows["nucleus_contact_fraction", "object", "all"]["median"]
    assert median == pytest.approx(np.median(of_mitochondria))
    within = sample.read_table("contacts_mitochondrion_mitochondrion").to_pydict()
    neighbors = [within["first"].count(number) + within["second"].count(number) for number in ids]
    assert rows["mitochondrion_contacts", "object", "all"]["median"] == np.median(neighbors)
    lengths = sample.read_table("skeletons_mitochondrion")["skeleton_length_um"].to_numpy()
    assert rows["skeleton_length_um", "object", "all"]["median"] == np.median(lengths)
    # Measured again, the statistics still have them; of other objects, they do not.
    measure(sample, texture=False, spectrum_sizes=3, on=Execution(overwrite=True, quiet=True))
    assert {name for name, _, _ in rows_of(sample, "mitochondrion")} >= {*names, "branches"}
    objects(sample, "mitochondrion", min_voxels=100, on=Execution(overwrite=True, quiet=True))
    skeletons(sample, "mitochondrion", on=Execution(overwrite=True, quiet=True))
    # The table still has the rows of other numbers.
    assert "branches" not in {name for name, _, _ in rows_of(sample, "mitochondrion")}
    measure(sample, texture=False, on=Execution(overwrite=True, quiet=True))
    measures = {name for name, _, _ in rows_of(sample, "mitochondrion")}
    assert not measures & set(names)
    assert "branches" in measures


def test_statistics_of_an_earlier_run_join_the_same_objects_only(tmp_path: Path) -> None:
    sample = tissue_of(tmp_path / "s.zarr")
    again = Execution(overwrite=True, quiet=True)
    measure(sample, texture=False)
    skeletons(sample, "mitochondrion")
    objects(sample, "mitochondrion", min_voxels=100, on=again)
    skeletons(sample, "mitochondrion", on=again)
    measure(sample, texture=False, structures=("nucleus",), on=again)
    assert "branches" not in {name for name, _, _ in rows_of(sample, "mitochondrion")}


def test_a_damaged_or_lost_table_is_named(tmp_path: Path) -> None:
    sample = tissue_of(tmp_path / "s.zarr")
    measure(sample, texture=False)
    skeletons(sample, "mitochondrion")
    sample.remove_table("skeletons_mitochondrion")
    skeletons(sample, "nucleus")
    assert "branches" not in {name for name, _, _ in rows_of(sample, "mitochondrion")}
    assert "branches" in {name for name, _, _ in rows_of(sample, "nucleus")}
    (sample.path / "tables" / "nucleus.parquet").write_bytes(b"damaged")
    with pytest.raises(SampleError, match=r"The table nucleus of s\.zarr is damaged"):
        skeletons(sample, "nucleolus")


def rows_of(sample: Sample, name: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = sample.read_table("statistics").to_pylist()
    return {
        (row["measure"], row["per"], row["objects"]): row
        for row in rows
        if row["structure"] == name
    }
