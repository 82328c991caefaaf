"""Measuring a network on slices that it did not learn from: what all experiments with networks share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.ground_truth import GroundTruth, GroundTruthSettings, read_ground_truth
from sparsem.annotation.label_numbers import UNLABELED
from sparsem.annotation.labeled_slices import LabeledSlices, annotations_on
from sparsem.geometry import ZBlock
from sparsem.score.overlap import MaskOverlap, mask_overlap, pool_slices
from sparsem.segment.predict import PredictSettings, file_hash, predict_slice, settings_for_device
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage


@dataclass(frozen=True)
class Check:
    """What networks are measured against: a truth of every slice, else the labeled slices that are left."""

    sample: Sample
    image: Volume
    structure: str
    annotation: LabeledSlices
    truth: GroundTruth | None

    @property
    def z(self) -> tuple[int, ...]:
        """Slices of which the truth is known."""
        return self.annotation.z if self.truth is None else self.truth.z

    def true(self, z: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where the structure is, and where that is known."""
        if self.truth is None:
            objects, known = self.annotation.objects(self.annotation.z.index(z))
            return objects > 0, known
        labels = np.asarray(self.truth.stack[z : z + 1])[0]
        known = labels != UNLABELED
        return (labels > 0) & known, known


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A network on slices that it did not learn from.

    Attributes:
        labeled: slices it learnt from, how many.
        slices: which.
        z: slices that it was measured on; none that it learnt from.
        overlaps: of each of these.
    """

    labeled: int
    slices: tuple[int, ...]
    z: tuple[int, ...]
    overlaps: tuple[MaskOverlap, ...]

    @property
    def dice(self) -> float:
        """Pooled over slices that it did not learn from."""
        return pool_slices(self.overlaps).dice

    def along_z(self, n_slices: int) -> tuple[list[float], list[int]]:
        """Dice of each slice, NaN where it was not measured, and the slices learnt from."""
        dice = [math.nan] * n_slices
        for z, one in zip(self.z, self.overlaps, strict=True):
            dice[z] = one.dice
        return dice, list(self.slices)


def check_of(
    sample: Sample,
    structure: str,
    image: str | None,
    truth: str | Path | None,
    how: GroundTruthSettings,
) -> Check:
    """What networks are measured against.

    Args:
        sample: with labeled slices of the structure.
        structure: its name.
        image: what networks see; the newest one if not given.
        truth: labels of every slice; the sample's own ``truth/NAME``, or else the labeled slices, if not given.
        how: which slices and parts of the ground truth are labeled.

    Raises:
        InputError: the truth does not fit the image.
        SampleError: the structure is not annotated.
    """
    seen, annotations = annotations_on(sample, [structure], image)
    annotation = annotations[structure]
    if truth is None and structure not in sample.names("truth"):
        return Check(sample, seen, structure, annotation, None)
    return Check(
        sample, seen, structure, annotation, read_ground_truth(sample, structure, seen, truth, how)
    )


def overlaps_with(
    check: Check, name: str, model: Path, z: Sequence[int], device: str, on: Execution
) -> tuple[MaskOverlap, ...]:
    """What a model finds on slices, against what is true there; a stage called ``experiment-NAME``, so that nothing is computed twice."""
    inputs = {"image": check.image.fingerprint, "model": file_hash(model), "slices": str(tuple(z))}
    inputs |= {
        "annotation": check.annotation.fingerprint,
        "truth": check.truth.identity if check.truth else "",
    }
    needs = Needs(
        ram=check.image.shape[1] * check.image.shape[2] * 32, smaller="use fewer --workers"
    )
    again, how = replace(on, overwrite=True), settings_for_device(device)
    with Stage(check.sample, f"experiment-{name}", how, inputs, [], again, needs) as stage:
        blocks = stage.map(
            _measure_block, check.image.blocks(), check, model.resolve(), tuple(z), how
        )
    return tuple(MaskOverlap(*counts) for block in blocks for counts in block["counts"])


def _measure_block(
    block: ZBlock, check: Check, model: Path, chosen: tuple[int, ...], how: PredictSettings
) -> BlockResult:
    counts = []
    for z in (z for z in range(block.start, block.stop) if z in chosen):
        _, answer = predict_slice(check.image, z, [model], how)
        true, known = check.true(z)
        found = mask_overlap(answer.mean[0] >= 0.5, true, known)
        counts.append([found.both, found.predicted, found.true, found.known])
    return {}, {"counts": counts}
