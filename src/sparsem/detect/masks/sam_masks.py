"""Masks of the boxes in an image by a Segment Anything Model.

Boxes are divided among tiles of suitable sizes, and each tile is embedded once for all its boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from sparsem.boxes.geometry import Corners, box_sizes
from sparsem.detect.inference import GrayStatistics
from sparsem.detect.masks.outline import Mask, PlacedMask, box_pixels, mask_in_box
from sparsem.detect.masks.sam import Embedding, Sam

# Fractions of a tile between which the longer edge of an object lies, so that a model sees it well
# and as a whole.
MIN_PART = 1 / 16
MAX_PART = 1 / 2
# Power of two of the smallest tiles: the model sees them enlarged four times.
MIN_POWER = -2
# Standard deviations on either side of the mean gray that become black and white.
GRAY_RANGE = 3.0
MEAN_GRAY = 0.5


@dataclass(frozen=True)
class SamTile:
    """A square tile that a model sees.

    Attributes:
        top: first row in the image.
        left: first column in the image.
        edge: length of its edge, px of the image.
    """

    top: int
    left: int
    edge: int

    @property
    def name(self) -> str:
        """Name of its position."""
        return f"{self.top}-{self.left}-{self.edge}"


def sam_tiles(corners: Corners, shape: tuple[int, int], edge: int) -> list[SamTile]:
    """Return the tile of each box: one that holds it as a whole, and as large as possible.

    Large tiles hold many boxes, so that few tiles are embedded.

    Args:
        corners: (n, 4) px of an image.
        shape: (y, x) of the image.
        edge: edge of the model's tiles, px.
    """
    tiles = []
    lengths = box_sizes(corners).max(axis=1).tolist()
    for (x0, y0, x1, y1), length in zip(corners.tolist(), lengths, strict=True):
        tile_edge = _tile_edge(max(length, 1.0), shape, edge)
        top = _tile_offset(y0, y1, shape[0], tile_edge)
        left = _tile_offset(x0, x1, shape[1], tile_edge)
        tiles.append(SamTile(top, left, tile_edge))
    return tiles


def _tile_edge(length: float, shape: tuple[int, int], edge: int) -> int:
    """Return the edge of the largest tile for an object of a length, px of the image."""
    power = max(MIN_POWER, int(np.floor(np.log2(length / MIN_PART / edge))))
    # A tile need be no larger than the image.
    needed = max(length / MAX_PART, max(shape))
    while power > MIN_POWER and edge * 2.0 ** (power - 1) >= needed:
        power -= 1
    return int(edge * 2.0**power)


def _tile_offset(low: float, high: float, length: int, tile_edge: int) -> int:
    """Return where the tile of a box begins along an axis.

    Tiles overlap by half, so that a box of up to half a tile is whole in the tile that its center
    is nearest to.
    """
    step = tile_edge // 2
    begin = max(0, round(((low + high) / 2 - step) / step)) * step
    return min(begin, max(0, length - tile_edge))


def sam_masks(
    plane: NDArray[Any],
    z: int,
    corners: Corners,
    sam: Sam,
    levels: GrayStatistics,
    embeddings: Path | None,
) -> list[PlacedMask]:
    """Return the mask of every box in an image.

    Args:
        plane: the image (y, x).
        z: its slice index.
        corners: (n, 4) px.
        sam: the model.
        levels: gray levels of the sample.
        embeddings: folder that keeps embeddings, if they are kept.
    """
    masks: dict[int, PlacedMask] = {}
    for tile, boxes in _boxes_of_tiles(plane, corners, sam.edge).items():
        file = None
        if embeddings:
            file = embeddings / f"z{z:06d}-{tile.name}.safetensors"
        embedding = _embedding_of(plane, tile, sam, levels, file)
        scale = sam.edge / tile.edge
        origin = np.array([tile.left, tile.top] * 2, np.float32)
        tile_corners = (corners[boxes] - origin) * np.float32(scale)
        for box, logits in zip(boxes, sam.masks(embedding, tile_corners), strict=True):
            masks[box] = _mask_in_box(logits, corners[box].tolist(), tile, scale, plane)
    return [masks[box] for box in range(len(corners))]


def _boxes_of_tiles(plane: NDArray[Any], corners: Corners, edge: int) -> dict[SamTile, list[int]]:
    """Return the indices of the boxes of every tile; ``edge`` is that of the model's tiles."""
    boxes_of_tile: dict[SamTile, list[int]] = {}
    shape = (plane.shape[0], plane.shape[1])
    for box, tile in enumerate(sam_tiles(corners, shape, edge)):
        boxes_of_tile.setdefault(tile, []).append(box)
    return boxes_of_tile


