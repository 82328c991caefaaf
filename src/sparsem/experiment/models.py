"""Experiment that answers which network to use (thesis, tables 1 to 4).

Several networks, with and without unlabeled slices, are trained on the same labeled slices.
"""

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.annotation.settings import GroundTruthSettings
from sparsem.errors import InputError, SettingsError
from sparsem.experiment.evaluation import (
    Evaluation,
    EvaluationReference,
    evaluate_model,
    evaluation_reference,
)
from sparsem.experiment.settings import ModelsSettings
from sparsem.experiment.slices import select_slices
from sparsem.models.architectures import architecture_class, count_parameters
from sparsem.progress import print_note
from sparsem.report.plots.figures import write_dice_along_z
from sparsem.score.overlap import average_dice
from sparsem.segment.network_training import run_training, start_networks, training_updates
from sparsem.segment.training_job import TrainingJob, prepare_training
from sparsem.segment.training_memory import training_needs
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import write_atomically
from sparsem.training.files import log_path
from sparsem.training.settings import NetworkTrainingSettings, TrainSettings
from sparsem.workflow.execution import HERE, Execution

# Updates before the time is measured, and updates that are timed.
WARM_UP_UPDATES = 2
TIMED_UPDATES = 4

# Semi-supervised methods that a network's name may end with, after a plus sign.
SEMI_SUPERVISED = ("cps", "mean-teacher")


@dataclass(frozen=True, kw_only=True)
class NetworkRun(Evaluation):
    """Evaluation of one trained network.

    Attributes:
        network: its name, with the semi-supervised method.
        parameters: number of trainable parameters of one network.
        updates: number of updates of its weights.
        seconds: duration of the training.
        memory_gb: estimated memory of the training.
    """

    network: str
    parameters: int
    updates: int
    seconds: float
    memory_gb: float


@dataclass(frozen=True)
class ModelsResult:
    """Evaluations of all networks, and the files written."""

    runs: tuple[NetworkRun, ...]
    files: tuple[Path, ...]

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """Summarize the 3D Dice of every network over the numbers of labeled slices.

        Returns:
            Network -> mean 3D Dice, its standard deviation (NaN if there is one number of slices),
            and the mean rank (1 is best).
        """
        networks = list(dict.fromkeys(run.network for run in self.runs))
        dice = self._dice_by_network(networks)
        means = dice.mean(axis=1)
        deviations = np.full(len(networks), math.nan)
        if dice.shape[1] > 1:
            deviations = dice.std(axis=1, ddof=1)
        mean_ranks = _mean_ranks(dice)
        return {
            network: (float(means[n]), float(deviations[n]), float(mean_ranks[n]))
            for n, network in enumerate(networks)
        }

    def _dice_by_network(self, networks: Sequence[str]) -> NDArray[np.float64]:
        """Return the 3D Dice of every network (rows) for every number of slices (columns)."""
        counts = list(dict.fromkeys(run.n_slices for run in self.runs))
        dice_of_run = {(run.network, run.n_slices): run.dice for run in reversed(self.runs)}
        return np.array([[dice_of_run[network, n] for n in counts] for network in networks])


