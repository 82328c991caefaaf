"""Scoring a sample's labels against truth, slice by slice, on all slices and on those that no training saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from sparsem.annotations import annotated_structures, annotation_of_output
from sparsem.contents import CONSTRAINED, result_of
from sparsem.execution import HERE, Execution, Needs
from sparsem.geometry import ZBlock
from sparsem.label_numbers import (
    Numbers,
    Renumbering,
    Special,
    is_any_of,
    numbers_in,
    refuse_smeared,
    renumbered,
    unchanged,
    whole_numbers,
)
from sparsem.label_volumes import WIDE_BYTES, keep_table
from sparsem.regions import Overlaps, added, overlaps
from sparsem.score.instances import dice_of_cells, instance_scores
from sparsem.score.overlap import Overlap, average_dice, overlap, pooled
from sparsem.settings import Settings
from sparsem.stage import BlockResult, Stage
from sparsem.store.readers.source import MinIsWhite, Stack
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.truth import truth_of


class ScoreSettings(Settings):
    """What is compared with what."""

    dataset: str | None = Field(None, description="key of the truth inside a Zarr group")
    labels: str | None = Field(None, description="the labels to compare; if not given NAME-constrained where there are any, else NAME")
    ids: tuple[int, ...] = Field((), description="values in the truth that mean the structure; all but 0 if not given")
    ignore: int | None = Field(None, description="the number of pixels that are not labeled in the truth, such as 255 or -1")
    min_is_white: MinIsWhite | None = Field(
        None,
        description="which numbers of a 'min is white' truth count: stored (as napari and scikit-image read) or displayed (as in Fiji)",
    )
    annotation: str | None = Field(None, description="the annotation that tells which slices are labelled; NAME if not given")
    instances: bool = Field(False, description="compare cell by cell too: Dice a cell, adapted Rand error, VOI, PQ, AP")
    least_voxels: int = Field(0, ge=0, description="true cells with fewer voxels are left out of the mean Dice of cells")


@dataclass(frozen=True)
class Scores:
    """Overlap of every slice, and which slices were annotated, so that a training may have seen them.

    Attributes:
        slices: of the structure.
        seen: numbers of the annotated slices.
        cells: overlaps of every predicted with every true cell, slice by slice; empty unless cells were compared.
        least_voxels: of a cell that counts in the mean Dice of cells.
    """

    slices: tuple[Overlap, ...]
    seen: tuple[int, ...]
    cells: tuple[Overlaps, ...] = ()
    least_voxels: int = 0

    def of_cells(self, only_unseen: bool) -> dict[str, float | None]:
        """Scores of cells (see ``instance_scores``); None where a number has no meaning. Empty unless cells were compared."""
        chosen = [one for z, one in enumerate(self.cells) if not (only_unseen and z in self.seen)]
        numbers = instance_scores(chosen, self.least_voxels) if self.cells else {}
        return {name: None if math.isnan(value) else value for name, value in numbers.items()}

    def summary(self, only_unseen: bool) -> dict[str, float | None]:
        """Pooled 3D Dice, precision and recall; the average Dice over slices, and the papers' (slices without truth left out).

        None where a number has no meaning: no slice is left, nothing was predicted, or there was nothing to find.
        """
        chosen = [one for z, one in enumerate(self.slices) if not (only_unseen and z in self.seen)]
        whole = pooled(chosen)
        average = {"dice_slices": average_dice(chosen), "dice_slices_skipping_empty": average_dice(chosen, skip_empty_truth=True)}
        numbers = {"dice_3d": whole.dice, "precision_3d": whole.precision, "recall_3d": whole.recall, **average}
        return {"slices": len(chosen), **{name: None if math.isnan(value) else value for name, value in numbers.items()}}


def score(
    sample: Sample, name: str, truth: str | Path | None = None, settings: ScoreSettings = ScoreSettings(), on: Execution = HERE
) -> Scores:
    """Compare the labels of a structure with truth and write ``tables/scores_NAME``, one row a slice.

    Args:
        sample: with labels of that name.
        name: of the structure; any label that is not 0 counts as the structure.
        truth: a labelled volume of the same shape, or of that of the raw image: it then moves along with alignment; the sample's own
            ``truth/NAME`` if not given.
        settings: where in the truth, and what in it is not known.
        on: how the work is spread.

    Raises:
        SampleError: no such labels, or no truth in the sample and none given.
        InputError: the truth cannot be read or has another shape.
    """
    predicted = sample.volume("labels", settings.labels) if settings.labels else result_of(sample, name)
    true = truth_of(sample, name, predicted, truth, settings.dataset, settings.min_is_white)
    inputs = {"labels": predicted.fingerprint, "truth": true.identity}
    depth, y, x = predicted.block_depth, *predicted.shape[1:]
    needs = Needs(ram=depth * y * x * (2 * predicted.dtype.itemsize + 10) + y * x * 32, smaller="use fewer --workers")
    renumbering = _renumbering(predicted.blocks(), true.stack, settings)
    with Stage(sample, f"score-{name}", settings, inputs, [], replace(on, overwrite=True), needs) as stage:
        blocks = stage.map(_score_block, predicted.blocks(), predicted, true.stack, settings, renumbering)
    keep_table(sample, f"truth_ids_{name}", renumbering)
    slices = tuple(Overlap(*counts) for block in blocks for counts in block["counts"])
    cells = tuple(_overlaps_of(one) for block in blocks for one in block["cells"])
    scores = Scores(slices, _labelled(sample, name, settings.annotation), cells, settings.least_voxels)
    sample.write_table(f"scores_{name}", score_table(scores))
    if cells:
        sample.write_table(f"dice_{name}", dice_table(scores))
    return scores


def dice_table(scores: Scores) -> pa.Table:
    """One row a true cell: its voxels, and its Dice with the predicted cell of the same identity, in all slices and in unseen ones."""
    unseen = [one for z, one in enumerate(scores.cells) if z not in scores.seen]
    everywhere, elsewhere = (dice_of_cells(added(some)) for some in (scores.cells, unseen))
    voxels = dict.fromkeys(everywhere, 0)
    for one in scores.cells:
        for cell, pixels in zip(one.second.tolist(), one.pixels.tolist(), strict=True):
            voxels[cell] = voxels.get(cell, 0) + pixels
    columns = {"cell": list(everywhere), "voxels": [voxels[cell] for cell in everywhere], "dice": list(everywhere.values())}
    return pa.table({**columns, "dice_unseen": [elsewhere.get(cell) for cell in everywhere]})


def score_table(scores: Scores) -> pa.Table:
    """One row a slice: pixel counts and what follows from them; NaN where a ratio has no meaning."""
    slices = scores.slices
    columns: dict[str, Sequence[Any]] = {
        "z": range(len(slices)),
        "annotated": [z in scores.seen for z in range(len(slices))],
        "both_px": [one.both for one in slices],
        "predicted_px": [one.predicted for one in slices],
        "true_px": [one.true for one in slices],
        "dice": [one.dice for one in slices],
        "precision": [one.precision for one in slices],
        "recall": [one.recall for one in slices],
    }
    return pa.table({name: list(values) for name, values in columns.items()})


def _renumbering(blocks: Sequence[ZBlock], truth: Stack, settings: ScoreSettings) -> Renumbering:
    """How the true objects that are compared one by one are numbered; all slices are read where numbers may be beyond 32 bits."""
    if not settings.instances or truth.dtype.itemsize < WIDE_BYTES:
        return unchanged()
    numbers: set[int] = set()
    for block in blocks:
        numbers |= numbers_in(_true_numbers(block, truth, settings))
    return renumbered(numbers, Special(settings.ignore))


def _true_numbers(block: ZBlock, truth: Stack, settings: ScoreSettings) -> Numbers:
    """Numbers (z, y, x) of the truth, as its file has them."""
    slices = []
    for z, stored in zip(range(block.start, block.stop), np.asarray(truth[block.own]), strict=True):
        where = f"slice {z} of the truth"
        numbers = whole_numbers(stored, where, Special(settings.ignore))
        if not settings.ids and settings.ignore is None:
            refuse_smeared(numbers, where, "--ids or --ignore")
        slices.append(numbers)
    return np.stack(slices)


def _score_block(block: ZBlock, predicted: Volume, truth: Stack, settings: ScoreSettings, renumbering: Renumbering) -> BlockResult:
    numbers = _true_numbers(block, truth, settings)
    true = is_any_of(numbers, settings.ids) if settings.ids else numbers != 0
    known = None if settings.ignore is None else numbers != settings.ignore
    if known is not None:
        true &= known
    ours = predicted.read(block.own)
    sums = [overlap(ours[z] > 0, true[z], None if known is None else known[z]) for z in range(len(ours))]
    found = []
    for z in range(len(ours)) if settings.instances else ():
        cells = renumbering.of(np.where(true[z], numbers[z], 0).astype(numbers.dtype))
        found.append(overlaps(ours[z], cells, None if known is None else known[z]))
    return {}, {"counts": [[one.both, one.predicted, one.true] for one in sums], "cells": [[c.tolist() for c in one] for one in found]}


def _labelled(sample: Sample, name: str, annotation: str | None) -> tuple[int, ...]:
    """Slices that somebody labelled: of the structure's own annotation, or of the one of the cells that it was made from."""
    found = annotated_structures(sample)
    made = [entry["settings"].get("cells") for entry in sample.history() if f"labels/{name}-regions" in entry["outputs"]]
    name = name.removesuffix(CONSTRAINED)
    return next((found[one] for one in (annotation, name, *made[-1:], annotation_of_output(name)) if one in found), ())


def _overlaps_of(columns: Sequence[Sequence[int]]) -> Overlaps:
    first, second, pixels = columns
    return Overlaps(np.array(first, np.uint32), np.array(second, np.uint32), np.array(pixels, np.int64))
