"""Noise in resin (thesis 2.3): the standard deviation of gray levels in areas of resin.

Resin is the same material in every sample. Areas are boolean (y, x) masks of an image. Where no
resin is marked, the most featureless squares may be proposed as resin (see ``propose_resin``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.image.noise import measure_signal_and_noise
from sparsem.image.spectrum import power_spectrum

MIN_RESIN_PX = 1000  # the standard deviation of fewer pixels is accurate to no more than 2 %
MAX_PROPOSED_SQUARES = 6
# Edge of the proposed squares, px: an eighth of the image's, within these limits.
MAX_SQUARE_PX = 96
MIN_SQUARE_PX = 32
# Maximum fraction of a square's standard deviation that is left after smoothing: in resin 0.05 to
# 0.53 on real images, in tissue more.
MAX_SMOOTHED_FRACTION = 0.54
# Maximum standard deviation of resin, as a multiple of the noise of the image: 1.1 to 1.5 on real
# images, 2.3 in packed axons.
MAX_NOISE_FACTOR = 1.6
MAX_BLACK_FRACTION = 0.001  # of a proposed square
# Standard deviation of the Gaussian after which noise is small compared with structure.
SMOOTHING_PX = 3.0
MAX_OVERLAY_PX = 900  # longest edge of a rendering of the resin
# RGB.
MARKED_COLOR = (0, 114, 178)
PROPOSED_COLOR = (230, 159, 0)

Mask = NDArray[np.bool_]


class Box(NamedTuple):
    """Rows top to bottom and columns left to right of an image; bottom and right are exclusive."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Resin:
    """The areas of resin in an image.

    Attributes:
        parts: (y, x) masks; a single one if resin was marked, one for each square of a proposal.
        is_proposal: resin was not marked; the parts are a proposal.
    """

    parts: tuple[Mask, ...]
    is_proposal: bool

    @property
    def area(self) -> Mask:
        """Mask (y, x) of all parts; empty without parts."""
        return np.asarray(np.logical_or.reduce(self.parts), bool)

    def noise(self, image: NDArray[Any]) -> float:
        """Return the standard deviation in resin, 0..1 of the range of gray levels.

        For a proposal, whose squares may show different things, it is the median of the squares;
        NaN without parts.

        Raises:
            InputError: see ``noise_in_area``.
        """
        if not self.parts:
            return math.nan
        return float(np.median([noise_in_area(image, part) for part in self.parts]))


def noise_in_area(image: NDArray[Any], area: Mask) -> float:
    """Return the standard deviation of the pixels of an area, 0..1 of the range of gray levels.

    Raises:
        InputError: the area has another shape than the image, or too few pixels.
    """
    if area.shape != image.shape:
        raise InputError(
            f"The mask of resin has the shape {area.shape}, the image {image.shape}; "
            "expected the same."
        )
    count = int(np.count_nonzero(area))
    if count < MIN_RESIN_PX:
        raise InputError(f"{count} pixels are marked as resin; expected at least {MIN_RESIN_PX}.")
    return float(image[area].std(dtype=np.float64)) / float(np.iinfo(image.dtype).max)


def mask_from_boxes(boxes: Sequence[Box], shape: tuple[int, int]) -> Mask:
    """Return a mask of the pixels of boxes.

    Raises:
        InputError: a box is empty, or reaches beyond the image.
    """
    mask = np.zeros(shape, bool)
    for box in boxes:
        has_rows = 0 <= box.top < box.bottom <= shape[0]
        has_columns = 0 <= box.left < box.right <= shape[1]
        if not (has_rows and has_columns):
            raise InputError(
                f"The box {' '.join(map(str, box))} (top left bottom right) does not lie in an "
                f"image of {shape} px."
            )
        mask[box.top : box.bottom, box.left : box.right] = True
    return mask


def mask_from_polygon(corners: Sequence[tuple[float, float]], shape: tuple[int, int]) -> Mask:
    """Return a mask of the pixels inside a polygon of (y, x) corners.

    Raises:
        InputError: fewer than three corners.
    """
    if len(corners) < 3:
        raise InputError(f"A polygon has at least three corners; got {len(corners)}.")
    points = np.array([(x, y) for y, x in corners], np.float64).round().astype(np.int32)
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [points], 1)
    return mask > 0


def propose_resin(image: NDArray[Any]) -> Resin:
    """Propose the most featureless squares of an image as resin, where these contain mainly noise.

    Smoothing removes most of noise, but little of tissue.
    """
    shape = (image.shape[0], image.shape[1])
    noise = _noise_gray(image)
    smooth = _smoothed(image)
    parts = []
    for box in featureless_squares(image):
        square = np.s_[box.top : box.bottom, box.left : box.right]
        if _is_mainly_noise(image[square], smooth[square], noise):
            parts.append(mask_from_boxes([box], shape))
    return Resin(tuple(parts), is_proposal=True)


