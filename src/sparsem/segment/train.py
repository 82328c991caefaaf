"""Training: annotated slices of samples -> a checkpoint. Resumable at any moment; see ``train``."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsem import __version__
from sparsem.annotation.labeled_slices import annotated_structures, outputs_of_cells
from sparsem.errors import InputError
from sparsem.models.architectures import architecture_class, default_learning_rate
from sparsem.models.checkpoint import Recipe, load_state, read_recipe, save_checkpoint
from sparsem.models.device import choose_device, free_memory, resolve_precision
from sparsem.models.memory import training_bytes
from sparsem.progress import tell
from sparsem.segment.semi_supervised import (
    JointTrainingState,
    fit_with_unlabeled,
    second_recipe,
    start_joint_networks,
)
from sparsem.segment.supervised import fit, start_network, validation_dice
from sparsem.segment.training_slices import (
    TrainingSlice,
    read_training_slices,
    read_unlabeled_slices,
)
from sparsem.segment.validation import validation_indices
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.training.files import TrainingFiles
from sparsem.training.loop import Progress, ResumableTraining, TrainingState
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution, Needs

WITHOUT_EFFECT = {"checkpoint_every_s", "folds"}  # settings that change no weight


def train(
    samples: Sequence[Sample],
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Recipe:
    """Train one network on the labeled slices of one or more samples and write it to ``out``.

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
        InputError: too few labeled slices.
        SettingsError: unknown model, a tile size that it cannot take, a device that is not there.
        ResumeError: ``out`` was, or is being, trained otherwise.
    """
    settings = resolve_settings(TrainSettings, settings, changes)
    job = prepare_training(samples, Path(out), settings, on.overwrite)
    return run_training(job, validation_indices(job.slices, job.structures, settings), on)


@dataclass(frozen=True)
class TrainingJob:
    """A training that was looked at and may begin.

    Attributes:
        out: the checkpoint to write.
        structures: what is learnt.
        slices: all labeled slices, as the network meets them.
        recipe: of the checkpoint.
        inputs: fingerprints of what was read.
        settings: how to learn.
        device: where.
        unlabeled: (K, y, x) of slices without labels, if any are learnt from.
    """

    out: Path
    structures: tuple[str, ...]
    slices: list[TrainingSlice]
    recipe: Recipe
    inputs: dict[str, Any]
    settings: TrainSettings
    device: torch.device
    unlabeled: Sequence[NDArray[np.float32]] = ()


def prepare_training(
    samples: Sequence[Sample], out: Path, settings: TrainSettings, overwrite: bool = False
) -> TrainingJob:
    """Look at samples and settings, and read the labeled slices.

    Raises:
        What ``train`` raises before it begins.
    """
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"A model is written as NAME.safetensors; got '{out}'.")
    structures = _structures_of(samples, settings)
    slices, recipe, inputs = read_training_slices(samples, structures, settings)
    unlabeled, more = (
        read_unlabeled_slices(samples, slices, recipe, settings) if settings.semi else ([], {})
    )
    device = choose_device(settings.device)
    computed = {
        "precision": resolve_precision(
            device, settings.precision, TrainingFiles(out).earlier_precision(overwrite)
        )
    }
    return TrainingJob(
        out,
        structures,
        slices,
        recipe,
        inputs | more,
        changed(settings, computed),
        device,
        unlabeled,
    )


def run_training(job: TrainingJob, aside: Sequence[int], on: Execution) -> Recipe:
    """Train without the slices ``aside``, by whose Dice the best weights are chosen; see ``train``."""
    settings, slices, device, out = job.settings, job.slices, job.device, job.out
    computed: dict[str, Any] = {"structure": list(job.structures), "device": device.type}
    computed |= {
        "width": job.recipe.width,
        "learning_rate": settings.learning_rate or default_learning_rate(job.recipe.architecture),
    }
    record = {
        "version": __version__,
        **job.inputs,
        **settings.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        **computed,
    }
    files = TrainingFiles(out)
    trained = files.read_existing(read_recipe, on.overwrite)
    if trained and files.is_finished(trained.training.get("record", {}), record, on.overwrite):
        return trained
    needs = training_needs(job)
    needs.check(out.resolve().parent if out.resolve().parent.is_dir() else Path.cwd())
    tell(f"train {out.stem}: {needs}", on.quiet)
    learn = [each for index, each in enumerate(slices) if index not in aside]
    validate = [slices[index] for index in aside]
    state = start_networks(job)
    with files.locked():
        files.restore(state, record, on.overwrite)
        course = training_updates(job, state, learn, validate)
        columns = ["batch_dice", *(f"validation_dice_{name}" for name in job.structures)]
        said = lambda one: f"loss {one.loss:.3f}, Dice of the batch {one.batch[0]:.3f}"  # noqa: E731
        files.run(course, state, record, settings, columns, said, on.quiet)
        return _finish(files, state, job, record, learn, validate)


def start_networks(job: TrainingJob) -> TrainingState | JointTrainingState:
    """Fresh networks, one or two, for a training."""
    return (start_joint_networks if job.settings.semi else start_network)(
        job.recipe, job.settings, job.device
    )


def training_updates(
    job: TrainingJob,
    state: TrainingState | JointTrainingState,
    learn: Sequence[TrainingSlice],
    validate: Sequence[TrainingSlice],
) -> Iterator[Progress]:
    """The updates of a training, one after the other."""
    settings = job.settings
    min_foreground_px = settings.min_foreground_px * (settings.input_px / settings.context_px) ** 2
    if isinstance(state, JointTrainingState):
        return fit_with_unlabeled(
            state, learn, job.unlabeled, validate, settings, job.device, min_foreground_px
        )
    return fit(state, learn, validate, settings, job.device, min_foreground_px)


def _structures_of(samples: Sequence[Sample], settings: TrainSettings) -> tuple[str, ...]:
    structures = settings.structure or (
        () if settings.cells else tuple(annotated_structures(samples[0]))
    )
    if settings.cells:
        structures = (*structures, *outputs_of_cells(settings.cells))
    if not structures:
        raise InputError(
            f"{samples[0].path.name} has no annotations; bring some in with 'sparsem annotate import {samples[0].path.name} NAME MASKS'."
        )
    if len({sample.path for sample in samples}) < len(samples) or len(set(structures)) < len(
        structures
    ):
        raise InputError(
            "A sample or a structure was named twice; a held-out slice would be learnt from. Name each once."
        )
    return structures


def training_needs(job: TrainingJob) -> Needs:
    """Memory of a training: its slices, and what its networks keep of a batch until their backward pass."""
    slices = 2 * (
        sum(each.image.nbytes + each.target.nbytes for each in job.slices)
        + sum(image.nbytes for image in job.unlabeled)
    )
    kept, free = (
        _network_bytes(job, job.settings.batch, job.settings.input_px),
        free_memory(job.device),
    )
    if job.device.type == "cuda":
        return Needs(
            ram=slices,
            smaller=_what_fits(job, free) if kept > free else "",
            gpu=kept,
            gpu_free=free,
        )
    return Needs(
        ram=slices + kept, smaller=_what_fits(job, free - slices) if slices + kept > free else ""
    )


def _network_bytes(job: TrainingJob, batch: int, see: int) -> int:
    """What the networks of a training take with tiles of another size or number."""
    settings = job.settings
    recipe = replace(job.recipe, input_px=see)
    networks = [recipe, second_recipe(recipe, settings)] if settings.semi == "cps" else [recipe]
    tiles = (
        batch + max(2, batch) if settings.semi else batch
    )  # mixed ones: at least one labeled, and one that is not
    return training_bytes(networks, tiles, job.device, settings.precision)


def _what_fits(job: TrainingJob, free: int) -> str:
    """The largest half, quarter ... of the batch, or else of the tile, with which a training fits into ``free`` bytes."""
    batch, see = job.settings.batch, job.settings.input_px
    names = [
        job.recipe.architecture,
        *(
            [second_recipe(job.recipe, job.settings).architecture]
            if job.settings.semi == "cps"
            else []
        ),
    ]
    least = 2 * max(architecture_class(name).tile_multiple for name in names)
    fewer = [("--batch", batch >> halved, see) for halved in range(1, batch.bit_length())]
    smaller = [
        ("--input-px", batch, see >> halved)
        for halved in range(1, see.bit_length())
        if (see >> halved) % (least // 2) == 0
    ]
    for option, count, edge in (*fewer, *(one for one in smaller if one[2] >= least)):
        if (needed := _network_bytes(job, count, edge)) <= free:
            return f"{option} {count if option == '--batch' else edge} fits, with {needed / 1e9:.1f} GB"
    return "no --batch and no --input-px fits; take a smaller --width, or another --architecture"


def _finish(
    files: TrainingFiles,
    state: ResumableTraining,
    job: TrainingJob,
    record: Mapping[str, Any],
    learn: Sequence[TrainingSlice],
    validate: Sequence[TrainingSlice],
) -> Recipe:
    """Write the network, of two the one that does better on held-out slices; the other one too if that is asked for."""
    used = {"trained": learn, "validated": validate}
    about: dict[str, Any] = {
        "record": dict(record),
        "trained_on": [each.name for each in learn],
        "held_out": [each.name for each in validate],
        "slices": {
            role: [[each.z, each.digest] for each in slices] for role, slices in used.items()
        },
    }
    recipes = [job.recipe, second_recipe(job.recipe, job.settings)]
    order = sorted(range(len(state.members)), key=lambda number: -state.members[number].best_score)
    written = []
    for number, out in zip(order, (files.out, files.second_path), strict=False):
        if out == files.out or job.settings.save_second:
            written.append((out, state.members[number], replace(recipes[number], training=about)))
    made = [
        _write(*one, validate, job) for one in reversed(written)
    ]  # what tells that all is done comes last
    files.state_path.unlink(missing_ok=True)
    return made[-1]


def _write(
    out: Path,
    state: TrainingState,
    recipe: Recipe,
    validate: Sequence[TrainingSlice],
    job: TrainingJob,
) -> Recipe:
    last = state.average
    about = dict(recipe.training)
    if validate:
        save_checkpoint(
            out.with_suffix(".last.safetensors"),
            last.cpu(),
            replace(recipe, training=about | {"weights": "last"}),
        )
        load_state(last, state.best)
        by_structure = validation_dice(last.to(job.device), validate, job.settings, job.device)
        known = {
            name: round(dice, 6)
            for name, dice in zip(recipe.structures, by_structure, strict=True)
            if not math.isnan(dice)
        }
        about |= {
            "weights": "best",
            "validation_dice": round(state.best_score, 6) if known else None,
            "validation_dice_by_structure": known,
        }
    recipe = replace(recipe, training=about)
    save_checkpoint(out, last.cpu(), recipe)
    return recipe
