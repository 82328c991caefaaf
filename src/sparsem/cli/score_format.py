"""Scores, alignments and evaluations of boxes, as lines for people and as data for scripts."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsem.store.summary import list_first

if TYPE_CHECKING:
    from sparsem.score.score import Scores
    from sparsem.store.slice_use import Role

if TYPE_CHECKING:  # these load torch and numba
    from sparsem.detect.score import BoxEvaluation
    from sparsem.models.checkpoint import Recipe
    from sparsem.preprocess.align import Alignment
    from sparsem.segment.cross_validation import CrossValidation

GROUP_NAMES: "dict[Role | None, str]" = {
    "unseen": "unseen slices",
    "validated": "validation slices",
    "trained": "training slices",
    None: "all slices",
}
MIN_SIMILARITY = (
    0.35  # similarity of neighboring slices below which alignment may follow the tissue
)
MISSING = "--"
WIDTH = 15  # characters of a column


def score_lines(scores: "dict[str, Scores]") -> list[str]:
    """Return the scores of each structure, by use of the slices in training and of all slices."""
    width = max((len(name) for name in scores), default=0)
    lines = []
    for name, structure_scores in scores.items():
        groups: list[Role | None] = list(structure_scores.roles)
        if len(groups) > 1:
            groups.append(None)
        for role in groups:
            title = f"{name:{width}}  {GROUP_NAMES[role]:17}"
            lines.append(f"{title}  {_overlap_words(structure_scores.summary(role))}")
            lines += _cell_lines(structure_scores.of_cells(role), title)
        lines += _score_notes(name, structure_scores)
    return lines


def _overlap_words(summary: dict[str, float | None]) -> str:
    """Return pooled and average scores of a group of slices."""
    dice = _three_digits(summary["dice_3d"])
    precision = _three_digits(summary["precision_3d"])
    recall = _three_digits(summary["recall_3d"])
    average = _three_digits(summary["dice_slices"])
    slices = "1 slice" if summary["slices"] == 1 else f"{summary['slices']} slices"
    pooled = f"3D Dice {dice}, precision {precision}, recall {recall}"
    return f"{pooled}; mean Dice over {slices} {average}"


def _three_digits(value: float | None) -> str:
    return MISSING if value is None or math.isnan(value) else f"{value:.3f}"


def _score_notes(name: str, scores: "Scores") -> list[str]:
    """Return what a reader of the scores needs to know."""
    notes = []
    n_compared = len(scores.compared)
    n_slices = len(scores.slices)
    if n_compared < n_slices:
        notes.append(
            f"compared on {n_compared} of {n_slices} slices ({list_first(scores.compared)}); "
            "the ground truth does not label the others."
        )
    if scores.use is None:
        notes.append(
            "which slices these labels were trained on is not known, so the score may be "
            "too high; name them with --trained-slices."
        )
    elif not scores.group("unseen"):
        notes.append(
            "training used every compared slice, so the score does not show how good unseen slices "
            "are."
        )
    if scores.cells and not scores.in_3d:
        notes.append(
            "objects were matched slice by slice: the numbers of the ground truth do not agree "
            "between slices."
        )
    elif scores.cells and scores.of_cells()["dice_cells"] == 0:
        notes.append(
            "no object has the same number in the ground truth. Dice and islands compare objects "
            "of one number; PQ, AP, VOI and Rand error do not need that."
        )
    if scores.corrected:
        notes.append(
            f"the annotation of {_slices(scores.corrected).lower()} began as a prediction; "
            "where the ground truth is that annotation, the score is too high."
        )
    if scores.is_copied:
        notes.append(
            f"{scores.outline.fraction:.0%} of the outline of the ground truth equals that of the "
            "labels to the pixel, as if it had been drawn from a prediction; such a score is too "
            "high."
        )
    return [f"{name}: {note}" for note in notes]


def _cell_lines(scores: dict[str, float | None], title: str) -> list[str]:
    """Return scores of objects; empty if they were not computed."""
    if not scores:
        return []
    lines = [_instance_words(scores, "2d")]
    if scores["arand_3d"] is not None:
        islands = ""
        if scores["islands_right"] is not None:
            islands = f", {_three_digits(scores['islands_right'])} of the area of islands right"
        cells = f"Dice of {scores['cells']} cells {_three_digits(scores['dice_cells'])}{islands}"
        lines = [f"{cells}; {_instance_words(scores, '3d')}", *lines]
    return [f"{title}  {line}" for line in lines]


def _instance_words(scores: dict[str, float | None], dimensions: str) -> str:
    """Return scores and numbers of objects, in 3D or slice by slice."""
    from sparsem.score.instances import INSTANCE_COUNTS, INSTANCE_SCORES

    values = [_three_digits(scores[f"{key}_{dimensions}"]) for key in INSTANCE_SCORES]
    arand, split, merge, panoptic, ap50, mean_ap, f1_50, f1_75 = values
    errors = f"adapted Rand error {arand}, VOI {split} split + {merge} merge"
    matches = f"PQ {panoptic}, AP50 {ap50}, mAP {mean_ap}, F1 {f1_50} at 0.5, {f1_75} at 0.75"
    counts = "{1:.0f} objects for {0:.0f}, {2:.0f} splits, {3:.0f} mergers".format(
        *(scores[f"{key}_{dimensions}"] for key in INSTANCE_COUNTS)
    )
    return f"{dimensions.upper()}: {errors}, {matches}; {counts}"


def score_data(scores: "Scores") -> dict[str, Any]:
    """Return scores for scripts, by group, with the compared slices.

    They also say if the ground truth looks like a copy of the labels.
    """
    groups: list[Role | None] = [*scores.roles, None]
    data: dict[str, Any] = {}
    for role in groups:
        data[role or "all"] = scores.summary(role) | scores.of_cells(role)
    data["compared"] = list(scores.compared)
    data["outline_shared"] = scores.outline.fraction
    return data


def cross_validation_line(validation: "CrossValidation") -> str:
    """Return the Dice to expect on unlabeled slices."""
    name = validation.structure
    known = [dice for dice in validation.dice if not math.isnan(dice)]
    if not known:
        return (
            f"{name}: no fold held out a slice on which it is labeled, so no Dice can be expected"
        )
    folds = ", ".join(_three_digits(dice) for dice in validation.dice)
    noun = "folds" if len(known) > 1 else "one fold"
    return (
        f"{name}: expect a Dice of about {validation.mean:.3f} on unlabeled slices ({noun}: "
        f"{folds})"
    )


def validation_lines(recipe: "Recipe") -> list[str]:
    """Return the Dice on the slices that a training held out, structure by structure.

    Empty if it held out none.
    """
    held_out = recipe.training["held_out"]
    if not held_out:
        return []
    where = f"on the held-out {', '.join(held_out)}"
    dice = recipe.training["validation_dice_by_structure"]
    lines = [f"{name}: Dice {dice[name]:.3f} {where}" for name in recipe.structures if name in dice]
    without = [name for name in recipe.structures if name not in dice]
    if without:
        lines.append(f"{', '.join(without)}: no Dice {where}, where it is not labeled or absent")
    return lines


def alignment_lines(alignment: "Alignment") -> list[str]:
    """Return how far slices were moved, and what should be reviewed."""
    lines = [
        *_shift_lines(alignment),
        *_no_drift_lines(alignment),
        *_similarity_lines(alignment),
    ]
    if alignment.jumps:
        lines.append(
            f"{_slices(alignment.jumps)}: far from the slice before; corrected, please review"
        )
    if alignment.bad:
        lines.append(
            f"{_slices(alignment.bad)}: similar to no neighbor; placed where the neighbors are"
        )
    if alignment.breaks:
        lines.append(
            f"{_slices(alignment.breaks)}: connected with no slice before; "
            "from there the stack continues as if it had not drifted"
        )
    return lines


def _no_drift_lines(alignment: "Alignment") -> list[str]:
    """Return a recommendation where there was next to nothing to align."""
    if not alignment.hardly_drifts:
        return []
    return [
        (
            "Slices follow each other within a pixel, as those of an aligned stack do: if it was "
            "aligned before, oblique tissue was mistaken for drift. Leave align out then, and "
            "work with --image raw."
        )
    ]


def _similarity_lines(alignment: "Alignment") -> list[str]:
    """Return a warning about slices that have little in common."""
    if not np.isfinite(alignment.similarity).any():
        return []
    median = float(np.nanmedian(alignment.similarity))
    if median >= MIN_SIMILARITY:
        return []
    return [
        (
            f"Neighboring slices are hardly similar ({median:.2f} of 1), as thick sections are: "
            "tissue that runs obliquely "
            "may have been mistaken for drift. If the stack was aligned before, work with --image "
            "raw."
        )
    ]


def _shift_lines(alignment: "Alignment") -> list[str]:
    """Return the shifts between slices, where only shifts were allowed."""
    linear = alignment.motions[:, :, :2]
    shifts = alignment.motions[:, :, 2]
    identity = np.repeat(np.eye(2)[None], len(shifts), axis=0)
    if len(shifts) < 2 or not np.array_equal(linear, identity):
        return []
    steps = np.linalg.norm(np.diff(shifts, axis=0), axis=1)
    largest = int(steps.argmax())
    total = float(np.linalg.norm(np.ptp(shifts, axis=0)))
    return [
        (
            f"Corrected: {np.median(steps):.1f} px from slice to slice, at most "
            f"{steps[largest]:.1f} px "
            f"(slice {largest + 1}); {total:.1f} px in all"
        )
    ]


def _slices(numbers: Sequence[int]) -> str:
    noun = "Slice" if len(numbers) == 1 else "Slices"
    return f"{noun} {list_first(numbers)}"


def box_lines(evaluation: "BoxEvaluation") -> list[str]:
    """Return scores of boxes (thesis, table 5), counts, and the confusion of structures."""
    images: list[str] = []
    for structure in evaluation.boxes:
        images += [f"{sample}:{z}" for sample, z in structure.counts.images]
    images = list(dict.fromkeys(images))
    noun = "image" if len(images) == 1 else "images"
    listed = list_first(images)
    headings = (
        "structure",
        "boxes",
        "mAP",
        "AR",
        "AP50",
        "annotated",
        "counted",
        "off per image",
    )
    lines = [f"Compared on {len(images)} {noun} ({listed})", _row(headings)]
    for structure in evaluation.boxes:
        scores = structure.scores
        counts = structure.counts
        values = (
            scores.structure,
            structure.kind,
            f"{scores.map:.3f}",
            f"{scores.ar:.3f}",
            f"{scores.ap50:.3f}",
            str(scores.n_truth),
            str(int(counts.detected.sum())),
            f"{counts.mean_error:.1f} ({counts.bias:+.0%})",
        )
        lines.append(_row(values))
    if len(evaluation.names) > 1:
        lines += _confusion_lines(evaluation)
    return lines


def _confusion_lines(evaluation: "BoxEvaluation") -> list[str]:
    names = evaluation.names
    lines = ["", "Annotated (rows) detected as (columns):", _row(("", *names, "missed"))]
    for name, counts in zip((*names, "background"), evaluation.confusion, strict=True):
        lines.append(_row((name, *map(str, counts))))
    return lines


def _row(words: Sequence[str]) -> str:
    return "  ".join(f"{word:>{WIDTH}}" for word in words)


def box_data(evaluation: "BoxEvaluation") -> dict[str, object]:
    """Return scores of boxes for scripts."""
    return {
        "scores": evaluation.score_table().to_pylist(),
        "names": evaluation.names,
        "confusion": evaluation.confusion.tolist(),
    }
