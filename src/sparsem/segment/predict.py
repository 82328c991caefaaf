"""The stage ``predict``: a stack -> probabilities and labels, in bounded memory (paper 3.5).

One network predicts, or the mean of several. On disk probabilities are uint8 round(255 p), where
foreground is >= 128.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.annotation.precedence import apply_precedence
from sparsem.errors import InputError
from sparsem.geometry import VoxelSize, ZBlock
from sparsem.image.flow import volume_window
from sparsem.models.checkpoint import Recipe, file_digest, load_checkpoint
from sparsem.models.device import free_memory, gpus_of, settle_device
from sparsem.models.memory import prediction_bytes
from sparsem.progress import print_note
from sparsem.segment.ensemble import (
    choose_engine,
    load_networks,
    predict_quantized,
    predict_voxels,
    settle_precision,
)
from sparsem.segment.flow_smoothing import FlowImage, flow_smoothing_bytes, smooth_along_flow
from sparsem.segment.gray_levels import gray_level_note
from sparsem.segment.inference import quantize_probability
from sparsem.segment.settings import PredictSettings
from sparsem.segment.tiles import scaled_shape
from sparsem.segment.uncertainty import EnsemblePrediction
from sparsem.segment.views import (
    AXES,
    SideViews,
    combine_views,
    predict_side_views,
    require_side_views,
    side_view_bytes,
)
from sparsem.segment.z_smoothing import (
    PredictedSlices,
    Smoothing,
    name_of_block,
    smooth_slices,
    smoothed_structures,
    smoothing_of_stack,
)
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.names import UNCERTAINTY
from sparsem.store.sample import Sample
from sparsem.store.slice_use import combined, matched_use
from sparsem.store.volume import FOREGROUND, Kind, Volume, VolumeSpec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, BlockResult, Stage, earlier_setting

# Beginnings of the names of arrays of predicted slices; the number of the structure follows.
PROBABILITY = "probability"
UNCERTAIN = "uncertainty"


def predict(
    sample: Sample,
    model: str | Path | Sequence[str | Path],
    settings: PredictSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> StageResult:
    """Write ``probabilities/NAME`` and ``labels/NAME`` for every structure of the model.

    The model sees the nm per pixel that it was trained at, whatever the voxel size of the sample.
    Several models predict their mean, and ``probabilities/NAME-uncertainty`` in addition: the
    mutual information of model and prediction, 255 times its bits, which is large where the models
    contradict each other (see ``uncertainty.EnsemblePrediction``). ``suggest`` uses it.

    Probabilities of structures are smoothed across slices (see ``z_smoothing``).

    With three views slices across y and x are predicted, too, and combined with those across z (see
    ``views.combine_views``): objects that touch parallel to the slices are separated then.

    In ``labels/NAME`` hand-labeled slices and corrections take precedence (see
    ``annotation.precedence``).

    Args:
        sample: the sample; its image is read block by block, and at most one block is in memory.
        model: a checkpoint, or several with the same structures, such as the folds of a training.
        settings: overlap, batch, precision, device, image; the defaults if None.
        on: how the work is distributed; finished blocks are not computed again.
        changes: single settings that replace those of ``settings``.

    Returns:
        The paths of the volumes in the sample.

    Raises:
        InputError: a model file is missing or damaged, is named twice, or has other structures
            than the first one.
        ResumeError: results of another model or with other settings exist, and ``on.overwrite``
            is not set.
        SampleError: three views are requested, and voxels are much longer than wide or less.
        SettingsError: the device or the engine is not available.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(PredictSettings, settings, changes)
    paths = [model] if isinstance(model, str | Path) else model
    models = [Path(path).resolve() for path in paths]
    recipes = _read_recipes(models)
    image_name = settings.image or sample.newest_image
    image = sample.image(image_name)
    if settings.views > 1:
        require_side_views(sample, image)
    stage_name = f"predict-{'-'.join(recipes[0].structures)}"
    earlier = earlier_setting(sample, stage_name, "precision", on.overwrite)
    settings, device = settle_device(settings, on)
    precision = settle_precision(models, settings, device, earlier)
    settings = changed(settings, {"image": image_name, "precision": precision})
    earlier_engine = earlier_setting(sample, stage_name, "engine", on.overwrite)
    engine = choose_engine(models, image, settings, device, earlier_engine)
    settings = changed(settings, {"engine": engine})
    outputs = _outputs_with_slice_use(sample, image, image_name, recipes)
    output_paths = [output.path for output in outputs]
    recorded = _recorded_settings(settings, device)
    inputs = _input_fingerprints(image, models)
    needs = partial(_needs, image, recipes, settings, device)
    replaced = _replaced_volumes(sample, stage_name, output_paths)
    with Stage(sample, stage_name, recorded, inputs, outputs, on, needs, replaced) as stage:
        if not stage.finished:
            _print_gray_level_notes(image, models, recipes, on.quiet)
        smoothing = _smoothing_of(image, recipes, settings)
        if smoothing:
            _predict_smoothed(stage, image, models, recipes, settings, smoothing)
        else:
            _predict_directly(stage, image, models, recipes, settings)
    for name in recipes[0].structures:
        apply_precedence(sample, name, on.quiet)
    return StageResult(sample=sample, written=tuple(output_paths))


