"""Cross-validation: the Dice to expect on unlabeled slices.

Each fold is a training without a part of the labeled slices, which is measured on that part.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from sparsem.errors import InputError
from sparsem.models.checkpoint import Recipe
from sparsem.segment.network_training import run_training
from sparsem.segment.training_job import TrainingJob, prepare_training
from sparsem.segment.validation import require_training_slices
from sparsem.settings import changed
from sparsem.store.sample import Sample, sample_names_of
from sparsem.store.volume import write_atomically
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution


@dataclass(frozen=True)
class CrossValidation:
    """The Dice of one structure to expect on unlabeled slices.

    Attributes:
        structure: name of the structure.
        dice: Dice of the held-out slices of each fold, pooled over the slices of the fold, at the
            network's scale; NaN if the structure is annotated on none of them.
    """

    structure: str
    dice: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over the folds with a Dice."""
        return float(np.nanmean(self.dice))

    @property
    def spread(self) -> float:
        """Standard deviation over the folds with a Dice; NaN if there is only one."""
        known = [dice for dice in self.dice if not math.isnan(dice)]
        return float(np.std(known, ddof=1)) if len(known) > 1 else math.nan


def fold_path(out: Path, number: int) -> Path:
    """Return the path of the model of a fold, counted from 1, next to ``out``."""
    return out.with_name(f"{out.stem}.fold{number}.safetensors")


def split_into_folds(
    slices: Sequence[tuple[str, int]], depths: Mapping[str, int], folds: int
) -> list[list[int]]:
    """Return the labeled slices that each fold holds out.

    A slice next to a training slice does not show how good a network is on unlabeled slices.
    Therefore labeled slices that are closer together than half of their even spacing are held out
    together. If that leaves fewer groups than folds, each fold holds out adjacent labeled slices.

    Args:
        slices: sample and number of every labeled slice.
        depths: number of slices of every sample.
        folds: number of folds.

    Returns:
        Indices into ``slices``, for each fold.
    """
    indices = sorted(range(len(slices)), key=lambda index: slices[index])
    groups = _group_close_slices(indices, slices, depths)
    if len(groups) < folds:
        return [part.tolist() for part in np.array_split(indices, folds)]
    # Groups are dealt out in turns, so that every fold holds out slices of the whole stack.
    groups_by_fold = [groups[fold::folds] for fold in range(folds)]
    return [sorted(chain.from_iterable(fold_groups)) for fold_groups in groups_by_fold]


def _group_close_slices(
    indices: Sequence[int], slices: Sequence[tuple[str, int]], depths: Mapping[str, int]
) -> list[list[int]]:
    """Group labeled slices, given in order, that are closer than half of their even spacing."""
    groups: list[list[int]] = []
    for index in indices:
        sample, _ = slices[index]
        n_labeled = sum(other_sample == sample for other_sample, _ in slices)
        half_spacing = depths[sample] / (2 * n_labeled)
        if groups and _is_close(slices[groups[-1][-1]], slices[index], half_spacing):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _is_close(previous: tuple[str, int], following: tuple[str, int], distance: float) -> bool:
    """Return True if two slices (sample, z) are of one sample and closer than a distance."""
    previous_sample, previous_z = previous
    sample, z = following
    return previous_sample == sample and z - previous_z < distance


def plan_folds(
    samples: Sequence[Sample], out: Path, settings: TrainSettings
) -> tuple[TrainingJob, list[list[int]]]:
    """Return the training on all slices, and the indices that each fold holds out."""
    without_validation = changed(settings, {"n_validation_slices": 0, "validation_slices": ()})
    job = prepare_training(samples, out, without_validation)
    if not 2 <= settings.folds <= len(job.slices):
        raise InputError(
            f"--folds takes 2 to {len(job.slices)}, the number of labeled slices; "
            f"got {settings.folds}."
        )
    positions = [(labeled.sample, labeled.z) for labeled in job.slices]
    held_out_by_fold = split_into_folds(positions, _depths_of(samples), settings.folds)
    for held_out in held_out_by_fold:
        advice = "label it on more slices, or use more --folds"
        require_training_slices(job.slices, job.structures, held_out, advice)
    return job, held_out_by_fold


def _depths_of(samples: Sequence[Sample]) -> dict[str, int]:
    """Return the number of slices of every sample, by its distinct name."""
    names = sample_names_of(samples)
    return {name: sample.image().shape[0] for name, sample in zip(names, samples, strict=True)}


def cross_validate(
    samples: Sequence[Sample],
    out: str | Path,
    settings: TrainSettings = TrainSettings(),
    on: Execution = HERE,
) -> list[CrossValidation]:
    """Train ``settings.folds`` networks, each without a part of the labeled slices.

    Each network is measured on the slices that it was not trained on, at the network's scale.
    Next to ``out`` (NAME.safetensors) are NAME.fold1.safetensors, ..., which predict like any
    other model, and NAME.folds.csv. Each training is resumed on its own. The held-out slices
    select no weights: the last weights count.

    Args:
        samples: samples with annotations of every structure.
        out: the checkpoint of the training on all slices, which is not written here.
        settings: settings of the training, with at least 2 ``folds``.
        on: only ``overwrite`` and ``quiet`` are used.

    Returns:
        One cross-validation a structure.

    Raises:
        InputError: fewer labeled slices than folds, fewer than two folds, or a fold that would
            train a structure on no slice.
        SparsemError: as ``train_network`` raises it.
    """
    out = Path(out)
    job, held_out_by_fold = plan_folds(samples, out, settings)
    dice_by_structure: dict[str, list[float]] = {name: [] for name in job.structures}
    for number, held_out in enumerate(held_out_by_fold, 1):
        recipe = _train_fold(job, out, settings, number, held_out, on)
        known = recipe.training["validation_dice_by_structure"]
        for name, dice in dice_by_structure.items():
            dice.append(float(known.get(name, math.nan)))
    results = [CrossValidation(name, tuple(dice)) for name, dice in dice_by_structure.items()]
    _write_table(out.with_name(f"{out.stem}.folds.csv"), results, settings.folds)
    return results


def _train_fold(
    job: TrainingJob,
    out: Path,
    settings: TrainSettings,
    number: int,
    held_out: Sequence[int],
    on: Execution,
) -> Recipe:
    """Train and write the network of a fold, counted from 1."""
    path = fold_path(out, number)
    # Validated once, at the end, so that the best weights are the last.
    changes = {"n_validation_slices": len(held_out), "validate_every": settings.updates}
    fold_job = replace(
        job,
        out=path,
        settings=changed(settings, changes),
        inputs=job.inputs | {"fold": f"{number} of {settings.folds}"},
    )
    recipe = run_training(fold_job, held_out, on)
    path.with_suffix(".last.safetensors").unlink(missing_ok=True)  # the same weights
    return recipe


def _write_table(path: Path, results: Sequence[CrossValidation], folds: int) -> None:
    """Write one row a structure as CSV; a Dice that is not known stays empty."""
    text = io.StringIO()
    writer = csv.writer(text)
    fold_columns = [f"fold{number}" for number in range(1, folds + 1)]
    writer.writerow(["structure", "mean", "spread", *fold_columns])
    for result in results:
        values = [result.mean, result.spread, *result.dice]
        texts = ["" if math.isnan(value) else f"{value:.4f}" for value in values]
        writer.writerow([result.structure, *texts])
    write_atomically(path, text.getvalue().encode())
