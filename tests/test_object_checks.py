"""Checks of measured objects: probable small components, and lost slices that objects cross."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsem.errors import ResumeError
from sparsem.measure.lost_slices import cross_gaps, lost_slice_positions
from sparsem.measure.measure import measure
from sparsem.measure.object_checks import object_warnings, propose_min_volume
from sparsem.measure.settings import MeasureSettings
from sparsem.report.notices import notices
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of
from tests.test_measure import tissue_of

SMALL_UM3 = 27 * 8 * 4 * 4e-9  # 27 voxels of 8 x 4 x 4 nm


@pytest.mark.parametrize(
    ("objects", "small_components"), [(90, 580), (90, 20), (25, 25), (400, 3000)]
)
def test_the_minimum_lies_between_small_components_and_objects(
    objects: int, small_components: int
) -> None:
    draw = np.random.default_rng(objects)
    large = 10 ** draw.normal(-1, 0.3, objects)
    small = SMALL_UM3 * 10 ** draw.exponential(0.3, small_components)
    minimum = propose_min_volume(np.concatenate([large, small]))
    assert minimum is not None
    assert (small < minimum).mean() > 0.95
    assert (large < minimum).mean() < 0.03


def test_no_minimum_where_volumes_show_none() -> None:
    draw = np.random.default_rng(0)
    assert propose_min_volume(10 ** draw.normal(-1, 0.3, 200)) is None
    assert propose_min_volume(10 ** draw.uniform(-4, 0, 400)) is None
    assert propose_min_volume(SMALL_UM3 * 10 ** draw.exponential(0.3, 500)) is None
    assert propose_min_volume(np.full(100, 0.2)) is None
    assert propose_min_volume(np.array([1e-5] * 10 + [1.0] * 5)) is None  # too few for a histogram
    assert propose_min_volume(np.repeat([0.01, 0.1], [100, 100])) is not None
    # Both are so close that they may be objects.
    assert propose_min_volume(np.repeat([0.05, 0.1], [100, 100])) is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-12, 1e12), max_size=60), st.floats(1e-3, 1e3))
def test_the_minimum_does_not_depend_on_the_unit_and_excludes_little_volume(
    volumes: list[float], unit: float
) -> None:
    values = np.array(volumes, float)
    minimum = propose_min_volume(values)
    minimum_in_unit = propose_min_volume(values * unit)
    is_same = (minimum is None) == (minimum_in_unit is None)
    assert is_same or len(values) < 60  # the histogram begins at the smallest volume
    if minimum is not None:
        assert values[values < minimum].sum() <= 0.1 * values.sum()


def test_objects_that_cross_gaps_are_those_on_both_sides() -> None:
    first, last = np.array([0, 3, 5, 0, 6]), np.array([4, 6, 9, 9, 6])
    assert cross_gaps(first, last, np.array([5])).tolist() == [False, True, False, True, False]
    assert cross_gaps(first, last, np.array([], np.int64)).tolist() == [False] * 5


def test_measure_and_report_name_objects_that_cross_lost_slices(tmp_path: Path) -> None:
    sample = copy_of(tissue_of(tmp_path / "made.zarr"), tmp_path / "s.zarr")
    measure(sample, MeasureSettings(texture=False))
    assert lost_slice_positions(sample).size == 0
    assert not any("lost" in line for line in object_warnings(sample, "nucleus", "cells"))
    table = sample.read_table("nucleus").to_pydict()
    z = (table["first_z"][0] + table["last_z"][0]) // 2 + 1
    sample.image("raw")
    mark_repeated(sample, z)
    extents = zip(table["first_z"], table["last_z"], strict=True)
    crossed = sum(first < z <= last for first, last in extents)
    assert crossed >= 1
    warnings = object_warnings(sample, "nucleus", "cells")
    (warning,) = [line for line in warnings if "lost" in line]
    assert warning.startswith(
        f"nucleus: {crossed} of 2 objects cross one of 2 places where slices are lost"
    )
    texts = [notice.text for notice in notices(sample, ["nucleus"], "cells")]
    assert any("objects cross one of 2 places" in text for text in texts)
    assert table["crosses_gap"] == [False, False]
    # The gap was found after the objects were measured: their flags are outdated.
    with pytest.raises(ResumeError, match="lost slices"):
        measure(sample, MeasureSettings(texture=False))
    on = Execution(overwrite=True, quiet=True)
    measure(sample, MeasureSettings(texture=False), on=on)
    flagged = sample.read_table("nucleus").to_pydict()
    assert sum(flagged["crosses_gap"]) == crossed
    rows = {row["structure"]: row for row in sample.read_table("measured").to_pylist()}
    row = rows["nucleus"]
    rest = [
        volume
        for volume, crosses in zip(flagged["volume_um3"], flagged["crosses_gap"], strict=True)
        if not crosses
    ]
    assert row["crosses_gap"] == crossed
    assert row["volume_um3_without_gaps"] == pytest.approx(sum(rest))
    assert f"without them {2 - crossed} objects and {sum(rest):.4g} um3 remain" in warning


def mark_repeated(sample: Sample, z: int) -> None:
    """Mark a slice that replaces a lost one, as ``import`` records it."""
    import json

    path = sample.path / "zarr.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["attributes"]["sparsem"]["repeated"] = [z]
    path.write_text(json.dumps(content), encoding="utf-8")
