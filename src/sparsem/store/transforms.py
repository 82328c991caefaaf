"""Where the pixels of a derived image lie in the raw one, slice by slice, and carrying a slice from one frame to another.

A motion is a (2, 3) float64 matrix over (y, x, 1) in pixels, centers of pixels at whole numbers; many of them are (n, 2, 3). The motions
of a frame lead from a pixel of the derived image to the place in the raw image that it shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Motion = NDArray[np.float64]
Interpolation = Literal["nearest", "linear", "cubic"]

UNMOVED = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
PIECE_PX = 8192  # edge of what is moved at once: OpenCV counts pixels in 16 bit
RIM_PX = 3  # what interpolation looks at beyond a piece
DECIMALS = np.array([[8, 8, 4], [8, 8, 4]])  # of a motion that is kept: a ten-thousandth of a pixel

FLAGS = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


@dataclass(frozen=True)
class Transform:
    """The pixel grid of an image.

    Attributes:
        shape: (z, y, x) of the image.
        to_raw: (z, 2, 3), from its pixels to the raw image's; None where they are the same.
    """

    shape: tuple[int, int, int]
    to_raw: Motion | None = None

    def motions(self) -> Motion:
        """(z, 2, 3), also where nothing moves."""
        return (
            np.repeat(UNMOVED[None], self.shape[0], axis=0) if self.to_raw is None else self.to_raw
        )

    def is_same(self, other: "Transform") -> bool:
        """Whether two images show the same place in every pixel."""
        return self.shape == other.shape and np.array_equal(self.motions(), other.motions())

    def seen_from(self, other: "Transform") -> Motion:
        """(z, 2, 3) from the pixels of ``other`` to those of this image that show the same place."""
        return joined(inverse(self.motions()), other.motions())


def joined(second: Motion, first: Motion) -> Motion:
    """The motion that does ``first`` and then ``second``; also of many at once."""
    linear = second[..., :2] @ first[..., :2]
    return np.concatenate([linear, second[..., :2] @ first[..., 2:] + second[..., 2:]], axis=-1)


def inverse(motion: Motion) -> Motion:
    """The way back; also of many at once."""
    back = np.linalg.inv(motion[..., :2])
    return np.concatenate([back, -back @ motion[..., 2:]], axis=-1)


def covers(shape: Sequence[int], seen: Sequence[int], motions: Motion) -> bool:
    """Whether slices of ``shape`` (z, y, x) have a pixel for every pixel of those of ``seen`` that ``motions`` (z, 2, 3) lead from."""
    rows, columns = seen[1] - 1, seen[2] - 1
    corners = motions @ np.array(
        [[0, 0, rows, rows], [0, columns, 0, columns], [1, 1, 1, 1]], float
    )  # (z, 2, 4)
    beyond = np.array(shape[1:], float)[:, None] - 0.5
    return bool(((corners >= -0.5) & (corners < beyond)).all())


def rounded(motion: Motion) -> Motion:
    """The same motion, whatever the last digits of the processor that found it; also of many at once."""
    unit = 10.0**DECIMALS
    return np.asarray(np.rint(motion * unit) / unit)


def moved(
    image: NDArray[Any], motion: Motion, shape: Sequence[int], how: Interpolation, outside: int = 0
) -> NDArray[Any]:
    """A slice as another frame sees it, of any size, a piece at a time.

    Args:
        image: (y, x) uint8, uint16, or with ``nearest`` any whole numbers.
        motion: (2, 3) from pixels of the result to those of ``image``.
        shape: (y, x) of the result.
        how: ``nearest`` invents no value: for labels.
        outside: what lies beyond the image.
    """
    out = np.full(shape, outside, image.dtype)
    for top in range(0, shape[0], PIECE_PX):
        for left in range(0, shape[1], PIECE_PX):
            piece = out[top : top + PIECE_PX, left : left + PIECE_PX]
            here = motion.copy()
            here[:, 2] += motion[:, :2] @ np.array([top, left])
            _move_piece(image, here, piece, how, outside)
    return out


@dataclass(frozen=True)
class MovedStack:
    """A stack as another frame sees it, slice by slice when it is sliced; values are those of the nearest pixels.

    Attributes:
        stack: anything with ``dtype`` and ``stack[z0:z1]``.
        motions: (z, 2, 3) from pixels seen to those of the stack.
        shape: (z, y, x) as it is seen.
        outside: what lies beyond the stack.
    """

    stack: Any
    motions: Motion
    shape: tuple[int, ...]
    outside: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        kind: np.dtype[Any] = np.dtype(self.stack.dtype)
        return kind

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        given = np.asarray(self.stack[slices])
        chosen = self.motions[slices]
        seen = [
            moved(one, motion, self.shape[1:], "nearest", self.outside)
            for one, motion in zip(given, chosen, strict=True)
        ]
        return np.stack(seen) if seen else np.empty((0, *self.shape[1:]), self.dtype)


def _move_piece(
    image: NDArray[Any], motion: Motion, piece: NDArray[Any], how: Interpolation, outside: int
) -> None:
    """Fill ``piece`` from the part of ``image`` that it shows."""
    rows, columns = (length - 1 for length in piece.shape)
    corners = motion @ np.array([[0, 0, rows, rows], [0, columns, 0, columns], [1, 1, 1, 1]])
    low = np.maximum(np.floor(corners.min(axis=1)) - RIM_PX, 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=1)) + RIM_PX + 1, image.shape).astype(int)
    if (high <= low).any():
        return
    part = np.ascontiguousarray(image[low[0] : high[0], low[1] : high[1]])
    here = motion[:, 2] - low
    if how == "nearest":
        _nearest(part, motion[:, :2], here, piece)
        return
    if np.array_equal(motion[:, :2], UNMOVED[:, :2]):
        _shift(part, here, piece, how)
        return
    matrix = np.array(
        [[motion[1, 1], motion[1, 0], here[1]], [motion[0, 1], motion[0, 0], here[0]]]
    )  # OpenCV's order is x, y
    flags = FLAGS[how] | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(part, matrix, piece.shape[::-1], piece, flags, cv2.BORDER_CONSTANT, outside)


def _shift(
    part: NDArray[Any], offset: NDArray[np.float64], piece: NDArray[Any], how: Interpolation
) -> None:
    """A translation: every pixel has the same weights, so it is a filter of four taps along either axis (four times faster)."""
    whole = np.floor(offset).astype(int)
    taps = [
        _cubic(part_of) if how == "cubic" else np.array([0, 1 - part_of, part_of, 0])
        for part_of in offset - whole
    ]
    first = np.maximum(0, -whole)
    last = np.minimum(
        piece.shape, np.array(part.shape) - whole - (offset > whole)
    )  # beyond it the place lies outside of the image
    if (last <= first).any():
        return
    low, high = first + whole, last + whole
    reach = [
        (max(0, int(a) - 1), min(length, int(b) + 2))
        for a, b, length in zip(low, high, part.shape, strict=True)
    ]
    needed = np.ascontiguousarray(part[reach[0][0] : reach[0][1], reach[1][0] : reach[1][1]])
    filtered = cv2.sepFilter2D(
        needed, -1, taps[1], taps[0], anchor=(1, 1), borderType=cv2.BORDER_REPLICATE
    )
    y, x = (int(a) - start for a, (start, _) in zip(low, reach, strict=True))
    rows, columns = (int(b - a) for a, b in zip(first, last, strict=True))
    piece[first[0] : last[0], first[1] : last[1]] = filtered[y : y + rows, x : x + columns]


def _cubic(t: float, a: float = -0.75) -> NDArray[np.float64]:
    """Weights of the pixels at -1, 0, 1, 2 for a place at ``t`` in 0..1 (Keys 1981, with OpenCV's ``a``)."""
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + t, 2 - t)]
    return np.array([far[0], near[0], near[1], far[1]])


def _nearest(
    part: NDArray[Any],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
    piece: NDArray[Any],
) -> None:
    """Values of the nearest pixels, of any type; where nothing turns these are two copies of rows and columns."""
    rows, columns = np.arange(piece.shape[0]), np.arange(piece.shape[1])
    if linear[0, 1] == 0 and linear[1, 0] == 0:
        y, x = (
            np.floor(linear[k, k] * axis + offset[k] + 0.5).astype(np.int64)
            for k, axis in enumerate((rows, columns))
        )
        inside_y, inside_x = (y >= 0) & (y < part.shape[0]), (x >= 0) & (x < part.shape[1])
        piece[np.ix_(inside_y, inside_x)] = part[np.ix_(y[inside_y], x[inside_x])]
        return
    for row in rows:  # a row at a time: no map of places as large as the slice
        y = np.floor(linear[0, 0] * row + linear[0, 1] * columns + offset[0] + 0.5).astype(np.int64)
        x = np.floor(linear[1, 0] * row + linear[1, 1] * columns + offset[1] + 0.5).astype(np.int64)
        inside = (y >= 0) & (y < part.shape[0]) & (x >= 0) & (x < part.shape[1])
        piece[row, inside] = part[y[inside], x[inside]]
