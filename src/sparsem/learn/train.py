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
from sparsem.annotations import annotated_structures, outputs_of_cells
from sparsem.errors import InputError, ResumeError
from sparsem.execution import HERE, Execution, Needs
from sparsem.learn.semi import Pair, fit_with_unlabelled, second_recipe, start_pair
from sparsem.learn.settings import TrainSettings
from sparsem.learn.slices import LearningSlice, learning_slices, unlabelled_slices
from sparsem.learn.supervised import Course, Progress, TrainingState, fit, start, validation_dice
from sparsem.models import model_class, usual_rate
from sparsem.models.checkpoint import Recipe, load_tensors, read_recipe, save_checkpoint, save_tensors
from sparsem.models.device import choose_device, free_memory, resolved
from sparsem.models.memory import training_bytes
from sparsem.progress import Meter, tell
from sparsem.settings import differences
from sparsem.stage import fingerprint_of
from sparsem.store.sample import Sample
from sparsem.store.volume import write_atomically

WITHOUT_EFFECT = {"save_every_s", "folds"}  # settings that change no weight


def held_out(count: int, validation: int) -> list[int]:
    """Which of ``count`` labelled slices to hold out: ``validation`` of them, evenly spaced and away from the ends."""
    return [int((2 * index + 1) * count / (2 * validation)) for index in range(validation)]


def train(samples: Sequence[Sample], out: str | Path, settings: TrainSettings = TrainSettings(), on: Execution = HERE) -> Recipe:
    """Train one network on the labelled slices of one or more samples and write it to ``out``.

    An interrupted training goes on where it was when called again; the weights end the same, bit for bit on a CPU.
    Beside ``out`` (NAME.safetensors) lie NAME.training.csv, its course, and, with slices held out, NAME.last.safetensors:
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
        unlabelled: (K, y, x) of slices without labels, if any are learnt from.
    """

    out: Path
    structures: tuple[str, ...]
    slices: list[LearningSlice]
    recipe: Recipe
    inputs: dict[str, Any]
    settings: TrainSettings
    device: torch.device
    unlabelled: Sequence[NDArray[np.float32]] = ()


def job_of(samples: Sequence[Sample], out: Path, settings: TrainSettings) -> Job:
    """Look at samples and settings, and read the labelled slices.

    Raises:
        What ``train`` raises before it begins.
    """
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"A model is written as NAME.safetensors; got '{out}'.")
    structures = _structures_of(samples, settings)
    slices, recipe, inputs = learning_slices(samples, structures, settings)
    unlabelled, more = unlabelled_slices(samples, slices, recipe, settings) if settings.semi else ([], {})
    return Job(out, structures, slices, recipe, inputs | more, settings, choose_device(settings.device), unlabelled)


def train_job(job: Job, aside: Sequence[int], on: Execution) -> Recipe:
    """Train without the slices ``aside``, by whose Dice the best weights are chosen; see ``train``."""
    settings, slices, device, out = job.settings, job.slices, job.device, job.out
    computed: dict[str, Any] = {"structure": list(job.structures), "device": device.type, "precision": resolved(device, settings.precision)}
    computed |= {"width": job.recipe.width, "learning_rate": settings.learning_rate or usual_rate(job.recipe.model)}
    record = {"version": __version__, **job.inputs, **settings.model_dump(mode="json", exclude=WITHOUT_EFFECT), **computed}
    files = _Files(out)
    trained = files.finished(record, on.overwrite)
    if trained is not None:
        return trained
    if len(slices) <= len(aside):
        raise InputError(f"{len(slices)} labelled slices are too few to hold out {len(aside)} of them for validation.")
    needs = training_needs(job)
    needs.check(out.resolve().parent if out.resolve().parent.is_dir() else Path.cwd())
    tell(f"train {out.stem}: {needs}", on.quiet)
    learn = [each for index, each in enumerate(slices) if index not in aside]
    validate = [slices[index] for index in aside]
    state = course_of(job)
    with files.locked():
        files.restore(state, record, on.overwrite)
        progress_of = updates_of(job, state, learn, validate)
        with Meter(f"train {out.stem}", settings.updates, state.update, on.quiet) as meter, files.log(job.structures, state.update) as log:
            saved = time.monotonic()
            # Saved between two updates only: an interrupt may come when some weights have moved and others have not.
            for progress in progress_of:
                log(progress)
                meter.step(f"loss {progress.loss:.3f}, Dice {progress.dice:.3f}")
                if time.monotonic() - saved >= settings.save_every_s:
                    files.save(state, record)
                    saved = time.monotonic()
        return _finish(files, state, job, record, [each.name for each in learn], validate)


def log_path(out: Path) -> Path:
    """Where the course of a training lies: beside its checkpoint, and under no name that a table would get."""
    return out.with_suffix(".training.csv")


def course_of(job: Job) -> TrainingState | Pair:
    """Fresh networks, one or two, for a training."""
    return (start_pair if job.settings.semi else start)(job.recipe, job.settings, job.device)


