"""Histograms, quantiles and curves of the gray levels of a slice.

Slices are (y, x) uint8 or uint16. Black, 0, is what the microscope did not image (the rim that
alignment leaves): it is left out and stays black. A curve is an array of 256 or 65,536 gray levels,
indexed by gray level.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.unsignedinteger[Any]]
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

# Ranks of the gray levels by which slices are compared.
RANKS = np.concatenate([[0.002], np.linspace(0.01, 0.99, 50), [0.998]])
# Quantiles are made strictly ascending by such steps, so that they can be interpolated.
QUANTILE_STEP = 1e-9


def gray_level_count(dtype: np.dtype[Any]) -> int:
    """Return the number of gray levels of a type."""
    return 1 << (8 * dtype.itemsize)


def gray_histogram(image: NDArray[Any]) -> Counts:
    """Return how often each gray level occurs, (256,) or (65,536,); black does not count."""
    counts = np.bincount(image.ravel(), minlength=gray_level_count(image.dtype))
    counts[0] = 0
    return counts


def gray_quantiles(counts: Counts) -> Floats:
    """Return the gray levels (52,) at ``RANKS`` of a histogram; NaN for a slice that is all black.

    They lie between whole gray levels where many pixels have the same level.
    """
    total = np.cumsum(counts)
    if not total[-1]:
        return np.full(len(RANKS), np.nan)
    occupied = np.nonzero(counts)[0]
    rank_of_middle = (total[occupied] - counts[occupied] / 2) / total[-1]
    levels: Floats = np.interp(RANKS, rank_of_middle, occupied)
    return levels


def build_equalization_curve(counts: Counts, dtype: np.dtype[Any]) -> Curve:
    """Return the curve that makes all gray levels equally frequent.

    It is the cumulative histogram (paper 3.2; Gonzalez & Woods 3.3).
    """
    total = np.cumsum(counts)
    fraction = total / max(int(total[-1]), 1)
    return _round_curve(1 + fraction * (len(counts) - 2), dtype)


def build_matching_curve(source: Floats, target: Floats, dtype: np.dtype[Any]) -> Curve:
    """Return the curve that brings a slice with the quantiles ``source`` to those of ``target``.

    Beyond the quantiles it continues with their mean slope.

    Args:
        source: (ranks,) gray levels; if NaN, the curve changes nothing.
        target: (ranks,) gray levels; if NaN, the curve changes nothing.
        dtype: of the slice.
    """
    levels = np.arange(gray_level_count(dtype))
    if np.isnan(source).any() or np.isnan(target).any():
        return levels.astype(dtype)
    source = np.maximum.accumulate(source + np.arange(len(source)) * QUANTILE_STEP)
    curve = np.interp(levels, source, target)
    _continue_beyond_quantiles(curve, levels, source, target)
    return _round_curve(curve, dtype)


def _continue_beyond_quantiles(
    curve: Floats, levels: NDArray[np.int64], source: Floats, target: Floats
) -> None:
    """Continue a curve on both sides of the quantiles with their mean slope, in place."""
    slope = (target[-1] - target[0]) / max(source[-1] - source[0], 1e-6)
    is_low = levels < source[0]
    is_high = levels > source[-1]
    curve[is_low] = target[0] + (levels[is_low] - source[0]) * slope
    curve[is_high] = target[-1] + (levels[is_high] - source[-1]) * slope


def _round_curve(values: Floats, dtype: np.dtype[Any]) -> Curve:
    """Return whole gray levels; 0 stays 0, and no other level becomes 0."""
    curve = np.clip(np.round(values), 1, len(values) - 1).astype(dtype)
    curve[0] = 0
    return curve


def apply_curve(image: NDArray[Any], curve: Curve) -> NDArray[Any]:
    """Return a slice (y, x) in which every gray level is replaced by its value on a curve."""
    if image.dtype == np.uint8:
        return np.asarray(cv2.LUT(image, curve))
    return np.asarray(curve[image])
