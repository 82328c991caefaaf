"""Dice, precision and recall from pixel counts (paper equations 2 to 4).

They are computed for a slice, averaged over slices, and pooled in 3D. Masks are boolean (z, y, x)
or (y, x). Only ``known`` pixels count.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

SMOOTH = 1.0  # the papers' smoothing: an empty slice predicted empty has Dice 1

T = TypeVar("T", float, Any)


def dice_of_sums(both: T, predicted: T, true: T, smooth: float = SMOOTH) -> T:
    """Return (2 |P and G| + s) / (|P| + |G| + s), equation 2.

    Arguments are numbers or tensors, so that the loss and the score are one formula.
    """
    return (2 * both + smooth) / (predicted + true + smooth)


@dataclass(frozen=True)
class MaskOverlap:
    """Pixel counts of one slice or volume.

    Attributes:
        both: pixels in the prediction and in the ground truth.
        predicted: pixels in the prediction.
        true: pixels in the ground truth.
        known: pixels of which the ground truth is known.
    """

    both: int
    predicted: int
    true: int
    known: int

    def __add__(self, overlap: "MaskOverlap") -> "MaskOverlap":
        return MaskOverlap(
            self.both + overlap.both,
            self.predicted + overlap.predicted,
            self.true + overlap.true,
            self.known + overlap.known,
        )

    @property
    def dice(self) -> float:
        """Dice 2 TP / (2 TP + FP + FN); NaN where both masks are empty."""
        total = self.predicted + self.true
        return 2 * self.both / total if total else math.nan

    @property
    def precision(self) -> float:
        """Precision |P and G| / |P|; NaN where the prediction is empty."""
        return self.both / self.predicted if self.predicted else math.nan

    @property
    def recall(self) -> float:
        """Recall |P and G| / |G|; NaN where the ground truth is empty."""
        return self.both / self.true if self.true else math.nan


def mask_overlap(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_] | None = None
) -> MaskOverlap:
    """Return the pixel counts of one slice or volume.

    Args:
        predicted: mask of the prediction.
        true: mask of the ground truth, of the same shape.
        known: pixels that count; all if not given.

    Raises:
        ValueError: the masks differ in shape.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"masks of {predicted.shape} and {true.shape} cannot be compared")
    if known is not None:
        predicted, true = predicted & known, true & known
    return MaskOverlap(
        both=int(np.count_nonzero(predicted & true)),
        predicted=int(np.count_nonzero(predicted)),
        true=int(np.count_nonzero(true)),
        known=predicted.size if known is None else int(np.count_nonzero(known)),
    )


def pool_slices(slices: Iterable[MaskOverlap]) -> MaskOverlap:
    """Return the counts of all slices as one volume, for 3D scores."""
    return sum(slices, MaskOverlap(0, 0, 0, 0))


def average_dice(slices: Iterable[MaskOverlap], skip_empty_truth: bool = False) -> float:
    """Return the mean over slices of the smoothed Dice, the papers' average Dice.

    Args:
        slices: counts of each slice; slices without a known pixel do not count.
        skip_empty_truth: leave out slices in which the ground truth is empty, as the papers'
            scripts did; false positives there then do not count.

    Returns:
        The mean; NaN if no slice counts.
    """
    dice = [
        dice_of_sums(counts.both, counts.predicted, counts.true)
        for counts in slices
        if counts.known and (counts.true or not skip_empty_truth)
    ]
    return float(np.mean(dice)) if dice else math.nan


class OutlineCount(NamedTuple):
    """Number of steps between neighboring pixels of which one is inside the structure, one outside.

    Attributes:
        shared: steps of the ground truth that are steps of the prediction too.
        true: steps of the ground truth.
    """

    shared: int
    true: int

    @property
    def fraction(self) -> float:
        """Fraction of the true outline that is predicted to the pixel; 0 without an outline."""
        return self.shared / self.true if self.true else 0.0


NO_OUTLINE = OutlineCount(0, 0)


def outline_count(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_]
) -> OutlineCount:
    """Count the outline (y, x) that two masks have in common.

    Ground truth that was drawn from a prediction has most of its outline in common with it.

    Args:
        predicted: (y, x).
        true: (y, x).
        known: where the ground truth is known; a step counts if both of its pixels are known.
    """
    shared = n_steps = 0
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        both_known = known[before] & known[after]
        true_steps = (true[before] != true[after]) & both_known
        predicted_steps = predicted[before] != predicted[after]
        n_steps += int(np.count_nonzero(true_steps))
        shared += int(np.count_nonzero(true_steps & predicted_steps))
    return OutlineCount(shared, n_steps)
