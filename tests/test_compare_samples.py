"""Comparison of groups of samples: units of statistics, tests, notices, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pytest
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from sparsem.errors import InputError, SettingsError
from sparsem.geometry import VoxelSize
from sparsem.measure.comparison import compare
from sparsem.measure.measure import measure
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import put

QUIET = Execution(quiet=True)
AGAIN = Execution(quiet=True, overwrite=True)


def make_sample(path: Path, edges: list[int], cells: bool = True, first: int = 2) -> Sample:
    """Write and measure a sample of cubes with these edges, every two of them in a cell."""
    width = 12 * len(edges) + 4
    labels: NDArray[Any] = np.zeros((14, 14, width), np.uint8)
    cell = np.zeros_like(labels)
    for number, edge in enumerate(edges):
        start = 2 + 12 * number
        labels[first : first + edge, 2 : 2 + edge, start : start + edge] = number + 1
        cell[1:13, 1:13, start - 1 : start + 11] = number // 2 + 1
    path.parent.mkdir(exist_ok=True)
    sample = Sample.create(path)
    put(sample, "labels/lysosome", labels, 7, VoxelSize(10, 10, 10))
    if cells:
        put(sample, "labels/cells", cell, 7, VoxelSize(10, 10, 10))
    measure(sample, texture=False, on=QUIET)
    return sample


def write_study(folder: Path, **keys: Any) -> Path:
    lines = [
        f"{key} = {str(value).lower() if value is True else value!r}" for key, value in keys.items()
    ]
    for name in ("control", "treated"):
        lines += ["[[group]]", f'name = "{name}"', f'samples = ["{name}/*.zarr"]']
    path = folder / "study.toml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def two_groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("groups")
    for number in range(4):
        make_sample(folder / "control" / f"c{number}.zarr", [4, 4 + number % 2, 5, 6])
        make_sample(folder / "treated" / f"t{number}.zarr", [7, 7 + number % 3, 8, 9])
    return folder


def test_a_sample_is_one_value(two_groups: Path) -> None:
    study = write_study(two_groups, structures=["lysosome"], measures=["volume_um3", "objects"])
    result = compare(study, on=AGAIN)
    values = pyarrow.csv.read_csv(two_groups / "compared" / "values.csv").to_pandas()
    volumes = values[values["measure"] == "volume_um3"]
    assert len(volumes) == 8
    groups = {name: rows["value"].to_numpy() for name, rows in volumes.groupby("group")}
    expected = [np.median([64, 64 if n % 2 == 0 else 125, 125, 216]) * 1e-6 for n in range(4)]
    np.testing.assert_allclose(groups["control"], expected)
    test = next(test for test in result.tests if test.measure == "volume_um3")
    assert test.difference.delta == 1
    independent = mannwhitneyu(groups["control"], groups["treated"])
    assert test.difference.p == pytest.approx(independent.pvalue, abs=0.01)
    table = pyarrow.csv.read_csv(two_groups / "compared" / "tests.csv").to_pylist()
    row = next(row for row in table if row["measure"] == "volume_um3")
    assert (row["n"], row["other_n"], row["cliffs_delta"]) == (4, 4, 1)
    assert row["p_corrected"] >= row["p"]
    counts = next(test for test in result.tests if test.measure == "objects")
    assert counts.difference.medians == (4, 4)
    assert counts.difference.delta == 0


def test_a_cell_is_one_value(two_groups: Path) -> None:
    study = write_study(two_groups, by="cell", structures=["lysosome"], measures=["volume_um3"])
    result = compare(study, on=AGAIN)
    assert result.tests[0].difference.n == (8, 8)  # two cells in each of four samples
    first = [value.value for value in result.values if value.sample == "c0"]
    np.testing.assert_allclose(first, [64e-6, np.median([125, 216]) * 1e-6])
    assert any("Cells of one sample are not independent" in text for text in result.notices)


def test_groups_that_are_too_small_are_told(two_groups: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.toml"
    study.write_text(
        f'structures = ["lysosome"]\nmeasures = ["volume_um3"]\n'
        f'[[group]]\nname = "a"\nsamples = ["{two_groups}/control/c[012].zarr"]\n'
        f'[[group]]\nname = "b"\nsamples = ["{two_groups}/treated/t[012].zarr"]\n'
        f'[[group]]\nname = "c"\nsamples = ["{two_groups}/treated/t3.zarr"]\n'
    )
    result = compare(study, on=QUIET)
    assert len(result.tests) == 3
    text = " ".join(result.notices)
    assert "'c' is one sample" in text
    assert "No difference can be significant here" in text
    rows = pyarrow.csv.read_csv(tmp_path / "compared" / "tests.csv").to_pylist()
    assert [row["p"] is None for row in rows] == [False, True, True]


def test_samples_without_a_whole_object_are_told(tmp_path: Path) -> None:
    for group in ("control", "treated"):
        make_sample(tmp_path / group / f"{group}.zarr", [4, 5])
    make_sample(tmp_path / "treated" / "cut.zarr", [4, 4], first=0)
    result = compare(write_study(tmp_path, structures=["lysosome"]), on=QUIET)
    assert any("lysosome: 1 of 3 samples (cut) have no object" in text for text in result.notices)
    volumes = [value.sample for value in result.values if value.measure == "volume_um3"]
    assert volumes == ["control", "treated"]
    study = write_study(tmp_path, structures=["lysosome"], cut=True)
    counted = compare(study, on=AGAIN)
    assert sum(value.measure == "volume_um3" for value in counted.values) == 3
    assert not any("have no object" in text for text in counted.notices)


def test_what_cannot_be_compared_is_refused(two_groups: Path, tmp_path: Path) -> None:
    study = write_study(two_groups, structures=["lysosome"])
    compare(study, on=AGAIN)
    with pytest.raises(InputError, match="--overwrite"):
        compare(study, on=QUIET)
    for keys, message in (
        ({"structures": ["nucleus"]}, "'nucleus' was not measured in all 8"),
        ({"measures": ["volume"]}, "no values of 'volume'"),
    ):
        with pytest.raises(InputError, match=message):
            compare(write_study(two_groups, **keys), on=AGAIN)
    with pytest.raises(SettingsError, match="unknown key 'groups'"):
        compare(write_study(two_groups, groups=3), on=AGAIN)
    empty = write_study(tmp_path)
    with pytest.raises(InputError, match="No file matches"):
        compare(empty, on=QUIET)
    make_sample(tmp_path / "control" / "a.zarr", [4, 5], cells=False)
    make_sample(tmp_path / "treated" / "b.zarr", [4, 5], cells=False)
    with pytest.raises(InputError, match="measured without cells"):
        compare(write_study(tmp_path, by="cell"), on=QUIET)
    unmeasured = Sample.create(tmp_path / "treated" / "c.zarr")
    put(unmeasured, "labels/lysosome", np.ones((4, 4, 4), np.uint8), 4, VoxelSize(10, 10, 10))
    with pytest.raises(InputError, match=r"c\.zarr was not measured"):
        compare(write_study(tmp_path), on=QUIET)
    assert not (tmp_path / "compared").exists()


def test_texture_of_different_voxels_is_not_compared(tmp_path: Path) -> None:
    for group, edges in (("control", (10.0, 10.0)), ("treated", (10.0, 20.0))):
        for number, edge in enumerate(edges):
            sample = make_sample(tmp_path / group / f"{group}{number}.zarr", [4, 5])
            table = sample.read_table("lysosome")
            for name, value in (("glcm_contrast", 1.5), ("texture_voxel_nm", edge)):
                table = table.append_column(name, [[value] * table.num_rows])
            sample.write_table("lysosome", table)
    result = compare(write_study(tmp_path, structures=["lysosome"]), on=QUIET)
    assert {value.measure for value in result.values} >= {"volume_um3", "objects"}
    assert not any(value.measure == "glcm_contrast" for value in result.values)
    assert any("Texture of lysosome is not compared" in text for text in result.notices)
