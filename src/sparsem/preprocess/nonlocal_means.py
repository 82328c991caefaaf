"""Noise taken away without learning: non-local means (Buades et al. 2005) of one slice, by scikit-image's fast way (Froment 2014)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means

from sparsem.image.black_areas import black_areas
from sparsem.image.noise import measure_signal_and_noise
from sparsem.image.spectrum import power_spectrum

PATCH_PX, REACH_PX = 5, 6  # patches, and how far off others like them are looked for


def smoothed(image: NDArray[Any], strength: float) -> NDArray[Any]:
    """A slice (y, x) uint8 or uint16 without its noise, which is measured on the slice itself; black stays, and nothing else becomes it.

    Args:
        image: a slice; one too small to measure its noise, or without any, comes back as it is.
        strength: how unlike patches may be that count for the same, in standard deviations of the noise.
    """
    black = black_areas(image)
    rows, columns = (np.flatnonzero(~black.all(axis=axis)) for axis in (1, 0))
    spectrum = (
        power_spectrum(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
        if len(rows)
        else None
    )
    noise = measure_signal_and_noise(spectrum).noise if spectrum else 0.0
    if noise == 0:
        return image.copy()
    top = np.iinfo(image.dtype).max
    gray = image.astype(np.float32) / np.float32(top)
    found = denoise_nl_means(
        gray, PATCH_PX, REACH_PX, h=strength * noise, fast_mode=True, sigma=noise
    )
    out: NDArray[Any] = np.clip(np.round(found * top), 1, top).astype(image.dtype)
    out[black] = 0
    return out
