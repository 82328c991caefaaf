"""A training before it starts: its structures, its labeled slices, its recipe and its device."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import (
    annotated_structures,
    boundary_of_objects,
    outputs_of_cells,
)
from sparsem.errors import InputError, SettingsError
from sparsem.models.checkpoint import Recipe, file_digest
from sparsem.models.device import choose_device, resolve_precision
from sparsem.segment.earlier_model import with_network_of
from sparsem.segment.training_slices import (
    TrainingSlice,
    read_training_slices,
    read_unlabeled_slices,
)
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.files import TrainingFiles
from sparsem.training.processes import training_processes
from sparsem.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainingJob:
    """A training that was checked and can start.

    Attributes:
        out: the checkpoint to write.
        structures: the structures to train, in the order of the output channels.
        slices: all labeled slices, at the network's scale.
        recipe: recipe of the checkpoint.
        inputs: fingerprints of the data that were read.
        settings: settings of the training.
        device: device to train on.
        unlabeled: unlabeled slices (K, y, x), if the training uses any.
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
    """Check samples and settings, and read the slices to train on.

    Args:
        samples: samples with annotations of every structure.
        out: the checkpoint to write.
        settings: settings of the training.
        overwrite: a finished training is replaced, so that its precision does not count.

    Raises:
        SparsemError: as ``train`` raises it before it starts.
    """
    if out.suffix != ".safetensors" or out.is_dir():
        raise InputError(f"A model is written as NAME.safetensors; got '{out}'.")
    structures = _structures_to_train(samples, settings)
    slices, recipe, inputs = read_training_slices(samples, structures, settings)
    if settings.from_model:
        settings = with_network_of(recipe, settings, samples[0].voxel_size)
        inputs["earlier model"] = file_digest(Path(settings.from_model or ""))
    unlabeled: list[NDArray[np.float32]] = []
    if settings.semi:
        unlabeled, unlabeled_inputs = read_unlabeled_slices(samples, slices, recipe, settings)
        inputs = inputs | unlabeled_inputs
    if ":" in settings.device and training_processes().count > 1:
        raise SettingsError(
            f"--device {settings.device} names one device for all processes; use --device "
            f"{settings.device.partition(':')[0]}, of which each process uses its own."
        )
    device = choose_device(settings.device)
    settings = _with_precision(settings, device, TrainingFiles(out), overwrite)
    return TrainingJob(out, structures, slices, recipe, inputs, settings, device, unlabeled)


def _with_precision(
    settings: TrainSettings, device: torch.device, files: TrainingFiles, overwrite: bool
) -> TrainSettings:
    """Return the settings with the precision to train in: that of a training that is resumed."""
    earlier_precision = files.earlier_precision(overwrite)
    precision = resolve_precision(device, settings.precision, earlier_precision)
    return changed(settings, {"precision": precision})


def _structures_to_train(samples: Sequence[Sample], settings: TrainSettings) -> tuple[str, ...]:
    """Return the outputs: structures of the settings, else all annotated; boundaries; cells last.

    Raises:
        InputError: there are none, or a sample or a structure was named twice.
    """
    structures = settings.structures
    if not structures and not settings.objects and not settings.cells:
        structures = tuple(annotated_structures(samples[0]))
    _refuse_cells_named_twice(settings)
    structures += tuple(name for name in settings.objects if name not in structures)
    structures += tuple(boundary_of_objects(name) for name in settings.objects)
    if settings.cells:
        structures = (*structures, *outputs_of_cells(settings.cells))
    if not structures:
        sample_name = samples[0].path.name
        raise InputError(
            f"{sample_name} has no annotations. Import some with "
            f"'sparsem annotate import {sample_name} NAME MASKS'."
        )
    _refuse_repeated(samples, structures)
    return structures


def _refuse_cells_named_twice(settings: TrainSettings) -> None:
    """Raise an InputError if the annotated cells are named as another structure too."""
    if settings.cells in (*settings.structures, *settings.objects):
        raise InputError(
            f"'{settings.cells}' is named by --cells and by --structure or --objects. Name "
            "annotated cells with --cells only."
        )


def _refuse_repeated(samples: Sequence[Sample], structures: Sequence[str]) -> None:
    """Raise an InputError if a sample or a structure is named twice."""
    is_sample_repeated = len({sample.path for sample in samples}) < len(samples)
    is_structure_repeated = len(set(structures)) < len(structures)
    if is_sample_repeated or is_structure_repeated:
        raise InputError(
            "A sample or a structure was named twice, so that held-out slices would be trained "
            "on. Name each once."
        )
