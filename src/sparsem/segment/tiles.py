"""Context tiles: the network sees ``see`` px that stand for a larger area of the slice (paper 5.3: 2048 px seen at 512).

A slice is shrunk once to the network's scale, cut there into overlapping square tiles, and the probability map of the whole
slice is enlarged once. Images are (y, x) float32; probabilities (C, y, x) float32 in 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Probability = NDArray[np.float32]

WINDOW_FLOOR = 1e-3  # a cosine taper is 0 at its end: the outermost row of a slice, which one tile covers, would be 0 / 0


def scaled_shape(shape: tuple[int, int], factors: tuple[float, float]) -> tuple[int, int]:
    """(y, x) of a slice at the network's scale; at least 1 px."""
    return max(1, round(shape[0] / factors[0])), max(1, round(shape[1] / factors[1]))


def shrink(image: NDArray[Any], factors: tuple[float, float]) -> Image:
    """A slice at the network's scale, integers as 0..1 of their range: area means; linear where a factor below 1 enlarges it."""
    unit = np.float32(
        1 / np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    )
    return _resize(
        image.astype(np.float32) * unit, scaled_shape((image.shape[0], image.shape[1]), factors)
    )


def shrink_mask(
    mask: NDArray[np.uint8], factors: tuple[float, float], unknown: int
) -> NDArray[np.uint8]:
    """A mask of 0, 1 and ``unknown`` at the network's scale: a pixel is what most of its known area is."""
    shape = scaled_shape((mask.shape[0], mask.shape[1]), factors)
    if shape == mask.shape:
        return mask
    known = _resize((mask != unknown).astype(np.float32), shape)
    structure = _resize((mask == 1).astype(np.float32), shape)
    shrunk = (structure >= 0.5 * np.maximum(known, 1e-6)).astype(np.uint8)
    shrunk[known < 0.5] = unknown
    return shrunk


def enlarge(probability: Probability, shape: tuple[int, int]) -> Probability:
    """(C, y, x) probabilities of a whole slice at its full resolution, linear in between."""
    return np.stack([_resize(channel, shape) for channel in probability])


def _resize(image: Image, shape: tuple[int, int]) -> Image:
    if image.shape == shape:
        return image
    smaller = shape[0] <= image.shape[0] and shape[1] <= image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=method), np.float32)


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin so that they cover ``length`` evenly and overlap by at least ``overlap`` px."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def taper(tile: int, overlap: int) -> NDArray[np.float32]:
    """Tapered cosine (Tukey) window of ``tile`` px that rises over ``overlap`` px; complementary where two tiles overlap."""
    window = np.ones(tile, np.float32)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / max(overlap, 1))
    window[:overlap] = rise
    window[tile - overlap :] = rise[::-1]
    return np.maximum(window, WINDOW_FLOOR)


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one slice at the network's scale.

    Attributes:
        shape: (y, x) of the slice.
        tile: edge in px.
        overlap: least overlap of neighbors in px.
    """

    shape: tuple[int, int]
    tile: int
    overlap: int

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Upper left corner of every tile."""
        y, x = (tile_starts(length, self.tile, self.overlap) for length in self.shape)
        return [(top, left) for top in y for left in x]

    def cut(self, image: Image) -> NDArray[np.float32]:
        """The tiles of a slice (..., y, x), (N, ..., tile, tile); a slice smaller than a tile is mirrored at its edges."""
        padded = pad_by_reflection(image, self.tile)
        return np.stack(
            [
                padded[..., top : top + self.tile, left : left + self.tile]
                for top, left in self.corners
            ]
        )

    def blend(self, tiles: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> Probability:
        """N network outputs (C, tile, tile) as one map (C, y, x): the weighted mean under the tapered cosine window."""
        height, width = (max(length, self.tile) for length in self.shape)
        total = np.zeros((len(tiles[0]), height, width), np.float32)
        for (top, left), probability in zip(self.corners, tiles, strict=True):
            total[:, top : top + self.tile, left : left + self.tile] += probability * self._window
        total /= self._weight
        return np.ascontiguousarray(total[:, : self.shape[0], : self.shape[1]])

    @cached_property
    def _window(self) -> NDArray[np.float32]:
        edge = taper(self.tile, self.overlap)
        return edge[:, None] * edge[None]

    @cached_property
    def _weight(self) -> NDArray[np.float32]:
        weight = np.zeros([max(length, self.tile) for length in self.shape], np.float32)
        for top, left in self.corners:
            weight[top : top + self.tile, left : left + self.tile] += self._window
        return weight


def pad_by_reflection(image: NDArray[Any], least: int) -> NDArray[Any]:
    """The image continued at its lower and right edge by reflection until it is at least ``least`` px both ways."""
    while min(image.shape[-2:]) < least:
        missing = [min(max(0, least - length), max(length - 1, 1)) for length in image.shape[-2:]]
        mode = "reflect" if min(image.shape[-2:]) > 1 else "edge"
        pad: Any = [(0, 0)] * (image.ndim - 2) + [(0, after) for after in missing]
        image = np.pad(image, pad, mode=mode)  # type: ignore[call-overload]
    return image
