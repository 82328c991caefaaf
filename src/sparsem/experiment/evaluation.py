"""Evaluation of a network on slices that it was not trained on, common to the experiments."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.ground_truth import GroundTruth, read_ground_truth
from sparsem.annotation.label_numbers import UNLABELED
from sparsem.annotation.labeled_slices import LabeledSlices, annotations_on
from sparsem.annotation.settings import GroundTruthSettings
from sparsem.geometry import ZBlock
from sparsem.models.checkpoint import file_digest
from sparsem.score.overlap import MaskOverlap, mask_overlap, pool_slices
from sparsem.segment.ensemble import settings_for_device
from sparsem.segment.predict import predict_slice
from sparsem.segment.settings import PredictSettings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage


@dataclass(frozen=True)
class EvaluationReference:
    """Labels that networks are evaluated against.

    Attributes:
        sample: sample with the image.
        image: image that networks read.
        structure: name of the structure.
        annotation: labeled slices, some of which a network is trained on.
        truth: ground truth of every slice; None if the labeled slices that were not used for
            training are the reference.
    """

    sample: Sample
    image: Volume
    structure: str
    annotation: LabeledSlices
    truth: GroundTruth | None

    @property
    def z(self) -> tuple[int, ...]:
        """Slices with reference labels."""
        return self.annotation.z if self.truth is None else self.truth.z

    def labels(self, z: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return where the structure is in a slice, and where that is known; (y, x) each."""
        if self.truth is None:
            objects, known = self.annotation.objects(self.annotation.z.index(z))
            return objects > 0, known
        labels = np.asarray(self.truth.stack[z : z + 1])[0]
        known = labels != UNLABELED
        return (labels > 0) & known, known


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Evaluation of a network on slices that it was not trained on.

    Attributes:
        n_slices: number of slices that the network was trained on.
        training_slices: the slices that it was trained on.
        test_slices: the slices that it was evaluated on.
        overlaps: overlap with the reference of each test slice.
    """

    n_slices: int
    training_slices: tuple[int, ...]
    test_slices: tuple[int, ...]
    overlaps: tuple[MaskOverlap, ...]

    @property
    def dice(self) -> float:
        """Dice of all test slices as one volume, the 3D Dice."""
        return pool_slices(self.overlaps).dice

    def along_z(self, n_slices: int) -> tuple[list[float], list[int]]:
        """Return the Dice of each slice of a stack (NaN if not tested) and the training slices."""
        dice = [math.nan] * n_slices
        for z, slice_overlap in zip(self.test_slices, self.overlaps, strict=True):
            dice[z] = slice_overlap.dice
        return dice, list(self.training_slices)


def evaluation_reference(
    sample: Sample,
    structure: str,
    image: str | None,
    truth: str | Path | None,
    settings: GroundTruthSettings,
) -> EvaluationReference:
    """Open the labels that networks are evaluated against.

    Args:
        sample: sample with labeled slices of the structure.
        structure: name of the structure.
        image: image that networks read; the newest one if not given.
        truth: labels of every slice; if not given, the sample's own ``truth/NAME``, or else the
            labeled slices.
        settings: which slices and parts of the ground truth are labeled.

    Raises:
        InputError: the ground truth does not fit the image.
        SampleError: the structure is not annotated.
    """
    volume, annotations = annotations_on(sample, [structure], image)
    ground_truth = None
    if truth is not None or structure in sample.names("truth"):
        ground_truth = read_ground_truth(sample, structure, volume, truth, settings)
    return EvaluationReference(sample, volume, structure, annotations[structure], ground_truth)


def evaluate_model(
    reference: EvaluationReference,
    name: str,
    model: Path,
    z: Sequence[int],
    device: str,
    on: Execution,
) -> tuple[MaskOverlap, ...]:
    """Return the overlap of a model's prediction with the reference, slice by slice.

    It is a stage called ``experiment-NAME``, so that nothing is computed twice.

    Args:
        reference: labels to compare with.
        name: name of the evaluation.
        model: file of the model.
        z: slices to evaluate.
        device: device to predict on.
        on: how the work is distributed.
    """
    inputs = _evaluation_inputs(reference, model, z)
    _, height, width = reference.image.shape
    needs = Needs(ram=height * width * 32, smaller="use fewer --workers")
    settings = settings_for_device(device)
    on = replace(on, overwrite=True)
    blocks = reference.image.blocks()
    with Stage(reference.sample, f"experiment-{name}", settings, inputs, [], on, needs) as stage:
        summaries = stage.map(
            _evaluate_block, blocks, reference, model.resolve(), tuple(z), settings
        )
    return tuple(MaskOverlap(*counts) for summary in summaries for counts in summary["counts"])


def _evaluation_inputs(
    reference: EvaluationReference, model: Path, z: Sequence[int]
) -> dict[str, str]:
    """Return the inputs that an evaluation depends on; its settings come in addition."""
    return {
        "image": reference.image.fingerprint,
        "model": file_digest(model),
        "slices": str(tuple(z)),
        "annotation": reference.annotation.fingerprint,
        "truth": reference.truth.identity if reference.truth else "",
    }


def _evaluate_block(
    block: ZBlock,
    reference: EvaluationReference,
    model: Path,
    test_slices: tuple[int, ...],
    settings: PredictSettings,
) -> BlockResult:
    """Return the counts of ``MaskOverlap`` of the test slices of a block as its summary."""
    counts = []
    for z in range(block.start, block.stop):
        if z not in test_slices:
            continue
        _, answer = predict_slice(reference.image, z, [model], settings)
        true, known = reference.labels(z)
        slice_overlap = mask_overlap(answer.mean[0] >= 0.5, true, known)
        counts.append(
            [slice_overlap.both, slice_overlap.predicted, slice_overlap.true, slice_overlap.known]
        )
    return {}, {"counts": counts}
