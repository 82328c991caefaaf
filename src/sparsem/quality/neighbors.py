"""What slices say of each other: drift, lost and repeated slices, charging, jumps of brightness.

A stack changes little from slice to slice. How alike two slices are falls with their distance; on a stack that is whole, two medians (of
neighbors, and of slices two apart) tell how fast, and one likeness then tells a distance (after Hanslovsky et al. 2017).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.image.running_median import running_median
from sparsem.preprocess.detail import Detail, downscale, extract_detail
from sparsem.preprocess.registration import register

WORKING_MPX = 0.5  # slices are compared at this size: a lost slice shows in coarse detail as well, and noise less
CELLS = 32  # parts of the longer edge in which charge is looked for
LEAST_LIKENESS, LEAST_FALL = (
    0.3,
    0.02,
)  # of neighbors, and of its logarithm with a slice more: below, likeness tells no distance
POWER = 1.5  # of the distance, by which the logarithm of similarity falls
ALL_APART = 8.0  # slices: farther apart than this nothing is alike, and no distance is told

Values = NDArray[np.float64]


@dataclass(frozen=True)
class SliceSummary:
    """A slice made small enough to be kept beside its neighbors.

    Attributes:
        detail: to be registered.
        cells: (about 32, 32) float32 mean gray levels, 0..1.
        cell_px: edge of a cell in pixels of the slice.
    """

    detail: Detail
    cells: NDArray[np.float32]
    cell_px: int


def sketch_of(image: NDArray[Any]) -> SliceSummary:
    """Of a slice (y, x) uint8 or uint16."""
    edge = max(1, -(-max(image.shape) // CELLS))
    return SliceSummary(
        extract_detail(image, WORKING_MPX),
        downscale(image, edge) / np.float32(np.iinfo(image.dtype).max),
        edge,
    )


@dataclass(frozen=True)
class Pair:
    """Two slices beside each other.

    Attributes:
        likeness: correlation of their detail where they lie over each other; 0 where it is no more than chance.
        y: pixels by which the second is off; NaN where nothing is alike.
        x: the same along x.
    """

    likeness: float
    y: float
    x: float


def compared(one: SliceSummary, other: SliceSummary) -> Pair:
    """The likeness of two slices, and by how much the second is off."""
    found = register(one.detail, other.detail)
    y, x = (
        (float(shift) for shift in found.motion[:, 2])
        if found.similarity > 0
        else (float("nan"), float("nan"))
    )
    return Pair(found.similarity, y, x)


def charging(cells: NDArray[np.float32], around: Sequence[NDArray[np.float32]]) -> float:
    """Standard deviation, 0..1, of large patches that are brighter or darker than in the slices around, when brightness and contrast
    of the whole slice are put aside; NaN without slices around.
    """
    if not around:
        return float("nan")
    usual = np.median(np.stack(around), axis=0).ravel().astype(np.float64)
    own = cells.ravel().astype(np.float64)
    centered = usual - usual.mean()
    gain = float(centered @ own) / max(float(centered @ centered), 1e-12)
    return float((own - own.mean() - gain * centered).std())


def spacing(next_likeness: Values, second_likeness: Values, window: int) -> Values:
    """Return (n,) the distance of every slice from the one before, in slices; NaN where their similarity shows none.

    Similarity falls as (1 - loss) exp(-c d^1.5) with the distance d, on open stacks up to eight slices (measured); ``loss``, by noise,
    and ``c`` follow from running medians.

    Args:
        next_likeness: (n,) of each slice and the one before it; the first entry counts for nothing.
        second_likeness: (n,) of each slice and the second before it; NaN of the first two.
        window: slices of the running medians.
    """
    near, far = (
        running_median(values[:, None], window)[:, 0] for values in (next_likeness, second_likeness)
    )
    fall = np.log(np.maximum(near, 1e-6) / np.maximum(far, 1e-6))
    with np.errstate(invalid="ignore", divide="ignore"):
        c = fall / (2**POWER - 1)
        found = np.maximum(1 + np.log(near / np.maximum(next_likeness, 1e-6)) / c, 0) ** (1 / POWER)
    found[(fall < LEAST_FALL) | ~(near > LEAST_LIKENESS)] = np.nan
    return np.clip(found, 0, ALL_APART)
