"""The stage ``denoise``: an image without its noise.

The noise is removed by a network that is trained on the sample itself (Noise2Void), or without
training (non-local means). Slices are (y, x) uint8 or uint16; black, 0, is what the microscope did
not image, and stays black.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import ZBlock
from sparsem.preprocess.nonlocal_means import denoise_nonlocal_means
from sparsem.preprocess.settings import DenoiseSettings
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import CHUNK_YX, Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import ImageResult
from sparsem.workflow.stage import Arrays, BlockResult, Stage, earlier_setting, link_arrays

if TYPE_CHECKING:
    import torch

    from sparsem.preprocess.noise2void import DenoiserTraining

UPDATES_PER_PART = 25  # between two saved states, and between two signs of progress
BOXES_PER_PART = 8  # of the image, from which the patches of a part of the training come
BOX_SHAPE = (16, CHUNK_YX, CHUNK_YX)  # (z, y, x), as large as the chunks of an image usually are
# Bytes: torch, CAREamics, and a batch or a tile on its way through the network.
NETWORK_BYTES = 1_500_000_000
GPU_BYTES = 1_000_000_000  # the same without the libraries
NONLOCAL_MEANS_BYTES_PER_PIXEL = 60  # of the slice that is denoised


# Settings that have an effect with one method only.
NLM_FIELDS = ("strength",)
N2V_FIELDS = ("updates", "batch", "learning_rate", "seed", "precision", "device")


@dataclass(frozen=True)
class TrainingPart:
    """Updates of a training that are computed together.

    Attributes:
        updates: their numbers.
        boxes: slices (z, y, x) of the image from which the patches come.
    """

    updates: range
    boxes: tuple[tuple[slice, slice, slice], ...]


def denoise(
    sample: Sample, settings: DenoiseSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> ImageResult:
    """Write ``images/OUT``, the image without its noise.

    Pixels keep their positions: annotations made on the image hold for it. The network of
    Noise2Void is trained part by part on chunks of the image, and a part that is finished is not
    computed again; then every block is denoised.

    Args:
        sample: its image is read block by block.
        settings: the method and its parameters.
        on: how the work is distributed; a training runs in this process, or on one worker of a
            scheduler.
        **changes: fields of the settings to replace.

    Raises:
        InputError: CAREamics is not installed, or slices are smaller than a patch.
        ResumeError: the image was denoised with other settings, and ``on.overwrite`` is not set.
        SettingsError: there is no such device.
    """
    settings = resolve_settings(DenoiseSettings, settings, changes)
    name = sample.image_for(settings.out, settings.image)
    image = sample.image(name)
    uses_network = settings.method == "n2v"
    stage_name = f"denoise-{settings.out}"
    device = None
    if uses_network:
        from sparsem.models.device import resolve_precision

        device = _network_device(image, settings)
        earlier = earlier_setting(sample, stage_name, "precision", on.overwrite)
        precision = resolve_precision(device, settings.precision, earlier)
        settings = changed(settings, {"precision": precision})
    spec = image.like(f"images/{settings.out}", image.dtype, Kind.IMAGE, (name, image.fingerprint))
    needs = _denoising_needs(image, spec.nbytes, device)
    recorded = _recorded_settings(changed(settings, {"image": name}))
    inputs = {"image": image.fingerprint}
    with Stage(sample, stage_name, recorded, inputs, [spec], on, needs) as stage:
        parts = _training_parts(image, settings) if uses_network else []
        folder = stage.chain(
            f"{stage.name}, training", _train_link, {"n2v": parts}, image, settings, in_process=True
        )
        network = (folder, len(parts) - 1) if uses_network else None
        stage.map(_denoise_block, image.blocks(), image, spec.path, settings, network)
    written = (f"images/{settings.out}",)
    return ImageResult(settings.out, sample=sample, written=written)


def _network_device(image: Volume, settings: DenoiseSettings) -> "torch.device":
    """Check that a network can be trained, and return its device.

    Raises:
        InputError: CAREamics is not installed, or slices are smaller than a patch.
        SettingsError: there is no such device.
    """
    from sparsem.models.device import choose_device
    from sparsem.preprocess.noise2void import require_careamics, require_patch_size

    require_careamics()
    require_patch_size(image.shape)
    return choose_device(settings.device)


def _denoising_needs(image: Volume, disk: int, device: "torch.device | None") -> Needs:
    """Return memory and disk of a run.

    Args:
        image: to denoise.
        disk: bytes of the result.
        device: of the network; None without one.
    """
    plane = image.shape[1] * image.shape[2]
    method_bytes = NETWORK_BYTES if device else NONLOCAL_MEANS_BYTES_PER_PIXEL * plane
    ram = 3 * plane * image.dtype.itemsize * image.block_depth + method_bytes
    smaller = "import with a smaller --block-depth, or use fewer --workers"
    if device and device.type == "cuda":
        from sparsem.models.device import free_memory

        return Needs(ram, disk, smaller, gpu=GPU_BYTES, gpu_free=free_memory(device))
    return Needs(ram, disk, smaller)


def _recorded_settings(settings: DenoiseSettings) -> DenoiseSettings:
    """Return the settings that determine the result.

    The device is the one that is chosen here; settings of the other method have their defaults.
    """
    unused_fields = NLM_FIELDS if settings.method == "n2v" else N2V_FIELDS
    changes: dict[str, Any] = {"device": "cpu"}
    if settings.method == "n2v":
        from sparsem.models.device import choose_device

        changes["device"] = choose_device(settings.device).type
    for key in unused_fields:
        changes[key] = DenoiseSettings.model_fields[key].default
    return changed(settings, changes)


def _training_parts(image: Volume, settings: DenoiseSettings) -> list[TrainingPart]:
    """Return the whole training; boxes are drawn at random, each as large as a chunk."""
    parts = []
    for start in range(0, settings.updates, UPDATES_PER_PART):
        updates = range(start, min(start + UPDATES_PER_PART, settings.updates))
        random = np.random.default_rng([settings.seed, start, 1])
        parts.append(TrainingPart(updates, _draw_boxes(image, random)))
    return parts


def _draw_boxes(
    image: Volume, random: np.random.Generator
) -> tuple[tuple[slice, slice, slice], ...]:
    """Return boxes of an image, each as large as a chunk."""
    boxes = []
    for _ in range(BOXES_PER_PART):
        # The order of the draws is part of the result.
        z, y, x = (
            _draw_chunk(length, edge, random)
            for length, edge in zip(image.shape, BOX_SHAPE, strict=True)
        )
        boxes.append((z, y, x))
    return tuple(boxes)


def _draw_chunk(length: int, edge: int, random: np.random.Generator) -> slice:
    """Return the voxels of a random chunk along one axis."""
    n_chunks = -(-length // edge)
    corner = int(random.integers(n_chunks)) * edge
    # A chunk at the border may be smaller than a patch: the box includes what lies before.
    start = max(0, min(corner, length - edge))
    return slice(start, start + edge)


def _train_link(
    part: TrainingPart,
    previous: Mapping[str, NDArray[Any]] | None,
    image: Volume,
    settings: DenoiseSettings,
) -> Arrays:
    """Compute one part of the training, a link of a chain of the stage.

    Args:
        part: of the training.
        previous: arrays that the link before returned; None for the first.
        image: is read.
        settings: parameters of the training.

    Returns:
        The state of the training as ``state-NAME``, and the loss; with the last part also the
        network.
    """
    from sparsem.preprocess.noise2void import patch_sampler, train_part

    patches = patch_sampler([image.lazy(0)[box] for box in part.boxes])
    state = _training_state(previous) if previous else None
    training = _training_parameters(settings)
    new_state, loss = train_part(patches, state, part.updates, training)
    arrays: dict[str, NDArray[Any]] = {}
    for name, array in new_state.items():
        arrays[f"state-{name}"] = array
    if part.updates.stop == settings.updates:
        arrays["network"] = new_state["network"]
    arrays["loss"] = np.array([loss])
    return arrays


def _training_state(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the state of a training from the arrays of a link."""
    return {name.removeprefix("state-"): array for name, array in arrays.items()}


