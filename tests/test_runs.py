"""Runs of labels, compared with counts voxel by voxel."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.labels.overlaps import overlaps, positions_in, renumber
from sparsem.labels.runs import label_runs, overlaps_of_runs

Labels = NDArray[np.uint32]
shapes = hnp.array_shapes(min_dims=2, max_dims=3, max_side=7)
label_maps = hnp.arrays(np.uint32, shapes, elements=st.sampled_from([0, 1, 2, 4_000_000_000]))


@given(label_maps)
def test_runs_are_the_labels(labels: Labels) -> None:
    runs = label_runs(labels)
    drawn = np.zeros(labels.size, np.uint32)
    for start, stop, label in zip(*runs, strict=True):
        assert start // labels.shape[-1] == (stop - 1) // labels.shape[-1]
        drawn[start:stop] = label
    np.testing.assert_array_equal(drawn.reshape(labels.shape), labels)
    joins = (runs.starts[1:] == runs.stops[:-1]) & (runs.labels[1:] == runs.labels[:-1])
    assert (runs.starts[1:][joins] % labels.shape[-1] == 0).all()  # rows alone cut runs


@settings(max_examples=60)
@given(label_maps, st.integers(0, 2**31))
def test_overlaps_of_runs_equal_those_of_all_voxels(first: Labels, seed: int) -> None:
    second = np.random.default_rng(seed).integers(0, 3, first.shape).astype(np.uint8)
    of_runs = overlaps_of_runs(label_runs(first), second)
    of_voxels = overlaps(first, second)
    for column, expected in zip(of_runs, of_voxels, strict=True):
        np.testing.assert_array_equal(column, np.asarray(expected)[of_voxels.first > 0])


@given(label_maps, st.lists(st.sampled_from([1, 2, 3, 7, 4_000_000_000]), unique=True))
def test_numbers_are_positions_among_ids(labels: Labels, ids: list[int]) -> None:
    known = np.array(sorted(ids), np.uint32)
    np.testing.assert_array_equal(renumber(known, labels), positions_in(known, labels))
