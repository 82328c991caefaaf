"""The resolution of one slice by Fourier ring correlation, without a second picture (Koho et al. 2019; Rieger et al. 2024).

A slice is split into four that hold every second pixel of every second row. Two that lie diagonally show the same tissue with noise of
their own; where their frequencies no longer agree, detail ends.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sparsem.image.spectrum import hann_window, sample_tiles, tile_edge

AGREE = 1 / 7  # the correlation at which a detail still counts (Rosenthal & Henderson 2003)
MOST_TILES = 12
HALVES = (((0, 0), (1, 1)), ((0, 1), (1, 0)))


def ring_correlation(image: NDArray[Any]) -> NDArray[np.float64] | None:
    """(T // 4,) correlation of the halves of a slice by frequency, from 0 to 1/4 cycle per pixel; None of one too small, or black."""
    edge = tile_edge((image.shape[0], image.shape[1]))
    tiles = sample_tiles(image, edge, MOST_TILES) if edge else []
    if not tiles:
        return None
    half = edge // 2
    ring, count = _rings(half)
    sums = np.zeros((3, half // 2))
    for tile in tiles:
        for first, second in HALVES:
            one, other = (_transformed(tile[top::2, left::2]) for top, left in (first, second))
            cross = one * np.conj(other) * _back(half, second[0] - first[0], second[1] - first[1])
            for row, values in zip(
                sums, (cross.real, np.square(np.abs(one)), np.square(np.abs(other))), strict=True
            ):
                row += np.bincount(ring.ravel(), (values * count).ravel(), half // 2 + 1)[:-1]
    correlation: NDArray[np.float64] = sums[0] / np.sqrt(np.maximum(sums[1] * sums[2], 1e-30))
    correlation[0] = correlation[1]  # of the mean, which was taken off, nothing is left
    return correlation


def resolution_px(correlation: NDArray[np.float64]) -> float:
    """The period in pixels at which the halves of a slice (see ``ring_correlation``) cease to agree, at best 4: they see no finer."""
    frequency = (np.arange(len(correlation)) + 0.5) / (4 * len(correlation))
    smooth = np.convolve(np.pad(correlation, 2, mode="edge"), np.full(5, 0.2), mode="valid")
    (below,) = np.nonzero(smooth < AGREE)
    if not len(below):
        return 4.0
    last = int(below[0])
    if last == 0:
        return float("nan")  # they agree in nothing
    high, low = smooth[last - 1], smooth[last]
    part = (high - AGREE) / max(high - low, 1e-12)
    return float(1 / (frequency[last - 1] + part * (frequency[last] - frequency[last - 1])))


def _transformed(half: NDArray[np.float32]) -> NDArray[np.complex64]:
    weights = hann_window(len(half))
    return np.asarray(
        scipy.fft.rfft2((half - np.float32(np.average(half, weights=weights))) * weights)
    )


@lru_cache(maxsize=2)
def _rings(edge: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """(T, T // 2 + 1) the ring of each frequency, all beyond the last one as one more, and how often it counts in the whole plane."""
    fy, fx = scipy.fft.fftfreq(edge)[:, None], scipy.fft.rfftfreq(edge)[None]
    ring = np.minimum((np.hypot(fy, fx) * edge).astype(np.int64), edge // 2)
    count = np.full(ring.shape, 2, np.float32)
    count[:, 0] = count[:, -1] = 1
    return ring, count


@lru_cache(maxsize=4)
def _back(edge: int, rows: int, columns: int) -> NDArray[np.complex64]:
    """Moves the second half back by the half pixel, in its own pixels, that its split put it off."""
    fy, fx = scipy.fft.fftfreq(edge)[:, None], scipy.fft.rfftfreq(edge)[None]
    turned: NDArray[np.complex64] = np.exp(1j * np.pi * (fy * rows + fx * columns)).astype(
        np.complex64
    )
    return turned
