"""Tiles with context: ``input_px`` of the network stand for a larger area of the slice.

In section 5.3 of the paper, tiles of 2048 px are shrunk to 512 px. A slice is shrunk once to the
network's scale and cut there into overlapping square tiles; the probability map of the whole slice
is enlarged once. Images are (y, x) float32; probabilities (C, y, x) float32 in 0..1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float32]
Probability = NDArray[np.float32]

# Rows of an image that are shrunk at once.
STRIPE_ROWS = 256
# A cosine taper ends at 0: the outermost row of a slice, which one tile covers, would be 0 / 0.
WINDOW_FLOOR = 1e-3


def scaled_shape(shape: tuple[int, int], factors: tuple[float, float]) -> tuple[int, int]:
    """Return the shape (y, x) of a slice at the network's scale; at least 1 px."""
    return max(1, round(shape[0] / factors[0])), max(1, round(shape[1] / factors[1]))


def shrink(image: NDArray[Any], factors: tuple[float, float]) -> Image:
    """Return a slice at the network's scale; integers become fractions of their range, 0..1.

    Pixels are averaged over their area; a factor below 1 enlarges by linear interpolation.
    """
    height, width = scaled_shape((image.shape[0], image.shape[1]), factors)
    shrunk = np.empty((height, width), np.float32)
    for rows, shrunk_rows in _stripes(image.shape[0], height):
        stripe = shrunk[shrunk_rows]
        _resize(image[rows].astype(np.float32), (len(stripe), width), stripe)
    if np.issubdtype(image.dtype, np.integer):
        shrunk *= np.float32(1 / np.iinfo(image.dtype).max)
    return shrunk


def _stripes(n_rows: int, n_shrunk: int) -> Iterator[tuple[slice, slice]]:
    """Yield rows of an image, and the rows of the shrunk image that depend on these alone.

    Few rows at a time stay in the cache. Where pixels are not whole rows high, all are one stripe.
    """
    factor, remainder = divmod(n_rows, n_shrunk)
    step = n_shrunk if remainder else max(1, STRIPE_ROWS // factor)
    for start in range(0, n_shrunk, step):
        stop = min(start + step, n_shrunk)
        yield slice(start * factor, stop * factor if not remainder else n_rows), slice(start, stop)


def shrink_mask(
    mask: NDArray[np.uint8], factors: tuple[float, float], unknown: int
) -> NDArray[np.uint8]:
    """Return a mask of 0, 1 and ``unknown`` at the network's scale.

    A pixel gets the value of the majority of its known area, and ``unknown`` if less than half of
    its area is known.
    """
    shape = scaled_shape((mask.shape[0], mask.shape[1]), factors)
    if shape == mask.shape:
        return mask
    known = _resize((mask != unknown).astype(np.float32), shape)
    structure = _resize((mask == 1).astype(np.float32), shape)
    shrunk = (structure >= 0.5 * np.maximum(known, 1e-6)).astype(np.uint8)
    shrunk[known < 0.5] = unknown
    return shrunk


def enlarge(
    probability: Probability, shape: tuple[int, int], out: Probability | None = None
) -> Probability:
    """Return probabilities (C, y, x) of a whole slice at its full resolution, interpolated.

    They are written into ``out``, if it is given.
    """
    if out is None:
        out = np.empty((len(probability), *shape), np.float32)
    for channel, enlarged in zip(probability, out, strict=True):
        _resize(channel, shape, enlarged)
    return out


def _resize(image: Image, shape: tuple[int, int], out: Image | None = None) -> Image:
    """Return an image at a shape, which is written into ``out`` if that is given."""
    if image.shape == shape:
        if out is not None:
            out[:] = image
        return image
    method = cv2.INTER_LINEAR if is_larger(shape, image.shape) else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, shape[::-1], out, interpolation=method), np.float32)


def is_larger(shape: Sequence[int], reference: Sequence[int]) -> bool:
    """Return whether a shape (y, x) is larger than a reference along an axis."""
    return shape[0] > reference[0] or shape[1] > reference[1]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the positions of tiles that cover ``length`` evenly.

    Adjacent tiles overlap by at least ``overlap`` px.
    """
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def taper(tile: int, overlap: int) -> NDArray[np.float32]:
    """Return a tapered cosine (Tukey) window of ``tile`` px that rises over ``overlap`` px.

    The windows of two tiles that overlap by ``overlap`` px add up to 1 there.
    """
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
        tile: edge of a tile, px.
        overlap: minimum overlap of adjacent tiles, px.
    """

    shape: tuple[int, int]
    tile: int
    overlap: int

    @cached_property
    def corners(self) -> list[tuple[int, int]]:
        """Upper left corner of every tile."""
        tops = tile_starts(self.shape[0], self.tile, self.overlap)
        lefts = tile_starts(self.shape[1], self.tile, self.overlap)
        return [(top, left) for top in tops for left in lefts]

    def cut(self, image: Image) -> NDArray[np.float32]:
        """Cut a slice (..., y, x) into its tiles (N, ..., tile, tile).

        A slice that is smaller than a tile is continued by reflection.
        """
        padded = pad_by_reflection(image, self.tile)
        tiles = []
        for top, left in self.corners:
            tiles.append(padded[..., top : top + self.tile, left : left + self.tile])
        return np.stack(tiles)

    def blend(self, tiles: Sequence[NDArray[np.float32]] | NDArray[np.float32]) -> Probability:
        """Blend N network outputs (C, tile, tile) to one map (C, y, x).

        Each pixel is the mean of its tiles, weighted by the tapered cosine window.
        """
        height, width = (max(length, self.tile) for length in self.shape)
        total = np.zeros((len(tiles[0]), height, width), np.float32)
        for (top, left), probability in zip(self.corners, tiles, strict=True):
            total[:, top : top + self.tile, left : left + self.tile] += probability * self._window
        total /= self._weight
        return np.ascontiguousarray(total[:, : self.shape[0], : self.shape[1]])

    @cached_property
    def _window(self) -> NDArray[np.float32]:
        """Window (tile, tile) of a tile."""
        profile = taper(self.tile, self.overlap)
        return profile[:, None] * profile[None]

    @cached_property
    def _weight(self) -> NDArray[np.float32]:
        """Sum (y, x) of the windows of all tiles."""
        weight = np.zeros([max(length, self.tile) for length in self.shape], np.float32)
        for top, left in self.corners:
            weight[top : top + self.tile, left : left + self.tile] += self._window
        return weight


def pad_by_reflection(image: NDArray[Any], min_px: int) -> NDArray[Any]:
    """Continue an image (..., y, x) by reflection at its lower and right edge.

    Both edges become at least ``min_px`` long; an edge that is long enough stays as it is.
    """
    while min(image.shape[-2:]) < min_px:
        # One reflection adds at most the length of the edge less 1 px.
        missing = [min(max(0, min_px - length), max(length - 1, 1)) for length in image.shape[-2:]]
        mode = "reflect" if min(image.shape[-2:]) > 1 else "edge"
        padding: Any = [(0, 0)] * (image.ndim - 2) + [(0, count) for count in missing]
        image = np.pad(image, padding, mode=mode)  # type: ignore[call-overload]
    return image
