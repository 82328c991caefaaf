"""Comparison of a slice with its neighbors: drift, lost and repeated slices, charging.

A stack changes little from slice to slice. The similarity of two slices falls with their distance.
On a complete stack, two medians (of neighbors, and of slices two apart) show how fast it falls, and
a single similarity then yields a distance (after Hanslovsky et al. 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.image.running_median import running_median
from sparsem.preprocess.detail import Detail, downscale, extract_detail
from sparsem.preprocess.registration import register

# Slices are compared at this size: a lost slice shows in coarse detail as well, and noise shows
# less.
WORKING_MPX = 0.5
CELLS_PER_EDGE = 32  # parts of the longer edge in which charging is measured
# Below these values similarity yields no distance.
MIN_NEIGHBOR_SIMILARITY = 0.3
MIN_LOG_FALL = 0.02  # of the logarithm of similarity from one slice to two
POWER = 1.5  # of the distance, by which the logarithm of similarity falls
MAX_SPACING = 8.0  # slices: slices farther apart are no longer similar

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SliceSummary:
    """A slice reduced so far that several of them are held in memory.

    Attributes:
        detail: for registration.
        cells: (about 32, 32) float32 mean gray levels, 0..1.
        cell_px: edge of a cell in pixels of the slice.
    """

    detail: Detail
    cells: NDArray[np.float32]
    cell_px: int


@dataclass(frozen=True)
class SlicePair:
    """The comparison of two slices.

    Attributes:
        similarity: correlation of their detail where they overlap; 0 where it is no more than
            chance.
        y: pixels by which the second slice is shifted; NaN where the slices are not similar.
        x: the same along x.
    """

    similarity: float
    y: float
    x: float


def summarize_slice(image: NDArray[Any]) -> SliceSummary:
    """Return the summary of a slice (y, x) uint8 or uint16."""
    cell_px = max(1, -(-max(image.shape) // CELLS_PER_EDGE))
    return SliceSummary(
        detail=extract_detail(image, WORKING_MPX),
        cells=downscale(image, cell_px) / np.float32(np.iinfo(image.dtype).max),
        cell_px=cell_px,
    )


def compare_slices(first: SliceSummary, second: SliceSummary) -> SlicePair:
    """Return the similarity of two slices, and the shift of the second."""
    registration = register(first.detail, second.detail)
    if registration.similarity <= 0:
        return SlicePair(registration.similarity, float("nan"), float("nan"))
    y, x = registration.motion[:, 2]
    return SlicePair(registration.similarity, float(y), float(x))


def charging(cells: NDArray[np.float32], cells_around: Sequence[NDArray[np.float32]]) -> float:
    """Return the strength of charging: patches brighter or darker than in the slices around.

    Differences of brightness and contrast of the whole slice are removed first.

    Args:
        cells: of a slice (see ``SliceSummary``).
        cells_around: of the slices around it, of the same shape.

    Returns:
        Standard deviation, 0..1; NaN without slices around.
    """
    if not cells_around:
        return float("nan")
    usual = np.median(np.stack(cells_around), axis=0).ravel().astype(np.float64)
    gray = cells.ravel().astype(np.float64)
    centered = usual - usual.mean()
    gain = float(centered @ gray) / max(float(centered @ centered), 1e-12)
    return float((gray - gray.mean() - gain * centered).std())


def spacing(similarity: Values, second_similarity: Values, window: int) -> Values:
    """Return (n,) the distance of every slice from the one before, in slices.

    Similarity falls as (1 - loss) exp(-c d^1.5) with the distance d, on open stacks up to eight
    slices (measured); ``loss``, by noise, and ``c`` follow from running medians.

    Args:
        similarity: (n,) of each slice to the one before it; the first entry is ignored.
        second_similarity: (n,) of each slice to the second one before it; NaN for the first two.
        window: slices of the running medians.

    Returns:
        Distances, at most 8; NaN where similarity yields none.
    """
    near = running_median(similarity[:, None], window)[:, 0]
    far = running_median(second_similarity[:, None], window)[:, 0]
    log_fall = np.log(np.maximum(near, 1e-6) / np.maximum(far, 1e-6))
    with np.errstate(invalid="ignore", divide="ignore"):
        c = log_fall / (2**POWER - 1)
        relative = np.log(near / np.maximum(similarity, 1e-6))
        distance = np.maximum(1 + relative / c, 0) ** (1 / POWER)
    is_unknown = (log_fall < MIN_LOG_FALL) | ~(near > MIN_NEIGHBOR_SIMILARITY)
    distance[is_unknown] = np.nan
    return np.clip(distance, 0, MAX_SPACING)
