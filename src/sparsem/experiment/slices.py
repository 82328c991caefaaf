"""How many slices must be labelled? Training repeated over numbers of labelled slices and tile sizes (figure 2 of the paper)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.annotations import LabelledSlices, annotations_on, as_labels
from sparsem.errors import InputError
from sparsem.execution import HERE, Execution, Needs
from sparsem.geometry import ZBlock
from sparsem.learn.settings import LearnSettings, TrainSettings
from sparsem.learn.train import train
from sparsem.predict import PredictSettings, hash_of, probabilities_of
from sparsem.progress import tell
from sparsem.report.figures import dice_along_z, dice_by_labelled
from sparsem.score.overlap import Overlap, average_dice, overlap, pooled
from sparsem.stage import BlockResult, Stage
from sparsem.store.readers import open_source
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


class SlicesSettings(LearnSettings):
    """Which numbers of slices and which tiles are compared; beside these, how the networks learn."""

    labelled: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (7, 10, 15, 25, 50), min_length=1, description="how many labelled slices to learn from; repeat it for each"
    )
    tile: tuple[Annotated[int, Field(ge=16)], ...] = Field(
        (), description="edge of a tile in the image, px; repeat it for each; --read if not given"
    )
    repeats: int = Field(3, ge=1, description="trainings of each kind, with other seeds and other slices")
    dataset: str | None = Field(None, description="key of the truth inside a Zarr group or an HDF5 file")


@dataclass(frozen=True)
class Run:
    """One training and what it reached.

    Attributes:
        labelled: slices it learnt from, how many.
        tile: edge in the image, px.
        repeat: number of the repetition.
        slices: that it learnt from.
        z: slices that it was measured on; none that it learnt from.
        overlaps: of each of these.
    """

    labelled: int
    tile: int
    repeat: int
    slices: tuple[int, ...]
    z: tuple[int, ...]
    overlaps: tuple[Overlap, ...]

    @property
    def dice(self) -> float:
        """Pooled over slices that it did not learn from."""
        return pooled(self.overlaps).dice


@dataclass(frozen=True)
class SlicesFound:
    """What was measured, and the files written."""

    runs: tuple[Run, ...]
    files: tuple[Path, ...]

    def summary(self) -> dict[tuple[int, int], tuple[float, float]]:
        """(labelled, tile) -> mean 3D Dice over repeats, and its standard deviation (NaN of one)."""
        found: dict[tuple[int, int], list[float]] = {}
        for run in self.runs:
            found.setdefault((run.labelled, run.tile), []).append(run.dice)
        return {key: (float(np.mean(dice)), float(np.std(dice, ddof=1)) if len(dice) > 1 else math.nan) for key, dice in found.items()}


def drawn(pool: Sequence[int], count: int, repeat: int) -> tuple[int, ...]:
    """``count`` of the labelled slices, evenly spaced; the first time with both ends, later each time moved on by a part of a step."""
    if repeat == 0:
        places = np.linspace(0, len(pool) - 1, count) if count > 1 else np.array([len(pool) // 2])
    else:
        step = len(pool) / count
        places = (np.arange(count) + (repeat * 0.381966) % 1) * step  # golden section: no two repeats fall together
    return tuple(sorted({pool[min(len(pool) - 1, int(place + (0.5 if repeat == 0 else 0)))] for place in places}))


def slices_compared(
    sample: Sample,
    structure: str,
    folder: str | Path,
    truth: str | Path | None = None,
    settings: SlicesSettings = SlicesSettings(),
    on: Execution = HERE,
) -> SlicesFound:
    """Train on 7, 10, 15, ... of the labelled slices, several times each, and measure each network on slices that it has not seen.

    Writes ``tables/experiment_slices_NAME`` and ``..._z``, and into ``folder`` the networks and two figures: 3D Dice by number of labelled
    slices with mean and spread, and Dice along z with the slices learnt from marked. What is done is not done again.

    Args:
        sample: with many labelled slices of the structure.
        structure: its name.
        folder: for networks and figures.
        truth: labels of every slice; the sample's own ``truth/NAME``, or else the labelled slices that are left, if not given.
        settings: numbers of slices, tiles, repeats, and how networks learn.
        on: how measuring is spread.

    Raises:
        InputError: no number of slices is smaller than that of the labelled ones, or the truth does not fit.
        SampleError: the structure is not annotated.
    """
    image, annotations = annotations_on(sample, [structure], settings.image)
    annotation = annotations[structure]
    counts = [count for count in settings.labelled if count < len(annotation.z)]
    if not counts:
        raise InputError(
            f"'{structure}' is labelled on {len(annotation.z)} slices; expected more than {min(settings.labelled)}, so that some are left."
        )
    if len(counts) < len(settings.labelled):
        left_out = ", ".join(str(count) for count in settings.labelled if count not in counts)
        tell(f"'{structure}' is labelled on {len(annotation.z)} slices: {left_out} are left out.", on.quiet)
    check = _Check(sample, image, structure, annotation, *_truth_of(sample, image, structure, truth, settings))
    folder, runs = Path(folder), []
    for tile in settings.tile or (settings.read,):
        for count in counts:
            for repeat in range(settings.repeats):
                slices = drawn(annotation.z, count, repeat)
                runs.append(_run(check, folder, tile, count, repeat, slices, settings, on))
    _write_tables(sample, structure, runs)
    figures = (
        dice_by_labelled([(run.labelled, f"tile {run.tile} px", run.dice) for run in runs], structure, folder / f"{structure}-slices.png"),
        dice_along_z(_curves(structure, runs, image.shape[0]), folder / f"{structure}-along-z.png"),
    )
    return SlicesFound(tuple(runs), figures)


@dataclass(frozen=True)
class _Check:
    """What networks are measured against: a truth of every slice, else the labelled slices that are left."""

    sample: Sample
    image: Volume
    structure: str
    annotation: LabelledSlices
    truth: Any
    truth_identity: str

    @property
    def z(self) -> tuple[int, ...]:
        """Slices of which the truth is known."""
        return self.annotation.z if self.truth is None else tuple(range(self.image.shape[0]))

    def true(self, z: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Where the structure is, and where that is known."""
        if self.truth is None:
            objects, known = self.annotation.objects(self.annotation.z.index(z))
            return objects > 0, known
        labels = as_labels(np.asarray(self.truth[z : z + 1])[0], f"slice {z} of the truth")
        return labels > 0, np.ones(labels.shape, bool)


