"""Masks in boxes without a trained model: a tilted ellipse, corrected by gray levels.

All ellipses that touch the four edges of a box differ only in their tilt. The one is taken whose
inside differs most in gray from its surroundings. A pixel then belongs to the object depending on
how likely its gray level is inside and outside (two normal distributions of one width), and on how
far within the ellipse it lies. The threshold is chosen so that the object touches all four edges of
the box, as it must.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

Mask = NDArray[np.bool_]
Gray = NDArray[np.float32]
PlacedMask = tuple[Mask, tuple[int, int]]  # a mask, and the (y, x) of its first pixel

# Tilts of ellipses as the correlation of x and y, the upright one first.
TILT_SIZES = (0.25, 0.4, 0.55, 0.68, 0.78, 0.86, 0.92)
TILTS = (0.0, *(sign * size for size in TILT_SIZES for sign in (-1, 1)))
# Fraction of the variance of the gray levels that a full tilt must explain in addition.
TILT_PENALTY = 0.05
SMOOTHING = 0.08  # standard deviation of the smoothing, as a fraction of the shorter edge
SHAPE_WEIGHT = 15.0  # log likelihood that the center of the ellipse is worth
MAX_GRAY_WEIGHT = 3.0  # log likelihood that the gray level of a pixel is worth at most
CONTEXT = 0.2  # width of the surroundings of a box, as a fraction of the longer edge
MIN_CONTEXT_PX = 6
# Radii within which, and beyond which, gray levels of object and surroundings are measured.
INSIDE_RADIUS = 0.7
OUTSIDE_RADIUS = 1.15
MIN_SAMPLE_PX = 4  # with fewer pixels inside or outside, the mask is the ellipse
# Thresholds of the log likelihood that are tried, one after the other.
THRESHOLDS = tuple(-0.5 * step for step in range(13))
MIN_EXTENT = 0.93  # fraction of the edges of a box that an object must cover
MAX_RADIUS = 1.6  # radius beyond which no pixel belongs to the object
MAX_EDGE_PX = 128  # objects are shrunk to this edge: an outline has no more detail


def box_pixels(corners: Sequence[float], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Return rows and columns of the pixels that a box covers by half or more.

    There is at least one pixel, unless the box lies beyond the image.

    Args:
        corners: ``x0 y0 x1 y1`` px.
        shape: (y, x) of the image.
    """
    x0, y0, x1, y1 = corners
    return _covered_pixels(y0, y1, shape[0]), _covered_pixels(x0, x1, shape[1])


def _covered_pixels(low: float, high: float, length: int) -> slice:
    """Return the pixels along an axis that are covered by half or more, at least one."""
    first = max(0, math.floor(low + 0.5))
    stop = max(math.floor(high + 0.5), first + 1)
    return slice(first, min(length, stop))


def mask_in_box(image: NDArray[np.generic], corners: Sequence[float]) -> PlacedMask:
    """Return the most probable mask of the object in a box.

    Args:
        image: gray (y, x).
        corners: ``x0 y0 x1 y1`` px.

    Returns:
        The mask of the pixels that the box covers, and the (y, x) of its first pixel.
    """
    image_height, image_width = image.shape
    rows, columns = box_pixels(corners, (image_height, image_width))
    position = (rows.start, columns.start)
    height = rows.stop - rows.start
    width = columns.stop - columns.start
    if width <= 0 or height <= 0:
        return np.zeros((max(0, height), max(0, width)), bool), position
    context = max(MIN_CONTEXT_PX, int(CONTEXT * max(height, width)))
    crop_rows = _widen(rows, context, image_height)
    crop_columns = _widen(columns, context, image_width)
    crop = np.asarray(image[crop_rows, crop_columns], np.float32)
    top = rows.start - crop_rows.start
    left = columns.start - crop_columns.start
    mask = _object_mask_of_crop(crop, top, left, height, width)
    own_mask = mask[top : top + height, left : left + width]
    return np.asarray(own_mask), position


def _object_mask_of_crop(crop: Gray, top: int, left: int, height: int, width: int) -> Mask:
    """Return the mask of the object in a crop; a large one is shrunk meanwhile."""
    scale = min(1.0, MAX_EDGE_PX / max(height, width))
    if scale < 1:
        return _shrunken_object_mask(crop, top, left, height, width, scale)
    return _object_mask(crop, top, left, height, width)


def _widen(pixels: slice, context: int, length: int) -> slice:
    """Return a range of pixels with its surroundings, as far as the image reaches."""
    return slice(max(0, pixels.start - context), min(length, pixels.stop + context))


def _shrunken_object_mask(
    crop: Gray, top: float, left: float, height: float, width: float, scale: float
) -> Mask:
    """Return ``_object_mask`` of a crop that is shrunk by ``scale``, in the size of the crop."""
    small = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    mask = _object_mask(
        np.asarray(small, np.float32), scale * top, scale * left, scale * height, scale * width
    )
    crop_size = (crop.shape[1], crop.shape[0])
    enlarged = cv2.resize(mask.astype(np.float32), crop_size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged >= 0.5)


