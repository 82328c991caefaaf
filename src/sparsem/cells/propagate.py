"""Propagation of labels from a labeled slice to the slices next to it: three methods (paper 3.3).

A front is the labels that have reached a slice, and their cost. Fronts come from the labeled slices
below and above, and each pixel takes the label of the front of smaller cost. The state of a
propagation is a mapping of arrays, so that it can be stored and continued later. Arrays are (h, w),
on the grid of the flow.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from sparsem.cells.geodesic import (
    Arrival,
    advance_arrival,
    initial_arrival,
    resistance,
    spread_labels,
)
from sparsem.cells.separate import (
    UNDECIDED,
    Evidence,
    Labels,
    Mask,
    Probability,
    Seeds,
    place_seeds,
    separate_per_frame,
)
from sparsem.cells.settings import PropagationSettings
from sparsem.cells.warp import warp_labels
from sparsem.image.flow import (
    ComposedFlow,
    Flow,
    compose_flow,
    flow_between,
    identity_flow,
    inconsistency,
    remap_values,
    sample_along,
)
from sparsem.image.settings import FlowSettings

State = Mapping[str, NDArray[Any]]

# Cost of one slice of distance from the labeled slice, in flow pixels of inconsistency.
COST_PER_SLICE = 0.2
# An undecided pixel of a labeled slice joins the cells around it below this cost: above, a boundary
# lies between them.
MAX_FILL_COST = 1.0


class GridSlice(NamedTuple):
    """Image and network output of one slice, on the grid of the flow.

    Attributes:
        image: uint8, for the flow.
        interior: probability of lying in a cell.
        boundary: probability of lying on the boundary of a cell.
        margin: see ``Evidence``.
    """

    image: NDArray[np.uint8]
    interior: Probability
    boundary: Probability
    margin: float


class Front(NamedTuple):
    """Labels that have reached a slice.

    Attributes:
        labels: labels of cells, 0 for none.
        cost: float32; infinite where no label has arrived.
        seeds: seeds of the cells.
        along_flow: labels of the labeled slice, carried by the optical flow alone; None for
            methods that do not compare them with those of the other side.
    """

    labels: Labels
    cost: NDArray[np.float32]
    seeds: Seeds
    along_flow: Labels | None = None


class Carrier(Protocol):
    """A method of propagation."""

    def begin(self, labels: Labels, known: Mask, current: GridSlice) -> State:
        """Return the state at a labeled slice."""
        ...

    def advance(self, previous: State, current: GridSlice) -> State:
        """Return the state one slice further."""
        ...

    def front(self, state: State) -> Front:
        """Return the front of a state at its slice."""
        ...


class FlowCarrier(NamedTuple):
    """Labels of the labeled slice, carried along the composed flow and resampled only once."""

    settings: PropagationSettings

    def begin(self, labels: Labels, known: Mask, current: GridSlice) -> State:
        """Place the seeds; they are propagated separately from the labels."""
        origin = _mark_undecided(labels, known)
        seeds = place_seeds(origin, self.settings.seed_point)
        composed = identity_flow((labels.shape[0], labels.shape[1]))
        return {
            "origin": origin,
            "ids": seeds.ids,
            "positions": seeds.positions,
            "image": current.image,
            "flow": composed.flow,
            "error": composed.error,
        }

    def advance(self, previous: State, current: GridSlice) -> State:
        """Compose one more step of flow and move the seeds along it."""
        step, back = _flow_and_back(previous, current, self.settings)
        composed = compose_flow(step, back, ComposedFlow(previous["flow"], previous["error"]))
        seeds = move_seeds(Seeds(previous["ids"], previous["positions"]), back)
        return {
            **previous,
            "image": current.image,
            "ids": seeds.ids,
            "positions": seeds.positions,
            "flow": composed.flow,
            "error": composed.error + np.float32(COST_PER_SLICE),
        }

    def front(self, state: State) -> Front:
        """Sample the labels along the composed flow."""
        ones = np.ones(state["error"].shape, np.uint8)
        inside = remap_values(ones, state["flow"], cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) > 0
        # No label comes from beyond the border of the labeled slice.
        cost = np.where(inside, state["error"], np.inf)
        labels = warp_labels(state["origin"], state["flow"])
        return _front(labels, cost, Seeds(state["ids"], state["positions"]))


class PerFrameCarrier(NamedTuple):
    """Labels carried from slice to slice, and corrected in each of them."""

    settings: PropagationSettings

    def begin(self, labels: Labels, known: Mask, current: GridSlice) -> State:
        """Return the labeled slice as the first result."""
        return {
            "image": current.image,
            "labels": _mark_undecided(labels, known),
            "cost": np.zeros(labels.shape, np.float32),
        }

    def advance(self, previous: State, current: GridSlice) -> State:
        """Carry the previous result to this slice and correct it by the network's output."""
        step, back = _flow_and_back(previous, current, self.settings)
        carried = warp_labels(previous["labels"], step)
        seeds = place_seeds(carried, self.settings.seed_point)
        evidence = Evidence(current.interior, current.boundary, carried, seeds, current.margin)
        labels = separate_per_frame(evidence)
        carried_cost = sample_along(previous["cost"], step)
        cost = carried_cost + inconsistency(step, back) + np.float32(COST_PER_SLICE)
        return {"image": current.image, "labels": labels, "cost": cost}

    def front(self, state: State) -> Front:
        """Return the result, without seeds: its cells are separated already."""
        return _front(state["labels"], state["cost"])


