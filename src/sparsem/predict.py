"""Prediction: a slice -> probabilities; a stack -> probabilities and labels, in bounded memory (paper 3.5).

A slice is shrunk once to the network's scale, tiled there with overlap, blended under a tapered cosine window, and enlarged
once. Tiles of several slices share a batch, so that small slices fill a GPU too. Images are (y, x) of any real dtype;
probabilities (C, y, x) float32 in 0..1, on disk uint8 round(255 p), where foreground is >= 128.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from sparsem.execution import HERE, Execution, Needs
from sparsem.geometry import ZBlock
from sparsem.models.checkpoint import Recipe, load_checkpoint
from sparsem.models.device import Precision, autocast, choose_device, free_memory, keep_freed_memory, resolved
from sparsem.progress import tell
from sparsem.settings import Settings
from sparsem.stage import BlockResult, Stage
from sparsem.store.sample import Sample
from sparsem.store.volume import FOREGROUND, Kind, Volume, VolumeSpec
from sparsem.tiles.context import Probability, TileGrid, enlarge, scaled_shape, shrink

GREY_SLICES = 3  # whose grey levels are compared with those that were learnt
FURTHEST_MEAN, MOST_CONTRAST = 1.5, 2.5  # standard deviations off, and times the contrast, that are not told

T = TypeVar("T")

Tiles = NDArray[np.float32]
Forward = Callable[[Tiles], Tiles]  # (B, K, S, S) standardised -> (B, C, S, S) probabilities


class PredictSettings(Settings):
    """How a stack is predicted."""

    overlap: float = Field(0.25, ge=0, le=0.5, description="least overlap of neighbouring tiles, as part of a tile")
    flips: bool = Field(False, description="see every tile in four mirror images and take the mean: four times as long")
    batch: int = Field(16, ge=1, description="tiles at once; changes the speed and the memory, not the result")
    precision: Precision = Field("auto", description="auto: bfloat16 where the processor computes it fast")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    image: str | None = Field(None, description="image to predict; the newest one if not given")


def predict_slices(
    slices: Iterable[NDArray[Any]],
    forward: Forward,
    recipe: Recipe,
    factors: tuple[float, float],
    overlap: float,
    batch: int,
    prefetch: int = 0,
    own: slice = slice(None),
) -> Iterator[Probability]:
    """Probabilities (C, y, x) float32 of one slice after another.

    Args:
        slices: (y, x) images of one shape.
        forward: the network.
        recipe: its tile size and the grey levels that it was trained on.
        factors: slice pixels per network pixel, (y, x).
        overlap: of neighbouring tiles, 0 to 0.5 of a tile.
        batch: tiles in one call of ``forward``, across slices.
        prefetch: slices by which cutting runs ahead of the network, and the network ahead of blending, each in a thread of its
            own. It keeps a GPU busy; a network on the CPU wants the cores for itself (measured: a third slower).
        own: which of the slices to predict; the others are only seen, by a network that sees the neighbours of a slice.
    """
    images = iter(slices)
    first = next(images, None)
    if first is None:
        return
    shape = (first.shape[0], first.shape[1])
    grid = TileGrid(scaled_shape(shape, factors), recipe.see, round(overlap * recipe.see))
    standardised = ((shrink(image, factors) - np.float32(recipe.mean)) / np.float32(recipe.std) for image in chain([first], images))
    windows = in_context((grid.cut(image) for image in standardised), recipe.neighbours)
    chosen = islice(windows, own.start, own.stop)
    cut = (np.stack(window, axis=1) if recipe.neighbours else window[0][:, None] for window in chosen)  # (N, K, S, S)
    outputs = _in_batches(ahead(cut, prefetch), forward, batch, len(grid.corners))
    for tiles in ahead(outputs, prefetch):
        yield enlarge(grid.blend(tiles), shape)


def _in_batches(cut: Iterable[Tiles], forward: Forward, batch: int, tiles_a_slice: int) -> Iterator[list[Tiles]]:
    """Network outputs (C, S, S) of one slice after another, computed ``batch`` tiles at a time whatever slice they are of."""
    waiting: list[Tiles] = []  # tiles (K, S, S) that no call has taken yet
    ready: list[Tiles] = []  # outputs (C, S, S) of slices that are not complete
    inputs: Tiles | None = None

    def compute() -> None:
        nonlocal inputs
        taken = waiting[:batch]
        if inputs is None:
            inputs = np.zeros((batch, *taken[0].shape), np.float32)
        # Always a full batch: kernels, and with them the last bits of a sum, are chosen by the shape of a batch.
        np.stack(taken, out=inputs[: len(taken)])
        ready.extend(forward(inputs)[: len(taken)])
        del waiting[:batch]

    def complete() -> Iterator[list[Tiles]]:
        while len(ready) >= tiles_a_slice:
            yield ready[:tiles_a_slice]
            del ready[:tiles_a_slice]

    for tiles in cut:
        waiting.extend(tiles)
        while len(waiting) >= batch:
            compute()
        yield from complete()
    if waiting:
        compute()
    yield from complete()


def in_context(items: Iterable[T], neighbours: int) -> Iterator[list[T]]:
    """Every item in the middle of its neighbours; the first and the last stand in for those beyond them."""
    window: deque[T] = deque(maxlen=2 * neighbours + 1)
    for item in items:
        if not window:
            window.extend([item] * neighbours)
        window.append(item)
        if len(window) == window.maxlen:
            yield list(window)
    for _ in range(neighbours if window else 0):
        window.append(window[-1])
        if len(window) == window.maxlen:
            yield list(window)


def ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The same items in the same order, made in a thread of their own, at most ``depth`` ahead of who takes them; 0: no thread."""
    if not depth:
        yield from items
        return
    end = object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield cast(T, item)


