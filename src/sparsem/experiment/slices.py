"""Experiment that answers how many slices must be labeled (paper, figure 2).

Training is repeated over numbers of labeled slices and tile sizes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from sparsem.annotation.settings import GroundTruthSettings
from sparsem.errors import InputError
from sparsem.experiment.evaluation import (
    Evaluation,
    EvaluationReference,
    evaluate_model,
    evaluation_reference,
)
from sparsem.experiment.settings import SlicesSettings
from sparsem.progress import print_note
from sparsem.report.plots.figures import write_dice_along_z, write_dice_by_labeled
from sparsem.score.overlap import average_dice, pool_slices
from sparsem.segment.network_training import train_network
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.training.settings import NetworkTrainingSettings, TrainSettings
from sparsem.workflow.execution import HERE, Execution

# Golden section of a step: no two repetitions select the same slices.
REPEAT_SHIFT = 0.381966


@dataclass(frozen=True, kw_only=True)
class SlicesRun(Evaluation):
    """Evaluation of one training.

    Attributes:
        tile_px: edge of a tile in the image, px.
        repeat: number of the repetition, from 0.
    """

    tile_px: int
    repeat: int


@dataclass(frozen=True)
class SlicesResult:
    """Evaluations of all trainings, and the figures written."""

    runs: tuple[SlicesRun, ...]
    files: tuple[Path, ...]

    def summary(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Return the 3D Dice by (number of slices, tile size).

        Returns:
            (n_slices, tile_px) -> mean 3D Dice over repetitions and its standard deviation, NaN if
            there is one repetition.
        """
        dice_of_kind: dict[tuple[int, int], list[float]] = {}
        for run in self.runs:
            dice_of_kind.setdefault((run.n_slices, run.tile_px), []).append(run.dice)
        summary = {}
        for kind, dice in dice_of_kind.items():
            deviation = float(np.std(dice, ddof=1)) if len(dice) > 1 else math.nan
            summary[kind] = (float(np.mean(dice)), deviation)
        return summary


