"""Propagation of labels by geodesic arrival cost, from labeled slices to the others.

A label spreads within a slice against a resistance that is high on boundaries, and from slice to
slice along the optical flow. The cost that it has accumulated is stored with it. Two labeled slices
send their labels towards each other, and each pixel between them takes the label of smaller cost:
near slices count more than distant ones, and a path along a cell costs less than a path across its
boundary. This is the per-frame propagation of the paper (3.3) with its confidence carried along,
which then reconciles the two directions.

The minimum cost over all paths within a slice is computed by sweeps along rows and columns
(Zhao 2005): four running minima a round whatever the image, exact after as many rounds as the best
path has turns.

Costs and resistances are (h, w) float64, labels (h, w) unsigned integers, on the grid of the flow.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.cells.warp import compact_labels
from sparsem.image.flow import Flow, remap_values

Labels = NDArray[Any]
Cost = NDArray[np.float64]

# Minimum of the resistance: almost free inside of a cell, so that wide cells are not penalized.
MIN_RESISTANCE = 1e-3
# p / (CERTAIN - p): at p = 1 a boundary resists as much as fifty pixels of p = 0.5.
CERTAIN = 1.02
# Paths with more turns gain nothing: Dice on neurites 0.797, 0.801, 0.802 after 1, 2, 4 rounds.
ROUNDS = 2


class Arrival(NamedTuple):
    """Labels that arrived in a slice, and their cost.

    Attributes:
        labels: label of the smallest cost; 0 where that is background, or where nothing arrived.
        cost: cost of its path; infinite where nothing arrived.
    """

    labels: Labels
    cost: Cost


def resistance(boundary: NDArray[np.float32], interior: NDArray[np.float32] | None = None) -> Cost:
    """Return the resistance of every pixel to labels that cross it.

    It is the odds of a boundary, or of lying outside of all cells, whichever is higher.

    Args:
        boundary: probability of a boundary, 0..1.
        interior: probability of lying in a cell, 0..1; 1 everywhere if not given.
    """
    probability = boundary if interior is None else np.maximum(boundary, 1 - interior)
    crossing = probability.astype(np.float64)
    return MIN_RESISTANCE + crossing / (CERTAIN - crossing)


def initial_arrival(labels: Labels, known: NDArray[np.bool_] | None = None) -> Arrival:
    """Return the arrival in a labeled slice: every label, background too, at cost 0.

    Pixels that are not known have no label and infinite cost, so that any label may reach them.
    """
    if known is None:
        return Arrival(labels, np.zeros(labels.shape))
    cost = np.where(known, 0.0, np.inf)
    return Arrival(np.where(known, labels, 0).astype(labels.dtype), cost)


def advance_arrival(
    previous: Arrival,
    previous_resistance: Cost,
    slice_resistance: Cost,
    flow: Flow,
    thickness: float,
    rounds: int = ROUNDS,
    seeds: Labels | None = None,
) -> Arrival:
    """Propagate labels to the next slice: along the flow, then within the slice.

    Args:
        previous: what has arrived in the previous slice.
        previous_resistance: resistance of the previous slice.
        slice_resistance: resistance of this slice.
        flow: from this slice to the previous one.
        thickness: distance of the two slices divided by the edge of a flow pixel.
        rounds: number of rounds of sweeps.
        seeds: labels that begin in this slice at cost 0, where they are not 0; none if not given.
    """
    ids, compact = compact_labels(previous.labels)
    carried = _sample_nearest(compact, flow)
    carried_cost = _sample_nearest(previous.cost.astype(np.float32), flow)
    carried_resistance = _sample_nearest(previous_resistance.astype(np.float32), flow)
    cost = carried_cost + thickness * (carried_resistance + slice_resistance) / 2
    arrival = Arrival(ids[carried], cost)
    if seeds is not None:
        is_seed = seeds > 0
        arrival = Arrival(np.where(is_seed, seeds, arrival.labels), np.where(is_seed, 0, cost))
    return spread_labels(arrival, slice_resistance, rounds)


def _sample_nearest(values: NDArray[Any], flow: Flow) -> NDArray[Any]:
    """Sample the nearest values along a flow; beyond the border, those of the border."""
    return remap_values(values, flow, cv2.INTER_NEAREST, cv2.BORDER_REPLICATE)


def spread_labels(start: Arrival, slice_resistance: Cost, rounds: int = ROUNDS) -> Arrival:
    """Spread labels from pixel to pixel wherever they arrive at a smaller cost than the present.

    A step costs the mean resistance of its two pixels.
    """
    labels, cost = start
    for _ in range(rounds):
        for axis in (1, 0):
            labels, cost = _sweep(labels, cost, slice_resistance, axis)
            flip = np.s_[::-1] if axis == 0 else np.s_[:, ::-1]
            flipped_labels, flipped_cost = _sweep(
                labels[flip], cost[flip], slice_resistance[flip], axis
            )
            labels, cost = flipped_labels[flip], flipped_cost[flip]
    return Arrival(labels, cost)


def cheaper_arrival(first: Arrival, second: Arrival) -> Arrival:
    """Return the cheaper of two arrivals, pixel by pixel; ``first`` where the costs are equal."""
    is_first = first.cost <= second.cost
    labels = np.where(is_first, first.labels, second.labels)
    return Arrival(labels, np.minimum(first.cost, second.cost))


def _sweep(labels: Labels, cost: Cost, slice_resistance: Cost, axis: int) -> tuple[Labels, Cost]:
    """Move all labels down (axis 0) or right (axis 1), as far as they lower the cost.

    Coming from x' costs cost[x'] + R[x] - R[x'], where R is the running sum of the resistances: the
    best x' is where cost - R has its running minimum.
    """
    path = _running_sum(slice_resistance, axis)  # R
    offset_cost = cost - path
    minimum = np.minimum.accumulate(offset_cost, axis=axis)
    index = np.arange(cost.shape[axis], dtype=np.int32).reshape((-1, 1) if axis == 0 else (1, -1))
    is_new_minimum = offset_cost == minimum
    origin = np.maximum.accumulate(np.where(is_new_minimum, index, 0), axis=axis)
    moved_labels = np.take_along_axis(labels, origin, axis=axis)
    # Where the origin is the pixel itself, its cost stays the same to the last bit.
    return moved_labels, np.where(origin == index, cost, minimum + path)


def _running_sum(slice_resistance: Cost, axis: int) -> Cost:
    """Return the sum of resistances from the first pixel of every line along an axis."""
    ahead, behind = (np.s_[1:], np.s_[:-1]) if axis == 0 else (np.s_[:, 1:], np.s_[:, :-1])
    path = np.zeros_like(slice_resistance)
    steps = (slice_resistance[ahead] + slice_resistance[behind]) / 2
    np.cumsum(steps, axis=axis, out=path[ahead])
    return path
