"""What one picture is like, as a whole and by tile: by itself, in its resin, and beside a reference.

Pictures are (y, x) uint8 or uint16; every strength is a part of the range of gray levels, 0..1.
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
    REFERENCE,
    Metric,
    beside,
    mean_squared_error,
    places,
    psnr_of,
)
from sparsem.quality.learned_metrics import LEARNT, brisque, dists
from sparsem.quality.resin import LEAST_PX, Resin

ITSELF = {
    "noise": Metric(
        "noise", "", -1, "standard deviation of what changes from pixel to pixel without relation"
    ),
    "contrast": Metric("contrast", "", 1, "standard deviation of everything else"),
    "snr_db": Metric("SNR", "dB", 1, "20 log10 of contrast over noise"),
    "sharpness": Metric(
        "sharpness",
        "",
        1,
        "part of the amplitude that is fine: periods of 5 to 17 px beside those of 17 to 67 px",
    ),
    "resolution_px": Metric(
        "resolution",
        "px",
        -1,
        "period at which Fourier ring correlation of the picture's halves falls below 1/7; 4 px is the finest that can be told",
    ),
    "saturated": Metric("saturated", "", -1, "part of the pixels that are white"),
}
RESIN = {
    "resin_noise": Metric(
        "noise in resin", "", -1, "standard deviation in resin, where nothing else is to be seen"
    ),
    "resin_noise_reference": Metric(
        "resin of reference", "", -1, "the same in the reference, such as the denoised picture"
    ),
}
METRICS: Mapping[str, Metric] = {
    **RESIN,
    "brisque": LEARNT["brisque"],
    **REFERENCE,
    "dists": LEARNT["dists"],
    **ITSELF,
}

DOUBTFUL = 2.0  # times the noise of the picture
Weights = Mapping[str, tuple[Path, ...]]


@dataclass(frozen=True)
class Tile:
    """A part of a picture, and what was measured of it."""

    top: int
    left: int
    edge: tuple[int, int]
    values: Mapping[str, float]


@dataclass(frozen=True)
class Picture:
    """One picture and what was measured of it.

    Attributes:
        name: of its file, with the slice's number if that holds several.
        source: where its file lies.
        shape: (y, x).
        values: of every metric (see ``METRICS``); NaN where there is none.
        tiles: the same by tile.
        resin_marked: somebody marked resin; else it was looked for where a picture is most featureless.
    """

    name: str
    source: str
    shape: tuple[int, int]
    values: dict[str, float]
    tiles: tuple[Tile, ...]
    resin_marked: bool

    @property
    def is_resin_doubtful(self) -> bool:
        """What somebody marked varies far more than noise does."""
        return self.resin_marked and self.values["resin_noise"] > DOUBTFUL * self.values["noise"]

    @property
    def resin(self) -> str:
        """Where noise in resin comes from: ``marked``, ``proposed`` or ``none``."""
        return (
            "marked"
            if self.resin_marked
            else "none"
            if math.isnan(self.values["resin_noise"])
            else "proposed"
        )


def measured(
    picture: NDArray[Any],
    reference: NDArray[Any] | None,
    resin: Resin | None,
    weights: Weights,
    edge: int,
) -> tuple[dict[str, float], list[Tile]]:
    """Every metric of ``METRICS`` of a picture and of its tiles; NaN where there is none.

    Args:
        picture: (y, x).
        reference: of the same shape and type, or None.
        resin: where it is, or None.
        weights: of learnt metrics, where they lie (see ``learnt.loaded``).
        edge: of the tiles, px; they lie beside each other (see ``reference.places``).

    Raises:
        InputError: the picture is constant or too small, the reference does not fit, or too little resin is marked.
    """
    refuse_unfit(picture, reference)
    tiles = [
        _tile(picture, reference, resin, weights, *place) for place in places(picture.shape, edge)
    ]
    whole = {name: _mean([tile.values[name] for tile in tiles]) for name in METRICS}
    whole |= _by_itself(picture)
    if resin is not None:
        whole |= _in_resin(picture, reference, resin)
    if reference is not None:
        whole["psnr_db"] = psnr_of(mean_squared_error(picture, reference))
    return whole, tiles


def refuse_unfit(picture: NDArray[Any], reference: NDArray[Any] | None) -> None:
    """A picture of which nothing can be said.

    Raises:
        InputError: it is too small or constant, or its reference is not of its shape and type.
    """
    size = " x ".join(map(str, picture.shape))
    if min(picture.shape) < MIN_TILE:
        raise InputError(f"it has {size} px; expected at least {MIN_TILE} x {MIN_TILE}.")
    if picture.min() == picture.max():
        raise InputError(
            f"it holds one gray level, {picture.flat[0]}, everywhere; there is nothing to measure."
        )
    if reference is not None and (reference.shape, reference.dtype) != (
        picture.shape,
        picture.dtype,
    ):
        other = " x ".join(map(str, reference.shape))
        raise InputError(
            f"it has {size} px {picture.dtype}, its reference {other} px {reference.dtype}; expected the same."
        )


def _tile(
    picture: NDArray[Any],
    reference: NDArray[Any] | None,
    resin: Resin | None,
    weights: Weights,
    top: int,
    left: int,
    edge: tuple[int, int],
) -> Tile:
    box = np.s_[top : top + edge[0], left : left + edge[1]]
    own, other = picture[box], None if reference is None else reference[box]
    values = dict.fromkeys(METRICS, math.nan) | _by_itself(own)
    if other is not None:
        values |= beside(own, other)
        if "dists" in weights:
            values["dists"] = dists(own, other, weights["dists"])
    if "brisque" in weights:
        values["brisque"] = brisque(own, weights["brisque"])
    if resin is not None:
        parts = tuple(part[box] for part in resin.parts if np.count_nonzero(part[box]) >= LEAST_PX)
        values |= _in_resin(own, other, Resin(parts, resin.is_proposal))
    return Tile(top, left, edge, values)


def _by_itself(picture: NDArray[Any]) -> dict[str, float]:
    found = dict.fromkeys(ITSELF, math.nan)
    spectrum, rings = power_spectrum(picture), ring_correlation(picture)
    if spectrum is not None:
        texture = measure_signal_and_noise(spectrum)
        found |= {
            "noise": texture.noise,
            "contrast": texture.signal,
            "snr_db": texture.snr_db,
            "sharpness": texture.sharpness,
        }
    if rings is not None:
        found["resolution_px"] = resolution_px(rings)
    return found | {"saturated": float(np.mean(picture == np.iinfo(picture.dtype).max))}


def _in_resin(
    picture: NDArray[Any], reference: NDArray[Any] | None, resin: Resin
) -> dict[str, float]:
    own = {"resin_noise": resin.noise(picture)}
    return own if reference is None else own | {"resin_noise_reference": resin.noise(reference)}


def _mean(values: Sequence[float]) -> float:
    """Of what is known; NaN of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def tables(found: Sequence[Picture]) -> tuple[pa.Table, pa.Table]:
    """A row a picture, and a row a tile; lengths in pixels, strengths as parts of the range of gray levels."""
    whole: dict[str, list[Any]] = {
        "picture": [one.name for one in found],
        "file": [one.source for one in found],
        "height_px": [one.shape[0] for one in found],
        "width_px": [one.shape[1] for one in found],
        "resin": [one.resin for one in found],
        **{name: [one.values[name] for one in found] for name in METRICS},
    }
    rows = [(one.name, tile) for one in found for tile in one.tiles]
    parts: dict[str, list[Any]] = {
        "picture": [name for name, _ in rows],
        "top_px": [tile.top for _, tile in rows],
        "left_px": [tile.left for _, tile in rows],
        "height_px": [tile.edge[0] for _, tile in rows],
        "width_px": [tile.edge[1] for _, tile in rows],
        **{name: [tile.values[name] for _, tile in rows] for name in METRICS},
    }
    return pa.table(whole), pa.table(parts)
