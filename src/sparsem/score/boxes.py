"""Scores of detected boxes against ground truth.

COCO's mean average precision, average recall and AP50 (Lin et al. 2014), confusion between
structures, and counts of objects.

COCO compares only the 100 boxes of an image with the highest scores. Images of tissue hold many
more, so here all boxes count, and boxes of every size. The numbers are those of faster-coco-eval,
the oracle of the tests. It compares all boxes of an image with all others and keeps the overlaps of
all images, 0.4 GB and 8 s for one image of 5,000 objects; here each box is compared with the boxes
near it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, overlapping_pairs

IOU_TOLERANCE = 1e-10  # by which an overlap may miss its threshold, as in COCO's own programs
MIN_IOU = 0.5  # intersection over union of a right box, for AP50, confusion and counts

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


class BoxComparison(NamedTuple):
    """Detected boxes of one sample and its ground truth.

    Attributes:
        truth: annotated boxes.
        detected: boxes of a detector, with scores.
        slices: indices of the slices that are compared.
        sample: name of the sample.
    """

    truth: Boxes
    detected: Boxes
    slices: tuple[int, ...]
    sample: str = ""


@dataclass(frozen=True)
class BoxScores:
    """Scores of one structure; NaN if no image holds it.

    Attributes:
        structure: its name.
        n_truth: number of annotated boxes.
        n_detected: number of detected boxes.
        map: mean of the average precisions at overlaps of 0.50, 0.55 ... 0.95.
        ap50: average precision at an overlap of 0.5.
        ap75: average precision at an overlap of 0.75.
        ar: average recall: mean of the highest recalls at the same overlaps.
        curve: (101,) precision at recalls of 0, 0.01 ... 1, at an overlap of 0.5.
    """

    structure: str
    n_truth: int
    n_detected: int
    map: float
    ap50: float
    ap75: float
    ar: float
    curve: NDArray[np.float64]


def box_scores(compared: Sequence[BoxComparison], names: Sequence[str]) -> list[BoxScores]:
    """Return COCO's scores of every structure, over the images of all samples together.

    Args:
        compared: samples; truth and detected boxes of the same names.
        names: structures.
    """
    return [_scores_of(compared, name) for name in names]


def _scores_of(compared: Sequence[BoxComparison], name: str) -> BoxScores:
    score, hits, n_objects = _hits_of(compared, name)
    if not n_objects:
        no_curve = np.full(len(RECALLS), math.nan)
        return BoxScores(name, 0, len(score), math.nan, math.nan, math.nan, math.nan, no_curve)
    n_right = np.cumsum(hits[:, np.argsort(-score, kind="stable")], axis=1)
    recall = n_right / n_objects
    precision = n_right / np.arange(1, len(score) + 1)
    curves = _precision_at_recalls(recall, precision)
    highest_recall = recall[:, -1].mean() if len(score) else 0.0
    return BoxScores(
        structure=name,
        n_truth=n_objects,
        n_detected=len(score),
        map=float(curves.mean()),
        ap50=float(curves[0].mean()),
        ap75=float(curves[5].mean()),
        ar=float(highest_recall),
        curve=curves[0],
    )


def _hits_of(
    compared: Sequence[BoxComparison], name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Return scores (N,), hits at each threshold (10, N), and the number of annotated objects."""
    scores = [np.empty(0, np.float32)]
    hits = [np.empty((len(THRESHOLDS), 0), bool)]
    n_objects = 0
    for sample in compared:
        truth = sample.truth.of_structure(name)
        detected = sample.detected.of_structure(name)
        for z in sample.slices:
            true_boxes = truth.of_image(z)
            boxes = detected.of_image(z)
            boxes = boxes[np.argsort(-boxes.score, kind="stable")]
            scores.append(boxes.score)
            hits.append(_hits(boxes, true_boxes))
            n_objects += len(true_boxes)
    return np.concatenate(scores), np.concatenate(hits, axis=1), n_objects


