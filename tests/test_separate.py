"""Six methods on drawn slices, full-resolution labels, and fast code compared with plain code."""

from typing import Any
from unittest import mock

import cc3d
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, distance_transform_edt, generate_binary_structure
from scipy.ndimage import label as components
from skimage.segmentation import watershed

from sparsem.cells.refine import (
    enlarge_labels,
    fill_region_holes,
    grow_labels,
    number_islands,
    refine_labels,
)
from sparsem.cells.separate import (
    METHODS,
    UNASSIGNED,
    Evidence,
    Seeds,
    _depth,
    flood_from_seeds,
    keep_confirmed_ids,
    label_edges,
    place_seeds,
    separate_cells,
)
from tests.conftest import drawn

Labels = NDArray[Any]


def evidence(mask: Labels, boundary: Labels, carried: Labels) -> Evidence:
    return Evidence(
        mask.astype(np.float32), boundary.astype(np.float32), carried, place_seeds(carried)
    )


# Two cells side by side. The network predicts their boundary in the upper half only; the flow
# carried it one pixel too far to the left.
MASK = drawn(*["..11111111111.."] * 9) > 0
BORDER = drawn(*["........1......"] * 5, *["..............."] * 4)
CARRIED = drawn(*["..11111222222.."] * 9)
TRUTH = drawn(*["..11111122222.."] * 9)


def wrong_pixels(method: str) -> int:
    labels = separate_cells(method, evidence(MASK, BORDER, CARRIED), 0.0)
    return int(np.count_nonzero(labels != TRUTH))


def test_methods_with_more_evidence_are_better() -> None:
    assert wrong_pixels("flow") == 9  # one column
    assert wrong_pixels("mask_flow") <= 9
    assert wrong_pixels("selective") <= wrong_pixels("mask_flow")
    assert wrong_pixels("per_frame") <= wrong_pixels("flow")
    for method in METHODS:
        labels = separate_cells(method, evidence(MASK, BORDER, CARRIED), 0.0)
        assert set(np.unique(labels).tolist()) <= {0, 1, 2}
        assert not labels[~MASK].any()


def test_a_closed_border_is_enough_for_mask_and_border_and_no_border_is_not() -> None:
    closed = drawn(*["........1......"] * 9)
    labels = separate_cells("mask_border", evidence(MASK, closed, CARRIED), 0.0)
    assert np.count_nonzero(labels != TRUTH) <= 9  # pixels of the border itself go to either side
    assert (labels[:, :8] != 2).all()
    assert (labels[:, 9:] != 1).all()


def test_a_slice_that_one_cell_fills() -> None:
    full, empty = np.ones((6, 7), np.uint8), np.zeros((6, 7), np.uint8)
    for method in METHODS:
        assert (separate_cells(method, evidence(full, empty, full * 5), 0.3) == 5).all(), method


def test_an_empty_slice() -> None:
    empty = np.zeros((6, 7), np.uint8)
    for method in METHODS:
        assert not separate_cells(method, evidence(empty, empty, empty), 0.3).any(), method
        assert (
            not separate_cells(method, evidence(empty, empty, empty + 5), 0.3).any()
            or method == "flow"
        ), method


def test_a_bridge_between_cells_goes_to_a_seed_and_a_blob_without_seed_is_an_island() -> None:
    mask = drawn("111.111...", "1111111..1", "111.111.1.") > 0
    carried = drawn("111.222...", "111.222...", "111.222...")
    labels = separate_cells("mask", evidence(mask, mask * 0, carried), 0.3)
    assert labels[1, 3] in (1, 2)  # the bridge
    assert np.array_equal(np.delete(labels, 3, axis=1), np.delete(carried, 3, axis=1))
    islands = number_islands(labels, mask, 70_000, 0)
    assert islands[1, 9] == islands[2, 8] == 70_001  # neighbors across a corner are one island
    assert np.unique(islands).tolist() == [0, 1, 2, 70_001]


