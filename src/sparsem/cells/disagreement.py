"""Where labels that came from two sides disagree: a map, and the places where a look is worth most. Arrays are (h, w)."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.cells.propagate import Front
from sparsem.labels.overlaps import overlaps

MOST = 8  # places of a slice that are kept; ten are read in a stack


class Place(NamedTuple):
    """Pixels of a slice that two sides give to different cells.

    Attributes:
        first: what the side below says; 0 is no cell.
        second: what the side above says.
        pixels: how many.
        y: where they are deepest.
        x: the same.
    """

    first: int
    second: int
    pixels: int
    y: int
    x: int

    def enlarged(self, rows: float, columns: float) -> "Place":
        """The same in pixels so many times smaller."""
        y, x = int((self.y + 0.5) * rows), int((self.x + 0.5) * columns)
        return Place(self.first, self.second, round(self.pixels * rows * columns), y, x)


def nearer(below: Front, above: Front) -> Front:
    """Pixel by pixel the front of smaller cost; the one below where they are equal. Seeds are left to who knows the distance."""
    sooner = below.cost <= above.cost
    return Front(
        np.where(sooner, below.labels, above.labels),
        np.minimum(below.cost, above.cost),
        below.seeds,
    )


def doubt(below: Front, above: Front) -> NDArray[np.float32]:
    """0 where both sides say the same or one has not come, else 0.5 (one side is far more certain) to 1 (both are equally so)."""
    differ = _disagreed(below, above)
    least, most = np.minimum(below.cost, above.cost), np.maximum(below.cost, above.cost)
    closeness = np.divide(least, most, out=np.ones_like(most), where=differ & (most > 0))
    return np.where(differ, (1 + closeness) / 2, 0).astype(np.float32)


def places_of_doubt(below: Front, above: Front, mask: NDArray[np.bool_]) -> list[Place]:
    """The pairs of cells with most pixels in ``mask`` that the sides disagree about."""
    differ = _disagreed(below, above) & mask
    table = overlaps(below.labels, above.labels, differ)
    if not table.pixels.size:
        return []
    depth = cv2.distanceTransform(np.pad(differ, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)[
        1:-1, 1:-1
    ]
    found = []
    for row in np.argsort(-table.pixels, kind="stable")[:MOST]:
        first, second = int(table.first[row]), int(table.second[row])
        here = differ & (below.labels == first) & (above.labels == second)
        y, x = np.unravel_index(int(np.where(here, depth, -1).argmax()), depth.shape)
        found.append(Place(first, second, int(table.pixels[row]), int(y), int(x)))
    return found


def _disagreed(below: Front, above: Front) -> NDArray[np.bool_]:
    return np.asarray(
        (below.labels != above.labels) & np.isfinite(below.cost) & np.isfinite(above.cost)
    )
