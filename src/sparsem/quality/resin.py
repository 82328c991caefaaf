"""Noise in resin, which is the same material in every sample (thesis 2.3): its standard deviation where somebody marked resin.

Areas are boolean (y, x) masks of a picture. Where nobody marked resin, the most featureless squares may be proposed; they are a proposal.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError

LEAST_PX = 1000  # of resin: the standard deviation of fewer pixels is good to no more than 2 %
PROPOSED = 6  # squares
SQUARE_PX = 96  # their edge, or an eighth of the picture's if that is less
SMOOTHED_PX = 3.0  # standard deviation of the Gaussian after which noise is small beside what is seen


class Box(NamedTuple):
    """Rows and columns of a picture, from the first to before the last."""

    top: int
    left: int
    bottom: int
    right: int


def noise_in(picture: NDArray[Any], area: NDArray[np.bool_]) -> float:
    """Standard deviation of the pixels of an area, 0..1 of the range of grey levels.

    Raises:
        InputError: the area has another shape, or too few pixels.
    """
    if area.shape != picture.shape:
        raise InputError(f"Resin is marked on the picture itself; its shape is {picture.shape}, that of the mask {area.shape}.")
    if (count := int(np.count_nonzero(area))) < LEAST_PX:
        raise InputError(f"{count} pixels are marked as resin; expected at least {LEAST_PX}.")
    return float(picture[area].std(dtype=np.float64)) / float(np.iinfo(picture.dtype).max)


def area_of_boxes(boxes: Sequence[Box], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels of boxes.

    Raises:
        InputError: one is empty, or reaches beyond the picture.
    """
    area = np.zeros(shape, bool)
    for box in boxes:
        if not (0 <= box.top < box.bottom <= shape[0] and 0 <= box.left < box.right <= shape[1]):
            raise InputError(f"The box {' '.join(map(str, box))} (top left bottom right) does not lie in a picture of {shape} px.")
        area[box.top : box.bottom, box.left : box.right] = True
    return area


def area_of_polygon(corners: Sequence[tuple[float, float]], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels inside a polygon of (y, x) corners.

    Raises:
        InputError: fewer than three corners.
    """
    if len(corners) < 3:
        raise InputError(f"A polygon has at least three corners; got {len(corners)}.")
    points = np.array([(x, y) for y, x in corners], np.float64).round().astype(np.int32)
    area = np.zeros(shape, np.uint8)
    cv2.fillPoly(area, [points], 1)
    return area > 0


def proposed(picture: NDArray[Any]) -> list[Box]:
    """The squares of a picture in which least is to be seen, at most six, none over another; black ones, which nobody imaged, are none.

    What is seen is what is left when noise is smoothed away: its standard deviation, and that of the square's halves against each other.
    """
    edge = max(8, min(SQUARE_PX, min(picture.shape) // 8))
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), SMOOTHED_PX)
    black = (picture == 0).astype(np.float32)
    means, squares, unseen = (
        cv2.boxFilter(one, -1, (edge, edge), borderType=cv2.BORDER_REFLECT) for one in (smooth, smooth * smooth, black)
    )
    seen = np.maximum(squares - means * means, 0)
    seen[unseen > 0.001] = np.inf
    half = edge // 2
    inner = np.s_[half : picture.shape[0] - (edge - half) + 1, half : picture.shape[1] - (edge - half) + 1]
    left = seen[inner].copy()
    found: list[Box] = []
    while len(found) < PROPOSED and left.size and np.isfinite(left.min()):
        top, first = (int(place) for place in np.unravel_index(int(left.argmin()), left.shape))
        found.append(Box(top, first, top + edge, first + edge))
        left[max(0, top - edge + 1) : top + edge, max(0, first - edge + 1) : first + edge] = np.inf
    return found
