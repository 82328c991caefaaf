"""The convex hull of voxels, counted in voxels: how many voxel centers lie in the hull of an object's voxel centers.

A voxelised convex body is then exactly as large as its hull, at any size and any edge lengths. Corners of an object's slices are
all that is kept of it, so it may be larger than memory. Labels are (z, y, x); points are (n, 3) whole numbers z, y, x.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

from sparsem.workflow.compiled import compiled

Points = NDArray[np.int64]
Floats = NDArray[np.float64]

ROUNDING = 1e-7  # of a voxel: a center that lies on the hull is in it


def slice_corners(labels: NDArray[np.uint32], count: int) -> tuple[NDArray[np.uint32], Points]:
    """Corners of the convex hulls of all objects 1 to ``count`` of one slice (y, x): label of each, ascending, and (m, 2) y, x."""
    owner, rows, starts, ends = _extents(labels, count)
    order = np.argsort(owner, kind="stable")  # within an object the rows stay ascending
    of, points = _corners(owner[order], rows[order], starts[order], ends[order])
    return of, points


def convex_voxels(corners: Points) -> int:
    """Voxel centers in the hull of ``corners`` (n, 3); 0 if they lie in an oblique plane, where no voxels can be counted."""
    low = corners.min(axis=0)
    points = corners - low
    spread = points.max(axis=0)
    flat = [axis for axis in range(3) if spread[axis] == 0]
    if flat:  # in one slice along some axis: a polygon, or a line
        other = [axis for axis in range(3) if axis != flat[0]]
        return _in_polygon(points[:, other])
    try:
        hull = ConvexHull(points)
    except QhullError:
        return 0
    first, last = (
        np.full((spread[0] + 1, spread[1] + 1), np.inf),
        np.full((spread[0] + 1, spread[1] + 1), -np.inf),
    )
    _cut(points[hull.simplices].astype(np.float64), first, last)
    return _between(first, last)


def convex_voxels_per_object(
    of: NDArray[Any], corners: NDArray[np.int64], count: int
) -> NDArray[np.int64]:
    """Voxels in the convex hull of every object 1 to ``count``, from the corners (m, 3) of its slices and whose they are (m,)."""
    order = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[order], np.arange(1, count + 2))
    return np.array(
        [convex_voxels(corners[order[a:b]]) if b > a else 0 for a, b in pairwise(ends)], np.int64
    )


def _in_polygon(points: Points) -> int:
    """Lattice points in the convex hull of (n, 2) lattice points, by Pick's theorem; of a line, those that it meets."""
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:
        return int(np.gcd(*np.ptp(points, axis=0))) + 1
    steps = np.roll(corners, -1, axis=0) - corners
    twice_area = abs(int((corners[:, 0] * steps[:, 1] - corners[:, 1] * steps[:, 0]).sum()))
    border = int(np.gcd(steps[:, 0], steps[:, 1]).sum())
    return (twice_area + border) // 2 + 1


def _between(first: Floats, last: Floats) -> int:
    met = np.isfinite(first)
    counts = np.floor(last[met] + ROUNDING) - np.ceil(first[met] - ROUNDING) + 1
    return int(np.maximum(counts, 0).sum())


@compiled()
def _extents(labels, count):  # type: ignore[no-untyped-def]
    """First and last pixel of every object in every row that it is in."""
    rows, columns = labels.shape
    last_row, slot = np.full(count + 1, -1), np.zeros(count + 1, np.int64)
    owner, row = np.empty(labels.size, np.uint32), np.empty(labels.size, np.int64)
    starts, ends = np.empty(labels.size, np.int64), np.empty(labels.size, np.int64)
    found = 0
    for y in range(rows):
        before = np.uint32(0)
        for x in range(columns):
            label = labels[y, x]
            if label == before:
                continue
            if before:
                ends[slot[before]] = x - 1
            if label and last_row[label] != y:
                last_row[label], slot[label] = y, found
                owner[found], row[found], starts[found] = label, y, x
                found += 1
            before = label
        if before:
            ends[slot[before]] = columns - 1
    return owner[:found], row[:found], starts[:found], ends[:found]


@compiled()
def _corners(owner, rows, starts, ends):  # type: ignore[no-untyped-def]
    """Andrew's monotone chain along each side of each object."""
    n = len(owner)
    of, points = np.empty(2 * n, np.uint32), np.empty((2 * n, 2), np.int64)
    found, first = 0, 0
    while first < n:
        stop = first
        while stop < n and owner[stop] == owner[first]:
            stop += 1
        for side in range(2):
            base = found
            for number in range(first, stop):
                y, x = rows[number], starts[number] if side == 0 else ends[number]
                while found - base >= 2:
                    ay, ax = points[found - 2]
                    by, bx = points[found - 1]
                    turn = (bx - ax) * (y - ay) - (x - ax) * (by - ay)
                    if (turn if side == 0 else -turn) < 0:
                        break
                    found -= 1
                of[found], points[found] = owner[first], np.array([y, x])
                found += 1
        first = stop
    return of[:found], points[:found]


@compiled()
def _cut(triangles, first, last):  # type: ignore[no-untyped-def]
    """Where the hull's triangles meet the rows of voxel centers: first and last x of each row (z, y)."""
    for number in range(len(triangles)):
        corners = triangles[number]
        order = np.argsort(corners[:, 0])
        a, b, c = corners[order[0]], corners[order[1]], corners[order[2]]
        for z in range(int(a[0]), int(c[0]) + 1):  # corners are whole numbers
            if a[0] == c[0]:
                _edge(first[z], last[z], a[1], a[2], b[1], b[2])
                _edge(first[z], last[z], b[1], b[2], c[1], c[2])
                _edge(first[z], last[z], a[1], a[2], c[1], c[2])
                continue
            t = (z - a[0]) / (c[0] - a[0])
            y, x = a[1] + t * (c[1] - a[1]), a[2] + t * (c[2] - a[2])
            lower, upper = (a, b) if z < b[0] or b[0] == c[0] else (b, c)
            s = (z - lower[0]) / (upper[0] - lower[0])
            _edge(
                first[z],
                last[z],
                y,
                x,
                lower[1] + s * (upper[1] - lower[1]),
                lower[2] + s * (upper[2] - lower[2]),
            )


@compiled()
def _edge(first, last, y0, x0, y1, x1):  # type: ignore[no-untyped-def]
    """Widen the rows that a line from (y0, x0) to (y1, x1) meets."""
    if y0 > y1:
        y0, x0, y1, x1 = y1, x1, y0, x0
    for y in range(int(np.ceil(y0 - 1e-9)), int(np.floor(y1 + 1e-9)) + 1):
        if y1 - y0 < 1e-9:
            low, high = min(x0, x1), max(x0, x1)
        else:
            share = min(1.0, max(0.0, (y - y0) / (y1 - y0)))
            low = high = x0 + share * (x1 - x0)
        first[y], last[y] = min(first[y], low), max(last[y], high)
