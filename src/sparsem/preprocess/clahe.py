"""Contrast-limited adaptive histogram equalization (Zuiderveld 1994).

Gray levels become equally frequent within every tile, and change smoothly between tiles. OpenCV's
version has as many bins as gray levels: of 16 bit most hold less than one pixel, so that no
contrast is limited. Here a bin is a 256th of the range, and gray levels within a bin are
interpolated linearly between neighboring bins. Black, 0, is left out and stays black.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

BINS = 256


def equalize_locally(
    image: NDArray[Any], clip_limit: float, tile_px: Sequence[int]
) -> NDArray[Any]:
    """Return a slice of even contrast over tiles of about ``tile_px`` pixels.

    Args:
        image: (y, x) uint8 or uint16.
        clip_limit: a gray level counts at most so many times as often as if all were equally
            frequent.
        tile_px: edges (y, x) of the tiles; at least one tile lies along each axis.
    """
    height, width = image.shape
    tile_height, tile_width = tile_px
    rows = max(1, round(height / tile_height))
    columns = max(1, round(width / tile_width))
    shift = 8 * (image.dtype.itemsize - 1)  # bits, from a gray level to its bin
    ranks, counts = _tile_ranks(image, rows, columns, clip_limit, shift)
    equalized = np.empty_like(image)
    _apply_ranks(image, ranks, counts, float(np.iinfo(image.dtype).max), equalized)
    return equalized


@compiled()
def _tile_ranks(image, rows, columns, clip, shift):  # type: ignore[no-untyped-def]
    """Return the rank of every bin in every tile, and the pixels of each tile.

    Returns:
        (rows, columns, 256) rank, 0 to 1, of the middle of each bin; (rows, columns) number of
        pixels that are not black.
    """
    height, width = image.shape
    ranks, counts = np.zeros((rows, columns, BINS), np.float64), np.zeros((rows, columns), np.int64)
    for i in range(rows):
        for j in range(columns):
            histogram = np.zeros(BINS, np.float64)
            for y in range(i * height // rows, (i + 1) * height // rows):
                for x in range(j * width // columns, (j + 1) * width // columns):
                    if image[y, x] > 0:
                        histogram[image[y, x] >> shift] += 1
                        counts[i, j] += 1
            if counts[i, j] == 0:
                continue
            limit = max(clip * counts[i, j] / BINS, 1.0)
            clipped = 0.0
            for b in range(BINS):
                clipped += max(histogram[b] - limit, 0.0)
            below = 0.0
            for b in range(BINS):
                fraction = (min(histogram[b], limit) + clipped / BINS) / counts[i, j]
                ranks[i, j, b] = below + fraction / 2
                below += fraction
    return ranks, counts


@compiled()
def _apply_ranks(image, ranks, counts, top, out):  # type: ignore[no-untyped-def]
    """Write every pixel's rank, interpolated between the four tiles around it, into ``out``.

    Tiles that are all black are left out.
    """
    height, width = image.shape
    rows, columns = counts.shape
    bin_width = (top + 1) / BINS
    for y in range(height):
        v = min(max((y + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
        i = min(int(v), rows - 1)
        below = min(i + 1, rows - 1)
        v -= i
        for x in range(width):
            if image[y, x] == 0:
                out[y, x] = 0
                continue
            u = min(max((x + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
            j = min(int(u), columns - 1)
            right = min(j + 1, columns - 1)
            u -= j
            level = min(max((image[y, x] + 0.5) / bin_width - 0.5, 0.0), BINS - 1.0)
            b = min(int(level), BINS - 2)
            w = level - b
            rank = weight = 0.0
            for p, weight_y in ((i, 1 - v), (below, v)):
                for q, weight_x in ((j, 1 - u), (right, u)):
                    if counts[p, q] > 0:
                        weight += weight_y * weight_x
                        rank += (
                            weight_y
                            * weight_x
                            * ((1 - w) * ranks[p, q, b] + w * ranks[p, q, b + 1])
                        )
            if weight > 0:
                rank /= weight
            else:  # next to tiles that are all black except for this pixel
                rank = level / (BINS - 1)
            out[y, x] = int(1 + rank * (top - 1) + 0.5)
