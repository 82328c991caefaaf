"""What is said of objects before anybody counts them: probable specks, and lost slices that they cross."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsem.measure.measure import measure
from sparsem.measure.object_checks import (
    cross_gaps,
    lost_slice_positions,
    object_warnings,
    propose_min_volume,
)
from sparsem.measure.settings import MeasureSettings
from sparsem.report.warnings import notices
from sparsem.store.sample import Sample
from tests.conftest import copy_of
from tests.test_measure import tissue_of

SPECK = 27 * 8 * 4 * 4e-9  # um3


@pytest.mark.parametrize(("objects", "specks"), [(90, 580), (90, 20), (25, 25), (400, 3000)])
def test_a_minimum_lies_between_specks_and_objects(objects: int, specks: int) -> None:
    draw = np.random.default_rng(objects)
    large, small = 10 ** draw.normal(-1, 0.3, objects), SPECK * 10 ** draw.exponential(0.3, specks)
    minimum = propose_min_volume(np.concatenate([large, small]))
    assert minimum is not None
    assert (small < minimum).mean() > 0.95
    assert (large < minimum).mean() < 0.03


def test_no_minimum_where_volumes_show_none() -> None:
    draw = np.random.default_rng(0)
    assert propose_min_volume(10 ** draw.normal(-1, 0.3, 200)) is None
    assert propose_min_volume(10 ** draw.uniform(-4, 0, 400)) is None
    assert propose_min_volume(SPECK * 10 ** draw.exponential(0.3, 500)) is None
    assert propose_min_volume(np.full(100, 0.2)) is None
    assert propose_min_volume(np.array([1e-5] * 10 + [1.0] * 5)) is None  # too few to tell
    assert propose_min_volume(np.repeat([0.01, 0.1], [100, 100])) is not None
    assert (
        propose_min_volume(np.repeat([0.05, 0.1], [100, 100])) is None
    )  # so near that both may be objects


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(1e-12, 1e12), max_size=60), st.floats(1e-3, 1e3))
def test_a_minimum_does_not_depend_on_the_unit_and_takes_little(
    volumes: list[float], unit: float
) -> None:
    values = np.array(volumes, float)
    found, other = propose_min_volume(values), propose_min_volume(values * unit)
    assert (found is None) == (other is None) or len(
        values
    ) < 60  # the grid begins at the smallest volume
    if found is not None:
        assert values[values < found].sum() <= 0.1 * values.sum()


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
    place = (table["first_z"][0] + table["last_z"][0]) // 2 + 1
    sample.image("raw")
    mark_repeated(sample, place)
    crossed = sum(
        first < z <= last
        for first, last in zip(table["first_z"], table["last_z"], strict=True)
        for z in [place]
    )
    assert crossed >= 1
    (line,) = [one for one in object_warnings(sample, "nucleus", "cells") if "lost" in one]
    assert line.startswith(
        f"nucleus: {crossed} of 2 objects cross one of 2 places where slices are lost"
    )
    assert any(
        "objects cross one of 2 places" in one.text for one in notices(sample, ["nucleus"], "cells")
    )


def mark_repeated(sample: Sample, z: int) -> None:
    """A slice that stands in for a lost one, as import records it."""
    import json

    path = sample.path / "zarr.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["attributes"]["sparsem"]["repeated"] = [z]
    path.write_text(json.dumps(content), encoding="utf-8")
