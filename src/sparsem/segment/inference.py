"""Inference on whole slices: tiles are cut, computed in batches, and blended (paper 3.5).

A slice is shrunk once to the network's scale, cut there into overlapping tiles, blended under a
tapered cosine window, and enlarged once. Tiles of several slices share a batch, so that small
slices fill a GPU too. Images are (y, x) of any real dtype; probabilities (C, y, x) float32 in 0..1.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sparsem.compiled import compiled
from sparsem.models.architectures import LOCAL_ARCHITECTURES
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import autocast, keep_freed_memory
from sparsem.models.engine import Tiles, compile_network
from sparsem.models.quantization import Ranges
from sparsem.segment.tiles import (
    Probability,
    TileGrid,
    enlarge,
    is_larger,
    scaled_shape,
    shrink,
)
from sparsem.settings import Precision, PredictPrecision

T = TypeVar("T")

# Edge of the tiles that a network computes, in edges of the tiles of its training.
GROWTH = 2
Forward = Callable[[Tiles], Tiles]  # (B, K, S, S) standardized -> (B, C, S, S) probabilities


def predict_slices(
    slices: Iterable[NDArray[Any]],
    forward: Forward,
    recipe: Recipe,
    factors: tuple[float, float],
    overlap: float,
    batch: int,
    prefetch: int = 0,
    own_slices: slice = slice(None),
) -> Iterator[Probability]:
    """Yield the probabilities (C, y, x) float32 of one slice after another.

    All slices are written into one array: copy what has to outlast the next slice. New memory for
    every slice takes longer than its values. The arguments are those of ``predict_scaled``.
    """
    images = iter(slices)
    first = next(images, None)
    if first is None:
        return
    shape = (first.shape[0], first.shape[1])
    maps = predict_scaled(
        chain([first], images), forward, recipe, factors, overlap, batch, prefetch, own_slices
    )
    yield from enlarge_slices(maps, shape)


def enlarge_slices(maps: Iterable[Probability], shape: tuple[int, int]) -> Iterator[Probability]:
    """Yield the maps (C, y, x) of slices at the shape (y, x) of a slice, all in one array."""
    enlarged: Probability | None = None
    for probability in maps:
        enlarged = enlarge(probability, shape, enlarged)
        yield enlarged


def predict_scaled(
    slices: Iterable[NDArray[Any]],
    forward: Forward,
    recipe: Recipe,
    factors: tuple[float, float],
    overlap: float,
    batch: int,
    prefetch: int = 0,
    own_slices: slice = slice(None),
) -> Iterator[Probability]:
    """Yield the probabilities (C, y, x) float32 of slices at the scale of the network.

    Args:
        slices: images (y, x) of one shape.
        forward: the network.
        recipe: its tile size, adjacent slices, and the gray levels that it was trained on.
        factors: slice pixels per network pixel, (y, x).
        overlap: overlap of adjacent tiles, 0 to 0.5 of a tile of the training.
        batch: tiles of the training in one call of ``forward``, across slices; see ``plan_tiles``.
        prefetch: number of slices by which cutting runs ahead of the network, and the network
            ahead of blending, each in its own thread. This keeps a GPU busy; a network on the CPU
            needs the cores for itself (measured: a third slower).
        own_slices: the slices to predict; the others only serve as adjacent slices.
    """
    images = iter(slices)
    first = next(images, None)
    if first is None:
        return
    shape = (first.shape[0], first.shape[1])
    grid, batch = plan_tiles(recipe, shape, factors, overlap, batch)
    standardized = _standardize(chain([first], images), recipe, factors)
    tiles_of_slices = (grid.cut(image) for image in standardized)  # (N, S, S) each
    windows = slice_windows(tiles_of_slices, recipe.adjacent_slices)
    own_windows = islice(windows, own_slices.start, own_slices.stop)
    inputs = (_join_window(window) for window in own_windows)  # (N, K, S, S) each
    outputs = _in_batches(prefetch_in_thread(inputs, prefetch), forward, batch, len(grid.corners))
    for probabilities in prefetch_in_thread(outputs, prefetch):
        yield grid.blend(probabilities)


def plan_tiles(
    recipe: Recipe,
    shape: tuple[int, int],
    factors: tuple[float, float],
    overlap: float,
    batch: int,
) -> tuple[TileGrid, int]:
    """Return the tiles of a slice that a network computes, and how many of them make a batch.

    A network that only looks near each pixel computes tiles ``GROWTH`` times as long as in its
    training, of which less is overlap; as many pixels make a batch.

    Args:
        recipe: the network.
        shape: (y, x) of the slice.
        factors: slice pixels per network pixel, (y, x).
        overlap: overlap of adjacent tiles, as a fraction of a tile of the training.
        batch: tiles of the training in a batch.
    """
    scaled = scaled_shape(shape, factors)
    is_local = recipe.architecture in LOCAL_ARCHITECTURES
    growth = GROWTH if is_local and min(scaled) >= GROWTH * recipe.input_px else 1
    overlap_px = round(overlap * recipe.input_px)
    grid = TileGrid(scaled, growth * recipe.input_px, overlap_px)
    return grid, max(1, batch // growth**2)


def _standardize(
    images: Iterable[NDArray[Any]], recipe: Recipe, factors: tuple[float, float]
) -> Iterator[NDArray[np.float32]]:
    """Yield the images at the network's scale, with the mean and deviation of its training."""
    mean = np.float32(recipe.mean)
    std = np.float32(recipe.std)
    for image in images:
        yield (shrink(image, factors) - mean) / std


