"""Labels race outward from labeled slices: who arrives first has the pixel.

A label spreads within a slice against a resistance that is high on boundaries, and from slice to slice along the optical flow;
what it has spent is kept with it. Two slices that are labeled send their labels towards each other, and where they meet the
smaller cost decides: near slices count more than far ones, a way along a cell more than one across its border. This is
the per-frame propagation of the paper (3.3) with its confidence carried along, and both directions reconciled by it.

The least cost over all ways within a slice is found by sweeps along rows and columns (Zhao 2005): four running minima a round,
whatever the picture, and exact after as many rounds as the best way has turns.

Costs and resistances are (h, w) float64, labels (h, w) unsigned integers, on the grid of the flow.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.cells.flow import Flow, numbered, remapped

Labels = NDArray[Any]
Cost = NDArray[np.float64]

FLOOR = 1e-3  # of the resistance: inside of a cell way is almost free, so that a wide cell is no worse than a narrow one
CERTAIN = 1.02  # p / (CERTAIN - p): at p = 1 a boundary resists as much as fifty pixels of p = 0.5
ROUNDS = 2  # ways that turn more often gain nothing (measured on neurites: Dice 0.797, 0.801, 0.802 after 1, 2, 4 rounds)


class Arrival(NamedTuple):
    """What has arrived in a slice.

    Attributes:
        labels: of the winner; 0 where it is background, or where nothing arrives.
        cost: that it spent on its way; infinite where nothing arrives.
    """

    labels: Labels
    cost: Cost


def resistance(boundary: NDArray[np.float32], interior: NDArray[np.float32] | None = None) -> Cost:
    """How hard it is to cross a pixel: the odds of a boundary there, or of being outside of all cells, whatever is higher.

    Args:
        boundary: probability, 0..1.
        interior: probability of lying in a cell, 0..1; all of the slice does if not given.
    """
    odds = boundary if interior is None else np.maximum(boundary, 1 - interior)
    against = odds.astype(np.float64)
    return FLOOR + against / (CERTAIN - against)


def departure(labels: Labels, known: NDArray[np.bool_] | None = None) -> Arrival:
    """A labeled slice: every label is there at no cost, background too; a pixel that is not known waits for others."""
    cost = np.zeros(labels.shape) if known is None else np.where(known, 0.0, np.inf)
    return Arrival(
        labels if known is None else np.where(known, labels, 0).astype(labels.dtype), cost
    )


def advanced(
    before: Arrival,
    resistance_before: Cost,
    resistance_here: Cost,
    flow: Flow,
    thickness: float,
    rounds: int = ROUNDS,
) -> Arrival:
    """The next slice.

    Args:
        before: what has arrived in the slice before.
        resistance_before: of the slice before.
        resistance_here: of this one.
        flow: from this slice to the one before.
        thickness: distance of the slices over the edge of a flow pixel.
        rounds: of sweeps.
    """
    ids, small = numbered(before.labels)
    there = (small, before.cost.astype(np.float32), resistance_before.astype(np.float32))
    moved, cost, resisted = (
        remapped(values, flow, cv2.INTER_NEAREST, cv2.BORDER_REPLICATE) for values in there
    )
    start = Arrival(ids[moved], cost + thickness * (resisted + resistance_here) / 2)
    return spread(start, resistance_here, rounds)


def spread(start: Arrival, resistance_here: Cost, rounds: int = ROUNDS) -> Arrival:
    """Let labels pass from pixel to pixel, at the mean resistance of the two, wherever that is cheaper than what is there."""
    labels, cost = start
    for _ in range(rounds):
        for axis in (1, 0):
            labels, cost = _swept(labels, cost, resistance_here, axis)
            back = tuple(slice(None, None, -1) if one == axis else slice(None) for one in (0, 1))
            turned, spent = _swept(labels[back], cost[back], resistance_here[back], axis)
            labels, cost = turned[back], spent[back]
    return Arrival(labels, cost)


def first(one: Arrival, other: Arrival) -> Arrival:
    """Of two arrivals from either side the cheaper one, pixel by pixel; ``one`` where they are equal."""
    sooner = one.cost <= other.cost
    return Arrival(np.where(sooner, one.labels, other.labels), np.minimum(one.cost, other.cost))


def _swept(labels: Labels, cost: Cost, resistance_here: Cost, axis: int) -> tuple[Labels, Cost]:
    """Everything moves down (axis 0) or right (axis 1), as far as it pays.

    Coming from x' costs cost[x'] + R[x] - R[x'], where R is the running sum of the resistances: the best x' is where
    cost - R has its running minimum.
    """
    ahead, behind = (np.s_[1:], np.s_[:-1]) if axis == 0 else (np.s_[:, 1:], np.s_[:, :-1])
    way = np.zeros_like(cost)
    np.cumsum((resistance_here[ahead] + resistance_here[behind]) / 2, axis=axis, out=way[ahead])
    saved = cost - way
    least = np.minimum.accumulate(saved, axis=axis)
    index = np.arange(cost.shape[axis], dtype=np.int32).reshape((-1, 1) if axis == 0 else (1, -1))
    origin = np.maximum.accumulate(np.where(saved == least, index, 0), axis=axis)
    moved = np.take_along_axis(labels, origin, axis=axis)
    stays = origin == index
    return moved, np.where(stays, cost, least + way)  # who stays keeps its cost to the last bit
