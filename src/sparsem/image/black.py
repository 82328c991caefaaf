"""What no microscope has seen: the black rim that alignment leaves. Slices are (y, x) uint8 or uint16."""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_PX = 7  # width and height: a single black pixel is noise


def unseen(image: NDArray[Any]) -> NDArray[np.bool_]:
    """(y, x) the black areas of a slice: those so wide and high, and rims of any width."""
    around = np.pad((image == 0).astype(np.uint8), LEAST_PX, constant_values=1)
    opened = cv2.morphologyEx(around, cv2.MORPH_OPEN, np.ones((LEAST_PX, LEAST_PX), np.uint8))
    return np.asarray(opened[LEAST_PX:-LEAST_PX, LEAST_PX:-LEAST_PX] > 0)
