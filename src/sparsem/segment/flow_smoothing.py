"""Probabilities smoothed across slices along the optical flow between them.

Where slices are thick, what lies above a pixel is another part of a structure, or none of it. The
mean is then one along the path of the pixel: probabilities of the slice above and of the one below
are sampled where the optical flow of the image leads to.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.image.flow import Flow, PairFlow, flows_between
from sparsem.image.settings import FlowSettings
from sparsem.segment.z_smoothing import Bytes, Smoothing, weighted_mean, weights_of_slices
from sparsem.store.volume import Volume

TILE_PX = 1024  # edge of the parts of a slice that threads share; positions of one are 8 MB
# Dense inverse search: half the time of Farneback's method, and as good here.
FLOW = FlowSettings(flow="dis")

Tile = tuple[slice, slice]  # rows and columns


class FlowImage(NamedTuple):
    """The image whose optical flow probabilities are moved along.

    Attributes:
        image: an image of the pixels of the probabilities.
        window: gray levels that become 0 and 255 for the flow; None for 8 bit.
    """

    image: Volume
    window: tuple[float, float] | None

    def flows(self, first: int, stop: int) -> list[PairFlow]:
        """Return the flow between each of the slices ``first`` to ``stop`` and the next one.

        Slices behind the last one of the stack are left out.
        """
        return flows_between(list(self.image.read(slice(first, stop))), FLOW, self.window)


def flow_smoothing_bytes(image: Volume, n_structures: int, smoothing: Smoothing) -> int:
    """Return the memory of the flow of a block, and of the slices around it."""
    _, height, width = image.shape
    n_slices = image.block_depth + 2 * smoothing.reach
    grid_height, grid_width = FLOW.grid_shape((height, width))
    # Both directions; x and y as float32.
    flows = n_slices * 2 * 2 * 4 * grid_height * grid_width
    slices = n_slices * height * width * (image.dtype.itemsize + n_structures)
    return flows + slices


class _Paths(NamedTuple):
    """The pixels of a slice, as they lie in its neighbors.

    Attributes:
        z: the slice.
        flows: neighbor -> flow from the slice to it, (h, w, 2) in pixels of the slice.
        weights: of the slice, and of its neighbors in the order of the flows.
    """

    z: int
    flows: dict[int, Flow]
    weights: NDArray[np.float32]


def smooth_along_flow(
    volumes: Sequence[Bytes], own_slices: slice, flows: Sequence[PairFlow], smoothing: Smoothing
) -> list[Bytes]:
    """Return slices, each the weighted mean of itself and of its two neighbors along the flow.

    Probabilities are sampled linearly. At the ends, the first and the last slice repeat.

    Args:
        volumes: probabilities of several structures, (z, y, x) each.
        own_slices: slices to return.
        flows: flow between each slice and the next one, of the size of a slice or coarser.
        smoothing: the weights.
    """
    n_slices, height, width = volumes[0].shape
    positions = range(*own_slices.indices(n_slices))
    smoothed = [np.empty((len(positions), height, width), np.uint8) for _ in volumes]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for number, z in enumerate(positions):
            weights = weights_of_slices(z, n_slices, smoothing)
            paths = _paths(z, weights, flows, (height, width))
            targets = [volume[number] for volume in smoothed]
            list(pool.map(partial(_fill_tile, volumes, targets, paths), _tiles(height, width)))
    return smoothed


def _paths(
    z: int, weights: dict[int, int], flows: Sequence[PairFlow], shape: tuple[int, int]
) -> _Paths:
    """Return where the pixels of a slice of a shape lie in its neighbors."""
    across: dict[int, Flow] = {}
    if z + 1 in weights:
        across[z + 1] = _in_pixels(flows[z].to_after, shape)
    if z - 1 in weights:
        across[z - 1] = _in_pixels(flows[z - 1].to_before, shape)
    return _Paths(z, across, np.array([weights[k] for k in (z, *across)], np.float32))


def _in_pixels(flow: Flow, shape: tuple[int, int]) -> Flow:
    """Return a flow in pixels of a slice instead of its grid."""
    height, width = shape
    factors = [width / flow.shape[1], height / flow.shape[0]]
    return flow * np.array(factors, np.float32)


def _tiles(height: int, width: int) -> Iterator[Tile]:
    """Yield rows and columns of the parts of a slice."""
    for y, x in itertools.product(range(0, height, TILE_PX), range(0, width, TILE_PX)):
        yield slice(y, min(y + TILE_PX, height)), slice(x, min(x + TILE_PX, width))


def _fill_tile(
    volumes: Sequence[Bytes], targets: Sequence[Bytes], paths: _Paths, tile: Tile
) -> None:
    """Write the means of one part of a slice, for every structure."""
    samples = [[volume[paths.z][tile]] for volume in volumes]
    for z, flow in paths.flows.items():
        window, positions = _positions(flow, tile, volumes[0].shape[1:])
        for volume, planes in zip(volumes, samples, strict=True):
            planes.append(_sample(volume[z][window], positions))
    for planes, target in zip(samples, targets, strict=True):
        lines = np.stack(planes).reshape(len(planes), -1)
        mean = np.empty(lines.shape[1], np.uint8)
        weighted_mean(lines, paths.weights, mean)
        target[tile] = mean.reshape(planes[0].shape)


def _positions(flow: Flow, tile: Tile, shape: Sequence[int]) -> tuple[Tile, Flow]:
    """Return the part of a slice that the flow of a tile leads to, and the positions (x, y) there.

    OpenCV samples no images of 32,767 pixels in a row or column, but parts of them. Flow of a
    coarser grid is interpolated linearly.
    """
    y_axis, x_axis = (_along_axis(flow, axis, tile[axis], shape[axis]) for axis in (0, 1))
    rows, columns = tile
    positions = cv2.warpAffine(
        flow,
        np.array([[x_axis.scale, 0, x_axis.first], [0, y_axis.scale, y_axis.first]], np.float64),
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y = columns.start - x_axis.window.start, rows.start - y_axis.window.start
    positions[..., 0] += np.arange(x, x + positions.shape[1], dtype=np.float32)
    positions[..., 1] += np.arange(y, y + positions.shape[0], dtype=np.float32)[:, None]
    return (y_axis.window, x_axis.window), np.asarray(positions)


class _Axis(NamedTuple):
    """The grid of a flow along an axis of a tile.

    Attributes:
        scale: grid pixels in a pixel of the slice.
        first: grid position of the tile's first pixel.
        window: pixels of the slice that the flow leads to.
    """

    scale: float
    first: float
    window: slice


def _along_axis(flow: Flow, axis: int, pixels: slice, size: int) -> _Axis:
    """Return the grid along an axis (0: y, 1: x) of a tile, whose pixels are given."""
    scale = flow.shape[axis] / size
    first = (pixels.start + 0.5) * scale - 0.5
    last = (pixels.stop - 0.5) * scale - 0.5
    # Interpolated flow lies between that of the grid pixels around it.
    nearby = slice(max(0, math.floor(first)), math.ceil(last) + 1)
    steps = (flow[nearby] if axis == 0 else flow[:, nearby])[..., 1 - axis]
    start = min(max(math.floor(pixels.start + steps.min()), 0), size - 1)
    stop = min(max(math.ceil(pixels.stop + steps.max()) + 1, start + 1), size)
    return _Axis(scale, first, slice(start, stop))


def _sample(plane: Bytes, positions: Flow) -> Bytes:
    """Sample a plane at positions, linearly; its edge repeats."""
    sampled = cv2.remap(  # type: ignore[call-overload]
        plane, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(sampled, np.uint8)
