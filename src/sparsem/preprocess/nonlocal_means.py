"""Non-local means (Buades et al. 2005) of one slice, in the fast version of Froment (2014)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.restoration import denoise_nl_means

from sparsem.image.black_areas import black_areas
from sparsem.image.noise import measure_signal_and_noise
from sparsem.image.spectrum import power_spectrum

PATCH_PX = 5  # edge of the patches that are compared
REACH_PX = 6  # maximum distance of patches that are averaged


def denoise_nonlocal_means(image: NDArray[Any], strength: float) -> NDArray[Any]:
    """Return a slice without its noise, which is measured on the slice itself.

    Black areas stay black, and no other pixel becomes black.

    Args:
        image: (y, x) uint8 or uint16; returned unchanged if it is too small to measure its noise,
            or has none.
        strength: how much patches may differ that are averaged, in standard deviations of the
            noise.
    """
    black = black_areas(image)
    noise = _measure_noise(image, black)
    if noise == 0:
        return image.copy()
    top = np.iinfo(image.dtype).max
    gray = image.astype(np.float32) / np.float32(top)
    smoothed = denoise_nl_means(
        gray, PATCH_PX, REACH_PX, h=strength * noise, fast_mode=True, sigma=noise
    )
    denoised: NDArray[Any] = np.clip(np.round(smoothed * top), 1, top).astype(image.dtype)
    denoised[black] = 0
    return denoised


def _measure_noise(image: NDArray[Any], black: NDArray[np.bool_]) -> float:
    """Return the noise of a slice within its black rim, 0..1 of the range of gray levels.

    It is 0 if it cannot be measured.
    """
    rows = np.flatnonzero(~black.all(axis=1))
    columns = np.flatnonzero(~black.all(axis=0))
    if not len(rows):
        return 0.0
    spectrum = power_spectrum(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    return measure_signal_and_noise(spectrum).noise if spectrum else 0.0
