"""The stage ``score``: comparison of labels with ground truth on its labeled slices.

Scores are given for three groups of slices: unseen slices, slices that only selected the weights
(validation), and slices that the weights were trained on. Only those of unseen slices show how good
a result is.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sparsem.annotation.ground_truth import GroundTruth, read_ground_truth
from sparsem.annotation.label_numbers import UNLABELED
from sparsem.annotation.labeled_slices import corrected_slices
from sparsem.annotation.renumbering import write_renumbering_table
from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.io.readers.source import Stack
from sparsem.labels.objects import current_objects
from sparsem.labels.overlaps import Overlaps, add_overlaps, overlaps
from sparsem.labels.results import result_labels
from sparsem.labels.slice_roles import slice_use_of
from sparsem.score.instances import (
    INSTANCE_COUNTS,
    INSTANCE_SCORES,
    dice_of_cells,
    instance_scores,
    remove_small_objects,
    scores_of_objects,
)
from sparsem.score.islands import IslandCount, count_islands
from sparsem.score.matching import ObjectMatching, choose_matching
from sparsem.score.overlap import (
    NO_OUTLINE,
    MaskOverlap,
    OutlineCount,
    average_dice,
    mask_overlap,
    outline_count,
    pool_slices,
)
from sparsem.score.settings import ScoreSettings
from sparsem.settings import parsed_slices, resolve_settings
from sparsem.store.names import is_step
from sparsem.store.sample import Sample
from sparsem.store.slice_use import ROLES, Role, SliceUse
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import BlockResult, Stage

# Ground truth seems to be drawn from a prediction if more than this fraction of its outline is the
# same to the pixel; drawings of two people have a third in common (measured).
COPIED_OUTLINE = 0.8


@dataclass(frozen=True)
class Scores(StageResult):
    """Overlap of labels and ground truth in every slice of the stack.

    Attributes:
        slices: overlap of the structure; slices without ground truth have no known pixel.
        use: use of the slices in training; None if unknown.
        cells: overlaps of every predicted with every true object, slice by slice; empty unless
            objects were compared.
        min_voxels: smaller objects count as background.
        in_3d: objects were matched in 3D, else slice by slice.
        outline: the outline of the ground truth, and how much of it is that of the labels.
        islands: islands of cells, slice by slice; empty unless objects were compared.
        corrected: compared slices whose annotation began as a prediction.
    """

    slices: tuple[MaskOverlap, ...]
    use: SliceUse | None
    cells: tuple[Overlaps, ...] = ()
    min_voxels: int = 0
    in_3d: bool = True
    outline: OutlineCount = NO_OUTLINE
    islands: tuple[IslandCount, ...] = ()
    corrected: tuple[int, ...] = ()

    @property
    def compared(self) -> tuple[int, ...]:
        """Numbers of the slices that can be compared, in whole or in part."""
        return tuple(z for z, counts in enumerate(self.slices) if counts.known)

    def group(self, role: Role | None = None) -> tuple[int, ...]:
        """Return the numbers of the compared slices of a role; of all roles if none is given.

        Empty if roles are unknown.
        """
        if role is None:
            return self.compared
        if self.use is None:
            return ()
        return tuple(z for z in self.compared if self.use.role(z) == role)

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles of the compared slices."""
        return tuple(role for role in ROLES if self.group(role))

    @property
    def is_copied(self) -> bool:
        """True if the ground truth seems to be drawn from these labels, or from similar ones."""
        return self.outline.fraction > COPIED_OUTLINE

    def of_cells(self, role: Role | None = None) -> dict[str, float | None]:
        """Return scores of objects (see ``instance_scores``) and of islands.

        The score of islands is the fraction of their area with the right identity. None where a
        score is not defined; empty unless objects were compared.
        """
        if not self.cells:
            return {}
        slices = self.group(role)
        numbers = instance_scores([self.cells[z] for z in slices], self.min_voxels, self.in_3d)
        pixels = sum(self.islands[z].pixels for z in slices)
        right = sum(self.islands[z].right for z in slices)
        numbers["islands_right"] = right / pixels if pixels else math.nan
        return _nan_to_none(numbers)

    def summary(self, role: Role | None = None) -> dict[str, float | None]:
        """Return pooled 3D Dice, precision and recall, and the average Dice over slices.

        The papers' average leaves out slices without ground truth. None where a score is not
        defined: there is no slice, or the prediction or the ground truth is empty.
        """
        slices = [self.slices[z] for z in self.group(role)]
        stack = pool_slices(slices)
        numbers = {
            "dice_3d": stack.dice,
            "precision_3d": stack.precision,
            "recall_3d": stack.recall,
            "dice_slices": average_dice(slices),
            "dice_slices_skipping_empty": average_dice(slices, skip_empty_truth=True),
        }
        return {"slices": len(slices), **_nan_to_none(numbers)}