def test_a_region_that_flow_does_not_confirm_loses_its_id() -> None:
    mask = drawn("1111.1111") > 0
    drifted = Evidence(
        mask.astype(np.float32),
        np.zeros((1, 9), np.float32),
        drawn("2222.3333"),
        Seeds(np.array([2]), np.array([[0.0, 6.0]])),
    )
    assert separate_cells("mask", drifted, 0.3).tolist() == [
        [0] * 5 + [UNASSIGNED] * 4
    ]  # the seed of 2 lies where the flow has label 3
    assert separate_cells("mask", drifted, 0.0)[0, 8] == 2
    assert keep_confirmed_ids(drawn("1122"), drawn("1222"), 0.5).tolist() == [[1, 1, 2, 2]]
    assert keep_confirmed_ids(drawn("1122"), drawn("1222"), 0.6).tolist() == [
        [UNASSIGNED, UNASSIGNED, 2, 2]
    ]
    lost = keep_confirmed_ids(drawn("112233"), drawn("444444"), 0.5)
    assert lost.tolist() == [
        [UNASSIGNED, UNASSIGNED, UNASSIGNED + 1, UNASSIGNED + 1, UNASSIGNED + 2, UNASSIGNED + 2]
    ]
    assert number_islands(lost, np.ones((1, 6), bool), 9, 0).tolist() == [
        [10, 10, 11, 11, 12, 12]
    ]  # each stays a region of its own


def test_islands_are_cut_at_boundaries_whose_pixels_join_the_part_next_to_them() -> None:
    empty, mask = np.zeros((2, 9), np.uint8), drawn("111111111", "111111111") > 0
    border = drawn("...1.....", "...1.....") > 0
    assert (
        number_islands(empty, mask, 9, 0, border).tolist()
        == [[10, 10, 10, 11, 11, 11, 11, 11, 11]] * 2
    )
    assert number_islands(empty, mask, 9, 0).tolist() == [[10] * 9] * 2
    thin = drawn(".........", "...11....") > 0
    assert number_islands(empty, thin, 9, 0, thin).tolist() == [
        [0] * 9,
        [0, 0, 0, 10, 10, 0, 0, 0, 0],
    ]  # an island of boundary pixels only


blobs = hnp.arrays(bool, (9, 11), elements=st.sampled_from([True, True, True, False]))
points = st.lists(
    st.tuples(st.integers(0, 8), st.integers(0, 10)), min_size=1, max_size=5, unique=True
)


@given(mask=blobs, cut=blobs, points_of_seeds=points)
def test_flooding_only_where_cells_touch_equals_flooding_everywhere(
    mask: Labels, cut: Labels, points_of_seeds: list[tuple[int, int]]
) -> None:
    """Pixels of equal depth are left out: at equal distances, their seed is ambiguous."""
    seeds = Seeds(np.arange(101, 101 + len(points_of_seeds)), np.array(points_of_seeds, float))
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(np.array(points_of_seeds).T)] = seeds.ids
    steps = np.random.default_rng(0).permutation(mask.size).reshape(mask.shape)

    def distinct_depth(inside: Labels) -> NDArray[np.float32]:
        depth = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
        return np.asarray(depth + steps * 1e-4, np.float32)

    with mock.patch("sparsem.cells.separate._depth", distinct_depth):
        labels = flood_from_seeds(mask, cut, seeds)
    height = -distinct_depth(mask & ~cut)
    assert np.array_equal(labels, watershed(height, markers * mask, mask=mask))


@given(hnp.arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 1, 2, 2])))
def test_seeds_lie_in_every_part_of_every_cell_where_it_is_deepest(labels: Labels) -> None:
    seeds = place_seeds(labels)
    inside = distance_transform_edt(np.pad((labels > 0) & ~label_edges(labels), 1))[1:-1, 1:-1]
    parts = cc3d.connected_components(labels, connectivity=4)
    rows, columns = seeds.positions.astype(int).T
    assert sorted(parts[rows, columns].tolist()) == list(range(1, int(parts.max()) + 1))
    assert labels[rows, columns].tolist() == seeds.ids.tolist()
    for part, y, x in zip(parts[rows, columns], rows, columns, strict=True):
        assert inside[y, x] == pytest.approx(inside[parts == part].max(), abs=1e-5)


def test_depth_is_exact_and_the_same_at_every_call() -> None:
    y, x = np.mgrid[:96, :128]
    for seed in range(20):
        discs = np.random.default_rng(seed).integers((0, 0, 5), (96, 128, 40), (6, 3)).tolist()
        mask = np.any([np.hypot(y - cy, x - cx) < radius for cy, cx, radius in discs], axis=0)
        padded = np.pad(mask, 1)
        expected = distance_transform_edt(padded)[1:-1, 1:-1].astype(np.float32)
        for _ in range(3):
            assert np.array_equal(_depth(mask), expected)
        inner = distance_transform_edt(mask).astype(np.float32)
        assert np.array_equal(_depth(mask, border_is_outside=False), inner)


