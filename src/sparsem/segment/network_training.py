"""The training of one network: labeled slices -> a checkpoint, resumable at any time.

The stage ``train`` calls it, and cross-validation calls it for every fold.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsem import __version__
from sparsem.errors import SettingsError
from sparsem.models.architectures import default_optimizer
from sparsem.models.checkpoint import Recipe, load_state, read_recipe, save_checkpoint
from sparsem.models.engine import COMPILED_ARCHITECTURES
from sparsem.progress import print_note
from sparsem.segment.earlier_model import (
    refuse_seen_slices,
    slices_of_earlier,
    usual_learning_rate,
)
from sparsem.segment.semi_supervised import (
    JointTrainingState,
    fit_with_unlabeled,
    second_recipe,
    start_joint_networks,
)
from sparsem.segment.supervised import fit, measured_ranges, start_network, validation_dice
from sparsem.segment.training_job import TrainingJob, prepare_training
from sparsem.segment.training_memory import training_needs
from sparsem.segment.training_slices import TrainingSlice
from sparsem.segment.validation import validation_indices
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.training.files import TrainingFiles, receive
from sparsem.training.loop import Progress, ResumableTraining, TrainingState
from sparsem.training.processes import connect, run_along, training_processes
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import HERE, Execution

# Settings that change no weight, so that they may differ when a training is resumed. Of an earlier
# model the content is recorded, not the path.
WITHOUT_EFFECT = {"checkpoint_every_s", "folds", "from_model", "threads"}


def train_network(
    samples: Sequence[Sample],
    out: str | Path,
    settings: TrainSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Recipe:
    """Train one network on the labeled slices of one or more samples and write it to ``out``.

    An interrupted training resumes when it is called again; the final weights are the same, bit
    for bit on a CPU. Next to ``out`` (NAME.safetensors) are NAME.training.csv, the log, and, with
    slices held out, NAME.last.safetensors: then ``out`` holds the best weights and the other file
    the last ones.

    Args:
        samples: samples with annotations of every structure.
        out: the checkpoint to write.
        settings: settings of the training; the defaults if None.
        on: only ``overwrite`` and ``quiet`` are used.
        changes: single settings that replace those of ``settings``.

    Returns:
        The recipe that the checkpoint stores, with the scores reached.

    Raises:
        SampleError: a structure is not annotated.
        InputError: there are too few labeled slices.
        SettingsError: an unknown architecture, a tile size that it does not accept, or a device
            that is not available.
        ResourceError: the memory is too small.
        ResumeError: ``out`` was trained with other settings, or another run is training it.
    """
    settings = resolve_settings(TrainSettings, settings, changes)
    job = prepare_training(samples, Path(out), settings, on.overwrite)
    held_out = validation_indices(job.slices, job.structures, settings)
    return run_training(job, held_out, on)


def run_training(job: TrainingJob, held_out: Sequence[int], on: Execution) -> Recipe:
    """Train without the slices at the indices ``held_out``; see ``train_network``.

    The Dice of the held-out slices selects the best weights.
    """
    record = _record_of(job)
    files = TrainingFiles(job.out)
    existing = files.read_existing(read_recipe, on.overwrite)
    if existing:
        existing_record = existing.training.get("record", {})
        if files.is_finished(existing_record, record, on.overwrite):
            return existing
    refuse_seen_slices(
        job.settings, {job.slices[index].digest: job.slices[index].name for index in held_out}
    )
    processes = connect(job.device, job.settings.batch)
    if processes.count > 1 and job.settings.semi:
        raise SettingsError("--semi trains in one process; start it without torchrun.")
    _check_memory(job, on.quiet or not processes.is_first)
    training = [labeled for index, labeled in enumerate(job.slices) if index not in held_out]
    validation = [job.slices[index] for index in held_out]
    state = start_networks(job)
    if not processes.is_first:
        receive(state)
        run_along(training_updates(job, state, training, []))
        return job.recipe
    columns = ["batch_dice", *(f"validation_dice_{name}" for name in job.structures)]
    with files.locked():
        files.begin(state, record, on.overwrite)
        updates = training_updates(job, state, training, validation)
        files.run(updates, state, record, job.settings, columns, _describe_update, on.quiet)
        return _write_networks(files, state, job, record, training, validation)


def _check_memory(job: TrainingJob, quiet: bool) -> None:
    """Check that a training fits into memory and on the disk, and print what it needs."""
    needs = training_needs(job)
    folder = job.out.resolve().parent
    processes = 1 if job.device.type == "cuda" else training_processes().of_machine
    needs.check(folder if folder.is_dir() else Path.cwd(), processes)
    print_note(f"train {job.out.stem}: {needs}", quiet)


def _record_of(job: TrainingJob) -> dict[str, Any]:
    """Return the data and settings of a training; trainings of equal records are the same."""
    rate = job.settings.learning_rate or usual_learning_rate(job.recipe.architecture, job.settings)
    return {
        "version": __version__,
        **job.inputs,
        **job.settings.model_dump(mode="json", exclude=WITHOUT_EFFECT),
        "structures": list(job.structures),
        "device": job.device.type,
        "width": job.recipe.width,
        "learning_rate": rate,
        "optimizer": job.settings.optimizer or default_optimizer(job.recipe.architecture),
    }


def _describe_update(progress: Progress) -> str:
    """Return the text of an update for the progress bar."""
    return f"loss {progress.loss:.3f}, Dice of the batch {progress.batch[0]:.3f}"


def start_networks(job: TrainingJob) -> TrainingState | JointTrainingState:
    """Return the initial state of a training, of one network or two."""
    if job.settings.semi:
        return start_joint_networks(job.recipe, job.settings, job.device)
    return start_network(job.recipe, job.settings, job.device)


def training_updates(
    job: TrainingJob,
    state: TrainingState | JointTrainingState,
    training: Sequence[TrainingSlice],
    validation: Sequence[TrainingSlice],
) -> Iterator[Progress]:
    """Run the updates of a training, and yield the result of each.

    Args:
        job: the training.
        state: its state, fresh or restored; changed in place.
        training: slices to train on.
        validation: slices held out; may be empty.
    """
    settings = job.settings
    shrinkage = settings.input_px / settings.context_px
    min_foreground_px = settings.min_foreground_px * shrinkage**2
    if isinstance(state, JointTrainingState):
        return fit_with_unlabeled(
            state, training, job.unlabeled, validation, settings, job.device, min_foreground_px
        )
    return fit(state, training, validation, settings, job.device, min_foreground_px)


def _write_networks(
    files: TrainingFiles,
    state: ResumableTraining,
    job: TrainingJob,
    record: Mapping[str, Any],
    training: Sequence[TrainingSlice],
    validation: Sequence[TrainingSlice],
) -> Recipe:
    """Write the trained network; of two the one that is better on the held-out slices.

    The other one is written too if the settings request it.
    """
    about = _description(record, training, validation, job.settings)
    recipes = [job.recipe, second_recipe(job.recipe, job.settings)]
    scores = [member.best_score for member in state.members]
    best_first = sorted(range(len(scores)), key=lambda number: -scores[number])
    if len(scores) > 1 and job.settings.save_second:
        second = best_first[1]
        second_network = replace(recipes[second], training=about)
        _write_network(
            files.second_path, state.members[second], second_network, training, validation, job
        )
    best = best_first[0]
    # The checkpoint comes last: it marks the training as complete.
    best_network = replace(recipes[best], training=about)
    recipe = _write_network(files.out, state.members[best], best_network, training, validation, job)
    files.state_path.unlink(missing_ok=True)
    return recipe


def _description(
    record: Mapping[str, Any],
    training: Sequence[TrainingSlice],
    validation: Sequence[TrainingSlice],
    settings: TrainSettings,
) -> dict[str, Any]:
    """Return what a checkpoint says about its training, and about that of an earlier model."""
    earlier = slices_of_earlier(settings)
    return {
        "record": dict(record),
        "trained_on": [labeled.name for labeled in training],
        "held_out": [labeled.name for labeled in validation],
        "slices": {
            "trained": [*_identities(training), *earlier["trained"]],
            "validated": [*_identities(validation), *earlier["validated"]],
        },
    }


def _identities(slices: Sequence[TrainingSlice]) -> list[list[Any]]:
    """Return number and digest of slices, by which ``slice_use`` recognizes them."""
    return [[labeled.z, labeled.digest] for labeled in slices]


def _write_network(
    out: Path,
    state: TrainingState,
    recipe: Recipe,
    training: Sequence[TrainingSlice],
    validation: Sequence[TrainingSlice],
    job: TrainingJob,
) -> Recipe:
    """Write the averaged weights of a network; with a validation the best, and the last too."""
    network = state.average
    about = dict(recipe.training)
    if validation:
        last_recipe = replace(recipe, training=about | {"weights": "last"})
        save_checkpoint(out.with_suffix(".last.safetensors"), network.cpu(), last_recipe)
        load_state(network, state.best)
        network = network.to(job.device)
        dice = validation_dice(network, validation, job.settings, job.device)
        known = _known_dice(recipe.structures, dice)
        about["weights"] = "best"
        about["validation_dice"] = round(state.best_score, 6) if known else None
        about["validation_dice_by_structure"] = known
    network = network.cpu()
    ranges = {}
    if recipe.architecture in COMPILED_ARCHITECTURES:
        ranges = measured_ranges(network, training, job.settings)
    recipe = replace(recipe, training=about, ranges=ranges)
    save_checkpoint(out, network, recipe)
    return recipe


def _known_dice(structures: Sequence[str], dice: Sequence[float]) -> dict[str, float]:
    """Return the Dice of the structures that are known somewhere, rounded."""
    known = {}
    for name, dice_of_structure in zip(structures, dice, strict=True):
        if not math.isnan(dice_of_structure):
            known[name] = round(dice_of_structure, 6)
    return known
