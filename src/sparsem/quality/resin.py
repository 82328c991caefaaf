"""Noise in resin, which is the same material in every sample (thesis 2.3): its standard deviation where somebody marked resin.

Areas are boolean (y, x) masks of a picture. Where nobody marked resin, the most featureless squares may be proposed; they are a proposal.
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

LEAST_PX = 1000  # of resin: the standard deviation of fewer pixels is good to no more than 2 %
PROPOSED = 6  # squares
SQUARE_PX, LEAST_EDGE_PX = 96, 32  # their edge: an eighth of the picture's, but within these
FEATURELESS = 0.54  # part of a square's standard deviation that smoothing leaves: in resin 0.05 to 0.53 on real pictures, in tissue more
ALL_NOISE = 1.6  # times the noise of the picture that resin varies at most: 1.1 to 1.5 on real pictures, packed axons 2.3
SHOWN_PX = 900  # longest edge of a picture of it
MARKED_COLOR, PROPOSED_COLOR = (0, 114, 178), (230, 159, 0)
SMOOTHED_PX = (
    3.0  # standard deviation of the Gaussian after which noise is small beside what is seen
)


class Box(NamedTuple):
    """Rows and columns of a picture, from the first to before the last."""

    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Resin:
    """Where resin is in a picture.

    Attributes:
        parts: (y, x) masks; one where somebody marked it, and of a proposal one a square.
        is_proposal: nobody marked it.
    """

    parts: tuple[NDArray[np.bool_], ...]
    is_proposal: bool

    @property
    def area(self) -> NDArray[np.bool_]:
        """(y, x) all of it; of no parts there is none."""
        return np.asarray(np.logical_or.reduce(self.parts), bool)

    def noise(self, picture: NDArray[Any]) -> float:
        """Standard deviation 0..1 where resin was marked; of a proposal, whose squares may show different things, the median of theirs.

        Raises:
            InputError: as ``noise_in``.
        """
        return (
            float(np.median([noise_in(picture, part) for part in self.parts]))
            if self.parts
            else math.nan
        )


def proposal(picture: NDArray[Any]) -> Resin:
    """The most featureless squares of a picture (see ``proposed``), if there are any in which noise is most of what there is.

    Of noise little is left when it is smoothed; of tissue most is.
    """
    shape = (picture.shape[0], picture.shape[1])
    spectrum = power_spectrum(picture)
    noise = (
        measure_signal_and_noise(spectrum).noise * float(np.iinfo(picture.dtype).max)
        if spectrum
        else 0.0
    )
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), SMOOTHED_PX)
    parts = []
    for box in proposed(picture):
        inside = np.s_[box.top : box.bottom, box.left : box.right]
        spread = picture[inside].std()
        if (
            picture[inside].size >= LEAST_PX
            and smooth[inside].std() < FEATURELESS * spread
            and spread < ALL_NOISE * noise
        ):
            parts.append(area_of_boxes([box], shape))
    return Resin(tuple(parts), True)


def overlay(picture: NDArray[Any], resin: Resin) -> NDArray[np.uint8]:
    """(y, x, 3), at most 900 px wide or high: what was marked in blue, what is proposed in orange frames."""
    factor = min(1.0, SHOWN_PX / max(picture.shape))
    size = (max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor)))
    small = cv2.resize(picture.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    low, high = np.percentile(small, (0.5, 99.5))
    shown = np.repeat(
        np.clip((small - low) / max(high - low, 1e-6) * 255, 0, 255)[..., None], 3, axis=2
    )
    for part in resin.parts:
        area = cv2.resize(part.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        if resin.is_proposal:
            shown[area > cv2.erode(area, np.ones((5, 5), np.uint8), borderValue=0)] = PROPOSED_COLOR
        else:
            shown[area > 0] = 0.6 * shown[area > 0] + 0.4 * np.array(MARKED_COLOR)
    return shown.astype(np.uint8)


def noise_in(picture: NDArray[Any], area: NDArray[np.bool_]) -> float:
    """Standard deviation of the pixels of an area, 0..1 of the range of gray levels.

    Raises:
        InputError: the area has another shape, or too few pixels.
    """
    if area.shape != picture.shape:
        raise InputError(
            f"Resin is marked on the picture itself; its shape is {picture.shape}, that of the mask {area.shape}."
        )
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
            raise InputError(
                f"The box {' '.join(map(str, box))} (top left bottom right) does not lie in a picture of {shape} px."
            )
        area[box.top : box.bottom, box.left : box.right] = True
    return area


def area_of_polygon(
    corners: Sequence[tuple[float, float]], shape: tuple[int, int]
) -> NDArray[np.bool_]:
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
    edge = min(max(LEAST_EDGE_PX, min(SQUARE_PX, min(picture.shape) // 8)), *picture.shape)
    smooth = cv2.GaussianBlur(picture.astype(np.float32), (0, 0), SMOOTHED_PX)
    black = (picture == 0).astype(np.float32)
    means, squares, unseen = (
        cv2.boxFilter(one, -1, (edge, edge), borderType=cv2.BORDER_REFLECT)
        for one in (smooth, smooth * smooth, black)
    )
    seen = np.maximum(squares - means * means, 0)
    seen[unseen > 0.001] = np.inf
    half = edge // 2
    inner = np.s_[
        half : picture.shape[0] - (edge - half) + 1, half : picture.shape[1] - (edge - half) + 1
    ]
    left = seen[inner].copy()
    found: list[Box] = []
    while len(found) < PROPOSED and left.size and np.isfinite(left.min()):
        top, first = (int(place) for place in np.unravel_index(int(left.argmin()), left.shape))
        found.append(Box(top, first, top + edge, first + edge))
        left[max(0, top - edge + 1) : top + edge, max(0, first - edge + 1) : first + edge] = np.inf
    return found
