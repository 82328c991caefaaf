"""Scores of objects with identities.

These are Dice of each cell, adapted Rand error, variation of information, PQ, AP, F1, splits,
mergers and counts. All of them follow from one table: how many pixels every predicted label has in
common with every true one (``overlaps.overlaps``). So 2D and 3D are the same, and a stack is scored
block by block. Label 0 is background.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import Ids, Overlaps, add_overlaps

# Scores that are averaged over slices in 2D, and numbers that are added.
INSTANCE_SCORES = ("arand", "voi_split", "voi_merge", "pq", "ap50", "map", "f1_50", "f1_75")
INSTANCE_COUNTS = ("true", "predicted", "splits", "merges")
AP_THRESHOLDS = tuple(np.round(np.arange(0.5, 1.0, 0.05), 2).tolist())

Counts = NDArray[np.float64]


class RandError(NamedTuple):
    """Adapted Rand error: 1 - F of pairs of pixels.

    Attributes:
        error: 0 for equal segmentations.
        precision: decreases with merged cells.
        recall: decreases with split cells.
    """

    error: float
    precision: float
    recall: float


class VariationOfInformation(NamedTuple):
    """Variation of information in bits: the contributions of splits and of mergers."""

    split: float
    merge: float


class PanopticQuality(NamedTuple):
    """Panoptic quality: segmentation quality times recognition quality.

    Attributes:
        quality: their product.
        segmentation: mean IoU of matched cells.
        recognition: F1 of matched cells.
    """

    quality: float
    segmentation: float
    recognition: float


def dice_of_cells(table: Overlaps) -> dict[int, float]:
    """Return the Dice of every true cell with the predicted cell of the same identity (paper 5.5).

    Dice is 2 |P and G| / (|P| + |G|). The table holds predicted (first) and true labels (second).
    """
    predicted = _label_pixels(table.first, table.pixels)
    true = _label_pixels(table.second, table.pixels)
    is_same = table.first == table.second
    same_labels = table.first[is_same].tolist()
    shared = dict(zip(same_labels, table.pixels[is_same].tolist(), strict=True))
    return {
        label: 2 * shared.get(label, 0) / (predicted.get(label, 0) + pixels)
        for label, pixels in true.items()
        if label and pixels
    }


def adapted_rand_error(table: Overlaps) -> RandError:
    """Return the adapted Rand error over the pixels of true cells (Arganda-Carreras et al. 2015).

    NaN where the ground truth holds no cell.
    """
    predicted, true, pixels = _of_true_cells(table)
    if not pixels.size:
        return RandError(np.nan, np.nan, np.nan)
    in_both = _count_pixel_pairs(pixels)
    in_predicted = _count_pixel_pairs(_sum_by_label(predicted, pixels))
    in_true = _count_pixel_pairs(_sum_by_label(true, pixels))
    precision = in_both / in_predicted if in_predicted else 1.0
    recall = in_both / in_true if in_true else 1.0
    total = in_predicted + in_true
    f_score = 2 * in_both / total if total else 1.0
    return RandError(1 - f_score, precision, recall)


def variation_of_information(table: Overlaps) -> VariationOfInformation:
    """Return the variation of information over the pixels of true cells, in bits (Meila 2007).

    Splits contribute H(predicted | true), mergers H(true | predicted). NaN where the ground truth
    holds no cell.
    """
    predicted, true, pixels = _of_true_cells(table)
    if not pixels.size:
        return VariationOfInformation(np.nan, np.nan)
    joint = _entropy(pixels)
    split = joint - _entropy(_sum_by_label(true, pixels))
    merge = joint - _entropy(_sum_by_label(predicted, pixels))
    return VariationOfInformation(split, merge)


@dataclass(frozen=True)
class ObjectMatches:
    """Overlaps of predicted and true cells.

    Attributes:
        iou: (n,) IoU of every pair of a predicted and a true cell that overlap.
        predicted: number of predicted cells.
        true: number of true cells.
        splits: predicted cells, beyond the first, most of which lies in one true cell.
        merges: true cells, beyond the first, most of which lies in one predicted cell.
    """

    iou: Counts
    predicted: int
    true: int
    splits: int = 0
    merges: int = 0

    @property
    def count_error(self) -> float:
        """Predicted cells that are too many, or too few, as a fraction of the true ones."""
        return self.predicted / self.true - 1 if self.true else np.nan

    def f1(self, threshold: float) -> float:
        """Return 2 TP / (2 TP + FP + FN) of cells at one IoU of 0.5 or more; NaN without cells."""
        cells = self.predicted + self.true
        return 2 * int((self.iou > threshold).sum()) / cells if cells else np.nan

    def average_precision(self, threshold: float) -> float:
        """Return TP / (TP + FP + FN) of cells at one IoU; NaN without cells.

        The threshold is 0.5 or more, so that every match is one to one.
        """
        matched = int((self.iou > threshold).sum())
        cells = self.predicted + self.true - matched
        return matched / cells if cells else np.nan

    @property
    def mean_average_precision(self) -> float:
        """Mean over the thresholds 0.5, 0.55, ..., 0.95."""
        return float(np.mean([self.average_precision(threshold) for threshold in AP_THRESHOLDS]))

    @property
    def panoptic(self) -> PanopticQuality:
        """Panoptic quality PQ = SQ x RQ (Kirillov et al. 2019); NaN without cells."""
        cells = self.predicted + self.true
        if not cells:
            return PanopticQuality(np.nan, np.nan, np.nan)
        matches = self.iou[self.iou > 0.5]
        recognition = 2 * len(matches) / cells
        segmentation = float(matches.mean()) if len(matches) else 0.0
        return PanopticQuality(segmentation * recognition, segmentation, recognition)


def match_objects(table: Overlaps) -> ObjectMatches:
    """Return the IoU of all overlapping pairs of a predicted and a true cell."""
    predicted = _label_pixels(table.first, table.pixels)
    true = _label_pixels(table.second, table.pixels)
    are_cells = (table.first > 0) & (table.second > 0)
    first, second = table.first[are_cells], table.second[are_cells]
    shared = table.pixels[are_cells]
    predicted_px = np.array([predicted[label] for label in first.tolist()], np.float64)
    true_px = np.array([true[label] for label in second.tolist()], np.float64)
    return ObjectMatches(
        iou=shared / (predicted_px + true_px - shared),
        predicted=len(predicted.keys() - {0}),
        true=len(true.keys() - {0}),
        splits=_count_beyond_first(second[shared > predicted_px / 2]),
        merges=_count_beyond_first(first[shared > true_px / 2]),
    )


def _count_beyond_first(labels: Ids) -> int:
    """Return how many labels are repetitions of one before."""
    return len(labels) - len(np.unique(labels))


def instance_scores(
    slices: Sequence[Overlaps], min_voxels: int = 0, in_3d: bool = True
) -> dict[str, float]:
    """Return all scores of a stack from the overlaps of its slices.

    Scores are given in 3D, where a cell is one object, and as means over slices (2D); numbers of
    objects and of errors are added over slices. Slices without a true cell count in 3D, and in the
    numbers in 2D. NaN where a score is not defined.

    Args:
        slices: predicted (first) and true labels (second), slice by slice.
        min_voxels: objects with fewer voxels in all slices count as background, in the prediction
            and in the ground truth; without ``in_3d`` with fewer pixels in a slice.
        in_3d: a number is the same object in all slices.
    """
    slices = remove_small_objects(slices, min_voxels, in_3d)
    stack = add_overlaps(slices)
    dice = list(dice_of_cells(stack).values()) if in_3d else []
    scores: dict[str, float] = {
        "cells": len(dice),
        "dice_cells": float(np.mean(dice)) if dice else np.nan,
    }
    in_stack = scores_of_objects(stack) if in_3d else {}
    for name in (*INSTANCE_SCORES, *INSTANCE_COUNTS, "count_error"):
        scores[f"{name}_3d"] = in_stack.get(name, np.nan)
    return scores | _mean_over_slices(slices)


def _mean_over_slices(slices: Sequence[Overlaps]) -> dict[str, float]:
    """Return the scores of objects in 2D: means over slices with true cells, and sums of counts."""
    of_slices = [scores_of_objects(table) for table in slices]
    with_cells = [of_slice for of_slice in of_slices if of_slice["true"]]
    scores = {}
    for name in INSTANCE_SCORES:
        values = [of_slice[name] for of_slice in with_cells]
        scores[f"{name}_2d"] = float(np.mean(values)) if values else np.nan
    for name in INSTANCE_COUNTS:
        scores[f"{name}_2d"] = sum(of_slice[name] for of_slice in of_slices)
    true = scores["true_2d"]
    scores["count_error_2d"] = scores["predicted_2d"] / true - 1 if true else np.nan
    return scores


def remove_small_objects(
    slices: Sequence[Overlaps], min_voxels: int, in_3d: bool = True
) -> list[Overlaps]:
    """Return the overlaps of slices with small objects as background.

    Args:
        slices: predicted (first) and true labels (second), slice by slice.
        min_voxels: minimum voxels of an object in all slices together, or in each slice.
        in_3d: a number is the same object in all slices.
    """
    if min_voxels <= 1:
        return list(slices)
    if not in_3d:
        return [remove_small_objects([table], min_voxels)[0] for table in slices]
    stack = add_overlaps(slices)
    small_predicted = _small_labels(stack.first, stack.pixels, min_voxels)
    small_true = _small_labels(stack.second, stack.pixels, min_voxels)
    without_small = []
    for table in slices:
        first = _set_to_background(table.first, small_predicted)
        second = _set_to_background(table.second, small_true)
        # Pairs that became equal are one row again.
        without_small.append(add_overlaps([Overlaps(first, second, table.pixels)]))
    return without_small


def _small_labels(labels: Ids, pixels: NDArray[np.int64], min_voxels: int) -> list[int]:
    pixels_of = _label_pixels(labels, pixels)
    return [label for label, count in pixels_of.items() if label and count < min_voxels]


def _set_to_background(labels: Ids, removed: list[int]) -> Ids:
    return np.where(np.isin(labels, removed), 0, labels).astype(np.uint32)


def scores_of_objects(table: Overlaps) -> dict[str, float]:
    """Return ``INSTANCE_SCORES``, ``INSTANCE_COUNTS`` and the error of the count of one table."""
    information = variation_of_information(table)
    matches = match_objects(table)
    return {
        "arand": adapted_rand_error(table).error,
        "voi_split": information.split,
        "voi_merge": information.merge,
        "pq": matches.panoptic.quality,
        "ap50": matches.average_precision(0.5),
        "map": matches.mean_average_precision,
        "f1_50": matches.f1(0.5),
        "f1_75": matches.f1(0.75),
        "true": matches.true,
        "predicted": matches.predicted,
        "splits": matches.splits,
        "merges": matches.merges,
        "count_error": matches.count_error,
    }


def _of_true_cells(table: Overlaps) -> tuple[Ids, Ids, Counts]:
    """Return predicted labels, true labels and pixels of the pairs with a true cell."""
    inside = table.second > 0
    return table.first[inside], table.second[inside], table.pixels[inside].astype(np.float64)


def _count_pixel_pairs(pixels: Counts) -> float:
    """Return the number of ordered pairs of different pixels that are in the same region.

    ``pixels`` are the sizes of the regions.
    """
    return float((pixels * (pixels - 1)).sum())


def _sum_by_label(labels: Ids, pixels: Counts) -> Counts:
    """Return the pixels of every label, ascending by label."""
    label_of_row = np.unique(labels, return_inverse=True)[1]
    return np.bincount(label_of_row, weights=pixels).astype(np.float64)


def _label_pixels(labels: Ids, pixels: NDArray[np.int64]) -> dict[int, int]:
    """Return the pixels of every label."""
    unique_labels, label_of_row = np.unique(labels, return_inverse=True)
    totals = np.bincount(label_of_row, weights=pixels).astype(int)
    return dict(zip(unique_labels.tolist(), totals.tolist(), strict=True))


def _entropy(pixels: Counts) -> float:
    """Return the entropy in bits of regions with these sizes."""
    fraction = pixels / pixels.sum()
    return float(-(fraction * np.log2(fraction)).sum())
