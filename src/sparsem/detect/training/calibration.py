"""What a detector's scores mean: how probably a box with such a score is right, and from which score on boxes are objects.

Learnt on pictures that were held out: a score is whatever makes the loss small, and that of one structure means something else than that
of another. Isotonic regression (Zadrozny & Elkan 2002): the more sure, the more often right, and nothing else is assumed.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from sparsem.detect.models.detector import MIN_SCORE
from sparsem.detect.training.recipe import DEFAULT_COUNTS_FROM, Curve
from sparsem.score.boxes import BoxComparison, match_boxes

LEAST_BOXES = 20  # found on held-out pictures, with fewer of which nothing can be told


def scored_hits(
    compared: Sequence[BoxComparison], name: str
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Scores of the boxes of a structure (n,), which of them are right (n,), and how many objects there are."""
    scores, right, objects = [np.empty(0, np.float32)], [np.empty(0, bool)], 0
    for one in compared:
        for z in one.images:
            truth, found = (
                one.truth.of_image(z).of_structure(name),
                one.predicted.of_image(z).of_structure(name),
            )
            scores.append(found.score)
            right.append(match_boxes(truth, found).truth >= 0)
            objects += len(truth)
    return np.concatenate(scores), np.concatenate(right), objects


def calibration_curve(compared: Sequence[BoxComparison], name: str) -> Curve | None:
    """Scores, ascending, and how many of the boxes with such a score are right; None where too few were found to tell.

    One right and one wrong box are added at either end, so that nothing is ever certain.
    """
    score, right, _ = scored_hits(compared, name)
    if len(score) < LEAST_BOXES:
        return None
    ends = np.array([MIN_SCORE, MIN_SCORE, 1.0, 1.0])
    levels, place = np.unique(np.concatenate([score.astype(np.float64), ends]), return_inverse=True)
    weights = np.bincount(place).astype(
        np.float64
    )  # boxes of one score are as right as they are together
    share = np.bincount(place, weights=np.concatenate([right, [0, 1, 0, 1]])) / weights
    fitted = isotonic_regression(share, weights=weights).x
    edges = np.flatnonzero(
        np.diff(fitted, prepend=-1) > 0
    )  # a level begins, and the one before it ends
    knots = sorted({0, len(levels) - 1, *edges.tolist(), *(edges[1:] - 1).tolist()})
    return tuple(round(float(one), 5) for one in levels[knots]), tuple(
        round(float(one), 5) for one in fitted[knots]
    )


def counting_threshold(compared: Sequence[BoxComparison], name: str) -> float:
    """The score from which on the boxes of a structure agree best with what is there: the highest F1."""
    score, right, objects = scored_hits(compared, name)
    if not objects or len(score) < LEAST_BOXES:
        return DEFAULT_COUNTS_FROM
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    last = np.append(
        np.diff(score[order]) != 0, True
    )  # boxes of one score are all counted, or none
    best = int(np.argmax(np.where(last, f1, -1)))
    return max(MIN_SCORE, round(float(score[order][best]) - 5e-5, 4))
