"""Labels travel from a labeled slice through the slices beside it: three ways to carry them (paper 3.3).

A front is what has come to a slice, and how far it can be trusted. Fronts come from the labeled slices below and above, and
pixel by pixel the one of smaller cost has it. The state of a front is a mapping of arrays, so that it can be stored
and a propagation go on where it was. Arrays are (h, w), on the grid of the flow.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import map_coordinates

from sparsem.cells.flow import (
    ComposedFlow,
    Flow,
    FlowSettings,
    composed,
    flow_between,
    inconsistency,
    remapped,
    sampled,
    stay,
    warped,
)
from sparsem.cells.geodesic import Arrival, advanced, departure, resistance, spread
from sparsem.cells.separate import (
    NOBODY,
    Evidence,
    Labels,
    Mask,
    Probability,
    SeedPoint,
    Seeds,
    per_frame,
    seeds_of,
)

State = Mapping[str, NDArray[Any]]

DISTANCE = 0.2  # flow pixels of disagreement that a slice further from the labeled one is worth
OUT_OF_REACH = 1.0  # cost at which an undecided pixel of a labeled slice is not its neighbor's: a boundary lies between


class CarrySettings(FlowSettings):
    """How labels travel."""

    seed_point: SeedPoint = Field(
        "deepest", description="where in a cell its seed lies: deepest, or centroid as in the paper"
    )


class View(NamedTuple):
    """One slice.

    Attributes:
        image: uint8, for the flow.
        interior: probability of lying in a cell.
        boundary: probability of lying on the border of a cell.
        rim: see ``Evidence``.
    """

    image: NDArray[np.uint8]
    interior: Probability
    boundary: Probability
    rim: float


class Front(NamedTuple):
    """What has come to a slice.

    Attributes:
        labels: of cells, 0 for none.
        cost: float32; infinite where nothing has come.
        seeds: of the cells.
    """

    labels: Labels
    cost: NDArray[np.float32]
    seeds: Seeds


class Carrier(Protocol):
    """A way of carrying labels."""

    def begin(self, labels: Labels, known: Mask, here: View) -> State:
        """The state at a labeled slice."""
        ...

    def advance(self, before: State, here: View) -> State:
        """The state one slice further."""
        ...

    def front(self, state: State) -> Front:
        """What a state says of its slice."""
        ...


class ByFlow(NamedTuple):
    """Labels of the labeled slice through the composed flow: resampled once, however far away."""

    settings: CarrySettings

    def begin(self, labels: Labels, known: Mask, here: View) -> State:
        """Seeds are chosen here and travel on their own."""
        origin = _held(labels, known)
        seeds = seeds_of(origin, self.settings.seed_point)
        start = stay((labels.shape[0], labels.shape[1]))
        state: dict[str, NDArray[Any]] = {
            "origin": origin,
            "ids": seeds.ids,
            "places": seeds.places,
        }
        return state | {"image": here.image, "flow": start.flow, "error": start.error}

    def advance(self, before: State, here: View) -> State:
        """Compose one more step."""
        step, back = _both_ways(before, here, self.settings)
        carried = composed(step, back, ComposedFlow(before["flow"], before["error"]))
        seeds = moved(Seeds(before["ids"], before["places"]), back)
        moving = {
            "ids": seeds.ids,
            "places": seeds.places,
            "flow": carried.flow,
            "error": carried.error + np.float32(DISTANCE),
        }
        return {**before, "image": here.image, **moving}

    def front(self, state: State) -> Front:
        """Labels are looked up where the composed flow leads."""
        inside = (
            remapped(
                np.ones(state["error"].shape, np.uint8),
                state["flow"],
                cv2.INTER_NEAREST,
                cv2.BORDER_CONSTANT,
            )
            > 0
        )
        cost = np.where(inside, state["error"], np.inf)  # from beyond the picture comes nothing
        return _front(
            warped(state["origin"], state["flow"]), cost, Seeds(state["ids"], state["places"])
        )


class ByFrame(NamedTuple):
    """The result of a slice is what flows to the next one."""

    settings: CarrySettings

    def begin(self, labels: Labels, known: Mask, here: View) -> State:
        """The labeled slice is the first result."""
        return {
            "image": here.image,
            "labels": _held(labels, known),
            "cost": np.zeros(labels.shape, np.float32),
        }

    def advance(self, before: State, here: View) -> State:
        """Carry the last result on, and mend it by what the network sees here."""
        step, back = _both_ways(before, here, self.settings)
        carried = warped(before["labels"], step)
        seeds = seeds_of(carried, self.settings.seed_point)
        labels = per_frame(Evidence(here.interior, here.boundary, carried, seeds, here.rim))
        cost = sampled(before["cost"], step) + inconsistency(step, back) + np.float32(DISTANCE)
        return {"image": here.image, "labels": labels, "cost": cost}

    def front(self, state: State) -> Front:
        """The result, with no seeds: it is separated already."""
        return _front(state["labels"], state["cost"])


class ByArrival(NamedTuple):
    """Labels race through slices and around boundaries; see ``arrival``."""

    settings: CarrySettings
    thickness: float  # distance of two slices over the edge of a grid pixel

    def begin(self, labels: Labels, known: Mask, here: View) -> State:
        """Undecided pixels go to the cell around them, but not to one beyond a boundary."""
        against = resistance(here.boundary, here.interior)
        start = departure(_held(labels, known), known)
        if not known.all():
            reached = spread(start, against)
            far = reached.cost > OUT_OF_REACH
            start = Arrival(
                np.where(far, np.uint32(NOBODY), reached.labels), np.where(far, 0, reached.cost)
            )
        return {
            "image": here.image,
            "labels": start.labels,
            "cost": start.cost.astype(np.float32),
            "against": against,
        }

    def advance(self, before: State, here: View) -> State:
        """Along the flow, then around in the slice."""
        against = resistance(here.boundary, here.interior)
        step = flow_between(here.image, before["image"], self.settings)
        arrived = advanced(
            Arrival(before["labels"], before["cost"]),
            before["against"],
            against,
            step,
            self.thickness,
        )
        return {
            "image": here.image,
            "labels": arrived.labels,
            "cost": arrived.cost.astype(np.float32),
            "against": against,
        }

    def front(self, state: State) -> Front:
        """What has arrived."""
        return _front(state["labels"], state["cost"])


def moved(seeds: Seeds, flow: Flow) -> Seeds:
    """Seeds one slice further; ``flow`` leads from their slice to it. Those that leave the picture are lost."""
    height, width = flow.shape[:2]
    steps = [
        map_coordinates(flow[..., axis], seeds.places.T, np.float64, order=1, mode="nearest")
        for axis in (1, 0)
    ]
    places = seeds.places + np.stack(steps, axis=1)
    there = (np.round(places) >= 0).all(axis=1) & (np.round(places) < (height, width)).all(axis=1)
    return Seeds(seeds.ids[there], places[there])


def _held(labels: Labels, known: Mask) -> NDArray[np.uint32]:
    """A labeled slice whose undecided pixels hold their place, so that their neighbors do not take it."""
    return np.where(known, labels, NOBODY).astype(np.uint32)


def _front(labels: Labels, cost: NDArray[np.floating[Any]], seeds: Seeds | None = None) -> Front:
    """What nobody decided on is worth nothing against what comes from another side."""
    none = Seeds(np.empty(0, labels.dtype), np.empty((0, 2)))
    return Front(
        labels,
        np.where(labels == NOBODY, np.inf, cost).astype(np.float32),
        none if seeds is None else seeds,
    )


def _both_ways(before: State, here: View, settings: FlowSettings) -> tuple[Flow, Flow]:
    """The flow from this slice to the one before, and back."""
    return flow_between(here.image, before["image"], settings), flow_between(
        before["image"], here.image, settings
    )
