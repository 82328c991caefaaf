"""How good boxes are: COCO's mean average precision, average recall and AP50 (Lin et al. 2014), confusion between classes, counts.

COCO looks at the 100 surest boxes of a picture; pictures of tissue hold many more, so all that there are count here, and so does every
size. The numbers are those of faster-coco-eval, which is the oracle of the tests: it compares all boxes of a picture with all and keeps it
for all pictures, 0.4 GB and 8 s for one of 5,000 objects; here boxes are compared with those beside them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, overlapping_pairs

EXACT = 1e-10  # by which an overlap may miss its threshold, as in COCO's own programs
HALF = 0.5  # intersection over union from which on a box is right, for AP50, confusion and counts


class BoxComparison(NamedTuple):
    """Boxes of one sample beside what is true.

    Attributes:
        truth: what is there.
        found: what a detector says, with scores.
        pictures: that are compared.
        sample: its name.
    """

    truth: Boxes
    found: Boxes
    pictures: tuple[int, ...]
    sample: str = ""


@dataclass(frozen=True)
class BoxScores:
    """Scores of one structure.

    Attributes:
        name: of it.
        truth: boxes that are there.
        found: boxes that were said to be.
        map: mean of the average precisions at overlaps of 0.50, 0.55 ... 0.95.
        ap50: average precision at an overlap of a half.
        ap75: at three quarters.
        ar: average recall: the mean of the highest recalls at the same overlaps.
        curve: (101,) precision at recalls of 0, 0.01 ... 1, at an overlap of a half.
    """

    name: str
    truth: int
    found: int
    map: float
    ap50: float
    ap75: float
    ar: float
    curve: NDArray[np.float64]


THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


def box_scores(compared: Sequence[BoxComparison], names: Sequence[str]) -> list[BoxScores]:
    """COCO's scores of every structure, over all pictures of all samples together; NaN of one that is nowhere.

    Args:
        compared: samples; truth and found of the same names.
        names: structures.
    """
    return [_scores_of(compared, name) for name in names]


def _scores_of(compared: Sequence[BoxComparison], name: str) -> BoxScores:
    scores, hits, objects = [np.empty(0, np.float32)], [np.empty((len(THRESHOLDS), 0), bool)], 0
    for one in compared:
        truth, found = one.truth.of_structure(name), one.found.of_structure(name)
        for z in one.pictures:
            here, there = found.of_image(z), truth.of_image(z)
            here = here[np.argsort(-here.score, kind="stable")]
            scores.append(here.score)
            hits.append(_hits(here, there))
            objects += len(there)
    score, hit = np.concatenate(scores), np.concatenate(hits, axis=1)
    if not objects:
        nothing = math.nan
        return BoxScores(
            name, 0, len(score), nothing, nothing, nothing, nothing, np.full(len(RECALLS), math.nan)
        )
    right = np.cumsum(hit[:, np.argsort(-score, kind="stable")], axis=1)
    recall, precision = right / objects, right / np.arange(1, len(score) + 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    curves = np.zeros((len(THRESHOLDS), len(RECALLS)))
    for curve, reached, own in zip(curves, recall, best, strict=True):
        place = np.searchsorted(reached, RECALLS, side="left")
        curve[place < len(own)] = own[place[place < len(own)]]
    highest = recall[:, -1].mean() if len(score) else 0.0
    return BoxScores(
        name,
        objects,
        len(score),
        float(curves.mean()),
        float(curves[0].mean()),
        float(curves[5].mean()),
        float(highest),
        curves[0],
    )


def _hits(found: Boxes, truth: Boxes) -> NDArray[np.bool_]:
    """(10, N) whether each found box of a picture, the surest first, is right at each threshold: the free true one it overlaps most."""
    hits = np.zeros((len(THRESHOLDS), len(found)), bool)
    row, column, alike = overlapping_pairs(found.corners, truth.corners, THRESHOLDS[0] - EXACT)
    first = np.searchsorted(row, np.arange(len(found) + 1)).tolist()
    for own, least in zip(hits, THRESHOLDS - EXACT, strict=True):
        free = np.ones(len(truth), bool)
        for place in np.unique(row).tolist():
            beside = slice(first[place], first[place + 1])
            there = np.where(free[column[beside]], alike[beside], 0)
            best = int(there.argmax())
            if there[best] >= least:
                own[place], free[column[beside][best]] = True, False
    return hits


class BoxMatch(NamedTuple):
    """Found boxes of a picture and the true boxes that they are, none of which is two.

    Attributes:
        found: (n,) place of each true box's found one; -1 for one that was missed.
        truth: (m,) place of each found box's true one; -1 for one that is not there.
    """

    found: NDArray[np.int64]
    truth: NDArray[np.int64]


def match_boxes(truth: Boxes, found: Boxes, least: float = HALF) -> BoxMatch:
    """Pair the boxes of a picture, whatever is in them: the surest found one first, with the free true one that it overlaps most.

    Among equals one of the same structure comes first.
    """
    to_found, to_truth = np.full(len(truth), -1), np.full(len(found), -1)
    row, column, alike = overlapping_pairs(found.corners, truth.corners, least)
    kinds = np.array(
        [truth.names.index(name) if name in truth.names else -1 for name in found.names], int
    )
    same = kinds[found.kind[row]] == truth.kind[column]
    first = np.searchsorted(row, np.arange(len(found) + 1))
    order = np.argsort(-found.score, kind="stable").tolist()
    for wanted in (
        same,
        np.ones_like(same),
    ):  # what is told right first: a wrong name never takes another's object
        for place in order:
            own = slice(first[place], first[place + 1])
            free = np.where(wanted[own] & (to_found[column[own]] < 0), alike[own], 0)
            if to_truth[place] < 0 and free.any():
                best = column[own][free.argmax()]
                to_found[best], to_truth[place] = place, best
    return BoxMatch(to_found, to_truth)


def confusion_matrix(compared: Sequence[BoxComparison], names: Sequence[str]) -> NDArray[np.int64]:
    """(K + 1, K + 1) how many boxes of each structure (row) were found as which (column); last row: not there; last column: missed."""
    out = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    for one in compared:
        true_kind, found_kind = (
            np.array([names.index(name) for name in boxes.names])
            for boxes in (one.truth, one.found)
        )
        for z in one.pictures:
            truth, found = one.truth.of_image(z), one.found.of_image(z)
            pairs = match_boxes(truth, found)
            columns = np.where(
                pairs.found >= 0,
                found_kind[found.kind[pairs.found]] if len(found) else 0,
                len(names),
            )
            np.add.at(out, (true_kind[truth.kind], columns), 1)
            out[-1] += np.bincount(
                found_kind[found.kind[pairs.truth < 0]], minlength=len(names) + 1
            )
    return out


class ObjectCounts(NamedTuple):
    """How many objects of a structure there are in pictures, and how many were found.

    Attributes:
        truth: (P,) in every picture.
        found: (P,).
        pictures: sample and slice of each.
    """

    truth: NDArray[np.int64]
    found: NDArray[np.int64]
    pictures: tuple[tuple[str, int], ...] = ()

    @property
    def mean_error(self) -> float:
        """Mean of the absolute differences."""
        return float(np.abs(self.found - self.truth).mean()) if len(self.truth) else math.nan

    @property
    def bias(self) -> float:
        """By what part of all there are too many, or too few where it is negative."""
        return (
            float((self.found.sum() - self.truth.sum()) / self.truth.sum())
            if self.truth.sum()
            else math.nan
        )


def object_counts(compared: Sequence[BoxComparison], name: str) -> ObjectCounts:
    """Of a structure, picture by picture."""
    columns: list[list[int]] = [[], []]
    for one in compared:
        for boxes, out in zip((one.truth, one.found), columns, strict=True):
            own = boxes.z[boxes.kind == boxes.names.index(name)]
            out += [int((own == z).sum()) for z in one.pictures]
    truth, found = (np.array(column, np.int64) for column in columns)
    return ObjectCounts(
        truth, found, tuple((one.sample, z) for one in compared for z in one.pictures)
    )
