"""The race of labels: against shortest paths by Dijkstra, and small cases drawn."""

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from sparsem.cells.geodesic import FLOOR, Arrival, advanced, departure, first, resistance, spread
from tests.conftest import drawn

pictures = hnp.arrays(np.float64, (7, 9), elements=st.integers(1, 64).map(lambda n: n / 8))


def shortest(cost: NDArray[np.float64], against: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least cost of every pixel from anywhere in the slice: the plain way."""
    height, width = cost.shape
    index = np.arange(cost.size).reshape(cost.shape)
    pairs = [(index[:, 1:], index[:, :-1]), (index[1:], index[:-1])]
    one, two = (np.concatenate([pair[side].ravel() for pair in pairs]) for side in (0, 1))
    weight = (against.ravel()[one] + against.ravel()[two]) / 2
    graph = coo_array((weight, (one, two)), shape=(height * width, height * width)).tocsr()
    return np.asarray(
        (dijkstra(graph, directed=False) + cost.ravel()[:, None]).min(axis=0).reshape(cost.shape)
    )


@given(against=pictures, cost=pictures)
def test_spreading_finds_the_cheapest_ways(
    against: NDArray[np.float64], cost: NDArray[np.float64]
) -> None:
    labels = np.arange(1, cost.size + 1, dtype=np.uint32).reshape(cost.shape)
    found = spread(Arrival(labels, cost), against, rounds=20)
    assert np.allclose(found.cost, shortest(cost, against))
    # Every winner is one that gets there at that cost.
    alone = np.full(cost.shape, np.inf)
    winner = int(found.labels[3, 4]) - 1
    alone.flat[winner] = cost.flat[winner]
    assert shortest(alone, against)[3, 4] == pytest.approx(found.cost[3, 4])


@given(against=pictures, cost=pictures)
def test_two_rounds_are_never_better_than_the_best_way(
    against: NDArray[Any], cost: NDArray[Any]
) -> None:
    labels = np.zeros(cost.shape, np.uint8)
    assert (spread(Arrival(labels, cost), against).cost >= shortest(cost, against) - 1e-9).all()


def walls(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return resistance((picture == 9).astype(np.float32))


def test_a_boundary_stops_a_label_and_a_gap_lets_it_pass() -> None:
    start = departure(drawn("1...2", "1...2", "1...2"), drawn("1...1", "1...1", "1...1") > 0)
    shut = walls(drawn("...9.", "...9.", "...9."))
    assert spread(start, shut).labels[:, :3].tolist() == [[1, 1, 1]] * 3
    alone = departure(drawn("1....", "1....", "1...."), drawn("1....", "1....", "1....") > 0)
    assert spread(alone, shut).cost[0, 4] > 40
    gap = walls(drawn("...9.", "...9.", "....."))
    assert spread(alone, gap).cost[0, 4] < 0.1  # down, through, and up again


def test_labels_follow_the_flow_into_the_next_slice_and_grow_up_to_the_boundary() -> None:
    before = departure(drawn("11..22", "11..22"), np.ones((2, 6), bool))
    here = walls(drawn("...9..", "...9.."))
    right = np.broadcast_to(
        np.array([-1, 0], np.float32), (2, 6, 2)
    ).copy()  # the content has moved right by one
    found = advanced(before, walls(drawn("......", "......")), here, right, thickness=1)
    assert found.labels.tolist() == [[1, 1, 1, 0, 0, 2]] * 2
    assert found.cost[0, 0] == pytest.approx(FLOOR)
    assert found.cost[0, 3] > 20
    thick = advanced(before, walls(drawn("......", "......")), here, right, thickness=5)
    assert thick.cost[0, 0] == pytest.approx(5 * FLOOR)


def test_what_is_not_known_waits_and_what_nothing_reaches_is_nothing() -> None:
    labels = drawn("33", "33").astype(np.uint32) * 100_000
    nowhere = departure(labels, np.zeros((2, 2), bool))
    assert np.isinf(spread(nowhere, np.ones((2, 2))).cost).all()
    assert not spread(nowhere, np.ones((2, 2))).labels.any()
    half = departure(labels, np.array([[True, False], [False, False]]))
    assert (spread(half, np.ones((2, 2))).labels == 300_000).all()


def test_the_cheaper_side_wins_and_the_first_named_a_tie() -> None:
    one = Arrival(drawn("111"), np.array([[1.0, 2.0, np.inf]]))
    other = Arrival(drawn("222"), np.array([[2.0, 2.0, 5.0]]))
    assert first(one, other).labels.tolist() == [[1, 1, 2]]
    assert first(one, other).cost.tolist() == [[1, 2, 5]]


def test_resistance_is_the_odds_of_a_boundary_or_of_lying_outside() -> None:
    boundary, interior = np.array([[0, 0.5, 1]], np.float32), np.array([[1, 1, 0]], np.float32)
    assert resistance(boundary)[0] == pytest.approx(
        [FLOOR, FLOOR + 0.5 / 0.52, FLOOR + 50], rel=1e-4
    )
    assert resistance(np.zeros_like(boundary), interior)[0] == pytest.approx(
        [FLOOR, FLOOR, FLOOR + 50], rel=1e-4
    )
