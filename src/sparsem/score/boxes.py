"""Scores of detected boxes: COCO's average precision and recall, confusion matrix, counts.

The scores of COCO are those of Lin et al. (2014).

COCO evaluates the 100 most certain boxes of an image. Images of tissue hold many more, so all boxes
count here, and so does every size. The numbers are those of faster-coco-eval, which is the oracle
of the tests. It compares all boxes of an image with all and keeps the result for all images, 0.4 GB
and 8 s for an image of 5,000 objects; here boxes are compared only with those that overlap them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, overlapping_pairs

# An overlap may miss its threshold by this much, as in COCO's own programs.
TOLERANCE = 1e-10
# Minimum intersection over union of a correct box, for confusion and counts.
MIN_IOU = 0.5
# Intersections over union at which the average precision is computed.
THRESHOLDS = np.linspace(0.5, 0.95, 10)
AP75 = 5  # position of 0.75 in THRESHOLDS
# Recalls at which precision is read.
RECALLS = np.linspace(0, 1, 101)


class BoxComparison(NamedTuple):
    """Detected boxes of one sample, compared with ground truth.

    Attributes:
        truth: boxes of the ground truth.
        predicted: boxes of a detector, with scores.
        images: numbers of the images that are compared.
        sample: name of the sample.
    """

    truth: Boxes
    predicted: Boxes
    images: tuple[int, ...]
    sample: str = ""


@dataclass(frozen=True)
class BoxScores:
    """Scores of one structure.

    Attributes:
        name: name of the structure.
        truth: number of boxes in the ground truth.
        predicted: number of predicted boxes.
        map: mean of the average precisions at overlaps of 0.50, 0.55 ... 0.95.
        ap50: average precision at an overlap of 0.5.
        ap75: average precision at an overlap of 0.75.
        ar: average recall: the mean of the highest recalls at the same overlaps.
        curve: (101,) precision at recalls of 0, 0.01 ... 1, at an overlap of 0.5.
    """

    name: str
    truth: int
    predicted: int
    map: float
    ap50: float
    ap75: float
    ar: float
    curve: NDArray[np.float64]


def box_scores(comparisons: Sequence[BoxComparison], names: Sequence[str]) -> list[BoxScores]:
    """Return COCO's scores of every structure, over all images of all samples together.

    NaN for a structure without ground truth.

    Args:
        comparisons: samples; ground truth and prediction have the same structures.
        names: structures.
    """
    return [_scores_of(comparisons, name) for name in names]


def _scores_of(comparisons: Sequence[BoxComparison], name: str) -> BoxScores:
    score, is_hit, n_truth = _pooled_hits(comparisons, name)
    if not n_truth:
        no_curve = np.full(len(RECALLS), math.nan)
        return BoxScores(name, 0, len(score), math.nan, math.nan, math.nan, math.nan, no_curve)
    by_certainty = np.argsort(-score, kind="stable")
    n_hits = np.cumsum(is_hit[:, by_certainty], axis=1)
    recall = n_hits / n_truth
    precision = n_hits / np.arange(1, len(score) + 1)
    curves = _precision_at_recalls(recall, precision)
    max_recall = recall[:, -1].mean() if len(score) else 0.0
    return BoxScores(
        name=name,
        truth=n_truth,
        predicted=len(score),
        map=float(curves.mean()),
        ap50=float(curves[0].mean()),
        ap75=float(curves[AP75].mean()),
        ar=float(max_recall),
        curve=curves[0],
    )


def _pooled_hits(
    comparisons: Sequence[BoxComparison], name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Return the predicted boxes of a structure in all images.

    Returns:
        Scores (N,), whether each box is correct at each threshold (10, N), and the number of boxes
        in the ground truth.
    """
    scores = [np.empty(0, np.float32)]
    hits = [np.empty((len(THRESHOLDS), 0), bool)]
    n_truth = 0
    for comparison in comparisons:
        truth = comparison.truth.of_structure(name)
        predicted = comparison.predicted.of_structure(name)
        for z in comparison.images:
            image_truth = truth.of_image(z)
            image_predicted = predicted.of_image(z)
            by_certainty = np.argsort(-image_predicted.score, kind="stable")
            image_predicted = image_predicted[by_certainty]
            scores.append(image_predicted.score)
            hits.append(_hits(image_predicted, image_truth))
            n_truth += len(image_truth)
    return np.concatenate(scores), np.concatenate(hits, axis=1), n_truth