def _precision_at_recalls(
    recall: NDArray[np.float64], precision: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the precision at each of ``RECALLS`` for each threshold, (10, 101).

    It is the highest precision at this recall or a higher one; 0 where that is never reached.

    Args:
        recall: (10, N) after each box, in the order of descending scores.
        precision: (10, N) likewise.
    """
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    curves = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for curve, reached, highest_precision in zip(curves, recall, highest, strict=True):
        index = np.searchsorted(reached, RECALLS, side="left")
        is_reached = index < len(highest_precision)
        curve[is_reached] = highest_precision[index[is_reached]]
    return curves


def _hits(detected: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    """Return which detected boxes of an image are right at each threshold, (10, N).

    Each box, the highest score first, takes the free true box that it overlaps most.

    Args:
        detected: N boxes of one image, sorted by descending score.
        truth: true boxes of the same image.
    """
    hits = np.zeros((len(THRESHOLDS), len(detected)), bool)
    row, column, iou = overlapping_pairs(
        detected.corners, truth.corners, THRESHOLDS[0] - IOU_TOLERANCE
    )
    first_pair = np.searchsorted(row, np.arange(len(detected) + 1)).tolist()
    for is_hit, min_iou in zip(hits, THRESHOLDS - IOU_TOLERANCE, strict=True):
        is_free = np.ones(len(truth), bool)
        for index in np.unique(row).tolist():
            pairs = slice(first_pair[index], first_pair[index + 1])
            free_iou = np.where(is_free[column[pairs]], iou[pairs], 0)
            best = int(free_iou.argmax())
            if free_iou[best] >= min_iou:
                is_hit[index] = True
                is_free[column[pairs][best]] = False
    return hits


class BoxMatch(NamedTuple):
    """One-to-one assignment of the detected and the true boxes of an image.

    Attributes:
        detected_of_truth: (n,) index of the detected box of each true box; -1 if it was missed.
        truth_of_detected: (m,) index of the true box of each detected box; -1 if there is none.
    """

    detected_of_truth: NDArray[np.int64]
    truth_of_detected: NDArray[np.int64]


def match_boxes(truth: Boxes, detected: Boxes, min_iou: float = MIN_IOU) -> BoxMatch:
    """Assign the detected boxes of an image to its true boxes, whatever their structures.

    Each detected box, the highest score first, takes the free true box that it overlaps most.
    Boxes of the right structure are assigned first: a wrong name never takes the object of a right
    one.
    """
    detected_of_truth = np.full(len(truth), -1)
    truth_of_detected = np.full(len(detected), -1)
    row, column, iou = overlapping_pairs(detected.corners, truth.corners, min_iou)
    kind_in_truth = np.array(
        [truth.names.index(name) if name in truth.names else -1 for name in detected.names], int
    )
    is_same_kind = kind_in_truth[detected.kind[row]] == truth.kind[column]
    first_pair = np.searchsorted(row, np.arange(len(detected) + 1))
    order = np.argsort(-detected.score, kind="stable").tolist()
    for is_candidate in (is_same_kind, np.ones_like(is_same_kind)):
        for index in order:
            pairs = slice(first_pair[index], first_pair[index + 1])
            is_free = is_candidate[pairs] & (detected_of_truth[column[pairs]] < 0)
            free_iou = np.where(is_free, iou[pairs], 0)
            if truth_of_detected[index] < 0 and free_iou.any():
                best = column[pairs][free_iou.argmax()]
                detected_of_truth[best] = index
                truth_of_detected[index] = best
    return BoxMatch(detected_of_truth, truth_of_detected)


def confusion_matrix(compared: Sequence[BoxComparison], names: Sequence[str]) -> NDArray[np.int64]:
    """Return how many boxes of each structure (row) were detected as which (column).

    The matrix is (K + 1, K + 1): the last row counts detected boxes without an object, the last
    column counts missed objects.
    """
    n_names = len(names)
    matrix = np.zeros((n_names + 1, n_names + 1), np.int64)
    for sample in compared:
        true_kinds = np.array([names.index(name) for name in sample.truth.names])
        detected_kinds = np.array([names.index(name) for name in sample.detected.names])
        for z in sample.slices:
            truth = sample.truth.of_image(z)
            detected = sample.detected.of_image(z)
            match = match_boxes(truth, detected)
            columns = np.full(len(truth), n_names)
            is_detected = match.detected_of_truth >= 0
            partners = match.detected_of_truth[is_detected]
            columns[is_detected] = detected_kinds[detected.kind[partners]]
            np.add.at(matrix, (true_kinds[truth.kind], columns), 1)
            extra = detected_kinds[detected.kind[match.truth_of_detected < 0]]
            matrix[-1] += np.bincount(extra, minlength=n_names + 1)
    return matrix


class ObjectCounts(NamedTuple):
    """Numbers of annotated and of detected objects of a structure in images.

    Attributes:
        truth: (P,) annotated objects in every image.
        detected: (P,) detected objects in every image.
        images: sample and slice index of each image.
    """

    truth: NDArray[np.int64]
    detected: NDArray[np.int64]
    images: tuple[tuple[str, int], ...] = ()

    @property
    def mean_error(self) -> float:
        """Mean absolute difference per image; NaN without images."""
        if not len(self.truth):
            return math.nan
        return float(np.abs(self.detected - self.truth).mean())

    @property
    def bias(self) -> float:
        """Excess of detected objects as a fraction of all; negative if there are too few."""
        n_truth = self.truth.sum()
        if not n_truth:
            return math.nan
        return float((self.detected.sum() - n_truth) / n_truth)


def object_counts(compared: Sequence[BoxComparison], name: str) -> ObjectCounts:
    """Return the numbers of objects of a structure, image by image."""
    truth: list[int] = []
    detected: list[int] = []
    images: list[tuple[str, int]] = []
    for sample in compared:
        truth += _counts_by_slice(sample.truth, name, sample.slices)
        detected += _counts_by_slice(sample.detected, name, sample.slices)
        images += [(sample.sample, z) for z in sample.slices]
    return ObjectCounts(np.array(truth, np.int64), np.array(detected, np.int64), tuple(images))


def _counts_by_slice(boxes: Boxes, name: str, slices: Sequence[int]) -> list[int]:
    z_of_structure = boxes.z[boxes.kind == boxes.names.index(name)]
    return [int((z_of_structure == z).sum()) for z in slices]