def _nan_to_none(numbers: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def score(
    sample: Sample,
    name: str,
    truth: str | Path | None = None,
    settings: ScoreSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Scores:
    """Compare labels of a structure with ground truth, and write ``tables/scores_NAME``.

    The table has one row for each labeled slice.

    Args:
        sample: sample with labels of that name.
        name: name of the structure; any label except 0 counts as the structure.
        truth: a labeled volume, a folder of masks or a single slice, with the pixels of the labels
            or of the raw image: it is then moved as alignment moved them; the sample's own
            ``truth/NAME`` if not given.
        settings: labeled slices and parts of the ground truth, and the meaning of its numbers.
        on: how the work is distributed.
        changes: fields of the settings, by name.

    Raises:
        SampleError: the sample has no such labels, or has no ground truth and none is given.
        InputError: the ground truth cannot be read, has another shape, does not show which slices
            it labels, or labels no pixel.
    """
    settings = resolve_settings(ScoreSettings, settings, changes)
    predicted = _labels_to_compare(sample, name, settings)
    true = read_ground_truth(sample, name, predicted, truth, settings, objects=settings.instances)
    kind = _matching(predicted, true, settings) if settings.instances else ObjectMatching()
    inputs = {"labels": predicted.fingerprint, "truth": true.identity}
    depth = predicted.block_depth
    _, y, x = predicted.shape
    needs = Needs(
        ram=depth * y * x * (2 * predicted.dtype.itemsize + 10) + y * x * 32,
        smaller="use fewer --workers",
    )
    on = replace(on, overwrite=True)
    with Stage(sample, f"score-{name}", settings, inputs, [], on, needs) as stage:
        blocks = stage.map(_score_block, predicted.blocks(), predicted, true.stack, settings, kind)
    write_renumbering_table(sample, f"truth_ids_{name}", true.renumbering)
    scores = _scores_of_blocks(sample, name, settings, blocks, kind.in_3d)
    sample.write_table(f"scores_{name}", score_table(scores))
    if scores.cells and scores.in_3d:
        sample.write_table(f"dice_{name}", dice_table(scores))
    return scores


def _labels_to_compare(sample: Sample, name: str, settings: ScoreSettings) -> Volume:
    """Return labels without what a person drew in them, or with it if settings say so."""
    if settings.labels is None:
        labels = result_labels(sample, name)
        if settings.instances and labels.dtype == np.uint8:
            labels = current_objects(sample, name, labels)
    else:
        labels = sample.volume("labels", settings.labels)
    return labels if settings.with_drawn else sample.computed(labels.directory.name)


def _matching(predicted: Volume, true: GroundTruth, settings: ScoreSettings) -> ObjectMatching:
    """Return how objects are matched: as settings say, else as the ground truth shows."""
    is_organelle = is_step(predicted.directory.name)
    shown = choose_matching(true.stack, true.z, default_in_3d=not is_organelle)
    if settings.matching is None:
        return shown
    return shown._replace(in_3d=settings.matching == "3d")


def _scores_of_blocks(
    sample: Sample,
    name: str,
    settings: ScoreSettings,
    blocks: Sequence[dict[str, Any]],
    in_3d: bool,
) -> Scores:
    """Return scores from the summaries of all blocks.

    Raises:
        InputError: the ground truth labels no pixel.
    """
    slices = tuple(MaskOverlap(*counts) for block in blocks for counts in block["counts"])
    if not any(counts.known for counts in slices):
        raise InputError(
            f"The ground truth of '{name}' labels no pixel of the stack; check --slices, --box and "
            "--ignore."
        )
    outlines = [OutlineCount(*block["outline"]) for block in blocks]
    has_cells = any(block["cells"] for block in blocks)
    has_identities = has_cells and in_3d
    tables = [f"scores_{name}", f"dice_{name}"] if has_identities else [f"scores_{name}"]
    return Scores(
        sample=sample,
        written=tuple(f"tables/{table}" for table in tables),
        slices=slices,
        use=_stated_use(settings) or slice_use_of(sample, settings.labels or name),
        cells=tuple(_overlaps_of(columns) for block in blocks for columns in block["cells"]),
        min_voxels=settings.min_voxels,
        in_3d=in_3d,
        outline=_sum_outlines(outlines),
        islands=tuple(IslandCount(*counts) for block in blocks for counts in block["islands"]),
        corrected=tuple(z for z in corrected_slices(sample, name) if slices[z].known),
    )


def _stated_use(settings: ScoreSettings) -> SliceUse | None:
    """Return the slices that settings state as trained on; None if they state nothing."""
    stated = settings.trained_slices
    if stated is None:
        return None
    slices = [] if stated in ("", "none") else parsed_slices(stated)
    return SliceUse(tuple(sorted(slices)))


def dice_table(scores: Scores) -> pa.Table:
    """Return one row for each true cell.

    Columns are its voxels, and its Dice with the predicted cell of the same identity, in all slices
    and in unseen slices.
    """
    cells = remove_small_objects(scores.cells, scores.min_voxels)
    unseen_cells = [cells[z] for z in scores.group("unseen")]
    dice = dice_of_cells(add_overlaps(cells))
    dice_unseen = dice_of_cells(add_overlaps(unseen_cells))
    voxels = dict.fromkeys(dice, 0)
    for table in cells:
        for cell, pixels in zip(table.second.tolist(), table.pixels.tolist(), strict=True):
            voxels[cell] = voxels.get(cell, 0) + pixels
    return pa.table(
        {
            "cell": list(dice),
            "voxels": [voxels[cell] for cell in dice],
            "dice": list(dice.values()),
            "dice_unseen": [dice_unseen.get(cell) for cell in dice],
        }
    )


def score_table(scores: Scores) -> pa.Table:
    """Return one row for each slice that can be compared: pixel counts, and scores of the slice.

    NaN where a ratio is not defined.
    """
    slices = [scores.slices[z] for z in scores.compared]
    use = scores.use
    columns: dict[str, list[Any]] = {
        "z": list(scores.compared),
        "use": [use.role(z) if use else "unknown" for z in scores.compared],
        "known_px": [counts.known for counts in slices],
        "both_px": [counts.both for counts in slices],
        "predicted_px": [counts.predicted for counts in slices],
        "true_px": [counts.true for counts in slices],
        "dice": [counts.dice for counts in slices],
        "precision": [counts.precision for counts in slices],
        "recall": [counts.recall for counts in slices],
    }
    if scores.cells:
        columns |= _object_columns(scores)
    if scores.islands and scores.in_3d:
        islands = [scores.islands[z] for z in scores.compared]
        columns["island_px"] = [counts.pixels for counts in islands]
        columns["island_right_px"] = [counts.right for counts in islands]
    return pa.table(columns)


def _object_columns(scores: Scores) -> dict[str, list[Any]]:
    """Return numbers and scores of objects in every slice that can be compared."""
    tables = [scores.cells[z] for z in scores.compared]
    without_small = remove_small_objects(tables, scores.min_voxels, scores.in_3d)
    of_slices = [scores_of_objects(table) for table in without_small]
    columns: dict[str, list[Any]] = {}
    for name in INSTANCE_COUNTS:
        columns[f"{name}_objects" if name in ("true", "predicted") else name] = [
            int(of_slice[name]) for of_slice in of_slices
        ]
    for name in INSTANCE_SCORES:
        columns[name] = [of_slice[name] for of_slice in of_slices]
    return columns


def _score_block(
    block: ZBlock,
    predicted: Volume,
    truth: Stack,
    settings: ScoreSettings,
    kind: ObjectMatching,
) -> BlockResult:
    true_labels = np.asarray(truth[block.own])
    known = true_labels != UNLABELED
    if not known.any():
        return {}, _empty_summary(len(true_labels), settings.instances)
    true = (true_labels > 0) & known
    true_objects = np.where(true, true_labels, 0)
    labels = predicted.read(block.own)
    counts, outlines, cells, islands = [], [], [], []
    for z in range(len(labels)):
        mask = labels[z] > 0
        slice_counts = mask_overlap(mask, true[z], known[z])
        counts.append(
            [slice_counts.both, slice_counts.predicted, slice_counts.true, slice_counts.known]
        )
        outlines.append(outline_count(mask, true[z], known[z]))
        if settings.instances:
            table = overlaps(*kind.objects(labels[z], true_objects[z]), known[z])
            cells.append([column.tolist() for column in table])
            islands.append(count_islands(labels[z], true_objects[z]))
    return {}, {
        "counts": counts,
        "cells": cells,
        "islands": islands,
        "outline": list(_sum_outlines(outlines)),
    }


def _empty_summary(n_slices: int, instances: bool) -> dict[str, Any]:
    """Return the summary of a block without a labeled pixel, whose labels need not be read.

    Most blocks of a stack with a few labeled slices are such blocks.
    """
    n_tables = n_slices if instances else 0
    return {
        "counts": [[0, 0, 0, 0]] * n_slices,
        "cells": [[[], [], []]] * n_tables,
        "islands": [[0, 0]] * n_tables,
        "outline": [0, 0],
    }


def _sum_outlines(outlines: Sequence[OutlineCount]) -> OutlineCount:
    shared = sum(outline.shared for outline in outlines)
    true = sum(outline.true for outline in outlines)
    return OutlineCount(shared, true)


def _overlaps_of(columns: Sequence[Sequence[int]]) -> Overlaps:
    """Return overlaps from the columns in the summary of a block."""
    first, second, pixels = columns
    return Overlaps(
        np.array(first, np.uint32), np.array(second, np.uint32), np.array(pixels, np.int64)
    )