def _precision_at_recalls(
    recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the highest precision at or above each of RECALLS, (10, 101); 0 for higher recalls.

    Args:
        recall: (10, N), ascending along the last axis.
        precision: (10, N).
    """
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    curves = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for threshold in range(len(THRESHOLDS)):
        position = np.searchsorted(recall[threshold], RECALLS, side="left")
        is_reached = position < recall.shape[1]
        curves[threshold][is_reached] = highest[threshold][position[is_reached]]
    return curves


def _hits(predicted: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    """Return whether each predicted box of an image is correct at each threshold, (10, N).

    Boxes are descending by score. Each takes the box of the ground truth that it overlaps most,
    among those that no earlier box has taken.
    """
    hits = np.zeros((len(THRESHOLDS), len(predicted)), bool)
    thresholds = THRESHOLDS - TOLERANCE
    row, column, iou = overlapping_pairs(predicted.corners, truth.corners, thresholds[0])
    first_pair = np.searchsorted(row, np.arange(len(predicted) + 1)).tolist()
    overlapping = np.unique(row).tolist()
    for threshold_hits, min_iou in zip(hits, thresholds, strict=True):
        is_free = np.ones(len(truth), bool)
        for box in overlapping:
            pairs = slice(first_pair[box], first_pair[box + 1])
            free_iou = np.where(is_free[column[pairs]], iou[pairs], 0)
            best = int(free_iou.argmax())
            if free_iou[best] >= min_iou:
                threshold_hits[box] = True
                is_free[column[pairs][best]] = False
    return hits


class BoxMatch(NamedTuple):
    """Pairs of predicted and true boxes of an image, one to one.

    Attributes:
        predicted: (n,) position of the predicted box of each true one; -1 for a missed one.
        truth: (m,) position of the true box of each predicted one; -1 for a false positive.
    """

    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]


def match_boxes(truth: Boxes, predicted: Boxes, min_iou: float = MIN_IOU) -> BoxMatch:
    """Match the boxes of an image, whatever their structures.

    Predicted boxes descend by score. Each takes the free true box that it overlaps most. Pairs of
    the same structure are matched first, so a box with a wrong structure never takes another's
    object.
    """
    predicted_of = np.full(len(truth), -1)
    truth_of = np.full(len(predicted), -1)
    row, column, iou = overlapping_pairs(predicted.corners, truth.corners, min_iou)
    kind_in_truth = np.array(
        [truth.names.index(name) if name in truth.names else -1 for name in predicted.names], int
    )
    is_same_kind = kind_in_truth[predicted.kind[row]] == truth.kind[column]
    first_pair = np.searchsorted(row, np.arange(len(predicted) + 1))
    by_certainty = np.argsort(-predicted.score, kind="stable").tolist()
    for is_candidate in (is_same_kind, np.ones_like(is_same_kind)):
        for box in by_certainty:
            pairs = slice(first_pair[box], first_pair[box + 1])
            is_free = is_candidate[pairs] & (predicted_of[column[pairs]] < 0)
            free_iou = np.where(is_free, iou[pairs], 0)
            if truth_of[box] < 0 and free_iou.any():
                best = column[pairs][free_iou.argmax()]
                predicted_of[best] = box
                truth_of[box] = best
    return BoxMatch(predicted_of, truth_of)


def confusion_matrix(
    comparisons: Sequence[BoxComparison], names: Sequence[str]
) -> NDArray[np.int64]:
    """Return how many boxes of each structure (row) were predicted as which one (column).

    Shape (K + 1, K + 1) for K structures. The last row counts false positives, the last column
    missed boxes.
    """
    n_structures = len(names)
    matrix = np.zeros((n_structures + 1, n_structures + 1), np.int64)
    for comparison in comparisons:
        row_of_kind = np.array([names.index(name) for name in comparison.truth.names])
        column_of_kind = np.array([names.index(name) for name in comparison.predicted.names])
        for z in comparison.images:
            truth = comparison.truth.of_image(z)
            predicted = comparison.predicted.of_image(z)
            match = match_boxes(truth, predicted)
            columns: NDArray[np.int64] = np.full(len(truth), n_structures)
            is_matched = match.predicted >= 0
            columns[is_matched] = column_of_kind[predicted.kind[match.predicted[is_matched]]]
            np.add.at(matrix, (row_of_kind[truth.kind], columns), 1)
            false_positives = column_of_kind[predicted.kind[match.truth < 0]]
            matrix[-1] += np.bincount(false_positives, minlength=n_structures + 1)
    return matrix


class ObjectCounts(NamedTuple):
    """Number of objects of a structure in images.

    Attributes:
        truth: (P,) objects of the ground truth in every image.
        predicted: (P,) predicted objects.
        images: sample and slice of each image.
    """

    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    images: tuple[tuple[str, int], ...] = ()

    @property
    def mean_error(self) -> float:
        """Mean absolute difference; NaN without images."""
        return float(np.abs(self.predicted - self.truth).mean()) if len(self.truth) else math.nan

    @property
    def bias(self) -> float:
        """Surplus of predicted objects as a fraction of the true ones; negative for a deficit."""
        n_truth = self.truth.sum()
        return float((self.predicted.sum() - n_truth) / n_truth) if n_truth else math.nan


def object_counts(comparisons: Sequence[BoxComparison], name: str) -> ObjectCounts:
    """Return the counts of a structure, image by image."""
    truth: list[int] = []
    predicted: list[int] = []
    images: list[tuple[str, int]] = []
    for comparison in comparisons:
        truth += _count_in_images(comparison.truth, name, comparison.images)
        predicted += _count_in_images(comparison.predicted, name, comparison.images)
        images += [(comparison.sample, z) for z in comparison.images]
    return ObjectCounts(np.array(truth, np.int64), np.array(predicted, np.int64), tuple(images))


def _count_in_images(boxes: Boxes, name: str, images: Sequence[int]) -> list[int]:
    z_of_structure = boxes.z[boxes.kind == boxes.names.index(name)]
    return [int((z_of_structure == z).sum()) for z in images]
