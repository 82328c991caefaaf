"""Stripes of curtaining in one slice, by direction, from its power spectrum.

Stripes fill a line through the center of the spectrum, perpendicular to the stripes. Strengths are
variances as fractions of the squared range of gray levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.image.spectrum import SliceSpectrum, Spectrum, spectrum_frequencies

# Limits of the octaves in which stripes are measured, cycles per pixel.
OCTAVE_LIMITS = (1 / 128, 1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
N_OCTAVES = len(OCTAVE_LIMITS) - 1
# Octaves by which stripes are detected: in the coarsest the tissue has a direction too, in the
# finest little signal is left.
SCORED_OCTAVES = slice(1, 5)
# Divided by the edge of a tile: degrees up to which tissue has the same direction. Small tiles
# resolve directions less.
SAME_TISSUE_PX_DEGREES = 1024
OUTSTANDING = 2.0  # stripes of an octave stand out from this multiple of the scatter of directions
# Number of neighboring frequencies on a line that are not independent under a Hann window.
CORRELATED_FREQUENCIES = 2.5
# Degrees: stripes are compared with directions from the minimum on, over the reach, on either side.
MIN_DEGREES = 3
REACH_DEGREES = 7
# Half the width, in frequency steps, of the line that the stripes of one direction fill under a
# Hann window.
LINE_WIDTH = 1.5

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Stripes:
    """Stripes by the direction along which they run.

    Entry k is the direction of k - 90 degrees: 0 runs along x, -90 along y; angles turn from x
    towards y.

    Attributes:
        variance: (180,) of the stripes where they stand out, 0 elsewhere.
        score: (180,) number of standard deviations by which the stripes stand out.
    """

    variance: Spectrum
    score: Spectrum


class LineEntries(NamedTuple):
    """The entries of a spectrum that lie on the line of a direction; an entry may lie on several.

    Attributes:
        position: (n,) of each entry in the flattened spectrum.
        direction: (n,) number of the line, 0 for -90 degrees.
        octave: (n,) of the entry's frequency.
        counts: (octaves, 180) number of entries of each line.
    """

    position: Indices
    direction: Indices
    octave: Indices
    counts: Indices


def stripes_by_direction(spectrum: SliceSpectrum) -> Stripes:
    """Return the stripes that run along each of 180 directions.

    In every octave of frequency, the power on the line of a direction is compared with the power on
    lines some degrees off: stripes fill one line, tissue fills many. Stripes are detected by
    comparison with near lines, since tissue has a direction too, and measured by comparison with
    lines that have no frequency in common with theirs.
    """
    sums, entries = _power_on_lines(spectrum)
    same_tissue = max(MIN_DEGREES, SAME_TISSUE_PX_DEGREES // spectrum.edge)
    separate_degrees = [_separate_degrees(low * spectrum.edge) for low in OCTAVE_LIMITS[:-1]]
    near = [_degrees_compared(min(degrees, same_tissue)) for degrees in separate_degrees]
    separate = [_degrees_compared(degrees) for degrees in separate_degrees]
    scores = _scores(*_excess_power(sums, entries, near, spectrum.tiles), entries)
    excess, scatter = _excess_power(sums, entries, separate, spectrum.tiles)
    variance = np.where(excess > OUTSTANDING * scatter, excess, 0.0).sum(axis=0)
    # Stripes run perpendicular to the direction in which gray levels change.
    return Stripes(np.roll(variance, 90), np.roll(scores, 90))


def _scores(excess: Spectrum, scatter: Spectrum, entries: Spectrum) -> Spectrum:
    """Return (180,) number of standard deviations by which lines stand out, over all octaves."""
    scores_by_octave = (excess / np.maximum(scatter, 1e-30))[SCORED_OCTAVES]
    octaves_present = int(np.count_nonzero(entries[SCORED_OCTAVES].any(axis=1)))
    return np.asarray(scores_by_octave.sum(axis=0) / np.sqrt(max(1, octaves_present)))


def _excess_power(
    sums: Spectrum, entries: Spectrum, degrees: Sequence[Sequence[int]], tiles: int
) -> tuple[Spectrum, Spectrum]:
    """Return by how much the power of each line exceeds that of the lines compared with it.

    Args:
        sums: (octaves, 180) power on the line of each direction.
        entries: (octaves, 180) number of frequencies on each line.
        degrees: for each octave, the angles between a line and those that it is compared with.
        tiles: number of tiles over which the power is a mean.

    Returns:
        (octaves, 180) each: the excess, and the scatter of the lines compared with.
    """
    count = np.maximum(entries, 1)
    mean = sums / count
    middle = np.empty_like(mean)
    scatter = np.empty_like(mean)
    for octave, shifts in enumerate(degrees):
        middle[octave], scatter[octave] = _median_and_scatter(mean[octave], shifts)
    # The powers are exponentially distributed: the standard deviation of their mean is known.
    scatter_of_means = middle * np.sqrt(CORRELATED_FREQUENCIES / (count * tiles))
    return sums - middle * entries, np.maximum(scatter, scatter_of_means) * entries


def _median_and_scatter(power: Spectrum, shifts: Sequence[int]) -> tuple[Spectrum, Spectrum]:
    """Return (180,) the median of the lines that each line is compared with, and their scatter.

    Args:
        power: (180,) of each line.
        shifts: angles between a line and those that it is compared with, degrees.
    """
    compared = np.stack([np.roll(power, shift) for shift in shifts])
    median = np.median(compared, axis=0)
    # The median absolute deviation of a normal distribution, times this factor, is its standard
    # deviation.
    return median, 1.4826 * np.median(np.abs(compared - median), axis=0)


def _power_on_lines(spectrum: SliceSpectrum) -> tuple[Spectrum, Spectrum]:
    """Return (octaves, 180) the power on the line of each direction, and its number of frequencies.

    Directions begin at -90 degrees.
    """
    entries = _line_entries(spectrum.edge)
    count = spectrum_frequencies(spectrum.edge)[2]
    values = (spectrum.power * count).ravel()[entries.position]
    line = entries.octave * 180 + entries.direction
    sums = np.bincount(line, values, N_OCTAVES * 180).reshape(N_OCTAVES, -1)
    return sums.astype(np.float64), entries.counts.astype(np.float64)


def _degrees_compared(first: int) -> list[int]:
    """Return the angles of the lines that a line is compared with: from ``first`` on."""
    return [side * (first + turn) for side in (-1, 1) for turn in range(REACH_DEGREES)]


def _separate_degrees(steps: float) -> int:
    """Return the angle from which two lines have no frequency in common.

    Args:
        steps: distance from the center of the spectrum, in frequency steps.
    """
    angle = np.rad2deg(np.arcsin(min(1.0, 2 * LINE_WIDTH / max(steps, 1e-6))))
    return min(max(MIN_DEGREES, int(np.ceil(angle))), 90 - REACH_DEGREES)


@lru_cache(maxsize=4)
def _line_entries(edge: int) -> LineEntries:
    """Return the entries of a spectrum with tiles of this edge that lie on lines."""
    fy, fx, _ = spectrum_frequencies(edge)
    octave, is_measured = _octaves(np.hypot(fy, fx).ravel(), edge)
    lines = []
    for number, angle in enumerate(np.deg2rad(np.arange(-90, 90))):
        distance = _distance_to_line(fy, fx, angle) * edge
        (entries,) = np.nonzero((distance <= LINE_WIDTH) & is_measured)
        lines.append(np.stack([entries, np.full(len(entries), number), octave[entries]]))
    position, direction, octaves = np.concatenate(lines, axis=1)
    counts = np.bincount(octaves * 180 + direction, minlength=180 * N_OCTAVES).reshape(-1, 180)
    return LineEntries(position, direction, octaves, counts)


def _distance_to_line(fy: Spectrum, fx: Spectrum, angle: float) -> Spectrum:
    """Return (n,) distances of frequencies to a line through the center of the spectrum."""
    return np.asarray(np.abs(fy * np.cos(angle) - fx * np.sin(angle)).ravel())


def _octaves(radius: Spectrum, edge: int) -> tuple[Indices, NDArray[np.bool_]]:
    """Return the octave of every entry, and whether stripes are measured in it.

    Args:
        radius: (n,) frequency of each entry.
        edge: of the tiles, px.
    """
    octave = np.searchsorted(OCTAVE_LIMITS, radius, side="right") - 1
    is_in_octave = (octave >= 0) & (octave < N_OCTAVES)
    is_off_center = radius * edge > 2 * LINE_WIDTH  # closer to the center all lines coincide
    return octave, is_in_octave & is_off_center
