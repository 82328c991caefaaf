"""Transforms from the pixels of a derived image to those of the raw one, and warped slices.

A motion is a (2, 3) float64 matrix over (y, x, 1) in pixels, with the centers of pixels at whole
numbers; several motions are (n, 2, 3). The motions of a derived image lead from its pixels to the
positions in the raw image that they show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.settings import Interpolation

Motion = NDArray[np.float64]

UNMOVED = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
PIECE_PX = 8192  # edge of a piece that is warped at once: OpenCV counts pixels in 16 bit
RIM_PX = 3  # pixels beyond a piece that interpolation reads
DECIMALS = np.array([[8, 8, 4], [8, 8, 4]])  # of a stored motion: a ten-thousandth of a pixel

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
        """Return the motions to the raw image, (z, 2, 3); the identity where none are stored."""
        if self.to_raw is None:
            return np.repeat(UNMOVED[None], self.shape[0], axis=0)
        return self.to_raw

    def is_same(self, transform: "Transform") -> bool:
        """Return True if two images show the same position in every pixel."""
        same_shape = self.shape == transform.shape
        return same_shape and np.array_equal(self.motions(), transform.motions())

    def motions_from(self, source: "Transform") -> Motion:
        """Return motions from the pixels of ``source`` to those of this image, (z, 2, 3)."""
        return compose(invert(self.motions()), source.motions())


def compose(second: Motion, first: Motion) -> Motion:
    """Return the motion that applies ``first`` and then ``second``; also of several at once."""
    linear = second[..., :2] @ first[..., :2]
    offset = second[..., :2] @ first[..., 2:] + second[..., 2:]
    return np.concatenate([linear, offset], axis=-1)


def invert(motion: Motion) -> Motion:
    """Return the inverse of a motion; also of several at once."""
    linear = np.linalg.inv(motion[..., :2])
    offset = -linear @ motion[..., 2:]
    return np.concatenate([linear, offset], axis=-1)


def contains_pixels(shape: Sequence[int], other_shape: Sequence[int], motions: Motion) -> bool:
    """Return True if an image has a pixel for every pixel of another one.

    Args:
        shape: (z, y, x) of the image.
        other_shape: (z, y, x) of the other image.
        motions: (z, 2, 3) from the pixels of the other image to those of the image.
    """
    corners = motions @ _corners(other_shape[1:])  # (z, 2, 4)
    upper = np.array(shape[1:], float)[:, None] - 0.5
    return bool(((corners >= -0.5) & (corners < upper)).all())


def _corners(shape: Sequence[int]) -> NDArray[np.float64]:
    """Return the centers of the corner pixels of a slice as columns (y, x, 1)."""
    bottom, right = shape[0] - 1, shape[1] - 1
    return np.array([[0, 0, bottom, bottom], [0, right, 0, right], [1, 1, 1, 1]], float)


def round_motion(motion: Motion) -> Motion:
    """Return a motion without the last digits, which differ between processors."""
    unit = 10.0**DECIMALS
    return np.asarray(np.rint(motion * unit) / unit)


def warp(
    image: NDArray[Any],
    motion: Motion,
    shape: Sequence[int],
    interpolation: Interpolation,
    outside: int = 0,
) -> NDArray[Any]:
    """Return a slice of any size on another pixel grid.

    Args:
        image: (y, x) uint8 or uint16; with ``nearest`` integers of any type.
        motion: (2, 3) from pixels of the result to those of ``image``.
        shape: (y, x) of the result.
        interpolation: ``nearest`` creates no new values: for labels.
        outside: value of pixels beyond the image.
    """
    out = np.full(shape, outside, image.dtype)
    for top in range(0, shape[0], PIECE_PX):
        for left in range(0, shape[1], PIECE_PX):
            piece = out[top : top + PIECE_PX, left : left + PIECE_PX]
            piece_motion = motion.copy()
            piece_motion[:, 2] += motion[:, :2] @ np.array([top, left])
            _warp_piece(image, piece_motion, piece, interpolation, outside)
    return out


@dataclass(frozen=True)
class WarpedStack:
    """A stack on another pixel grid, computed slice by slice when it is sliced.

    Values are those of the nearest pixels.

    Attributes:
        stack: anything with ``dtype`` and ``stack[z0:z1]``.
        motions: (z, 2, 3) from pixels of the result to those of the stack.
        shape: (z, y, x) of the result.
        outside: value of pixels beyond the stack.
    """

    stack: Any
    motions: Motion
    shape: tuple[int, ...]
    outside: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the voxels."""
        dtype: np.dtype[Any] = np.dtype(self.stack.dtype)
        return dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        planes = np.asarray(self.stack[slices])
        warped = [
            warp(plane, motion, self.shape[1:], "nearest", self.outside)
            for plane, motion in zip(planes, self.motions[slices], strict=True)
        ]
        return np.stack(warped) if warped else np.empty((0, *self.shape[1:]), self.dtype)


