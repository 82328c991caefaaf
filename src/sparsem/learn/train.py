"""Training: annotated slices of samples -> a checkpoint. Resumable at any moment; see ``train``."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from sparsem import __version__
from sparsem.annotations import UNKNOWN, LabelledSlices, annotated_structures, annotations_on, outputs_of_cells
from sparsem.errors import InputError, ResumeError
from sparsem.execution import HERE, Execution, Needs
from sparsem.learn.supervised import LearningSlice, Progress, TrainingState, TrainSettings, fit, start, validation_dice
from sparsem.models.checkpoint import Recipe, load_tensors, read_recipe, save_checkpoint, save_tensors
from sparsem.models.device import choose_device, free_memory, resolved
from sparsem.progress import Meter, tell
from sparsem.settings import differences
from sparsem.stage import fingerprint_of
from sparsem.store.sample import Sample
from sparsem.store.volume import write_atomically
from sparsem.tiles.context import scaled_shape, shrink, shrink_mask
from sparsem.tiles.targets import interior_and_boundary, shrink_labels

BYTES_A_FEATURE = 200  # measured: peak memory of a training over (tiles x px x width), rounded up
BOUNDARY_PX = 3.0  # wide enough that no border slips between two pixels, narrow enough for two borders side by side
WITHOUT_EFFECT = {"save_every_s", "folds"}  # settings that change no weight


def held_out(count: int, validation: int) -> list[int]:
    """Which of ``count`` labelled slices to hold out: ``validation`` of them, evenly spaced and away from the ends."""
    return [int((2 * index + 1) * count / (2 * validation)) for index in range(validation)]


def train(samples: Sequence[Sample], out: str | Path, settings: TrainSettings = TrainSettings(), on: Execution = HERE) -> Recipe:
    """Train one network on the labelled slices of one or more samples and write it to ``out``.

    An interrupted training goes on where it was when called again; the weights end the same, bit for bit on a CPU.
    Beside ``out`` (NAME.safetensors) lie NAME.csv, the course of the training, and, with slices held out, NAME.last.safetensors:
    ``out`` then holds the best weights and the other the last.

    Args:
        samples: with annotations of every structure.
        out: the checkpoint to write.
        settings: what and how to learn.
        on: ``overwrite`` and ``quiet`` are used.

    Returns:
        The recipe that is stored in the checkpoint, with the scores reached.

    Raises:
        SampleError: a structure is not annotated.
        InputError: too few labelled slices.
        SettingsError: unknown model, a tile size that it cannot take, a device that is not there.
        ResumeError: ``out`` was, or is being, trained otherwise.
    """
    job = job_of(samples, Path(out), settings)
    aside = held_out(len(job.slices), settings.validation_slices)
    return train_job(job, aside, on)


@dataclass(frozen=True)
class Job:
    """A training that was looked at and may begin.

    Attributes:
        out: the checkpoint to write.
        structures: what is learnt.
        slices: all labelled slices, as the network meets them.
        recipe: of the checkpoint.
        inputs: fingerprints of what was read.
        settings: how to learn.
        device: where.
    """

    out: Path
    structures: tuple[str, ...]
    slices: list[LearningSlice]
    recipe: Recipe
    inputs: dict[str, Any]
    settings: TrainSettings
    device: torch.device


def job_of(samples: Sequence[Sample], out: Path, settings: TrainSettings) -> Job:
    """Look at samples and settings, and read the labelled slices.

    Raises:
        What ``train`` raises before it begins.
    """
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"A model is written as NAME.safetensors; got '{out}'.")
    structures = _structures_of(samples, settings)
    slices, recipe, inputs = learning_slices(samples, structures, settings)
    return Job(out, structures, slices, recipe, inputs, settings, choose_device(settings.device))


def train_job(job: Job, aside: Sequence[int], on: Execution) -> Recipe:
    """Train without the slices ``aside``, by whose Dice the best weights are chosen; see ``train``."""
    settings, slices, device, out = job.settings, job.slices, job.device, job.out
    computed = {"structure": list(job.structures), "device": device.type, "precision": resolved(device, settings.precision)}
    record = {"version": __version__, **job.inputs, **settings.model_dump(mode="json", exclude=WITHOUT_EFFECT), **computed}
    files = _Files(out)
    trained = files.finished(record, on.overwrite)
    if trained is not None:
        return trained
    if len(slices) <= len(aside):
        raise InputError(f"{len(slices)} labelled slices are too few to hold out {len(aside)} of them for validation.")
    needs = training_needs(slices, settings, device)
    needs.check(out.resolve().parent if out.resolve().parent.is_dir() else Path.cwd())
    tell(f"train {out.stem}: {needs}", on.quiet)
    learn = [each for index, each in enumerate(slices) if index not in aside]
    validate = [slices[index] for index in aside]
    state = start(job.recipe, settings, device)
    with files.locked():
        files.restore(state, record, on.overwrite)
        progress_of = fit(state, learn, validate, settings, device, settings.least_px * (settings.see / settings.read) ** 2)
        with Meter(f"train {out.stem}", settings.updates, state.update, on.quiet) as meter, files.log(job.structures, state.update) as log:
            saved = time.monotonic()
            # Saved between two updates only: an interrupt may come when some weights have moved and others have not.
            for progress in progress_of:
                log(progress)
                meter.step(f"loss {progress.loss:.3f}, Dice {progress.dice:.3f}")
                if time.monotonic() - saved >= settings.save_every_s:
                    files.save(state, record)
                    saved = time.monotonic()
        return _finish(files, state, job.recipe, record, [each.name for each in learn], validate, settings, device)


def _structures_of(samples: Sequence[Sample], settings: TrainSettings) -> tuple[str, ...]:
    structures = settings.structure or (() if settings.cells else tuple(annotated_structures(samples[0])))
    if settings.cells:
        structures = (*structures, *outputs_of_cells(settings.cells))
    if not structures:
        raise InputError(
            f"{samples[0].path.name} has no annotations; bring some in with 'sparsem annotate import {samples[0].path.name} NAME MASKS'."
        )
    if len({sample.path for sample in samples}) < len(samples) or len(set(structures)) < len(structures):
        raise InputError("A sample or a structure was named twice; a held-out slice would be learnt from. Name each once.")
    return structures


def learning_slices(
    samples: Sequence[Sample], structures: tuple[str, ...], settings: TrainSettings
) -> tuple[list[LearningSlice], Recipe, dict[str, Any]]:
    """All labelled slices at the network's scale, the recipe that follows from them, and what they were read from.

    The scale is that of the first sample (read / see of its pixels); other samples are brought to the same nm.
    """
    voxel = samples[0].voxel_size
    pixel_nm = (voxel.y * settings.read / settings.see, voxel.x * settings.read / settings.see)
    recipe = Recipe(settings.model, settings.width, structures, settings.see, pixel_nm, 0.0, 1.0, settings.neighbours)
    found: list[LearningSlice] = []
    inputs: dict[str, Any] = {}
    for number, sample in enumerate(samples, 1):
        image, annotations = annotations_on(sample, _annotated(structures, settings), settings.image)
        factors = recipe.factors(image.voxel_size)
        inputs |= {f"image {number}": image.fingerprint}
        inputs |= {f"{name} {number}": one.fingerprint for name, one in annotations.items()}
        chosen = sorted({z for one in annotations.values() for z in one.z})
        unknown = set(settings.slices) - set(chosen)
        if unknown:
            raise InputError(f"Slice {min(unknown)} of {sample.path.name} is not labelled; labelled are {', '.join(map(str, chosen))}.")
        for z in (z for z in chosen if not settings.slices or z in settings.slices):
            targets = [_target(one, z, factors, name == settings.cells, settings, recipe) for name, one in annotations.items()]
            target = np.concatenate(targets)  # (structures, y, x)
            around = np.clip(np.arange(z - settings.neighbours, z + settings.neighbours + 1), 0, image.shape[0] - 1).tolist()
            context = np.stack([shrink(image.read(slice(one, one + 1))[0], factors) for one in around])
            found.append(LearningSlice(context, target, sample.name, z))
    for place, structure in enumerate(structures):
        if not any((each.target[place] == 1).any() for each in found):
            raise InputError(f"No labelled slice holds a pixel of '{structure}': check its masks, --classes and --ignore.")
    mean = float(np.mean([each.image.mean(dtype=np.float64) for each in found]))
    std = float(np.sqrt(np.mean([np.square(each.image - mean, dtype=np.float64).mean() for each in found]))) or 1.0
    slices = [replace(each, image=((each.image - mean) / std).astype(np.float32)) for each in found]
    return slices, replace(recipe, mean=mean, std=std), inputs


def _annotated(structures: tuple[str, ...], settings: TrainSettings) -> tuple[str, ...]:
    """The annotations that structures are learnt from; that of the cells, which gives two of them, is the last."""
    return (*structures[:-2], settings.cells) if settings.cells else structures


def _target(
    annotation: LabelledSlices, z: int, factors: tuple[float, float], cells: bool, settings: TrainSettings, recipe: Recipe
) -> NDArray[np.uint8]:
    """(1, y, x), or (2, y, x) of cells, at the network's scale; UNKNOWN all over where slice ``z`` is not annotated."""
    if z not in annotation.z:
        shape = scaled_shape((annotation.labels.shape[1], annotation.labels.shape[2]), factors)
        return np.full((2 if cells else 1, *shape), UNKNOWN, np.uint8)
    index = annotation.z.index(z)
    if not cells:
        return shrink_mask(annotation.mask(index), factors, UNKNOWN)[None]
    labels, known = (shrink_labels(one, factors) for one in annotation.objects(index))
    width_px = settings.boundary_nm / min(recipe.pixel_nm) if settings.boundary_nm else BOUNDARY_PX
    return interior_and_boundary(labels, known, width_px, outlined=annotation.ignore == 0)


