"""Detection in images of any size.

Tiles are read from the image one batch at a time, a detector sees each batch, and the boxes found
in all tiles are merged. Of a huge image no more than a batch of tiles is in memory; of a smaller
one the rows that the tiles cover. Gray levels are standardized by sample: mean 0, standard
deviation 1.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.detect.models.detector import Detections, Detector
from sparsem.detect.tiling import (
    CORNER_DECIMALS,
    TileDetections,
    Tiling,
    concatenate_detections,
    merge_detections,
)
from sparsem.detect.training.recipe import DetectorRecipe
from sparsem.geometry import VoxelSize, evenly_spaced
from sparsem.models.device import keep_freed_memory
from sparsem.segment.inference import prefetch_in_thread
from sparsem.store.volume import Volume

# px of the network's input: a box that ends so near to the cut of its tile is itself cut.
CUT_MARGIN_PX = 4
MIN_EXTENT_PX = 1  # px of the image; thinner boxes are dropped
SCORE_DECIMALS = 4
STATISTICS_SLICES = 16  # slices, evenly spaced, from which the gray levels of a sample are measured
STATISTICS_STEP = 4  # every so many-th row and column of these slices is read
STATISTICS_ROWS = 4096  # rows that are read at once
MAX_PLANE_PX = 2**28  # px of a slice that are read at once; a chunk holds parts of several tiles

Tile = NDArray[np.float32]
Reals = NDArray[np.float64]
WindowReader = Callable[[int, int, int, int], NDArray[Any]]  # x0 y0 x1 y1 -> (y, x)


class GrayStatistics(NamedTuple):
    """Mean and standard deviation of the gray levels of a sample."""

    mean: float
    std: float

    def standardize(self, gray: NDArray[Any]) -> Tile:
        """Return gray levels with mean 0 and standard deviation 1."""
        return (gray.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)


def sample_gray_statistics(image: Volume) -> GrayStatistics:
    """Return the statistics of up to 16 evenly spaced slices.

    Black pixels, 0, lie outside of what the microscope recorded, and are left out.
    """
    number, total, total_of_squares = _sums_over_recorded(image)
    if not number:
        return GrayStatistics(0.0, 1.0)
    mean = total / number
    variance = max(0.0, total_of_squares / number - mean**2)
    return GrayStatistics(float(mean), max(1.0, float(np.sqrt(variance))))


def _sums_over_recorded(image: Volume) -> Reals:
    """Return number, sum and sum of squares of the gray levels that are not black."""
    n_slices = image.shape[0]
    sums = np.zeros(3)
    for z in evenly_spaced(n_slices, min(STATISTICS_SLICES, n_slices)):
        for band in _bands(image, z):
            gray = band[::STATISTICS_STEP, ::STATISTICS_STEP].astype(np.float64)
            recorded = gray[gray > 0]
            sums += [recorded.size, recorded.sum(), np.square(recorded).sum()]
    return sums


def _bands(image: Volume, z: int) -> Iterator[NDArray[Any]]:
    """Yield a slice as bands of rows (y, x)."""
    voxels = image.lazy(0)
    height = image.shape[1]
    for first in range(0, height, STATISTICS_ROWS):
        rows = slice(first, min(first + STATISTICS_ROWS, height))
        yield voxels[slice(z, z + 1), rows][0]


def tiling_of(
    shape: tuple[int, int], recipe: DetectorRecipe, voxel: VoxelSize, overlap: float
) -> Tiling:
    """Return the tiles of an image for a detector.

    Args:
        shape: (y, x) of the image.
        recipe: recipe of the detector.
        voxel: voxel size of the image.
        overlap: overlap of neighboring tiles as a fraction of a tile.
    """
    edge = recipe.tile_shape(voxel)
    return Tiling(shape, edge, (round(edge[0] * overlap), round(edge[1] * overlap)))


def network_input(
    gray: NDArray[Any], levels: GrayStatistics, edge: tuple[int, int], input_px: int
) -> Tile:
    """Return a window of an image as the input of a detector, (input_px, input_px) float32.

    Args:
        gray: the window (y, x), smaller than a tile at the border of the image; the rest of the
            tile gets the mean gray.
        levels: gray levels of the sample.
        edge: (y, x) of a tile, px of the image.
        input_px: edge of the network's input, px.
    """
    tile = levels.standardize(gray)
    if gray.shape != edge:
        padded = np.zeros(edge, np.float32)
        padded[: gray.shape[0], : gray.shape[1]] = tile
        tile = padded
    input_shape = (input_px, input_px)
    if edge == input_shape:
        return tile
    shrinks = input_px <= edge[0] and input_px <= edge[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(tile, input_shape, interpolation=interpolation), np.float32)


def detect_in_tiles(
    window: WindowReader,
    tiling: Tiling,
    tiles: Sequence[int],
    network: Detector,
    recipe: DetectorRecipe,
    levels: GrayStatistics,
    batch: int,
    device: torch.device,
) -> TileDetections:
    """Return the boxes that a detector finds in some tiles of an image.

    Args:
        window: reads a window of the image.
        tiling: how the image is cut.
        tiles: indices of the tiles, ascending.
        network: detector in evaluation mode, on ``device``.
        recipe: its recipe.
        levels: gray levels of the sample.
        batch: tiles in a batch; never tiles of two calls, so that results do not depend on the
            division of the work.
        device: device of the network.
    """
    keep_freed_memory()
    starts = range(0, len(tiles), batch)
    batches = (
        _read_batch(window, tiling, tiles[first : first + batch], recipe.input_px, levels)
        for first in starts
    )
    # Reading ahead, in a thread, keeps a GPU busy; a detector on a CPU needs all cores itself.
    n_ahead = 0 if device.type == "cpu" else 2
    parts = []
    for recorded, images in prefetch_in_thread(batches, n_ahead):
        if not recorded:
            continue
        with torch.inference_mode():
            answers = network.detect(torch.from_numpy(images).to(device))
        for detections, (tile, gray) in zip(answers, recorded, strict=True):
            parts.append(_to_image(detections, tile, tiling, recipe.input_px, gray))
    return concatenate_detections(parts)


def _read_batch(
    window: WindowReader,
    tiling: Tiling,
    tiles: Sequence[int],
    input_px: int,
    levels: GrayStatistics,
) -> tuple[list[tuple[int, NDArray[Any]]], NDArray[np.float32]]:
    """Return the tiles with recorded pixels and their gray levels, and the inputs (B, 1, S, S).

    Tiles that are black as a whole hold nothing that the microscope recorded.
    """
    recorded = []
    inputs = []
    for tile in tiles:
        gray = window(*tiling.windows[tile].tolist())
        if gray.any():
            recorded.append((tile, gray))
            inputs.append(network_input(gray, levels, tiling.edge, input_px)[None])
    if not inputs:
        return [], np.empty((0, 1, input_px, input_px), np.float32)
    return recorded, np.stack(inputs)


def _to_image(
    detections: Detections, tile: int, tiling: Tiling, input_px: int, gray: NDArray[Any]
) -> TileDetections:
    """Return the boxes found in a tile in pixels of its image.

    Boxes without area, beyond the image, or on black pixels are dropped.
    """
    window = tiling.windows[tile].astype(np.float64)
    scale = np.array([tiling.edge[1] / input_px, tiling.edge[0] / input_px] * 2)
    corners = _corners_in_window(detections.corners.cpu().double().numpy() * scale, window)
    extent = np.round(corners[:, 2:] - corners[:, :2], CORNER_DECIMALS)
    is_valid = (extent >= MIN_EXTENT_PX).all(axis=1)
    px_of_window = np.round(corners - np.tile(window[:2], 2)).astype(int)
    is_valid &= _holds_recorded_pixels(px_of_window, gray)
    kind = detections.kind.cpu().numpy().astype(np.int16)
    score = detections.score.float().cpu().numpy()
    return TileDetections(
        np.full(int(is_valid.sum()), tile),
        kind[is_valid],
        corners[is_valid].astype(np.float32),
        np.round(score[is_valid], SCORE_DECIMALS),
    )


def _corners_in_window(corners: Reals, window: Reals) -> Reals:
    """Return corners that are relative to a window in pixels of its image, cut at the window."""
    origin = np.tile(window[:2], 2)
    end = np.tile(window[2:], 2)
    # Rounded, boxes are the same wherever the tile lies.
    return np.asarray(np.round(np.clip(corners + origin, origin, end), CORNER_DECIMALS))


def _holds_recorded_pixels(corners: NDArray[np.int64], gray: NDArray[Any]) -> NDArray[np.bool_]:
    """Return True for boxes (N,) that hold a pixel that is not black.

    Args:
        corners: (N, 4) px of a window.
        gray: the window (y, x).
    """
    left, top, right, bottom = corners.T
    recorded = cv2.integral((gray != 0).astype(np.uint8))
    below = recorded[bottom, right] - recorded[bottom, left]
    above = recorded[top, right] - recorded[top, left]
    return np.asarray(below - above > 0)


def merge_tiles_of_image(
    detections: TileDetections, tiling: Tiling, input_px: int
) -> TileDetections:
    """Return one box for each object, from the boxes found in all tiles of an image."""
    return merge_detections(detections, tiling, CUT_MARGIN_PX * max(tiling.edge) / input_px)


def detect_in_image(
    window: WindowReader,
    tiling: Tiling,
    network: Detector,
    recipe: DetectorRecipe,
    levels: GrayStatistics,
    batch: int,
    device: torch.device,
) -> TileDetections:
    """Return the boxes that a detector finds in a whole image; see ``detect_in_tiles``."""
    tiles = range(len(tiling.windows))
    detections = detect_in_tiles(window, tiling, tiles, network, recipe, levels, batch, device)
    return merge_tiles_of_image(detections, tiling, recipe.input_px)


def window_reader(image: Volume, z: int, rows: slice = slice(None)) -> WindowReader:
    """Return a function that reads windows of a slice.

    The ``rows`` that the windows cover are read once, unless they are huge.
    """
    voxels = image.lazy(0)
    height, width = image.size_of(z)
    top, bottom, _ = rows.indices(height)
    if (bottom - top) * width <= MAX_PLANE_PX:
        plane = voxels[slice(z, z + 1), slice(top, bottom), slice(0, width)][0]
        return lambda x0, y0, x1, y1: plane[y0 - top : y1 - top, x0:x1]
    return lambda x0, y0, x1, y1: voxels[slice(z, z + 1), slice(y0, y1), slice(x0, x1)][0]
