"""The convex hull of an object: the voxels in it, and its Feret diameters.

The first measure is the number of voxel centers in the convex hull of the object's voxel centers. A
voxelized convex body is then exactly as large as its hull, at any size and any edge lengths.
Of an object only the corners of its slices are stored, so it may be larger than memory.

Labels are (z, y, x). Points are (n, 3) whole numbers z, y, x.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from sparsem.compiled import compiled
from sparsem.labels.runs import label_runs
from sparsem.measure.containment import contents_of
from sparsem.measure.features.feret import feret_diameters

Points = NDArray[np.int64]
Floats = NDArray[np.float64]

# Voxels. A voxel center that lies on the hull is in the hull, also after rounding.
ROUNDING = 1e-7


class Hulls(NamedTuple):
    """The convex hulls of n objects.

    Attributes:
        voxels: voxels in each hull, (n,); 0 where that is not defined, see ``convex_voxels``.
        max_feret: largest Feret diameters, (n,), in the unit of the voxels' edges.
        min_feret: smallest Feret diameters, (n,).
    """

    voxels: NDArray[np.int64]
    max_feret: Floats
    min_feret: Floats


def slice_corners(labels: NDArray[np.uint32], count: int) -> tuple[NDArray[np.uint32], Points]:
    """Find the corners of the convex hulls of all objects in one slice.

    Args:
        labels: (y, x), objects are numbered 1 to ``count``.
        count: number of objects.

    Returns:
        The label of each corner, ascending, (m,), and its y and x, (m, 2).
    """
    runs = label_runs(labels)
    owner, rows, starts, ends = _row_extents(runs, labels.shape[1], count)
    order = np.argsort(owner, kind="stable")  # the rows of an object stay ascending
    corner_labels, corners = _convex_corners(owner[order], rows[order], starts[order], ends[order])
    return corner_labels, corners


def convex_voxels(corners: Points) -> int:
    """Count the voxel centers in the convex hull of ``corners``, (n, 3).

    Returns:
        The count; 0 if the corners lie in an oblique plane, in which no voxels can be counted.
    """
    low = corners.min(axis=0)
    points = corners - low
    spread = points.max(axis=0)
    flat_axes = [axis for axis in range(3) if spread[axis] == 0]
    if flat_axes:  # all points in one slice along some axis: a polygon, or a line
        in_plane = [axis for axis in range(3) if axis != flat_axes[0]]
        return _points_in_polygon(points[:, in_plane])
    try:
        hull = ConvexHull(points)
    except QhullError:
        return 0
    triangles = points[hull.simplices].astype(np.float64)
    return _points_between(triangles, (spread[0] + 1, spread[1] + 1))


def _points_between(triangles: Floats, rows: tuple[int, int]) -> int:
    """Count the voxel centers in the hull of triangles (n, 3, 3), which meets rows (z, y)."""
    first = np.full(rows, np.inf)
    last = np.full(rows, -np.inf)
    _intersect_rows(triangles, first, last)
    return _count_between(first, last)


def measure_hulls(
    labels: NDArray[Any], corners: Points, count: int, voxel: Sequence[float]
) -> Hulls:
    """Measure the convex hull of every object 1 to ``count``, which has at least one corner.

    Args:
        labels: the object of each corner, (m,).
        corners: corners of the objects' slices, (m, 3).
        count: number of objects.
        voxel: edges of a voxel z, y, x, µm; y and x in separate images.
    """
    numbers = np.arange(1, count + 1, dtype=np.uint32)
    of_objects = [corners[positions] for positions in contents_of(numbers, labels)]
    voxels = [convex_voxels(points) for points in of_objects]
    edges = np.array(voxel)
    diameters = [feret_diameters(points[:, -len(edges) :] * edges, edges) for points in of_objects]
    return Hulls(np.array(voxels, np.int64), *np.array(diameters).reshape(-1, 2).T)


def _points_in_polygon(points: Points) -> int:
    """Count the lattice points in the convex hull of (n, 2) lattice points, by Pick's theorem.

    If the points lie on a line, count the lattice points that the line meets.
    """
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:
        return int(np.gcd(*np.ptp(points, axis=0))) + 1
    edges = np.roll(corners, -1, axis=0) - corners
    twice_area = abs(int((corners[:, 0] * edges[:, 1] - corners[:, 1] * edges[:, 0]).sum()))
    on_edges = int(np.gcd(edges[:, 0], edges[:, 1]).sum())
    return (twice_area + on_edges) // 2 + 1


def _count_between(first: Floats, last: Floats) -> int:
    """Count the voxel centers between the first and last x of every row that the hull meets."""
    is_met = np.isfinite(first)
    counts = np.floor(last[is_met] + ROUNDING) - np.ceil(first[is_met] - ROUNDING) + 1
    return int(np.maximum(counts, 0).sum())


@compiled()
def _row_extents(runs, columns, count):  # type: ignore[no-untyped-def]
    """Find the first and last pixel of every object in every row that it is in, from its runs."""
    last_row = np.full(count + 1, -1)  # of each object
    slot = np.zeros(count + 1, np.int64)  # where each object's extent in that row is stored
    n_runs = len(runs.starts)
    owner = np.empty(n_runs, np.uint32)
    row = np.empty(n_runs, np.int64)
    starts = np.empty(n_runs, np.int64)
    ends = np.empty(n_runs, np.int64)
    n_extents = 0
    for number in range(n_runs):
        label = runs.labels[number]
        y = runs.starts[number] // columns
        if last_row[label] != y:
            last_row[label] = y
            slot[label] = n_extents
            owner[n_extents] = label
            row[n_extents] = y
            starts[n_extents] = runs.starts[number] - y * columns
            n_extents += 1
        ends[slot[label]] = runs.stops[number] - 1 - y * columns
    return owner[:n_extents], row[:n_extents], starts[:n_extents], ends[:n_extents]


@compiled()
def _convex_corners(owner, rows, starts, ends):  # type: ignore[no-untyped-def]
    """Run Andrew's monotone chain along each side of each object."""
    n = len(owner)
    corner_labels = np.empty(2 * n, np.uint32)
    corners = np.empty((2 * n, 2), np.int64)
    n_corners = 0
    first = 0
    while first < n:
        stop = first
        while stop < n and owner[stop] == owner[first]:
            stop += 1
        for side in range(2):
            side_start = n_corners
            for number in range(first, stop):
                y = rows[number]
                x = starts[number] if side == 0 else ends[number]
                while n_corners - side_start >= 2:
                    ay, ax = corners[n_corners - 2]
                    by, bx = corners[n_corners - 1]
                    turn = (bx - ax) * (y - ay) - (x - ax) * (by - ay)
                    if (turn if side == 0 else -turn) < 0:
                        break
                    n_corners -= 1
                corner_labels[n_corners] = owner[first]
                corners[n_corners] = np.array([y, x])
                n_corners += 1
        first = stop
    return corner_labels[:n_corners], corners[:n_corners]


