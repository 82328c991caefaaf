"""A mask in a box without any learning: the tilted ellipse that touches its four edges, corrected by gray levels.

Of all ellipses with that box, which differ in their tilt alone, the one is taken whose inside differs most in gray from what is around
it. A pixel then belongs to the object by how likely its gray is inside and outside (two normal distributions of one width), and by how
far within the ellipse it lies; and so much is taken for the object that it touches all four edges, as it must.
"""

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

Mask = NDArray[np.bool_]
Gray = NDArray[np.float32]

TILTS = (
    0.0,
    *(sign * tilt for tilt in (0.25, 0.4, 0.55, 0.68, 0.78, 0.86, 0.92) for sign in (-1, 1)),
)  # correlation of x and y
UPRIGHT = 0.05  # how much of the gray levels' variance a full tilt must explain more
SMOOTH = 0.08  # of the shorter edge: standard deviation of the smoothing
SHAPE = 15.0  # what the center of the ellipse is worth, in logarithms of likelihoods
GRAY = 3.0  # what the gray of a pixel is worth at most
AROUND = 0.2  # of the longer edge: what is looked at around a box
INSIDE, OUTSIDE = 0.7, 1.15  # radii within which, and beyond which, gray levels are learnt
LEVELS = tuple(
    -0.5 * step for step in range(13)
)  # of the logarithm from which on a pixel is of the object, tried one after the other
TOUCHES = 0.93  # of the edges of a box that an object must reach
BEYOND = 1.6  # radius from which on nothing is of the object
LONGEST = 128  # px at which an object is looked at, at most: an outline has no more detail


def box_pixels(corners: Sequence[float], shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the pixels of a picture (y, x) that a box covers by half or more: at least one, unless it lies beyond."""
    spans = []
    for low, high, length in (
        (corners[1], corners[3], shape[0]),
        (corners[0], corners[2], shape[1]),
    ):
        first = max(0, math.floor(low + 0.5))
        spans.append(slice(first, min(length, max(math.floor(high + 0.5), first + 1))))
    return spans[0], spans[1]


def mask_in_box(
    image: NDArray[np.generic], corners: Sequence[float]
) -> tuple[Mask, tuple[int, int]]:
    """The most probable mask of the object in a box.

    Args:
        image: gray (y, x).
        corners: ``x0 y0 x1 y1`` px.

    Returns:
        The mask of the pixels that the box covers, and the (y, x) of its first pixel.
    """
    height, width = image.shape
    own_rows, own_columns = box_pixels(corners, (height, width))
    top, bottom, left, right = own_rows.start, own_rows.stop, own_columns.start, own_columns.stop
    if right <= left or bottom <= top:
        return np.zeros((max(0, bottom - top), max(0, right - left)), bool), (top, left)
    pad = max(6, int(AROUND * max(bottom - top, right - left)))
    rows, columns = (
        slice(max(0, top - pad), min(height, bottom + pad)),
        slice(max(0, left - pad), min(width, right + pad)),
    )
    crop = np.asarray(image[rows, columns], np.float32)
    scale = min(1.0, LONGEST / max(bottom - top, right - left))
    if scale < 1:
        crop = np.asarray(
            cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.float32
        )
    within = (
        scale * (top - rows.start),
        scale * (left - columns.start),
        scale * (bottom - top),
        scale * (right - left),
    )
    found = _object(crop, *within)
    if scale < 1:
        whole = (rows.stop - rows.start, columns.stop - columns.start)
        found = (
            cv2.resize(found.astype(np.float32), whole[::-1], interpolation=cv2.INTER_LINEAR) >= 0.5
        )
    own = found[
        top - rows.start : bottom - rows.start, left - columns.start : right - columns.start
    ]
    return np.asarray(own), (top, left)


def _object(gray: Gray, top: float, left: float, height: float, width: float) -> Mask:
    """The mask of the object whose box lies so in a crop."""
    smooth = max(1.0, SMOOTH * min(height, width))
    gray = np.asarray(cv2.GaussianBlur(gray, (0, 0), smooth), np.float32)
    ellipses = [_radius(gray.shape, top, left, height, width, tilt) for tilt in TILTS]
    radius = ellipses[
        int(
            np.argmax(
                [_contrast(gray, one, tilt) for one, tilt in zip(ellipses, TILTS, strict=True)]
            )
        )
    ]
    inside, outside = gray[radius < INSIDE], gray[radius > OUTSIDE]
    if inside.size < 4 or outside.size < 4:
        return np.asarray(radius <= 1)
    middles = float(np.median(inside)), float(np.median(outside))
    likely = (
        (gray - np.mean(middles))
        * (middles[0] - middles[1])
        / ((float(inside.var()) + float(outside.var())) / 2 + 1e-6)
    )
    said = cv2.GaussianBlur(
        (np.clip(likely, -GRAY, GRAY) + SHAPE * (1 - radius)).astype(np.float32), (0, 0), smooth
    )
    mask = said > 0
    for level in LEVELS:
        mask = (said > level) & (radius < BEYOND)
        if (
            _extent(np.asarray(mask.any(axis=1))) >= TOUCHES * height
            and _extent(np.asarray(mask.any(axis=0))) >= TOUCHES * width
        ):
            break
    count, parts = cv2.connectedComponents(mask.astype(np.uint8))
    if count < 2:
        return np.asarray(radius <= 1)
    central = np.bincount(parts[radius < INSIDE], minlength=count)
    central[0] = 0
    return np.asarray(binary_fill_holes(parts == (central.argmax() if central.any() else 1)))


def _radius(
    shape: tuple[int, ...], top: float, left: float, height: float, width: float, tilt: float
) -> Gray:
    """1 on the ellipse of a tilt that touches all edges of a box, less within, more beyond."""
    y = ((np.arange(shape[0]) + 0.5 - top) * 2 / height - 1)[:, None]
    x = ((np.arange(shape[1]) + 0.5 - left) * 2 / width - 1)[None]
    return np.sqrt(np.maximum(0, (x * x - 2 * tilt * x * y + y * y) / (1 - tilt * tilt))).astype(
        np.float32
    )


def _contrast(gray: Gray, radius: Gray, tilt: float) -> float:
    """Part of the variance of the gray levels that the inside of an ellipse explains, less what a tilt must be worth."""
    inside = radius <= 1
    part = float(inside.mean())
    if not 0 < part < 1:
        return -UPRIGHT * tilt * tilt
    difference = float(gray[inside].mean()) - float(gray[~inside].mean())
    return difference**2 * part * (1 - part) / (float(gray.var()) + 1e-9) - UPRIGHT * tilt * tilt


def _extent(there: Mask) -> int:
    """From the first to the last."""
    places = np.flatnonzero(there)
    return int(places[-1] - places[0]) + 1 if len(places) else 0