def _object_mask(gray: Gray, top: float, left: float, height: float, width: float) -> Mask:
    """Return the mask of the object in a crop.

    Args:
        gray: the crop (y, x).
        top: first row of the box in the crop.
        left: first column of the box in the crop.
        height: height of the box.
        width: width of the box.
    """
    smoothing = max(1.0, SMOOTHING * min(height, width))
    gray = np.asarray(cv2.GaussianBlur(gray, (0, 0), smoothing), np.float32)
    radius = _best_radius(gray, top, left, height, width)
    inside = gray[radius < INSIDE_RADIUS]
    outside = gray[radius > OUTSIDE_RADIUS]
    if inside.size < MIN_SAMPLE_PX or outside.size < MIN_SAMPLE_PX:
        return np.asarray(radius <= 1)
    gray_evidence = _log_likelihood_ratio(gray, inside, outside)
    shape_evidence = SHAPE_WEIGHT * (1 - radius)
    evidence = np.clip(gray_evidence, -MAX_GRAY_WEIGHT, MAX_GRAY_WEIGHT) + shape_evidence
    evidence = cv2.GaussianBlur(evidence.astype(np.float32), (0, 0), smoothing)
    mask = _mask_of_extent(np.asarray(evidence), radius, height, width)
    return _central_component(mask, radius)


def _best_radius(gray: Gray, top: float, left: float, height: float, width: float) -> Gray:
    """Return the radius of each pixel in the ellipse that differs most from its surroundings."""
    radii = [_ellipse_radius(gray.shape, top, left, height, width, tilt) for tilt in TILTS]
    contrasts = [_contrast(gray, radius, tilt) for radius, tilt in zip(radii, TILTS, strict=True)]
    return radii[int(np.argmax(contrasts))]


def _log_likelihood_ratio(gray: Gray, inside: Gray, outside: Gray) -> Gray:
    """Return how much more likely gray levels are inside than outside.

    Both are normal distributions with their own median and a common variance.
    """
    medians = float(np.median(inside)), float(np.median(outside))
    variance = (float(inside.var()) + float(outside.var())) / 2 + 1e-6
    ratio = (gray - np.mean(medians)) * (medians[0] - medians[1]) / variance
    return np.asarray(ratio)


def _mask_of_extent(evidence: Gray, radius: Gray, height: float, width: float) -> Mask:
    """Return the mask above the highest threshold at which it covers the edges of the box."""
    mask = evidence > 0
    for threshold in THRESHOLDS:
        mask = (evidence > threshold) & (radius < MAX_RADIUS)
        covers_height = _extent(np.asarray(mask.any(axis=1))) >= MIN_EXTENT * height
        if covers_height and _extent(np.asarray(mask.any(axis=0))) >= MIN_EXTENT * width:
            break
    return np.asarray(mask)


def _central_component(mask: Mask, radius: Gray) -> Mask:
    """Return the component that holds most of the center, without holes; else the ellipse."""
    count, components = cv2.connectedComponents(mask.astype(np.uint8))
    if count < 2:
        return np.asarray(radius <= 1)
    central = np.bincount(components[radius < INSIDE_RADIUS], minlength=count)
    central[0] = 0
    component = central.argmax() if central.any() else 1
    return np.asarray(binary_fill_holes(components == component))


def _ellipse_radius(
    shape: tuple[int, ...], top: float, left: float, height: float, width: float, tilt: float
) -> Gray:
    """Return the radius of each pixel in units of an ellipse that touches all edges of a box.

    It is 1 on the ellipse, less within, and more beyond.
    """
    y = ((np.arange(shape[0]) + 0.5 - top) * 2 / height - 1)[:, None]
    x = ((np.arange(shape[1]) + 0.5 - left) * 2 / width - 1)[None]
    squared = (x * x - 2 * tilt * x * y + y * y) / (1 - tilt * tilt)
    return np.sqrt(np.maximum(0, squared)).astype(np.float32)


def _contrast(gray: Gray, radius: Gray, tilt: float) -> float:
    """Return the fraction of the gray levels' variance that an ellipse explains, less a penalty.

    The penalty grows with the tilt.
    """
    penalty = TILT_PENALTY * tilt * tilt
    is_inside = radius <= 1
    fraction = float(is_inside.mean())
    if not 0 < fraction < 1:
        return -penalty
    difference = float(gray[is_inside].mean()) - float(gray[~is_inside].mean())
    variance = float(gray.var()) + 1e-9
    return difference**2 * fraction * (1 - fraction) / variance - penalty


def _extent(is_covered: Mask) -> int:
    """Return the number of pixels from the first to the last True."""
    indices = np.flatnonzero(is_covered)
    return int(indices[-1] - indices[0]) + 1 if len(indices) else 0