def _warp_piece(
    image: NDArray[Any],
    motion: Motion,
    piece: NDArray[Any],
    interpolation: Interpolation,
    outside: int,
) -> None:
    """Fill ``piece`` from the part of ``image`` that it shows."""
    corners = motion @ _corners(piece.shape)
    low = np.maximum(np.floor(corners.min(axis=1)) - RIM_PX, 0).astype(int)
    high = np.minimum(np.ceil(corners.max(axis=1)) + RIM_PX + 1, image.shape).astype(int)
    if (high <= low).any():
        return
    part = np.ascontiguousarray(image[low[0] : high[0], low[1] : high[1]])
    offset = motion[:, 2] - low
    if interpolation == "nearest":
        _fill_nearest(part, motion[:, :2], offset, piece)
    elif np.array_equal(motion[:, :2], UNMOVED[:, :2]):
        _fill_shifted(part, offset, piece, interpolation)
    else:
        _fill_affine(part, motion[:, :2], offset, piece, interpolation, outside)


def _fill_affine(
    part: NDArray[Any],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
    piece: NDArray[Any],
    interpolation: Interpolation,
    outside: int,
) -> None:
    """Fill ``piece`` by OpenCV, whose order of axes is x, y."""
    matrix = np.array(
        [[linear[1, 1], linear[1, 0], offset[1]], [linear[0, 1], linear[0, 0], offset[0]]]
    )
    flags = FLAGS[interpolation] | cv2.WARP_INVERSE_MAP
    cv2.warpAffine(part, matrix, piece.shape[::-1], piece, flags, cv2.BORDER_CONSTANT, outside)


def _fill_shifted(
    part: NDArray[Any],
    offset: NDArray[np.float64],
    piece: NDArray[Any],
    interpolation: Interpolation,
) -> None:
    """Fill ``piece`` by a translation.

    Every pixel has the same weights, so it is a filter of four taps along either axis, which is
    four times faster than OpenCV's warp.
    """
    whole = np.floor(offset).astype(int)
    taps = [_taps(fraction, interpolation) for fraction in offset - whole]
    first = np.maximum(0, -whole)
    # Beyond ``last`` positions lie outside of the image.
    last = np.minimum(piece.shape, np.array(part.shape) - whole - (offset > whole))
    if (last <= first).any():
        return
    low, high = first + whole, last + whole
    read_from = np.maximum(0, low - 1)
    read_to = np.minimum(part.shape, high + 2)
    needed = np.ascontiguousarray(part[read_from[0] : read_to[0], read_from[1] : read_to[1]])
    filtered = cv2.sepFilter2D(
        needed, -1, taps[1], taps[0], anchor=(1, 1), borderType=cv2.BORDER_REPLICATE
    )
    y, x = low - read_from
    rows, columns = last - first
    piece[first[0] : last[0], first[1] : last[1]] = filtered[y : y + rows, x : x + columns]


def _taps(fraction: float, interpolation: Interpolation) -> NDArray[np.float64]:
    """Return the weights of the pixels at -1, 0, 1 and 2 for a position at ``fraction``."""
    if interpolation == "cubic":
        return _cubic_taps(fraction)
    return np.array([0, 1 - fraction, fraction, 0])


def _cubic_taps(t: float, a: float = -0.75) -> NDArray[np.float64]:
    """Return cubic weights for a position at ``t`` in 0..1 (Keys 1981, with OpenCV's ``a``)."""
    near = [((a + 2) * d - (a + 3)) * d * d + 1 for d in (t, 1 - t)]
    far = [((a * d - 5 * a) * d + 8 * a) * d - 4 * a for d in (1 + t, 2 - t)]
    return np.array([far[0], near[0], near[1], far[1]])


def _fill_nearest(
    part: NDArray[Any],
    linear: NDArray[np.float64],
    offset: NDArray[np.float64],
    piece: NDArray[Any],
) -> None:
    """Fill ``piece`` with the values of the nearest pixels, of any type."""
    rows, columns = np.arange(piece.shape[0]), np.arange(piece.shape[1])
    if linear[0, 1] == 0 and linear[1, 0] == 0:  # without rotation, rows and columns are copied
        y = _nearest_pixels(linear[0, 0] * rows + offset[0])
        x = _nearest_pixels(linear[1, 1] * columns + offset[1])
        inside_y = (y >= 0) & (y < part.shape[0])
        inside_x = (x >= 0) & (x < part.shape[1])
        piece[np.ix_(inside_y, inside_x)] = part[np.ix_(y[inside_y], x[inside_x])]
        return
    for row in rows:  # a row at a time: no map of positions as large as the slice
        y = _nearest_pixels(linear[0, 0] * row + linear[0, 1] * columns + offset[0])
        x = _nearest_pixels(linear[1, 0] * row + linear[1, 1] * columns + offset[1])
        inside = (y >= 0) & (y < part.shape[0]) & (x >= 0) & (x < part.shape[1])
        piece[row, inside] = part[y[inside], x[inside]]


def _nearest_pixels(positions: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor(positions + 0.5).astype(np.int64)
