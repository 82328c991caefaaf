"""Propagation by arrival cost: compared with shortest paths by Dijkstra, and small drawn cases."""

from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from sparsem.cells.geodesic import (
    MIN_RESISTANCE,
    Arrival,
    advance_arrival,
    cheaper_arrival,
    initial_arrival,
    resistance,
    spread_labels,
)
from tests.conftest import drawn

fields = hnp.arrays(np.float64, (7, 9), elements=st.integers(1, 64).map(lambda n: n / 8))


def minimum_cost(cost: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the minimum cost of every pixel from anywhere in the slice, by Dijkstra."""
    height, width = cost.shape
    index = np.arange(cost.size).reshape(cost.shape)
    first = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
    second = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
    weight = (weights.ravel()[first] + weights.ravel()[second]) / 2
    graph = coo_array((weight, (first, second)), shape=(height * width, height * width)).tocsr()
    total = dijkstra(graph, directed=False) + cost.ravel()[:, None]
    return np.asarray(total.min(axis=0).reshape(cost.shape))


@given(weights=fields, cost=fields)
def test_spreading_finds_the_cheapest_paths(
    weights: NDArray[np.float64], cost: NDArray[np.float64]
) -> None:
    labels = np.arange(1, cost.size + 1, dtype=np.uint32).reshape(cost.shape)
    arrival = spread_labels(Arrival(labels, cost), weights, rounds=20)
    assert np.allclose(arrival.cost, minimum_cost(cost, weights))
    # The label of a pixel is one that reaches it at this cost.
    single_source = np.full(cost.shape, np.inf)
    source = int(arrival.labels[3, 4]) - 1
    single_source.flat[source] = cost.flat[source]
    assert minimum_cost(single_source, weights)[3, 4] == pytest.approx(arrival.cost[3, 4])


@given(weights=fields, cost=fields)
def test_two_rounds_never_undercut_the_cheapest_path(
    weights: NDArray[Any], cost: NDArray[Any]
) -> None:
    labels = np.zeros(cost.shape, np.uint8)
    arrival = spread_labels(Arrival(labels, cost), weights)
    assert (arrival.cost >= minimum_cost(cost, weights) - 1e-9).all()


def resistance_of_drawing(drawing: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the resistance of a drawing in which 9 is a boundary."""
    return resistance((drawing == 9).astype(np.float32))


def test_a_boundary_stops_a_label_and_a_gap_lets_it_pass() -> None:
    two_cells = initial_arrival(
        drawn("1...2", "1...2", "1...2"), drawn("1...1", "1...1", "1...1") > 0
    )
    closed = resistance_of_drawing(drawn("...9.", "...9.", "...9."))
    assert spread_labels(two_cells, closed).labels[:, :3].tolist() == [[1, 1, 1]] * 3
    one_cell = initial_arrival(
        drawn("1....", "1....", "1...."), drawn("1....", "1....", "1....") > 0
    )
    assert spread_labels(one_cell, closed).cost[0, 4] > 40
    with_gap = resistance_of_drawing(drawn("...9.", "...9.", "....."))
    assert spread_labels(one_cell, with_gap).cost[0, 4] < 0.1  # down, through, and up again


def test_labels_follow_the_flow_into_the_next_slice_and_grow_up_to_the_boundary() -> None:
    previous = initial_arrival(drawn("11..22", "11..22"), np.ones((2, 6), bool))
    no_boundary = resistance_of_drawing(drawn("......", "......"))
    with_boundary = resistance_of_drawing(drawn("...9..", "...9.."))
    # The content has moved right by one pixel.
    flow = np.broadcast_to(np.array([-1, 0], np.float32), (2, 6, 2)).copy()
    arrival = advance_arrival(previous, no_boundary, with_boundary, flow, thickness=1)
    assert arrival.labels.tolist() == [[1, 1, 1, 0, 0, 2]] * 2
    assert arrival.cost[0, 0] == pytest.approx(MIN_RESISTANCE)
    assert arrival.cost[0, 3] > 20
    thick = advance_arrival(previous, no_boundary, with_boundary, flow, thickness=5)
    assert thick.cost[0, 0] == pytest.approx(5 * MIN_RESISTANCE)


def test_unknown_pixels_take_labels_that_arrive_and_stay_empty_without() -> None:
    labels = drawn("33", "33").astype(np.uint32) * 100_000
    all_unknown = initial_arrival(labels, np.zeros((2, 2), bool))
    assert np.isinf(spread_labels(all_unknown, np.ones((2, 2))).cost).all()
    assert not spread_labels(all_unknown, np.ones((2, 2))).labels.any()
    one_known = initial_arrival(labels, np.array([[True, False], [False, False]]))
    assert (spread_labels(one_known, np.ones((2, 2))).labels == 300_000).all()


def test_the_cheaper_arrival_is_chosen_and_the_first_of_equal_ones() -> None:
    first = Arrival(drawn("111"), np.array([[1.0, 2.0, np.inf]]))
    second = Arrival(drawn("222"), np.array([[2.0, 2.0, 5.0]]))
    assert cheaper_arrival(first, second).labels.tolist() == [[1, 1, 2]]
    assert cheaper_arrival(first, second).cost.tolist() == [[1, 2, 5]]


def test_resistance_is_the_odds_of_a_boundary_or_of_lying_outside() -> None:
    boundary, interior = np.array([[0, 0.5, 1]], np.float32), np.array([[1, 1, 0]], np.float32)
    assert resistance(boundary)[0] == pytest.approx(
        [MIN_RESISTANCE, MIN_RESISTANCE + 0.5 / 0.52, MIN_RESISTANCE + 50], rel=1e-4
    )
    assert resistance(np.zeros_like(boundary), interior)[0] == pytest.approx(
        [MIN_RESISTANCE, MIN_RESISTANCE, MIN_RESISTANCE + 50], rel=1e-4
    )
