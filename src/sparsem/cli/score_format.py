"""What was found, in words and as data."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsem.score.instances import INSTANCE_SCORES
from sparsem.score.score import Scores
from sparsem.store.slice_use import Role

if TYPE_CHECKING:  # these load torch and numba
    from sparsem.detect.score import BoxEvaluation
    from sparsem.models.checkpoint import Recipe
    from sparsem.preprocess.align import Alignment
    from sparsem.segment.cross_validation import CrossValidation

MOST_LISTED = 12
GROUP_NAMES: dict[Role | None, str] = {
    "unseen": "unseen slices",
    "validated": "validation slices",
    "trained": "training slices",
    None: "all slices",
}
FAINT = 0.35  # likeness of neighboring slices below which alignment may follow the tissue


def score_lines(scores: dict[str, Scores]) -> list[str]:
    """Return the scores of each structure: by what slices were to the training, and of all slices together."""
    width = max((len(name) for name in scores), default=0)
    lines = []
    for name, found in scores.items():
        groups: list[Role | None] = list(found.roles)
        for role in groups if len(groups) == 1 else [*groups, None]:
            title = f"{name:{width}}  {GROUP_NAMES[role]:17}"
            lines.append(f"{title}  {_overlap_words(found.summary(role))}")
            lines += _cell_lines(found.of_cells(role), title)
        lines += _score_notes(name, found)
    return lines


def _overlap_words(summary: dict[str, float | None]) -> str:
    """Return pooled and average scores of a group of slices."""
    keys = ("dice_3d", "precision_3d", "recall_3d", "dice_slices")
    dice, precision, recall, average = (
        "--" if summary[key] is None else f"{summary[key]:.3f}" for key in keys
    )
    slices = "1 slice" if summary["slices"] == 1 else f"{summary['slices']} slices"
    return (
        f"3D Dice {dice}, precision {precision}, recall {recall}; mean Dice over {slices} {average}"
    )


def _score_notes(name: str, found: Scores) -> list[str]:
    """Return what a reader of the scores has to know."""
    notes = []
    if len(found.compared) < len(found.slices):
        count = f"{len(found.compared)} of {len(found.slices)} slices"
        listed = _numbers_listed(found.compared)
        others = "the ground truth does not label the others"
        notes.append(f"{name}: compared on {count} ({listed}); {others}.")
    if found.use is None:
        notes.append(
            f"{name}: which slices these labels were trained on is not known, so the score may be "
            "too high; name them with --trained-slices."
        )
    elif not found.group("unseen"):
        notes.append(
            f"{name}: training used every compared slice, so the score does not show how good unseen slices are."
        )
    if found.cells and found.of_cells()["dice_cells"] == 0:
        notes.append(
            f"{name}: no object has the number that it has in the ground truth. Dice and islands compare objects of one number; "
            "PQ, AP, VOI and Rand error do not need that."
        )
    if found.corrected:
        notes.append(
            f"{name}: the annotation of {_listed(found.corrected).lower()} began as a prediction; where the ground truth is that "
            "annotation the score is too high."
        )
    if found.is_copied:
        notes.append(
            f"{name}: {found.outline.fraction:.0%} of the outline of the ground truth is that of "
            "the labels to the pixel, as if it had been drawn from a prediction; such a score is "
            "too high."
        )
    return notes


def _cell_lines(numbers: dict[str, float | None], title: str) -> list[str]:
    """Return scores of objects, if they were asked for."""
    if not numbers:
        return []
    shown = {key: "--" if value is None else f"{value:.3f}" for key, value in numbers.items()}
    ways = []
    for where in ("3d", "2d"):
        arand, split, merge, quality, half, mean = (
            shown[f"{key}_{where}"] for key in INSTANCE_SCORES
        )
        errors = f"adapted Rand error {arand}, VOI {split} split + {merge} merge"
        ways.append(f"{where.upper()}: {errors}, PQ {quality}, AP50 {half}, mAP {mean}")
    of_islands = (
        f", {shown['islands_right']} of the area of islands right"
        if numbers["islands_right"] is not None
        else ""
    )
    return [
        f"{title}  Dice of {numbers['cells']} cells {shown['dice_cells']}{of_islands}; {ways[0]}",
        f"{title}  {ways[1]}",
    ]


def score_data(found: Scores) -> dict[str, Any]:
    """Return the same for scripts: by group, which slices were compared, and whether the ground truth looks like a copy."""
    groups: list[Role | None] = [*found.roles, None]
    data: dict[str, Any] = {
        role or "all": found.summary(role) | found.of_cells(role) for role in groups
    }
    return data | {"compared": list(found.compared), "outline_shared": found.outline.fraction}


def promise_line(one: "CrossValidation") -> str:
    """The Dice to expect."""
    known = [dice for dice in one.dice if not math.isnan(dice)]
    if not known:
        return f"{one.structure}: no fold held out a slice on which it is labeled, so no Dice can be expected"
    folds = ", ".join("--" if math.isnan(dice) else f"{dice:.3f}" for dice in one.dice)
    found = f"the folds found {folds}" if len(known) > 1 else f"one fold found {folds}"
    return f"{one.structure}: expect a Dice of about {one.mean:.3f} on unlabeled slices ({found})"


def validation_lines(recipe: "Recipe") -> list[str]:
    """Return the Dice on the slices that a training held out, structure by structure; empty if it held out none."""
    held_out = recipe.training["held_out"]
    if not held_out:
        return []
    where = f"on the held-out {', '.join(held_out)}"
    known = recipe.training["validation_dice_by_structure"]
    lines = [
        f"{name}: Dice {known[name]:.3f} {where}" for name in recipe.structures if name in known
    ]
    unknown = [name for name in recipe.structures if name not in known]
    if unknown:
        lines.append(
            f"{', '.join(unknown)}: no Dice {where}, where it is not labeled or there is none of it"
        )
    return lines


def alignment_lines(found: "Alignment") -> list[str]:
    """How far slices were moved, and what should be looked at."""
    sentences = (
        (found.jumps, "lies", "lie", "far from the slice before", "put right, but look at it"),
        (found.bad, "looks", "look", "like no neighbor", "left where the neighbors are"),
        (
            found.breaks,
            "is",
            "are",
            "connected with nothing before",
            "from there the stack goes on as if it had not drifted",
        ),
    )
    told = [
        (which, one if len(which) == 1 else many, what, then)
        for which, one, many, what, then in sentences
        if which
    ]
    places = [f"{_listed(which)} {verb} {what}: {then}" for which, verb, what, then in told]
    return _moved_by(found) + _hardly_drifting(found) + _unsure(found) + places


def _hardly_drifting(found: "Alignment") -> list[str]:
    """A recommendation where there was next to nothing to align."""
    if not found.hardly_drifts:
        return []
    seen = "Slices follow each other within a pixel, as those of an aligned stack do"
    return [
        f"{seen}: if it was aligned before, oblique tissue passed for drift. Leave align out then, and work with --image raw."
    ]


def _unsure(found: "Alignment") -> list[str]:
    """What to know of slices that have little in common."""
    usual = float(np.nanmedian(found.similarity)) if np.isfinite(found.similarity).any() else 1.0
    if usual >= FAINT:
        return []
    sections = "as thick sections are: tissue that runs obliquely may have passed for drift"
    return [
        f"Neighboring slices are little alike ({usual:.2f} of 1), {sections}. If the stack was aligned already, work with --image raw."
    ]


def _moved_by(found: "Alignment") -> list[str]:
    """The steps between slices, where nothing but shifts were allowed."""
    shifts = found.motions[:, :, 2]
    if len(shifts) < 2 or not np.array_equal(
        found.motions[:, :, :2], np.repeat(np.eye(2)[None], len(shifts), axis=0)
    ):
        return []
    steps = np.linalg.norm(np.diff(shifts, axis=0), axis=1)
    largest = int(steps.argmax())
    usual, most, whole = (
        float(np.median(steps)),
        float(steps[largest]),
        float(np.linalg.norm(np.ptp(shifts, axis=0))),
    )
    return [
        f"Put right: {usual:.1f} px from slice to slice, at most {most:.1f} px (slice {largest + 1}); {whole:.1f} px in all"
    ]


def _listed(numbers: tuple[int, ...]) -> str:
    return f"Slices {_numbers_listed(numbers)}" if len(numbers) > 1 else f"Slice {numbers[0]}"


def _numbers_listed(numbers: tuple[int, ...]) -> str:
    more = f" and {len(numbers) - MOST_LISTED} more" if len(numbers) > MOST_LISTED else ""
    return ", ".join(map(str, numbers[:MOST_LISTED])) + more


def box_lines(found: "BoxEvaluation") -> list[str]:
    """Scores of boxes for people: the thesis' table 5, counts, and what was taken for what."""
    head = ("structure", "boxes", "mAP", "AR", "AP50", "annotated", "counted", "off per image")
    looked = dict.fromkeys(
        f"{sample}:{z}" for one in found.boxes for sample, z in one.counts.images
    )
    few = ", ".join(list(looked)[:MOST_LISTED]) + (
        f" and {len(looked) - MOST_LISTED} more" if len(looked) > MOST_LISTED else ""
    )
    images = "image" if len(looked) == 1 else "images"
    lines = [
        f"Compared on {len(looked)} {images} ({few})",
        "  ".join(f"{word:>15}" for word in head),
    ]
    for one in found.boxes:
        own, scores = one.counts, one.scores
        numbers = (
            f"{scores.map:.3f}",
            f"{scores.ar:.3f}",
            f"{scores.ap50:.3f}",
            str(scores.n_truth),
        )
        counted = (str(int(own.detected.sum())), f"{own.mean_error:.1f} ({own.bias:+.0%})")
        lines.append(
            "  ".join(f"{word:>15}" for word in (scores.structure, one.kind, *numbers, *counted))
        )
    if len(found.names) > 1:
        lines += [
            "",
            "Annotated (rows) found as (columns):",
            "  ".join(f"{word:>15}" for word in ("", *found.names, "missed")),
        ]
        for name, row in zip((*found.names, "not there"), found.confusion, strict=True):
            lines.append("  ".join(f"{word:>15}" for word in (name, *map(str, row))))
    return lines


def box_data(found: "BoxEvaluation") -> dict[str, object]:
    """Scores of boxes for scripts."""
    return {
        "scores": found.table().to_pylist(),
        "names": found.names,
        "confusion": found.confusion.tolist(),
    }
