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
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.neighbors import neighbor_slices

Element = Literal["box", "ball"]
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
    dark = np.diff([_opened_sums(image, mask, elements, bright=False)]).ravel()
    bright = -np.diff([_opened_sums(image, mask, elements, bright=True)]).ravel()
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


def _opened_sums(image: Image, mask: Mask, elements: Sequence[Growth], bright: bool) -> list[float]:
    """Sum the image over the object, and its openings (``bright``) or closings of size 1 to N."""
    first, second = (np.minimum, np.maximum) if bright else (np.maximum, np.minimum)
    sums = [_sum_over(image, mask)]
    shrunk = image
    for size in range(len(elements)):
        shrunk = _filter_by_element(shrunk, mask, elements[size], first)
        opened = shrunk
        for element in elements[size::-1]:
            opened = _filter_by_element(opened, mask, element, second)
        sums.append(_sum_over(opened, mask))
    return sums


def _sum_over(image: Image, mask: Mask) -> float:
    """Return the sum of an image over an object."""
    return float(image[mask].sum(dtype=np.float64))


def _filter_by_element(image: Image, mask: Mask, element: Growth, extreme: np.ufunc) -> Image:
    """Erode (``np.minimum``) or dilate (``np.maximum``) an image within a mask."""
    limits = np.iinfo(image.dtype)
    neutral = limits.max if extreme is np.minimum else limits.min
    image = np.where(mask, image, neutral).astype(image.dtype)
    if element.pointed:
        along_axes = [
            _filter_along(image, axis, length, extreme)
            for axis, length in enumerate(element.half_lengths)
        ]
        return np.asarray(extreme.reduce(along_axes))
    for axis, length in enumerate(element.half_lengths):
        image = _filter_along(image, axis, length, extreme)
    return image


def _filter_along(image: Image, axis: int, length: int, extreme: np.ufunc) -> Image:
    """Return the extreme of the ``2 length + 1`` voxels around each voxel along an axis.

    Voxels beyond the image do not count.
    """
    lower, upper = neighbor_slices(axis)
    filtered = image
    for _ in range(length):
        previous = filtered
        filtered = filtered.copy()
        extreme(filtered[lower], previous[upper], out=filtered[lower])
        extreme(filtered[upper], previous[lower], out=filtered[upper])
    return filtered
