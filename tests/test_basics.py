"""Geometry, settings, pyramids and overlap sums against plain versions."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from pydantic import Field
from skimage.measure import block_reduce

from sparsem.errors import InputError, SettingsError
from sparsem.geometry import VoxelSize, evenly_spaced, z_blocks
from sparsem.score.overlap import MaskOverlap, average_dice, dice_of_sums, mask_overlap, pool_slices
from sparsem.score.score import Scores
from sparsem.settings import Settings, differences, parse
from sparsem.store.pyramid import coarser, coarser_mean, coarser_mode
from sparsem.store.slice_use import SliceUse
from tests.conftest import drawn


@given(n=st.integers(1, 60), depth=st.integers(1, 20), halo=st.integers(0, 5))
def test_blocks_own_every_slice_once_and_read_their_halo(n: int, depth: int, halo: int) -> None:
    blocks = z_blocks(n, depth, halo)
    assert [z for block in blocks for z in range(n)[block.own]] == list(range(n))
    stack = np.arange(n)
    for block in blocks:
        assert np.array_equal(stack[block.read][block.inner], stack[block.own])
        assert block.read_start == max(0, block.start - halo)
        assert block.read_stop == min(n, block.stop + halo)


@given(n=st.integers(1, 500), share=st.floats(0, 1))
def test_evenly_spaced_slices_are_distinct_and_reach_both_ends(n: int, share: float) -> None:
    count = max(1, round(share * n))
    slices = evenly_spaced(n, count)
    assert len(set(slices)) == count
    if count > 1:
        assert (slices[0], slices[-1]) == (0, n - 1)
        gaps = np.diff(slices)
        assert gaps.max() - gaps.min() <= 1


def test_evenly_spaced_refuses_more_than_there_are() -> None:
    with pytest.raises(InputError, match="choose 8 of 7"):
        evenly_spaced(7, 8)


@pytest.mark.parametrize(
    "lengths", [(1, 2), (0, 1, 1), (-1, 1, 1), (math.nan, 1, 1), (math.inf, 1, 1)]
)
def test_a_voxel_size_is_three_positive_lengths(lengths: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="three positive lengths in nm"):
        VoxelSize.of(lengths)


def test_long_axes_wait_until_the_others_have_caught_up() -> None:
    assert VoxelSize(5, 5, 5).halving() == (2, 2, 2)
    assert VoxelSize(50, 5, 5).halving() == (1, 2, 2)
    assert VoxelSize(50, 40, 40).halving() == (2, 2, 2)
    assert VoxelSize(8, 4, 2).volume_um3 == pytest.approx(64e-9)


class Oven(Settings):
    heat: int = Field(200, ge=0, le=300, description="degrees")
    mode: str = Field("fan", description="how")


class Shelf(Settings):
    book: str = "a"
    books: tuple[str, ...] = ()


def test_settings_that_hold_a_file_take_paths() -> None:
    shelf = Shelf.model_validate({"book": Path("b/c"), "books": [Path("d"), "e"]})
    assert shelf == Shelf(book=str(Path("b/c")), books=("d", "e"))


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(
        SettingsError,
        match=r"oven.toml: unknown key 'haet'; did you mean 'heat'\? Known: heat, mode",
    ):
        parse(Oven, {"haet": 3}, "oven.toml")


def test_a_value_out_of_range_says_which_and_where() -> None:
    with pytest.raises(
        SettingsError,
        match=r"oven.toml: 'heat' was given as 900: input should be less than or equal to 300",
    ):
        parse(Oven, {"heat": 900}, "oven.toml")


def test_differences_names_what_changed() -> None:
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": "x"}) == "b: 2 -> 3, c: null -> x"
    first, second = "0123456789abcdef" * 2, "f" * 32
    assert (
        differences({"input image": first, "input truth": first}, {"input image": second})
        == "another image, without truth"
    )
    assert (
        differences({"input boxes disc": first}, {"input boxes disc": second}) == "other boxes disc"
    )
    slices = ({"0": first, "9": first, "13": first}, {"0": first, "9": second, "18": first})
    before, now = (
        {"mito 1": first, "mito 1 slices": slices[0]},
        {"mito 1": second, "mito 1 slices": slices[1]},
    )
    assert differences(before, now) == "other labels of mito 1 on slices 9, 13, 18"
    assert differences({"mito 1": first}, now) == "another mito 1"
    assert differences({**before, "mito 1": second}, before) == "another mito 1"
    assert (
        differences({}, {"input files": "a.tif", "input source": first})
        == "files: null -> a.tif, now with source"
    )


def plain_mode(fine: NDArray[Any], factors: tuple[int, int, int]) -> NDArray[Any]:
    padded = np.pad(
        fine, [(0, -n % f) for n, f in zip(fine.shape, factors, strict=True)], mode="edge"
    )
    coarse = np.zeros([n // f for n, f in zip(padded.shape, factors, strict=True)], fine.dtype)
    for index in np.ndindex(*coarse.shape):
        cell = padded[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))]
        ids, counts = np.unique(cell, return_counts=True)
        coarse[index] = ids[counts == counts.max()].max()
    return coarse


factors = st.tuples(*(st.sampled_from([1, 2]) for _ in range(3)))
small_labels = hnp.arrays(
    np.uint32,
    hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
    elements=st.sampled_from([0, 1, 2, 70_000]),
)


@given(fine=small_labels, factors=factors)
def test_coarser_labels_are_the_most_frequent_ones(
    fine: NDArray[Any], factors: tuple[int, int, int]
) -> None:
    coarse = coarser_mode(fine, factors)
    assert coarse.dtype == fine.dtype
    assert np.array_equal(coarse, plain_mode(fine, factors))


@given(
    fine=hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 1)
    ),
    factors=factors,
)
def test_coarser_masks_are_a_vote(fine: NDArray[Any], factors: tuple[int, int, int]) -> None:
    assert np.array_equal(coarser_mode(fine, factors), plain_mode(fine, factors))


@given(
    fine=hnp.arrays(np.uint8, st.tuples(*(st.sampled_from([2, 4, 6]) for _ in range(3)))),
    factors=factors,
)
def test_coarser_images_are_rounded_means(
    fine: NDArray[Any], factors: tuple[int, int, int]
) -> None:
    mean = block_reduce(fine.astype(float), factors, np.mean)
    assert np.array_equal(coarser_mean(fine, factors), np.floor(mean + 0.5).astype(np.uint8))


@given(
    fine=hnp.arrays(
        st.sampled_from([np.uint8, np.int16, np.uint16]),
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=7),
    ),
    factors=factors,
)
def test_coarser_slice_by_slice_is_coarser_at_once(
    fine: NDArray[Any], factors: tuple[int, int, int]
) -> None:
    padded = np.pad(
        fine,
        [(0, -length % factor) for length, factor in zip(fine.shape, factors, strict=True)],
        mode="edge",
    )
    mean = block_reduce(padded.astype(float), factors, np.mean)
    assert np.array_equal(
        coarser(fine, factors, labels=False), np.floor(mean + 0.5).astype(fine.dtype)
    )
    assert np.array_equal(coarser(fine, factors, labels=True), coarser_mode(fine, factors))


def test_an_odd_axis_keeps_its_last_voxel() -> None:
    assert coarser_mean(np.array([[[10, 20, 40]]], np.uint8), (1, 1, 2)).tolist() == [[[15, 40]]]
    assert coarser_mean(np.ones((3, 3, 3), np.float32), (2, 2, 2)).shape == (2, 2, 2)


def test_dice_precision_recall_by_hand() -> None:
    predicted = drawn("11..", "11..") > 0
    true = drawn(".11.", ".11.") > 0
    overlap = mask_overlap(predicted, true)
    assert overlap == MaskOverlap(both=2, predicted=4, true=4, known=8)
    assert (overlap.dice, overlap.precision, overlap.recall) == (0.5, 0.5, 0.5)
    assert dice_of_sums(2, 4, 4) == pytest.approx(5 / 9)


def test_unknown_pixels_count_nowhere() -> None:
    predicted, true = drawn("1111") > 0, drawn("11..") > 0
    assert mask_overlap(predicted, true, known=drawn("111.") > 0) == MaskOverlap(2, 3, 2, 3)


def test_false_positives_in_empty_slices_are_only_hidden_by_name() -> None:
    slices = [MaskOverlap(10, 10, 10, 50), MaskOverlap(0, 9, 0, 50), MaskOverlap(0, 0, 0, 50)]
    assert average_dice(slices) == pytest.approx((1 + 0.1 + 1) / 3)
    assert average_dice(slices, skip_empty_truth=True) == 1
    assert pool_slices(slices).dice == pytest.approx(20 / 29)
    assert math.isnan(average_dice([], skip_empty_truth=True))


def test_a_slice_of_which_nothing_is_known_is_in_no_average() -> None:
    nothing_known = MaskOverlap(0, 0, 0, 0)
    assert average_dice([MaskOverlap(5, 9, 9, 40), nothing_known, nothing_known]) == pytest.approx(
        11 / 19
    )
    assert math.isnan(average_dice([nothing_known]))


def test_a_score_of_nothing_is_not_perfect() -> None:
    assert all(
        math.isnan(value)
        for value in (
            MaskOverlap(0, 0, 0, 9).dice,
            MaskOverlap(0, 0, 5, 9).precision,
            MaskOverlap(0, 5, 0, 9).recall,
        )
    )
    everything_seen = Scores((MaskOverlap(3, 4, 5, 9),), SliceUse((0,)))
    assert everything_seen.summary("unseen")["dice_3d"] is None
    assert everything_seen.summary()["dice_3d"] == pytest.approx(6 / 9)


def test_masks_of_unequal_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        mask_overlap(np.ones((2, 2), bool), np.ones((2, 3), bool))
