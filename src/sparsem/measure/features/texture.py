"""Texture of objects: gray levels, co-occurrence, size zones and pattern spectrum of each object.

Images and masks are (z, y, x); the voxel size is in nm.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.measure.features.glcm import co_occurrence_features, co_occurrence_matrix, pair_offsets
from sparsem.measure.features.pattern_spectrum import (
    element_growth,
    pattern_spectrum,
    spectrum_moments,
)
from sparsem.measure.features.size_zones import size_zone_features, zones
from sparsem.measure.settings import Element

Image = NDArray[np.generic]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

# Gray levels of the image of which openings and closings are computed.
EIGHT_BIT = 256

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


class GrayScale(NamedTuple):
    """The assignment of image values to gray levels.

    Attributes:
        low: value at which the first level begins.
        high: value at which the last level ends.
        levels: number of levels, at most 255.
    """

    low: float
    high: float
    levels: int


class TextureScale(NamedTuple):
    """The lengths that texture depends on.

    Attributes:
        voxel: edge lengths (z, y, x), nm.
        distance_nm: distance of the pairs of the co-occurrence matrix.
        sizes: number of openings, and of closings.
        step_nm: length from one size to the next.
        element: shape of the structuring element.
    """

    voxel: Sequence[float]
    distance_nm: float
    sizes: int
    step_nm: float
    element: Element


def quantize_gray(image: Image, scale: GrayScale) -> NDArray[np.uint8]:
    """Return gray levels 1 to ``scale.levels``, in steps of equal width.

    Values below or above the scale become the first or the last level.

    Raises:
        ValueError: more than 255 gray levels.
    """
    if scale.levels > EIGHT_BIT - 1:
        raise ValueError(f"expected at most {EIGHT_BIT - 1} gray levels, found {scale.levels}")
    return _quantize(image, scale.low, scale.high, scale.levels) + np.uint8(1)


def texture_features(
    image: Image, mask: Mask, gray: GrayScale, scale: TextureScale
) -> tuple[dict[str, float], Floats]:
    """Compute the texture of one object.

    Args:
        image: gray values.
        mask: the object.
        gray: assignment of image values to gray levels.
        scale: lengths of pairs and structuring elements.

    Returns:
        The features by name of their column, and the pattern spectrum, (2 sizes,); NaN for an
        object without voxels.
    """
    if not mask.any():
        return dict.fromkeys(TEXTURE_COLUMNS, float("nan")), np.full(2 * scale.sizes, np.nan)
    inside = image[mask].astype(np.float64)
    levels = np.where(mask, quantize_gray(image, gray), np.uint8(0))
    offsets = pair_offsets(scale.distance_nm, scale.voxel)
    matrix = co_occurrence_matrix(levels, gray.levels, offsets)
    spectrum = _spectrum_of(image, mask, gray, scale)
    values = (
        float(inside.mean()),
        float(inside.std()),
        *co_occurrence_features(matrix),
        *size_zone_features(*zones(levels)),
        *spectrum_moments(spectrum),
    )
    return dict(zip(TEXTURE_COLUMNS, values, strict=True)), spectrum


def _spectrum_of(image: Image, mask: Mask, gray: GrayScale, scale: TextureScale) -> Floats:
    """Return the pattern spectrum of an object, (2 sizes,), from gray levels of 8 bit."""
    eight_bit = _quantize(image, gray.low, gray.high, EIGHT_BIT)
    elements = element_growth(scale.sizes, scale.step_nm, scale.voxel, scale.element)
    return pattern_spectrum(eight_bit, mask, elements)


def _quantize(image: Image, low: float, high: float, levels: int) -> NDArray[np.uint8]:
    """Return levels 0 to ``levels`` - 1 of equal width between ``low`` and ``high``."""
    if image.dtype == np.uint8 and image.size > 256:
        every_value = np.arange(256, dtype=np.uint8)
        return np.asarray(_quantize(every_value, low, high, levels)[image])
    per_value = np.float32(levels / (high - low))
    level = np.floor((image.astype(np.float32) - np.float32(low)) * per_value)
    return np.asarray(np.clip(level, 0, levels - 1), np.uint8)