@compiled()
def _intersect_rows(triangles, first, last):  # type: ignore[no-untyped-def]
    """Intersect the hull's triangles with the rows of voxel centers.

    ``first`` and ``last`` are the first and last x of each row, (z, y), and are widened in place.
    """
    for number in range(len(triangles)):
        corners = triangles[number]
        order = np.argsort(corners[:, 0])
        a, b, c = corners[order[0]], corners[order[1]], corners[order[2]]
        for z in range(int(a[0]), int(c[0]) + 1):  # corners are whole numbers
            if a[0] == c[0]:
                _widen_rows(first[z], last[z], a[1], a[2], b[1], b[2])
                _widen_rows(first[z], last[z], b[1], b[2], c[1], c[2])
                _widen_rows(first[z], last[z], a[1], a[2], c[1], c[2])
                continue
            t = (z - a[0]) / (c[0] - a[0])
            y, x = a[1] + t * (c[1] - a[1]), a[2] + t * (c[2] - a[2])
            lower, upper = (a, b) if z < b[0] or b[0] == c[0] else (b, c)
            s = (z - lower[0]) / (upper[0] - lower[0])
            _widen_rows(
                first[z],
                last[z],
                y,
                x,
                lower[1] + s * (upper[1] - lower[1]),
                lower[2] + s * (upper[2] - lower[2]),
            )


@compiled()
def _widen_rows(first, last, y0, x0, y1, x1):  # type: ignore[no-untyped-def]
    """Widen the rows that the line from (y0, x0) to (y1, x1) meets, to include the line."""
    if y0 > y1:
        y0, x0, y1, x1 = y1, x1, y0, x0
    for y in range(int(np.ceil(y0 - 1e-9)), int(np.floor(y1 + 1e-9)) + 1):
        if y1 - y0 < 1e-9:
            low, high = min(x0, x1), max(x0, x1)
        else:
            fraction = min(1.0, max(0.0, (y - y0) / (y1 - y0)))
            low = high = x0 + fraction * (x1 - x0)
        first[y] = min(first[y], low)
        last[y] = max(last[y], high)
