"""Protrusions of a cell: its parts that are thinner than a given width and stand out by more than that width.

The body is what a ball of that width can reach inside the cell (an opening, by distance transforms); protrusions are connected parts of
the rest, and parts that the volume's border cut off from the body. Masks are boolean (z, y, x), lengths in the unit of ``voxel``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray
from skimage.graph import MCP_Geometric

from sparsem.measure.features.distances import half_edge

Mask = NDArray[np.bool_]


class Protrusion(NamedTuple):
    """One protrusion.

    Attributes:
        length: from its foot to its farthest tip within it; of a part without a foot, between its two ends.
        volume: of its voxels.
        attached: whether it has a foot on the body.
    """

    length: float
    volume: float
    attached: bool


def cell_body(cell: Mask, voxel: Sequence[float], width: float) -> Mask:
    """The cell opened with a ball of diameter ``width``; of several parts the largest."""
    anisotropy = tuple(float(edge) for edge in voxel)
    # The border of the array is no surface: a cell that is cut there would lose a rim.
    core = (
        edt.edt(cell, anisotropy=anisotropy, black_border=False, order="C", parallel=1) > width / 2
        if not cell.all()
        else cell
    )
    if not core.any():
        return np.zeros_like(cell)
    reached = cell & (
        edt.edt(~core, anisotropy=anisotropy, black_border=False, order="C", parallel=1)
        <= width / 2
    )
    parts = cc3d.connected_components(reached.view(np.uint8), connectivity=26)
    return np.asarray(parts == np.bincount(parts.ravel())[1:].argmax() + 1)


def find_protrusions(cell: Mask, voxel: Sequence[float], width: float) -> list[Protrusion]:
    """Protrusions of a cell, the longest first.

    Args:
        cell: the cell, with an empty rim of a voxel where the volume goes on.
        voxel: edge lengths (z, y, x).
        width: parts that a ball of this diameter cannot enter, and longer than this, are protrusions.
    """
    body = cell_body(cell, voxel, width)
    parts, count = cc3d.connected_components(
        (cell & ~body).view(np.uint8), connectivity=26, return_N=True
    )
    if not count:
        return []
    found, about = [], cc3d.statistics(parts)
    boxes, step = about["bounding_boxes"], float(np.linalg.norm(voxel))
    for number in range(1, count + 1):
        box = tuple(slice(max(0, side.start - 1), side.stop + 1) for side in boxes[number])
        if (about["voxel_counts"][number] - 1) * step + 2 * half_edge(voxel) <= width:
            continue  # no path through so few voxels is long enough, as in most fragments of an opening
        part = parts[box] == number
        foot = _beside(body[box]) & part
        path = _farthest(part, foot, voxel)[0] if foot.any() else _longest(part, voxel)
        length = path + 2 * half_edge(voxel)  # paths run from center to center
        if length > width:
            found.append(Protrusion(length, float(part.sum() * np.prod(voxel)), bool(foot.any())))
    return sorted(found, reverse=True)


def _beside(mask: Mask) -> Mask:
    """Voxels of the mask and all that touch it."""
    out = mask.copy()
    for axis in range(3):
        grown = out.copy()
        first, second = (
            tuple(slice(*(ends if a == axis else (None, None))) for a in range(3))
            for ends in ((None, -1), (1, None))
        )
        grown[first] |= out[second]
        grown[second] |= out[first]
        out = grown
    return out


def _farthest(
    part: Mask, start: Mask, voxel: Sequence[float]
) -> tuple[float, tuple[int, int, int]]:
    """Length of the longest of the shortest paths from ``start`` within a part, and where it ends."""
    costs = np.where(part, 1.0, np.inf)
    lengths, _ = MCP_Geometric(costs, sampling=tuple(voxel)).find_costs(
        [tuple(place) for place in np.argwhere(start)]
    )
    lengths = np.where(part & np.isfinite(lengths), lengths, -1)
    end = np.unravel_index(int(lengths.argmax()), part.shape)
    return float(lengths[end]), (int(end[0]), int(end[1]), int(end[2]))


def _longest(part: Mask, voxel: Sequence[float]) -> float:
    """Length between the two ends of a part: from any place to the farthest, and from there to the farthest."""
    start = np.zeros_like(part)
    start[tuple(np.argwhere(part)[0])] = True
    _, end = _farthest(part, start, voxel)
    start[:] = False
    start[end] = True
    return _farthest(part, start, voxel)[0]
