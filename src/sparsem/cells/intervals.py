"""Which way labels go through a stack: from every labeled slice up and down to its labeled neighbors, and what they leave on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.cells.propagate import Front
from sparsem.cells.separate import Seeds
from sparsem.workflow.stage import Arrays, fingerprint_of, link_arrays

FARTHEST = 60_000.0  # costs are kept in half precision; what is farther is all the same


class Leg(NamedTuple):
    """Slices start..stop (exclusive) that labels cross without a rest, upward (step 1) or downward (-1).

    Attributes:
        source: which of the labeled slices they come from.
        begins: that slice is the first of the leg.
    """

    source: int
    step: int
    start: int
    stop: int
    begins: bool


def legs(
    z: Sequence[int], n_slices: int, depth: int, wanted: Sequence[bool]
) -> dict[str, list[Leg]]:
    """The chains of legs from the labeled slices ``z``, cut at z-blocks; legs behind the last slice that is wanted are left out.

    A leg is the same whatever is wanted, so that one that is done serves every run.
    """
    chains = {}
    for source, here in enumerate(z):
        above = z[source + 1] if source + 1 < len(z) else n_slices
        below = z[source - 1] if source else -1
        up = pairwise([here, *range((here // depth + 1) * depth, above, depth), above])
        down = pairwise(
            [below + 1, *range(((below + 1) // depth + 1) * depth, here + 1, depth), here + 1]
        )
        chains[f"{here}-up"] = [Leg(source, 1, start, stop, start == here) for start, stop in up]
        chains[f"{here}-down"] = [
            Leg(source, -1, start, stop, stop == here + 1) for start, stop in down
        ][::-1]
    needed = {
        name: [any(wanted[leg.start : leg.stop]) for leg in chain] for name, chain in chains.items()
    }
    return {
        name: chain[: max(n for n, need in enumerate(needed[name]) if need) + 1]
        for name, chain in chains.items()
        if any(needed[name])
    }


def slice_fingerprints(
    z: Sequence[int], prints: Sequence[str], n_slices: int, sources: Mapping[str, Any]
) -> list[str]:
    """What the result of each slice depends on: its labeled neighbors, or itself where it is labeled, and what all depend on."""
    found = []
    for one in range(n_slices):
        below = max((index for index, labeled in enumerate(z) if labeled <= one), default=None)
        above = min((index for index, labeled in enumerate(z) if labeled >= one), default=None)
        around = [None if index is None else [z[index], prints[index]] for index in (below, above)]
        found.append(fingerprint_of({**sources, "between": around}))
    return found


@dataclass(frozen=True)
class Fronts:
    """The fronts of all slices, on disk; a picklable handle for workers."""

    folder: Path
    chains: Mapping[str, Sequence[Leg]]

    def at(self, z: int) -> dict[int, tuple[int, Front]]:
        """Those that come to a slice: step (1 from below, -1 from above) -> the labeled slice that it comes from, and the front."""
        found = {}
        for chain, chained in self.chains.items():
            for number, leg in enumerate(chained):
                if leg.start <= z < leg.stop:
                    found[leg.step] = (
                        leg.source,
                        _front(link_arrays(self.folder, chain, number), z - leg.start),
                    )
        return found


def seeds_of_nearest(at: Mapping[int, tuple[int, Front]], z: int, labeled: Sequence[int]) -> Seeds:
    """Of the fronts at a slice, the seeds of the one whose labeled slice is nearest; the lower of two equally near ones."""
    return min(at.items(), key=lambda one: (abs(labeled[one[1][0]] - z), -one[0]))[1][1].seeds


def stored(fronts: Sequence[Front]) -> Arrays:
    """The fronts of a leg, its lowest slice first, as arrays."""
    cost = np.stack(
        [np.where(np.isinf(one.cost), np.inf, np.minimum(one.cost, FARTHEST)) for one in fronts]
    )
    seeds = [one.seeds for one in fronts]
    return {
        "labels": np.stack([one.labels for one in fronts]).astype(np.uint32),
        "cost": cost.astype(np.float16),
        "seed_slices": np.repeat(np.arange(len(seeds)), [len(one.ids) for one in seeds]),
        "seed_ids": np.concatenate([one.ids for one in seeds]).astype(np.uint32),
        "seed_places": np.concatenate([one.places for one in seeds]),
    }


def _front(arrays: Mapping[str, Any], number: int) -> Front:
    own: NDArray[np.bool_] = np.asarray(arrays["seed_slices"][...]) == number
    seeds = Seeds(
        np.asarray(arrays["seed_ids"][...])[own], np.asarray(arrays["seed_places"][...])[own]
    )
    return Front(
        np.asarray(arrays["labels"][number]),
        np.asarray(arrays["cost"][number]).astype(np.float32),
        seeds,
    )
