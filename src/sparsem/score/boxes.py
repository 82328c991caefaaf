"""How good boxes are: COCO's mean average precision, average recall and AP50 (Lin et al. 2014), confusion between classes, counts.

Precision and recall are those of faster-coco-eval. COCO looks at the 100 surest boxes of a picture; pictures of tissue hold many more, so
all that there are count here, and so does every size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes import Boxes, alike_pairs

COCO_MOST = 100  # boxes a picture that COCO looks at; the library says -1 of everything if it is not among its limits
HALF = 0.5  # intersection over union from which on a box is right, for AP50, confusion and counts


class Compared(NamedTuple):
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


def box_scores(compared: Sequence[Compared], names: Sequence[str]) -> list[BoxScores]:
    """COCO's scores of every structure, over all pictures of all samples together; NaN of one that is nowhere.

    Args:
        compared: samples; truth and found of the same names.
        names: structures.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth, found = _as_coco(compared, names)
    numbers = {name: _number(compared, name) for name in names}
    if not truth["annotations"] or not found:
        nothing = np.zeros(101)
        return [_nothing(name, *numbers[name], nothing) for name in names]
    gt = COCO(truth)
    judge = COCOeval_faster(gt, gt.loadRes(found), "bbox", print_function=lambda *_: None)
    most = max(np.unique([one["image_id"] for one in found], return_counts=True)[1].max(initial=0), COCO_MOST)
    judge.params.maxDets = sorted({1, COCO_MOST, int(most) + 1})
    judge.evaluate()
    judge.accumulate()
    precision, recall = (np.asarray(judge.eval[key])[..., 0, -1] for key in ("precision", "recall"))  # (T, R, K) and (T, K), of all sizes
    scores = []
    for place, name in enumerate(names):
        if not numbers[name][0]:
            scores.append(_nothing(name, *numbers[name], np.full(101, math.nan)))
            continue
        own = np.maximum(precision[..., place], 0)
        scores.append(
            BoxScores(name, *numbers[name], float(own.mean()), float(own[0].mean()), float(own[5].mean()),
                      float(np.maximum(recall[:, place], 0).mean()), own[0])
        )  # fmt: skip
    return scores


def _number(compared: Sequence[Compared], name: str) -> tuple[int, int]:
    """How many boxes of a structure are there, and were found, in the pictures that are compared."""
    totals = [0, 0]
    for one in compared:
        for place, boxes in enumerate((one.truth, one.found)):
            totals[place] += int(np.count_nonzero(np.isin(boxes.z, one.pictures) & (boxes.kind == boxes.names.index(name))))
    return totals[0], totals[1]


def _nothing(name: str, truth: int, found: int, curve: NDArray[np.float64]) -> BoxScores:
    value = 0.0 if truth else math.nan
    return BoxScores(name, truth, found, value, value, value, value, curve if truth else np.full(101, math.nan))


def _as_coco(compared: Sequence[Compared], names: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A data set and results, in COCO's form; pictures are numbered through all samples."""
    pictures: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for one in compared:
        number = {z: len(pictures) + place for place, z in enumerate(one.pictures, 1)}
        pictures += [{"id": place, "width": 1, "height": 1} for place in number.values()]
        for boxes, out in ((one.truth, annotations), (one.found, results)):
            extents = np.column_stack([boxes.corners[:, :2], boxes.corners[:, 2:] - boxes.corners[:, :2]]).astype(float)
            for z, kind, extent, score in zip(boxes.z.tolist(), boxes.kind.tolist(), extents.tolist(), boxes.score.tolist(), strict=True):
                if z in number and boxes.names[kind] in names:
                    row = {"image_id": number[z], "category_id": names.index(boxes.names[kind]) + 1, "bbox": extent}
                    more = {"score": score} if out is results else {"iscrowd": 0, "area": extent[2] * extent[3]}
                    out.append({**row, "id": len(out) + 1, **more})
    return {
        "images": pictures,
        "annotations": annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(names, 1)],
    }, results


class Match(NamedTuple):
    """Found boxes of a picture and the true boxes that they are, none of which is two.

    Attributes:
        found: (n,) place of each true box's found one; -1 for one that was missed.
        truth: (m,) place of each found box's true one; -1 for one that is not there.
    """

    found: NDArray[np.int64]
    truth: NDArray[np.int64]


def matched(truth: Boxes, found: Boxes, least: float = HALF) -> Match:
    """Pair the boxes of a picture, whatever is in them: the surest found one first, with the free true one that it overlaps most.

    Among equals one of the same structure comes first.
    """
    to_found, to_truth = np.full(len(truth), -1), np.full(len(found), -1)
    row, column, alike = alike_pairs(found.corners, truth.corners, least)
    kinds = np.array([truth.names.index(name) if name in truth.names else -1 for name in found.names], int)
    same = kinds[found.kind[row]] == truth.kind[column]
    first = np.searchsorted(row, np.arange(len(found) + 1))
    order = np.argsort(-found.score, kind="stable").tolist()
    for wanted in (same, np.ones_like(same)):  # what is told right first: a wrong name never takes another's object
        for place in order:
            own = slice(first[place], first[place + 1])
            free = np.where(wanted[own] & (to_found[column[own]] < 0), alike[own], 0)
            if to_truth[place] < 0 and free.any():
                best = column[own][free.argmax()]
                to_found[best], to_truth[place] = place, best
    return Match(to_found, to_truth)


def confusion(compared: Sequence[Compared], names: Sequence[str]) -> NDArray[np.int64]:
    """(K + 1, K + 1) how many boxes of each structure (row) were found as which (column); last row: not there; last column: missed."""
    out = np.zeros((len(names) + 1, len(names) + 1), np.int64)
    for one in compared:
        true_kind, found_kind = (np.array([names.index(name) for name in boxes.names]) for boxes in (one.truth, one.found))
        for z in one.pictures:
            truth, found = one.truth.of_picture(z), one.found.of_picture(z)
            pairs = matched(truth, found)
            columns = np.where(pairs.found >= 0, found_kind[found.kind[pairs.found]] if len(found) else 0, len(names))
            np.add.at(out, (true_kind[truth.kind], columns), 1)
            out[-1] += np.bincount(found_kind[found.kind[pairs.truth < 0]], minlength=len(names) + 1)
    return out


class Counts(NamedTuple):
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
        return float((self.found.sum() - self.truth.sum()) / self.truth.sum()) if self.truth.sum() else math.nan


def counts(compared: Sequence[Compared], name: str) -> Counts:
    """Of a structure, picture by picture."""
    columns: list[list[int]] = [[], []]
    for one in compared:
        for boxes, out in zip((one.truth, one.found), columns, strict=True):
            own = boxes.z[boxes.kind == boxes.names.index(name)]
            out += [int((own == z).sum()) for z in one.pictures]
    truth, found = (np.array(column, np.int64) for column in columns)
    return Counts(truth, found, tuple((one.sample, z) for one in compared for z in one.pictures))
