"""Calibration of a detector's scores on held-out images.

Calibration gives the probability that a box of a score is right, and the score from which boxes
count as objects. A score is whatever made the loss small, and the same score means something else
for another structure. Isotonic regression (Zadrozny & Elkan 2002) assumes only that boxes of higher
scores are right more often.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from sparsem.detect.models.detector import MIN_SCORE
from sparsem.detect.training.recipe import DEFAULT_COUNTS_FROM, Curve
from sparsem.score.boxes import BoxComparison, match_boxes

MIN_BOXES = 20  # found on held-out images; with fewer nothing is calibrated
SCORE_MARGIN = 5e-5  # half of the last digit of a score, so that rounding excludes no box

Floats = NDArray[np.float64]


def scored_hits(
    compared: Sequence[BoxComparison], name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Return the scores of the boxes of a structure (n,), which are right (n,), and the objects.

    The last value is the number of annotated objects.
    """
    scores = [np.empty(0, np.float32)]
    is_right = [np.empty(0, bool)]
    n_objects = 0
    for sample in compared:
        for z in sample.slices:
            truth = sample.truth.of_image(z).of_structure(name)
            detected = sample.detected.of_image(z).of_structure(name)
            scores.append(detected.score)
            is_right.append(match_boxes(truth, detected).truth_of_detected >= 0)
            n_objects += len(truth)
    return np.concatenate(scores), np.concatenate(is_right), n_objects


def calibration_curve(compared: Sequence[BoxComparison], name: str) -> Curve | None:
    """Return scores, ascending, and the fraction of boxes of that score that are right.

    One right and one wrong box are added at either end, so that no probability is 0 or 1. The
    result is None if fewer than ``MIN_BOXES`` boxes were found.
    """
    score, is_right, _ = scored_hits(compared, name)
    if len(score) < MIN_BOXES:
        return None
    end_scores = np.array([MIN_SCORE, MIN_SCORE, 1.0, 1.0])
    all_scores = np.concatenate([score.astype(np.float64), end_scores])
    all_right = np.concatenate([is_right, [0, 1, 0, 1]])
    levels, fitted = _fitted_fractions(all_scores, all_right)
    knots = _ends_of_steps(fitted)
    return _rounded(levels[knots]), _rounded(fitted[knots])


def _fitted_fractions(scores: Floats, is_right: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Return the scores that occur, ascending, and the fraction of right boxes, fitted to rise."""
    # Boxes of one score share one probability.
    levels, level_index = np.unique(scores, return_inverse=True)
    weights = np.bincount(level_index).astype(np.float64)
    fraction = np.bincount(level_index, weights=is_right) / weights
    return levels, isotonic_regression(fraction, weights=weights).x


def _ends_of_steps(fitted: NDArray[np.float64]) -> list[int]:
    """Return the first and the last index of each step of a fit that is constant between steps."""
    steps = np.flatnonzero(np.diff(fitted, prepend=-1) > 0)
    return sorted({0, len(fitted) - 1, *steps.tolist(), *(steps[1:] - 1).tolist()})


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(round(float(value), 5) for value in values)


def counting_threshold(compared: Sequence[BoxComparison], name: str) -> float:
    """Return the score from which on boxes agree best with the ground truth: the highest F1."""
    score, is_right, n_objects = scored_hits(compared, name)
    if not n_objects or len(score) < MIN_BOXES:
        return DEFAULT_COUNTS_FROM
    order = np.argsort(-score, kind="stable")
    sorted_score = score[order]
    n_right = np.cumsum(is_right[order])
    n_boxes = np.arange(1, len(n_right) + 1)
    f1 = 2 * n_right / (n_boxes + n_objects)
    # Boxes of one score count all or none: the last of them stands for all.
    is_last = np.append(np.diff(sorted_score) != 0, True)
    best = int(np.argmax(np.where(is_last, f1, -1)))
    return max(MIN_SCORE, round(float(sorted_score[best]) - SCORE_MARGIN, 4))
