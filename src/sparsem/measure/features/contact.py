"""Contacts: where the surface of an object is within a distance of another object.

Positions are nm. Every point of a surface stands for an area (see ``surface_points``).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.measure.features.surface_points import SurfacePoints

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.uint32]


class NearPoints(NamedTuple):
    """Points of surfaces that another object is near to: one row for each point and object.

    Attributes:
        points: (n,) index of the point.
        labels: (n,) the other object.
        distances: (n,) from the point to the nearest point of that object, nm.
    """

    points: Ints
    labels: Ids
    distances: Floats


def near_points(
    points: SurfacePoints,
    targets: SurfacePoints,
    distance: float,
    same_labels: bool,
) -> NearPoints:
    """Return the points of surfaces within a distance of the surfaces of other objects.

    Args:
        points: points of surfaces.
        targets: points of the surfaces of the other objects.
        distance: nm.
        same_labels: labels of both number the same objects, so that equal ones are no neighbors.
    """
    if not len(points.labels) or not len(targets.labels):
        return NearPoints(np.empty(0, np.int64), np.empty(0, np.uint32), np.empty(0))
    origin = targets.positions.min(axis=0)
    order, starts, shape = _sort_into_cells(_cells(targets.positions, origin, distance))
    grid = (_cells(points.positions, origin, distance), starts, shape)
    sorted_targets = (targets.positions[order], targets.labels[order])
    columns = _search(points, sorted_targets, grid, distance, same_labels)
    return NearPoints(*columns)


def _sort_into_cells(cells: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the order of targets by cell, where each cell begins, and the shape of the grid."""
    shape = cells.max(axis=0) + 2  # one cell more on all sides
    number = (cells[:, 0] * shape[1] + cells[:, 1]) * shape[2] + cells[:, 2]
    order = np.argsort(number, kind="stable")
    return order, np.searchsorted(number[order], np.arange(np.prod(shape) + 1)), shape


def _cells(positions: Floats, origin: Floats, size: float) -> Ints:
    """Return the cells (n, 3) of a grid in which positions lie; that of the origin is 1, 1, 1."""
    return np.floor((positions - origin) / size).astype(np.int64) + 1


@compiled()
def _search(
    points: Any,
    targets: Any,
    grid: Any,
    distance: Any,
    same_labels: Any,
) -> Any:
    """Return the columns of ``NearPoints``; targets are sorted by the cells of a grid."""
    cells, starts, shape = grid
    rows = (np.empty(64, np.int64), np.empty(64, np.uint32), np.empty(64))
    count = 0
    for point in range(len(cells)):
        first = count
        low = np.maximum(cells[point] - 1, 0)
        high = np.maximum(np.minimum(cells[point] + 2, shape), 0)
        for cell_z in range(low[0], high[0]):
            for cell_y in range(low[1], high[1]):
                row = (cell_z * shape[1] + cell_y) * shape[2]
                for target in range(starts[row + min(low[2], high[2])], starts[row + high[2]]):
                    if count == len(rows[0]):
                        rows = _lengthened(rows)
                    count = _compare(
                        points, point, targets, target, distance, same_labels, rows, first, count
                    )
    return rows[0][:count], rows[1][:count], np.sqrt(rows[2][:count])


@compiled()
def _compare(
    points: Any,
    point: Any,
    targets: Any,
    target: Any,
    distance: Any,
    same_labels: Any,
    rows: Any,
    first: Any,
    count: Any,
) -> Any:
    """Update the rows of a point, which begin at ``first``; return the number of rows."""
    label = targets[1][target]
    if same_labels and label == points.labels[point]:
        return count
    squared = _squared_distance(points.positions[point], targets[0][target])
    if squared > distance * distance:
        return count
    index = first
    while index < count and rows[1][index] != label:
        index += 1
    if index == count:
        rows[0][index] = point
        rows[1][index] = label
        rows[2][index] = squared
        return count + 1
    rows[2][index] = min(rows[2][index], squared)
    return count


@compiled()
def _squared_distance(first: Any, second: Any) -> Any:
    total = 0.0
    for axis in range(3):
        total += (first[axis] - second[axis]) ** 2
    return total


@compiled()
def _lengthened(rows: Any) -> Any:
    """Return columns of twice the length that begin with the values."""
    points, labels, squared = rows
    return (
        np.concatenate((points, np.empty_like(points))),
        np.concatenate((labels, np.empty_like(labels))),
        np.concatenate((squared, np.empty_like(squared))),
    )
