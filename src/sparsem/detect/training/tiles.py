"""Tiles that detectors are trained on.

Tiles are windows of annotated images with the boxes in them, flipped, turned and with changed gray
levels. Windows are read from disk when they are drawn, so that a training takes no more memory with
a thousand images than with ten. Corners are ``x0 y0 x1 y1``, in pixels of the image until the tile
is cut, and of the tile as the detector sees it after that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Corners, box_areas, box_sizes, clip_boxes
from sparsem.detect.inference import GrayStatistics, network_input
from sparsem.store.volume import Volume
from sparsem.training.augment import vary_intensity

# Fraction of a box that must lie in a tile: a smaller part of an object cannot be recognized.
MIN_PART = 0.3
MIN_EXTENT_PX = 2.0  # px of the tile; narrower parts are left out
# Fraction of the tiles that lie anywhere. The others hold an object of a structure drawn at random,
# so that rare structures are seen as often as frequent ones.
RANDOM_FRACTION = 0.25
N_SYMMETRIES = 8  # flips and quarter turns of a square

Kinds = NDArray[np.int64]
Window = tuple[int, int, int, int]  # x0 y0 x1 y1, px
Tile = NDArray[np.float32]


class TrainingImage(NamedTuple):
    """An annotated image.

    Attributes:
        name: sample and slice index.
        image: volume that it is a slice of.
        z: slice index.
        corners: (n, 4) float32 px of the image.
        kind: (n,) int64, index of the structure of each box.
        levels: gray levels of the sample.
        edge: (y, x) of a tile, in pixels of the image.
    """

    name: str
    image: Volume
    z: int
    corners: Corners
    kind: Kinds
    levels: GrayStatistics
    edge: tuple[int, int]


class DetectionBatch(NamedTuple):
    """A batch of tiles.

    Attributes:
        images: (B, 1, S, S) float32.
        corners: (n, 4) float32 of each tile.
        kinds: (n,) int64 of each tile.
    """

    images: Tile
    corners: list[Corners]
    kinds: list[Kinds]


@dataclass(frozen=True)
class DetectionSampler:
    """Draws batches; a batch is a function of the seed and the update.

    Attributes:
        images: training images.
        input_px: edge of a tile as the detector sees it, px.
        batch: tiles in an update.
        gray: strength of the gray-level augmentation, in standard deviations.
        seed: seed of all draws.
    """

    images: Sequence[TrainingImage]
    input_px: int
    batch: int
    gray: float
    seed: int

    def draw(self, update: int) -> DetectionBatch:
        """Return the batch of an update."""
        random = np.random.default_rng([self.seed, update])
        tiles: list[Tile] = []
        corners: list[Corners] = []
        kinds: list[Kinds] = []
        for _ in range(self.batch):
            tile, tile_corners, tile_kinds = self._draw_tile(random)
            tiles.append(tile)
            corners.append(tile_corners)
            kinds.append(tile_kinds)
        return DetectionBatch(np.stack(tiles), corners, kinds)

    def _draw_tile(self, random: np.random.Generator) -> tuple[Tile, Corners, Kinds]:
        """Return a tile (1, S, S), and corners and kinds of its boxes."""
        source, window = self._draw_window(random)
        tile = self._read_tile(source, window)
        corners, kind = boxes_in_window(source.corners, source.kind, window)
        corners = corners * self._scale_of(source)
        is_large = (box_sizes(corners) >= MIN_EXTENT_PX).all(axis=1)
        symmetry = int(random.integers(N_SYMMETRIES))
        tile, corners = turn_tile(tile, corners[is_large], symmetry)
        if self.gray:
            tile = vary_intensity(tile, random, self.gray)
        return tile, corners, kind[is_large]

    def _scale_of(self, source: TrainingImage) -> NDArray[np.float32]:
        """Return the factors of corners (4,) from an image to the tile as the detector sees it."""
        tile_height, tile_width = source.edge
        scale = [self.input_px / tile_width, self.input_px / tile_height]
        return np.array(scale * 2, np.float32)

    def _read_tile(self, source: TrainingImage, window: Window) -> Tile:
        """Return a window of an image as the detector sees it, (1, S, S)."""
        x0, y0, x1, y1 = window
        voxels = source.image.lazy(0)
        gray = voxels[slice(source.z, source.z + 1), slice(y0, y1), slice(x0, x1)][0]
        return network_input(gray, source.levels, source.edge, self.input_px)[None]

    def _draw_window(self, random: np.random.Generator) -> tuple[TrainingImage, Window]:
        """Return an image, and the window of a tile in it, cut at the border of the image."""
        source, center_y, center_x = self._draw_center(random)
        height, width = source.image.size_of(source.z)
        tile_height, tile_width = source.edge
        y = _draw_offset(height, tile_height, center_y, random)
        x = _draw_offset(width, tile_width, center_x, random)
        return source, (x, y, min(width, x + tile_width), min(height, y + tile_height))

    def _draw_center(
        self, random: np.random.Generator
    ) -> tuple[TrainingImage, float | None, float | None]:
        """Return an image, and the y and x that the tile must hold; None if it may lie anywhere."""
        if not self._boxes_of_kind or random.random() < RANDOM_FRACTION:
            image_index = int(random.integers(len(self.images)))
            return self.images[image_index], None, None
        kind_index = int(random.integers(len(self._boxes_of_kind)))
        boxes = self._boxes_of_kind[kind_index]
        image_index, box = boxes[int(random.integers(len(boxes)))].tolist()
        image = self.images[image_index]
        x0, y0, x1, y1 = image.corners[box].tolist()
        return image, (y0 + y1) / 2, (x0 + x1) / 2

    @cached_property
    def _boxes_of_kind(self) -> list[NDArray[np.int64]]:
        """Index of the image and of the box (n, 2) of every object, for each structure."""
        indices = []
        for image_index, image in enumerate(self.images):
            n_boxes = len(image.kind)
            indices.append(np.column_stack([np.full(n_boxes, image_index), np.arange(n_boxes)]))
        all_indices = np.concatenate(indices)
        kinds = np.concatenate([image.kind for image in self.images])
        return [all_indices[kinds == kind] for kind in np.unique(kinds)]


def _draw_offset(length: int, edge: int, center: float | None, random: np.random.Generator) -> int:
    """Return where a tile begins along an axis: anywhere, or so that it holds a center."""
    first = 0
    last = max(0, length - edge)
    if center is not None:
        pixel = int(center)
        first = min(last, max(0, pixel - edge + 1))
        last = max(0, min(last, pixel))
    return int(random.integers(first, last + 1))


def boxes_in_window(corners: Corners, kind: Kinds, window: Window) -> tuple[Corners, Kinds]:
    """Return the boxes in a window, cut at its edges and relative to its corner.

    Boxes of which less than ``MIN_PART`` lies in the window are left out.
    """
    inside = clip_boxes(corners, window)
    is_kept = box_areas(inside) > np.maximum(MIN_PART * box_areas(corners), 0)
    x, y = window[:2]
    return inside[is_kept] - np.array([x, y, x, y], np.float32), kind[is_kept]


def turn_tile(tile: Tile, corners: Corners, symmetry: int) -> tuple[Tile, Corners]:
    """Return a square tile (1, S, S) and its boxes after one of eight flips and quarter turns.

    Args:
        tile: the tile.
        corners: (n, 4) px of the tile.
        symmetry: 0 to 7; bit 0 flips x, bit 1 flips y, and bit 2 exchanges x and y.
    """
    if symmetry & 1:
        tile = tile[..., ::-1]
    if symmetry & 2:
        tile = tile[..., ::-1, :]
    if symmetry & 4:
        tile = tile.swapaxes(-1, -2)
    return np.ascontiguousarray(tile), _turn_boxes(corners, tile.shape[-1], symmetry)


def _turn_boxes(corners: Corners, edge: int, symmetry: int) -> Corners:
    """Return the boxes in a square of an edge after the same flips and quarter turns."""
    x0, y0, x1, y1 = corners.T
    if symmetry & 1:
        x0, x1 = edge - x1, edge - x0
    if symmetry & 2:
        y0, y1 = edge - y1, edge - y0
    if symmetry & 4:
        x0, y0, x1, y1 = y0, x0, y1, x1
    return np.asarray(np.column_stack([x0, y0, x1, y1]), np.float32)
