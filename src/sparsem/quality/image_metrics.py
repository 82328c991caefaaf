"""Metrics of one image, as a whole and by tile: without reference, in its resin, with a reference.

Images are (y, x) uint8 or uint16; strengths are fractions of the range of gray levels, 0 to 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.image.noise import measure_signal_and_noise
from sparsem.image.spectrum import MIN_TILE, power_spectrum
from sparsem.quality.fourier_ring import resolution_px, ring_correlation
from sparsem.quality.full_reference import (
    REFERENCE_METRICS,
    Metric,
    full_reference_metrics,
    mean_squared_error,
    psnr_from_error,
    tile_grid,
)
from sparsem.quality.learned_metrics import TRAINED_METRICS, brisque, dists
from sparsem.quality.resin import MIN_RESIN_PX, Resin

NO_REFERENCE_METRICS = {
    "noise": Metric(
        name="noise",
        unit="",
        better=-1,
        about="standard deviation of what is uncorrelated from pixel to pixel",
    ),
    "contrast": Metric(
        name="contrast", unit="", better=1, about="standard deviation of everything else"
    ),
    "snr_db": Metric(name="SNR", unit="dB", better=1, about="20 log10 of contrast over noise"),
    "sharpness": Metric(
        name="sharpness",
        unit="",
        better=1,
        about="fraction of the amplitude that is fine: periods of 5 to 17 px, compared with those "
        "of 17 to 67 px",
    ),
    "resolution_px": Metric(
        name="resolution",
        unit="px",
        better=-1,
        about="period at which Fourier ring correlation of the image's halves falls below 1/7; "
        "4 px is the finest that can be measured",
    ),
    "saturated": Metric(
        name="saturated", unit="", better=-1, about="fraction of the pixels that are white"
    ),
}
RESIN_METRICS = {
    "resin_noise": Metric(
        name="noise in resin",
        unit="",
        better=-1,
        about="standard deviation in resin, which has no structure",
    ),
    "resin_noise_reference": Metric(
        name="resin of reference",
        unit="",
        better=-1,
        about="the same in the reference, such as the denoised image",
    ),
}
METRICS: Mapping[str, Metric] = {
    **RESIN_METRICS,
    "brisque": TRAINED_METRICS["brisque"],
    **REFERENCE_METRICS,
    "dists": TRAINED_METRICS["dists"],
    **NO_REFERENCE_METRICS,
}

# Marked resin is suspicious if its standard deviation is larger than this multiple of the noise of
# the image.
SUSPICIOUS_RESIN_FACTOR = 2.0

Weights = Mapping[str, tuple[Path, ...]]
MetricValues = dict[str, float]


@dataclass(frozen=True)
class ImageTile:
    """A part of an image, and its metrics.

    Attributes:
        top: px.
        left: px.
        edge: (height, width), px.
        values: of every metric (see ``METRICS``); NaN where it is not measured.
    """

    top: int
    left: int
    edge: tuple[int, int]
    values: Mapping[str, float]


@dataclass(frozen=True)
class MeasuredImage:
    """One image and its metrics.

    Attributes:
        name: of its file, with the number of the slice if the file holds several.
        source: path of the file.
        shape: (y, x).
        values: of every metric (see ``METRICS``); NaN where it is not measured.
        tiles: the same by tile.
        resin_marked: resin was marked; otherwise it was searched in the most featureless squares.
    """

    name: str
    source: str
    shape: tuple[int, int]
    values: MetricValues
    tiles: tuple[ImageTile, ...]
    resin_marked: bool

    @property
    def is_resin_suspicious(self) -> bool:
        """True if marked resin varies far more than noise does."""
        limit = SUSPICIOUS_RESIN_FACTOR * self.values["noise"]
        return self.resin_marked and self.values["resin_noise"] > limit

    @property
    def resin(self) -> str:
        """Origin of the noise in resin: ``marked``, ``proposed`` or ``none``."""
        if self.resin_marked:
            return "marked"
        return "none" if math.isnan(self.values["resin_noise"]) else "proposed"


def measure_metrics(
    image: NDArray[Any],
    reference: NDArray[Any] | None,
    resin: Resin | None,
    weights: Weights,
    edge: int,
) -> tuple[MetricValues, list[ImageTile]]:
    """Return every metric of ``METRICS`` of an image and of its tiles; NaN where not measured.

    Args:
        image: (y, x).
        reference: of the same shape and type, or None.
        resin: its areas, or None.
        weights: files of trained metrics (see ``learned_metrics.find_weight_files``).
        edge: of the tiles, px (see ``full_reference.tile_grid``).

    Raises:
        InputError: the image is constant or too small, the reference does not fit, or too little
            resin is marked.
    """
    check_image(image, reference)
    tiles = []
    for top, left, tile_edge in tile_grid(image.shape, edge):
        tiles.append(_measure_tile(image, reference, resin, weights, top, left, tile_edge))
    values = _means_over_tiles(tiles)
    values |= _no_reference_values(image)
    if resin is not None:
        values |= _resin_values(image, reference, resin)
    if reference is not None:
        values["psnr_db"] = psnr_from_error(mean_squared_error(image, reference))
    return values, tiles


def check_image(image: NDArray[Any], reference: NDArray[Any] | None) -> None:
    """Check that an image can be measured.

    Raises:
        InputError: it is too small or constant, or its reference has another shape or type.
    """
    size = " x ".join(map(str, image.shape))
    if min(image.shape) < MIN_TILE:
        raise InputError(f"the image has {size} px; expected at least {MIN_TILE} x {MIN_TILE}.")
    if image.min() == image.max():
        raise InputError(
            f"the image holds one gray level, {image.flat[0]}, everywhere; "
            "there is nothing to measure."
        )
    if reference is None:
        return
    if reference.shape != image.shape or reference.dtype != image.dtype:
        reference_size = " x ".join(map(str, reference.shape))
        raise InputError(
            f"the image has {size} px {image.dtype}, its reference {reference_size} px "
            f"{reference.dtype}; expected the same."
        )


def _measure_tile(
    image: NDArray[Any],
    reference: NDArray[Any] | None,
    resin: Resin | None,
    weights: Weights,
    top: int,
    left: int,
    edge: tuple[int, int],
) -> ImageTile:
    """Return a tile of an image with its metrics."""
    box = np.s_[top : top + edge[0], left : left + edge[1]]
    tile = image[box]
    tile_reference = None if reference is None else reference[box]
    values = dict.fromkeys(METRICS, math.nan) | _no_reference_values(tile)
    if tile_reference is not None:
        values |= full_reference_metrics(tile, tile_reference)
        if "dists" in weights:
            values["dists"] = dists(tile, tile_reference, weights["dists"])
    if "brisque" in weights:
        values["brisque"] = brisque(tile, weights["brisque"])
    if resin is not None:
        values |= _resin_values(tile, tile_reference, _resin_in_box(resin, box))
    return ImageTile(top, left, edge, values)


def _resin_in_box(resin: Resin, box: tuple[slice, slice]) -> Resin:
    """Return the resin in a box of an image; small remains of its parts are left out."""
    parts = [part[box] for part in resin.parts]
    large_parts = tuple(part for part in parts if np.count_nonzero(part) >= MIN_RESIN_PX)
    return Resin(large_parts, resin.is_proposal)


def _no_reference_values(image: NDArray[Any]) -> MetricValues:
    """Return the metrics that need neither reference nor resin."""
    values = dict.fromkeys(NO_REFERENCE_METRICS, math.nan)
    spectrum = power_spectrum(image)
    if spectrum is not None:
        strengths = measure_signal_and_noise(spectrum)
        values["noise"] = strengths.noise
        values["contrast"] = strengths.signal
        values["snr_db"] = strengths.snr_db
        values["sharpness"] = strengths.sharpness
    rings = ring_correlation(image)
    if rings is not None:
        values["resolution_px"] = resolution_px(rings)
    values["saturated"] = float(np.mean(image == np.iinfo(image.dtype).max))
    return values


def _resin_values(
    image: NDArray[Any], reference: NDArray[Any] | None, resin: Resin
) -> MetricValues:
    """Return the noise in resin, of the image and of its reference."""
    values = {"resin_noise": resin.noise(image)}
    if reference is not None:
        values["resin_noise_reference"] = resin.noise(reference)
    return values


def _means_over_tiles(tiles: Sequence[ImageTile]) -> MetricValues:
    """Return the mean of every metric over the tiles in which it was measured."""
    return {name: _mean_of_known([tile.values[name] for tile in tiles]) for name in METRICS}


def _mean_of_known(values: Sequence[float]) -> float:
    """Return the mean of the values that are not NaN; NaN without any."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def quality_tables(images: Sequence[MeasuredImage]) -> tuple[pa.Table, pa.Table]:
    """Return a table with a row for each image, and one with a row for each tile.

    Lengths are in pixels, strengths are fractions of the range of gray levels.
    """
    return _image_table(images), _tile_table(images)


def _image_table(images: Sequence[MeasuredImage]) -> pa.Table:
    """Return a row for each image."""
    columns: dict[str, list[Any]] = {
        "image": [image.name for image in images],
        "file": [image.source for image in images],
        "height_px": [image.shape[0] for image in images],
        "width_px": [image.shape[1] for image in images],
        "resin": [image.resin for image in images],
    }
    for metric in METRICS:
        columns[metric] = [image.values[metric] for image in images]
    return pa.table(columns)


def _tile_table(images: Sequence[MeasuredImage]) -> pa.Table:
    """Return a row for each tile."""
    tiles = [tile for image in images for tile in image.tiles]
    columns: dict[str, list[Any]] = {
        "image": [image.name for image in images for _ in image.tiles],
        "top_px": [tile.top for tile in tiles],
        "left_px": [tile.left for tile in tiles],
        "height_px": [tile.edge[0] for tile in tiles],
        "width_px": [tile.edge[1] for tile in tiles],
    }
    for metric in METRICS:
        columns[metric] = [tile.values[metric] for tile in tiles]
    return pa.table(columns)
