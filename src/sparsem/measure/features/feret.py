"""Feret diameters: the largest and the smallest distance of two parallel planes around an object.

An object is taken as the convex hull of the centers of its faces. A ball or a box of voxels then
has its own diameter, whereas the centers of voxels miss an edge of a voxel, and their corners add
one.

Points are (n, d) positions in µm, with d = 3 (z, y, x) in a stack and d = 2 (y, x) in an image.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

from sparsem.compiled import compiled

Floats = NDArray[np.float64]

# The smallest diameter is certain to this fraction of it.
TOLERANCE = 1e-3


def feret_diameters(points: Floats, voxel: Floats) -> tuple[float, float]:
    """Return the largest and the smallest Feret diameter of an object, µm.

    The largest one is exact, and so is the smallest one in an image, where one of the two lines
    touches an edge of the hull. Of a body, the smallest one is at most a thousandth too large.

    Args:
        points: centers of voxels, (n, d), whose convex hull is that of the object.
        voxel: edges of a voxel, (d,).
    """
    centers_of_faces = _face_centers(points, voxel)
    hull = ConvexHull(centers_of_faces)
    corners = np.ascontiguousarray(centers_of_faces[hull.vertices])
    normals = np.ascontiguousarray(hull.equations[:, :-1])
    if corners.shape[1] == 2:
        narrowest = float(_extents(corners, normals)[0].min())
    else:
        narrowest = _smallest_width(corners, normals, np.diag(voxel))
    return float(_farthest_pair(corners)), narrowest


def _face_centers(points: Floats, voxel: Floats) -> Floats:
    """Return the centers of the faces of voxels with these centers."""
    steps = np.diag(voxel / 2)
    offsets = np.concatenate([steps, -steps])
    centers: Floats = points[:, None] + offsets
    return centers.reshape(-1, points.shape[1])


def _smallest_width(corners: Floats, directions: Floats, differences: Floats) -> float:
    """Return the smallest width of a convex body.

    The differences of all pairs of its points form a body, too, whose facet nearest to the origin
    is as far from it as the first body is wide (as in the penetration depth of van den Bergen
    2001). Some of its points span a hull within it. This hull is extended in the directions of its
    nearest facets, until none can be nearer to the origin than the smallest width that was found.

    Args:
        corners: corners of the body, (n, 3).
        directions: unit vectors along which to begin, (m, 3).
        differences: differences of points of the body, (k, 3), in more than one plane.
    """
    narrowest = np.inf
    differences = np.concatenate([differences, -differences])
    while len(directions):
        widths, spanned = _extents(corners, directions)
        narrowest = min(narrowest, float(widths.min()))
        differences = np.unique(np.concatenate([differences, spanned, -spanned]), axis=0)
        facets = np.unique(ConvexHull(differences).equations, axis=0)
        is_open = -facets[:, -1] < narrowest * (1 - TOLERANCE)
        directions = np.ascontiguousarray(facets[is_open, :-1])
    return narrowest


@compiled()
def _extents(points, directions):  # type: ignore[no-untyped-def]
    """Return the extent (m,) of points (n, d) along every direction (m, d).

    Also return the difference of the last and the first point along every direction, (m, d).
    """
    extents = np.empty(len(directions))
    spanned = np.empty_like(directions)
    for number in range(len(directions)):
        first, last = _ends_along(points, directions[number])
        spanned[number] = points[last] - points[first]
        extents[number] = (spanned[number] * directions[number]).sum()
    return extents, spanned


@compiled()
def _ends_along(points, direction):  # type: ignore[no-untyped-def]
    """Return the numbers of the first and the last point along a direction."""
    low, high = np.inf, -np.inf
    first, last = 0, 0
    for k in range(len(points)):
        position = 0.0
        for axis in range(points.shape[1]):
            position += points[k, axis] * direction[axis]
        if position < low:
            low, first = position, k
        if position > high:
            high, last = position, k
    return first, last


@compiled()
def _farthest_pair(points):  # type: ignore[no-untyped-def]
    """Return the largest distance between two of the points (n, d)."""
    largest = 0.0
    for first in range(len(points)):
        for second in range(first):
            squared = 0.0
            for axis in range(points.shape[1]):
                step = points[first, axis] - points[second, axis]
                squared += step * step
            largest = max(largest, squared)
    return np.sqrt(largest)