def _noise_gray(image: NDArray[Any]) -> float:
    """Return the noise of an image in gray levels; 0 if it cannot be measured."""
    spectrum = power_spectrum(image)
    if not spectrum:
        return 0.0
    return measure_signal_and_noise(spectrum).noise * float(np.iinfo(image.dtype).max)


def _smoothed(image: NDArray[Any]) -> NDArray[np.float32]:
    """Return an image in which noise is small compared with structure."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), SMOOTHING_PX)
    return np.asarray(smooth, np.float32)


def _is_mainly_noise(
    square: NDArray[Any], smooth_square: NDArray[np.float32], noise: float
) -> bool:
    """Return whether a square is large enough, and as featureless as resin."""
    if square.size < MIN_RESIN_PX:
        return False
    deviation = square.std()
    is_featureless = smooth_square.std() < MAX_SMOOTHED_FRACTION * deviation
    return bool(is_featureless and deviation < MAX_NOISE_FACTOR * noise)


def featureless_squares(image: NDArray[Any]) -> list[Box]:
    """Return the squares of an image with the least structure: at most six, without overlap.

    Structure is what is left when noise is smoothed away: its standard deviation, and that of the
    square's halves against each other. Black squares, which were not imaged, are left out.
    """
    edge = _square_edge(*image.shape)
    remaining = _structure_of_squares(image, edge)
    boxes: list[Box] = []
    while len(boxes) < MAX_PROPOSED_SQUARES and remaining.size and np.isfinite(remaining.min()):
        corner = np.unravel_index(int(remaining.argmin()), remaining.shape)
        top, left = (int(index) for index in corner)
        boxes.append(Box(top, left, top + edge, left + edge))
        rows = slice(max(0, top - edge + 1), top + edge)
        columns = slice(max(0, left - edge + 1), left + edge)
        remaining[rows, columns] = np.inf
    return boxes


def _square_edge(height: int, width: int) -> int:
    """Return the edge of the proposed squares of an image, px."""
    preferred = max(MIN_SQUARE_PX, min(MAX_SQUARE_PX, min(height, width) // 8))
    return min(preferred, height, width)


def _structure_of_squares(image: NDArray[Any], edge: int) -> NDArray[np.float32]:
    """Return the structure in every square of an image, at the upper left corner of the square."""
    height, width = image.shape
    half = edge // 2
    # ``_structure_around`` stores it at the centers of squares.
    inner = np.s_[half : height - (edge - half) + 1, half : width - (edge - half) + 1]
    return _structure_around(image, edge)[inner].copy()


def _structure_around(image: NDArray[Any], edge: int) -> NDArray[np.float32]:
    """Return the variance of the smoothed image in a square around every pixel.

    It is infinite where the square is black.
    """

    def box_mean(values: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(cv2.boxFilter(values, -1, (edge, edge), borderType=cv2.BORDER_REFLECT))

    smooth = _smoothed(image)
    means = box_mean(smooth)
    squares = box_mean(smooth * smooth)
    black_fraction = box_mean((image == 0).astype(np.float32))
    variance = np.maximum(squares - means * means, 0)
    variance[black_fraction > MAX_BLACK_FRACTION] = np.inf
    return np.asarray(variance)


def resin_overlay(image: NDArray[Any], resin: Resin) -> NDArray[np.uint8]:
    """Return a rendering (y, x, 3) of an image with its resin, at most 900 px wide or high.

    Marked resin is blue, proposed squares have orange frames.
    """
    size = _overlay_size(*image.shape)
    small = cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    colors = np.repeat(_full_contrast(small)[..., None], 3, axis=2)
    for part in resin.parts:
        area = cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        if resin.is_proposal:
            colors[_frame(area)] = PROPOSED_COLOR
        else:
            colors[area > 0] = 0.6 * colors[area > 0] + 0.4 * np.array(MARKED_COLOR)
    return colors.astype(np.uint8)


def _overlay_size(height: int, width: int) -> tuple[int, int]:
    """Return width and height of the rendering of an image."""
    factor = min(1.0, MAX_OVERLAY_PX / max(height, width))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _full_contrast(gray: NDArray[Any]) -> NDArray[Any]:
    """Return gray levels that are stretched over 0..255; a hundredth of the pixels saturates."""
    low, high = np.percentile(gray, (0.5, 99.5))
    return np.asarray(np.clip((gray - low) / max(high - low, 1e-6) * 255, 0, 255))


def _frame(area: NDArray[Any]) -> Mask:
    """Return the outermost two pixels of an area (y, x) uint8."""
    inside = cv2.erode(area, np.ones((5, 5), np.uint8), borderValue=0)
    return np.asarray(area > inside)
