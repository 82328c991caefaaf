"""Smooth random fields that are evaluated one slice at a time and depend on the seed only.

A field is a cubic B-spline over a lattice of normal random numbers. The numbers of one lattice
plane depend on the seed, the name of the field and the plane alone, so that no slice depends on
another. Positions are in nm; values have mean 0 and about unit variance.
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
MAX_CACHED_PLANES = 8
# Lattice planes are numbered from here on, so that no number is negative.
FIRST_PLANE = 2**20


def generator(seed: int, name: str, *numbers: int) -> np.random.Generator:
    """Return a generator that depends on the seed, a name and non-negative numbers only."""
    return np.random.default_rng([seed, zlib.crc32(name.encode()), *numbers])


def spline_weights(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the lattice points and weights of a cubic B-spline.

    Args:
        position: (N,) in lattice units.

    Returns:
        The first lattice index (N,), and the weights (N, 4) of this and the next three.
    """
    first = np.floor(position).astype(np.int64)
    t = position - first
    terms = [
        (1 - t) ** 3,
        3 * t**3 - 6 * t**2 + 4,
        -3 * t**3 + 3 * t**2 + 3 * t + 1,
        t**3,
    ]
    weights = np.stack(terms, axis=1) / 6
    return first, weights.astype(np.float32)


@dataclass(frozen=True)
class SmoothField:
    """A random field over a volume.

    Attributes:
        seed: of the phantom.
        name: fields of different names are independent.
        wavelength: distance of lattice points (z, y, x) in nm: the size of its features.
        extent: (y, x) nm; positions from -margin to extent + margin are defined.
        margin: nm.
    """

    seed: int
    name: str
    wavelength: tuple[float, float, float]
    extent: tuple[float, float]
    margin: float
    _planes: dict[int, Field] = field(default_factory=dict, compare=False, repr=False)

    def at(self, z: float, y: NDArray[np.float64], x: NDArray[np.float64]) -> Field:
        """Return the values (len(y), len(x)) on the slice at height z, all in nm."""
        wavelength_z, wavelength_y, wavelength_x = self.wavelength
        plane = self._plane_between(z / wavelength_z)
        rows = _interpolation_matrix(tuple(y), wavelength_y, self.margin, plane.shape[0])
        columns = _interpolation_matrix(tuple(x), wavelength_x, self.margin, plane.shape[1])
        values: Field = (columns @ (rows @ plane).T).T
        return np.ascontiguousarray(values) / np.float32(SPLINE_VARIANCE**1.5)

    def _plane_between(self, position: float) -> Field:
        """Return the numbers of the lattice at a height in lattice units, between its planes."""
        (first,), (weights,) = spline_weights(np.array([position + FIRST_PLANE]))
        plane: Field = np.zeros((), np.float32)
        for k, weight in enumerate(weights):
            plane = plane + weight * self._plane(int(first) + k)
        return plane

    def _plane(self, number: int) -> Field:
        """Return the random numbers of one lattice plane."""
        plane = self._planes.get(number)
        if plane is None:
            points = [
                int((length + 2 * self.margin) / wavelength) + 5
                for length, wavelength in zip(self.extent, self.wavelength[1:], strict=True)
            ]
            plane = generator(self.seed, self.name, number).standard_normal(points, np.float32)
            if len(self._planes) > MAX_CACHED_PLANES:
                self._planes.clear()
            self._planes[number] = plane
        return plane


@lru_cache(maxsize=256)
def _interpolation_matrix(
    positions: tuple[float, ...], wavelength: float, margin: float, points: int
) -> scipy.sparse.csr_array:
    """Return a sparse matrix (positions, points) from lattice numbers to values at positions."""
    first, weights = spline_weights((np.array(positions) + margin) / wavelength)
    rows = np.repeat(np.arange(len(positions)), 4)
    columns = (first[:, None] + np.arange(4)).ravel()
    shape = (len(positions), points)
    return scipy.sparse.csr_array((weights.ravel(), (rows, columns)), shape=shape)
