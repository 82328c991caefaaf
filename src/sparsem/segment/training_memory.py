"""Memory that a training needs, and the settings with which it would fit."""

from dataclasses import replace

from sparsem.models.architectures import architecture_class
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import free_memory
from sparsem.models.memory import training_bytes
from sparsem.segment.semi_supervised import second_recipe
from sparsem.segment.training_job import TrainingJob
from sparsem.training.processes import training_processes
from sparsem.workflow.execution import Needs


def training_needs(job: TrainingJob) -> Needs:
    """Return the memory of a training: its slices, and its networks during an update.

    The networks keep the activations of a batch until their backward pass.
    """
    # Twice, since copies exist while slices are standardized or padded.
    slice_bytes = 2 * _slice_bytes(job)
    n_tiles = job.settings.batch // training_processes().count
    network_bytes = _network_bytes(job, n_tiles, job.settings.input_px)
    free_bytes = free_memory(job.device)
    if job.device.type == "cuda":
        advice = _fitting_settings(job, free_bytes) if network_bytes > free_bytes else ""
        return Needs(ram=slice_bytes, smaller=advice, gpu=network_bytes, gpu_free=free_bytes)
    total_bytes = slice_bytes + network_bytes
    advice = _fitting_settings(job, free_bytes - slice_bytes) if total_bytes > free_bytes else ""
    return Needs(ram=total_bytes, smaller=advice)


def _slice_bytes(job: TrainingJob) -> int:
    """Return the bytes of all labeled and unlabeled slices."""
    labeled = sum(labeled.image.nbytes + labeled.target.nbytes for labeled in job.slices)
    return labeled + sum(image.nbytes for image in job.unlabeled)


def _recipes(job: TrainingJob) -> list[Recipe]:
    """Return the recipes of the networks that are trained together, one or two."""
    if job.settings.semi == "cps":
        return [job.recipe, second_recipe(job.recipe, job.settings)]
    return [job.recipe]


def _network_bytes(job: TrainingJob, batch: int, input_px: int) -> int:
    """Return the bytes of the networks of a training with batches and tiles of another size."""
    recipes = [replace(recipe, input_px=input_px) for recipe in _recipes(job)]
    n_tiles = batch
    if job.settings.semi:
        n_tiles += max(2, batch)  # mixed tiles: at least one labeled and one unlabeled
    return training_bytes(recipes, n_tiles, job.device, job.settings.precision)


def _fitting_settings(job: TrainingJob, free_bytes: int) -> str:
    """Name the largest half, quarter ... of the batch, or else of the tile, that fits."""
    batch = job.settings.batch
    input_px = job.settings.input_px
    for halvings in range(1, batch.bit_length()):
        smaller_batch = batch >> halvings
        needed = _network_bytes(job, smaller_batch, input_px)
        if needed <= free_bytes:
            return f"--batch {smaller_batch} fits, with {needed / 1e9:.1f} GB"
    for smaller_px in _smaller_tiles(job):
        needed = _network_bytes(job, batch, smaller_px)
        if needed <= free_bytes:
            return f"--input-px {smaller_px} fits, with {needed / 1e9:.1f} GB"
    return "no --batch and no --input-px fits; use a smaller --width, or another --architecture"


def _smaller_tiles(job: TrainingJob) -> list[int]:
    """Return half, quarter ... of the edge of a tile, as far as the networks accept it."""
    input_px = job.settings.input_px
    classes = [architecture_class(recipe.architecture) for recipe in _recipes(job)]
    multiple = max(network_class.tile_multiple for network_class in classes)
    edges = [input_px >> halvings for halvings in range(1, input_px.bit_length())]
    return [edge for edge in edges if edge % multiple == 0 and edge >= 2 * multiple]
