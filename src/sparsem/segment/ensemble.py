"""One or several networks that predict slices together."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.errors import SettingsError
from sparsem.geometry import VoxelSize
from sparsem.models.checkpoint import Recipe, load_checkpoint, read_recipe
from sparsem.models.device import choose_device, resolve_precision
from sparsem.models.engine import COMPILED_ARCHITECTURES, is_openvino_installed
from sparsem.segment.inference import (
    Forward,
    average_over_flips,
    enlarge_slices,
    make_compiled_forward,
    make_forward,
    plan_tiles,
    predict_scaled,
    quantize_enlarged,
)
from sparsem.segment.settings import PredictSettings
from sparsem.segment.tiles import Probability, TileGrid
from sparsem.segment.uncertainty import EnsemblePrediction, combine_predictions
from sparsem.settings import Engine, PredictPrecision, changed
from sparsem.store.volume import Volume

# Tiles from which on compiling a network saves more time than it takes (a second, measured).
MIN_COMPILED_TILES = 250
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
    shape = (voxels.shape[1], voxels.shape[2])
    channels_of_models: list[slice | list[int]] = []
    probabilities_of_models = []
    for forward, recipe in load_networks(models, settings):
        names = names or recipe.structures
        channels_of_models.append(_channels_of(names, recipe))
        maps = _scaled_maps(voxels, voxel_size, (forward, recipe), settings, own_slices)
        probabilities_of_models.append(enlarge_slices(maps, shape))
    n_slices = len(range(*own_slices.indices(len(voxels))))
    return names, _combine_models(n_slices, channels_of_models, probabilities_of_models)


def predict_quantized(
    voxels: NDArray[Any],
    voxel_size: VoxelSize,
    model: Path,
    settings: PredictSettings,
    own_slices: slice,
) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """Return the structures of one model and its probabilities as they are stored.

    They are (C, z, y, x) in steps of 1/255, see ``quantize_probability``. The arguments are those
    of ``predict_voxels``.
    """
    (network,) = load_networks([model], settings)
    _, recipe = network
    maps = _scaled_maps(voxels, voxel_size, network, settings, own_slices)
    n_slices = len(range(*own_slices.indices(len(voxels))))
    quantized = np.empty((len(recipe.structures), n_slices, *voxels.shape[1:]), np.uint8)
    for z, probability in enumerate(maps):
        quantize_enlarged(probability, quantized[:, z])
    return recipe.structures, quantized


def _scaled_maps(
    voxels: NDArray[Any],
    voxel_size: VoxelSize,
    network: tuple[Forward, Recipe],
    settings: PredictSettings,
    own_slices: slice,
) -> Iterator[Probability]:
    """Yield the probabilities of one network at its scale, see ``predict_voxels``."""
    forward, recipe = network
    prefetch = 0 if choose_device(settings.device).type == "cpu" else GPU_PREFETCH
    factors = recipe.factors(voxel_size)
    overlap, batch = settings.overlap, settings.batch
    return predict_scaled(voxels, forward, recipe, factors, overlap, batch, prefetch, own_slices)


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


def settings_for_device(device: str) -> PredictSettings:
    """Return the default settings on a device, with the precision that is fast on this machine.

    All workers then compute with the same precision.
    """
    return PredictSettings(
        device=device, precision=resolve_precision(choose_device(device), "auto")
    )


def settle_precision(
    models: Sequence[Path],
    settings: PredictSettings,
    device: torch.device,
    earlier: PredictPrecision | None = None,
) -> PredictPrecision:
    """Return the precision in which networks predict, see ``resolve_precision``.

    Args:
        models: checkpoints.
        settings: settings of the prediction.
        device: device that blocks are computed on.
        earlier: the precision of an earlier run of the same work.

    Raises:
        SettingsError: int8 is requested on a GPU or without OpenVINO, or of a model that does not
            say how its values are rounded.
    """
    if settings.precision == "auto" and earlier is not None:
        return earlier
    if settings.precision != "int8":
        return resolve_precision(device, settings.precision)
    if device.type != "cpu" or settings.engine == "torch":
        raise SettingsError(
            "Integers of 8 bits are computed on the processor by the engine openvino; use "
            "--precision int8 with --device cpu and without --engine torch."
        )
    for path in models:
        recipe = read_recipe(path)
        if recipe.architecture in COMPILED_ARCHITECTURES and not recipe.ranges:
            raise SettingsError(
                f"{path.name} does not say how its values are rounded to 8 bits, which 'sparsem "
                "train' measures at its end; train it again, or use --precision auto."
            )
    return "int8"


def choose_engine(
    models: Sequence[Path],
    image: Volume,
    settings: PredictSettings,
    device: torch.device,
    earlier: Engine | None = None,
) -> Engine:
    """Return the engine that predicts an image, ``openvino`` or ``torch``.

    Args:
        models: checkpoints.
        image: the image.
        settings: settings of the prediction, with the requested engine and a resolved precision.
        device: device that blocks are computed on.
        earlier: the engine of an earlier run of the same work, which ``auto`` keeps: its last bits
            are not those of another one. Nothing is compiled then, since that run may be finished.

    Raises:
        SettingsError: the requested engine is not available.
    """
    if settings.engine == "torch":
        return "torch"
    is_requested = settings.engine == "openvino" or settings.precision == "int8"
    if earlier is not None and not is_requested:
        return earlier
    is_on_cpu = device.type == "cpu"
    if is_requested and not is_on_cpu:
        raise SettingsError("The engine openvino runs on the processor; use it with --device cpu.")
    unknown = {read_recipe(path).architecture for path in models} - set(COMPILED_ARCHITECTURES)
    if is_requested and unknown:
        raise SettingsError(
            f"The engine openvino compiles {', '.join(COMPILED_ARCHITECTURES)}, not "
            f"{', '.join(sorted(unknown))}; use --engine torch."
        )
    if not is_requested:
        is_large = _count_tiles(models, image, settings) >= MIN_COMPILED_TILES
        if unknown or not (is_on_cpu and is_openvino_installed() and is_large):
            return "torch"
    try:
        _compile_all(models, image, changed(settings, {"engine": "openvino"}))
    except SettingsError:
        if is_requested:
            raise
        return "torch"
    return "openvino"


def _compile_all(models: Sequence[Path], image: Volume, settings: PredictSettings) -> None:
    """Compile all networks, which stay in memory for the blocks of this process."""
    for forward, recipe in load_networks(models, settings):
        grid, batch = _plan(recipe, image, settings)
        shape = (batch, 1 + 2 * recipe.adjacent_slices, grid.tile, grid.tile)
        forward(np.zeros(shape, np.float32))


def _plan(recipe: Recipe, image: Volume, settings: PredictSettings) -> tuple[TileGrid, int]:
    """Return the tiles of a slice of an image, and how many of them make a batch."""
    _, height, width = image.shape
    factors = recipe.factors(image.voxel_size)
    return plan_tiles(recipe, (height, width), factors, settings.overlap, settings.batch)


def _count_tiles(models: Sequence[Path], image: Volume, settings: PredictSettings) -> int:
    """Return the number of tiles that all networks compute."""
    plans = [_plan(read_recipe(path), image, settings) for path in models]
    return sum(image.shape[0] * len(grid.corners) for grid, _ in plans)


def load_networks(
    models: Sequence[Path], settings: PredictSettings
) -> list[tuple[Forward, Recipe]]:
    """Return the networks as the settings request them, and their recipes.

    The engine ``auto`` is torch here: to compile a network takes longer than to predict a slice.
    """
    versions = tuple((path, path.stat().st_mtime_ns) for path in models)
    is_compiled = settings.engine == "openvino"
    networks = _load_cached(versions, settings.device, settings.precision, is_compiled)
    if not settings.flips:
        return networks
    return [(average_over_flips(forward), recipe) for forward, recipe in networks]


@lru_cache(maxsize=1)
def _load_cached(
    versions: tuple[tuple[Path, int], ...],
    device: str,
    precision: PredictPrecision,
    is_compiled: bool,
) -> list[tuple[Forward, Recipe]]:
    """Load the networks of this process once for all of its blocks.

    ``versions`` are the files and their times of modification.
    """
    networks = []
    for path, _ in versions:
        network, recipe = load_checkpoint(path)
        if is_compiled or precision == "int8":
            forward = make_compiled_forward(network, precision, recipe.ranges)
        else:
            forward = make_forward(network, choose_device(device), precision)
        networks.append((forward, recipe))
    return networks
