"""Dice from tables of scores, as numbers and as text.

A table ``scores_NAME`` has one row per compared slice: pixels of the prediction, of the ground
truth and of both, and how training used the slice.
"""

import math
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.store.slice_use import ROLES

# How training used a slice -> word in the table of the page.
USE_WORDS = {
    "unseen": "unseen",
    "validated": "validation",
    "trained": "training",
    "unknown": "compared",
}

Mask = NDArray[np.bool_]


def pooled_dice(scores: pa.Table, selected: Mask) -> float:
    """Return the 3D Dice of selected slices of a table of scores.

    Args:
        scores: one row per slice.
        selected: (n,), the slices to include.

    Returns:
        The Dice; NaN if neither prediction nor ground truth has a pixel.
    """
    both, predicted, true = (
        int(scores[column].to_numpy()[selected].sum())
        for column in ("both_px", "predicted_px", "true_px")
    )
    n_pixels = predicted + true
    return 2 * both / n_pixels if n_pixels else math.nan


def slices_used_as(scores: pa.Table, use: str) -> Mask:
    """Return which slices (n,) of a table of scores training used in that way."""
    return np.asarray(scores["use"].to_numpy(zero_copy_only=False) == use, bool)


def score_text(tables: Mapping[str, pa.Table], name: str) -> str:
    """Return the scores of a structure as text; empty without scores.

    Objects that were compared one by one come first: their mean Dice, and how much of the area of
    their islands is correct.
    """
    scores = tables.get(f"scores_{name}")
    foreground = _foreground_text(scores)
    if scores is None or not foreground:
        return ""
    objects = tables.get(f"dice_{name}")
    is_of_same_comparison = "island_px" in scores.column_names
    if objects is None or not is_of_same_comparison:
        return foreground
    is_unseen = slices_used_as(scores, "unseen")
    parts = [
        _object_text(objects, only_unseen=bool(is_unseen.any())),
        _island_text(scores, is_unseen if is_unseen.any() else ~is_unseen),
        f"foreground {foreground}",
    ]
    return "; ".join(part for part in parts if part)


def _foreground_text(scores: pa.Table | None) -> str:
    """Return the 3D Dice by how training used the slices; empty if there is nothing to compare."""
    if scores is None:
        return ""
    parts = []
    for use in (*ROLES, "unknown"):
        selected = slices_used_as(scores, use)
        if not selected.any():
            continue
        dice = pooled_dice(scores, selected)
        if not math.isnan(dice):
            n_slices = int(selected.sum())
            noun = "slice" if n_slices == 1 else "slices"
            parts.append(f"{dice:.3f} on {n_slices} {USE_WORDS[use]} {noun}")
    return "; ".join(parts)


def _object_text(objects: pa.Table, only_unseen: bool) -> str:
    column = "dice_unseen" if only_unseen else "dice"
    known = [dice for dice in objects[column].to_pylist() if dice is not None]
    if not known:
        return ""
    mean = sum(known) / len(known)
    where = ", unseen slices" if only_unseen else ""
    return f"{mean:.3f} per object ({len(known)} objects{where})"


def _island_text(scores: pa.Table, selected: Mask) -> str:
    pixels = int(scores["island_px"].to_numpy()[selected].sum())
    correct = int(scores["island_right_px"].to_numpy()[selected].sum())
    return f"{correct / pixels:.3f} of the area of islands correct" if pixels else ""
