"""Protrusions of a cell: parts thinner than a given width that stand out by more than this width.

The body of a cell is the part that a ball of this width reaches inside the cell (an opening, by
distance transforms). Protrusions are connected parts of the rest, and parts that the border of the
volume cuts off from the body. Masks are boolean (z, y, x), lengths have the unit of ``voxel``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from skimage.graph import MCP_Geometric

from sparsem.labels.distance_transform import within_distance
from sparsem.labels.neighbors import neighbor_slices
from sparsem.measure.features.distances import half_edge
from sparsem.measure.features.skeleton import Skeleton, skeleton_of
from sparsem.measure.features.surface import Edges

Mask = NDArray[np.bool_]
Position = tuple[int, int, int]


class Protrusion(NamedTuple):
    """One protrusion.

    Attributes:
        length: length of the path from the foot to the farthest tip within the protrusion; of a
            part without a foot, between its two ends.
        volume: volume of the voxels.
        attached: the protrusion has a foot on the body.
        skeleton: its center lines; where the body begins, the protrusion is taken as closed.
    """

    length: float
    volume: float
    attached: bool
    skeleton: Skeleton


def cell_body(cell: Mask, voxel: Sequence[float], width: float) -> Mask:
    """Open a cell with a ball of diameter ``width``, and keep the largest of several parts."""
    # The border of the array is no surface: a cell that is cut there would lose a rim.
    core = cell & ~within_distance(~cell, voxel, width / 2)
    if not core.any():
        return np.zeros_like(cell)
    reached = cell & within_distance(core, voxel, width / 2)
    parts = cc3d.connected_components(reached.view(np.uint8), connectivity=26)
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return np.asarray(parts == largest)


def find_protrusions(cell: Mask, voxel: Edges, width: float) -> list[Protrusion]:
    """Find the protrusions of a cell, the longest first.

    Args:
        cell: the cell, with an empty margin of one voxel where the volume continues.
        voxel: edge lengths (z, y, x).
        width: parts that a ball of this diameter cannot enter, and that are longer than this, are
            protrusions.
    """
    body = cell_body(cell, voxel, width)
    thin = (cell & ~body).view(np.uint8)
    parts, count = cc3d.connected_components(thin, connectivity=26, return_N=True)
    if not count:
        return []
    statistics = cc3d.statistics(parts)
    step = float(np.linalg.norm(voxel))
    protrusions = []
    for number in range(1, count + 1):
        max_path = (statistics["voxel_counts"][number] - 1) * step
        if max_path + 2 * half_edge(voxel) <= width:
            continue  # too few voxels for a path of this length, as in most fragments of an opening
        box = _padded_box(statistics["bounding_boxes"][number])
        part = parts[box] == number
        length, is_attached = _length_of_part(part, body[box], voxel)
        if length > width:
            volume = float(part.sum() * np.prod(voxel))
            skeleton = skeleton_of(part, voxel)
            protrusions.append(Protrusion(length, volume, is_attached, skeleton))
    return sorted(protrusions, key=lambda item: (item.length, item.volume), reverse=True)


def _padded_box(box: Sequence[slice]) -> tuple[slice, ...]:
    """Return a bounding box that is one voxel larger on all sides within the volume."""
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in box)


def _length_of_part(part: Mask, body: Mask, voxel: Sequence[float]) -> tuple[float, bool]:
    """Return the length of a thin part of a cell, and whether it has a foot on the body.

    The part and the body are in the same box.
    """
    foot = _dilate(body) & part
    is_attached = bool(foot.any())
    path = _longest_path_from(foot, part, voxel)[0] if is_attached else _longest_path(part, voxel)
    return path + 2 * half_edge(voxel), is_attached  # paths run from center to center of voxels


def _dilate(mask: Mask) -> Mask:
    """Return the voxels of a mask and all voxels that touch it, across edges and corners too."""
    dilated = mask.copy()
    for axis in range(3):
        lower, upper = neighbor_slices(axis)
        grown = dilated.copy()
        grown[lower] |= dilated[upper]
        grown[upper] |= dilated[lower]
        dilated = grown
    return dilated


def _longest_path_from(start: Mask, part: Mask, voxel: Sequence[float]) -> tuple[float, Position]:
    """Return the length of the longest of the shortest paths within a part, and its end.

    Args:
        start: voxels at which paths begin.
        part: voxels through which paths lead.
        voxel: edge lengths (z, y, x).
    """
    costs = np.where(part, 1.0, np.inf)
    starts: list[Any] = [tuple(position) for position in np.argwhere(start)]
    lengths, _ = MCP_Geometric(costs, sampling=tuple(voxel)).find_costs(starts)
    lengths = np.where(part & np.isfinite(lengths), lengths, -1)
    z, y, x = np.unravel_index(int(lengths.argmax()), part.shape)
    return float(lengths[z, y, x]), (int(z), int(y), int(x))


def _longest_path(part: Mask, voxel: Sequence[float]) -> float:
    """Return the length between the two ends of a part.

    The path leads from any voxel to the farthest one, and from there again to the farthest one.
    """
    start = np.zeros_like(part)
    start[tuple(np.argwhere(part)[0])] = True
    _, end = _longest_path_from(start, part, voxel)
    start[:] = False
    start[end] = True
    return _longest_path_from(start, part, voxel)[0]