def quantised(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """round(255 p), half up, so that p = 0.5 becomes 128: foreground, as in the paper."""
    return (probability * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def forward_on(network: nn.Module, device: torch.device, precision: Precision) -> Forward:
    """The network as a function of numpy arrays: tiles (B, K, S, S) -> probabilities (B, C, S, S)."""
    keep_freed_memory()
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @torch.inference_mode()
    def forward(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        images = torch.from_numpy(tiles).to(device).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits = network(images)
        probabilities: NDArray[np.float32] = logits.float().sigmoid().cpu().numpy()
        return probabilities

    return forward


def mirrored_mean(forward: Forward) -> Forward:
    """A network that sees each tile as it is, upside down, left to right, and both, and says the mean."""

    def mean(tiles: Tiles) -> Tiles:
        ways = ((), (2,), (3,), (2, 3))
        found = [np.flip(forward(np.ascontiguousarray(np.flip(tiles, axes))), axes) for axes in ways]
        return np.asarray(np.mean(found, axis=0, dtype=np.float32))

    return mean


def predict(sample: Sample, model: str | Path, settings: PredictSettings = PredictSettings(), on: Execution = HERE) -> list[str]:
    """Write ``probabilities/NAME`` and ``labels/NAME`` for every structure that the model knows.

    The model sees the nm per pixel that it was trained at, whatever the voxel size of the sample.

    Args:
        sample: its image is read block by block; never more than a block is in memory.
        model: a checkpoint.
        settings: overlap, batch, precision, device, image.
        on: how the work is spread; blocks that are done are not done again.

    Returns:
        The paths of the volumes in the sample.

    Raises:
        InputError: the model file is missing or damaged.
        ResumeError: there are results of another model or other settings, and ``on.overwrite`` is not set.
        ResourceError: a block does not fit into memory.
    """
    model = Path(model).resolve()
    _, recipe = load_checkpoint(model)
    image_name = settings.image or sample.newest_image
    image = sample.image(image_name)
    outputs = [spec for name in recipe.structures for spec in _outputs(name, image, image_name)]
    inputs = {"image": image.fingerprint, "model": hash_of(model)}
    name = f"predict-{'-'.join(recipe.structures)}"
    with Stage(sample, name, _lasting(settings), inputs, outputs, on, _needs(image, recipe, settings)) as stage:
        if not stage.finished:
            _tell_other_grey(image, recipe, model.name, on.quiet)
        stage.map(_predict_block, image.blocks(halo=recipe.neighbours), image, model, settings)
    return [output.path for output in outputs]


def _tell_other_grey(image: Volume, recipe: Recipe, model: str, quiet: bool) -> None:
    """A network finds little in slices much darker, brighter or flatter than those that it learnt from."""
    y, x = (1.01 * nm for nm in recipe.pixel_nm)
    sizes = {level: image.voxel_size_of(level) for level in range(image.levels)}
    seen = max((level for level, size in sizes.items() if size.y <= y and size.x <= x), default=0)
    count = image.level(seen).shape[0]
    inner = {round((part + 1) * (count - 1) / (GREY_SLICES + 1)) for part in range(GREY_SLICES)}  # the ends of a stack are its worst
    planes = [image.read(slice(z, z + 1), seen)[0, ::2, ::2] for z in sorted(inner)]
    grey = np.stack(planes).astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    mean, std = float(grey.mean()), float(grey.std())
    if abs(mean - recipe.mean) > FURTHEST_MEAN * recipe.std or not 1 / MOST_CONTRAST < std / recipe.std < MOST_CONTRAST:
        tell(
            f"Note: the image has grey levels of {mean:.2f} ± {std:.2f} of their range, but {model} learnt on {recipe.mean:.2f} ± "
            f"{recipe.std:.2f} and may find little; import with --grey-levels or use 'sparsem equalize', for both stacks alike.",
            quiet,
        )


def _lasting(settings: PredictSettings) -> Settings:
    """The settings that change a result, as they turn out here; another batch size may continue an interrupted run."""
    device = choose_device(settings.device)
    return settings.model_copy(update={"batch": 1, "device": device.type, "precision": resolved(device, settings.precision)})


def _outputs(structure: str, image: Volume, image_name: str) -> tuple[VolumeSpec, VolumeSpec]:
    made_on = (image_name, image.fingerprint)
    probability = image.like(f"probabilities/{structure}", np.uint8, Kind.PROBABILITY, made_on)
    return probability, image.like(f"labels/{structure}", np.uint8, Kind.LABELS, made_on)


def _needs(image: Volume, recipe: Recipe, settings: PredictSettings) -> Needs:
    _, y, x = image.shape
    factors = recipe.factors(image.voxel_size)
    small_y, small_x = scaled_shape((y, x), factors)
    structures = len(recipe.structures)
    # The image, both outputs, and their chunks.
    block = (image.block_depth + 2 * recipe.neighbours) * y * x * (image.dtype.itemsize + 4 * structures)
    working = y * x * 4 * (2 + 2 * structures) + small_y * small_x * 8 * (1 + structures)
    network = settings.batch * recipe.see**2 * recipe.width * 4 * 6
    disk = sum(spec.nbytes for name in recipe.structures for spec in _outputs(name, image, "")) // 4
    device = choose_device(settings.device)
    if device.type == "cuda":
        smaller = "use a smaller --batch, fewer --workers, or import with a smaller --block-depth"
        return Needs(block + working, disk, smaller, gpu=network, gpu_free=free_memory(device))
    return Needs(block + working + network, disk, "import with a smaller --block-depth, or use fewer --workers")


def _predict_block(block: ZBlock, image: Volume, model: Path, settings: PredictSettings) -> BlockResult:
    forward, recipe = _ready(model, settings)
    factors = recipe.factors(image.voxel_size)
    voxels = image.read(block.read)
    probabilities = np.empty((len(recipe.structures), block.stop - block.start, *voxels.shape[1:]), np.uint8)
    prefetch = 0 if choose_device(settings.device).type == "cpu" else 2
    slices = predict_slices(voxels, forward, recipe, factors, settings.overlap, settings.batch, prefetch, block.inner)
    for z, probability in enumerate(slices):
        probabilities[:, z] = quantised(probability)
    arrays: dict[str, NDArray[Any]] = {}
    for name, probability in zip(recipe.structures, probabilities, strict=True):
        arrays[f"probabilities/{name}"] = probability
        arrays[f"labels/{name}"] = (probability >= FOREGROUND).view(np.uint8)
    return arrays, {}


def probabilities_of(image: Volume, z: int, model: Path, settings: PredictSettings) -> tuple[tuple[str, ...], Probability]:
    """What a model says of one slice: the structures that it knows, and their probabilities (C, y, x) float32; nothing is written."""
    forward, recipe = _ready(model, settings)
    first, stop = max(0, z - recipe.neighbours), min(image.shape[0], z + recipe.neighbours + 1)
    voxels, own = image.read(slice(first, stop)), slice(z - first, z - first + 1)
    factors = recipe.factors(image.voxel_size)
    found = next(predict_slices(voxels, forward, recipe, factors, settings.overlap, settings.batch, 0, own))
    return recipe.structures, found


def _ready(model: Path, settings: PredictSettings) -> tuple[Forward, Recipe]:
    """The network as the settings want it."""
    forward, recipe = _loaded(model, model.stat().st_mtime_ns, settings.device, settings.precision)
    return (mirrored_mean(forward) if settings.flips else forward), recipe


@lru_cache(maxsize=1)
def _loaded(model: Path, _changed: int, device: str, precision: Precision) -> tuple[Forward, Recipe]:
    """The network of this process; blocks that follow find it loaded."""
    network, recipe = load_checkpoint(model)
    return forward_on(network, choose_device(device), precision), recipe


def hash_of(file: Path) -> str:
    """Of what a model file holds."""
    return hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
