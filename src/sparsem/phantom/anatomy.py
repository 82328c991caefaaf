"""The plan of a phantom: where cells, nuclei, organelles and filopodia are, in nm, (z, y, x). Made once, small.

Sizes follow the cells: with ``spacing`` the mean distance of two cells, a nucleus is about half of it across.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsem.phantom.noise import generator

Point = NDArray[np.float64]  # (3,)
Points = NDArray[np.float64]  # (N, 3)


@dataclass(frozen=True)
class Nucleus:
    """A noisy ellipsoid with furrows: invaginations of the envelope along curved sheets.

    Attributes:
        center: nm.
        metric: (3, 3); |metric @ (p - center)| is 1 on the undisturbed surface.
        radius: mean, nm.
        furrows: (N, 3) unit normals of the sheets.
        furrow_depths: (N,) as part of the radius.
    """

    center: Point
    metric: NDArray[np.float64]
    radius: float
    furrows: Points
    furrow_depths: NDArray[np.float64]


@dataclass(frozen=True)
class Tube:
    """A chain of points with a radius: a mitochondrion or a filopodium. A single point makes a ball."""

    number: int
    cell: int
    points: Points
    radius: float


@dataclass(frozen=True)
class Cell:
    """One cell: what belongs to it, and the metric in which it competes for space."""

    number: int
    center: Point
    metric: NDArray[np.float64]
    nucleus: Nucleus
    nucleoli: tuple[Tube, ...]
    mitochondria: tuple[Tube, ...]
    endosomes: tuple[Tube, ...]
    lysosomes: tuple[Tube, ...]
    filopodia: tuple[Tube, ...]


@dataclass(frozen=True)
class Anatomy:
    """All cells of a volume, and the distance that scales everything."""

    size: Point
    spacing: float
    cells: tuple[Cell, ...]


def cell_spacing(size: Point, cells: int) -> float:
    """Distance of cells, nm, so that about ``cells`` of them lie in a volume: one layer of them where it is thin."""
    flat = math.sqrt(size[1] * size[2] / cells)
    return flat if size[0] < flat else float(np.prod(size) / cells) ** (1 / 3)


def plan(seed: int, size: Point, cells: int, voxel: float) -> Anatomy:
    """Draw the plan of a volume of ``size`` nm; ``voxel`` (nm) keeps the thinnest things visible."""
    spacing = cell_spacing(size, cells)
    layers = [np.arange(-2, math.ceil(length / spacing) + 2) for length in size]
    origin = [(length - (math.ceil(length / spacing) - 1) * spacing) / 2 for length in size]
    made: list[Cell] = []
    for i in layers[0]:
        for j in layers[1]:
            for k in layers[2]:
                random = generator(seed, "cell", int(i) + 2, int(j) + 2, int(k) + 2)
                shift = np.array(
                    [0.0, 0.5 * (int(i) % 2) * spacing, (0.5 * (int(j) % 2)) * spacing]
                )
                center = (
                    np.array(origin)
                    + np.array([i, j, k]) * spacing
                    + shift
                    + random.uniform(-0.22, 0.22, 3) * spacing
                )
                if np.all(center > -1.1 * spacing) and np.all(center < size + 1.1 * spacing):
                    made.append(_cell(len(made) + 1, center, spacing, voxel, random))
    return Anatomy(size, spacing, tuple(made))


def _cell(
    number: int, center: Point, spacing: float, voxel: float, random: np.random.Generator
) -> Cell:
    metric = _stretched(random, 0.14)
    nucleus = _nucleus(center + random.uniform(-0.06, 0.06, 3) * spacing, 0.35 * spacing, random)
    first = number * 1000  # ids of organelles are unique in the volume: 1000 of a kind a cell
    thin = max(0.026 * spacing, 3 * voxel)

    def around(
        count: int, low: float, high: float, lengths: tuple[int, int], step: float
    ) -> tuple[Tube, ...]:
        radii = random.uniform(max(low * spacing, 2 * voxel), max(high * spacing, 3 * voxel), count)
        return tuple(
            Tube(
                first + n,
                number,
                _walk(nucleus, spacing, radius, int(random.integers(*lengths)), step, random),
                float(radius),
            )
            for n, radius in enumerate(radii, 1)
        )

    nucleoli = tuple(
        Tube(
            first + n,
            number,
            (nucleus.center + _direction(random) * nucleus.radius * random.uniform(0.15, 0.5))[
                None
            ],
            radius,
        )
        for n, radius in enumerate(
            random.uniform(0.28, 0.44, int(random.integers(1, 4))) * nucleus.radius, 1
        )
    )
    return Cell(
        number,
        center,
        metric,
        nucleus,
        nucleoli,
        mitochondria=around(70, 0.026, 0.046, (2, 9), 1.6),
        endosomes=around(34, 0.018, 0.040, (1, 2), 0),
        lysosomes=around(26, 0.016, 0.036, (1, 2), 0),
        filopodia=tuple(
            Tube(first + n, number, _filopodium(center, spacing, random), thin)
            for n in range(1, 11)
        ),
    )


def _nucleus(center: Point, radius: float, random: np.random.Generator) -> Nucleus:
    count = int(random.integers(0, 3))
    furrows = np.array([_direction(random) for _ in range(count)]).reshape(count, 3)
    return Nucleus(
        center, _stretched(random, 0.2) / radius, radius, furrows, random.uniform(0.25, 0.6, count)
    )


def _walk(
    nucleus: Nucleus,
    spacing: float,
    radius: float,
    count: int,
    step: float,
    random: np.random.Generator,
) -> Points:
    """A wandering chain of points in the cytoplasm; those that would enter the nucleus are pushed out of it."""
    place = nucleus.center + _direction(random) * spacing * random.uniform(0.36, 0.64)
    heading = _direction(random)
    points = []
    for _ in range(count):
        offset = place - nucleus.center
        distance = float(np.linalg.norm(nucleus.metric @ offset))
        least = 1.12 + 1.1 * radius / nucleus.radius
        points.append(nucleus.center + offset * max(1.0, least / max(distance, 1e-9)))
        heading = heading + 0.5 * random.standard_normal(3)
        heading /= np.linalg.norm(heading)
        place = points[-1] + heading * radius * step
    return np.stack(points)


def _filopodium(center: Point, spacing: float, random: np.random.Generator) -> Points:
    """A thin curved protrusion that starts inside its cell and wanders off between and into the neighbors."""
    heading = _direction(random)
    place = center + heading * 0.36 * spacing
    points = [place]
    for _ in range(int(random.integers(5, 9))):
        heading = heading + 0.45 * random.standard_normal(3)
        heading /= np.linalg.norm(heading)
        place = place + heading * 0.09 * spacing
        points.append(place)
    return np.stack(points)


def _direction(random: np.random.Generator) -> Point:
    direction = random.standard_normal(3)
    return direction / np.linalg.norm(direction)


def _stretched(random: np.random.Generator, amount: float) -> NDArray[np.float64]:
    """A metric that stretches space along random axes by up to ``amount``, keeping volumes."""
    rotation, _ = np.linalg.qr(random.standard_normal((3, 3)))
    factors = np.exp(random.uniform(-amount, amount, 3))
    factors /= np.prod(factors) ** (1 / 3)
    stretched: NDArray[np.float64] = rotation @ np.diag(factors) @ rotation.T
    return stretched
