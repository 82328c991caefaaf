"""A network on whole slices: tiles cut, computed in batches, and blended (paper 3.5).

A slice is shrunk once to the network's scale, tiled there with overlap, blended under a tapered cosine window, and enlarged
once. Tiles of several slices share a batch, so that small slices fill a GPU too. Images are (y, x) of any real dtype;
probabilities (C, y, x) float32 in 0..1.
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

from sparsem.models.checkpoint import Recipe
from sparsem.models.device import Precision, autocast, keep_freed_memory
from sparsem.segment.tiles import Probability, TileGrid, enlarge, scaled_shape, shrink

T = TypeVar("T")

Tiles = NDArray[np.float32]
Forward = Callable[[Tiles], Tiles]  # (B, K, S, S) standardized -> (B, C, S, S) probabilities


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
        recipe: its tile size and the gray levels that it was trained on.
        factors: slice pixels per network pixel, (y, x).
        overlap: of neighboring tiles, 0 to 0.5 of a tile.
        batch: tiles in one call of ``forward``, across slices.
        prefetch: slices by which cutting runs ahead of the network, and the network ahead of blending, each in a thread of its
            own. It keeps a GPU busy; a network on the CPU wants the cores for itself (measured: a third slower).
        own: which of the slices to predict; the others are only seen, by a network that sees the neighbors of a slice.
    """
    images = iter(slices)
    first = next(images, None)
    if first is None:
        return
    shape = (first.shape[0], first.shape[1])
    grid = TileGrid(scaled_shape(shape, factors), recipe.input_px, round(overlap * recipe.input_px))
    standardized = (
        (shrink(image, factors) - np.float32(recipe.mean)) / np.float32(recipe.std)
        for image in chain([first], images)
    )
    windows = slice_windows((grid.cut(image) for image in standardized), recipe.adjacent_slices)
    chosen = islice(windows, own.start, own.stop)
    cut = (
        np.stack(window, axis=1) if recipe.adjacent_slices else window[0][:, None]
        for window in chosen
    )  # (N, K, S, S)
    outputs = _in_batches(prefetch_in_thread(cut, prefetch), forward, batch, len(grid.corners))
    for tiles in prefetch_in_thread(outputs, prefetch):
        yield enlarge(grid.blend(tiles), shape)


def _in_batches(
    cut: Iterable[Tiles], forward: Forward, batch: int, tiles_a_slice: int
) -> Iterator[list[Tiles]]:
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


def slice_windows(items: Iterable[T], neighbors: int) -> Iterator[list[T]]:
    """Every item in the middle of its neighbors; the first and the last stand in for those beyond them."""
    window: deque[T] = deque(maxlen=2 * neighbors + 1)
    for item in items:
        if not window:
            window.extend([item] * neighbors)
        window.append(item)
        if len(window) == window.maxlen:
            yield list(window)
    for _ in range(neighbors if window else 0):
        window.append(window[-1])
        if len(window) == window.maxlen:
            yield list(window)


def prefetch_in_thread(items: Iterator[T], depth: int) -> Iterator[T]:
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


def quantize_probability(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """round(255 p), half up, so that p = 0.5 becomes 128: foreground, as in the paper."""
    return (probability * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def make_forward(network: nn.Module, device: torch.device, precision: Precision) -> Forward:
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


def average_over_flips(forward: Forward) -> Forward:
    """A network that sees each tile as it is, upside down, left to right, and both, and says the mean."""

    def mean(tiles: Tiles) -> Tiles:
        ways = ((), (2,), (3,), (2, 3))
        found = [
            np.flip(forward(np.ascontiguousarray(np.flip(tiles, axes))), axes) for axes in ways
        ]
        return np.asarray(np.mean(found, axis=0, dtype=np.float32))

    return mean
