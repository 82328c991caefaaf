"""What the power spectrum of one slice tells: noise, signal, sharpness, and the stripes of curtaining.

Slices are (y, x) uint8 or uint16; every strength is a standard deviation as a part of the range of gray levels, 0..1. The spectrum is the
mean over tiles under a Hann window (Welch 1967), so that memory does not grow with the slice. Noise is what has no relation to the pixel
beside it: the step of the autocorrelation at its center (Thong, Sim & Phang 2001).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sparsem.geometry import evenly_spaced
from sparsem.image.black import unseen

TILE = 512  # edge of a tile; of smaller slices the largest power of two that fits
LEAST_TILE = 32
MOST_TILES = 48  # a slice of 24 Mpx is cut into 88: every second one tells as much
UNSEEN = 0.02  # part of a tile that may be black, which is what no microscope has seen
LEAST_SNR = 1e-4  # of variances: -40 dB stand for no signal
FINE, MIDDLE = (
    (0.06, 0.2),
    (0.015, 0.06),
)  # bands of frequency, cycles per pixel, whose amplitudes make up the sharpness
FINEST = 0.4  # cycles per pixel along both axes: a beam leaves noise there alone
STRIPES = (
    1 / 128,
    1 / 64,
    1 / 32,
    1 / 16,
    1 / 8,
    1 / 4,
    1 / 2,
)  # cycles per pixel: octaves in which stripes are measured
SCORED = slice(
    1, 5
)  # octaves by which stripes are found: in the coarsest tissue has a direction too, in the finest little is left
STILL_NEAR = 1024  # over the edge of a tile: degrees up to which tissue has the same direction; small tiles resolve directions less
OUTSTANDING = 2.0  # times the scatter of other directions that the stripes of an octave stand out
CORRELATED = 2.5  # neighboring frequencies that tell one thing, on a line under a Hann window
NEAREST, REACH = (
    3,
    7,
)  # degrees: stripes stand out against directions from the nearest on, over so many degrees on either side
LINE = 1.5  # half the width, in steps of frequency, of the line that the stripes of one direction fill under a Hann window

Spectrum = NDArray[np.float64]


@dataclass(frozen=True)
class SliceSpectrum:
    """The mean power spectrum of tiles.

    Attributes:
        power: (T, T // 2 + 1), by frequency as ``scipy.fft.rfft2``; its sum over the whole plane is the variance.
        tiles: how many were averaged.
    """

    power: Spectrum
    tiles: int

    @property
    def edge(self) -> int:
        """T, of a tile."""
        return len(self.power)


def tile_edge(shape: tuple[int, int]) -> int:
    """The edge of the tiles of a slice; 0 where it is too small for any."""
    edge = TILE
    while edge > min(shape):
        edge //= 2
    return edge if edge >= LEAST_TILE else 0


def tiles_of(image: NDArray[Any], edge: int, most: int = MOST_TILES) -> list[NDArray[np.float32]]:
    """At most ``most`` tiles (T, T) float32 in 0..1 that lie beside each other all over a slice; those with black rims are left out."""
    rows, columns = (
        np.linspace(0, length - edge, max(1, length // edge)).astype(int) for length in image.shape
    )
    corners = [(top, left) for top in rows for left in columns]
    chosen = [corners[index] for index in evenly_spaced(len(corners), min(most, len(corners)))]
    seen = (image[top : top + edge, left : left + edge] for top, left in chosen)
    scale = np.float32(1 / np.iinfo(image.dtype).max)
    # Single black pixels may be noise: only where there are many it is worth to look for areas.
    return [
        tile * scale
        for tile in seen
        if np.count_nonzero(tile == 0) <= UNSEEN * tile.size or unseen(tile).mean() <= UNSEEN
    ]


@lru_cache(maxsize=4)
def window(edge: int) -> NDArray[np.float32]:
    """(T, T) of Hann."""
    line = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(edge) + 0.5) / edge)
    return np.outer(line, line).astype(np.float32)


def spectrum_of(image: NDArray[Any]) -> SliceSpectrum | None:
    """Of a slice (y, x); None of one that is too small or black."""
    edge = tile_edge((image.shape[0], image.shape[1]))
    tiles = tiles_of(image, edge) if edge else []
    if not tiles:
        return None
    hann = window(edge)
    total = np.zeros((edge, edge // 2 + 1))
    for tile in tiles:
        flat = (tile - np.float32(np.average(tile, weights=hann))) * hann
        total += np.square(np.abs(scipy.fft.rfft2(flat)))
    return SliceSpectrum(
        total / (len(tiles) * edge**2 * float(np.square(hann, dtype=np.float64).sum())), len(tiles)
    )


@dataclass(frozen=True)
class Texture:
    """What one slice is like.

    Attributes:
        noise: standard deviation of what changes from pixel to pixel without relation, 0..1 of the range of gray levels.
        signal: that of everything else: the contrast of the tissue.
        snr_db: 20 log10 of signal over noise.
        sharpness: part of the signal's amplitude that is fine (periods of 5 to 17 px) beside that of the next coarser ones (17 to 67 px).
    """

    noise: float
    signal: float
    snr_db: float
    sharpness: float


@dataclass(frozen=True)
class Stripes:
    """Stripes by the direction along which they run: entry k at k - 90 degrees; 0 is along x, -90 along y, turning as x turns to y.

    Attributes:
        variance: (180,) of the stripes, where they stand out; else 0.
        score: (180,) by how many standard deviations they stand out.
    """

    variance: Spectrum
    score: Spectrum


def texture_of(spectrum: SliceSpectrum) -> Texture:
    """Read it off a spectrum."""
    correlation = autocorrelation(spectrum)
    variance = float(correlation[0, 0])
    noise = max(
        0.0, variance - min(_without_step(correlation[:4, 0]), _without_step(correlation[0, :4]))
    )
    signal = max(0.0, variance - noise)
    snr = 10 * np.log10(max(signal, LEAST_SNR * noise, 1e-12) / max(noise, 1e-12))
    return Texture(float(np.sqrt(noise)), float(np.sqrt(signal)), float(snr), sharpness(spectrum))


def autocorrelation(spectrum: SliceSpectrum) -> Spectrum:
    """(T, T) by shift; the variance at no shift. The window's own is divided out, which leaves shifts up to a quarter of a tile."""
    edge = spectrum.edge
    raw = scipy.fft.irfft2(spectrum.power, s=(edge, edge)) * edge**2
    return np.asarray(raw / _own_correlation(edge))


@lru_cache(maxsize=4)
def _own_correlation(edge: int) -> Spectrum:
    """(T, T) autocorrelation of the window, 1 at no shift; where next to nothing is left of it, not less than 0.05."""
    hann = window(edge).astype(np.float64)
    own = scipy.fft.irfft2(np.square(np.abs(scipy.fft.rfft2(hann))), s=(edge, edge))
    return np.asarray(np.maximum(own / own[0, 0], 0.05))


def _without_step(values: Spectrum) -> float:
    """What stood at no shift without noise, by an even polynomial through the next three shifts.

    A beam has a width, so that a signal has no edge and its autocorrelation no corner at its center; of polynomials and shifts tried this
    one came nearest to noise that was added to real slices.
    """
    return float((15 * values[1] - 6 * values[2] + values[3]) / 10)


@lru_cache(maxsize=4)
def _frequencies(edge: int) -> tuple[Spectrum, Spectrum, Spectrum]:
    """(T, T // 2 + 1) fy and fx in cycles per pixel, and how often each entry counts in a sum over the whole plane."""
    fy, fx = scipy.fft.fftfreq(edge)[:, None], scipy.fft.rfftfreq(edge)[None]
    count = np.full(fx.shape, 2.0)
    count[0, 0] = count[0, -1] = 1
    shape = (edge, edge // 2 + 1)
    return np.broadcast_to(fy, shape), np.broadcast_to(fx, shape), np.broadcast_to(count, shape)


def sharpness(spectrum: SliceSpectrum) -> float:
    """Part of the amplitude that is fine, 0..1; NaN where noise is all there is.

    What the finest frequencies hold is taken for noise, and taken off everywhere; of what is left, low and middle bands are compared. Lines
    through the middle are left out on both axes: stripes and edges of a scan are no detail.
    """
    fy, fx, count = _frequencies(spectrum.edge)
    radius = np.hypot(fy, fx)
    finest = (np.abs(fy) > FINEST) & (fx > FINEST)
    off_axis = np.minimum(np.abs(fy), np.abs(fx)) > LINE / spectrum.edge
    noise = float(np.average(spectrum.power[finest], weights=count[finest]))
    amplitudes = []
    for low, high in (FINE, MIDDLE):
        band = off_axis & (radius >= low) & (radius < high)
        weights = count[band] * radius[band]  # of edges, every octave then counts alike
        left = float(np.average(spectrum.power[band], weights=weights)) - noise
        amplitudes.append(np.sqrt(max(left, 0.0)))
    fine, middle = amplitudes
    return float(fine / (fine + middle)) if middle > 0 else float("nan")


def stripes_by_direction(spectrum: SliceSpectrum) -> Stripes:
    """Return the stripes that run along each of 180 directions.

    Stripes fill a line through the middle of the plane, across themselves. In every octave of frequency, the power on that line is
    compared with that on lines some degrees off: tissue fills many of them. Stripes are found by lines that are near, since tissue has a
    direction too, and measured by lines that share nothing with theirs.
    """
    sums, entries = _lines(spectrum)
    still_near = max(NEAREST, STILL_NEAR // spectrum.edge)
    near = [
        _directions(min(_degrees_apart(low * spectrum.edge), still_near)) for low in STRIPES[:-1]
    ]
    apart = [_directions(_degrees_apart(low * spectrum.edge)) for low in STRIPES[:-1]]
    excess, scatter = _excess(sums, entries, near, spectrum.tiles)
    by_octave = (excess / np.maximum(scatter, 1e-30))[SCORED]
    octaves = max(1, int(np.count_nonzero(entries[SCORED].any(axis=1))))
    scores = by_octave.sum(axis=0) / np.sqrt(octaves)
    excess, scatter = _excess(sums, entries, apart, spectrum.tiles)
    variance = np.where(excess > OUTSTANDING * scatter, excess, 0.0).sum(axis=0)
    across = np.roll(
        np.stack([variance, scores]), 90, axis=1
    )  # stripes run across the direction in which they change
    return Stripes(across[0], across[1])


def _excess(
    sums: Spectrum, entries: Spectrum, turns: Sequence[Sequence[int]], tiles: int
) -> tuple[Spectrum, Spectrum]:
    """Return (octaves, 180) by how much the lines of a direction hold more than other lines, and how much these scatter.

    Args:
        sums: (octaves, 180) power on the line of each direction.
        entries: (octaves, 180) frequencies on each line.
        turns: for each octave, by how many degrees the other lines are off.
        tiles: over which the power is a mean.
    """
    count = np.maximum(entries, 1)
    mean = sums / count
    middle, scatter = np.empty_like(mean), np.empty_like(mean)
    for octave, shifts in enumerate(turns):
        others = np.stack([np.roll(mean[octave], shift) for shift in shifts])
        middle[octave] = np.median(others, axis=0)
        scatter[octave] = 1.4826 * np.median(np.abs(others - middle[octave]), axis=0)
    of_means = middle * np.sqrt(CORRELATED / (count * tiles))  # of exponentially distributed powers
    return sums - middle * entries, np.maximum(scatter, of_means) * entries


def _lines(spectrum: SliceSpectrum) -> tuple[Spectrum, Spectrum]:
    """Return (octaves, 180) the power on the line of each direction from -90 degrees on, and the number of its frequencies."""
    octaves = len(STRIPES) - 1
    power, place, octave, entries = _line_entries(spectrum.edge)
    count = _frequencies(spectrum.edge)[2]
    values = (spectrum.power * count).ravel()[power]
    sums = np.bincount(octave * 180 + place, values, octaves * 180).reshape(octaves, -1)
    return sums.astype(np.float64), entries.astype(np.float64)


def _directions(first: int) -> list[int]:
    """Return by how many degrees directions are off that are compared with one, from ``first`` on, on either side."""
    return [side * (first + turn) for side in (-1, 1) for turn in range(REACH)]


def _degrees_apart(steps: float) -> int:
    """Return by how many degrees a line is off that shares no frequency with another, so many steps from the middle of the plane."""
    apart = np.rad2deg(np.arcsin(min(1.0, 2 * LINE / max(steps, 1e-6))))
    return min(max(NEAREST, int(np.ceil(apart))), 90 - REACH)


@lru_cache(maxsize=4)
def _line_entries(
    edge: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of every entry that lies on a line: where it is in the plane, the line's number, its octave; and (octaves, 180) how many each has."""
    fy, fx, _ = _frequencies(edge)
    radius = np.hypot(fy, fx).ravel()
    octave = np.searchsorted(STRIPES, radius, side="right") - 1
    inside = (
        (octave >= 0) & (octave < len(STRIPES) - 1) & (radius * edge > 2 * LINE)
    )  # nearer to the middle all lines are one
    found = []
    for number, angle in enumerate(np.deg2rad(np.arange(-90, 90))):
        beside = np.abs(fy * np.cos(angle) - fx * np.sin(angle)).ravel() * edge <= LINE
        (entries,) = np.nonzero(beside & inside)
        found.append(np.stack([entries, np.full(len(entries), number), octave[entries]]))
    power, place, octave = np.concatenate(found, axis=1)
    return (
        power,
        place,
        octave,
        np.bincount(octave * 180 + place, minlength=180 * (len(STRIPES) - 1)).reshape(-1, 180),
    )
