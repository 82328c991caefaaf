"""Metrics of an image compared with a reference (thesis 2.3): PSNR, SSIM, MS-SSIM, SR-SIM, GMSD.

They are computed by piq, tile by tile, so that memory does not grow with the image. Images are (y,
x) uint8 or uint16, both of one shape and type; gray levels count as fractions of their range. A
metric of an image is the mean over its tiles, except the PSNR, which follows from the mean squared
error of all pixels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.extras import require

MAX_PSNR_DB = 100.0  # the PSNR of identical images, which has no bound
# Minimum edges of a tile, px.
MIN_SSIM_PX = 11  # the window
MIN_MS_SSIM_PX = 161  # halved four times, a tile still holds the window of 11 px
MIN_SR_SIM_PX = 32
MIN_GMSD_PX = 8


class Metric(NamedTuple):
    """A metric of image quality.

    Attributes:
        name: as in papers.
        unit: empty for none.
        better: 1 where higher is better, -1 where lower is.
        about: a description.
    """

    name: str
    unit: str
    better: int
    about: str


REFERENCE_METRICS = {
    "psnr_db": Metric(
        name="PSNR",
        unit="dB",
        better=1,
        about="10 log10 of the squared range of gray levels over the mean squared error; at most "
        "100",
    ),
    "ssim": Metric(
        name="SSIM",
        unit="",
        better=1,
        about="structural similarity, Gaussian window of 11 px, sigma 1.5; 1 is identical "
        "(Wang et al. 2004)",
    ),
    "ms_ssim": Metric(
        name="MS-SSIM",
        unit="",
        better=1,
        about="structural similarity at five scales; 1 is identical (Wang et al. 2003)",
    ),
    "sr_sim": Metric(
        name="SR-SIM",
        unit="",
        better=1,
        about="similarity of spectral residual saliency; 1 is identical (Zhang & Li 2012)",
    ),
    "gmsd": Metric(
        name="GMSD",
        unit="",
        better=-1,
        about="standard deviation of the similarity of gradients; 0 is identical (Xue et al. 2014)",
    ),
}


def full_reference_metrics(image: NDArray[Any], reference: NDArray[Any]) -> dict[str, float]:
    """Return every metric of ``REFERENCE_METRICS`` of one tile.

    Metrics for which the tile is too small are NaN.
    """
    require("train")
    error = mean_squared_error(image, reference)
    values = dict.fromkeys(REFERENCE_METRICS, math.nan)
    values["psnr_db"] = psnr_from_error(error)
    measures = _tile_measures(as_tensor(image), as_tensor(reference))
    for name, (min_edge, measure) in measures.items():
        if min(image.shape) >= min_edge:
            values[name] = float(measure())
    return values


def _tile_measures(first: Any, second: Any) -> Mapping[str, tuple[int, Callable[[], Any]]]:
    """Return the minimum edge of a tile, px, and a function that computes it, by metric."""
    import piq

    return {
        # By default piq shrinks what is larger than 256 px, and so hides noise.
        "ssim": (MIN_SSIM_PX, lambda: piq.ssim(first, second, downsample=False)),
        "ms_ssim": (MIN_MS_SSIM_PX, lambda: piq.multi_scale_ssim(first, second)),
        # In single precision the third digit is chance: it depends on the smallest amplitudes of a
        # spectrum.
        "sr_sim": (MIN_SR_SIM_PX, lambda: piq.srsim(first.double(), second.double())),
        "gmsd": (MIN_GMSD_PX, lambda: piq.gmsd(first, second)),
    }


def tile_grid(shape: Sequence[int], edge: int) -> list[tuple[int, int, tuple[int, int]]]:
    """Return squares of ``edge`` px that lie side by side all over an image.

    Pixels that do not fill a square are spread evenly between the squares, so that no square
    overlaps another and no side of the image is left out.

    Args:
        shape: (y, x) of the image, px.
        edge: px; of a smaller image all of it is one tile.

    Returns:
        Top, left, and (height, width) of each.
    """
    height, width = (min(edge, length) for length in shape)
    tops = _evenly_spaced_starts(shape[0], height)
    lefts = _evenly_spaced_starts(shape[1], width)
    return [(top, left, (height, width)) for top in tops for left in lefts]


def _evenly_spaced_starts(length: int, size: int) -> list[int]:
    """Return where as many parts of ``size`` as fit begin along an axis of ``length``."""
    return [round(start) for start in np.linspace(0, length - size, max(1, length // size))]


def mean_squared_error(image: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the mean squared difference of gray levels as fractions of their range."""
    difference = image.astype(np.float64) - reference.astype(np.float64)
    return float(np.square(difference / np.iinfo(image.dtype).max).mean())


def psnr_from_error(error: float) -> float:
    """Return the PSNR in dB of a mean squared error."""
    return min(MAX_PSNR_DB, -10 * math.log10(error)) if error > 0 else MAX_PSNR_DB


def as_tensor(image: NDArray[Any]) -> Any:
    """Return an image as a tensor (1, 1, y, x) float32 in 0..1."""
    import torch

    gray = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return torch.from_numpy(gray)[None, None]