def _mask_in_box(
    logits: NDArray[np.float32],
    corners: Sequence[float],
    tile: SamTile,
    scale: float,
    plane: NDArray[Any],
) -> PlacedMask:
    """Return the largest component of a mask within its box; an outline if there is none.

    Args:
        logits: (edge, edge) of the model's tile.
        corners: the box, px of the image.
        tile: the tile.
        scale: px of the model's tile for one px of the image.
        plane: the image (y, x).
    """
    rows, columns = box_pixels(corners, (plane.shape[0], plane.shape[1]))
    position = (rows.start, columns.start)
    height = rows.stop - rows.start
    width = columns.stop - columns.start
    if min(height, width) <= 0:
        return np.zeros((max(0, height), max(0, width)), bool), position
    matrix = _matrix_to_tile(position, tile, scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    box_logits = cv2.warpAffine(logits, matrix, (width, height), flags=flags, borderValue=-1.0)
    largest = _largest_component(box_logits > 0)
    if largest is None:
        return mask_in_box(plane, corners)
    return largest, position


def _matrix_to_tile(position: tuple[int, int], tile: SamTile, scale: float) -> NDArray[np.float64]:
    """Return the matrix (2, 3) over (x, y, 1) from pixels of a box to those of the model's tile."""
    row, column = position
    # From the center of a pixel of the box to that of a pixel of the model's tile.
    shift_x = (column + 0.5 - tile.left) * scale - 0.5
    shift_y = (row + 0.5 - tile.top) * scale - 0.5
    return np.array([[scale, 0, shift_x], [0, scale, shift_y]], np.float64)


def _largest_component(mask: Mask) -> Mask | None:
    """Return the largest component of a mask (y, x); None if the mask is empty."""
    count, components = cv2.connectedComponents(mask.astype(np.uint8))
    if count < 2:
        return None
    largest = 1 + np.bincount(components.reshape(-1))[1:].argmax()
    return np.asarray(components == largest)


def _embedding_of(
    plane: NDArray[Any], tile: SamTile, sam: Sam, levels: GrayStatistics, file: Path | None
) -> Embedding:
    """Return the embedding of a tile, from a file if it was kept there."""
    if file is None:
        return sam.embedding(tile_image(plane, tile, sam.edge, levels))
    if not file.exists():
        embedding = sam.embedding(tile_image(plane, tile, sam.edge, levels))
        _save_embedding(embedding, file)
    # A new embedding is read again too: files hold half precision, and results must not depend on
    # whether the file existed before.
    return _load_embedding(file, sam)


def _save_embedding(embedding: Embedding, file: Path) -> None:
    """Write an embedding to a file in one step, in half precision."""
    tensors = {}
    for name, levels in embedding.items():
        for number, level in enumerate(levels):
            tensors[f"{name}.{number:02d}"] = level.half().cpu().contiguous()
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".partial")
    save_file(tensors, unfinished)
    unfinished.replace(file)


def _load_embedding(file: Path, sam: Sam) -> Embedding:
    """Read an embedding from a file, in single precision."""
    embedding: Embedding = {}
    for key, level in sorted(load_file(file).items()):
        name = key.partition(".")[0]
        embedding.setdefault(name, []).append(level.to(sam.device, torch.float32))
    return embedding


def tile_image(
    plane: NDArray[Any], tile: SamTile, edge: int, levels: GrayStatistics
) -> NDArray[np.float32]:
    """Return a tile as the model sees it, (edge, edge) in 0..1; mean gray beyond the image."""
    rows = slice(tile.top, tile.top + tile.edge)
    columns = slice(tile.left, tile.left + tile.edge)
    # Resized in its own type, so that a large tile is never held as float32.
    resized = _resize_to_model(plane[rows, columns], tile.edge, edge)
    height, width = resized.shape
    normalized = levels.standardize(resized) / (2 * GRAY_RANGE) + MEAN_GRAY
    image = np.full((edge, edge), MEAN_GRAY, np.float32)
    image[:height, :width] = np.clip(normalized, 0, 1)
    return image


def _resize_to_model(gray: NDArray[Any], tile_edge: int, edge: int) -> NDArray[Any]:
    """Return the part of a tile that lies in the image, in pixels of the model's tile."""
    interpolation = cv2.INTER_AREA if tile_edge >= edge else cv2.INTER_LINEAR
    height = max(1, round(gray.shape[0] * edge / tile_edge))
    width = max(1, round(gray.shape[1] * edge / tile_edge))
    return np.asarray(cv2.resize(gray, (width, height), interpolation=interpolation))