def _smoothing_of(
    image: Volume, recipes: Sequence[Recipe], settings: PredictSettings
) -> Smoothing | None:
    """Return how probabilities are smoothed across slices; None if they are not.

    Three views are smooth across slices already, and separate images are no stack.
    """
    is_smooth = settings.views > 1 or image.sizes or not settings.z_smoothing_nm
    if is_smooth or not smoothed_structures(recipes[0].structures):
        return None
    return smoothing_of_stack(settings.z_smoothing_nm, image.voxel_size.z)


def _predict_directly(
    stage: Stage,
    image: Volume,
    models: Sequence[Path],
    recipes: Sequence[Recipe],
    settings: PredictSettings,
) -> None:
    """Predict block by block, and combine slices with side views if these are requested."""
    blocks = image.blocks(halo=_max_adjacent_slices(recipes))
    sides = None
    if settings.views > 1 and stage.undone_blocks(blocks):
        sides = predict_side_views(stage, image, models, recipes, settings)
    stage.map(_predict_block, blocks, image, models, settings, sides)


def _predict_smoothed(
    stage: Stage,
    image: Volume,
    models: Sequence[Path],
    recipes: Sequence[Recipe],
    settings: PredictSettings,
    smoothing: Smoothing,
) -> None:
    """Predict all slices, which are kept until the stage ends, then smooth block by block."""
    blocks = image.blocks(halo=_max_adjacent_slices(recipes))
    slices = None
    if stage.undone_blocks(blocks):
        chains = {name_of_block(block): [block] for block in blocks}
        title = f"{stage.name}, slices"
        folder = stage.chain(title, _predict_link, chains, image, models, settings)
        slices = PredictedSlices(folder, blocks)
    structures, is_ensemble = recipes[0].structures, len(recipes) > 1
    flow_image = FlowImage(image, volume_window(image)) if smoothing.along_flow else None
    stage.map(_smooth_block, blocks, slices, structures, is_ensemble, smoothing, flow_image)


def _print_gray_level_notes(
    image: Volume, models: Sequence[Path], recipes: Sequence[Recipe], quiet: bool
) -> None:
    """Print a note for every model whose training had other gray levels than the image."""
    for path, recipe in zip(models, recipes, strict=True):
        note = gray_level_note(image, recipe, path.name)
        if note:
            print_note(note, quiet)


