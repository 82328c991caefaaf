"""Doubt, places to look at, and jumps of area: small cases drawn."""

import numpy as np
import pytest

from sparsem.cells.disagreement import Place, doubt, nearer, places_of_doubt
from sparsem.cells.intervals import seeds_of_nearest
from sparsem.cells.propagate import Front
from sparsem.cells.review import area_jumps, disagreements, jumps
from sparsem.cells.separate import Seeds
from sparsem.labels.overlaps import label_sizes
from tests.conftest import drawn


def front(labels: str, costs: list[float], seed: int = 0) -> Front:
    seeds = Seeds(np.array([seed]), np.zeros((1, 2)))
    return Front(drawn(labels), np.array([costs], np.float32), seeds)


BELOW = front("1112", [0.0, 1.0, 4.0, np.inf], seed=7)
ABOVE = front("1221", [9.0, 4.0, 4.0, 1.0], seed=8)


def test_the_nearer_front_has_the_pixel() -> None:
    assert nearer(BELOW, ABOVE).labels.tolist() == [
        [1, 1, 1, 1]
    ]  # equal: the one below; infinite: the one that came
    assert nearer(BELOW, ABOVE).cost.tolist() == [[0, 1, 4, 1]]


def test_doubt_is_greatest_where_both_are_equally_certain() -> None:
    assert doubt(BELOW, ABOVE).tolist() == [[0, 0.625, 1, 0]]
    both_sure = front("1", [0.0]), front("2", [0.0])
    assert doubt(*both_sure).tolist() == [[1]]


def test_places_are_the_middle_of_what_is_disputed() -> None:
    flat = np.zeros((3, 5), np.float32)
    none = Seeds(np.array([]), np.zeros((0, 2)))
    below, above = (
        Front(drawn("11111", "11111", "11111"), flat, none),
        Front(drawn("12221", "12221", "12221"), flat, none),
    )
    inside = np.ones((3, 5), bool)
    assert places_of_doubt(below, above, inside) == [Place(1, 2, 9, 1, 2)]
    assert places_of_doubt(below, above, ~inside) == []
    assert Place(1, 2, 9, 1, 2).enlarged(4, 2) == Place(1, 2, 72, 6, 5)


def test_seeds_come_from_the_labeled_slice_that_is_nearest() -> None:
    at = {1: (0, BELOW), -1: (1, ABOVE)}
    assert seeds_of_nearest(at, 3, (0, 10)).ids.tolist() == [7]
    assert seeds_of_nearest(at, 5, (0, 10)).ids.tolist() == [7]
    assert seeds_of_nearest(at, 6, (0, 10)).ids.tolist() == [8]


def test_one_place_for_each_pair_of_cells_between_two_labeled_slices() -> None:
    places = [
        [],
        [(1, 2, 30, 5, 6)],
        [(2, 1, 50, 7, 8), (0, 1, 5, 0, 0)],
        [],
        [(1, 2, 40, 9, 9)],
        [],
    ]
    found = disagreements(places, (0, 3, 5), 0.5)
    assert [
        (one.z, one.y, one.x, {one.first, one.second}, one.area_um2, one.slices) for one in found
    ] == [
        (2, 7, 8, {1, 2}, 25.0, 2),
        (2, 0, 0, {0, 1}, 2.5, 1),
        (4, 9, 9, {1, 2}, 20.0, 1),
    ]
    assert found[1].first == 1  # a cell, rather than no cell


@pytest.mark.parametrize(
    ("area", "expected"),
    [
        ([100, 101, 102, 103, 60, 61, 62], [4]),
        ([100, 130, 100, 130, 100, 130], []),  # it always jumps about like that
        ([0, 0, 0, 0], []),
        ([0, 50, 51, 52, 53, 54, 0], [1, 6]),
        ([100, 110, 120, 130, 140], []),
    ],
)
def test_jumps_of_area_are_abrupt_and_unusual(area: list[int], expected: list[int]) -> None:
    assert jumps(np.array(area)) == expected


def test_the_largest_jumps_of_all_cells_come_first() -> None:
    areas = [{1: 100, 2: 50}, {1: 101, 2: 50}, {1: 30, 2: 51}, {1: 31}, {1: 31}, {1: 30}]
    assert area_jumps(areas, 10) == [(2, 1, 71), (3, 2, 51)]
    assert area_jumps(areas, 1) == [(2, 1, 71)]


def test_sizes_count_all_but_nothing() -> None:
    ids, pixels = label_sizes(np.array([[5, 5, 0], [0, 5, 70_000]], np.uint32))
    assert (ids.tolist(), pixels.tolist()) == ([5, 70_000], [3, 1])
    assert [one.tolist() for one in label_sizes(np.zeros((2, 2), np.uint8))] == [[], []]
