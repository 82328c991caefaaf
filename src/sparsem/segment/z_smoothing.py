"""Probabilities smoothed across slices, so that structures continue from slice to slice.

A network that sees one slice errs in each slice anew: the area of an object flickers, and a faint
part of it is missing in one slice and present in the next. The mean of a probability and those of
the slices next to it, weighted by a Gaussian of a length in nm, removes such errors: structures
are much larger than this length. Boundaries between objects and cells are thinner, and keep the
probabilities of their slice.
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
    """

    sigma: float

    @property
    def reach(self) -> int:
        """Slices on either side that count."""
        return math.ceil(MAX_SIGMAS * self.sigma - 0.5)

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
    reach, weights = smoothing.reach, smoothing.weights()

    def fill(number: int) -> None:
        z = positions[number]
        around = np.clip(range(z - reach, z + reach + 1), 0, len(slices) - 1)
        low, high = around[0], around[-1] + 1
        sums = np.bincount(around - low, weights).astype(np.float32)
        _weighted_mean(lines[low:high], sums, smooth[number].reshape(-1))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(fill, range(len(positions))))
    return smooth


@compiled()
def _weighted_mean(lines: Any, weights: Any, out: Any) -> None:
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
