"""Probabilities smoothed across slices, so that structures continue from slice to slice.

A network that sees one slice errs in each slice anew: the area of an object flickers, and a faint
part of it is missing in one slice and present in the next. The mean of a probability and those of
the slices next to it, weighted by a Gaussian of a length in nm, removes such errors: structures
are much larger than this length. Boundaries between objects and cells are thinner, and keep the
probabilities of their slice.

Where slices are thicker than this length, structures move from one to the next, and the mean is
along the optical flow (see ``flow_smoothing``).
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import annotation_of_output
from sparsem.compiled import compiled
from sparsem.geometry import ZBlock
from sparsem.workflow.stage import link_arrays

MAX_SIGMAS = 2.5  # distance beyond which slices do not count
WEIGHT_BITS = 16  # weights are integers whose sum is this power of two, so that sums are exact
CHUNK = 4096  # pixels whose sums stay in the fastest memory

Bytes = NDArray[np.uint8]


class Smoothing(NamedTuple):
    """A Gaussian across slices.

    Attributes:
        sigma: its standard deviation in slices.
        along_flow: pixels move from slice to slice by the optical flow.
    """

    sigma: float
    along_flow: bool = False

    @property
    def reach(self) -> int:
        """Slices on either side that count; along the flow, more than one gain nothing."""
        return 1 if self.along_flow else math.ceil(MAX_SIGMAS * self.sigma - 0.5)

    def weights(self) -> NDArray[np.int64]:
        """Return the weights of the slices from -reach to reach; their sum is 2**WEIGHT_BITS."""
        distances = np.arange(-self.reach, self.reach + 1)
        gaussian = np.exp(-0.5 * (distances / self.sigma) ** 2)
        total = 2**WEIGHT_BITS
        weights = np.asarray(np.round(gaussian * (total / gaussian.sum())), np.int64)
        weights[self.reach] += total - weights.sum()
        return weights


class PredictedSlices(NamedTuple):
    """The predicted probabilities of all slices, on disk, before they are smoothed.

    Attributes:
        folder: folder of the results of all blocks.
        blocks: the blocks, ascending.
    """

    folder: Path
    blocks: Sequence[ZBlock]

    def read(self, name: str, first: int, stop: int) -> Bytes:
        """Return the slices ``first`` to ``stop`` (exclusive) of an array, (z, y, x).

        Those before the first and behind the last slice of the stack are left out.
        """
        parts = []
        for block in self.blocks:
            low, high = max(first, block.start), min(stop, block.stop)
            if low < high:
                stored = link_arrays(self.folder, name_of_block(block), 0)[name]
                parts.append(np.asarray(stored[low - block.start : high - block.start]))
        return np.concatenate(parts)


def smoothing_of_stack(sigma_nm: float, slice_nm: float) -> Smoothing:
    """Return the smoothing of a stack.

    Args:
        sigma_nm: standard deviation of the Gaussian; above 0.
        slice_nm: distance between slices. If it is larger, the standard deviation is one slice,
            along the optical flow.
    """
    if slice_nm > sigma_nm:
        return Smoothing(1.0, along_flow=True)
    return Smoothing(sigma_nm / slice_nm)


def name_of_block(block: ZBlock) -> str:
    """Return the name of the results of a block."""
    return f"z-{block.start}"


def smoothed_structures(structures: Sequence[str]) -> list[str]:
    """Return the structures that are smoothed: no boundaries, and no interior of cells."""
    return [name for name in structures if annotation_of_output(name) == name]


def smooth_slices(slices: Bytes, own_slices: slice, smoothing: Smoothing) -> Bytes:
    """Return slices, each the weighted mean of itself and the slices around it.

    Before the first and behind the last slice these repeat: weights that are not symmetric would
    draw structures of the ends inward.

    Args:
        slices: (z, y, x).
        own_slices: slices to return.
        smoothing: the weights.
    """
    positions = range(*own_slices.indices(len(slices)))
    smooth = np.empty((len(positions), *slices.shape[1:]), np.uint8)
    lines = slices.reshape(len(slices), -1)

    def fill(number: int) -> None:
        weights = weights_of_slices(positions[number], len(slices), smoothing)
        low, high = min(weights), max(weights) + 1
        sums = np.array([weights[z] for z in range(low, high)], np.float32)
        weighted_mean(lines[low:high], sums, smooth[number].reshape(-1))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(len(positions))))
    return smooth


def weights_of_slices(z: int, n_slices: int, smoothing: Smoothing) -> dict[int, int]:
    """Return the weight of every slice that counts for one; the ends repeat."""
    weights: dict[int, int] = {}
    for offset, weight in enumerate(smoothing.weights(), -smoothing.reach):
        neighbor = min(max(z + offset, 0), n_slices - 1)
        weights[neighbor] = weights.get(neighbor, 0) + int(weight)
    return weights


@compiled()
def weighted_mean(lines: Any, weights: Any, out: Any) -> None:
    """Write the weighted mean of every pixel of lines (z, pixels), rounded, into ``out``.

    The sums are integers below 2**24, which 32-bit floats represent exactly.
    """
    sums = np.empty(CHUNK, np.float32)
    scale = np.float32(1 / 2**WEIGHT_BITS)
    for start in range(0, out.size, CHUNK):
        n_pixels = min(CHUNK, out.size - start)
        sums[:] = np.float32(2 ** (WEIGHT_BITS - 1))  # rounds
        for z in range(len(lines)):
            weight, line = weights[z], lines[z, start : start + n_pixels]
            for pixel in range(n_pixels):
                sums[pixel] += weight * np.float32(line[pixel])
        for pixel in range(n_pixels):
            out[start + pixel] = np.uint8(sums[pixel] * scale)
