"""Which network? Several, with and without unlabeled slices, on the same labeled slices (tables 1 to 4 of the thesis)."""

import csv
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from sparsem.annotation.ground_truth import GroundTruthSettings
from sparsem.errors import InputError, SettingsError
from sparsem.experiment.evaluation import Check, Measured, check_of, overlaps_with
from sparsem.experiment.slices import drawn
from sparsem.models.architectures import architecture_class, count_parameters
from sparsem.progress import tell
from sparsem.report.plots.figures import dice_along_z
from sparsem.score.overlap import average_dice
from sparsem.segment.train import (
    TrainingJob,
    prepare_training,
    run_training,
    start_networks,
    training_needs,
    training_updates,
)
from sparsem.settings import SliceChoice, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import write_atomically
from sparsem.training.files import log_path
from sparsem.training.settings import NetworkTrainingSettings, TrainSettings
from sparsem.workflow.execution import HERE, Execution

WARM, TIMED = 2, 4  # updates before the clock starts, and on the clock


class ModelsSettings(NetworkTrainingSettings):
    """Which networks are compared, on how many slices; beside these, how they learn."""

    networks: tuple[str, ...] = Field(
        ("resunet", "unet", "unet++", "resunet+cps"),
        min_length=1,
        description="a network, with +cps or +mean-teacher; repeat it for each",
    )
    n_slices: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (7, 10, 15, 25),
        min_length=1,
        description="how many labeled slices to learn from; repeat it for each",
    )
    minutes: float | None = Field(
        None, gt=0, description="every training takes as long, on this machine; else --updates each"
    )
    dataset: str | None = Field(
        None, description="key of the ground truth inside a Zarr group or an HDF5 file"
    )
    truth_slices: SliceChoice | None = Field(
        None, description="slices that the ground truth labels: 3,10,17, 'non-empty', or 'all'"
    )


@dataclass(frozen=True, kw_only=True)
class Trained(Measured):
    """One network and what it reached.

    Attributes:
        way: its name, with what it learnt from unlabeled slices.
        parameters: trainable, of one network.
        updates: of its weights.
        seconds: that its training took.
        memory_gb: that its training was said to need.
    """

    way: str
    parameters: int
    updates: int
    seconds: float
    memory_gb: float


@dataclass(frozen=True)
class ModelsFound:
    """What was measured, and the files written."""

    trained: tuple[Trained, ...]
    files: tuple[Path, ...]

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """Way -> mean 3D Dice over numbers of labeled slices, its standard deviation (NaN of one), and the mean rank (1 is best)."""
        ways = list(dict.fromkeys(one.way for one in self.trained))
        counts = list(dict.fromkeys(one.labeled for one in self.trained))
        dice = np.array(
            [
                [
                    next(one.dice for one in self.trained if (one.way, one.labeled) == (way, n))
                    for n in counts
                ]
                for way in ways
            ]
        )
        ranks = np.array(
            [[1 + sum(other > own for other in column) for own in column] for column in dice.T]
        ).T
        spread = dice.std(axis=1, ddof=1) if len(counts) > 1 else np.full(len(ways), math.nan)
        means = zip(dice.mean(axis=1), spread, ranks.mean(axis=1), strict=True)
        return {
            way: (float(mean), float(std), float(rank))
            for way, (mean, std, rank) in zip(ways, means, strict=True)
        }


