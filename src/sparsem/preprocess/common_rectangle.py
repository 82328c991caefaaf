"""The largest rectangle that several convex areas have in common."""

from typing import NamedTuple

import numpy as np
import scipy.optimize
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class _Rectangle(NamedTuple):
    """A rectangle with half edges ``width * exp(+-log_shape / 2)``.

    Attributes:
        cost: minus the logarithm of the width; infinite where no rectangle lies within.
        center: (y, x).
        width: geometric mean of the half edges.
    """

    cost: float
    center: Floats
    width: float


def common_rectangle(corners: Floats) -> tuple[Floats, Floats]:
    """Return the largest rectangle along y and x that lies within all of many convex areas.

    Args:
        corners: (n, k, 2) y and x, in order along the outline of each area.

    Returns:
        The lowest and the highest corner of the rectangle, (y, x); the highest is below the lowest
        where the areas have nothing in common.
    """
    outward, limits = _half_planes(corners)
    best = scipy.optimize.minimize_scalar(
        lambda log_shape: _largest_of_shape(log_shape, outward, limits).cost,
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-3},
    )
    _, center, width = _largest_of_shape(best.x, outward, limits)
    half_edges = width * _unit_half_edges(best.x)
    return center - half_edges, center + half_edges


def _largest_of_shape(log_shape: float, outward: Floats, limits: Floats) -> _Rectangle:
    """Return the largest rectangle of one shape in all half-planes, by linear programming."""
    # A rectangle lies in a half-plane if its furthest corner does: that is linear in its center and
    # its half edges.
    reach = np.abs(outward) @ _unit_half_edges(log_shape)
    result = scipy.optimize.linprog(
        [0, 0, -1],
        np.column_stack([outward, reach]),
        limits,
        bounds=[(None, None)] * 2 + [(0, None)],
    )
    if result.status != 0:
        return _Rectangle(np.inf, np.zeros(2), -1.0)
    y, x, width = result.x
    return _Rectangle(-np.log(max(float(width), 1e-9)), np.array([y, x]), width)


def _unit_half_edges(log_shape: float) -> Floats:
    """Return the half edges (y, x) of a rectangle of the width 1."""
    return np.exp([log_shape / 2, -log_shape / 2])


def _half_planes(corners: Floats) -> tuple[Floats, Floats]:
    """Return the half-planes whose intersection is the common area.

    Returns:
        Outward normals (n * k, 2) and limits (n * k,): a point p lies inside where
        ``outward . p <= limit``.
    """
    ahead = np.roll(corners, -1, axis=1) - corners
    outward = np.stack([ahead[..., 1], -ahead[..., 0]], axis=-1)
    orientation = _orientation(ahead)
    outward = (orientation[:, None, None] * outward).reshape(-1, 2)
    limits = (outward * corners.reshape(-1, 2)).sum(axis=1)
    return outward, limits


def _orientation(edges: Floats) -> Floats:
    """Return (n,) 1 or -1, the direction in which outlines turn, from their edges (n, k, 2)."""
    y, x = edges[..., 0], edges[..., 1]
    turns = y[:, :-1] * x[:, 1:] - x[:, :-1] * y[:, 1:]
    return np.asarray(np.sign(turns.sum(axis=1)))
