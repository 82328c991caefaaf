"""Points on the surfaces of objects: one for each voxel face, moved onto the smooth surface.

The faces of voxels are stairs, and the nearest of two stairs are nearer than the surfaces: the
contact of two balls of 20 voxels would be 8 % too large. A point is therefore moved along the
normal to where half of a small Gaussian is inside of the object; what is left is 1 %. Its area is
that of the face times |n|_2 / |n|_1 (see ``surface``).

Labels are (z, y, x), lengths are nm. The border of the volume is no surface.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from sparsem.compiled import compiled
from sparsem.measure.features.surface import Edges, gaussian_windows

# Sigma of the Gaussian in voxels. More would move the points of curved surfaces inwards.
POINT_SIGMA = 0.7
REACH = 2  # voxels on each side of a face that its point depends on
NO_LABEL = 2**32 - 1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.uint32]


class SurfacePoints(NamedTuple):
    """Points on the surfaces of objects, in the order of their faces.

    Attributes:
        positions: (n, 3) nm from the first voxel of the volume.
        labels: (n,) the object.
        areas: (n,) area of the surface that the point stands for, nm2.
        faces: (n,) flat index of the first voxel of the face in the labels.
        voxels: (n,) flat index of the object's voxel at the face.
    """

    positions: Floats
    labels: Ids
    areas: Floats
    faces: Ints
    voxels: Ints


class NearbyLabels(NamedTuple):
    """Smallest and largest label near every box of a grid; ``NO_LABEL`` and 0 where there is none.

    Attributes:
        low: (z, y, x) boxes.
        high: (z, y, x) boxes.
        size: (3,) voxels of a box along each axis.
    """

    low: Ids
    high: Ids
    size: Ints


def nearby_labels(labels: Ids, distance: float, voxel: Edges) -> NearbyLabels:
    """Return the labels within a distance of every box, or a little farther away.

    Args:
        labels: (z, y, x).
        distance: nm.
        voxel: edge lengths (z, y, x).
    """
    # A point is up to a voxel away from its face.
    size = np.array([int(np.ceil(distance / edge)) + 2 for edge in voxel], np.int64)
    low, high = _label_ranges(labels, size)
    return NearbyLabels(minimum_filter(low, 3), maximum_filter(high, 3), size)


def surface_points(
    labels: Ids,
    slices: slice,
    measured: slice,
    first_z: int,
    voxel: Edges,
    nearby: NearbyLabels,
    same_labels: bool,
) -> tuple[SurfacePoints, Floats]:
    """Return the points of surfaces that another object is near to, and the areas of all.

    Args:
        labels: (z, y, x) numbers of objects, 1 to n, with ``REACH`` slices around ``slices``, and
            one more after them, unless the volume ends there.
        slices: slices whose points are returned; a face between two slices lies in the first one.
        measured: slices among these whose areas are returned.
        first_z: slice of the volume that the labels begin with.
        voxel: edge lengths (z, y, x).
        nearby: labels of the objects that may be near, on the grid of ``labels``.
        same_labels: they are the same objects, so that another one must be near.

    Returns:
        The points, and the areas of all surfaces by slice and object (measured, n + 1), nm2.
    """
    areas = np.zeros((measured.stop - measured.start, int(labels.max(initial=0)) + 1))
    windows = _windows_of_faces(tuple(voxel))
    # Beyond the border the outermost voxels continue.
    margin = max(max(window.shape[:3]) for window in windows) // 2
    padded = np.pad(labels, margin, mode="edge")
    rules = (nearby, same_labels, np.array(voxel), windows, padded, margin)
    limits = (first_z, measured.start, measured.stop)
    voxels = np.concatenate([_voxels_at_faces(labels, z) for z in range(slices.start, slices.stop)])
    count = _visit_voxels(labels, voxels, limits, rules, areas, _no_points(0), False)
    points = _no_points(count)
    _visit_voxels(labels, voxels, limits, rules, areas, points, True)
    return points, areas


def _voxels_at_faces(labels: Ids, z: int) -> Ints:
    """Return the flat indices of the voxels of a slice with another label after them."""
    section = labels[z]
    differs = np.zeros(section.shape, bool)
    if z + 1 < len(labels):
        differs |= section != labels[z + 1]
    differs[:-1] |= section[:-1] != section[1:]
    differs[:, :-1] |= section[:, :-1] != section[:, 1:]
    voxels: Ints = np.flatnonzero(differs) + z * section.size
    return voxels


@lru_cache(maxsize=8)
def _windows_of_faces(voxel: Edges) -> tuple[Floats, ...]:
    """Return the windows (z, y, x, 4) around the faces along each axis.

    The last axis holds the weight of a voxel in the Gaussian, and in its slopes along z, y and x.
    """
    smooth, slope, smooth_face, slope_face = gaussian_windows(voxel, POINT_SIGMA)
    windows = []
    for axis in range(3):
        weights, slopes = list(smooth), list(slope)
        weights[axis], slopes[axis] = smooth_face[axis], slope_face[axis]
        products = [_outer_product(*weights)]
        for along in range(3):
            factors = list(weights)
            factors[along] = slopes[along]
            products.append(_outer_product(*factors))
        windows.append(np.stack(products, axis=-1))
    return tuple(windows)


def _outer_product(z: Floats, y: Floats, x: Floats) -> Floats:
    """Return the product (z, y, x) of factors along each axis."""
    return np.asarray(z[:, None, None] * y[:, None] * x, np.float64)


def _no_points(count: int) -> SurfacePoints:
    """Return columns for points that are written later."""
    return SurfacePoints(
        positions=np.empty((count, 3)),
        labels=np.empty(count, np.uint32),
        areas=np.empty(count),
        faces=np.empty(count, np.int64),
        voxels=np.empty(count, np.int64),
    )


@compiled()
def _label_ranges(labels: Any, size: Any) -> Any:
    """Return the smallest and the largest label of every box."""
    depth, rows, columns = labels.shape
    shape = (
        (depth - 1) // size[0] + 1,
        (rows - 1) // size[1] + 1,
        (columns - 1) // size[2] + 1,
    )
    low = np.full(shape, NO_LABEL, np.uint32)
    high = np.zeros(shape, np.uint32)
    for z in range(depth):
        for y in range(rows):
            low_row = low[z // size[0], y // size[1]]
            high_row = high[z // size[0], y // size[1]]
            for x in range(columns):
                label = labels[z, y, x]
                if label:
                    box = x // size[2]
                    low_row[box] = min(low_row[box], label)
                    high_row[box] = max(high_row[box], label)
    return low, high


@compiled()
def _is_near(
    nearby: Any,
    same_labels: Any,
    label: Any,
    z: Any,
    y: Any,
    x: Any,
) -> Any:
    """Return whether an object other than a label is near a voxel."""
    box = (z // nearby.size[0], y // nearby.size[1], x // nearby.size[2])
    if nearby.high[box] == 0:
        return False
    return not same_labels or nearby.high[box] != label or nearby.low[box] != label


@compiled()
def _visit_voxels(
    labels: Any,
    voxels: Any,
    limits: Any,
    rules: Any,
    areas: Any,
    points: Any,
    is_writing: Any,
) -> Any:
    """Visit the faces after voxels, write areas and points, and return the number of points."""
    count = 0
    first_z, start, stop = limits
    _, rows, columns = labels.shape
    for index in voxels:
        z, y, x = index // (rows * columns), index // columns % rows, index % columns
        for axis in range(3):
            near = (z + (axis == 0), y + (axis == 1), x + (axis == 2))
            if near[axis] == labels.shape[axis] or labels[z, y, x] == labels[near]:
                continue
            for label in (labels[z, y, x], labels[near]):
                if label == 0:
                    continue
                is_near = _is_near(rules[0], rules[1], label, z, y, x)
                is_measured = start <= z < stop
                if is_writing and (is_near or is_measured):
                    face = (label, (z, y, x), axis)
                    area = _write_point(labels, face, first_z, rules, points, count, is_near)
                    if is_measured:
                        areas[z - start, label] += area
                count += is_near
    return count


@compiled()
def _write_point(
    labels: Any,
    face: Any,
    first_z: Any,
    rules: Any,
    points: Any,
    index: Any,
    is_near: Any,
) -> Any:
    """Write the point of an object at a face, if another one is near; return its area."""
    _, _, edges, windows, padded, margin = rules
    label, voxel, axis = face
    z, y, x = voxel
    window = windows[axis]
    start = _start(voxel, axis, window.shape, margin)
    shift, area = _place(padded, label, start, axis, edges, window)
    if not is_near:
        return area
    for k in range(3):
        center = (z + first_z, y, x)[k] + 0.5 * (k == axis)
        points.positions[index, k] = center * edges[k] + shift[k]
    _, rows, columns = labels.shape
    first_voxel = (z * rows + y) * columns + x
    step = (rows * columns, columns, 1)[axis]
    points.labels[index] = label
    points.areas[index] = area
    points.faces[index] = first_voxel
    points.voxels[index] = first_voxel if labels[z, y, x] == label else first_voxel + step
    return area


@compiled()
def _start(
    voxel: Any,
    axis: Any,
    shape: Any,
    margin: Any,
) -> Any:
    """Return the first padded voxel of the window around the face after a voxel."""
    z, y, x = voxel
    return (
        z + (axis == 0) - shape[0] // 2 + margin,
        y + (axis == 1) - shape[1] // 2 + margin,
        x + (axis == 2) - shape[2] // 2 + margin,
    )


@compiled()
def _place(
    padded: Any,
    label: Any,
    start: Any,
    axis: Any,
    edges: Any,
    window: Any,
) -> Any:
    """Return by how much the center of a face is moved (3,), nm, and the area of its surface."""
    level, slope_z, slope_y, slope_x = _slopes(padded, label, start, window)
    squared = slope_z * slope_z + slope_y * slope_y + slope_x * slope_x
    face_area = edges[0] * edges[1] * edges[2] / edges[axis]
    if squared == 0:
        return (0.0, 0.0, 0.0), face_area
    step = (0.5 - level) / squared
    # Where the window sees something else than one surface, a point stays near its face.
    length = abs(step) * np.sqrt(squared)
    step *= min(1.0, edges.max() / max(length, 1e-9))
    total = abs(slope_z) + abs(slope_y) + abs(slope_x)
    area = face_area * np.sqrt(squared) / total
    return (step * slope_z, step * slope_y, step * slope_x), area


@compiled()
def _slopes(
    padded: Any,
    label: Any,
    start: Any,
    window: Any,
) -> Any:
    """Return how much of a window is inside of an object, and the slope of it."""
    level, slope_z, slope_y, slope_x = 0.0, 0.0, 0.0, 0.0
    for k in range(window.shape[0]):
        for j in range(window.shape[1]):
            row = padded[start[0] + k, start[1] + j]
            for i in range(window.shape[2]):
                if row[start[2] + i] == label:
                    level += window[k, j, i, 0]
                    slope_z += window[k, j, i, 1]
                    slope_y += window[k, j, i, 2]
                    slope_x += window[k, j, i, 3]
    return level, slope_z, slope_y, slope_x
