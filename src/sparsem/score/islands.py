"""How many islands of cells have the right identity: where a protrusion is cut it leaves an island beside its cell."""

from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger[Any]]


class IslandCount(NamedTuple):
    """Islands of one or more slices; additive.

    Attributes:
        pixels: of all true islands.
        right: of them, pixels of islands most of which has the identity of their cell.
    """

    pixels: int
    right: int


def count_islands(labels: Labels, true: Labels) -> IslandCount:
    """Return the islands of a slice. An island is every 8-connected part of a true cell but its largest.

    Args:
        labels: (y, x) identities of cells.
        true: (y, x) true identities, 0 for none.
    """
    parts = cc3d.connected_components(np.ascontiguousarray(true), connectivity=8)
    count = int(parts.max(initial=0))
    if not count:
        return IslandCount(0, 0)
    flat = parts.ravel()
    pixels = np.bincount(flat, minlength=count + 1)
    right = np.bincount(flat, (labels == true).ravel(), count + 1)
    cell = np.zeros(count + 1, np.int64)
    cell[flat] = true.ravel()
    order = (
        np.lexsort((-pixels[1:], cell[1:])) + 1
    )  # cell after cell, of each its largest part first
    is_largest = np.ones(count, bool)
    is_largest[1:] = cell[order[1:]] != cell[order[:-1]]
    islands = order[~is_largest]
    mostly = islands[2 * right[islands] > pixels[islands]]
    return IslandCount(int(pixels[islands].sum()), int(pixels[mostly].sum()))
