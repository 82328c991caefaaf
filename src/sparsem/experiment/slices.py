"""How many slices must be labeled? Training repeated over numbers of labeled slices and tile sizes (figure 2 of the paper)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from sparsem.annotation.ground_truth import GroundTruthSettings
from sparsem.errors import InputError
from sparsem.experiment.evaluation import Check, Measured, check_of, overlaps_with
from sparsem.progress import tell
from sparsem.report.plots.figures import dice_along_z, dice_by_labeled
from sparsem.score.overlap import average_dice, pool_slices
from sparsem.segment.train import train
from sparsem.settings import SliceChoice, resolve_settings
from sparsem.store.sample import Sample
from sparsem.training.settings import NetworkTrainingSettings, TrainSettings
from sparsem.workflow.execution import HERE, Execution


class SlicesSettings(NetworkTrainingSettings):
    """Which numbers of slices and which tiles are compared; beside these, how the networks learn."""

    n_slices: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (7, 10, 15, 25, 50),
        min_length=1,
        description="how many labeled slices to learn from; repeat it for each",
    )
    contexts_px: tuple[Annotated[int, Field(ge=16)], ...] = Field(
        (),
        description="edge of a tile in the image, px; repeat it for each; --context-px if not given",
    )
    repeats: int = Field(
        3, ge=1, description="trainings of each kind, with other seeds and other slices"
    )
    dataset: str | None = Field(
        None, description="key of the ground truth inside a Zarr group or an HDF5 file"
    )
    truth_slices: SliceChoice | None = Field(
        None, description="slices that the ground truth labels: 3,10,17, 'non-empty', or 'all'"
    )


@dataclass(frozen=True, kw_only=True)
class Run(Measured):
    """One training and what it reached.

    Attributes:
        tile: edge in the image, px.
        repeat: number of the repetition.
    """

    tile: int
    repeat: int


@dataclass(frozen=True)
class SlicesFound:
    """What was measured, and the files written."""

    runs: tuple[Run, ...]
    files: tuple[Path, ...]

    def summary(self) -> dict[tuple[int, int], tuple[float, float]]:
        """(labeled, tile) -> mean 3D Dice over repeats, and its standard deviation (NaN of one)."""
        found: dict[tuple[int, int], list[float]] = {}
        for run in self.runs:
            found.setdefault((run.labeled, run.tile), []).append(run.dice)
        return {
            key: (float(np.mean(dice)), float(np.std(dice, ddof=1)) if len(dice) > 1 else math.nan)
            for key, dice in found.items()
        }


def drawn(pool: Sequence[int], count: int, repeat: int) -> tuple[int, ...]:
    """``count`` of the labeled slices, evenly spaced; the first time with both ends, later each time moved on by a part of a step."""
    if repeat == 0:
        places = np.linspace(0, len(pool) - 1, count) if count > 1 else np.array([len(pool) // 2])
    else:
        step = len(pool) / count
        places = (
            np.arange(count) + (repeat * 0.381966) % 1
        ) * step  # golden section: no two repeats fall together
    return tuple(
        sorted(
            {pool[min(len(pool) - 1, int(place + (0.5 if repeat == 0 else 0)))] for place in places}
        )
    )


def slices_compared(
    sample: Sample,
    structure: str,
    folder: str | Path,
    truth: str | Path | None = None,
    settings: SlicesSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> SlicesFound:
    """Train on 7, 10, 15, ... of the labeled slices, several times each, and measure each network on slices that it has not seen.

    Writes ``tables/experiment_slices_NAME`` and ``..._z``, and into ``folder`` the networks and two figures: 3D Dice by number of labeled
    slices with mean and spread, and Dice along z with the slices learnt from marked. What is done is not done again.

    Args:
        sample: with many labeled slices of the structure.
        structure: its name.
        folder: for networks and figures.
        truth: labels of every slice; the sample's own ``truth/NAME``, or else the labeled slices that are left, if not given.
        settings: numbers of slices, tiles, repeats, and how networks learn.
        on: how measuring is spread.

    Raises:
        InputError: no number of slices is smaller than that of the labeled ones, or the truth does not fit.
        SampleError: the structure is not annotated.
    """
    settings = resolve_settings(SlicesSettings, settings, changes)
    check = check_of(
        sample,
        structure,
        settings.image,
        truth,
        GroundTruthSettings(dataset=settings.dataset, slices=settings.truth_slices),
    )
    annotation = check.annotation
    counts = [count for count in settings.n_slices if count < len(annotation.z)]
    if not counts:
        raise InputError(
            f"'{structure}' is labeled on {len(annotation.z)} slices; expected more than {min(settings.n_slices)}, so that some are left."
        )
    if len(counts) < len(settings.n_slices):
        left_out = ", ".join(str(count) for count in settings.n_slices if count not in counts)
        tell(
            f"'{structure}' is labeled on {len(annotation.z)} slices: {left_out} are left out.",
            on.quiet,
        )
    folder, runs = Path(folder), []
    for tile in settings.contexts_px or (settings.context_px,):
        for count in counts:
            for repeat in range(settings.repeats):
                slices = drawn(annotation.z, count, repeat)
                runs.append(_run(check, folder, tile, count, repeat, slices, settings, on))
    _write_tables(sample, structure, runs)
    figures = (
        dice_by_labeled(
            [(run.labeled, f"tile {run.tile} px", run.dice) for run in runs],
            structure,
            folder / f"{structure}-slices.png",
        ),
        dice_along_z(
            _curves(structure, runs, check.image.shape[0]), folder / f"{structure}-along-z.png"
        ),
    )
    return SlicesFound(tuple(runs), figures)


def _run(
    check: Check,
    folder: Path,
    tile: int,
    count: int,
    repeat: int,
    slices: tuple[int, ...],
    settings: SlicesSettings,
    on: Execution,
) -> Run:
    """Train one network and measure it."""
    name = f"{check.structure}-{count}-{tile}-{repeat}"
    own = {
        "structure": (check.structure,),
        "context_px": tile,
        "slices": slices,
        "seed": settings.seed + repeat,
    }
    how = TrainSettings(
        **{key: getattr(settings, key) for key in NetworkTrainingSettings.model_fields} | own
    )
    model = folder / f"{name}.safetensors"
    train([check.sample], model, how, on=on)
    z = tuple(one for one in check.z if one not in slices)
    overlaps = overlaps_with(check, name, model, z, settings.device, on)
    return Run(labeled=count, tile=tile, repeat=repeat, slices=slices, z=z, overlaps=overlaps)


def _write_tables(sample: Sample, structure: str, runs: Sequence[Run]) -> None:
    columns: dict[str, list[Any]] = {
        "labeled": [run.labeled for run in runs],
        "tile_px": [run.tile for run in runs],
        "repeat": [run.repeat for run in runs],
        "slices": [" ".join(map(str, run.slices)) for run in runs],
        "unseen": [len(run.z) for run in runs],
        "dice_3d": [run.dice for run in runs],
        "precision_3d": [pool_slices(run.overlaps).precision for run in runs],
        "recall_3d": [pool_slices(run.overlaps).recall for run in runs],
        "dice_slices": [average_dice(run.overlaps) for run in runs],
    }
    sample.write_table(f"experiment_slices_{structure}", pa.table(columns))
    rows = [
        (run.labeled, run.tile, run.repeat, z, one.dice)
        for run in runs
        for z, one in zip(run.z, run.overlaps, strict=True)
    ]
    along = dict(
        zip(
            ("labeled", "tile_px", "repeat", "z", "dice"),
            map(list, zip(*rows, strict=True)),
            strict=True,
        )
    )
    sample.write_table(f"experiment_slices_{structure}_z", pa.table(along))


def _curves(
    structure: str, runs: Sequence[Run], n_slices: int
) -> dict[str, tuple[list[float], list[int]]]:
    """Of the fewest and of the most labeled slices: Dice of each unseen slice, and the slices learnt from."""
    first = [run for run in runs if run.repeat == 0 and run.tile == runs[0].tile]
    chosen = {first[0].labeled: first[0], first[-1].labeled: first[-1]}.values()
    return {
        f"{structure}, {run.labeled} labeled,\ntile {run.tile} px": run.along_z(n_slices)
        for run in chosen
    }
