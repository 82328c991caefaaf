"""The order in which labels are propagated through a stack, and the files that they leave.

Labels are carried from every labeled slice up and down to its labeled neighbors.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.cells.propagate import Front
from sparsem.cells.separate import Seeds
from sparsem.workflow.stage import Arrays, fingerprint_of, link_arrays

# Costs are stored in half precision; larger ones are stored as this.
MAX_COST = 60_000.0


class Leg(NamedTuple):
    """Slices start..stop (exclusive) that labels cross in one piece of work.

    Attributes:
        source: index of the labeled slice that the labels come from.
        step: 1 upward, -1 downward.
        start: lowest slice.
        stop: slice above the highest one.
        begins: whether the labeled slice is the first of the leg.
    """

    source: int
    step: int
    start: int
    stop: int
    begins: bool


def plan_legs(
    z: Sequence[int], n_slices: int, depth: int, is_needed: Sequence[bool]
) -> dict[str, list[Leg]]:
    """Return the chains of legs from the labeled slices, cut at z-blocks.

    Legs behind the last slice that is needed are left out. A leg is the same whatever is needed, so
    that a finished leg serves every run.

    Args:
        z: numbers of the labeled slices, ascending.
        n_slices: depth of the stack.
        depth: slices of a z-block.
        is_needed: for every slice, whether its result has to be computed.

    Returns:
        Name of a chain (``9-up``, ``9-down``) -> its legs in the order of propagation.
    """
    chains = {}
    for source, labeled_slice in enumerate(z):
        upward, downward = _legs_from(source, z, n_slices, depth)
        chains[f"{labeled_slice}-up"] = upward
        chains[f"{labeled_slice}-down"] = downward
    needed_chains = {}
    for name, chain in chains.items():
        needed = [n for n, leg in enumerate(chain) if any(is_needed[leg.start : leg.stop])]
        if needed:
            needed_chains[name] = chain[: needed[-1] + 1]
    return needed_chains


def whole_intervals(z: Sequence[int], is_needed: Sequence[bool]) -> list[bool]:
    """Return ``is_needed`` for every slice, with all slices of an interval if one is needed.

    Args:
        z: numbers of the labeled slices, ascending.
        is_needed: for every slice, whether its result has to be computed.
    """
    needed = list(is_needed)
    for start, stop in pairwise([0, *z, len(needed)]):
        needed[start:stop] = [any(needed[start:stop])] * (stop - start)
    return needed


def _legs_from(
    source: int, z: Sequence[int], n_slices: int, depth: int
) -> tuple[list[Leg], list[Leg]]:
    """Return the legs from a labeled slice up, and those down, in the order of propagation."""
    labeled_slice = z[source]
    next_labeled = z[source + 1] if source + 1 < len(z) else n_slices
    previous_labeled = z[source - 1] if source else -1
    upward = [
        Leg(source, 1, start, stop, start == labeled_slice)
        for start, stop in _cut_at_blocks(labeled_slice, next_labeled, depth)
    ]
    downward = [
        Leg(source, -1, start, stop, stop == labeled_slice + 1)
        for start, stop in _cut_at_blocks(previous_labeled + 1, labeled_slice + 1, depth)
    ]
    return upward, downward[::-1]


def _cut_at_blocks(start: int, stop: int, depth: int) -> Iterable[tuple[int, int]]:
    """Cut the slices start..stop at the borders of z-blocks."""
    first_border = (start // depth + 1) * depth
    return pairwise([start, *range(first_border, stop, depth), stop])


def slice_fingerprints(
    z: Sequence[int], prints: Sequence[str], n_slices: int, inputs: Mapping[str, Any]
) -> list[str]:
    """Return for every slice the fingerprint of everything that its result depends on.

    These are its two labeled neighbors, or itself where it is labeled, and the common inputs.

    Args:
        z: numbers of the labeled slices, ascending.
        prints: fingerprints of the labeled slices.
        n_slices: depth of the stack.
        inputs: what the results of all slices depend on.
    """
    fingerprints = []
    for slice_index in range(n_slices):
        below = max((n for n, labeled in enumerate(z) if labeled <= slice_index), default=None)
        above = min((n for n, labeled in enumerate(z) if labeled >= slice_index), default=None)
        neighbors = [None if n is None else [z[n], prints[n]] for n in (below, above)]
        fingerprints.append(fingerprint_of({**inputs, "between": neighbors}))
    return fingerprints


@dataclass(frozen=True)
class Fronts:
    """The fronts of all slices, on disk; a picklable handle for workers.

    Attributes:
        folder: folder of the chains of a stage.
        chains: name of a chain -> its legs.
    """

    folder: Path
    chains: Mapping[str, Sequence[Leg]]

    def at(self, z: int) -> dict[int, tuple[int, Front]]:
        """Return the fronts that reach a slice.

        Returns:
            Step (1 from below, -1 from above) -> index of the labeled slice that the front comes
            from, and the front.
        """
        fronts = {}
        for chain, legs in self.chains.items():
            for number, leg in enumerate(legs):
                if leg.start <= z < leg.stop:
                    arrays = link_arrays(self.folder, chain, number)
                    fronts[leg.step] = (leg.source, _front_from_arrays(arrays, z - leg.start))
        return fronts


def seeds_of_nearest_slice(
    fronts: Mapping[int, tuple[int, Front]], z: int, labeled: Sequence[int]
) -> Seeds:
    """Return the seeds of the front whose labeled slice is nearest; of two, the lower one.

    Args:
        fronts: the fronts at slice ``z`` (see ``Fronts.at``).
        z: number of the slice.
        labeled: numbers of the labeled slices.
    """

    def distance(step: int) -> tuple[int, int]:
        source, _ = fronts[step]
        return abs(labeled[source] - z), -step

    _, front = fronts[min(fronts, key=distance)]
    return front.seeds


def fronts_to_arrays(fronts: Sequence[Front]) -> Arrays:
    """Return the fronts of a leg, its lowest slice first, as arrays for disk."""
    costs = [
        np.where(np.isinf(front.cost), np.inf, np.minimum(front.cost, MAX_COST)) for front in fronts
    ]
    n_seeds = [len(front.seeds.ids) for front in fronts]
    arrays: dict[str, NDArray[Any]] = {
        "labels": np.stack([front.labels for front in fronts]).astype(np.uint32),
        "cost": np.stack(costs).astype(np.float16),
        "seed_slices": np.repeat(np.arange(len(fronts)), n_seeds),
        "seed_ids": np.concatenate([front.seeds.ids for front in fronts]).astype(np.uint32),
        "seed_positions": np.concatenate([front.seeds.positions for front in fronts]),
    }
    along_flow = [front.along_flow for front in fronts if front.along_flow is not None]
    if along_flow:
        arrays["along_flow"] = np.stack(along_flow).astype(np.uint32)
    return arrays


def _front_from_arrays(arrays: Mapping[str, Any], number: int) -> Front:
    """Return the front of a slice of a leg; ``number`` counts from its lowest slice."""
    in_slice: NDArray[np.bool_] = np.asarray(arrays["seed_slices"][...]) == number
    seed_ids = np.asarray(arrays["seed_ids"][...])[in_slice]
    seed_positions = np.asarray(arrays["seed_positions"][...])[in_slice]
    labels = np.asarray(arrays["labels"][number])
    cost = np.asarray(arrays["cost"][number]).astype(np.float32)
    along_flow = np.asarray(arrays["along_flow"][number]) if "along_flow" in arrays else None
    return Front(labels, cost, Seeds(seed_ids, seed_positions), along_flow)
