"""Places to review of cells: disagreements of two sides, and abrupt changes of area."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsem.review.places import ReviewPlace

# Minimum of an abrupt change of a cell's area between two slices, as a fraction of the larger area.
MIN_CHANGE = 0.2
# Minimum of an abrupt change, as a multiple of the median change of the cell.
MIN_CHANGE_TO_MEDIAN = 6.0


def disagreement_places(
    disagreements: Sequence[Iterable[Sequence[int]]], labeled: Sequence[int], pixel_um2: float
) -> list[ReviewPlace]:
    """Return one place for each pair of cells in each interval between labeled slices.

    It lies in the slice in which the two sides disagree about most pixels.

    Args:
        disagreements: for every slice (first, second, pixels, y, x) of its disagreements.
        labeled: numbers of the labeled slices.
        pixel_um2: area of a pixel.
    """
    rows_of_pair: dict[tuple[int, int, int], list[tuple[int, int, int, int]]] = {}
    for z, slice_disagreements in enumerate(disagreements):
        interval = int(np.searchsorted(labeled, z))
        for first, second, pixels, y, x in slice_disagreements:
            pair = (interval, min(first, second), max(first, second))
            rows_of_pair.setdefault(pair, []).append((pixels, z, y, x))
    return [
        _place_of_pair(lower_id, higher_id, rows, pixel_um2)
        for (_, lower_id, higher_id), rows in rows_of_pair.items()
    ]


def _place_of_pair(
    lower_id: int, higher_id: int, rows: Sequence[tuple[int, int, int, int]], pixel_um2: float
) -> ReviewPlace:
    """Return the place of a pair of cells; rows are (pixels, z, y, x) of its disagreements."""
    pixels, z, y, x = max(rows, key=lambda row: (row[0], -row[1]))
    area_um2 = pixels * pixel_um2
    n_slices = len({row[1] for row in rows})
    # The higher id first, since the lower one may be 0, no cell.
    return ReviewPlace("disagreement", z, y, x, higher_id, lower_id, area_um2, n_slices)


def abrupt_changes(area_px: NDArray[np.int64]) -> list[int]:
    """Return the slices in which a cell's area differs abruptly from that in the slice before.

    The change is more than a fifth of the larger area, and more than six times the median change of
    the cell.

    Args:
        area_px: pixels of the cell in every slice, (n,).
    """
    change = np.abs(np.diff(area_px))
    is_present = (area_px[1:] > 0) | (area_px[:-1] > 0)
    if not is_present.any():
        return []
    median_change = float(np.median(change[is_present]))
    larger_area = np.maximum(area_px[1:], area_px[:-1])
    is_large = change > MIN_CHANGE * larger_area
    is_unusual = change > MIN_CHANGE_TO_MEDIAN * median_change
    return [int(z) + 1 for z in np.flatnonzero(is_large & is_unusual)]


def largest_area_jumps(
    areas: Sequence[Mapping[int, int]], max_jumps: int
) -> list[tuple[int, int, int]]:
    """Return (z, cell, change in pixels) of the largest abrupt changes of all cells.

    Args:
        areas: cell -> pixels, slice by slice.
        max_jumps: maximum number of changes.
    """
    cells = sorted({cell for slice_areas in areas for cell in slice_areas})
    jumps = []
    for cell in cells:
        area_px = np.array([slice_areas.get(cell, 0) for slice_areas in areas], np.int64)
        for z in abrupt_changes(area_px):
            change = abs(int(area_px[z] - area_px[z - 1]))
            jumps.append((z, cell, change))
    return sorted(jumps, key=_largest_first)[:max_jumps]


def _largest_first(jump: tuple[int, int, int]) -> tuple[int, int, int]:
    z, cell, change = jump
    return -change, z, cell
