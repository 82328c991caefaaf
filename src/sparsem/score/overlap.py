"""Dice, precision and recall from overlap sums (paper equations 2 to 4): a slice, averaged over slices, and pooled in 3D.

Masks are boolean (z, y, x) or (y, x). Pixels that are not ``known`` count nowhere.
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
    """(2 |P and G| + s) / (|P| + |G| + s), equation 2; numbers or tensors, so the loss and the score are one formula."""
    return (2 * both + smooth) / (predicted + true + smooth)


@dataclass(frozen=True)
class MaskOverlap:
    """Pixel counts of one slice or volume: in both masks, in the prediction, in the ground truth, and where the ground truth is known."""

    both: int
    predicted: int
    true: int
    known: int

    def __add__(self, other: "MaskOverlap") -> "MaskOverlap":
        both, predicted, true = (
            self.both + other.both,
            self.predicted + other.predicted,
            self.true + other.true,
        )
        return MaskOverlap(both, predicted, true, self.known + other.known)

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where both are empty."""
        return (
            2 * self.both / (self.predicted + self.true) if self.predicted + self.true else math.nan
        )

    @property
    def precision(self) -> float:
        """|P and G| / |P|; NaN where nothing is predicted."""
        return self.both / self.predicted if self.predicted else math.nan

    @property
    def recall(self) -> float:
        """|P and G| / |G|; NaN where there is nothing to find."""
        return self.both / self.true if self.true else math.nan


def mask_overlap(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_] | None = None
) -> MaskOverlap:
    """Return the counts of one slice or volume; pixels that are not known count nowhere.

    Raises:
        ValueError: the masks differ in shape.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"masks of {predicted.shape} and {true.shape} cannot be compared")
    if known is not None:
        predicted, true = predicted & known, true & known
    comparable = predicted.size if known is None else int(np.count_nonzero(known))
    both, ours, theirs = (
        int(np.count_nonzero(mask)) for mask in (predicted & true, predicted, true)
    )
    return MaskOverlap(both, ours, theirs, comparable)


def pool_slices(slices: Iterable[MaskOverlap]) -> MaskOverlap:
    """All slices as one volume: the 3D score."""
    return sum(slices, MaskOverlap(0, 0, 0, 0))


def average_dice(slices: Iterable[MaskOverlap], skip_empty_truth: bool = False) -> float:
    """Return the mean over slices of the smoothed Dice, the papers' average Dice.

    Slices without a pixel that can be compared do not count. ``skip_empty_truth`` leaves out slices without the structure too, as the
    papers' scripts did; false positives there then go unseen. NaN where no slice is left.
    """
    counted = [each for each in slices if each.known and (each.true or not skip_empty_truth)]
    return (
        float(np.mean([dice_of_sums(each.both, each.predicted, each.true) for each in counted]))
        if counted
        else float("nan")
    )


class OutlineCount(NamedTuple):
    """Steps between two neighboring pixels, one inside and one outside of the structure.

    Attributes:
        shared: steps of the ground truth that are steps of the prediction too.
        true: steps of the ground truth.
    """

    shared: int
    true: int

    @property
    def fraction(self) -> float:
        """Part of the outline of the ground truth that the prediction has to the pixel; 0 without an outline."""
        return self.shared / self.true if self.true else 0.0


NO_OUTLINE = OutlineCount(0, 0)


def outline_count(
    predicted: NDArray[np.bool_], true: NDArray[np.bool_], known: NDArray[np.bool_]
) -> OutlineCount:
    """Count the outline (y, x) that two masks share; a ground truth that was drawn from a prediction shares most of it.

    Args:
        predicted: (y, x).
        true: (y, x).
        known: where the ground truth is known; a step counts if both of its pixels are known.
    """
    shared = steps = 0
    for before, after in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        both_known = known[before] & known[after]
        true_steps = (true[before] != true[after]) & both_known
        steps += int(np.count_nonzero(true_steps))
        shared += int(np.count_nonzero(true_steps & (predicted[before] != predicted[after])))
    return OutlineCount(shared, steps)
