"""A detector on pictures of any size: tiles read where they lie, seen in batches, and what was found in them made one.

Of a huge picture never more than a batch of tiles is in memory, of another one the rows that are looked at. Gray levels are those of
the sample's: mean 0, standard deviation 1.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.detect.models.detector import Detections, Detector
from sparsem.detect.slicing import DECIMALS, NO_DETECTIONS, TileDetections, Tiling, merge_detections
from sparsem.detect.training.recipe import DetectorRecipe
from sparsem.geometry import VoxelSize, evenly_spaced
from sparsem.models.device import keep_freed_memory
from sparsem.segment.inference import prefetch_in_thread
from sparsem.store.volume import Volume

CUT_PX = 4  # of the network: a box that ends so near to a cut is cut itself
LEVEL_PICTURES, LEVEL_STEP = (
    16,
    4,
)  # pictures, and every so many-th row and column of them, that tell a sample's gray levels
AT_ONCE = 2**28  # px of a slice that is read at once; a chunk holds parts of several tiles

Tile = NDArray[np.float32]
WindowReader = Callable[[int, int, int, int], NDArray[Any]]  # x0 y0 x1 y1 -> (y, x)


class GrayStatistics(NamedTuple):
    """Gray levels of a sample: their mean and standard deviation."""

    mean: float
    spread: float

    def standardized(self, gray: NDArray[Any]) -> Tile:
        """Of mean 0 and standard deviation 1."""
        return (gray.astype(np.float32) - np.float32(self.mean)) / np.float32(self.spread)


def sample_gray_statistics(image: Volume) -> GrayStatistics:
    """Of up to 16 evenly spaced pictures; black, 0, is what no microscope has seen."""
    count = image.shape[0]
    sums = np.zeros(3)
    for z in evenly_spaced(count, min(LEVEL_PICTURES, count)):
        for part in _bands(image, z):
            gray = part[::LEVEL_STEP, ::LEVEL_STEP].astype(np.float64)
            seen = gray[gray > 0]
            sums += [seen.size, seen.sum(), np.square(seen).sum()]
    if not sums[0]:
        return GrayStatistics(0.0, 1.0)
    mean = sums[1] / sums[0]
    return GrayStatistics(
        float(mean), max(1.0, float(np.sqrt(max(0.0, sums[2] / sums[0] - mean**2))))
    )


def _bands(image: Volume, z: int, rows: int = 4096) -> Iterator[NDArray[Any]]:
    voxels = image.kept(0)
    for first in range(0, image.shape[1], rows):
        yield voxels[slice(z, z + 1), slice(first, min(first + rows, image.shape[1]))][0]


def tiling_of(
    shape: tuple[int, int], recipe: DetectorRecipe, voxel: VoxelSize, overlap: float
) -> Tiling:
    """How pictures of a shape are cut for a detector; ``overlap`` is a part of a tile."""
    edge = recipe.edge(voxel)
    return Tiling(shape, edge, (round(edge[0] * overlap), round(edge[1] * overlap)))


def network_input(
    gray: NDArray[Any], levels: GrayStatistics, edge: tuple[int, int], see: int
) -> Tile:
    """A window of a picture as a detector sees it, (see, see) float32; what lies beyond the picture is of the mean gray."""
    tile = levels.standardized(gray)
    if gray.shape != edge:
        whole = np.zeros(edge, np.float32)
        whole[: gray.shape[0], : gray.shape[1]] = tile
        tile = whole
    if edge == (see, see):
        return tile
    smaller = see <= edge[0] and see <= edge[1]
    return np.asarray(
        cv2.resize(tile, (see, see), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR),
        np.float32,
    )


def detect_in_tiles(
    window: WindowReader,
    slicing: Tiling,
    tiles: Sequence[int],
    network: Detector,
    recipe: DetectorRecipe,
    levels: GrayStatistics,
    batch: int,
    device: torch.device,
) -> TileDetections:
    """What a detector finds in some tiles of a picture.

    Args:
        window: reads part of the picture.
        slicing: how it is cut.
        tiles: which, ascending.
        network: in evaluation mode, on ``device``.
        recipe: how it sees.
        levels: gray levels of the sample.
        batch: tiles at once; never tiles of two calls, so that results do not depend on what else is done.
        device: where.
    """
    keep_freed_memory()
    parts = []

    def cut(some: Sequence[int]) -> tuple[list[tuple[int, NDArray[Any]]], NDArray[np.float32]]:
        windows = [(tile, window(*slicing.windows[tile].tolist())) for tile in some]
        filled = [(tile, gray) for tile, gray in windows if gray.any()]
        tiles = [network_input(gray, levels, slicing.edge, recipe.see)[None] for _, gray in filled]
        return filled, np.stack(tiles) if tiles else np.empty(
            (0, 1, recipe.see, recipe.see), np.float32
        )

    batches = map(cut, (tiles[first : first + batch] for first in range(0, len(tiles), batch)))
    # Cutting ahead, in a thread, keeps a GPU busy; a detector on the CPU wants the cores for itself.
    for filled, images in prefetch_in_thread(batches, 0 if device.type == "cpu" else 2):
        if not filled:
            continue  # nothing but black, which no microscope has seen
        with torch.inference_mode():
            answers = network.found(torch.from_numpy(images).to(device))
        parts += [
            _in_picture(answer, tile, slicing, recipe.see, gray)
            for answer, (tile, gray) in zip(answers, filled, strict=True)
        ]
    columns = zip(*(parts or [NO_DETECTIONS]), strict=True)
    return TileDetections(*(np.concatenate(column) for column in columns))


def _in_picture(
    answer: Detections, tile: int, slicing: Tiling, see: int, gray: NDArray[Any]
) -> TileDetections:
    """What was found in a tile, in pixels of its picture; what lies beyond the picture, has no area, or is black is nothing."""
    x0, y0, x1, y1 = (float(one) for one in slicing.windows[tile])
    scale = np.array([slicing.edge[1] / see, slicing.edge[0] / see] * 2)
    corners = answer.corners.cpu().double().numpy() * scale + np.array(
        [x0, y0, x0, y0]
    )  # the same wherever the tile lies
    corners = np.round(np.clip(corners, [x0, y0, x0, y0], [x1, y1, x1, y1]), DECIMALS)
    real = (np.round(corners[:, 2:] - corners[:, :2], DECIMALS) >= 1).all(axis=1)
    left, top, right, bottom = np.round(corners - [x0, y0, x0, y0]).astype(int).T
    known = cv2.integral((gray != 0).astype(np.uint8))
    real &= known[bottom, right] - known[top, right] - known[bottom, left] + known[top, left] > 0
    kind, score = answer.kind.cpu().numpy().astype(np.int16), answer.score.float().cpu().numpy()
    return TileDetections(
        np.full(int(real.sum()), tile),
        kind[real],
        corners[real].astype(np.float32),
        np.round(score[real], 4),
    )


def merge_tiles_of_image(found: TileDetections, slicing: Tiling, see: int) -> TileDetections:
    """One box an object, from what was found in all tiles of a picture."""
    return merge_detections(found, slicing, CUT_PX * max(slicing.edge) / see)


def detect_in_image(
    window: WindowReader,
    slicing: Tiling,
    network: Detector,
    recipe: DetectorRecipe,
    levels: GrayStatistics,
    batch: int,
    device: torch.device,
) -> TileDetections:
    """What a detector finds in a whole picture."""
    tiles = range(len(slicing.windows))
    return merge_tiles_of_image(
        detect_in_tiles(window, slicing, tiles, network, recipe, levels, batch, device),
        slicing,
        recipe.see,
    )


def window_reader(image: Volume, z: int, rows: slice = slice(None)) -> WindowReader:
    """What reads part of a slice: its ``rows`` that are looked at are read once, unless they are huge."""
    voxels, (height, width) = image.kept(0), image.size_of(z)
    top, bottom, _ = rows.indices(height)
    if (bottom - top) * width <= AT_ONCE:
        plane = voxels[slice(z, z + 1), slice(top, bottom), slice(0, width)][0]
        return lambda x0, y0, x1, y1: plane[y0 - top : y1 - top, x0:x1]
    return lambda x0, y0, x1, y1: voxels[slice(z, z + 1), slice(y0, y1), slice(x0, x1)][0]