class ArrivalCarrier(NamedTuple):
    """Labels propagated by arrival cost (see ``geodesic``), and along the flow alone.

    Attributes:
        settings: settings of the flow.
        thickness: distance of two slices divided by the edge of a grid pixel.
    """

    settings: PropagationSettings
    thickness: float

    def begin(self, labels: Labels, known: Mask, current: GridSlice) -> State:
        """Return the labels of a labeled slice at cost 0.

        Undecided pixels join the cell around them, unless a boundary lies between.
        """
        slice_resistance = resistance(current.boundary, current.interior)
        start = initial_arrival(_mark_undecided(labels, known), known)
        if not known.all():
            reached = spread_labels(start, slice_resistance)
            is_far = reached.cost > MAX_FILL_COST
            start = Arrival(
                np.where(is_far, np.uint32(UNDECIDED), reached.labels),
                np.where(is_far, 0, reached.cost),
            )
        still = np.zeros((*labels.shape, 2), np.float32)
        state = _arrival_state(current.image, start, slice_resistance)
        return {**state, "origin": _mark_undecided(labels, known), "flow": still}

    def advance(self, previous: State, current: GridSlice, seeds: Labels | None = None) -> State:
        """Propagate along the flow to this slice, then within the slice, with ``seeds`` of it."""
        slice_resistance = resistance(current.boundary, current.interior)
        step = flow_between(current.image, previous["image"], self.settings)
        arrival = advance_arrival(
            Arrival(previous["labels"], previous["cost"]),
            previous["resistance"],
            slice_resistance,
            step,
            self.thickness,
            seeds=seeds,
        )
        composed = step + sample_along(previous["flow"], step)
        state = _arrival_state(current.image, arrival, slice_resistance)
        return {**state, "origin": previous["origin"], "flow": composed}

    def front(self, state: State) -> Front:
        """Return the labels that have arrived, and those that the flow alone carries."""
        arrived = _front(state["labels"], state["cost"])
        return arrived._replace(along_flow=warp_labels(state["origin"], state["flow"]))


def _arrival_state(
    image: NDArray[np.uint8], arrival: Arrival, slice_resistance: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    return {
        "image": image,
        "labels": arrival.labels,
        "cost": arrival.cost.astype(np.float32),
        "resistance": slice_resistance,
    }


def move_seeds(seeds: Seeds, flow: Flow) -> Seeds:
    """Move seeds one slice further; ``flow`` leads from their slice to it.

    Seeds that leave the slice are removed.
    """
    height, width = flow.shape[:2]
    steps = [
        map_coordinates(flow[..., axis], seeds.positions.T, np.float64, order=1, mode="nearest")
        for axis in (1, 0)
    ]
    positions = seeds.positions + np.stack(steps, axis=1)
    pixels = np.round(positions)
    inside = (pixels >= 0).all(axis=1) & (pixels < (height, width)).all(axis=1)
    return Seeds(seeds.ids[inside], positions[inside])


def _mark_undecided(labels: Labels, known: Mask) -> NDArray[np.uint32]:
    """Label the unknown pixels of a labeled slice as ``UNDECIDED``: no cell spreads there."""
    return np.where(known, labels, UNDECIDED).astype(np.uint32)


def _front(labels: Labels, cost: NDArray[np.floating[Any]], seeds: Seeds | None = None) -> Front:
    """Return a front whose undecided pixels have infinite cost: any other label replaces them."""
    if seeds is None:
        seeds = Seeds(np.empty(0, labels.dtype), np.empty((0, 2)))
    cost_or_infinite = np.where(labels == UNDECIDED, np.inf, cost).astype(np.float32)
    return Front(labels, cost_or_infinite, seeds)


def _flow_and_back(
    previous: State, current: GridSlice, settings: FlowSettings
) -> tuple[Flow, Flow]:
    """Return the flow from this slice to the previous one, and the flow back."""
    step = flow_between(current.image, previous["image"], settings)
    back = flow_between(previous["image"], current.image, settings)
    return step, back
