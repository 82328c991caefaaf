"""The power spectrum of one slice, as the mean over tiles.

Slices are (y, x) uint8 or uint16; gray levels count as fractions of their range, 0 to 1. The
spectrum is the mean over tiles under a Hann window (Welch 1967), so that memory does not grow with
the slice.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sparsem.geometry import evenly_spaced
from sparsem.image.black_areas import black_areas

TILE = 512  # edge of a tile, px; of smaller slices the largest power of two that fits
MIN_TILE = 32  # px; smaller slices have no spectrum
MAX_TILES = 48  # a slice of 24 Mpx is cut into 88 tiles: every second tile gives the same result
MAX_BLACK_FRACTION = 0.02  # maximum fraction of a tile that black areas may cover

Spectrum = NDArray[np.float64]


@dataclass(frozen=True)
class SliceSpectrum:
    """The mean power spectrum of tiles.

    Attributes:
        power: (T, T // 2 + 1), by frequency as ``scipy.fft.rfft2`` orders them; its sum over the
            whole plane is the variance.
        tiles: number of tiles that were averaged.
    """

    power: Spectrum
    tiles: int

    @property
    def edge(self) -> int:
        """The edge T of a tile, px."""
        return len(self.power)


def tile_edge(shape: tuple[int, int]) -> int:
    """Return the edge of the tiles of a slice, px; 0 where the slice is too small for any tile."""
    edge = TILE
    while edge > min(shape):
        edge //= 2
    return edge if edge >= MIN_TILE else 0


def sample_tiles(
    image: NDArray[Any], edge: int, max_tiles: int = MAX_TILES
) -> list[NDArray[np.float32]]:
    """Return at most ``max_tiles`` tiles that lie side by side all over a slice.

    Tiles in which black areas cover more than 2 % are left out.

    Args:
        image: a slice.
        edge: of a tile, px.
        max_tiles: if the slice holds more tiles, evenly spaced ones are taken.

    Returns:
        Tiles (T, T) float32 in 0..1.
    """
    corners = _tile_corners(image.shape, edge)
    scale = np.float32(1 / np.iinfo(image.dtype).max)
    tiles = []
    for index in evenly_spaced(len(corners), min(max_tiles, len(corners))):
        top, left = corners[index]
        tile = image[top : top + edge, left : left + edge]
        if not _is_mostly_black(tile):
            tiles.append(tile * scale)
    return tiles


def _tile_corners(shape: Sequence[int], edge: int) -> list[tuple[int, int]]:
    """Return top and left of as many tiles as lie side by side all over a slice (y, x)."""
    height, width = shape
    tops = np.linspace(0, height - edge, max(1, height // edge)).astype(int)
    lefts = np.linspace(0, width - edge, max(1, width // edge)).astype(int)
    return list(itertools.product(tops, lefts))


def _is_mostly_black(tile: NDArray[Any]) -> bool:
    """Return whether black areas cover too much of a tile."""
    # Single black pixels may be noise: areas are searched only where many pixels are black.
    if np.count_nonzero(tile == 0) <= MAX_BLACK_FRACTION * tile.size:
        return False
    return not black_areas(tile).mean() <= MAX_BLACK_FRACTION


@lru_cache(maxsize=4)
def hann_window(edge: int) -> NDArray[np.float32]:
    """Return the weights (T, T) of a Hann window along both axes."""
    profile = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(edge) + 0.5) / edge)
    return np.outer(profile, profile).astype(np.float32)


def power_spectrum(image: NDArray[Any]) -> SliceSpectrum | None:
    """Return the spectrum of a slice (y, x); None for a slice that is too small or black."""
    edge = tile_edge((image.shape[0], image.shape[1]))
    tiles = sample_tiles(image, edge) if edge else []
    if not tiles:
        return None
    hann = hann_window(edge)
    total = np.zeros((edge, edge // 2 + 1))
    for tile in tiles:
        total += np.square(np.abs(windowed_transform(tile, hann)))
    window_power = float(np.square(hann, dtype=np.float64).sum())
    return SliceSpectrum(total / (len(tiles) * edge**2 * window_power), len(tiles))


def windowed_transform(
    tile: NDArray[np.float32], hann: NDArray[np.float32]
) -> NDArray[np.complex64]:
    """Return the Fourier transform (T, T // 2 + 1) of a tile less its mean, under a window."""
    mean = np.float32(np.average(tile, weights=hann))
    return np.asarray(scipy.fft.rfft2((tile - mean) * hann))


@lru_cache(maxsize=4)
def spectrum_frequencies(edge: int) -> tuple[Spectrum, Spectrum, Spectrum]:
    """Return the frequency of every entry of a spectrum, and its weight in sums.

    Returns:
        (T, T // 2 + 1) each: fy and fx in cycles per pixel, and how often the entry counts in a sum
        over the whole plane.
    """
    fy = scipy.fft.fftfreq(edge)[:, None]
    fx = scipy.fft.rfftfreq(edge)[None]
    count = np.full(fx.shape, 2.0)
    count[0, 0] = count[0, -1] = 1
    shape = (edge, edge // 2 + 1)
    return np.broadcast_to(fy, shape), np.broadcast_to(fx, shape), np.broadcast_to(count, shape)
