"""One or several networks that predict slices together."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from sparsem.geometry import VoxelSize
from sparsem.models.checkpoint import Recipe, load_checkpoint
from sparsem.models.device import choose_device
from sparsem.segment.inference import Forward, average_over_flips, make_forward, predict_slices
from sparsem.segment.predict_settings import PredictSettings
from sparsem.segment.tiles import Probability
from sparsem.segment.uncertainty import EnsemblePrediction, combine_predictions
from sparsem.settings import Precision

GPU_PREFETCH = 2  # slices by which cutting runs ahead of a network on a GPU


def predict_voxels(
    voxels: NDArray[Any],
    voxel_size: VoxelSize,
    models: Sequence[Path],
    structures: Sequence[str],
    settings: PredictSettings,
    own_slices: slice,
) -> tuple[tuple[str, ...], Iterator[EnsemblePrediction]]:
    """Return the structures and the predictions of the slices ``own_slices`` of ``voxels``.

    Args:
        voxels: (z, y, x) gray levels; predictions are computed one slice after the other.
        voxel_size: of the voxels.
        models: checkpoints with the same structures.
        structures: structures to return; all of the first model if empty.
        settings: settings of the prediction.
        own_slices: slices to predict; the others only serve as adjacent slices.
    """
    names: tuple[str, ...] = tuple(structures)
    prefetch = 0 if choose_device(settings.device).type == "cpu" else GPU_PREFETCH
    channels_of_models: list[slice | list[int]] = []
    probabilities_of_models = []
    for forward, recipe in load_networks(models, settings):
        names = names or recipe.structures
        channels_of_models.append(_channels_of(names, recipe))
        factors = recipe.factors(voxel_size)
        overlap, batch = settings.overlap, settings.batch
        probabilities_of_models.append(
            predict_slices(voxels, forward, recipe, factors, overlap, batch, prefetch, own_slices)
        )
    n_slices = len(range(*own_slices.indices(len(voxels))))
    return names, _combine_models(n_slices, channels_of_models, probabilities_of_models)


def _combine_models(
    n_slices: int,
    channels_of_models: Sequence[slice | list[int]],
    probabilities_of_models: Sequence[Iterator[Probability]],
) -> Iterator[EnsemblePrediction]:
    """Yield the combined prediction of all models, one slice after the other."""
    for _ in range(n_slices):
        pairs = zip(channels_of_models, probabilities_of_models, strict=True)
        yield combine_predictions(next(slices)[channels] for channels, slices in pairs)


def _channels_of(names: tuple[str, ...], recipe: Recipe) -> slice | list[int]:
    """Return the output channels of structures, as a slice without a copy if these are all."""
    if names == recipe.structures:
        return slice(None)
    return [recipe.structures.index(name) for name in names]


def load_networks(
    models: Sequence[Path], settings: PredictSettings
) -> list[tuple[Forward, Recipe]]:
    """Return the networks as the settings request them, and their recipes."""
    versions = tuple((path, path.stat().st_mtime_ns) for path in models)
    networks = _load_cached(versions, settings.device, settings.precision)
    if not settings.flips:
        return networks
    return [(average_over_flips(forward), recipe) for forward, recipe in networks]


@lru_cache(maxsize=1)
def _load_cached(
    versions: tuple[tuple[Path, int], ...], device: str, precision: Precision
) -> list[tuple[Forward, Recipe]]:
    """Load the networks of this process once for all of its blocks.

    ``versions`` are the files and their times of modification.
    """
    networks = []
    for path, _ in versions:
        network, recipe = load_checkpoint(path)
        forward = make_forward(network, choose_device(device), precision)
        networks.append((forward, recipe))
    return networks