def training_needs(slices: Sequence[LearningSlice], settings: TrainSettings, device: torch.device) -> Needs:
    """Memory of a training: the labelled slices, and what the network keeps of a batch until its backward pass."""
    kept = settings.batch * settings.see**2 * settings.width * BYTES_A_FEATURE
    labelled = 2 * sum(each.image.nbytes + each.target.nbytes for each in slices)
    smaller = "a smaller --batch, --see or --width needs less"
    if device.type == "cuda":
        return Needs(ram=labelled, smaller=smaller, gpu=kept, gpu_free=free_memory(device))
    return Needs(ram=labelled + kept, smaller=smaller)


def _finish(
    files: "_Files",
    state: TrainingState,
    recipe: Recipe,
    record: Mapping[str, Any],
    learnt: list[str],
    validate: Sequence[LearningSlice],
    settings: TrainSettings,
    device: torch.device,
) -> Recipe:
    last = state.average
    about: dict[str, Any] = {"record": dict(record), "learnt from": learnt, "held out": [each.name for each in validate]}
    if validate:
        save_checkpoint(files.last, last.cpu(), replace(recipe, training=about | {"weights": "last"}))
        last.load_state_dict(state.best)
        by_structure = validation_dice(last.to(device), validate, settings, device)
        known = {name: round(dice, 6) for name, dice in zip(recipe.structures, by_structure, strict=True) if not math.isnan(dice)}
        about |= {"weights": "best", "validation dice": round(state.best_dice, 6), "validation dice by structure": known}
    recipe = replace(recipe, training=about)
    save_checkpoint(files.out, last.cpu(), recipe)
    files.state.unlink(missing_ok=True)
    return recipe


