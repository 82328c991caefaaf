"""Exact Euclidean distances of voxels to a set of voxels, in time proportional to the voxels.

Squared distances along x are those to the nearest voxel of the set in the row. Along y, and then
along z, they are the lower envelope of parabolas around the squared distances before (Felzenszwalb
and Huttenlocher 2012). The set cuts every line into pieces, and in each piece the envelope is that
of its own parabolas. Distances run from voxel center to voxel center.

Masks are boolean (z, y, x) or (y, x); lengths have the unit of ``voxel``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

Mask = NDArray[np.bool_]
Field = NDArray[np.float32]

LINES = 32  # lines along y or z that are copied together, as whole cache lines
# A distance equal to a radius is within it, although neither is exact.
ROUNDING = 1e-6


def distances_inside(
    mask: Mask, voxel: Sequence[float] | None = None, closed: bool = False
) -> Field:
    """Return the distance of every voxel of a mask to the nearest voxel outside of the mask.

    Args:
        mask: (z, y, x) or (y, x).
        voxel: edge lengths of the axes; 1 if not given.
        closed: everything beyond the array is outside; else nothing is, since the object may
            continue there.

    Returns:
        The shape of ``mask``, 0 outside of it; infinite everywhere if nothing is outside.
    """
    squared, unit = _squared_distances(mask, voxel, np.inf, closed)
    return np.asarray(np.sqrt(squared, out=squared) * np.float32(unit)).reshape(mask.shape)


def within_distance(mask: Mask, voxel: Sequence[float] | None, radius: float) -> Mask:
    """Return the voxels at most ``radius`` away from a voxel of the mask.

    This is a dilation by a ball. Only voxels near the mask take time.

    Args:
        mask: (z, y, x) or (y, x).
        voxel: edge lengths of the axes; 1 if not given.
        radius: in the unit of ``voxel``.
    """
    squared, _ = _squared_distances(~mask, voxel, radius, False)
    return np.isfinite(squared).reshape(mask.shape)


def _squared_distances(
    mask: Mask, voxel: Sequence[float] | None, limit: float, closed: bool
) -> tuple[Field, float]:
    """Return squared distances (z, y, x), infinite beyond the limit, and the unit of distances.

    The unit is the shortest edge: squares of equal edges are whole numbers, and exact.
    """
    edges = np.ones(mask.ndim) if voxel is None else np.asarray(voxel, np.float64)
    unit = float(edges.min())
    weights = np.append(np.ones(3 - mask.ndim), edges / unit) ** 2
    depth, rows, columns = (1,) * (3 - mask.ndim) + mask.shape
    volume = np.ascontiguousarray(mask).reshape(depth, rows, columns)
    max_squared = (limit / unit) ** 2 * (1 + ROUNDING)
    squared = np.empty(volume.shape, np.float32)
    _along_rows(volume, weights[2], max_squared, closed, squared)
    _along_columns(squared, weights[1], max_squared, closed)
    if mask.ndim == 3:
        across = squared.reshape(1, depth, rows * columns)
        _along_columns(across, weights[0], max_squared, closed)
    return squared, unit


@compiled()
def _along_rows(mask: Any, weight: Any, limit: Any, closed: Any, squared: Any) -> None:
    """Write the squared distance along x of every voxel of the mask to one outside of it."""
    depth, rows, columns = mask.shape
    nothing = columns  # steps beyond it lead to no voxel of the row
    for z in range(depth):
        for y in range(rows):
            steps = 0 if closed else nothing
            out = squared[z, y]
            for x in range(columns):
                steps = steps + 1 if mask[z, y, x] else 0
                out[x] = steps
            steps = 0 if closed else nothing
            for x in range(columns - 1, -1, -1):
                steps = steps + 1 if mask[z, y, x] else 0
                nearest = min(steps, int(out[x]))
                value = weight * nearest * nearest
                is_far = nearest > columns or value > limit
                out[x] = np.inf if is_far else value


@compiled()
def _along_columns(squared: Any, weight: Any, limit: Any, closed: Any) -> None:
    """Widen squared distances (z, y, x) along y, in place."""
    depth, rows, columns = squared.shape
    # Positions of a line are counted from 1: 0 and rows + 1 lie beyond the array.
    lines = np.empty((LINES, rows + 2), np.float32)
    beyond = 0.0 if closed else np.inf
    lines[:, 0] = beyond
    lines[:, rows + 1] = beyond
    sites = np.empty(rows + 2, np.int64)
    lifts = np.empty(rows + 2, np.float64)
    begins = np.empty(rows + 3, np.float64)
    factors = 0.5 / (weight * np.maximum(np.arange(rows + 2), 1))
    for z in range(depth):
        for x in range(0, columns, LINES):
            count = min(LINES, columns - x)
            for y in range(rows):
                for k in range(count):
                    lines[k, y + 1] = squared[z, y, x + k]
            for k in range(count):
                _widen_line(lines[k], weight, limit, sites, lifts, begins, factors)
            for y in range(rows):
                for k in range(count):
                    squared[z, y, x + k] = lines[k, y + 1]


@compiled()
def _widen_line(
    line: Any, weight: Any, limit: Any, sites: Any, lifts: Any, begins: Any, factors: Any
) -> None:
    """Widen a line in place, piece by piece between its zeros.

    A parabola is written as its value at 0, the lift, and its site; ``begins`` says from where on
    each parabola of the envelope is the lowest.
    """
    last = len(line) - 1
    start = 1
    while start < last:
        if line[start] == 0:
            start += 1
            continue
        n_sites = 0
        stop = start - 1  # the zero before the piece is a site, and so is the one after it
        while True:
            value = np.float64(line[stop])
            if value < np.inf:
                lift = value + weight * stop * stop
                begin = -np.inf
                while n_sites:
                    begin = (lift - lifts[n_sites - 1]) * factors[stop - sites[n_sites - 1]]
                    if begin > begins[n_sites - 1]:
                        break
                    n_sites -= 1
                    begin = -np.inf
                sites[n_sites] = stop
                lifts[n_sites] = lift
                begins[n_sites] = begin
                n_sites += 1
            if stop == last or (value == 0 and stop >= start):
                break
            stop += 1
        if n_sites:
            begins[n_sites] = np.inf
            number = 0
            for y in range(start, stop):
                while begins[number + 1] < y:
                    number += 1
                value = lifts[number] + weight * y * (y - 2 * sites[number])
                line[y] = value if value <= limit else np.inf
        start = stop