def _join_window(window: list[Tiles]) -> Tiles:
    """Join the tiles (N, S, S) of K adjacent slices to (N, K, S, S)."""
    if len(window) == 1:
        return window[0][:, None]  # without a copy
    return np.stack(window, axis=1)


def _in_batches(
    inputs: Iterable[Tiles], forward: Forward, batch: int, tiles_per_slice: int
) -> Iterator[list[Tiles]]:
    """Yield the network outputs (C, S, S) of one slice after another.

    They are computed ``batch`` tiles at a time, whatever slice the tiles belong to.
    """
    batches = _Batches(forward, batch)
    for tiles_of_slice in inputs:
        for tile in tiles_of_slice:
            batches.add(tile)
        while len(batches.waiting) >= batch:
            batches.compute()
        yield from batches.complete_slices(tiles_per_slice)
    if batches.waiting:
        batches.compute()
    yield from batches.complete_slices(tiles_per_slice)


class _Batches:
    """Tiles on their way through a network.

    Tiles without content, as in padding and masked resin, are equal, and are computed once.

    Attributes:
        waiting: tiles (K, S, S) that are not computed yet, by number.
    """

    def __init__(self, forward: Forward, batch: int) -> None:
        self.waiting: dict[int, Tiles] = {}
        self._forward = forward
        self._batch = batch
        self._buffer: Tiles | None = None
        self._order: deque[int] = deque()  # numbers of the tiles of slices that are not complete
        self._outputs: dict[int, Tiles] = {}  # (C, S, S), by number
        self._blank: dict[bytes, int] = {}  # numbers of the tiles without content
        self._count = 0

    def add(self, tile: Tiles) -> None:
        """Add a tile (K, S, S) of a slice."""
        values = tile[:, :1, :1]
        is_blank = bool((tile[:, -1:, -1:] == values).all()) and bool((tile == values).all())
        key = values.tobytes()
        number = self._blank.get(key) if is_blank else None
        if number is None:
            number = self._count
            self._count += 1
            self.waiting[number] = tile
            if is_blank:
                self._blank[key] = number
        self._order.append(number)

    def compute(self) -> None:
        """Compute the tiles that wait, at most a batch of them."""
        numbers = list(islice(self.waiting, self._batch))
        tiles = [self.waiting.pop(number) for number in numbers]
        if self._buffer is None:
            self._buffer = np.zeros((self._batch, *tiles[0].shape), np.float32)
        # Always a full batch: the shape of a batch decides which kernels run, and with them the
        # last bits of a sum.
        np.stack(tiles, out=self._buffer[: len(tiles)])
        self._outputs.update(zip(numbers, self._forward(self._buffer), strict=False))

    def complete_slices(self, tiles_per_slice: int) -> Iterator[list[Tiles]]:
        """Yield the outputs of the slices that are complete, and forget them."""
        while len(self._order) >= tiles_per_slice:
            numbers = list(islice(self._order, tiles_per_slice))
            if not all(number in self._outputs for number in numbers):
                return
            yield [self._outputs[number] for number in numbers]
            for number in numbers:
                self._order.popleft()
                if number not in self._blank.values():
                    self._outputs.pop(number, None)


def slice_windows(items: Iterable[T], adjacent: int) -> Iterator[list[T]]:
    """Yield every item in the middle of its ``adjacent`` items before and after it.

    Beyond the ends the first and the last item are repeated.
    """
    window: deque[T] = deque(maxlen=2 * adjacent + 1)
    for item in items:
        if not window:
            window.extend([item] * adjacent)
        window.append(item)
        if len(window) == window.maxlen:
            yield list(window)
    for _ in range(adjacent if window else 0):
        window.append(window[-1])
        if len(window) == window.maxlen:
            yield list(window)


def prefetch_in_thread(items: Iterator[T], depth: int) -> Iterator[T]:
    """Yield the same items in the same order, computed in a thread.

    The thread is at most ``depth`` items ahead; with 0 there is no thread.
    """
    if not depth:
        yield from items
        return
    end = object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield cast(T, item)


