"""The stage ``score``: labels compared with ground truth, slice by slice, where the ground truth is labeled.

Scores are given for three groups of slices: those that training never saw, those that only chose the weights, and those that the
weights were trained on. Only the first group says how good a result is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, field_validator

from sparsem.annotation.ground_truth import GroundTruthSettings, read_ground_truth
from sparsem.annotation.label_numbers import UNLABELED
from sparsem.annotation.labeled_slices import corrected_slices
from sparsem.annotation.renumbering import write_renumbering_table
from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.io.readers.source import Stack
from sparsem.labels.overlaps import Overlaps, add_overlaps, overlaps
from sparsem.labels.results import result_labels
from sparsem.labels.slice_roles import slice_use_of
from sparsem.score.instances import dice_of_cells, instance_scores, remove_small_objects
from sparsem.score.islands import IslandCount, count_islands
from sparsem.score.overlap import (
    NO_OUTLINE,
    MaskOverlap,
    OutlineCount,
    average_dice,
    mask_overlap,
    outline_count,
    pool_slices,
)
from sparsem.settings import SliceChoice, parsed_slices, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.slice_use import ROLES, Role, SliceUse
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

COPIED_OUTLINE = 0.8  # part of the outline that is the same to the pixel; two people's drawings share a third (measured)


class ScoreSettings(GroundTruthSettings):
    """What is compared with what."""

    labels: str | None = Field(
        None,
        description="the labels to compare; if not given NAME-constrained where there are any, else NAME",
    )
    trained_slices: SliceChoice | None = Field(
        None,
        description="slices that the labels were trained on, as 3,10,17 or 'none', where the sample does not know: labels made elsewhere",
    )
    instances: bool = Field(
        False,
        description="compare cell by cell too: Dice per cell, adapted Rand error, VOI, PQ, AP",
    )
    min_voxels: int = Field(
        0,
        ge=0,
        description="with --instances: smaller objects count as background, in labels and ground truth",
    )

    @field_validator("trained_slices")
    @classmethod
    def _is_a_list(cls, value: str | None) -> str | None:
        if value not in (None, "", "none"):
            parsed_slices(value)
        return value


@dataclass(frozen=True)
class Scores:
    """Overlap of labels and ground truth in every slice of the stack.

    Attributes:
        slices: of the structure; slices without ground truth have no known pixel.
        use: what slices were to the training; None if that is not known.
        cells: overlaps of every predicted with every true object, slice by slice; empty unless objects were compared.
        least_voxels: smaller objects count as background.
        outline: how much of the outline of the ground truth is that of the labels.
        islands: of cells, slice by slice; empty unless objects were compared.
        corrected: compared slices whose annotation began as a prediction.
    """

    slices: tuple[MaskOverlap, ...]
    use: SliceUse | None
    cells: tuple[Overlaps, ...] = ()
    least_voxels: int = 0
    outline: OutlineCount = NO_OUTLINE
    islands: tuple[IslandCount, ...] = ()
    corrected: tuple[int, ...] = ()

    @property
    def compared(self) -> tuple[int, ...]:
        """Numbers of the slices that can be compared, in whole or in part."""
        return tuple(z for z, one in enumerate(self.slices) if one.known)

    def group(self, role: Role | None = None) -> tuple[int, ...]:
        """Return the numbers of the compared slices of a role; of all roles if none is given. Empty if roles are not known."""
        if role is None:
            return self.compared
        use = self.use
        return tuple(z for z in self.compared if use.role(z) == role) if use else ()

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that compared slices have."""
        return tuple(role for role in ROLES if self.group(role))

    @property
    def is_copied(self) -> bool:
        """Whether the ground truth seems to have been drawn from these labels, or labels like them."""
        return self.outline.fraction > COPIED_OUTLINE

    def of_cells(self, role: Role | None = None) -> dict[str, float | None]:
        """Return scores of objects (see ``instance_scores``), and which part of the area of islands has the right identity.

        None where a number has no meaning; empty unless objects were compared.
        """
        if not self.cells:
            return {}
        group = self.group(role)
        numbers = instance_scores([self.cells[z] for z in group], self.least_voxels)
        pixels, right = (sum(self.islands[z][k] for z in group) for k in range(2))
        numbers["islands_right"] = right / pixels if pixels else math.nan
        return {name: None if math.isnan(value) else value for name, value in numbers.items()}

    def summary(self, role: Role | None = None) -> dict[str, float | None]:
        """Return pooled 3D Dice, precision and recall, and the average Dice over slices; the papers' leaves out slices without truth.

        None where a number has no meaning: no slice is left, nothing was predicted, or there was nothing to find.
        """
        chosen = [self.slices[z] for z in self.group(role)]
        whole = pool_slices(chosen)
        average = {
            "dice_slices": average_dice(chosen),
            "dice_slices_skipping_empty": average_dice(chosen, skip_empty_truth=True),
        }
        numbers = {
            "dice_3d": whole.dice,
            "precision_3d": whole.precision,
            "recall_3d": whole.recall,
            **average,
        }
        return {
            "slices": len(chosen),
            **{name: None if math.isnan(value) else value for name, value in numbers.items()},
        }


