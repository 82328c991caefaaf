"""Gray levels: how the numbers of a source become 8 or 16 bit unsigned images."""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsem.errors import InputError
from sparsem.geometry import evenly_spaced
from sparsem.io.readers.source import Source, Stack

SAMPLED_SLICES = 16  # slices from which the range of gray levels is taken
OUTSIDE_PERCENT = 0.1  # percent of their pixels that lie beyond the range, on either side


class GrayMapping(NamedTuple):
    """Linear mapping of numbers to gray levels: ``low`` becomes 0 and ``high`` becomes ``top``.

    Attributes:
        low: the number that becomes black.
        high: the number that becomes white.
        top: the highest gray level, 255 or 65535.
        unchanged: the numbers are the gray levels already.
    """

    low: float
    high: float
    top: int
    unchanged: bool

    def __str__(self) -> str:
        return f"{self.low:.9g} to {self.high:.9g} become 0 to {self.top}"

    @property
    def dtype(self) -> DTypeLike:
        """Type of the gray levels."""
        return np.uint8 if self.top == np.iinfo(np.uint8).max else np.uint16

    def apply(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Return the gray levels of numbers (z, y, x) of any type, rounded half up.

        Numbers beyond the range become black or white.
        """
        if self.unchanged:
            return np.ascontiguousarray(voxels, self.dtype)
        gray = np.empty(voxels.shape, self.dtype)
        # One plane at a time: the intermediate values take eight bytes a voxel.
        for plane, gray_plane in zip(voxels, gray, strict=True):
            scaled = (plane.astype(np.float64) - self.low) * (self.top / (self.high - self.low))
            gray_plane[...] = np.floor(np.clip(scaled, 0, self.top) + 0.5)
        return gray


def gray_mapping(
    source: Source,
    intensity_range: tuple[float, float] | None = None,
    bits: Literal[8, 16] | None = None,
) -> GrayMapping:
    """Return the mapping from the numbers of a source to gray levels.

    Bytes keep their whole range, so signed ones lose nothing. Unsigned numbers of the wanted bits
    stay as they are. For other numbers, the range holds all but 0.2 % of the pixels of 16 evenly
    spaced slices.

    Args:
        source: the stack.
        intensity_range: the numbers that become black and white; by default, as described above.
        bits: 8 or 16; by default, 8 for one-byte numbers and 16 for all others.

    Raises:
        InputError: nearly all numbers are equal, or the range is empty.
    """
    dtype = source.stack.dtype
    if bits is None:
        bits = 8 if dtype.itemsize == 1 else 16
    top = 2**bits - 1
    if intensity_range is not None:
        return _stated_mapping(intensity_range, top)
    if dtype in (np.uint8, np.uint16) and dtype.itemsize * 8 == bits:
        return GrayMapping(0, top, top, unchanged=True)
    if dtype.itemsize == 1:
        low, high = _byte_range(dtype)
    else:
        low, high = _sampled_range(source.stack, source.files[0].name)
    return GrayMapping(low, high, top, unchanged=False)


def _stated_mapping(intensity_range: tuple[float, float], top: int) -> GrayMapping:
    """Return the mapping of the range that the user states.

    Raises:
        InputError: the range is empty.
    """
    low, high = intensity_range
    if not low < high:
        raise InputError(
            "--intensity-range takes what becomes black and what becomes white, "
            f"such as 0 4095; got {low:g} {high:g}."
        )
    return GrayMapping(low, high, top, unchanged=False)


def _byte_range(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the lowest and the highest number of a one-byte type."""
    if dtype.kind == "b":
        return 0.0, 1.0
    limits = np.iinfo(dtype)
    return float(limits.min), float(limits.max)


def _sampled_range(stack: Stack, name: str) -> tuple[float, float]:
    """Return the median range of all but 0.2 % of the pixels of evenly spaced slices."""
    n_slices = stack.shape[0]
    ranges = []
    for z in evenly_spaced(n_slices, min(SAMPLED_SLICES, n_slices)):
        voxels = np.asarray(stack[z : z + 1])
        refuse_non_finite(voxels, name, z)
        ranges.append(np.percentile(voxels, (OUTSIDE_PERCENT, 100 - OUTSIDE_PERCENT)))
    low, high = np.median(ranges, axis=0).tolist()
    if not low < high:
        raise InputError(
            f"{name} holds the same number, {low:g}, almost everywhere; "
            "say what is black and white with --intensity-range."
        )
    return low, high


def refuse_non_finite(voxels: NDArray[Any], name: str, first_slice: int) -> None:
    """Refuse numbers that cannot become gray levels: NaN and infinite ones.

    Args:
        voxels: (z, y, x).
        name: of the file, for the message.
        first_slice: number of the first of these slices in the stack.

    Raises:
        InputError: the message names the slice.
    """
    if np.issubdtype(voxels.dtype, np.floating) and not np.isfinite(voxels).all():
        is_finite_slice = np.isfinite(voxels).all(axis=(1, 2))
        z = first_slice + int(np.nonzero(~is_finite_slice)[0][0])
        raise InputError(
            f"Slice {z} of {name} holds values that are not numbers (NaN or infinite); "
            "replace them before importing."
        )
