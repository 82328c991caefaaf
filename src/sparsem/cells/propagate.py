"""Labels travel from a labelled slice through the slices beside it: three ways to carry them (paper 3.3).

A front is what has come to a slice, and how far it can be trusted. Fronts come from the labelled slices below and above, and
pixel by pixel the one of smaller cost has it. The state of a front is a mapping of arrays, so that it can be stored
and a propagation go on where it was. Arrays are (h, w), on the grid of the flow.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem.cells.arrival import Arrival, advanced, departure, resistance, spread
from sparsem.cells.flow import Carried, Flow, FlowSettings, composed, flow_between, inconsistency, remapped, sampled, stay, warped
from sparsem.cells.separate import Evidence, Labels, Mask, Probability, SeedPoint, Seeds, per_frame, seeds_of

State = Mapping[str, NDArray[Any]]

DISTANCE = 0.2  # flow pixels of disagreement that a slice further from the labelled one is worth
OUT_OF_REACH = 1.0  # cost at which an undecided pixel of a labelled slice is not its neighbour's: a boundary lies between


class CarrySettings(FlowSettings):
    """How labels travel."""

    seed: SeedPoint = Field("deepest", description="where in a cell its seed lies: deepest, or centroid as in the paper")


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
        """The state at a labelled slice."""
        ...

    def advance(self, before: State, here: View) -> State:
        """The state one slice further."""
        ...

    def front(self, state: State) -> Front:
        """What a state says of its slice."""
        ...


class ByFlow(NamedTuple):
    """Labels of the labelled slice through the composed flow: resampled once, however far away."""

    settings: CarrySettings

    def begin(self, labels: Labels, known: Mask, here: View) -> State:
        """Seeds are chosen here and travel on their own."""
        seeds = seeds_of(labels, self.settings.seed)
        start = stay((labels.shape[0], labels.shape[1]))
        state: dict[str, NDArray[Any]] = {"origin": labels, "known": known, "ids": seeds.ids, "places": seeds.places}
        return state | {"image": here.image, "flow": start.flow, "error": start.error}

    def advance(self, before: State, here: View) -> State:
        """Compose one more step."""
        step, back = _both_ways(before, here, self.settings)
        carried = composed(step, back, Carried(before["flow"], before["error"]))
        seeds = moved(Seeds(before["ids"], before["places"]), back)
        moving = {"ids": seeds.ids, "places": seeds.places, "flow": carried.flow, "error": carried.error + np.float32(DISTANCE)}
        return {**before, "image": here.image, **moving}

    def front(self, state: State) -> Front:
        """Labels are looked up where the composed flow leads."""
        known = remapped(state["known"].view(np.uint8), state["flow"], cv2.INTER_NEAREST, cv2.BORDER_CONSTANT) > 0
        cost = np.where(known, state["error"], np.inf).astype(np.float32)
        return Front(warped(state["origin"], state["flow"]), cost, Seeds(state["ids"], state["places"]))


class ByFrame(NamedTuple):
    """The result of a slice is what flows to the next one."""

    settings: CarrySettings

    def begin(self, labels: Labels, known: Mask, here: View) -> State:
        """The labelled slice is the first result."""
        return {"image": here.image, "labels": labels, "cost": np.where(known, 0, np.inf).astype(np.float32)}

    def advance(self, before: State, here: View) -> State:
        """Carry the last result on, and mend it by what the network sees here."""
        step, back = _both_ways(before, here, self.settings)
        carried = warped(before["labels"], step)
        seeds = seeds_of(carried, self.settings.seed)
        labels = per_frame(Evidence(here.interior, here.boundary, carried, seeds, here.rim))
        cost = sampled(before["cost"], step) + inconsistency(step, back) + np.float32(DISTANCE)
        return {"image": here.image, "labels": labels, "cost": cost}

    def front(self, state: State) -> Front:
        """The result, with no seeds: it is separated already."""
        return Front(state["labels"], state["cost"], Seeds(np.empty(0, state["labels"].dtype), np.empty((0, 2))))


class ByArrival(NamedTuple):
    """Labels race through slices and around boundaries; see ``arrival``."""

    settings: CarrySettings
    thickness: float  # distance of two slices over the edge of a grid pixel

    def begin(self, labels: Labels, known: Mask, here: View) -> State:
        """Undecided pixels go to the cell around them, but not to one beyond a boundary."""
        against = resistance(here.boundary, here.interior)
        start = departure(labels, known)
        if not known.all():
            reached = spread(start, against)
            far = reached.cost > OUT_OF_REACH
            start = Arrival(np.where(far, 0, reached.labels), np.where(far, 0, reached.cost))
        return {"image": here.image, "labels": start.labels, "cost": start.cost.astype(np.float32), "against": against}

    def advance(self, before: State, here: View) -> State:
        """Along the flow, then around in the slice."""
        against = resistance(here.boundary, here.interior)
        step = flow_between(here.image, before["image"], self.settings)
        arrived = advanced(Arrival(before["labels"], before["cost"]), before["against"], against, step, self.thickness)
        return {"image": here.image, "labels": arrived.labels, "cost": arrived.cost.astype(np.float32), "against": against}

    def front(self, state: State) -> Front:
        """What has arrived."""
        return Front(state["labels"], state["cost"], Seeds(np.empty(0, state["labels"].dtype), np.empty((0, 2))))


def moved(seeds: Seeds, flow: Flow) -> Seeds:
    """Seeds one slice further; ``flow`` leads from their slice to it. Those that leave the picture are lost."""
    height, width = flow.shape[:2]
    y, x = seeds.places.T
    steps = cv2.remap(flow, x.astype(np.float32)[None], y.astype(np.float32)[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    places = seeds.places + np.asarray(steps, np.float64).reshape(-1, 2)[:, ::-1]
    there = (np.round(places) >= 0).all(axis=1) & (np.round(places) < (height, width)).all(axis=1)
    return Seeds(seeds.ids[there], places[there])


def _both_ways(before: State, here: View, settings: FlowSettings) -> tuple[Flow, Flow]:
    """The flow from this slice to the one before, and back."""
    return flow_between(here.image, before["image"], settings), flow_between(before["image"], here.image, settings)
