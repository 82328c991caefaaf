"""Scores in words and as data."""

from typing import Any

from sparsem.score.against import Scores
from sparsem.score.instances import SCORES


def score_lines(scores: dict[str, Scores]) -> list[str]:
    """Two lines a structure: on the slices that no training saw, and on all."""
    width = max((len(name) for name in scores), default=0)
    lines = []
    for name, found in scores.items():
        some = [("unseen slices", found.summary(only_unseen=True))] if 0 < len(found.seen) < len(found.slices) else []
        for which, summary in [*some, ("all slices", found.summary(only_unseen=False))]:
            dice, precision, recall, average = (
                "--" if summary[key] is None else f"{summary[key]:.3f}" for key in ("dice_3d", "precision_3d", "recall_3d", "dice_slices")
            )
            pooled = f"3D Dice {dice}, precision {precision}, recall {recall}"
            lines.append(f"{name:{width}}  {which:13}  {pooled}; mean over {summary['slices']} slices {average}")
            lines += _cell_lines(found.of_cells(only_unseen=which != "all slices"), f"{name:{width}}  {which:13}")
    return lines


def _cell_lines(numbers: dict[str, float | None], title: str) -> list[str]:
    """Scores of instances, if they were asked for."""
    if not numbers:
        return []
    shown = {key: "--" if value is None else f"{value:.3f}" for key, value in numbers.items()}
    ways = []
    for where in ("3d", "2d"):
        arand, split, merge, quality, half, mean = (shown[f"{key}_{where}"] for key in SCORES)
        errors = f"adapted Rand error {arand}, VOI {split} split + {merge} merge"
        ways.append(f"{where.upper()}: {errors}, PQ {quality}, AP50 {half}, mAP {mean}")
    return [f"{title}  Dice of {numbers['cells']} cells {shown['dice_cells']}; {ways[0]}", f"{title}  {ways[1]}"]


def score_data(found: Scores) -> dict[str, Any]:
    """The same for scripts."""
    both = {"unseen": True, "all": False}
    return {which: found.summary(only_unseen) | found.of_cells(only_unseen) for which, only_unseen in both.items()}