def select_slices(pool: Sequence[int], count: int, repeat: int) -> tuple[int, ...]:
    """Select labeled slices, evenly spaced.

    The first repetition includes both ends; later ones are shifted by a part of a step.

    Args:
        pool: numbers of the labeled slices, ascending.
        count: number of slices to select.
        repeat: number of the repetition, from 0.
    """
    if repeat == 0:
        positions = np.array([len(pool) // 2])
        if count > 1:
            positions = np.linspace(0, len(pool) - 1, count)
        rounding = 0.5
    else:
        step = len(pool) / count
        positions = (np.arange(count) + (repeat * REPEAT_SHIFT) % 1) * step
        rounding = 0
    last = len(pool) - 1
    return tuple(sorted({pool[min(last, int(position + rounding))] for position in positions}))


def compare_slice_counts(
    sample: Sample,
    structure: str,
    folder: str | Path,
    truth: str | Path | None = None,
    settings: SlicesSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> SlicesResult:
    """Train on 7, 10, 15, ... of the labeled slices, and evaluate each network on the other slices.

    Every training is repeated several times. Writes ``tables/experiment_slices_NAME`` and
    ``..._z``, and into ``folder`` the networks and two figures: 3D Dice by number of labeled slices
    with mean and standard deviation, and Dice along z with the training slices marked. Finished
    trainings and evaluations are not repeated.

    Args:
        sample: sample with many labeled slices of the structure.
        structure: name of the structure.
        folder: folder for networks and figures.
        truth: labels of every slice; if not given, the sample's own ``truth/NAME``, or else the
            labeled slices that were not used for training.
        settings: numbers of slices, tile sizes, repetitions, and settings of the trainings.
        on: how the evaluation is distributed.

    Raises:
        InputError: no number of slices is smaller than that of the labeled ones, or the ground
            truth does not fit.
        SampleError: the structure is not annotated.
    """
    settings = resolve_settings(SlicesSettings, settings, changes)
    truth_settings = GroundTruthSettings(dataset=settings.dataset, slices=settings.truth_slices)
    reference = evaluation_reference(sample, structure, settings.image, truth, truth_settings)
    folder = Path(folder)
    counts = _possible_counts(reference, settings, on)
    tiles_px = settings.contexts_px or (settings.context_px,)
    runs = [
        _run(reference, folder, tile_px, count, repeat, settings, on)
        for tile_px, count, repeat in product(tiles_px, counts, range(settings.repeats))
    ]
    _write_tables(sample, structure, runs)
    figures = _write_figures(reference, folder, runs)
    return SlicesResult(tuple(runs), figures)


def _write_figures(
    reference: EvaluationReference, folder: Path, runs: Sequence[SlicesRun]
) -> tuple[Path, Path]:
    """Write the figures of Dice by number of labeled slices, and of Dice along z."""
    structure = reference.structure
    points = [(run.n_slices, f"tile {run.tile_px} px", run.dice) for run in runs]
    curves = _curves(structure, runs, reference.image.shape[0])
    return (
        write_dice_by_labeled(points, structure, folder / f"{structure}-slices.png"),
        write_dice_along_z(curves, folder / f"{structure}-along-z.png"),
    )


def _possible_counts(
    reference: EvaluationReference, settings: SlicesSettings, on: Execution
) -> list[int]:
    """Return the numbers of slices that leave some labeled slices for evaluation.

    Raises:
        InputError: there are none.
    """
    labeled = f"'{reference.structure}' is labeled on {len(reference.annotation.z)} slices"
    counts = [count for count in settings.n_slices if count < len(reference.annotation.z)]
    if not counts:
        raise InputError(
            f"{labeled}; expected more than {min(settings.n_slices)}, so that some are left."
        )
    left_out = [str(count) for count in settings.n_slices if count not in counts]
    if left_out:
        print_note(f"{labeled}: {', '.join(left_out)} are left out.", on.quiet)
    return counts


def _run(
    reference: EvaluationReference,
    folder: Path,
    tile_px: int,
    count: int,
    repeat: int,
    settings: SlicesSettings,
    on: Execution,
) -> SlicesRun:
    """Train one network and evaluate it."""
    slices = select_slices(reference.annotation.z, count, repeat)
    training = _training_settings(reference.structure, settings, tile_px, slices, repeat)
    name = f"{reference.structure}-{count}-{tile_px}-{repeat}"
    model = folder / f"{name}.safetensors"
    train_network([reference.sample], model, training, on=on)
    test_slices = tuple(z for z in reference.z if z not in slices)
    overlaps = evaluate_model(reference, name, model, test_slices, settings.device, on)
    return SlicesRun(
        n_slices=count,
        tile_px=tile_px,
        repeat=repeat,
        training_slices=slices,
        test_slices=test_slices,
        overlaps=overlaps,
    )


def _training_settings(
    structure: str, settings: SlicesSettings, tile_px: int, slices: tuple[int, ...], repeat: int
) -> TrainSettings:
    """Return the settings of one training; every repetition has a seed of its own."""
    training = {key: getattr(settings, key) for key in NetworkTrainingSettings.model_fields}
    training["structures"] = (structure,)
    training["context_px"] = tile_px
    training["slices"] = slices
    training["seed"] = settings.seed + repeat
    return TrainSettings(**training)


def _write_tables(sample: Sample, structure: str, runs: Sequence[SlicesRun]) -> None:
    """Write one row for each training, and one row for each of its test slices."""
    sample.write_table(f"experiment_slices_{structure}", _table_of_runs(runs))
    rows = []
    for run in runs:
        rows += _rows_of_slices(run)
    sample.write_table(f"experiment_slices_{structure}_z", pa.Table.from_pylist(rows))


def _table_of_runs(runs: Sequence[SlicesRun]) -> pa.Table:
    """Return one row for each training."""
    pooled = [pool_slices(run.overlaps) for run in runs]
    columns: dict[str, list[Any]] = {
        "labeled": [run.n_slices for run in runs],
        "tile_px": [run.tile_px for run in runs],
        "repeat": [run.repeat for run in runs],
        "slices": [" ".join(map(str, run.training_slices)) for run in runs],
        "test_slices": [len(run.test_slices) for run in runs],
        "dice_3d": [run.dice for run in runs],
        "precision_3d": [overlap.precision for overlap in pooled],
        "recall_3d": [overlap.recall for overlap in pooled],
        "dice_slices": [average_dice(run.overlaps) for run in runs],
    }
    return pa.table(columns)


def _rows_of_slices(run: SlicesRun) -> list[dict[str, Any]]:
    """Return one row for each test slice of a training."""
    training = {"labeled": run.n_slices, "tile_px": run.tile_px, "repeat": run.repeat}
    rows = []
    for z, slice_overlap in zip(run.test_slices, run.overlaps, strict=True):
        rows.append({**training, "z": z, "dice": slice_overlap.dice})
    return rows


def _curves(
    structure: str, runs: Sequence[SlicesRun], n_slices: int
) -> dict[str, tuple[list[float], list[int]]]:
    """Return the Dice along z of the trainings on the fewest and on the most labeled slices.

    Returns:
        Name of the curve -> Dice of each slice, and the training slices.
    """
    first_runs = [run for run in runs if run.repeat == 0 and run.tile_px == runs[0].tile_px]
    extremes = {run.n_slices: run for run in (first_runs[0], first_runs[-1])}
    curves = {}
    for run in extremes.values():
        title = f"{structure}, {run.n_slices} labeled,\ntile {run.tile_px} px"
        curves[title] = run.along_z(n_slices)
    return curves