def updates_of(
    job: Job, state: TrainingState | Pair, learn: Sequence[LearningSlice], validate: Sequence[LearningSlice]
) -> Iterator[Progress]:
    """The updates of a training, one after the other."""
    settings = job.settings
    least_px = settings.least_px * (settings.see / settings.read) ** 2
    if isinstance(state, Pair):
        return fit_with_unlabelled(state, learn, job.unlabelled, validate, settings, job.device, least_px)
    return fit(state, learn, validate, settings, job.device, least_px)


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


def training_needs(job: Job) -> Needs:
    """Memory of a training: its slices, and what its networks keep of a batch until their backward pass."""
    slices = 2 * (sum(each.image.nbytes + each.target.nbytes for each in job.slices) + sum(image.nbytes for image in job.unlabelled))
    kept, free = _network_bytes(job, job.settings.batch, job.settings.see), free_memory(job.device)
    if job.device.type == "cuda":
        return Needs(ram=slices, smaller=_what_fits(job, free) if kept > free else "", gpu=kept, gpu_free=free)
    return Needs(ram=slices + kept, smaller=_what_fits(job, free - slices) if slices + kept > free else "")


def _network_bytes(job: Job, batch: int, see: int) -> int:
    """What the networks of a training take with tiles of another size or number."""
    settings = job.settings
    recipe = replace(job.recipe, see=see)
    networks = [recipe, second_recipe(recipe, settings)] if settings.semi == "cps" else [recipe]
    tiles = batch + max(2, batch) if settings.semi else batch  # mixed ones: at least one labelled, and one that is not
    return training_bytes(networks, tiles, job.device, settings.precision)


def _what_fits(job: Job, free: int) -> str:
    """The largest half, quarter ... of the batch, or else of the tile, with which a training fits into ``free`` bytes."""
    batch, see = job.settings.batch, job.settings.see
    names = [job.recipe.model, *([second_recipe(job.recipe, job.settings).model] if job.settings.semi == "cps" else [])]
    least = 2 * max(model_class(name).multiple_of for name in names)
    fewer = [("--batch", batch >> halved, see) for halved in range(1, batch.bit_length())]
    smaller = [("--see", batch, see >> halved) for halved in range(1, see.bit_length()) if (see >> halved) % (least // 2) == 0]
    for option, count, edge in (*fewer, *(one for one in smaller if one[2] >= least)):
        if (needed := _network_bytes(job, count, edge)) <= free:
            return f"{option} {count if option == '--batch' else edge} fits, with {needed / 1e9:.1f} GB"
    return "no --batch and no --see fits; take a smaller --width, or another --model"


def _finish(
    files: "_Files", state: Course, job: Job, record: Mapping[str, Any], learnt: list[str], validate: Sequence[LearningSlice]
) -> Recipe:
    """Write the network, of two the one that does better on held-out slices; the other one too if that is asked for."""
    about: dict[str, Any] = {"record": dict(record), "learnt from": learnt, "held out": [each.name for each in validate]}
    recipes = [job.recipe, second_recipe(job.recipe, job.settings)]
    order = sorted(range(len(state.members)), key=lambda number: -state.members[number].best_dice)
    written = []
    for number, out in zip(order, (files.out, files.second), strict=False):
        if out == files.out or job.settings.both:
            written.append((out, state.members[number], replace(recipes[number], training=about)))
    made = [_write(*one, validate, job) for one in reversed(written)]  # what tells that all is done comes last
    files.state.unlink(missing_ok=True)
    return made[-1]


def _write(out: Path, state: TrainingState, recipe: Recipe, validate: Sequence[LearningSlice], job: Job) -> Recipe:
    last = state.average
    about = dict(recipe.training)
    if validate:
        save_checkpoint(out.with_suffix(".last.safetensors"), last.cpu(), replace(recipe, training=about | {"weights": "last"}))
        last.load_state_dict(state.best)
        by_structure = validation_dice(last.to(job.device), validate, job.settings, job.device)
        known = {name: round(dice, 6) for name, dice in zip(recipe.structures, by_structure, strict=True) if not math.isnan(dice)}
        about |= {"weights": "best", "validation dice": round(state.best_dice, 6), "validation dice by structure": known}
    recipe = replace(recipe, training=about)
    save_checkpoint(out, last.cpu(), recipe)
    return recipe


@dataclass(frozen=True)
class _Files:
    """What a training writes beside its checkpoint."""

    out: Path

    @property
    def state(self) -> Path:
        return self.out.with_suffix(".state.safetensors")

    @property
    def second(self) -> Path:
        return self.out.with_suffix(".second.safetensors")

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

    def save(self, state: Course, record: Mapping[str, Any]) -> None:
        best = [one.best_dice for one in state.members]
        about: dict[str, Any] = {"record": dict(record), "update": state.update, "best_dices": best}
        save_tensors(self.state, state.tensors(), about)

    def restore(self, state: Course, record: Mapping[str, Any], overwrite: bool) -> None:
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
        return _Log(log_path(self.out), structures, update)


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
