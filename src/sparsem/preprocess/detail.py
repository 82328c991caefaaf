"""The fine detail of a slice at several scales, by which slices are registered and compared.

Tissue that runs obliquely seems to move from slice to slice, and this bias adds up over a stack.
Fine grain (vesicles, ribosomes, noise of the tissue) has no direction. Slices are therefore
compared by a narrow band of fine detail whose contrast is clipped, in which a membrane counts no
more than a vesicle (measured on a phantom: a fifth of the bias).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.preprocess.settings import WORKING_MPX

Image = NDArray[np.float32]

# The band of detail: standard deviations of two Gaussians.
FINE_PX = 1.0
COARSE_PX = 3.0
LOCAL_PX = 32.0  # standard deviation of the Gaussian over which contrast is made even
MAX_CONTRAST = 0.5  # standard deviations at which contrast is clipped
OUTLINE_EDGE = 200  # maximum edge of the image in which a shift of any size is searched, px
MIN_LEVEL_EDGE = 48  # minimum edge of a level of the pyramid, px


@dataclass(frozen=True)
class Detail:
    """The fine detail of a slice at several scales.

    Attributes:
        levels: (y, x) float32, the finest first, each half as large as the one before it.
        outline: (y, x) float32, a coarse image without shading, for the search of a first shift.
        outline_level: number of the level that has the same pixels as the outline.
        factor: edge of a pixel of the finest level, in pixels of the slice.
    """

    levels: tuple[Image, ...]
    outline: Image
    outline_level: int
    factor: int


def extract_detail(image: NDArray[Any], working_mpx: float = WORKING_MPX) -> Detail:
    """Return the fine detail of a slice and of coarser versions of it.

    Args:
        image: (y, x) of any real dtype.
        working_mpx: a slice of more megapixels is shrunk first.
    """
    factor = _shrinking_factor(image.shape, working_mpx)
    scaled = downscale(image.astype(np.float32) if factor == 1 else image, factor)
    levels = [_detail_band(scaled)]
    outline = scaled
    outline_level = 0
    while min(scaled.shape) >= 2 * MIN_LEVEL_EDGE:
        scaled = downscale(scaled, 2)
        levels.append(_detail_band(scaled))
        if max(outline.shape) > OUTLINE_EDGE:
            outline = scaled
            outline_level = len(levels) - 1
    return Detail(tuple(levels), _remove_shading(outline), outline_level, factor)


def _shrinking_factor(shape: Sequence[int], working_mpx: float) -> int:
    """Return the edge, px, of the squares by which a slice has at most so many megapixels."""
    excess = shape[0] * shape[1] / (working_mpx * 1e6)
    return max(1, int(np.ceil(np.sqrt(excess))))


def downscale(image: NDArray[Any], factor: int) -> Image:
    """Return the means over squares of ``factor`` x ``factor`` pixels.

    Pixels that do not fill a square at the far edges are cut off, so that every pixel of the result
    is ``factor`` wide.
    """
    if factor == 1:
        return np.asarray(image, np.float32)
    rows = max(1, image.shape[0] // factor)
    columns = max(1, image.shape[1] // factor)
    cropped = np.ascontiguousarray(image[: rows * factor, : columns * factor])
    means = cv2.resize(cropped, (columns, rows), interpolation=cv2.INTER_AREA)
    return np.asarray(means, np.float32)


def _remove_shading(image: Image) -> Image:
    """Return a smoothed image less its large-scale shading."""
    shading = cv2.GaussianBlur(image, (0, 0), max(image.shape) / 5)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), FINE_PX) - shading, np.float32)


def _detail_band(image: Image) -> Image:
    """Return the detail between two scales, of even contrast, clipped."""
    fine = cv2.GaussianBlur(image, (0, 0), FINE_PX)
    band = fine - cv2.GaussianBlur(image, (0, 0), COARSE_PX)
    spread = _local_spread(band)
    gain = cv2.resize(1 / spread, band.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(band * gain, -MAX_CONTRAST, MAX_CONTRAST), np.float32)


def _local_spread(band: Image) -> Image:
    """Return the standard deviation of a band around every eighth pixel; it is never 0."""
    power = cv2.resize(band * band, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    spread = np.sqrt(cv2.GaussianBlur(power, (0, 0), LOCAL_PX / 8))
    spread += np.float32(0.1 * float(np.median(spread)) + 1e-6)
    return np.asarray(spread)
