"""Scoring a sample's labels against truth, slice by slice, on all slices and on those that no training saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from sparsem.annotations import annotated_structures
from sparsem.errors import InputError
from sparsem.execution import HERE, Execution
from sparsem.geometry import ZBlock
from sparsem.score.overlap import Overlap, average_dice, overlap, pooled
from sparsem.settings import Settings
from sparsem.stage import BlockResult, Stage
from sparsem.store.readers import Stack, open_source
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


class ScoreSettings(Settings):
    """What is compared with what."""

    dataset: str | None = Field(None, description="key of the truth inside a Zarr group")
    ids: tuple[int, ...] = Field((), description="values in the truth that mean the structure; all but 0 if not given")
    ignore: int | None = Field(None, ge=0, description="value in the truth of pixels that nobody decided on")


@dataclass(frozen=True)
class Scores:
    """Overlap of every slice, and which slices were annotated, so that a training may have seen them."""

    slices: tuple[Overlap, ...]
    seen: tuple[int, ...]

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
    """Compare ``labels/NAME`` with truth and write ``tables/scores_NAME``, one row a slice.

    Args:
        sample: with labels of that name.
        name: of the structure; any label that is not 0 counts as the structure.
        truth: a labelled volume of the same shape; the sample's own ``truth/NAME`` if not given.
        settings: where in the truth, and what in it is not known.
        on: how the work is spread.

    Raises:
        SampleError: no such labels, or no truth in the sample and none given.
        InputError: the truth cannot be read or has another shape.
    """
    predicted = sample.volume("labels", name)
    source = str(truth) if truth is not None else str(sample.volume("truth", name).directory)
    found = open_source(source, settings.dataset)
    if tuple(found.stack.shape) != predicted.shape:
        raise InputError(f"The truth {source} has the shape {tuple(found.stack.shape)}, but labels/{name} has {predicted.shape}.")
    inputs = {"labels": predicted.fingerprint, "truth": str(found.identity())}
    with Stage(sample, f"score-{name}", settings, inputs, [], replace(on, overwrite=True)) as stage:
        blocks = stage.map(_score_block, predicted.blocks(), predicted, found.stack, settings)
    slices = tuple(Overlap(*counts) for block in blocks for counts in block["counts"])
    scores = Scores(slices, annotated_structures(sample).get(name, ()))
    sample.write_table(f"scores_{name}", score_table(scores))
    return scores


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


def _score_block(block: ZBlock, predicted: Volume, truth: Stack, settings: ScoreSettings) -> BlockResult:
    labels = np.asarray(truth[block.own])
    true = np.isin(labels, settings.ids) if settings.ids else labels > 0
    known = None if settings.ignore is None else labels != settings.ignore
    ours = predicted.read(block.own) > 0
    overlaps = [overlap(ours[z], true[z], None if known is None else known[z]) for z in range(len(ours))]
    return {}, {"counts": [[one.both, one.predicted, one.true] for one in overlaps]}
