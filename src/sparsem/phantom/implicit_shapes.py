"""Implicit functions of the shapes of a phantom, on the pixels of one slice.

A function is the depth in nm: positive inside a shape, 0 on its surface, negative outside. Arrays
are (y, x) float32; positions are (z, y, x) in nm.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.phantom.anatomy import Nucleus, Tube
from sparsem.phantom.random_fields import Field

FURROW_WIDTH = 0.06  # at the surface of a nucleus, as a fraction of its radius
FURROW_BEND = 0.26  # by which the sheet of a furrow is bent, as a fraction of the radius

Coordinates = NDArray[np.float64]


class Window(NamedTuple):
    """The part of a slice that a shape can reach, and the positions of its pixels.

    Attributes:
        area: rows and columns of the slice.
        z: nm.
        y: (rows, 1) nm.
        x: (1, columns) nm.
    """

    area: tuple[slice, slice]
    z: float
    y: Field
    x: Field


def window_around(
    points: NDArray[np.float64], reach: float, z: float, y: Coordinates, x: Coordinates
) -> Window | None:
    """Return the pixels of a slice within ``reach`` nm of any of the points, as a box.

    Args:
        points: (n, 3) nm.
        reach: nm.
        z: height of the slice, nm.
        y: (rows,) positions of its pixels, ascending, nm.
        x: (columns,) positions of its pixels, ascending, nm.

    Returns:
        None where the slice does not come so near.
    """
    low_z, low_y, low_x = points.min(axis=0) - reach
    high_z, high_y, high_x = points.max(axis=0) + reach
    if not low_z < z < high_z:
        return None
    rows = slice(*np.searchsorted(y, (low_y, high_y)))
    columns = slice(*np.searchsorted(x, (low_x, high_x)))
    if rows.start == rows.stop or columns.start == columns.stop:
        return None
    return Window(
        area=(rows, columns),
        z=z,
        y=y[rows, None].astype(np.float32),
        x=x[None, columns].astype(np.float32),
    )


def metric_length(
    metric: NDArray[np.float64], dz: Field | np.float32, dy: Field, dx: Field
) -> Field:
    """Return the length of vectors (dz, dy, dx) in a metric (3, 3)."""
    parts = [row[0] * dz + row[1] * dy + row[2] * dx for row in metric.astype(np.float32)]
    return np.asarray(np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2), np.float32)


def membrane_profile(depth: Field, thickness: np.float32) -> Field:
    """Return the darkness of a membrane: 1 on the surface of a shape, less within its thickness."""
    return np.asarray(np.exp(-np.square(np.clip(depth / thickness, -6, 6))), np.float32)


def tube_depth(tube: Tube, window: Window) -> Field:
    """Return the depth in a tube: its radius less the distance to its chain of points."""
    points = tube.points.astype(np.float32)
    nearest = np.full((window.y.shape[0], window.x.shape[1]), np.float32(1e18))
    ends = points[1:] if len(points) > 1 else points
    for start, end in zip(points, ends, strict=False):
        nearest = np.minimum(nearest, _squared_distance(window, start, end))
    return (np.float32(tube.radius) - np.sqrt(nearest)).astype(np.float32)


def _squared_distance(window: Window, start: Field, end: Field) -> Field:
    """Return the squared distance to the straight line between two points (3,) float32."""
    along = end - start
    dz, dy, dx = np.float32(window.z) - start[0], window.y - start[1], window.x - start[2]
    squared_length = float(along @ along)
    fraction: Field | np.float32 = np.float32(0)
    if squared_length:
        projection = dz * along[0] + dy * along[1] + dx * along[2]
        fraction = np.clip(projection / squared_length, 0, 1)
    rest_z = dz - fraction * along[0]
    rest_y = dy - fraction * along[1]
    rest_x = dx - fraction * along[2]
    return np.asarray(rest_z**2 + rest_y**2 + rest_x**2)


def nucleus_depth(nucleus: Nucleus, window: Window, roughness: Field, sheet: Field) -> Field:
    """Return the depth in a nucleus with its furrows.

    Args:
        nucleus: the shape.
        window: pixels.
        roughness: of the envelope, as a fraction of the radius.
        sheet: random field that bends the furrows.
    """
    dz = np.float32(window.z - nucleus.center[0])
    dy = window.y - np.float32(nucleus.center[1])
    dx = window.x - np.float32(nucleus.center[2])
    radial = metric_length(nucleus.metric, dz, dy, dx)
    depth = 1 - radial + roughness
    for normal, furrow_depth in zip(
        nucleus.furrows.astype(np.float32), nucleus.furrow_depths, strict=True
    ):
        across = normal[0] * dz + normal[1] * dy + normal[2] * dx
        distance = across / np.float32(nucleus.radius) + np.float32(FURROW_BEND) * sheet
        depth = _cut_furrow(depth, radial, distance, furrow_depth)
    return (depth * np.float32(nucleus.radius)).astype(np.float32)


def _cut_furrow(depth: Field, radial: Field, distance: Field, furrow_depth: np.float64) -> Field:
    """Return the depth in a nucleus with one more furrow. All are fractions of its radius.

    Args:
        depth: before.
        radial: distance from the center.
        distance: to the sheet of the furrow.
        furrow_depth: by which it reaches into the nucleus.
    """
    # 0 at the bottom of the furrow, 1 at the surface of the nucleus.
    height = np.clip((radial - (1 - furrow_depth)) / furrow_depth, 0, 1)
    width = np.float32(FURROW_WIDTH) * np.sqrt(height)
    furrowed = np.minimum(depth, np.abs(distance) - width)
    return np.where(height > 0, furrowed, depth)
