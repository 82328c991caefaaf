"""Black areas of a slice: what the microscope did not image, such as the rim that alignment leaves.

Slices are (y, x) uint8 or uint16; black is 0.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_BLACK_PX = 7  # minimum width and height of a black area: a single black pixel is noise


def black_areas(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask (y, x) of the black areas of a slice.

    An area counts if it is at least ``MIN_BLACK_PX`` wide and high, or if it is a rim of any width.
    """
    is_black = (image == 0).astype(np.uint8)
    padded = np.pad(is_black, MIN_BLACK_PX, constant_values=1)
    kernel = np.ones((MIN_BLACK_PX, MIN_BLACK_PX), np.uint8)
    opened = cv2.morphologyEx(padded, cv2.MORPH_OPEN, kernel)
    inner = opened[MIN_BLACK_PX:-MIN_BLACK_PX, MIN_BLACK_PX:-MIN_BLACK_PX]
    return np.asarray(inner > 0)
