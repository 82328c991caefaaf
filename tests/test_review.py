"""Disagreements, places to review, and jumps of area: small drawn cases."""

import numpy as np
import pytest

from sparsem.cells.disagreement import (
    Disagreement,
    disagreement_map,
    largest_disagreements,
    nearer_front,
)
from sparsem.cells.intervals import seeds_of_nearest_slice
from sparsem.cells.propagate import Front
from sparsem.cells.review import abrupt_changes, disagreement_places, largest_area_jumps
from sparsem.cells.separate import Seeds
from sparsem.labels.overlaps import label_sizes
from tests.conftest import drawn


def front(labels: str, costs: list[float], seed: int = 0) -> Front:
    seeds = Seeds(np.array([seed]), np.zeros((1, 2)))
    return Front(drawn(labels), np.array([costs], np.float32), seeds)


BELOW = front("1112", [0.0, 1.0, 4.0, np.inf], seed=7)
ABOVE = front("1221", [9.0, 4.0, 4.0, 1.0], seed=8)


def test_every_pixel_has_the_label_of_the_nearer_front() -> None:
    nearer = nearer_front(BELOW, ABOVE)
    # Where the costs are equal, the label from below; where one is infinite, the other one.
    assert nearer.labels.tolist() == [[1, 1, 1, 1]]
    assert nearer.cost.tolist() == [[0, 1, 4, 1]]


def test_disagreement_is_greatest_where_both_are_equally_certain() -> None:
    assert disagreement_map(BELOW, ABOVE).tolist() == [[0, 0.625, 1, 0]]
    both_certain = front("1", [0.0]), front("2", [0.0])
    assert disagreement_map(*both_certain).tolist() == [[1]]


def test_a_disagreement_is_located_in_the_middle_of_its_region() -> None:
    cost = np.zeros((3, 5), np.float32)
    no_seeds = Seeds(np.array([]), np.zeros((0, 2)))
    below = Front(drawn("11111", "11111", "11111"), cost, no_seeds)
    above = Front(drawn("12221", "12221", "12221"), cost, no_seeds)
    mask = np.ones((3, 5), bool)
    assert largest_disagreements(below, above, mask) == [Disagreement(1, 2, 9, 1, 2)]
    assert largest_disagreements(below, above, ~mask) == []
    assert Disagreement(1, 2, 9, 1, 2).scaled(4, 2) == Disagreement(1, 2, 72, 6, 5)


def test_seeds_come_from_the_labeled_slice_that_is_nearest() -> None:
    fronts = {1: (0, BELOW), -1: (1, ABOVE)}
    assert seeds_of_nearest_slice(fronts, 3, (0, 10)).ids.tolist() == [7]
    assert seeds_of_nearest_slice(fronts, 5, (0, 10)).ids.tolist() == [7]
    assert seeds_of_nearest_slice(fronts, 6, (0, 10)).ids.tolist() == [8]


def test_one_place_for_each_pair_of_cells_between_two_labeled_slices() -> None:
    disagreements = [
        [],
        [(1, 2, 30, 5, 6)],
        [(2, 1, 50, 7, 8), (0, 1, 5, 0, 0)],
        [],
        [(1, 2, 40, 9, 9)],
        [],
    ]
    places = disagreement_places(disagreements, (0, 3, 5), 0.5)
    assert [
        (
            review_place.z,
            review_place.y,
            review_place.x,
            {review_place.first, review_place.second},
            review_place.area_um2,
            review_place.slices,
        )
        for review_place in places
    ] == [
        (2, 7, 8, {1, 2}, 25.0, 2),
        (2, 0, 0, {0, 1}, 2.5, 1),
        (4, 9, 9, {1, 2}, 20.0, 1),
    ]
    assert places[1].first == 1  # a cell, rather than no cell


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ([100, 101, 102, 103, 60, 61, 62], [4]),
        ([100, 130, 100, 130, 100, 130], []),  # changes like this are usual for the cell
        ([0, 0, 0, 0], []),
        ([0, 50, 51, 52, 53, 54, 0], [1, 6]),
        ([100, 110, 120, 130, 140], []),
    ],
)
def test_jumps_of_area_are_abrupt_and_unusual(area: list[int], expected: list[int]) -> None:
    assert abrupt_changes(np.array(area)) == expected


def test_the_largest_jumps_of_all_cells_come_first() -> None:
    areas = [{1: 100, 2: 50}, {1: 101, 2: 50}, {1: 30, 2: 51}, {1: 31}, {1: 31}, {1: 30}]
    assert largest_area_jumps(areas, 10) == [(2, 1, 71), (3, 2, 51)]
    assert largest_area_jumps(areas, 1) == [(2, 1, 71)]


def test_sizes_count_all_labels_but_background() -> None:
    ids, pixels = label_sizes(np.array([[5, 5, 0], [0, 5, 70_000]], np.uint32))
    assert (ids.tolist(), pixels.tolist()) == ([5, 70_000], [3, 1])
    assert [array.tolist() for array in label_sizes(np.zeros((2, 2), np.uint8))] == [[], []]