def models_compared(
    sample: Sample,
    structure: str,
    folder: str | Path,
    truth: str | Path | None = None,
    settings: ModelsSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ModelsFound:
    """Train every network on 7, 10, 15 and 25 of the labeled slices, and measure it on slices that it has not seen.

    Writes ``tables/experiment_models_NAME``, and into ``folder`` the networks, NAME-models.md (the table), and NAME-models.png: Dice along
    z with the slices learnt from marked, for the fewest labeled slices. What is done is not done again.

    Args:
        sample: with labeled slices of the structure.
        structure: its name.
        folder: for networks, table and figure.
        truth: labels of every slice; the sample's own ``truth/NAME``, or else the labeled slices that are left, if not given.
        settings: which networks, how many slices, and how they learn.
        on: how measuring is spread.

    Raises:
        InputError: fewer slices are labeled than asked for, or the truth does not fit.
        SettingsError: no network of a name.
        SampleError: the structure is not annotated.
    """
    settings = resolve_settings(ModelsSettings, settings, changes)
    check = check_of(
        sample,
        structure,
        settings.image,
        truth,
        GroundTruthSettings(dataset=settings.dataset, slices=settings.truth_slices),
    )
    counts = [
        count
        for count in settings.n_slices
        if count < len(check.z) and count <= len(check.annotation.z)
    ]
    if not counts:
        more = f"expected more than {min(settings.n_slices)}; take fewer with --n-slices"
        raise InputError(f"'{structure}' is labeled on {len(check.annotation.z)} slices; {more}.")
    if len(counts) < len(settings.n_slices):
        tell(
            f"'{structure}' is labeled on {len(check.annotation.z)} slices: more are left out.",
            on.quiet,
        )
    folder = Path(folder)
    ways = {
        way: _settings_of(way, structure, settings) for way in settings.networks
    }  # all names are known before anything is trained
    trained = [
        _trained(check, folder, way, how, count, settings, on)
        for way, how in ways.items()
        for count in counts
    ]
    found = ModelsFound(
        tuple(trained), (folder / f"{structure}-models.md", folder / f"{structure}-models.png")
    )
    sample.write_table(f"experiment_models_{structure}", _table(trained))
    write_atomically(found.files[0], markdown(found).encode())
    fewest = [one for one in trained if one.labeled == counts[0]]
    curves = {
        f"{one.way},\n{one.labeled} labeled": one.along_z(check.image.shape[0]) for one in fewest
    }
    dice_along_z(curves, found.files[1])
    return found


def _settings_of(way: str, structure: str, settings: ModelsSettings) -> TrainSettings:
    """A network's training: ``unet+++cps`` is the network ``unet++`` and cross pseudo supervision."""
    known = {"cps", "mean-teacher"}
    model, _, semi = way.rpartition("+") if way.rpartition("+")[2] in known else (way, "", "")
    own = {"structure": (structure,), "architecture": model, "semi": semi or None}
    architecture_class(model)
    try:
        return TrainSettings.model_validate(
            {key: getattr(settings, key) for key in NetworkTrainingSettings.model_fields} | own
        )
    except ValueError as error:
        raise SettingsError(f"'{way}' cannot be trained: {error}") from None


def _trained(
    check: Check,
    folder: Path,
    way: str,
    how: TrainSettings,
    count: int,
    settings: ModelsSettings,
    on: Execution,
) -> Trained:
    """Train one network and measure it."""
    slices = drawn(check.annotation.z, count, 0)
    name = f"{check.structure}-{way}-{count}"
    model = folder / f"{name}.safetensors"
    job = prepare_training([check.sample], model, changed(how, {"slices": slices}), on.overwrite)
    if settings.minutes:
        updates = _updates_in(settings.minutes, folder / f"{name}.updates", job)
        job = replace(job, settings=changed(job.settings, {"updates": updates}))
    recipe, needs = run_training(job, [], on), training_needs(job)
    with log_path(model).open(newline="", encoding="utf-8") as log:
        seconds = float(list(csv.DictReader(log))[-1]["seconds"])
    z = tuple(one for one in check.z if one not in slices)
    overlaps = overlaps_with(
        check, f"models-{name.replace('+', '-')}", model, z, settings.device, on
    )
    return Trained(
        way=way,
        labeled=count,
        slices=slices,
        parameters=count_parameters(recipe.build()),
        updates=job.settings.updates,
        seconds=seconds,
        memory_gb=max(needs.ram, needs.gpu) / 1e9,
        z=z,
        overlaps=overlaps,
    )


def _updates_in(minutes: float, file: Path, job: TrainingJob) -> int:
    """How many updates fit into so many minutes; once found, it stays, so that a stopped experiment goes on as it began."""
    if file.exists():
        return int(file.read_text(encoding="utf-8"))
    whole = replace(
        job, settings=changed(job.settings, {"ramp": (0.0, 0.0), "updates": WARM + TIMED})
    )
    ends = [
        time.perf_counter()
        for _ in training_updates(whole, start_networks(whole), whole.slices, [])
    ]
    each = (ends[-1] - ends[WARM - 1]) / TIMED
    updates = max(1, round(60 * minutes / each))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, str(updates).encode())
    return updates


def _table(trained: Sequence[Trained]) -> pa.Table:
    """One row a training."""
    columns: dict[str, list[Any]] = {
        "network": [one.way for one in trained],
        "labeled": [one.labeled for one in trained],
        "slices": [" ".join(map(str, one.slices)) for one in trained],
        "parameters": [one.parameters for one in trained],
        "updates": [one.updates for one in trained],
        "training_s": [one.seconds for one in trained],
        "memory_gb": [one.memory_gb for one in trained],
        "dice_3d": [one.dice for one in trained],
        "dice_slices": [average_dice(one.overlaps) for one in trained],
        "worst_slice": [
            min((part.dice for part in one.overlaps if not math.isnan(part.dice)), default=math.nan)
            for one in trained
        ],
    }
    return pa.table(columns)


def markdown(found: ModelsFound) -> str:
    """The table for people: a row a network; 3D Dice, and behind it the mean over slices."""
    counts = list(dict.fromkeys(one.labeled for one in found.trained))
    head = [
        "network",
        "parameters",
        "training s",
        "memory GB",
        *(f"{count} labeled" for count in counts),
        "mean",
        "spread",
        "rank",
    ]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for way, (mean, spread, rank) in found.summary().items():
        own = [one for one in found.trained if one.way == way]
        dice = [f"{one.dice:.3f} ({average_dice(one.overlaps):.3f})" for one in own]
        first = [
            way,
            f"{own[0].parameters:,}",
            f"{np.mean([one.seconds for one in own]):.0f}",
            f"{own[0].memory_gb:.1f}",
        ]
        last = [f"{mean:.3f}", "--" if math.isnan(spread) else f"{spread:.3f}", f"{rank:.1f}"]
        lines.append(f"| {' | '.join([*first, *dice, *last])} |")
    return "\n".join([*lines, ""])