def compare_models(
    sample: Sample,
    structure: str,
    folder: str | Path,
    truth: str | Path | None = None,
    settings: ModelsSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ModelsResult:
    """Train every network on 7, 10, 15 and 25 of the labeled slices and evaluate it on the others.

    Writes ``tables/experiment_models_NAME``, and into ``folder`` the networks, NAME-models.md (the
    table), and NAME-models.png: Dice along z with the training slices marked, for the smallest
    number of labeled slices. Finished trainings and evaluations are not repeated.

    Args:
        sample: sample with labeled slices of the structure.
        structure: name of the structure.
        folder: folder for networks, table and figure.
        truth: labels of every slice; if not given, the sample's own ``truth/NAME``, or else the
            labeled slices that were not used for training.
        settings: networks, numbers of slices, and settings of the trainings.
        on: how the evaluation is distributed.

    Raises:
        InputError: too few slices are labeled, or the ground truth does not fit.
        SettingsError: there is no network of a name.
        SampleError: the structure is not annotated.
    """
    settings = resolve_settings(ModelsSettings, settings, changes)
    truth_settings = GroundTruthSettings(dataset=settings.dataset, slices=settings.truth_slices)
    reference = evaluation_reference(sample, structure, settings.image, truth, truth_settings)
    counts = _possible_counts(reference, settings, on)
    folder = Path(folder)
    # All names are checked before the first training.
    trainings = {
        network: _training_settings(network, structure, settings) for network in settings.networks
    }
    runs = []
    for network, training in trainings.items():
        for count in counts:
            run = _run(reference, folder, network, training, count, settings, on)
            runs.append(run)
    return _write_results(reference, folder, runs, counts[0])


def _mean_ranks(dice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean rank of every row, where 1 is the largest value of a column."""
    ranks = 1 + (dice[None, :, :] > dice[:, None, :]).sum(axis=1)
    mean_ranks: NDArray[np.float64] = ranks.mean(axis=1)
    return mean_ranks


def _write_results(
    reference: EvaluationReference, folder: Path, runs: Sequence[NetworkRun], smallest_count: int
) -> ModelsResult:
    """Write the tables and the figure of all runs; the figure is of the smallest count."""
    structure = reference.structure
    table_file = folder / f"{structure}-models.md"
    figure_file = folder / f"{structure}-models.png"
    result = ModelsResult(tuple(runs), (table_file, figure_file))
    reference.sample.write_table(f"experiment_models_{structure}", _table(runs))
    write_atomically(table_file, markdown(result).encode())
    curves = _curves(runs, smallest_count, reference.image.shape[0])
    write_dice_along_z(curves, figure_file)
    return result


def _possible_counts(
    reference: EvaluationReference, settings: ModelsSettings, on: Execution
) -> list[int]:
    """Return the numbers of slices that are labeled and leave some slices for evaluation.

    Raises:
        InputError: there are none.
    """
    n_labeled, n_reference = len(reference.annotation.z), len(reference.z)
    counts = [count for count in settings.n_slices if count < n_reference and count <= n_labeled]
    labeled = f"'{reference.structure}' is labeled on {n_labeled} slices"
    if not counts:
        raise InputError(
            f"{labeled}; expected more than {min(settings.n_slices)}; "
            "give smaller numbers with --n-slices."
        )
    if len(counts) < len(settings.n_slices):
        print_note(f"{labeled}: larger numbers of slices are left out.", on.quiet)
    return counts


def _training_settings(network: str, structure: str, settings: ModelsSettings) -> TrainSettings:
    """Return the settings of a network's training.

    ``unet+++cps`` is the network ``unet++`` with cross pseudo supervision.

    Raises:
        SettingsError: there is no such network, or it cannot be trained with these settings.
    """
    architecture, _, semi = network.rpartition("+")
    if semi not in SEMI_SUPERVISED:
        architecture, semi = network, ""
    architecture_class(architecture)
    training = {key: getattr(settings, key) for key in NetworkTrainingSettings.model_fields}
    training["structures"] = (structure,)
    training["architecture"] = architecture
    training["semi"] = semi or None
    try:
        return TrainSettings.model_validate(training)
    except ValueError as error:
        raise SettingsError(f"'{network}' cannot be trained: {error}") from None


def _run(
    reference: EvaluationReference,
    folder: Path,
    network: str,
    training: TrainSettings,
    count: int,
    settings: ModelsSettings,
    on: Execution,
) -> NetworkRun:
    """Train one network and evaluate it."""
    slices = select_slices(reference.annotation.z, count, 0)
    name = f"{reference.structure}-{network}-{count}"
    model = folder / f"{name}.safetensors"
    training = changed(training, {"slices": slices})
    job = _training_job(reference.sample, model, training, settings.minutes, on.overwrite)
    recipe = run_training(job, [], on)
    memory_gb = _memory_gb(job)
    test_slices = tuple(z for z in reference.z if z not in slices)
    evaluation = f"models-{name.replace('+', '-')}"
    overlaps = evaluate_model(reference, evaluation, model, test_slices, settings.device, on)
    return NetworkRun(
        network=network,
        n_slices=count,
        training_slices=slices,
        test_slices=test_slices,
        overlaps=overlaps,
        parameters=count_parameters(recipe.build()),
        updates=job.settings.updates,
        seconds=_training_seconds(model),
        memory_gb=memory_gb,
    )


def _training_job(
    sample: Sample, model: Path, training: TrainSettings, minutes: float | None, overwrite: bool
) -> TrainingJob:
    """Prepare a training; if minutes are given, with as many updates as these allow."""
    job = prepare_training([sample], model, training, overwrite)
    if not minutes:
        return job
    updates = _updates_in(minutes, model.with_suffix(".updates"), job)
    return replace(job, settings=changed(job.settings, {"updates": updates}))


def _memory_gb(job: TrainingJob) -> float:
    """Return the memory that a training needs, of the machine or of the GPU, whichever is more."""
    needs = training_needs(job)
    return max(needs.ram, needs.gpu) / 1e9


def _training_seconds(model: Path) -> float:
    """Return the duration of a finished training from its log."""
    with log_path(model).open(newline="", encoding="utf-8") as log:
        rows = list(csv.DictReader(log))
    return float(rows[-1]["seconds"])


def _updates_in(minutes: float, file: Path, job: TrainingJob) -> int:
    """Return the number of updates that take a number of minutes on this machine.

    It is measured once and stored in ``file``, so that a stopped experiment resumes with the same
    number.
    """
    if file.exists():
        return int(file.read_text(encoding="utf-8"))
    trial_settings = {"ramp": (0.0, 0.0), "updates": WARM_UP_UPDATES + TIMED_UPDATES}
    trial = replace(job, settings=changed(job.settings, trial_settings))
    trial_updates = training_updates(trial, start_networks(trial), trial.slices, [])
    ends = [time.perf_counter() for _ in trial_updates]
    seconds_per_update = (ends[-1] - ends[WARM_UP_UPDATES - 1]) / TIMED_UPDATES
    updates = max(1, round(60 * minutes / seconds_per_update))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, str(updates).encode())
    return updates


def _table(runs: Sequence[NetworkRun]) -> pa.Table:
    """Return one row for each training."""
    columns: dict[str, list[Any]] = {
        "network": [run.network for run in runs],
        "labeled": [run.n_slices for run in runs],
        "slices": [" ".join(map(str, run.training_slices)) for run in runs],
        "parameters": [run.parameters for run in runs],
        "updates": [run.updates for run in runs],
        "training_s": [run.seconds for run in runs],
        "memory_gb": [run.memory_gb for run in runs],
        "dice_3d": [run.dice for run in runs],
        "dice_slices": [average_dice(run.overlaps) for run in runs],
        "worst_slice": [_minimum_dice(run) for run in runs],
    }
    return pa.table(columns)


def _minimum_dice(run: NetworkRun) -> float:
    """Return the Dice of the worst test slice; NaN if none has a Dice."""
    dice = [slice_overlap.dice for slice_overlap in run.overlaps]
    return min((value for value in dice if not math.isnan(value)), default=math.nan)


def _curves(
    runs: Sequence[NetworkRun], n_labeled: int, n_slices: int
) -> dict[str, tuple[list[float], list[int]]]:
    """Return the Dice along z of all networks trained on ``n_labeled`` slices."""
    return {
        f"{run.network},\n{run.n_slices} labeled": run.along_z(n_slices)
        for run in runs
        if run.n_slices == n_labeled
    }


def markdown(result: ModelsResult) -> str:
    """Return a table with a row for each network: 3D Dice, and in brackets the slices' mean."""
    counts = list(dict.fromkeys(run.n_slices for run in result.runs))
    labeled = [f"{count} labeled" for count in counts]
    header = ["network", "parameters", "training s", "memory GB", *labeled]
    header += ["mean", "spread", "rank"]
    lines = [_markdown_row(header), f"|{'---|' * len(header)}"]
    for network, statistics in result.summary().items():
        runs = [run for run in result.runs if run.network == network]
        lines.append(_markdown_row([*_cells_of(runs), *_statistics_as_text(*statistics)]))
    return "\n".join([*lines, ""])


def _statistics_as_text(mean: float, deviation: float, rank: float) -> list[str]:
    """Return mean, deviation and rank of a network, as text."""
    spread = "--" if math.isnan(deviation) else f"{deviation:.3f}"
    return [f"{mean:.3f}", spread, f"{rank:.1f}"]


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells_of(runs: Sequence[NetworkRun]) -> list[str]:
    """Return name, costs and Dice of one network, as text."""
    first = runs[0]
    seconds = np.mean([run.seconds for run in runs])
    dice = [f"{run.dice:.3f} ({average_dice(run.overlaps):.3f})" for run in runs]
    costs = [f"{first.parameters:,}", f"{seconds:.0f}", f"{first.memory_gb:.1f}"]
    return [first.network, *costs, *dice]