def _read_recipes(models: Sequence[Path]) -> list[Recipe]:
    """Return the recipes of models that can predict together.

    Raises:
        InputError: there is no model, a model is named twice, or the structures differ.
    """
    if not models:
        raise InputError("No model was named.")
    if len(set(models)) < len(models):
        raise InputError("Expected one model, or several different ones; a model was named twice.")
    recipes = [load_checkpoint(path)[1] for path in models]
    for path, recipe in zip(models, recipes, strict=True):
        if set(recipe.structures) != set(recipes[0].structures):
            raise InputError(
                f"{path.name} has the structures {', '.join(recipe.structures)}, but "
                f"{models[0].name} has {', '.join(recipes[0].structures)}. Models that predict "
                "together need the same structures. Predict with each of them separately."
            )
    return recipes


def _max_adjacent_slices(recipes: Sequence[Recipe]) -> int:
    """Return the slices that the networks see above and below the one that they segment."""
    return max(recipe.adjacent_slices for recipe in recipes)


def _recorded_settings(settings: PredictSettings, device: torch.device) -> Settings:
    """Return the settings that change a result, as they are resolved on this machine.

    An interrupted run may be continued with another batch size.
    """
    return changed(settings, {"batch": 1, "device": device.type})


def _input_fingerprints(image: Volume, models: Sequence[Path]) -> dict[str, str]:
    """Return the fingerprints of the image and of the models."""
    inputs = {"image": image.fingerprint}
    for number, path in enumerate(models, 1):
        key = "model" if number == 1 else f"model {number}"
        inputs[key] = file_digest(path)
    return inputs


def _output_specs(
    structures: Sequence[str], n_models: int, image: Volume, image_name: str
) -> list[VolumeSpec]:
    """Return the volumes that a prediction writes."""
    made_on = (image_name, image.fingerprint)
    specs = []
    for name in structures:
        specs.append(image.like(f"probabilities/{name}", np.uint8, Kind.PROBABILITY, made_on))
        specs.append(image.like(f"labels/{name}", np.uint8, Kind.LABELS, made_on))
        if n_models > 1:
            path = f"probabilities/{name}{UNCERTAINTY}"
            specs.append(image.like(path, np.uint8, Kind.PROBABILITY, made_on))
    return specs


def _outputs_with_slice_use(
    sample: Sample, image: Volume, image_name: str, recipes: Sequence[Recipe]
) -> list[VolumeSpec]:
    """Return the volumes to write; they record which slices the models were trained on."""
    raw = sample.image("raw")
    use = combined(matched_use(recipe.training.get("slices"), raw) for recipe in recipes)
    record = use.record() if use else None
    specs = _output_specs(recipes[0].structures, len(recipes), image, image_name)
    return [replace(spec, slice_use=record) for spec in specs]


def _replaced_volumes(sample: Sample, stage_name: str, output_paths: Sequence[str]) -> list[str]:
    """Return the volumes of an earlier run of the stage that this run does not write."""
    stage_of_volume = {}
    for entry in sample.history():
        for path in entry["outputs"]:
            stage_of_volume[path] = entry["stage"]
    earlier = {path for path, stage in stage_of_volume.items() if stage == stage_name}
    return sorted(earlier - set(output_paths))


def _needs(
    image: Volume, recipes: Sequence[Recipe], settings: PredictSettings, device: torch.device
) -> Needs:
    """Return the memory of one process and the disk space of a prediction."""
    ram = _slice_bytes(image, recipes)
    networks = 0
    # In 8 bits a network needs less memory than in bfloat16.
    precision = "bfloat16" if settings.precision == "int8" else settings.precision
    for recipe in recipes:
        networks += prediction_bytes(recipe, settings.batch, device, precision)
    specs = _output_specs(recipes[0].structures, len(recipes), image, "")
    disk = sum(spec.nbytes for spec in specs) // 4
    if settings.views > 1:
        side_ram, side_disk = side_view_bytes(image, recipes, settings)
        ram += side_ram
        disk += side_disk
    smoothing = _smoothing_of(image, recipes, settings)
    if smoothing:
        _, height, width = image.shape
        ram += 2 * smoothing.reach * height * width
        if smoothing.along_flow:
            ram += flow_smoothing_bytes(image, len(recipes[0].structures), smoothing)
        disk += sum(spec.nbytes for spec in specs if spec.kind is Kind.PROBABILITY) // 4
    if device.type == "cuda":
        advice = "use a smaller --batch, fewer --workers, or import with a smaller --block-depth"
        free, n_gpus = free_memory(device), gpus_of(settings.device)
        return Needs(ram, disk, advice, gpu=networks, gpu_free=free, n_gpus=n_gpus)
    advice = "import with a smaller --block-depth, or use fewer --workers"
    return Needs(ram + networks, disk, advice)


