"""Islands of cells with the right identity.

A protrusion that is cut by a slice leaves an island next to its cell.
"""

from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.unsignedinteger[Any]]


class IslandCount(NamedTuple):
    """Area of the islands of one or more slices; counts of slices can be added.

    Attributes:
        pixels: pixels of all true islands.
        right: pixels of those islands of which the majority has the identity of their cell.
    """

    pixels: int
    right: int


def count_islands(labels: Labels, true: Labels) -> IslandCount:
    """Count the islands of a slice: all 8-connected parts of a true cell except its largest.

    Args:
        labels: (y, x) identities of cells.
        true: (y, x) true identities, 0 for background.
    """
    parts = cc3d.connected_components(np.ascontiguousarray(true), connectivity=8)
    n_parts = int(parts.max(initial=0))
    if not n_parts:
        return IslandCount(0, 0)
    flat = parts.ravel()
    pixels = np.bincount(flat, minlength=n_parts + 1)
    right = np.bincount(flat, (labels == true).ravel(), n_parts + 1)
    cell = np.zeros(n_parts + 1, np.int64)
    cell[flat] = true.ravel()
    # Parts 1, 2, ... in the order of their cells, the largest part of each cell first.
    order = np.lexsort((-pixels[1:], cell[1:])) + 1
    is_largest = np.ones(n_parts, bool)
    is_largest[1:] = cell[order[1:]] != cell[order[:-1]]
    islands = order[~is_largest]
    mostly_right = islands[2 * right[islands] > pixels[islands]]
    return IslandCount(int(pixels[islands].sum()), int(pixels[mostly_right].sum()))