@dataclass(frozen=True)
class _Files:
    """What a training writes beside its checkpoint."""

    out: Path

    @property
    def state(self) -> Path:
        return self.out.with_suffix(".state.safetensors")

    @property
    def last(self) -> Path:
        return self.out.with_suffix(".last.safetensors")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the training for this process; a killed one leaves no lock behind."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.out.with_suffix(".lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise ResumeError(f"Another run is training {self.out.name}; wait for it to end, or use another name.") from None
        try:
            yield
        finally:
            self.out.with_suffix(".lock").unlink(missing_ok=True)
            lock.release()

    def finished(self, record: Mapping[str, Any], overwrite: bool) -> Recipe | None:
        """The recipe of ``out`` if it was trained just so; None if it is to be trained."""
        if not self.out.exists():
            return None
        recipe = read_recipe(self.out)
        before = recipe.training.get("record", {})
        if fingerprint_of(before) == fingerprint_of(record):
            self.state.unlink(missing_ok=True)
            return recipe
        if not overwrite:
            made = f"was trained otherwise ({differences(before, record)})"
            raise ResumeError(f"{self.out.name} exists and {made}; use --overwrite, or another name.")
        return None

    def save(self, state: TrainingState, record: Mapping[str, Any]) -> None:
        about: dict[str, Any] = {"record": dict(record), "update": state.update, "best_dice": state.best_dice}
        save_tensors(self.state, state.tensors(), about)

    def restore(self, state: TrainingState, record: Mapping[str, Any], overwrite: bool) -> None:
        if not self.state.exists():
            return
        tensors, about = load_tensors(self.state)
        if fingerprint_of(about["record"]) == fingerprint_of(record):
            state.restore(tensors, about)
            return
        if not overwrite:
            raise ResumeError(
                f"{self.state.name} holds an unfinished training that was set otherwise "
                f"({differences(about['record'], record)}); use --overwrite to start anew, or the same settings to go on."
            )
        self.state.unlink()

    def log(self, structures: Sequence[str], update: int) -> "_Log":
        return _Log(self.out.with_suffix(".csv"), structures, update)


class _Log:
    """The course of a training as CSV; rows after the update that a resumed training starts from are dropped."""

    def __init__(self, path: Path, structures: Sequence[str], update: int) -> None:
        header = ["update", "seconds", "learning_rate", "loss", "dice", *(f"validation_dice_{name}" for name in structures)]
        kept: list[list[str]] = []
        if update and path.exists():
            with path.open(newline="", encoding="utf-8") as before:
                kept = [row for row in list(csv.reader(before))[1:] if row and int(row[0]) <= update]
        text = io.StringIO()
        csv.writer(text).writerows([header, *kept])
        write_atomically(path, text.getvalue().encode())
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._seconds = float(kept[-1][1]) if kept else 0.0
        self._started, self._columns = time.monotonic(), len(structures)

    def __enter__(self) -> Callable[[Progress], None]:
        return self._write

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, progress: Progress) -> None:
        seconds = self._seconds + time.monotonic() - self._started
        validation = ["" if math.isnan(dice) else f"{dice:.4f}" for dice in progress.validation] or [""] * self._columns
        numbers = [f"{progress.learning_rate:.3g}", f"{progress.loss:.5f}", f"{progress.dice:.5f}"]
        self._writer.writerow([progress.update, f"{seconds:.2f}", *numbers, *validation])
        self._file.flush()