def _slice_bytes(image: Volume, recipes: Sequence[Recipe]) -> int:
    """Return the memory of one block, and of the slice that is predicted."""
    _, height, width = image.shape
    n_structures = len(recipes[0].structures)
    is_ensemble = len(recipes) > 1
    # A block: the image, all outputs, and their chunks.
    depth = image.block_depth + 2 * _max_adjacent_slices(recipes)
    output_bytes_per_voxel = (6 if is_ensemble else 4) * n_structures
    block = depth * height * width * (image.dtype.itemsize + output_bytes_per_voxel)
    # A slice as float32; for several models also their mean, uncertainty and entropies.
    n_planes = 2 + (6 if is_ensemble else 2) * n_structures
    planes = height * width * 4 * n_planes
    return block + planes + _largest_scaled_size(image, recipes) * 8 * (1 + n_structures)


def _largest_scaled_size(image: Volume, recipes: Sequence[Recipe]) -> int:
    """Return the pixels of a slice at the finest scale of the networks."""
    scaled_sizes = []
    for recipe in recipes:
        factors = recipe.factors(image.voxel_size)
        scaled_y, scaled_x = scaled_shape((image.shape[1], image.shape[2]), factors)
        scaled_sizes.append(scaled_y * scaled_x)
    return max(scaled_sizes)


def _predict_block(
    block: ZBlock,
    image: Volume,
    models: Sequence[Path],
    settings: PredictSettings,
    sides: SideViews | None,
) -> BlockResult:
    """Return the outputs of one block; there is no summary."""
    voxels = image.read(block.read)
    structures, probabilities, uncertainties = _predict_slices(
        voxels, image.voxel_size, models, settings, block.inner
    )
    if sides is not None:
        probabilities = _with_side_views(probabilities, structures, block, sides)
    arrays: dict[str, NDArray[Any]] = {}
    for channel, name in enumerate(structures):
        arrays |= _arrays_of_structure(name, probabilities[channel])
        if uncertainties is not None:
            arrays[f"probabilities/{name}{UNCERTAINTY}"] = uncertainties[channel]
    return arrays, {}


def _predict_link(
    block: ZBlock,
    _previous: None,
    image: Volume,
    models: Sequence[Path],
    settings: PredictSettings,
) -> Arrays:
    """Return the probabilities and uncertainties of one block, before they are smoothed."""
    voxels = image.read(block.read)
    _, probabilities, uncertainties = _predict_slices(
        voxels, image.voxel_size, models, settings, block.inner
    )
    arrays: dict[str, NDArray[np.uint8]] = {}
    for channel, probability in enumerate(probabilities):
        arrays[f"{PROBABILITY}{channel}"] = probability
        if uncertainties is not None:
            arrays[f"{UNCERTAIN}{channel}"] = uncertainties[channel]
    return arrays


def _smooth_block(
    block: ZBlock,
    slices: PredictedSlices,
    structures: Sequence[str],
    is_ensemble: bool,
    smoothing: Smoothing,
    flow_image: FlowImage | None,
) -> BlockResult:
    """Return the outputs of one block, smoothed; there is no summary."""
    stored = {name: f"{PROBABILITY}{channel}" for channel, name in enumerate(structures)}
    smoothed = smoothed_structures(structures)
    names = [stored.pop(name) for name in smoothed]
    probabilities = _smooth_probabilities(block, slices, names, smoothing, flow_image)
    arrays: dict[str, NDArray[Any]] = {}
    for name, probability in zip(smoothed, probabilities, strict=True):
        arrays |= _arrays_of_structure(name, probability)
    for name, of_slices in stored.items():
        arrays |= _arrays_of_structure(name, slices.read(of_slices, block.start, block.stop))
    if is_ensemble:
        for channel, name in enumerate(structures):
            uncertainty = slices.read(f"{UNCERTAIN}{channel}", block.start, block.stop)
            arrays[f"probabilities/{name}{UNCERTAINTY}"] = uncertainty
    return arrays, {}


