"""The pattern spectrum of an object: how much of its brightness lies in structures of each size.

Maragos 1989; Thibault et al. 2017; Machireddy et al. 2023, equation 16, printed there as power
spectrum.

Openings remove bright structures that are smaller than a structuring element, closings dark ones.
The element of size n is the Minkowski sum of n small elements, so that openings of growing size
remove more and more and no term is negative; a digital ball would not do. The element grows along
every axis by the same length, and never reaches across a gap in the object.

Images are (z, y, x) uint8 or uint16, masks boolean.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.measure.settings import Element

Image = NDArray[Any]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


class SpectrumMoments(NamedTuple):
    """Moments of a pattern spectrum that is normalized to a sum of one.

    They are NaN if no opening and no closing changes the object.

    Attributes:
        mean: mean size n; negative if dark structures prevail.
        deviation: standard deviation of the size.
        skewness: third standardized moment.
        entropy: - sum p ln p; 0 for a single size.
    """

    mean: float
    deviation: float
    skewness: float
    entropy: float


class Growth(NamedTuple):
    """The element that is added to a structuring element from one size to the next.

    Attributes:
        half_lengths: (z, y, x), in voxels.
        pointed: the element is an octahedron, else a box.
    """

    half_lengths: tuple[int, int, int]
    pointed: bool


def element_growth(
    sizes: int, step: float, voxel: Sequence[float], element: Element
) -> list[Growth]:
    """Return the growth of a structuring element from each size to the next.

    The element of size n reaches ``n step`` along each axis, rounded to voxels. A box grows by
    boxes. A ball grows by octahedra and boxes in turn, whose sum is rounder than either.

    Args:
        sizes: number of sizes.
        step: length from one size to the next.
        voxel: edge lengths (z, y, x), in the unit of ``step``.
        element: shape of the structuring element.
    """
    reached = np.round(np.arange(sizes + 1)[:, None] * step / np.asarray(voxel)).astype(int)
    growth = []
    for number, (z, y, x) in enumerate(np.diff(reached, axis=0)):
        pointed = element == "ball" and number % 2 == 0
        growth.append(Growth((int(z), int(y), int(x)), pointed))
    return growth


def pattern_spectrum(image: Image, mask: Mask, elements: Sequence[Growth]) -> Floats:
    """Return the pattern spectrum PS_n of an object, for n = -N to N - 1.

    Args:
        image: gray levels.
        mask: the object; nothing outside the mask counts.
        elements: growth of the structuring element at each of N sizes, see ``element_growth``.

    Returns:
        (2 N,): closings of size N to 1, then openings from size 0 to N - 1. Each term is at least
        0; all are 0 if the image is 0 in the object.
    """
    total = float(image[mask].sum(dtype=np.float64))
    if not total:
        return np.zeros(2 * len(elements))
    half_lengths = np.array([element.half_lengths for element in elements], np.int64)
    is_pointed = np.array([element.pointed for element in elements])
    reach = half_lengths.max(axis=0)
    # Rows and planes follow each other in memory, so one margin between two of them is enough.
    margin = ((max(1, reach[0]),) * 2, (0, reach[1]), (0, reach[2]))
    gray, inside = np.pad(image, margin), np.pad(mask, margin)
    keep = inside * gray.dtype.type(np.iinfo(gray.dtype).max)  # all bits of the object's voxels
    strides = np.array([gray[0].size, gray.shape[2], 1], np.int64)
    object_of = (keep.reshape(-1), strides, margin[0][0] * int(strides[0]))
    sums = np.zeros((2, len(elements) + 1))
    _sum_openings(gray.reshape(-1), object_of, half_lengths, is_pointed, sums[0])
    # Closings are openings of the inverted image.
    _sum_openings(np.invert(gray).reshape(-1), object_of, half_lengths, is_pointed, sums[1])
    bright, dark = -np.diff(sums)
    return np.concatenate([dark[::-1], bright]) / total


def spectrum_moments(spectrum: Floats) -> SpectrumMoments:
    """Compute the moments of a pattern spectrum over the sizes n = -N to N - 1."""
    total = spectrum.sum()
    if not total > 0:
        return SpectrumMoments(*[float("nan")] * 4)
    p = spectrum / total
    n = np.arange(len(p)) - len(p) // 2
    mean = float(p @ n)
    deviation = float(np.sqrt(p @ (n - mean) ** 2))
    skewness = float(p @ (n - mean) ** 3) / deviation**3 if deviation > 0 else 0.0
    return SpectrumMoments(mean, deviation, skewness, _entropy(p))


def _entropy(p: Floats) -> float:
    """Return the entropy of probabilities."""
    positive = p[p > 0]
    return float(-(positive * np.log(positive)).sum())


@compiled()
def _sum_openings(gray: Any, object_of: Any, half_lengths: Any, is_pointed: Any, sums: Any) -> None:
    """Write the sums of flat gray levels within the object and of their openings.

    Args:
        gray: flat gray levels with a margin.
        object_of: all bits in the object, flat, else 0; strides of z, y, x; and the voxels at both
            ends of ``gray`` that belong to the margin.
        half_lengths: half lengths of the elements, (N, 3).
        is_pointed: whether the elements are octahedra, (N,).
        sums: output, (N + 1,).
    """
    keep, _, _ = object_of
    # An erosion is a dilation of the complement. Outside of the object, both are 0.
    complement, opened = np.empty_like(gray), np.empty_like(gray)
    free, spare = np.zeros_like(gray), np.zeros_like(gray)
    _keep_inside(gray, keep, False, opened)
    sums[0] = _sum_of(opened)
    _keep_inside(gray, keep, True, complement)
    for size in range(len(half_lengths)):
        _dilate(complement, object_of, half_lengths[size], is_pointed[size], free, spare)
        complement, free = free, complement
        _keep_inside(complement, keep, True, opened)
        for number in range(size, -1, -1):
            _dilate(opened, object_of, half_lengths[number], is_pointed[number], free, spare)
            opened, free = free, opened
        sums[size + 1] = _sum_of(opened)


@compiled()
def _dilate(
    gray: Any, object_of: Any, lengths: Any, is_pointed: Any, dilated: Any, spare: Any
) -> None:
    """Write flat gray levels within the object, dilated by an element.

    The margins of ``dilated`` and ``spare`` are 0.
    """
    keep, strides, edge = object_of
    first, last = edge, len(gray) - edge
    if lengths.max() > 1:
        _dilate_by_steps(gray, strides, edge, lengths, is_pointed, dilated, spare)
        _cut(dilated, keep)
        return
    z, y, x = strides * lengths
    if is_pointed:
        along_z = gray[first - z : last - z], gray[first + z : last + z]
        along_y = gray[first - y : last - y], gray[first + y : last + y]
        along_x = gray[first - x : last - x], gray[first + x : last + x]
        inside = gray[first:last], keep[first:last]
        _write_largest_of_cross(inside, along_z, along_y, along_x, dilated[first:last])
        return
    _write_largest(gray, x, edge, dilated)
    _write_largest(dilated, y, edge, spare)
    _write_largest(spare, z, edge, dilated)
    _cut(dilated, keep)


@compiled()
def _dilate_by_steps(
    gray: Any, strides: Any, edge: Any, lengths: Any, is_pointed: Any, dilated: Any, spare: Any
) -> None:
    """Dilate by an element of any size, with a pass for every voxel of its half lengths."""
    last = len(gray) - edge
    _copy(gray[edge:last], dilated[edge:last])
    _copy(gray[edge:last], spare[edge:last])
    for axis in range(3):
        for step in range(1, lengths[axis] + 1):
            shift = step * strides[axis]
            lower = spare[edge - shift : last - shift]
            upper = spare[edge + shift : last + shift]
            _raise_to_larger(dilated[edge:last], lower, upper)
        if not is_pointed:
            _copy(dilated[edge:last], spare[edge:last])


# The following loops compute many values at once, as long as their arrays do not overlap.


@compiled()
def _write_largest_of_cross(
    inside: Any, along_z: Any, along_y: Any, along_x: Any, out: Any
) -> None:
    """Write the largest of seven values where the object is."""
    (gray, keep), (below, above), (before, behind), (left, right) = (
        inside,
        along_z,
        along_y,
        along_x,
    )
    for index in range(len(out)):
        largest = max(gray[index], max(below[index], above[index]))
        largest = max(largest, max(before[index], behind[index]))
        largest = max(largest, max(left[index], right[index]))
        out[index] = largest & keep[index]


@compiled()
def _write_largest(gray: Any, shift: Any, edge: Any, out: Any) -> None:
    """Write the largest of three values along an axis; the margin of ``out`` stays."""
    last = len(gray) - edge
    lower, middle = gray[edge - shift : last - shift], gray[edge:last]
    upper, inner = gray[edge + shift : last + shift], out[edge:last]
    for index in range(len(inner)):
        inner[index] = max(middle[index], max(lower[index], upper[index]))


@compiled()
def _raise_to_larger(out: Any, first: Any, second: Any) -> None:
    """Raise values to the larger one of two others, in place."""
    for index in range(len(out)):
        out[index] = max(out[index], max(first[index], second[index]))


@compiled()
def _keep_inside(gray: Any, keep: Any, invert: Any, out: Any) -> None:
    """Write gray levels, or their complement, within the object, and 0 outside of it."""
    if invert:
        for index in range(len(gray)):
            out[index] = ~gray[index] & keep[index]
    else:
        for index in range(len(gray)):
            out[index] = gray[index] & keep[index]


@compiled()
def _cut(gray: Any, keep: Any) -> None:
    """Set gray levels outside of the object to 0, in place."""
    for index in range(len(gray)):
        gray[index] &= keep[index]


@compiled()
def _copy(source: Any, target: Any) -> None:
    """Copy values; an assignment of slices is compiled to something eight times slower."""
    for index in range(len(source)):
        target[index] = source[index]


@compiled()
def _sum_of(gray: Any) -> Any:
    """Return the sum of gray levels."""
    total = np.uint64(0)
    for index in range(len(gray)):
        total += gray[index]
    return total
