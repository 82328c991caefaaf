"""Disagreement of the labels that reach a slice from below and from above.

A map of it, and the places where a correction helps most. Arrays are (h, w).
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.cells.propagate import Front
from sparsem.labels.overlaps import overlaps

# Places reported for one slice. Ten are printed for a whole stack.
MAX_PLACES_PER_SLICE = 8


class Disagreement(NamedTuple):
    """Pixels of a slice that the two sides assign to two different cells.

    Attributes:
        first: label from below; 0 is no cell.
        second: label from above; 0 is no cell.
        pixels: number of these pixels.
        y: row of the pixel farthest from the edge of the region.
        x: column of the same pixel.
    """

    first: int
    second: int
    pixels: int
    y: int
    x: int

    def scaled(self, rows: float, columns: float) -> "Disagreement":
        """Return the same place in a slice with so many times more rows and columns."""
        y = int((self.y + 0.5) * rows)
        x = int((self.x + 0.5) * columns)
        pixels = round(self.pixels * rows * columns)
        return Disagreement(self.first, self.second, pixels, y, x)


def nearer_front(below: Front, above: Front) -> Front:
    """Return the front of smaller cost, pixel by pixel; ``below`` where the costs are equal.

    The seeds are those of ``below``: which ones to use depends on the distance of the labeled
    slices, which fronts do not know (see ``seeds_of_nearest_slice``).
    """
    is_below = below.cost <= above.cost
    labels = np.where(is_below, below.labels, above.labels)
    return Front(labels, np.minimum(below.cost, above.cost), below.seeds)


def disagreement_map(below: Front, above: Front) -> NDArray[np.float32]:
    """Return the disagreement of two fronts, float32.

    It is 0 where both have the same label or one has not arrived; else from 0.5 (one side is far
    more certain) to 1 (both are equally certain).
    """
    differ = _differ(below, above)
    lower_cost = np.minimum(below.cost, above.cost)
    higher_cost = np.maximum(below.cost, above.cost)
    ratio = np.divide(
        lower_cost,
        higher_cost,
        out=np.ones_like(higher_cost),
        where=differ & (higher_cost > 0),
    )
    return np.where(differ, (1 + ratio) / 2, 0).astype(np.float32)


def largest_disagreements(
    below: Front, above: Front, mask: NDArray[np.bool_]
) -> list[Disagreement]:
    """Return the pairs of cells that the fronts disagree about in most pixels of ``mask``."""
    differ = _differ(below, above) & mask
    table = overlaps(below.labels, above.labels, differ)
    if not table.pixels.size:
        return []
    depth = _depth(differ)
    places = []
    for row in np.argsort(-table.pixels, kind="stable")[:MAX_PLACES_PER_SLICE]:
        first, second = int(table.first[row]), int(table.second[row])
        region = differ & (below.labels == first) & (above.labels == second)
        y, x = _deepest_pixel(region, depth)
        places.append(Disagreement(first, second, int(table.pixels[row]), y, x))
    return places


def _depth(mask: NDArray[np.bool_]) -> NDArray[Any]:
    """Return the distance of every pixel to the outside of a mask; the border is outside."""
    padded = np.pad(mask, 1).astype(np.uint8)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]


def _deepest_pixel(region: NDArray[np.bool_], depth: NDArray[Any]) -> tuple[int, int]:
    """Return row and column of the deepest pixel of a region."""
    deepest = int(np.where(region, depth, -1).argmax())
    y, x = np.unravel_index(deepest, depth.shape)
    return int(y), int(x)


def _differ(below: Front, above: Front) -> NDArray[np.bool_]:
    """Return where both fronts have arrived with different labels."""
    have_arrived = np.isfinite(below.cost) & np.isfinite(above.cost)
    return np.asarray((below.labels != above.labels) & have_arrived)
