"""Noise, signal and sharpness of one slice, from its power spectrum.

Strengths are standard deviations as fractions of the range of gray levels, 0 to 1. Noise is what is
uncorrelated with the neighboring pixel: the step of the autocorrelation at its center (Thong, Sim &
Phang 2001).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from sparsem.image.spectrum import SliceSpectrum, Spectrum, hann_window, spectrum_frequencies

MIN_SNR = 1e-4  # ratio of variances; -40 dB stands for no signal
# Bands of frequency, cycles per pixel, whose amplitudes make up the sharpness.
FINE_BAND = (0.06, 0.2)
MIDDLE_BAND = (0.015, 0.06)
# Cycles per pixel along both axes: the beam passes no signal beyond, so that only noise is left.
FINEST = 0.4
AXIS_WIDTH = 1.5  # half the width of the lines along both axes that are left out, frequency steps
# Minimum autocorrelation of the window by which that of a slice is divided: at large shifts almost
# nothing of the window overlaps.
MIN_WINDOW_CORRELATION = 0.05


@dataclass(frozen=True)
class SignalAndNoise:
    """Strength of signal and noise in one slice.

    Attributes:
        noise: standard deviation of what is uncorrelated from pixel to pixel, 0..1 of the range of
            gray levels.
        signal: standard deviation of everything else: the contrast of the tissue.
        snr_db: 20 log10 of signal over noise.
        sharpness: fraction of the signal's amplitude that is fine: periods of 5 to 17 px, compared
            with the next coarser ones of 17 to 67 px.
    """

    noise: float
    signal: float
    snr_db: float
    sharpness: float


def measure_signal_and_noise(spectrum: SliceSpectrum) -> SignalAndNoise:
    """Return noise, signal and sharpness of the slice with this spectrum."""
    correlation = autocorrelation(spectrum)
    variance = float(correlation[0, 0])
    noise_free_variance = min(
        _noise_free_variance(correlation[:4, 0]), _noise_free_variance(correlation[0, :4])
    )
    noise = max(0.0, variance - noise_free_variance)
    signal = max(0.0, variance - noise)
    snr_db = 10 * np.log10(max(signal, MIN_SNR * noise, 1e-12) / max(noise, 1e-12))
    return SignalAndNoise(
        noise=float(np.sqrt(noise)),
        signal=float(np.sqrt(signal)),
        snr_db=float(snr_db),
        sharpness=sharpness(spectrum),
    )


def autocorrelation(spectrum: SliceSpectrum) -> Spectrum:
    """Return the autocorrelation (T, T) of a slice by shift; the variance at zero shift.

    The autocorrelation of the window is divided out, so that values hold for shifts up to a quarter
    of a tile.
    """
    edge = spectrum.edge
    raw = scipy.fft.irfft2(spectrum.power, s=(edge, edge)) * edge**2
    return np.asarray(raw / _window_autocorrelation(edge))


@lru_cache(maxsize=4)
def _window_autocorrelation(edge: int) -> Spectrum:
    """Return the autocorrelation (T, T) of the window: 1 at zero shift, at least 0.05 elsewhere."""
    hann = hann_window(edge).astype(np.float64)
    power = np.square(np.abs(scipy.fft.rfft2(hann)))
    correlation = scipy.fft.irfft2(power, s=(edge, edge))
    return np.asarray(np.maximum(correlation / correlation[0, 0], MIN_WINDOW_CORRELATION))


def _noise_free_variance(values: Spectrum) -> float:
    """Return the autocorrelation at zero shift without noise.

    An even polynomial through the next three shifts is extrapolated to zero shift. The beam has a
    width, so that the signal has no sharp edge and its autocorrelation no corner at its center. Of
    the polynomials and shifts that were tried, this polynomial came nearest to noise that was added
    to real slices.
    """
    return float((15 * values[1] - 6 * values[2] + values[3]) / 10)


def sharpness(spectrum: SliceSpectrum) -> float:
    """Return the fraction of the amplitude that is fine, 0..1.

    NaN where there is only noise, and for slices below 64 px, which have no middle band.
    The power at the finest frequencies is taken for noise and subtracted everywhere; of the rest,
    the fine and the middle band are compared. Lines through the center along both axes are left
    out: stripes and edges of a scan are not detail.
    """
    noise = _finest_power(spectrum)
    fine = np.sqrt(max(_power_in_band(spectrum, *FINE_BAND) - noise, 0.0))
    middle = np.sqrt(max(_power_in_band(spectrum, *MIDDLE_BAND) - noise, 0.0))
    return float(fine / (fine + middle)) if middle > 0 else float("nan")


def _finest_power(spectrum: SliceSpectrum) -> float:
    """Return the mean power at the finest frequencies, where only noise is left."""
    fy, fx, count = spectrum_frequencies(spectrum.edge)
    finest = (np.abs(fy) > FINEST) & (fx > FINEST)
    return float(np.average(spectrum.power[finest], weights=count[finest]))


def _power_in_band(spectrum: SliceSpectrum, low: float, high: float) -> float:
    """Return the mean power in a band of frequency, off both axes; 0 if the band is empty."""
    band, weights = _band(spectrum.edge, low, high)
    if not weights.any():
        return 0.0
    return float(np.average(spectrum.power[band], weights=weights))


@lru_cache(maxsize=8)
def _band(edge: int, low: float, high: float) -> tuple[NDArray[np.bool_], Spectrum]:
    """Return a mask (T, T // 2 + 1) of a band of frequency off both axes, and the weights in it."""
    fy, fx, count = spectrum_frequencies(edge)
    radius = np.hypot(fy, fx)
    off_axis = np.minimum(np.abs(fy), np.abs(fx)) > AXIS_WIDTH / edge
    band = off_axis & (radius >= low) & (radius < high)
    weights = count[band] * radius[band]  # every octave of an edge then has the same weight
    return band, weights
