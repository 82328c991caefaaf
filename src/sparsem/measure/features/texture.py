"""Texture of objects: gray levels, co-occurrence, size zones and pattern spectrum of each, by name of the column.

Images and masks are (z, y, x); the voxel size is in nm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.measure.features.glcm import co_occurrence_features, co_occurrence_matrix, pair_offsets
from sparsem.measure.features.pattern_spectrum import (
    Element,
    element_growth,
    pattern_spectrum,
    spectrum_moments,
)
from sparsem.measure.features.size_zones import size_zone_features, zones

Image = NDArray[np.generic]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

EIGHT_BIT = 256  # gray levels in which openings and closings are done


class GrayScale(NamedTuple):
    """How an image's numbers become gray levels.

    Attributes:
        low: number that becomes the first level.
        high: the first number beyond the last level.
        levels: how many, at most 255.
    """

    low: float
    high: float
    levels: int


class TextureScale(NamedTuple):
    """Lengths that texture depends on.

    Attributes:
        voxel: edge lengths (z, y, x), nm.
        distance_nm: of the pairs of the co-occurrence matrix.
        sizes: how many openings and closings.
        step_nm: from one size to the next.
        element: what they are done with.
    """

    voxel: Sequence[float]
    distance_nm: float
    sizes: int
    step_nm: float
    element: Element


def quantize_gray(image: Image, scale: GrayScale) -> NDArray[np.uint8]:
    """Gray levels 1 to ``scale.levels`` in steps of equal width; what is darker or brighter than the scale takes its ends."""
    if scale.levels > EIGHT_BIT - 1:
        raise ValueError(f"at most {EIGHT_BIT - 1} gray levels, got {scale.levels}")
    return _steps(image, scale.low, scale.high, scale.levels) + np.uint8(1)


def _steps(image: Image, low: float, high: float, levels: int) -> NDArray[np.uint8]:
    """0 to ``levels`` - 1."""
    at = np.floor((image.astype(np.float32) - np.float32(low)) * np.float32(levels / (high - low)))
    return np.asarray(np.clip(at, 0, levels - 1), np.uint8)


def texture_features(
    image: Image, mask: Mask, gray: GrayScale, scale: TextureScale
) -> tuple[dict[str, float], Floats]:
    """Texture of one object, by name of the column, and its pattern spectrum (2 sizes,); NaN for an object without voxels."""
    if not mask.any():
        return dict.fromkeys(TEXTURE_COLUMNS, float("nan")), np.full(2 * scale.sizes, np.nan)
    inside = image[mask].astype(np.float64)
    levels = np.where(mask, quantize_gray(image, gray), np.uint8(0))
    pairs = co_occurrence_features(
        co_occurrence_matrix(levels, gray.levels, pair_offsets(scale.distance_nm, scale.voxel))
    )
    sizes = size_zone_features(*zones(levels))
    eight_bit = _steps(image, gray.low, gray.high, EIGHT_BIT)
    spectrum = pattern_spectrum(
        eight_bit, mask, element_growth(scale.sizes, scale.step_nm, scale.voxel, scale.element)
    )
    values = (
        float(inside.mean()),
        float(inside.std()),
        *pairs,
        *sizes,
        *spectrum_moments(spectrum),
    )
    return dict(zip(TEXTURE_COLUMNS, values, strict=True)), spectrum


TEXTURE_COLUMNS = (
    "gray_mean",
    "gray_deviation",
    "glcm_homogeneity",
    "glcm_correlation",
    "glcm_variance",
    "glcm_contrast",
    "zone_percentage",
    "small_zone_high_gray",
    "zone_mean_level",
    "zone_mean_size_voxels",
    "pattern_mean",
    "pattern_deviation",
    "pattern_skewness",
    "pattern_entropy",
)
