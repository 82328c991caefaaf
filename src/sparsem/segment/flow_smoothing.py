"""Probabilities smoothed across slices along the optical flow between them.

Where slices are thick, what lies above a pixel is another part of a structure, or none of it. The
mean is then one along the path of the pixel: probabilities of the slice above and of the one below
are sampled where the optical flow of the image leads to.
"""

import itertools
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


# Dense inverse search takes a fifth of the time of Farneback's method.
FLOW = FlowSettings(flow="dis")


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
        flows: neighbor -> flow from the slice to it, (h, w, 2) in pixels of its own grid.
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
            paths = _paths(z, weights, flows)
            targets = [volume[number] for volume in smoothed]
            list(pool.map(partial(_fill_tile, volumes, targets, paths), _tiles(height, width)))
    return smoothed


def _paths(z: int, weights: dict[int, int], flows: Sequence[PairFlow]) -> _Paths:
    """Return where the pixels of a slice lie in its neighbors."""
    across: dict[int, Flow] = {}
    if z + 1 in weights:
        across[z + 1] = flows[z].to_after
    if z - 1 in weights:
        across[z - 1] = flows[z - 1].to_before
    return _Paths(z, across, np.array([weights[k] for k in (z, *across)], np.float32))


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows and columns of the parts of a slice."""
    for y, x in itertools.product(range(0, height, TILE_PX), range(0, width, TILE_PX)):
        yield slice(y, min(y + TILE_PX, height)), slice(x, min(x + TILE_PX, width))


def _fill_tile(
    volumes: Sequence[Bytes], targets: Sequence[Bytes], paths: _Paths, tile: tuple[slice, slice]
) -> None:
    """Write the means of one part of a slice, for every structure."""
    samples = [[volume[paths.z][tile]] for volume in volumes]
    for z, flow in paths.flows.items():
        positions = _positions(flow, tile, volumes[0].shape[1:])
        window, inside = _window(positions, volumes[0].shape[1:])
        for volume, planes in zip(volumes, samples, strict=True):
            planes.append(_sample(volume[z][window], inside))
    for planes, target in zip(samples, targets, strict=True):
        lines = np.stack(planes).reshape(len(planes), -1)
        mean = np.empty(lines.shape[1], np.uint8)
        weighted_mean(lines, paths.weights, mean)
        target[tile] = mean.reshape(planes[0].shape)


def _positions(flow: Flow, tile: tuple[slice, slice], shape: Sequence[int]) -> Flow:
    """Return the position (x, y) that the flow of every pixel of a tile leads to.

    Flow of a coarser grid is interpolated linearly.
    """
    rows, columns = tile
    scale_y, scale_x = flow.shape[0] / shape[0], flow.shape[1] / shape[1]
    first_y, first_x = (rows.start + 0.5) * scale_y - 0.5, (columns.start + 0.5) * scale_x - 0.5
    grid_positions = np.array([[scale_x, 0, first_x], [0, scale_y, first_y]])
    positions = cv2.warpAffine(
        flow,
        grid_positions,
        (columns.stop - columns.start, rows.stop - rows.start),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    positions[..., 0] *= 1 / scale_x
    positions[..., 1] *= 1 / scale_y
    positions[..., 0] += np.arange(columns.start, columns.stop, dtype=np.float32)
    positions[..., 1] += np.arange(rows.start, rows.stop, dtype=np.float32)[:, None]
    return np.asarray(positions)


def _window(positions: Flow, shape: Sequence[int]) -> tuple[tuple[slice, slice], Flow]:
    """Return the rows and columns that positions lie in, and the positions there.

    OpenCV samples no images of 32,767 pixels in a row or column, but parts of them.
    """
    slices = []
    for axis, size in ((1, shape[0]), (0, shape[1])):
        values = positions[..., axis]
        first = min(max(int(values.min()), 0), size - 1)
        stop = min(max(int(values.max()) + 2, first + 1), size)
        slices.append(slice(first, stop))
    rows, columns = slices
    return (rows, columns), positions - np.array([columns.start, rows.start], np.float32)


def _sample(plane: Bytes, positions: Flow) -> Bytes:
    """Sample a plane at positions, linearly; its edge repeats."""
    sampled = cv2.remap(  # type: ignore[call-overload]
        plane, positions, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(sampled, np.uint8)
