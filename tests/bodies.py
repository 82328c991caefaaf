"""Bodies with measures known by formula.

Ball, ellipsoid, cube, box, torus, hollow ball, cube with tunnels. A body is ``across`` units wide,
and is drawn in voxels of any edge lengths. Its middle lies between voxels, as in a microscope.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ellipeinc, ellipkinc

Floats = NDArray[np.float64]
Inside = Callable[[Floats, Floats, Floats], NDArray[np.bool_]]

OFFSETS = (0.13, 0.27, 0.41)  # of the middle of a body from a voxel, as fractions of an edge


class Body(NamedTuple):
    """A voxelized body, and the analytic values of its measures; lengths are in units."""

    mask: NDArray[np.bool_]
    truth: dict[str, float]


def body(name: str, across: float, voxel: tuple[float, float, float]) -> Body:
    """Draw one of ``BODIES`` in voxels of these edge lengths (z, y, x)."""
    inside, size, truth = BODIES[name](across)
    counts = [math.ceil(length / 2 / edge) + 2 for length, edge in zip(size, voxel, strict=True)]
    axes = [
        (np.arange(-n, n + 1) + offset) * edge
        for n, offset, edge in zip(counts, OFFSETS, voxel, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return Body(np.asarray(inside(z, y, x)), truth)


def _truth(volume: float, area: float, **more: float) -> dict[str, float]:
    sphericity = math.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / area
    return {
        "volume_um3": volume,
        "surface_um2": area,
        "sphericity": sphericity,
        "equivalent_diameter_um": (6 * volume / math.pi) ** (1 / 3),
        **more,
    }


def _ball(across: float) -> tuple[Inside, tuple[float, ...], dict[str, float]]:
    r = across / 2
    truth = _truth(
        4 / 3 * math.pi * r**3,
        4 * math.pi * r**2,
        solidity=1.0,
        axis_major_um=across,
        axis_minor_um=across,
    )
    return lambda z, y, x: z**2 + y**2 + x**2 < r**2, (across,) * 3, truth


def _ellipsoid(across: float) -> tuple[Inside, tuple[float, ...], dict[str, float]]:
    a, b, c = across / 2, 0.75 * across / 2, 0.5 * across / 2  # along x, y, z
    phi = math.acos(c / a)
    k2 = a**2 * (b**2 - c**2) / (b**2 * (a**2 - c**2))
    area = (
        2
        * math.pi
        * (
            c**2
            + a
            * b
            / math.sin(phi)
            * (ellipeinc(phi, k2) * math.sin(phi) ** 2 + ellipkinc(phi, k2) * math.cos(phi) ** 2)
        )
    )
    truth = _truth(
        4 / 3 * math.pi * a * b * c,
        area,
        solidity=1.0,
        axis_major_um=2 * a,
        axis_middle_um=2 * b,
        axis_minor_um=2 * c,
    )
    return (
        lambda z, y, x: (z / c) ** 2 + (y / b) ** 2 + (x / a) ** 2 < 1,
        (2 * c, 2 * b, 2 * a),
        truth,
    )


def _cuboid(
    sides: tuple[float, float, float],
) -> tuple[Inside, tuple[float, ...], dict[str, float]]:
    dz, dy, dx = sides
    longest, _, shortest = (2 * math.sqrt(5 / 12) * side for side in sorted(sides, reverse=True))
    truth = _truth(
        dz * dy * dx,
        2 * (dz * dy + dy * dx + dx * dz),
        solidity=1.0,
        axis_major_um=longest,
        axis_minor_um=shortest,
    )
    return lambda z, y, x: (abs(z) < dz / 2) & (abs(y) < dy / 2) & (abs(x) < dx / 2), sides, truth


def _torus(across: float) -> tuple[Inside, tuple[float, ...], dict[str, float]]:
    ring, tube = 0.35 * across, 0.15 * across
    inside = lambda z, y, x: (np.sqrt(y**2 + x**2) - ring) ** 2 + z**2 < tube**2  # noqa: E731
    hull = (
        2 * tube * math.pi * ring**2
        + 2 * math.pi * ring * math.pi * tube**2 / 2
        + 4 / 3 * math.pi * tube**3
    )
    volume = 2 * math.pi**2 * ring * tube**2
    return (
        inside,
        (2 * tube, across, across),
        _truth(volume, 4 * math.pi**2 * ring * tube, solidity=volume / hull),
    )


def _hollow_ball(across: float) -> tuple[Inside, tuple[float, ...], dict[str, float]]:
    r, s = across / 2, across / 4
    volume = 4 / 3 * math.pi * (r**3 - s**3)
    truth = _truth(volume, 4 * math.pi * (r**2 + s**2), solidity=1 - (s / r) ** 3)
    return (
        lambda z, y, x: (z**2 + y**2 + x**2 < r**2) & (z**2 + y**2 + x**2 >= s**2),
        (across,) * 3,
        truth,
    )


def _cube_with_tunnels(across: float) -> tuple[Inside, tuple[float, ...], dict[str, float]]:
    a, t = across, across / 3  # three square tunnels that cross in the middle
    volume = a**3 - (3 * a * t**2 - 2 * t**3)
    area = 6 * (a**2 - t**2) + 3 * 4 * t * (a - t)
    inside = lambda z, y, x: (  # noqa: E731
        (abs(z) < a / 2)
        & (abs(y) < a / 2)
        & (abs(x) < a / 2)
        & ((abs(z) < t / 2).astype(int) + (abs(y) < t / 2) + (abs(x) < t / 2) < 2)
    )
    return inside, (a, a, a), _truth(volume, area, solidity=volume / a**3)


BODIES: dict[str, Callable[[float], tuple[Inside, tuple[float, ...], dict[str, float]]]] = {
    "ball": _ball,
    "ellipsoid": _ellipsoid,
    "cube": lambda across: _cuboid((across, across, across)),
    "box": lambda across: _cuboid((0.5 * across, 0.75 * across, across)),
    "torus": _torus,
    "hollow ball": _hollow_ball,
    "cube with tunnels": _cube_with_tunnels,
}