def _truth_of(sample: Sample, image: Volume, structure: str, truth: str | Path | None, settings: SlicesSettings) -> tuple[Any, str]:
    """A truth of every slice, and what is noticed when it changes."""
    if truth is None and structure not in sample.names("truth"):
        return None, ""
    source = str(truth) if truth is not None else str(sample.volume("truth", structure).directory)
    found = open_source(source, settings.dataset)
    stack = sample.seen_by(image, found.stack)
    if tuple(stack.shape) != image.shape:
        raise InputError(f"The truth {source} has the shape {tuple(stack.shape)}, but the image has {image.shape}.")
    return stack, found.identity()


def _run(
    check: _Check, folder: Path, tile: int, count: int, repeat: int, slices: tuple[int, ...], settings: SlicesSettings, on: Execution
) -> Run:
    """Train one network and measure it."""
    name = f"{check.structure}-{count}-{tile}-{repeat}"
    own = {
        "structure": (check.structure,),
        "read": tile,
        "slices": slices,
        "seed": settings.seed + repeat,
    }
    how = TrainSettings(**{key: getattr(settings, key) for key in LearnSettings.model_fields} | own)
    model = folder / f"{name}.safetensors"
    train([check.sample], model, how, on)
    z = tuple(one for one in check.z if one not in slices)
    inputs = {"image": check.image.fingerprint, "model": hash_of(model), "slices": str(z)}
    inputs |= {"annotation": check.annotation.fingerprint, "truth": check.truth_identity}
    needs = Needs(ram=check.image.shape[1] * check.image.shape[2] * 32, smaller="use fewer --workers")
    again = replace(on, overwrite=True)
    with Stage(check.sample, f"experiment-{name}", PredictSettings(device=settings.device), inputs, [], again, needs) as stage:
        blocks = stage.map(_measure_block, check.image.blocks(), check, model.resolve(), z, settings.device)
    return Run(count, tile, repeat, slices, z, tuple(Overlap(*counts) for block in blocks for counts in block["counts"]))


def _measure_block(block: ZBlock, check: _Check, model: Path, chosen: tuple[int, ...], device: str) -> BlockResult:
    counts = []
    for z in (z for z in range(block.start, block.stop) if z in chosen):
        _, probability = probabilities_of(check.image, z, model, PredictSettings(device=device))
        true, known = check.true(z)
        found = overlap(probability[0] >= 0.5, true, known)
        counts.append([found.both, found.predicted, found.true])
    return {}, {"counts": counts}


def _write_tables(sample: Sample, structure: str, runs: Sequence[Run]) -> None:
    columns: dict[str, list[Any]] = {
        "labelled": [run.labelled for run in runs],
        "tile_px": [run.tile for run in runs],
        "repeat": [run.repeat for run in runs],
        "slices": [" ".join(map(str, run.slices)) for run in runs],
        "unseen": [len(run.z) for run in runs],
        "dice_3d": [run.dice for run in runs],
        "precision_3d": [pooled(run.overlaps).precision for run in runs],
        "recall_3d": [pooled(run.overlaps).recall for run in runs],
        "dice_slices": [average_dice(run.overlaps) for run in runs],
    }
    sample.write_table(f"experiment_slices_{structure}", pa.table(columns))
    rows = [(run.labelled, run.tile, run.repeat, z, one.dice) for run in runs for z, one in zip(run.z, run.overlaps, strict=True)]
    along = dict(zip(("labelled", "tile_px", "repeat", "z", "dice"), map(list, zip(*rows, strict=True)), strict=True))
    sample.write_table(f"experiment_slices_{structure}_z", pa.table(along))


def _curves(structure: str, runs: Sequence[Run], n_slices: int) -> dict[str, tuple[list[float], list[int]]]:
    """Of the fewest and of the most labelled slices: Dice of each unseen slice, and the slices learnt from."""
    first = [run for run in runs if run.repeat == 0 and run.tile == runs[0].tile]
    curves = {}
    for run in {first[0].labelled: first[0], first[-1].labelled: first[-1]}.values():
        dice = [math.nan] * n_slices
        for z, one in zip(run.z, run.overlaps, strict=True):
            dice[z] = one.dice
        curves[f"{structure}, {run.labelled} labelled,\ntile {run.tile} px"] = (dice, list(run.slices))
    return curves