def quantize_probability(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return round(255 p), half up, so that p = 0.5 becomes 128: foreground, as in the paper."""
    quantized = np.empty(probability.shape, np.uint8)
    _quantize(np.ascontiguousarray(probability).reshape(-1), quantized.reshape(-1))
    return quantized


@compiled()
def _quantize(probability: Any, quantized: Any) -> None:
    for index in range(len(probability)):
        quantized[index] = np.uint8(probability[index] * np.float32(255) + np.float32(0.5))


def quantize_enlarged(probability: Probability, quantized: NDArray[np.uint8]) -> None:
    """Compute ``quantize_probability(enlarge(probability, shape))``, but for roundings.

    The full-size probabilities in 32 bits, of which a slice of 24 megapixels has half a gigabyte
    for five structures, are never in memory.

    Args:
        probability: (C, y, x) at the scale of the network.
        quantized: (C, y, x) of the slice, overwritten.
    """
    old, new = probability.shape[1:], quantized.shape[1:]
    if not is_larger(new, old):
        quantized[:] = quantize_probability(enlarge(probability, (new[0], new[1])))
        return
    rows, columns = _neighbors(old[0], new[0]), _neighbors(old[1], new[1])
    n_threads = torch.get_num_threads()  # those of the network, which waits meanwhile

    def fill(number: int) -> None:
        part = slice(number * new[0] // n_threads, (number + 1) * new[0] // n_threads)
        rows_of_part = [values[part] for values in rows]
        for channel, enlarged in zip(probability, quantized, strict=True):
            _enlarge_and_quantize(channel, *rows_of_part, *columns, enlarged[part])

    with ThreadPoolExecutor(n_threads) as pool:
        list(pool.map(fill, range(n_threads)))


def _neighbors(
    old: int, new: int
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    """Return the two pixels between which each of ``new`` pixels lies, and the part of the second.

    Pixels are areas, as for OpenCV: those of the old axis are ``new / old`` times as long.
    """
    positions = (np.arange(new) + 0.5) * (old / new) - 0.5
    positions = np.clip(positions, 0, old - 1)
    before = positions.astype(np.int32)
    after = np.minimum(before + 1, old - 1).astype(np.int32)
    return before, after, (positions - before).astype(np.float32)


@compiled()
def _enlarge_and_quantize(
    probability: Any,
    above: Any,
    below: Any,
    part_below: Any,
    left: Any,
    right: Any,
    part_right: Any,
    quantized: Any,
) -> None:
    rows, columns = quantized.shape
    between = np.empty(probability.shape[1], np.float32)  # an interpolated row, times 255
    for y in range(rows):
        upper, lower, part = probability[above[y]], probability[below[y]], part_below[y]
        for x in range(len(between)):
            value = upper[x] + (lower[x] - upper[x]) * part
            between[x] = value * np.float32(255) + np.float32(0.5)
        for x in range(columns):
            first = between[left[x]]
            quantized[y, x] = np.uint8(first + (between[right[x]] - first) * part_right[x])


def make_compiled_forward(
    network: nn.Module, precision: PredictPrecision, ranges: Ranges
) -> Forward:
    """Return a network on the CPU, which is compiled for every shape of its tiles.

    Args:
        network: the network.
        precision: float32, bfloat16 or int8.
        ranges: for int8, see ``compile_network``.

    Raises:
        SettingsError: it cannot be compiled, see ``compile_network``.
    """
    keep_freed_memory()
    compiled: dict[tuple[int, ...], Forward] = {}

    def forward(tiles: Tiles) -> Tiles:
        batch, inputs, rows, columns = tiles.shape
        shape = (batch, inputs, rows, columns)
        if shape not in compiled:  # slices of another view may have tiles of another size
            compiled[shape] = compile_network(network, shape, precision, ranges)
        return compiled[shape](tiles)

    return forward


def make_forward(network: nn.Module, device: torch.device, precision: Precision) -> Forward:
    """Return a network as a function of numpy arrays.

    It takes tiles (B, K, S, S) and returns probabilities (B, C, S, S).
    """
    keep_freed_memory()
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = network.eval()

    @torch.inference_mode()
    def forward(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        images = torch.from_numpy(tiles).to(device).contiguous(memory_format=torch.channels_last)
        with autocast(device, precision):
            logits = network(images)
        probabilities: NDArray[np.float32] = logits.float().sigmoid().cpu().numpy()
        return probabilities

    return forward


def average_over_flips(forward: Forward) -> Forward:
    """Return a network that averages over each tile as it is and its three mirror images.

    These are flipped vertically, horizontally, and both.
    """

    def average(tiles: Tiles) -> Tiles:
        outputs = []
        for axes in ((), (2,), (3,), (2, 3)):
            flipped = np.ascontiguousarray(np.flip(tiles, axes))
            outputs.append(np.flip(forward(flipped), axes))
        return np.asarray(np.mean(outputs, axis=0, dtype=np.float32))

    return average
