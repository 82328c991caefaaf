"""The pattern spectrum of an object: how much of its brightness lies in structures of each size (Maragos 1989; Thibault et al. 2017;
Machireddy et al. 2023, equation 16, printed there as power spectrum).

Openings take bright structures away that are smaller than a structuring element, closings dark ones. The element of size n is the
Minkowski sum of n small ones, so that openings of growing size take away more and more and no term is negative; a digital
ball would not do. It grows along every axis by the same length, and never reaches over a gap in the object.

Images are (z, y, x) uint8 or uint16, masks boolean.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Element = Literal["box", "ball"]
Image = NDArray[Any]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


class SpectrumMoments(NamedTuple):
    """Of a pattern spectrum that is normalized to a sum of one; NaN where nothing changes at any size.

    Attributes:
        mean: of the size n; negative where dark structures prevail.
        deviation: standard deviation of the size.
        skewness: third standardized moment.
        entropy: - sum p ln p: 0 for a single size.
    """

    mean: float
    deviation: float
    skewness: float
    entropy: float


class Growth(NamedTuple):
    """What the structuring element gains from one size to the next: a box of half-lengths (z, y, x) in voxels, or an octahedron."""

    half_lengths: tuple[int, int, int]
    pointed: bool


def element_growth(
    sizes: int, step: float, voxel: Sequence[float], element: Element
) -> list[Growth]:
    """Size n reaches ``n step`` along each axis, to the nearest voxel.

    A box gains boxes; a ball gains octahedra and boxes in turn, whose sum is rounder than either.
    """
    reached = np.round(np.arange(sizes + 1)[:, None] * step / np.asarray(voxel)).astype(int)
    steps = [(int(z), int(y), int(x)) for z, y, x in np.diff(reached, axis=0)]
    return [
        Growth(lengths, element == "ball" and number % 2 == 0)
        for number, lengths in enumerate(steps)
    ]


def pattern_spectrum(image: Image, mask: Mask, elements: Sequence[Growth]) -> Floats:
    """PS_n for n = -N to N - 1, (2 N,): closings of size N to 1, then openings from size 0 to N - 1.

    Args:
        image: gray levels.
        mask: the object; nothing outside of it counts.
        elements: what each size adds, see ``element_growth``; N of them.

    Returns:
        Each term is at least 0; all zeros where the image is 0 in the object.
    """
    whole = float(image[mask].sum(dtype=np.float64))
    if not whole:
        return np.zeros(2 * len(elements))
    dark = np.diff([_sums(image, mask, elements, bright=False)]).ravel()
    bright = -np.diff([_sums(image, mask, elements, bright=True)]).ravel()
    return np.concatenate([dark[::-1], bright]) / whole


def spectrum_moments(spectrum: Floats) -> SpectrumMoments:
    """Moments over the sizes n = -N to N - 1."""
    total = spectrum.sum()
    if not total > 0:
        return SpectrumMoments(*[float("nan")] * 4)
    p = spectrum / total
    n = np.arange(len(p)) - len(p) // 2
    mean = float(p @ n)
    deviation = float(np.sqrt(p @ (n - mean) ** 2))
    skewness = float(p @ (n - mean) ** 3) / deviation**3 if deviation > 0 else 0.0
    some = p[p > 0]
    return SpectrumMoments(mean, deviation, skewness, float(-(some * np.log(some)).sum()))


def _sums(image: Image, mask: Mask, elements: Sequence[Growth], bright: bool) -> list[float]:
    """Integrals over the object of the image, and of its openings (closings) of size 1 to N."""
    first, second = (np.minimum, np.maximum) if bright else (np.maximum, np.minimum)
    sums = [float(image[mask].sum(dtype=np.float64))]
    shrunk = image
    for size in range(len(elements)):
        shrunk = _moved(shrunk, mask, elements[size], first)
        opened = shrunk
        for element in elements[size::-1]:
            opened = _moved(opened, mask, element, second)
        sums.append(float(opened[mask].sum(dtype=np.float64)))
    return sums


def _moved(image: Image, mask: Mask, element: Growth, best: np.ufunc) -> Image:
    """Erosion (``np.minimum``) or dilation (``np.maximum``) within the mask."""
    limits = np.iinfo(image.dtype)
    image = np.where(mask, image, limits.max if best is np.minimum else limits.min).astype(
        image.dtype
    )
    if element.pointed:
        return np.asarray(
            best.reduce(
                [
                    _along(image, axis, length, best)
                    for axis, length in enumerate(element.half_lengths)
                ]
            )
        )
    for axis, length in enumerate(element.half_lengths):
        image = _along(image, axis, length, best)
    return image


def _along(image: Image, axis: int, length: int, best: np.ufunc) -> Image:
    """The best of the ``2 length + 1`` voxels around each along an axis; beyond the image there is nothing."""
    out = image
    for _ in range(length):
        before, out = out, out.copy()
        here, there = (
            tuple(slice(*(ends if a == axis else (None, None))) for a in range(3))
            for ends in ((None, -1), (1, None))
        )
        best(out[here], before[there], out=out[here])
        best(out[there], before[here], out=out[there])
    return out