def score(
    sample: Sample,
    name: str,
    truth: str | Path | None = None,
    settings: ScoreSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Scores:
    """Compare the labels of a structure with ground truth and write ``tables/scores_NAME``, one row for each slice that is labeled.

    Args:
        sample: with labels of that name.
        name: of the structure; any label that is not 0 counts as the structure.
        truth: a labeled volume, a folder of masks or a single slice, with the pixels of the labels or of the raw image: it is then
            moved as alignment moved them; the sample's own ``truth/NAME`` if not given.
        settings: which slices and parts of the ground truth are labeled, and what its numbers mean.
        on: how the work is spread.

    Raises:
        SampleError: no such labels, or no ground truth in the sample and none given.
        InputError: the ground truth cannot be read, has another shape, or does not show which slices it labels.
    """
    settings = resolve_settings(ScoreSettings, settings, changes)
    predicted = (
        sample.volume("labels", settings.labels) if settings.labels else result_labels(sample, name)
    )
    true = read_ground_truth(sample, name, predicted, truth, settings, objects=settings.instances)
    inputs = {"labels": predicted.fingerprint, "truth": true.identity}
    depth, y, x = predicted.block_depth, *predicted.shape[1:]
    needs = Needs(
        ram=depth * y * x * (2 * predicted.dtype.itemsize + 10) + y * x * 32,
        smaller="use fewer --workers",
    )
    with Stage(
        sample, f"score-{name}", settings, inputs, [], replace(on, overwrite=True), needs
    ) as stage:
        blocks = stage.map(_score_block, predicted.blocks(), predicted, true.stack, settings)
    write_renumbering_table(sample, f"truth_ids_{name}", true.renumbering)
    slices = tuple(MaskOverlap(*counts) for block in blocks for counts in block["counts"])
    cells = tuple(_overlaps_of(one) for block in blocks for one in block["cells"])
    outline = OutlineCount(*(sum(block["outline"][k] for block in blocks) for k in range(2)))
    if not any(one.known for one in slices):
        raise InputError(
            f"The ground truth of '{name}' labels no pixel of the stack; check --slices, --box and --ignore."
        )
    stated = settings.trained_slices
    use = slice_use_of(sample, settings.labels or name)
    if stated is not None:
        use = SliceUse(() if stated in ("", "none") else tuple(sorted(parsed_slices(stated))))
    islands = tuple(IslandCount(*counts) for block in blocks for counts in block["islands"])
    corrected = tuple(z for z in corrected_slices(sample, name) if slices[z].known)
    scores = Scores(slices, use, cells, settings.min_voxels, outline, islands, corrected)
    sample.write_table(f"scores_{name}", score_table(scores))
    if cells:
        sample.write_table(f"dice_{name}", dice_table(scores))
    return scores


def dice_table(scores: Scores) -> pa.Table:
    """Return one row a true cell: its voxels, and its Dice with the predicted cell of the same identity, in all and in unseen slices."""
    cells = remove_small_objects(scores.cells, scores.least_voxels)
    unseen = [cells[z] for z in scores.group("unseen")]
    everywhere, elsewhere = dice_of_cells(add_overlaps(cells)), dice_of_cells(add_overlaps(unseen))
    voxels = dict.fromkeys(everywhere, 0)
    for one in cells:
        for cell, pixels in zip(one.second.tolist(), one.pixels.tolist(), strict=True):
            voxels[cell] = voxels.get(cell, 0) + pixels
    columns = {
        "cell": list(everywhere),
        "voxels": [voxels[cell] for cell in everywhere],
        "dice": list(everywhere.values()),
    }
    return pa.table({**columns, "dice_unseen": [elsewhere.get(cell) for cell in everywhere]})


def score_table(scores: Scores) -> pa.Table:
    """Return one row for each slice that can be compared: pixel counts and what follows from them; NaN where a ratio has no meaning."""
    slices = [scores.slices[z] for z in scores.compared]
    use = scores.use
    columns: dict[str, Sequence[Any]] = {
        "z": scores.compared,
        "use": [use.role(z) if use else "unknown" for z in scores.compared],
        "known_px": [one.known for one in slices],
        "both_px": [one.both for one in slices],
        "predicted_px": [one.predicted for one in slices],
        "true_px": [one.true for one in slices],
        "dice": [one.dice for one in slices],
        "precision": [one.precision for one in slices],
        "recall": [one.recall for one in slices],
    }
    if scores.islands:
        columns["island_px"] = [scores.islands[z].pixels for z in scores.compared]
        columns["island_right_px"] = [scores.islands[z].right for z in scores.compared]
    return pa.table({name: list(values) for name, values in columns.items()})


def _score_block(
    block: ZBlock, predicted: Volume, truth: Stack, settings: ScoreSettings
) -> BlockResult:
    labels = np.asarray(truth[block.own])
    known = labels != UNLABELED
    if not known.any():  # most blocks of a stack with a few labeled slices: the labels are not read
        nothing = [0, 0, 0, 0]
        count = len(labels) if settings.instances else 0
        return {}, {
            "counts": [nothing] * len(labels),
            "cells": [[[], [], []]] * count,
            "islands": [[0, 0]] * count,
            "outline": [0, 0],
        }
    true = (labels > 0) & known
    ours = predicted.read(block.own)
    sums = [mask_overlap(ours[z] > 0, true[z], known[z]) for z in range(len(ours))]
    counted = range(len(ours)) if settings.instances else ()
    objects = np.where(true, labels, 0)
    cells = [overlaps(ours[z], objects[z], known[z]) for z in counted]
    islands = [count_islands(ours[z], objects[z]) for z in counted]
    outlines = [outline_count(ours[z] > 0, true[z], known[z]) for z in range(len(ours))]
    outline = [sum(one.shared for one in outlines), sum(one.true for one in outlines)]
    counts = [[one.both, one.predicted, one.true, one.known] for one in sums]
    tables = [[column.tolist() for column in one] for one in cells]
    return {}, {"counts": counts, "cells": tables, "islands": islands, "outline": outline}


def _overlaps_of(columns: Sequence[Sequence[int]]) -> Overlaps:
    first, second, pixels = columns
    return Overlaps(
        np.array(first, np.uint32), np.array(second, np.uint32), np.array(pixels, np.int64)
    )
