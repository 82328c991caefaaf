"""The stage ``train``: labeled slices of samples -> a network.

With folds it also measures the Dice to expect on unlabeled slices.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsem.errors import SettingsError
from sparsem.models.checkpoint import Recipe
from sparsem.segment.cross_validation import CrossValidation, cross_validate, plan_folds
from sparsem.segment.network_training import train_network
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample, as_samples
from sparsem.training.files import log_path
from sparsem.training.processes import training_processes
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult


@dataclass(frozen=True)
class TrainResult(StageResult):
    """The result of ``train``.

    Attributes:
        recipe: how to use the network, with the scores that it reached.
        validations: the Dice to expect on unlabeled slices, by structure; empty without folds.
    """

    recipe: Recipe
    validations: tuple[CrossValidation, ...]


def train(
    sample: Sample | Sequence[Sample],
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> TrainResult:
    """Train a segmentation network on the labeled slices and write it to ``out``.

    With ``folds`` it is also cross-validated; folds that are not possible are refused before
    anything is trained. A training can be stopped at any time; the same call resumes it. See
    ``train_network`` for the files.

    Args:
        sample: one or more annotated samples.
        out: the checkpoint to write, NAME.safetensors.
        settings: structures, network, training and folds.
        on: ``overwrite`` and ``quiet`` are used.
        changes: fields of the settings, by name.

    Raises:
        SampleError: a structure is not annotated.
        InputError: there are too few labeled slices.
        SettingsError: an unknown architecture, a tile size that it does not accept, or a device
            that is not available.
        ResourceError: the memory is too small.
        ResumeError: ``out`` was trained with other settings, or another run is training it.
    """
    settings = resolve_settings(TrainSettings, settings, changes)
    samples = as_samples(sample)
    out = Path(out)
    if settings.folds:
        if training_processes().count > 1:
            raise SettingsError("--folds trains in one process; start it without torchrun.")
        plan_folds(samples, out, settings)
    recipe = train_network(samples, out, settings, on=on)
    validations: Sequence[CrossValidation] = ()
    if settings.folds:
        validations = cross_validate(samples, out, settings, on)
    return TrainResult(
        recipe,
        tuple(validations),
        sample=samples[0] if len(samples) == 1 else None,
        written=(str(out), str(log_path(out))),
    )
