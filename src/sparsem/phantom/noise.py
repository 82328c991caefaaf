"""Smooth random fields that can be asked for one slice at a time and are the same for the same seed.

A field is a cubic B-spline over a lattice of normal numbers. The numbers of one lattice plane depend on the seed, the field's
name and the plane alone, so no slice needs any other. Positions are in nm; values have mean 0 and about unit variance.
"""

import zlib
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

Field = NDArray[np.float32]

# A cubic B-spline of unit normals has the variance 151/315 on average along each axis.
SPLINE_VARIANCE = 151 / 315


def generator(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """Random numbers that depend on the seed, a name and non-negative numbers, on nothing else."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *numbers])


def spline_weights(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """First lattice index (N,) and the four cubic B-spline weights (N, 4) of positions in lattice units."""
    first = np.floor(position).astype(np.int64)
    t = position - first
    weights = (
        np.stack(
            [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
        )
        / 6
    )
    return first, weights.astype(np.float32)


@dataclass(frozen=True)
class SmoothField:
    """A random field over a volume.

    Attributes:
        seed: of the phantom.
        name: fields of different names are independent.
        wavelength: distance of lattice points (z, y, x) in nm: the size of its features.
        extent: (y, x) nm that can be asked for, from -margin to extent + margin.
        margin: nm.
    """

    seed: int
    name: str
    wavelength: tuple[float, float, float]
    extent: tuple[float, float]
    margin: float
    _planes: dict[int, Field] = field(default_factory=dict, compare=False, repr=False)

    def at(self, z: float, y: NDArray[np.float64], x: NDArray[np.float64]) -> Field:
        """Values (len(y), len(x)) on the slice at height z, all in nm."""
        (first,), (weights,) = spline_weights(np.array([z / self.wavelength[0] + 2**20]))
        plane: Field = sum(
            (weight * self._plane(int(first) + k) for k, weight in enumerate(weights)),
            np.zeros((), np.float32),
        )
        rows, columns = (
            _expansion(tuple(axis), wavelength, self.margin, points)
            for axis, wavelength, points in zip(
                (y, x), self.wavelength[1:], plane.shape, strict=True
            )
        )
        values: Field = (columns @ (rows @ plane).T).T
        return np.ascontiguousarray(values) / np.float32(SPLINE_VARIANCE**1.5)

    def _plane(self, number: int) -> Field:
        plane = self._planes.get(number)
        if plane is None:
            points = [
                int((length + 2 * self.margin) / wave) + 5
                for length, wave in zip(self.extent, self.wavelength[1:], strict=True)
            ]
            plane = generator(self.seed, self.name, number).standard_normal(points, np.float32)
            if len(self._planes) > 8:
                self._planes.clear()
            self._planes[number] = plane
        return plane


@lru_cache(maxsize=256)
def _expansion(
    axis: tuple[float, ...], wavelength: float, margin: float, points: int
) -> scipy.sparse.csr_array:
    """Sparse matrix (len(axis), points) that turns lattice numbers into values at the positions of ``axis``."""
    first, weights = spline_weights((np.array(axis) + margin) / wavelength)
    rows = np.repeat(np.arange(len(axis)), 4)
    columns = (first[:, None] + np.arange(4)).ravel()
    return scipy.sparse.csr_array((weights.ravel(), (rows, columns)), shape=(len(axis), points))