def _training_parameters(settings: DenoiseSettings) -> "DenoiserTraining":
    """Return the parameters of the training of the network."""
    from sparsem.models.device import choose_device
    from sparsem.preprocess.noise2void import DenoiserTraining

    return DenoiserTraining(
        updates=settings.updates,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        device=choose_device(settings.device),
        precision=settings.precision,
    )


def _denoise_block(
    block: ZBlock,
    image: Volume,
    path: str,
    settings: DenoiseSettings,
    network: tuple[Path, int] | None,
) -> BlockResult:
    """Denoise the slices of a block.

    Args:
        block: of slices.
        image: is read.
        path: of the denoised image in the sample.
        settings: the method and its parameters.
        network: folder of the training and number of its last link; None for non-local means.
    """
    slices = image.read(block.own)
    if network is None:
        denoised = [denoise_nonlocal_means(voxels, settings.strength) for voxels in slices]
    else:
        denoised = _denoise_by_network(slices, settings, *network)
    return {path: np.stack(denoised)}, {}


def _denoise_by_network(
    slices: NDArray[Any], settings: DenoiseSettings, folder: Path, last_link: int
) -> list[NDArray[Any]]:
    """Return slices without noise, by the network of a training."""
    from sparsem.models.device import choose_device
    from sparsem.preprocess.noise2void import denoise_slice, load_network

    device = choose_device(settings.device)
    content = np.asarray(link_arrays(folder, "n2v", last_link)["network"][...])
    network, levels = load_network(content, device)
    return [denoise_slice(voxels, network, levels, device, settings.precision) for voxels in slices]
