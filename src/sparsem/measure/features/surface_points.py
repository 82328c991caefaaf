"""Points on the surfaces of objects: one for each voxel face, moved onto the smooth surface.

The faces of voxels are stairs, and the nearest of two stairs are nearer than the surfaces: the
contact of two balls of 20 voxels would be 8 % too large. A point is therefore moved along the
normal to where half of a small Gaussian is inside of the object; what is left is 1 %. Its area is
that of the face times |n|_2 / |n|_1 (see ``surface``).

Labels are (z, y, x), lengths are nm. The border of the volume is no surface.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from sparsem.measure.features.surface import Edges, gaussian_windows
from sparsem.workflow.compiled import compiled

# Sigma of the Gaussian in voxels. More would move the points of curved surfaces inwards.
POINT_SIGMA = 0.7
REACH = 2  # voxels on each side of a face that its point depends on
NO_LABEL = 2**32 - 1

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.uint32]
PerFace = tuple[tuple[Floats, ...], ...]


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
    first_z: int,
    voxel: Edges,
    nearby: NearbyLabels,
    same_labels: bool,
) -> tuple[SurfacePoints, Floats]:
    """Return the points of surfaces that another object is near to, and the areas of all.

    Args:
        labels: (z, y, x) numbers of objects, 1 to n, with ``REACH`` slices around ``slices``, and
            one more after them, unless the volume ends there.
        slices: slices whose faces are returned; a face between two slices lies in the first one.
        first_z: slice of the volume that the labels begin with.
        voxel: edge lengths (z, y, x).
        nearby: labels of the objects that may be near, on the grid of ``labels``.
        same_labels: they are the same objects, so that another one must be near.

    Returns:
        The points, and the area of the surface of every object in each slice (slices, n + 1), nm2.
    """
    n_labels = int(labels.max(initial=0))
    areas = np.zeros((slices.stop - slices.start, n_labels + 1))
    limits = (slices.start, slices.stop, first_z)
    rules = (nearby, same_labels, np.array(voxel), _windows_of_faces(voxel))
    count = _visit_faces(labels, limits, rules, areas, _no_points(0), False)
    points = _no_points(count)
    _visit_faces(labels, limits, rules, areas, points, True)
    return points, areas


def _windows_of_faces(voxel: Edges) -> tuple[PerFace, PerFace]:
    """Return Gaussian windows around the faces along each axis, and their slopes."""
    smooth, slope, smooth_face, slope_face = gaussian_windows(voxel, POINT_SIGMA)
    weights = []
    slopes = []
    for axis in range(3):
        weights.append([smooth_face[k] if k == axis else smooth[k] for k in range(3)])
        slopes.append([slope_face[k] if k == axis else slope[k] for k in range(3)])
    return tuple(map(tuple, weights)), tuple(map(tuple, slopes))


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
def _is_near(nearby: Any, same_labels: Any, label: Any, z: Any, y: Any, x: Any) -> Any:
    """Return whether an object other than a label is near a voxel."""
    box = (z // nearby.size[0], y // nearby.size[1], x // nearby.size[2])
    if nearby.high[box] == 0:
        return False
    return not same_labels or nearby.high[box] != label or nearby.low[box] != label


@compiled()
def _visit_faces(
    labels: Any, limits: Any, rules: Any, areas: Any, points: Any, is_writing: Any
) -> Any:
    """Visit all faces of the slices, write areas and points, and return the number of points."""
    count = 0
    _, rows, columns = labels.shape
    for z in range(limits[0], limits[1]):
        for y in range(rows):
            for x in range(columns):
                for axis in range(3):
                    near = (z + (axis == 0), y + (axis == 1), x + (axis == 2))
                    if near[axis] == labels.shape[axis]:
                        continue
                    first, second = labels[z, y, x], labels[near]
                    if first == second:
                        continue
                    for label in (first, second):
                        if label == 0:
                            continue
                        if is_writing:
                            index = (z - limits[0], label)
                            area = _write_point(
                                labels, label, (z, y, x), axis, limits[2], rules, points, count
                            )
                            areas[index] += area
                        count += _is_near(rules[0], rules[1], label, z, y, x)
    return count


@compiled()
def _write_point(
    labels: Any,
    label: Any,
    voxel: Any,
    axis: Any,
    first_z: Any,
    rules: Any,
    points: Any,
    index: Any,
) -> Any:
    """Write the point of an object at a face, if another one is near; return its area."""
    nearby, same_labels, edges, windows = rules
    z, y, x = voxel
    shift, area = _place(labels, label, voxel, axis, edges, windows)
    if not _is_near(nearby, same_labels, label, z, y, x):
        return area
    for k in range(3):
        center = (z + first_z, y, x)[k] + 0.5 * (k == axis)
        points.positions[index, k] = center * edges[k] + shift[k]
    _, rows, columns = labels.shape
    face = (z * rows + y) * columns + x
    step = (rows * columns, columns, 1)[axis]
    points.labels[index] = label
    points.areas[index] = area
    points.faces[index] = face
    points.voxels[index] = face if labels[z, y, x] == label else face + step
    return area


@compiled()
def _place(labels: Any, label: Any, voxel: Any, axis: Any, edges: Any, windows: Any) -> Any:
    """Return by how much the center of a face is moved (3,), nm, and the area of its surface."""
    weights, slopes = windows[0][axis], windows[1][axis]
    start = _start(voxel, axis, weights)
    level, slope_z, slope_y, slope_x = _slopes(labels, label, start, weights, slopes)
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
def _start(voxel: Any, axis: Any, weights: Any) -> Any:
    """Return the first voxel of the window around a face."""
    return (
        voxel[0] + (axis == 0) - len(weights[0]) // 2,
        voxel[1] + (axis == 1) - len(weights[1]) // 2,
        voxel[2] + (axis == 2) - len(weights[2]) // 2,
    )


@compiled()
def _slopes(labels: Any, label: Any, start: Any, weights: Any, slopes: Any) -> Any:
    """Return how much of a window is inside of an object, and the slope of it.

    Beyond the border the outermost voxels continue.
    """
    depth, rows, columns = labels.shape
    level, slope_z, slope_y, slope_x = 0.0, 0.0, 0.0, 0.0
    for k in range(len(weights[0])):
        plane = labels[_within(start[0] + k, depth)]
        for j in range(len(weights[1])):
            row = plane[_within(start[1] + j, rows)]
            inside, tilt = 0.0, 0.0
            for i in range(len(weights[2])):
                if row[_within(start[2] + i, columns)] == label:
                    inside += weights[2][i]
                    tilt += slopes[2][i]
            level += weights[0][k] * weights[1][j] * inside
            slope_z += slopes[0][k] * weights[1][j] * inside
            slope_y += weights[0][k] * slopes[1][j] * inside
            slope_x += weights[0][k] * weights[1][j] * tilt
    return level, slope_z, slope_y, slope_x


@compiled()
def _within(index: Any, length: Any) -> Any:
    """Return the nearest index of an axis."""
    return min(max(index, 0), length - 1)