def _smooth_probabilities(
    block: ZBlock,
    slices: PredictedSlices,
    names: Sequence[str],
    smoothing: Smoothing,
    flow_image: FlowImage | None,
) -> list[NDArray[np.uint8]]:
    """Return the smoothed slices of a block, for every name of predicted probabilities."""
    first = max(0, block.start - smoothing.reach)
    stop = block.stop + smoothing.reach
    own_slices = slice(block.start - first, block.stop - first)
    volumes = (slices.read(name, first, stop) for name in names)
    if flow_image is None:
        return [smooth_slices(volume, own_slices, smoothing) for volume in volumes]
    flows = flow_image.flows(first, stop)
    return smooth_along_flow(list(volumes), own_slices, flows, smoothing)


def _with_side_views(
    probabilities: NDArray[np.uint8],
    structures: Sequence[str],
    block: ZBlock,
    sides: SideViews,
) -> NDArray[np.uint8]:
    """Return probabilities (structures, z, y, x) of a block, combined with those of side views."""
    views = [probabilities]
    for axis in AXES:
        views.append(np.empty_like(probabilities))
        sides.read(axis, block, views[-1])
    return combine_views(structures, views)


def _predict_slices(
    voxels: NDArray[Any],
    voxel_size: VoxelSize,
    models: Sequence[Path],
    settings: PredictSettings,
    own_slices: slice,
) -> tuple[tuple[str, ...], NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Return structures, and the probabilities and uncertainties of slices, as stored.

    Both are (structures, z, y, x); there is no uncertainty of one model. The arguments are those of
    ``predict_voxels``.
    """
    if len(models) == 1:
        return *predict_quantized(voxels, voxel_size, models[0], settings, own_slices), None
    structures, predictions = predict_voxels(voxels, voxel_size, models, (), settings, own_slices)
    n_slices = len(range(*own_slices.indices(len(voxels))))
    shape = (len(structures), n_slices, *voxels.shape[1:])
    probabilities, uncertainties = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    for z, prediction in enumerate(predictions):
        probabilities[:, z] = quantize_probability(prediction.mean)
        if prediction.uncertainty is not None:
            uncertainties[:, z] = quantize_probability(prediction.uncertainty)
    return structures, probabilities, uncertainties


def _arrays_of_structure(name: str, probability: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return the probability of a structure and its labels, by path."""
    labels = (probability >= FOREGROUND).view(np.uint8)
    return {f"probabilities/{name}": probability, f"labels/{name}": labels}


def predict_slice(
    image: Volume,
    z: int,
    models: Sequence[Path],
    settings: PredictSettings,
    structures: Sequence[str] = (),
) -> tuple[tuple[str, ...], EnsemblePrediction]:
    """Predict one slice with one or several models; nothing is written.

    Args:
        image: the image.
        z: number of the slice.
        models: checkpoints with the same structures.
        settings: settings of the prediction.
        structures: structures to return; all of the first model if empty.

    Returns:
        The structures, and their prediction (C, y, x).
    """
    halo = _max_adjacent_slices([recipe for _, recipe in load_networks(models, settings)])
    first = max(0, z - halo)
    stop = min(image.shape[0], z + halo + 1)
    voxels = image.read(slice(first, stop))
    own_slices = slice(z - first, z - first + 1)
    names, predictions = predict_voxels(
        voxels, image.voxel_size, models, structures, settings, own_slices
    )
    return names, next(predictions)
