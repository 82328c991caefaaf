"""Where to look: the few places of a stack where a correction is worth most, so that nobody has to read all of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

JUMP = 0.2  # of its area: what a cell gains or loses from one slice to the next and is an abrupt change
UNUSUAL = 6.0  # times the median change of the cell


class ReviewPlace(NamedTuple):
    """One place.

    Attributes:
        kind: ``disagreement`` of labels from two sides, or ``jump`` of a cell's area.
        z: the slice where most of it lies; the upper one of a jump.
        y: pixel in it.
        x: the same.
        first: id of the cell; 0 is no cell.
        second: the cell that disputes it; 0 is no cell.
        area_um2: in that slice.
        slices: in how many slices the two disagree; 1 for a jump.
    """

    kind: str
    z: int
    y: int
    x: int
    first: int
    second: int
    area_um2: float
    slices: int


def disagreements(
    places: Sequence[Iterable[Sequence[int]]], labeled: Sequence[int], pixel_um2: float
) -> list[ReviewPlace]:
    """One place for each pair of cells in each interval between labeled slices: where they disagree most.

    Args:
        places: (first, second, pixels, y, x) of every slice.
        labeled: slice numbers.
        pixel_um2: area of a pixel.
    """
    found: dict[tuple[int, int, int], list[tuple[int, int, int, int]]] = {}
    for z, here in enumerate(places):
        interval = int(np.searchsorted(labeled, z))
        for first, second, pixels, y, x in here:
            found.setdefault((interval, min(first, second), max(first, second)), []).append(
                (pixels, z, y, x)
            )
    looks = []
    for (_, first, second), rows in found.items():
        pixels, z, y, x = max(rows, key=lambda row: (row[0], -row[1]))
        looks.append(
            ReviewPlace(
                "disagreement",
                z,
                y,
                x,
                second,
                first,
                pixels * pixel_um2,
                len({row[1] for row in rows}),
            )
        )
    return looks


def jumps(area_px: NDArray[np.int64]) -> list[int]:
    """Slices in which a cell's area, (n,) pixels, is abruptly another than in the slice before.

    The change is more than a fifth of the larger area, and unusual for the cell: six times its median change.
    """
    change = np.abs(np.diff(area_px))
    present = (area_px[1:] > 0) | (area_px[:-1] > 0)
    if not present.any():
        return []
    usual = float(np.median(change[present]))
    abrupt = (change > JUMP * np.maximum(area_px[1:], area_px[:-1])) & (change > UNUSUAL * usual)
    return [int(z) + 1 for z in np.flatnonzero(abrupt)]


def area_jumps(areas: Sequence[Mapping[int, int]], most: int) -> list[tuple[int, int, int]]:
    """(z, cell, change in pixels) of the largest jumps of all cells; ``areas`` is cell -> pixels, slice by slice."""
    cells = sorted({cell for slice_ in areas for cell in slice_})
    found = []
    for cell in cells:
        area = np.array([slice_.get(cell, 0) for slice_ in areas], np.int64)
        found += [(z, cell, abs(int(area[z] - area[z - 1]))) for z in jumps(area)]
    return sorted(found, key=lambda one: (-one[2], one[0], one[1]))[:most]