def test_a_centroid_may_lie_outside_of_its_cell_and_the_deepest_point_does_not() -> None:
    ring = drawn("11111", "1...1", "1...1", "1...1", "11111")
    assert place_seeds(ring, "centroid").positions.tolist() == [[2.0, 2.0]]
    (y, x) = place_seeds(ring).positions[0].astype(int)
    assert ring[y, x] == 1


@given(
    hnp.arrays(np.uint16, (5, 6), elements=st.sampled_from([0, 1, 2, 60_000])), st.integers(2, 5)
)
def test_labels_are_enlarged_as_the_strongest_of_their_linear_weights(
    labels: Labels, factor: int
) -> None:
    shape = (5 * factor, 6 * factor - 1)
    enlarged = enlarge_labels(labels, shape)
    best, weight = np.zeros(shape, np.uint16), np.full(shape, -1.0)
    for label in np.unique(
        labels
    ):  # the plain method: a linear interpolation of every label's mask
        weight_of_label = linear((labels == label).astype(float), shape)
        is_heavier = weight_of_label > weight - 1e-9
        best[is_heavier], weight = label, np.maximum(weight, weight_of_label)
    tied = [
        np.abs(linear((labels == label).astype(float), shape) - weight) < 1e-9
        for label in np.unique(labels)
    ]
    clear = np.sum(tied, axis=0) == 1
    assert np.array_equal(enlarged[clear], best[clear])


def linear(values: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    for new in shape:  # columns first; then rows, after a transposition
        old = len(values)
        center = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        values = np.stack([np.interp(center, np.arange(old), column) for column in values.T])
    return values


def test_refined_labels_fill_the_mask_up_to_its_outline() -> None:
    labels = drawn("12", "12")
    mask = (
        drawn(
            "........",
            ".111111.",
            ".111111.",
            "........",
            "......11",
            "......11",
            "........",
            "........",
        )
        > 0
    )
    refined = refine_labels(labels, mask)
    assert np.array_equal(refined > 0, mask)
    assert refined[1].tolist() == [0, 1, 1, 1, 2, 2, 2, 0]
    assert grow_labels(drawn("1..2..").astype(np.uint16), drawn("111111") > 0, 1).tolist() == [
        [1, 1, 2, 2, 2, 0]
    ]


def test_small_components_are_no_islands() -> None:
    mask = drawn("11.1.11", "11...11") > 0
    islands = number_islands(np.zeros(mask.shape, np.uint8), mask, 9, 2)
    assert islands.tolist() == [[10, 10, 0, 0, 0, 11, 11], [10, 10, 0, 0, 0, 11, 11]]


def test_holes_that_one_cell_encloses_are_filled() -> None:
    cells = drawn(
        ".111111222.",
        ".1..11.2.2.",
        ".1.111.222.",
        ".111111222.",
        "..........3",
        "33.33333333",
        "3.........3",
        "33333333333",
    )
    filled = fill_region_holes(cells.astype(np.uint32), 3)
    expected = drawn(
        ".111111222.",
        ".111112222.",
        ".111112222.",
        ".111111222.",
        "..........3",
        "33.33333333",
        "3.........3",
        "33333333333",
    )
    expected[1:3, 6] = 0  # between two cells: a gap
    assert filled.tolist() == expected.tolist()  # what opens to the outside stays open
    assert np.array_equal(
        fill_region_holes(cells.astype(np.uint32), 2) > 0,
        (cells > 0) | (drawn(*["..........."] * 1, "........1..", *["..........."] * 6) > 0),
    )


def fill_hole_by_hole(regions: Labels, max_px: int) -> Labels:
    """Fill one hole after the other."""
    holes, count = components(regions == 0)
    filled = regions.copy()
    for number in range(1, count + 1):
        hole = holes == number
        around = np.unique(regions[binary_dilation(hole, generate_binary_structure(2, 1)) & ~hole])
        on_edge = hole[0].any() or hole[-1].any() or hole[:, 0].any() or hole[:, -1].any()
        if hole.sum() <= max_px and len(around) == 1 and not on_edge:
            filled[hole] = around[0]
    return filled


@given(
    hnp.arrays(
        np.uint32,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        elements=st.sampled_from([0, 7, 7, 7, 70_000]),
    ),
    st.integers(0, 9),
)
def test_filling_equals_filling_hole_by_hole(regions: Labels, max_px: int) -> None:
    assert np.array_equal(fill_region_holes(regions, max_px), fill_hole_by_hole(regions, max_px))
