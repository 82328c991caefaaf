"""The resolution of one slice by Fourier ring correlation (Koho et al. 2019; Rieger et al. 2024).

No second image is needed: a slice is split into four that hold every second pixel of every second
row. Two that lie on a diagonal show the same tissue with independent noise; where their frequencies
no longer agree, detail ends.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sparsem.image.spectrum import hann_window, sample_tiles, tile_edge, windowed_transform

# The correlation from which a detail counts as resolved (Rosenthal & Henderson 2003).
MIN_CORRELATION = 1 / 7
MAX_RING_TILES = 12
FINEST_PX = 4.0  # the halves of a slice resolve no shorter period
SMOOTHED_RINGS = 5  # number of rings of the running mean
# Offsets (y, x) of the halves that are compared.
HALVES = (((0, 0), (1, 1)), ((0, 1), (1, 0)))

Floats = NDArray[np.float64]


def ring_correlation(image: NDArray[Any]) -> Floats | None:
    """Return the correlation of the halves of a slice by frequency.

    Args:
        image: (y, x) uint8 or uint16.

    Returns:
        (T // 4,) from 0 to 1/4 cycle per pixel, with tiles of T px; None for a slice that is too
        small or black.
    """
    edge = tile_edge((image.shape[0], image.shape[1]))
    tiles = sample_tiles(image, edge, MAX_RING_TILES) if edge else []
    if not tiles:
        return None
    sums = np.zeros((3, edge // 4))
    for tile in tiles:
        for first_offset, second_offset in HALVES:
            for row, power in zip(
                sums, _compare_halves(tile, first_offset, second_offset), strict=True
            ):
                row += _sum_by_ring(power)
    correlation: Floats = sums[0] / np.sqrt(np.maximum(sums[1] * sums[2], 1e-30))
    correlation[0] = correlation[1]  # the mean was subtracted: nothing is left of it
    return correlation


def _compare_halves(
    tile: NDArray[np.float32], first_offset: tuple[int, int], second_offset: tuple[int, int]
) -> tuple[NDArray[np.float32], ...]:
    """Return what two halves of a tile have in common, and the power of each, by frequency."""
    first = _transform_half(tile, first_offset)
    second = _transform_half(tile, second_offset)
    rows = second_offset[0] - first_offset[0]
    columns = second_offset[1] - first_offset[1]
    cross = first * np.conj(second) * _half_pixel_shift(len(first), rows, columns)
    return cross.real, np.square(np.abs(first)), np.square(np.abs(second))


def _sum_by_ring(values: NDArray[np.float32]) -> Floats:
    """Return (T // 2,) the sums of a spectrum (T, T // 2 + 1) over rings."""
    edge = len(values)
    ring, count = _rings(edge)
    sums = np.bincount(ring.ravel(), (values * count).ravel(), edge // 2 + 1)
    return np.asarray(sums[:-1])


def resolution_px(correlation: Floats) -> float:
    """Return the period in pixels at which the halves of a slice cease to agree.

    It is 4 at best, the shortest period in the halves; NaN where they agree at no frequency.

    Args:
        correlation: see ``ring_correlation``.
    """
    padded = np.pad(correlation, SMOOTHED_RINGS // 2, mode="edge")
    smooth = np.convolve(padded, np.full(SMOOTHED_RINGS, 1 / SMOOTHED_RINGS), mode="valid")
    (below,) = np.nonzero(smooth < MIN_CORRELATION)
    if not len(below):
        return FINEST_PX
    if below[0] == 0:
        return float("nan")
    return 1 / _crossing_frequency(smooth, int(below[0]))


def _crossing_frequency(smooth: Floats, below: int) -> float:
    """Return the frequency at which a correlation falls below its limit, by interpolation.

    Args:
        smooth: the correlation.
        below: number of the first ring that lies below the limit.
    """
    frequency = (np.arange(len(smooth)) + 0.5) / (FINEST_PX * len(smooth))
    high, low = smooth[below - 1], smooth[below]
    fraction = (high - MIN_CORRELATION) / max(high - low, 1e-12)
    previous = frequency[below - 1]
    return float(previous + fraction * (frequency[below] - previous))


def _transform_half(tile: NDArray[np.float32], offset: tuple[int, int]) -> NDArray[np.complex64]:
    """Return the Fourier transform of every second pixel of a tile, under a window."""
    top, left = offset
    half = tile[top::2, left::2]
    return windowed_transform(half, hann_window(len(half)))


@lru_cache(maxsize=2)
def _rings(edge: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the ring of each frequency, and how often it counts in the whole plane.

    Returns:
        (T, T // 2 + 1) each; all frequencies beyond the last ring have one more number.
    """
    fy = scipy.fft.fftfreq(edge)[:, None]
    fx = scipy.fft.rfftfreq(edge)[None]
    ring = np.minimum((np.hypot(fy, fx) * edge).astype(np.int64), edge // 2)
    count = np.full(ring.shape, 2, np.float32)
    count[:, 0] = count[:, -1] = 1
    return ring, count


@lru_cache(maxsize=4)
def _half_pixel_shift(edge: int, rows: int, columns: int) -> NDArray[np.complex64]:
    """Return the factors that shift the second half back onto the first one.

    Args:
        edge: of a half, px.
        rows: by which the second half is offset, in half pixels of its own.
        columns: the same along x.
    """
    fy = scipy.fft.fftfreq(edge)[:, None]
    fx = scipy.fft.rfftfreq(edge)[None]
    phase = 1j * np.pi * (fy * rows + fx * columns)
    factors: NDArray[np.complex64] = np.exp(phase).astype(np.complex64)
    return factors
