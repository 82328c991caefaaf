"""Scores of objects that have identities: Dice a cell, adapted Rand error, variation of information, PQ and AP.

All of them follow from one table: how many pixels every predicted label shares with every true one (``regions.overlaps``), so
2D and 3D are the same, and a stack is scored block by block. Label 0 is background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import Overlaps, add_overlaps

INSTANCE_SCORES = ("arand", "voi_split", "voi_merge", "pq", "ap50", "map")
AP_THRESHOLDS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())

Counts = NDArray[np.float64]


class RandError(NamedTuple):
    """1 - F of pairs of pixels: ``precision`` falls with merged cells, ``recall`` with split ones."""

    error: float
    precision: float
    recall: float


class VariationOfInformation(NamedTuple):
    """Variation of information in bits: what splits and what mergers cost."""

    split: float
    merge: float


class PanopticQuality(NamedTuple):
    """Panoptic quality: mean IoU of matched cells times their share."""

    quality: float
    segmentation: float
    recognition: float


def dice_of_cells(table: Overlaps) -> dict[int, float]:
    """Return the Dice of every true cell with the predicted cell of the same identity (paper 5.5): 2 |P and G| / (|P| + |G|).

    The table holds predicted (first) against true (second).
    """
    predicted, true = (_sizes(labels, table.pixels) for labels in (table.first, table.second))
    same = table.first == table.second
    shared = dict(zip(table.first[same].tolist(), table.pixels[same].tolist(), strict=True))
    return {
        label: 2 * shared.get(label, 0) / (predicted.get(label, 0) + size)
        for label, size in true.items()
        if label and size
    }


def adapted_rand_error(table: Overlaps) -> RandError:
    """Adapted Rand error over the pixels of true cells (Arganda-Carreras et al. 2015).

    NaN where the truth holds no cell.
    """
    predicted, true, pixels = _of_true_cells(table)
    if not pixels.size:
        return RandError(np.nan, np.nan, np.nan)
    together = _pairs(pixels)
    together_predicted, together_true = (
        _pairs(_sums(predicted, pixels)),
        _pairs(_sums(true, pixels)),
    )
    precision = together / together_predicted if together_predicted else 1.0
    recall = together / together_true if together_true else 1.0
    f_score = (
        2 * together / (together_predicted + together_true)
        if together_predicted + together_true
        else 1.0
    )
    return RandError(1 - f_score, precision, recall)


def variation_of_information(table: Overlaps) -> VariationOfInformation:
    """H(predicted | true), the splits, and H(true | predicted), the mergers, over the pixels of true cells (Meila 2007); bits.

    NaN where the truth holds no cell.
    """
    predicted, true, pixels = _of_true_cells(table)
    if not pixels.size:
        return VariationOfInformation(np.nan, np.nan)
    joint = _entropy(pixels)
    return VariationOfInformation(
        joint - _entropy(_sums(true, pixels)), joint - _entropy(_sums(predicted, pixels))
    )


@dataclass(frozen=True)
class ObjectMatches:
    """IoU of every pair of a predicted and a true cell that overlap, and how many cells there are."""

    iou: Counts
    predicted: int
    true: int

    def average_precision(self, threshold: float) -> float:
        """TP / (TP + FP + FN) of cells at one IoU of at least 0.5, where every match is one to one; NaN without cells."""
        matched = int((self.iou > threshold).sum())
        cells = self.predicted + self.true - matched
        return matched / cells if cells else np.nan

    @property
    def mean_average_precision(self) -> float:
        """Mean over the thresholds 0.5, 0.55, ..., 0.95."""
        return float(np.mean([self.average_precision(threshold) for threshold in AP_THRESHOLDS]))

    @property
    def panoptic(self) -> PanopticQuality:
        """PQ = SQ x RQ (Kirillov et al. 2019); NaN without cells."""
        matches = self.iou[self.iou > 0.5]
        if not self.predicted + self.true:
            return PanopticQuality(np.nan, np.nan, np.nan)
        recognition = 2 * len(matches) / (self.predicted + self.true)
        segmentation = float(matches.mean()) if len(matches) else 0.0
        return PanopticQuality(segmentation * recognition, segmentation, recognition)


def match_objects(table: Overlaps) -> ObjectMatches:
    """IoU of all overlapping pairs of cells."""
    predicted, true = (_sizes(labels, table.pixels) for labels in (table.first, table.second))
    cells = (table.first > 0) & (table.second > 0)
    shared = table.pixels[cells]
    sizes = [
        predicted[p] + true[t]
        for p, t in zip(table.first[cells].tolist(), table.second[cells].tolist(), strict=True)
    ]
    return ObjectMatches(
        shared / (np.asarray(sizes, np.float64) - shared),
        len(predicted.keys() - {0}),
        len(true.keys() - {0}),
    )


def instance_scores(slices: Sequence[Overlaps], least_px: int = 0) -> dict[str, float]:
    """Return all scores of a stack from the overlaps of its slices: in 3D, where a cell is one object, and as means over slices (2D).

    Slices without a true cell count in 3D only. NaN where a number has no meaning.

    Args:
        slices: predicted (first) against true (second), slice by slice.
        least_px: objects with fewer voxels in all slices count as background, in the prediction and in the ground truth alike.
    """
    slices = remove_small_objects(slices, least_px)
    whole = add_overlaps(slices)
    dice = dice_of_cells(whole)
    flat = [_scores(one) for one in slices if (one.second > 0).any()]
    means = {
        f"{name}_2d": float(np.mean([one[name] for one in flat])) if flat else np.nan
        for name in INSTANCE_SCORES
    }
    mean_dice = float(np.mean(list(dice.values()))) if dice else np.nan
    return {
        "cells": len(dice),
        "dice_cells": mean_dice,
        **{f"{name}_3d": value for name, value in _scores(whole).items()},
        **means,
    }


def remove_small_objects(slices: Sequence[Overlaps], least_px: int) -> list[Overlaps]:
    """Return the overlaps of slices with small objects as background.

    Args:
        slices: predicted (first) against true (second), slice by slice.
        least_px: voxels in all slices together of the smallest object that counts.
    """
    if least_px <= 1:
        return list(slices)
    whole = add_overlaps(slices)
    small = []
    for labels in (whole.first, whole.second):
        voxels = _sizes(labels, whole.pixels)
        small.append([label for label, count in voxels.items() if label and count < least_px])
    kept = []
    for table in slices:
        first = np.where(np.isin(table.first, small[0]), 0, table.first).astype(np.uint32)
        second = np.where(np.isin(table.second, small[1]), 0, table.second).astype(np.uint32)
        kept.append(
            add_overlaps([Overlaps(first, second, table.pixels)])
        )  # pairs that became one are one row again
    return kept


def _scores(table: Overlaps) -> dict[str, float]:
    information, pairs = variation_of_information(table), match_objects(table)
    numbers = (
        adapted_rand_error(table).error,
        information.split,
        information.merge,
        pairs.panoptic.quality,
    )
    return dict(
        zip(
            INSTANCE_SCORES,
            (*numbers, pairs.average_precision(0.5), pairs.mean_average_precision),
            strict=True,
        )
    )


def _of_true_cells(table: Overlaps) -> tuple[NDArray[np.uint32], NDArray[np.uint32], Counts]:
    inside = table.second > 0
    return table.first[inside], table.second[inside], table.pixels[inside].astype(np.float64)


def _pairs(pixels: Counts) -> float:
    """Ordered pairs of different pixels that lie together, in parts of so many pixels."""
    return float((pixels * (pixels - 1)).sum())


def _sums(labels: NDArray[np.uint32], pixels: Counts) -> Counts:
    """Pixels of every label."""
    return np.bincount(np.unique(labels, return_inverse=True)[1], weights=pixels).astype(np.float64)


def _sizes(labels: NDArray[np.uint32], pixels: NDArray[np.int64]) -> dict[int, int]:
    names, which = np.unique(labels, return_inverse=True)
    return dict(
        zip(names.tolist(), np.bincount(which, weights=pixels).astype(int).tolist(), strict=True)
    )


def _entropy(pixels: Counts) -> float:
    share = pixels / pixels.sum()
    return float(-(share * np.log2(share)).sum())
