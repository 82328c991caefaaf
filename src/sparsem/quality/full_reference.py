"""Metrics beside a reference (thesis 2.3): PSNR, SSIM, MS-SSIM, SR-SIM, GMSD. Measured by piq, tile by tile, so that memory does not grow.

Pictures are (y, x) uint8 or uint16, both of one shape and type; gray levels count as parts of their range. A metric of a picture is the
mean over its tiles, but for the PSNR, which is that of the mean squared error of all pixels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MOST_DB = 100.0  # the PSNR of pictures that are the same, which has no bound
LEAST_MULTI_SCALE = 161  # px: four times halved a tile still holds the window of 11 px


class Metric(NamedTuple):
    """A measure of pictures.

    Attributes:
        name: as in papers.
        unit: empty for none.
        better: 1 where higher is better, -1 where lower is.
        about: what it is.
    """

    name: str
    unit: str
    better: int
    about: str


REFERENCE = {
    "psnr_db": Metric(
        "PSNR",
        "dB",
        1,
        "10 log10 of the squared range of gray levels over the mean squared error; at most 100",
    ),
    "ssim": Metric(
        "SSIM",
        "",
        1,
        "structural similarity, Gaussian window of 11 px, sigma 1.5; 1 is identical (Wang et al. 2004)",
    ),
    "ms_ssim": Metric(
        "MS-SSIM", "", 1, "the same at five scales; 1 is identical (Wang et al. 2003)"
    ),
    "sr_sim": Metric(
        "SR-SIM",
        "",
        1,
        "similarity of what stands out in the spectrum; 1 is identical (Zhang & Li 2012)",
    ),
    "gmsd": Metric(
        "GMSD", "", -1, "spread of how similar gradients are; 0 is identical (Xue et al. 2014)"
    ),
}


def beside(picture: NDArray[Any], reference: NDArray[Any]) -> dict[str, float]:
    """Every metric of ``REFERENCE`` of one tile; those that a tile is too small for are NaN."""
    import piq

    error = mean_squared_error(picture, reference)
    found = dict.fromkeys(REFERENCE, math.nan) | {"psnr_db": psnr_of(error)}
    one, other = as_tensor(picture), as_tensor(reference)
    least = min(picture.shape)
    measures: Mapping[str, tuple[int, Callable[[], Any]]] = {
        # piq shrinks what is larger than 256 px unless told not to, and so hides noise.
        "ssim": (11, lambda: piq.ssim(one, other, downsample=False)),
        "ms_ssim": (LEAST_MULTI_SCALE, lambda: piq.multi_scale_ssim(one, other)),
        # In single precision the third digit is chance: it turns on the smallest amplitudes of a spectrum.
        "sr_sim": (32, lambda: piq.srsim(one.double(), other.double())),
        "gmsd": (8, lambda: piq.gmsd(one, other)),
    }
    for name, (edge, measure) in measures.items():
        if least >= edge:
            found[name] = float(measure())
    return found


def places(shape: Sequence[int], edge: int) -> list[tuple[int, int, tuple[int, int]]]:
    """Corner and edges of squares of ``edge`` px that lie beside each other all over a picture; of a smaller one all of it.

    What is left over is spread evenly between them, so that none lies over another, and no side of the picture is left out.
    """
    height, width = (min(edge, length) for length in shape)
    rows, columns = (
        [round(first) for first in np.linspace(0, length - size, max(1, length // size))]
        for length, size in zip(shape, (height, width), strict=True)
    )
    return [(top, left, (height, width)) for top in rows for left in columns]


def mean_squared_error(picture: NDArray[Any], reference: NDArray[Any]) -> float:
    """Of gray levels as parts of their range."""
    difference = picture.astype(np.float64) - reference.astype(np.float64)
    return float(np.square(difference / np.iinfo(picture.dtype).max).mean())


def psnr_of(error: float) -> float:
    """dB, from a mean squared error."""
    return min(MOST_DB, -10 * math.log10(error)) if error > 0 else MOST_DB


def as_tensor(picture: NDArray[Any]) -> Any:
    """(1, 1, y, x) float32 in 0..1."""
    import torch

    return torch.from_numpy(picture.astype(np.float32) / np.float32(np.iinfo(picture.dtype).max))[
        None, None
    ]
