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

    def largest(log_shape: float) -> _Rectangle:
        """Return the largest rectangle of one shape, by linear programming."""
        half_edges = np.exp([log_shape / 2, -log_shape / 2])
        # A rectangle lies in a half-plane if its furthest corner does: that is linear in its center
        # and its half edges.
        result = scipy.optimize.linprog(
            [0, 0, -1],
            np.column_stack([outward, np.abs(outward) @ half_edges]),
            limits,
            bounds=[(None, None)] * 2 + [(0, None)],
        )
        if result.status != 0:
            return _Rectangle(np.inf, np.zeros(2), -1.0)
        y, x, width = result.x
        return _Rectangle(-np.log(max(float(width), 1e-9)), np.array([y, x]), width)

    best = scipy.optimize.minimize_scalar(
        lambda log_shape: largest(log_shape).cost,
        bounds=(-3, 3),
        method="bounded",
        options={"xatol": 1e-3},
    )
    _, center, width = largest(best.x)
    half_edges = width * np.exp([best.x / 2, -best.x / 2])
    return center - half_edges, center + half_edges


def _half_planes(corners: Floats) -> tuple[Floats, Floats]:
    """Return the half-planes whose intersection is the common area.

    Returns:
        Outward normals (n * k, 2) and limits (n * k,): a point p lies inside where
        ``outward . p <= limit``.
    """
    ahead = np.roll(corners, -1, axis=1) - corners
    outward = np.stack([ahead[..., 1], -ahead[..., 0]], axis=-1)
    turns = ahead[:, :-1, 0] * ahead[:, 1:, 1] - ahead[:, :-1, 1] * ahead[:, 1:, 0]
    orientation = np.sign(turns.sum(axis=1))
    outward = (orientation[:, None, None] * outward).reshape(-1, 2)
    limits = (outward * corners.reshape(-1, 2)).sum(axis=1)
    return outward, limits
