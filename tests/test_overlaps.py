"""Overlaps of label maps, and scores of objects, against plain versions and scikit-image."""

import itertools
import math
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import skimage.metrics
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.labels.overlaps import Overlaps, add_overlaps, overlaps, positions_in, renumber
from sparsem.score.instances import (
    adapted_rand_error,
    dice_of_cells,
    match_objects,
    remove_small_objects,
    variation_of_information,
)
from tests.conftest import drawn

some_labels = st.sampled_from([0, 1, 2, 3, 70_000])
maps = hnp.arrays(np.uint32, (2, 3, 4, 5), elements=some_labels)


def plain_overlaps(first: NDArray[Any], second: NDArray[Any]) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    for pair in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
        counts[pair] = counts.get(pair, 0) + 1
    return counts


def as_dict(table: Overlaps) -> dict[tuple[int, int], int]:
    return {
        (p, t): n
        for p, t, n in zip(
            table.first.tolist(), table.second.tolist(), table.pixels.tolist(), strict=True
        )
    }


@given(maps, st.sets(some_labels.filter(bool)))
def test_labels_are_renumbered_by_their_position(labels: NDArray[Any], ids: set[int]) -> None:
    ascending = np.array(sorted(ids), np.int64)
    for array in (labels, labels.astype(np.int64), labels[:, :, ::2]):
        numbers = renumber(ascending, array)
        assert numbers.dtype == np.uint32
        np.testing.assert_array_equal(numbers, positions_in(ascending, array))


@given(maps)
def test_overlaps_are_counts_of_pairs(both: NDArray[np.uint32]) -> None:
    table = overlaps(*both)
    assert as_dict(table) == plain_overlaps(*both)
    assert list(as_dict(table)) == sorted(as_dict(table))


@given(maps)
def test_overlaps_of_parts_add_up(both: NDArray[np.uint32]) -> None:
    parts = [overlaps(*part) for part in (both[:, :1], both[:, 1:])]
    assert as_dict(add_overlaps(parts)) == as_dict(overlaps(*both))


def test_unknown_pixels_are_left_out_and_invalid_maps_are_refused() -> None:
    first, second = drawn("112", "12."), drawn("133", "3.3")
    known = np.array([[True, True, False], [False, True, True]])
    assert as_dict(overlaps(first, second, known)) == {(0, 3): 1, (1, 1): 1, (1, 3): 1, (2, 0): 1}
    assert as_dict(overlaps(first[:0], second[:0])) == {}
    with pytest.raises(ValueError, match="cannot be compared"):
        overlaps(first, second[:1])
    with pytest.raises(ValueError, match="does not fit into 32 bit"):
        overlaps(np.array([2**32]), np.array([1]))


@given(maps)
def test_rand_error_and_variation_of_information_equal_scikit_image(
    both: NDArray[np.uint32],
) -> None:
    predicted, true = both
    table = overlaps(predicted, true)
    if not (true > 0).any():
        assert math.isnan(adapted_rand_error(table).error)
        assert math.isnan(variation_of_information(table).split)
        return
    inside = true > 0
    with np.errstate(invalid="ignore"):
        theirs = skimage.metrics.adapted_rand_error(
            true[inside].astype(int), predicted[inside].astype(int), ignore_labels=()
        )
    if np.isfinite(
        theirs
    ).all():  # scikit-image divides 0 by 0 where no two pixels are in one region
        error, recall, precision = (
            theirs  # in this order, whatever its documentation says: a cell cut in two has full precision
        )
        assert adapted_rand_error(table) == pytest.approx((error, precision, recall))
    split, merge = skimage.metrics.variation_of_information(
        true[inside].astype(int), predicted[inside].astype(int)
    )
    assert variation_of_information(table) == pytest.approx((split, merge), abs=1e-9)


def plain_iou(predicted: NDArray[Any], true: NDArray[Any]) -> NDArray[np.float64]:
    ids = [sorted(set(labels.ravel().tolist()) - {0}) for labels in (predicted, true)]
    iou = [
        ((predicted == p) & (true == t)).sum() / ((predicted == p) | (true == t)).sum()
        for p, t in itertools.product(*ids)
    ]
    return np.array(iou).reshape(len(ids[0]), len(ids[1]))


@given(maps)
def test_matching_follows_the_definition(both: NDArray[np.uint32]) -> None:
    iou = plain_iou(*both)
    ours = match_objects(overlaps(*both))
    assert sorted(ours.iou.tolist()) == pytest.approx(sorted(iou[iou > 0].tolist()))
    matched = int((iou > 0.5).sum())
    if sum(iou.shape):
        assert ours.average_precision(0.5) == pytest.approx(matched / (sum(iou.shape) - matched))
        assert ours.panoptic.quality == pytest.approx(iou[iou > 0.5].sum() / (sum(iou.shape) / 2))


def test_scores_by_hand() -> None:
    true = drawn("1122", "1122", "33..")
    predicted = drawn("1112", "1112", "4444")
    table = overlaps(predicted, true)
    assert dice_of_cells(table) == {1: 2 * 4 / 10, 2: 2 * 2 / 6, 3: 0}
    (large,) = remove_small_objects([table], 3)
    assert dice_of_cells(large) == {
        1: 0.8,
        2: 0,
    }  # the predicted 2 and the true 3, of two pixels, are background
    matches = match_objects(table)
    assert matches.iou.tolist() == [4 / 6, 2 / 8, 2 / 4, 2 / 4]
    assert matches.average_precision(0.5) == 1 / 5
    assert matches.panoptic == pytest.approx((2 / 3 / 3, 2 / 3, 1 / 3))
    assert match_objects(overlaps(true, true)).mean_average_precision == 1
    assert math.isnan(match_objects(overlaps(drawn("."), drawn("."))).panoptic.quality)


def test_splits_mergers_and_counts_by_hand() -> None:
    true = drawn("1111222233..").astype(np.uint32)
    predicted = drawn("557788888899").astype(np.uint32)
    matches = match_objects(overlaps(predicted, true))
    assert (matches.true, matches.predicted) == (3, 4)
    assert matches.splits == 1  # 5 and 7 lie in the first object
    assert matches.merges == 1  # 2 and 3 lie in object 8
    assert matches.count_error == pytest.approx(1 / 3)
    assert matches.f1(0.5) == pytest.approx(2 * 1 / 7)  # 2 with 8, at an IoU of 4 / 6
    assert matches.f1(0.75) == 0
