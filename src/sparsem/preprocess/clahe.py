"""Contrast-limited adaptive histogram equalization (Zuiderveld 1994): gray levels equally often within every tile, smoothly between them.

Ours, since OpenCV's has as many bins as gray levels: of 16 bit most hold less than one pixel, so that no contrast is limited. Here a bin is
a 256th of the range, and a gray level within a bin goes through a straight line between its neighbors. Black, 0, takes no part and stays.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.workflow.compiled import compiled

BINS = 256


def locally_equalized(image: NDArray[Any], clip: float, tile_px: Sequence[int]) -> NDArray[Any]:
    """A slice (y, x) uint8 or uint16 of even contrast over squares of about ``tile_px`` (y, x).

    Args:
        image: the slice.
        clip: by how much a gray level may be more frequent than if all were equally frequent, before it is cut off.
        tile_px: edge of the squares; at least one lies along each axis.
    """
    rows, columns = (
        max(1, round(length / edge)) for length, edge in zip(image.shape, tile_px, strict=True)
    )
    ranks, counts = _ranks(image, rows, columns, clip, 8 * (image.dtype.itemsize - 1))
    out = np.empty_like(image)
    _through(image, ranks, counts, float(np.iinfo(image.dtype).max), out)
    return out


@compiled()
def _ranks(image, rows, columns, clip, shift):  # type: ignore[no-untyped-def]
    """(rows, columns, 256) rank, 0 to 1, of the middle of every bin in every tile; (rows, columns) pixels that are not black."""
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
            cut_off = 0.0
            for b in range(BINS):
                cut_off += max(histogram[b] - limit, 0.0)
            below = 0.0
            for b in range(BINS):
                share = (min(histogram[b], limit) + cut_off / BINS) / counts[i, j]
                ranks[i, j, b] = below + share / 2
                below += share
    return ranks, counts


@compiled()
def _through(image, ranks, counts, top, out):  # type: ignore[no-untyped-def]
    """Every pixel through the curves of the four tiles around it, those that hold more than black."""
    height, width = image.shape
    rows, columns = counts.shape
    a_bin = (top + 1) / BINS
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
            level = min(max((image[y, x] + 0.5) / a_bin - 0.5, 0.0), BINS - 1.0)
            b = min(int(level), BINS - 2)
            w = level - b
            rank = weight = 0.0
            for p, part in ((i, 1 - v), (below, v)):
                for q, other in ((j, 1 - u), (right, u)):
                    if counts[p, q] > 0:
                        weight += part * other
                        rank += part * other * ((1 - w) * ranks[p, q, b] + w * ranks[p, q, b + 1])
            if weight > 0:
                rank /= weight
            else:  # beside tiles that are all black but for this one
                rank = level / (BINS - 1)
            out[y, x] = int(1 + rank * (top - 1) + 0.5)
