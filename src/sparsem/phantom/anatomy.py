"""The plan of a phantom: positions of cells, nuclei, organelles and filopodia.

Positions are (z, y, x) in nm. The plan is computed once and is small. Sizes scale with the cells:
with ``spacing``, the mean distance of two cells, a nucleus is about half of it across.
"""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsem.phantom.random_fields import generator

Point = NDArray[np.float64]  # (3,)
Points = NDArray[np.float64]  # (N, 3)
Metric3D = NDArray[np.float64]  # (3, 3)

IDS_PER_CELL = 1000  # ids of organelles are unique in the volume: so many of a kind for each cell
CELL_JITTER = 0.22  # of the center of a cell from the lattice, as a fraction of the spacing
MARGIN = 1.1  # cells are placed so far beyond the volume, as a multiple of the spacing
MIN_FILOPODIUM_VOXELS = 3  # radius, so that filopodia stay visible


@dataclass(frozen=True)
class Nucleus:
    """A noisy ellipsoid with furrows: invaginations of the envelope along curved sheets.

    Attributes:
        center: nm.
        metric: (3, 3); |metric @ (p - center)| is 1 on the undisturbed surface.
        radius: mean, nm.
        furrows: (N, 3) unit normals of the sheets.
        furrow_depths: (N,) as a fraction of the radius.
    """

    center: Point
    metric: Metric3D
    radius: float
    furrows: Points
    furrow_depths: NDArray[np.float64]


@dataclass(frozen=True)
class Tube:
    """A chain of points with a radius: a mitochondrion or a filopodium. A single point is a ball.

    Attributes:
        number: id in the labels.
        cell: number of its cell.
        points: (N, 3) nm.
        radius: nm.
    """

    number: int
    cell: int
    points: Points
    radius: float


@dataclass(frozen=True)
class Cell:
    """One cell with its contents, and the metric in which it competes for space."""

    number: int
    center: Point
    metric: Metric3D
    nucleus: Nucleus
    nucleoli: tuple[Tube, ...]
    mitochondria: tuple[Tube, ...]
    endosomes: tuple[Tube, ...]
    lysosomes: tuple[Tube, ...]
    filopodia: tuple[Tube, ...]


@dataclass(frozen=True)
class OrganelleKind:
    """Sizes of a kind of organelle.

    Attributes:
        count: for each cell.
        min_radius: as a fraction of the spacing of cells.
        max_radius: as a fraction of the spacing of cells.
        points: number of points of the chain, from the first to before the last.
        step: distance of two points, as a multiple of the radius.
    """

    count: int
    min_radius: float
    max_radius: float
    points: tuple[int, int]
    step: float


MITOCHONDRIA = OrganelleKind(70, 0.026, 0.046, (2, 9), 1.6)
ENDOSOMES = OrganelleKind(34, 0.018, 0.040, (1, 2), 0)
LYSOSOMES = OrganelleKind(26, 0.016, 0.036, (1, 2), 0)
FILOPODIA_PER_CELL = 10


@dataclass(frozen=True)
class Anatomy:
    """All cells of a volume.

    Attributes:
        size: (z, y, x) of the volume, nm.
        spacing: mean distance of two cells, nm; all sizes scale with it.
        cells: of the volume and around it.
        flattened: kinds of organelles that are flattened against each other where they overlap.
    """

    size: Point
    spacing: float
    cells: tuple[Cell, ...]
    flattened: tuple[str, ...] = ()


def cell_spacing(size: Point, cells: int) -> float:
    """Return the distance of cells, nm, so that about ``cells`` of them lie in a volume.

    A thin volume holds one layer of cells.
    """
    flat = math.sqrt(size[1] * size[2] / cells)
    return flat if size[0] < flat else float(np.prod(size) / cells) ** (1 / 3)


def plan_anatomy(seed: int, size: Point, cells: int, voxel: float) -> Anatomy:
    """Draw the plan of a volume at random.

    Args:
        seed: same seed, same plan.
        size: (z, y, x) nm.
        cells: about how many whole cells lie in the volume.
        voxel: edge of a voxel in nm; the thinnest objects are at least some voxels wide.
    """
    spacing = cell_spacing(size, cells)
    counts = [math.ceil(length / spacing) for length in size]
    origin = (size - (np.array(counts) - 1) * spacing) / 2
    planned: list[Cell] = []
    for point in itertools.product(*(range(-2, count + 2) for count in counts)):
        random = generator(seed, "cell", *(index + 2 for index in point))
        center = _cell_center(origin, point, spacing, random)
        if _is_near(center, size, MARGIN * spacing):
            planned.append(_plan_cell(len(planned) + 1, center, spacing, voxel, random))
    return Anatomy(size, spacing, tuple(planned))


def _cell_center(
    origin: Point, point: tuple[int, ...], spacing: float, random: np.random.Generator
) -> Point:
    """Draw the center of a cell near a point (z, y, x) of a lattice."""
    # Every second layer and row is shifted by half the spacing.
    z, y, _ = point
    shift = np.array([0.0, 0.5 * (z % 2) * spacing, 0.5 * (y % 2) * spacing])
    jitter = random.uniform(-CELL_JITTER, CELL_JITTER, 3) * spacing
    center: Point = origin + np.array(point) * spacing + shift + jitter
    return center


def _is_near(center: Point, size: Point, margin: float) -> bool:
    """Return whether a point lies in a volume, or no farther than a margin from it."""
    return bool(np.all(center > -margin) and np.all(center < size + margin))


def _plan_cell(
    number: int, center: Point, spacing: float, voxel: float, random: np.random.Generator
) -> Cell:
    """Draw one cell at random. The order of the draws is part of the result."""
    metric = _random_metric(random, 0.14)
    nucleus_center = center + random.uniform(-0.06, 0.06, 3) * spacing
    nucleus = _plan_nucleus(nucleus_center, 0.35 * spacing, random)
    nucleoli = _plan_nucleoli(number, nucleus, random)
    return Cell(
        number,
        center,
        metric,
        nucleus,
        nucleoli,
        mitochondria=_plan_organelles(MITOCHONDRIA, number, nucleus, spacing, voxel, random),
        endosomes=_plan_organelles(ENDOSOMES, number, nucleus, spacing, voxel, random),
        lysosomes=_plan_organelles(LYSOSOMES, number, nucleus, spacing, voxel, random),
        filopodia=_plan_filopodia(number, center, spacing, voxel, random),
    )


def _plan_nucleus(center: Point, radius: float, random: np.random.Generator) -> Nucleus:
    """Draw a nucleus with up to two furrows."""
    count = int(random.integers(0, 3))
    furrows = np.array([random_direction(random) for _ in range(count)]).reshape(count, 3)
    metric = _random_metric(random, 0.2) / radius
    return Nucleus(center, metric, radius, furrows, random.uniform(0.25, 0.6, count))


def _plan_nucleoli(cell: int, nucleus: Nucleus, random: np.random.Generator) -> tuple[Tube, ...]:
    """Draw one to three nucleoli, as balls."""
    radii = random.uniform(0.28, 0.44, int(random.integers(1, 4))) * nucleus.radius
    nucleoli = []
    for n, radius in enumerate(radii, 1):
        offset = random_direction(random) * nucleus.radius * random.uniform(0.15, 0.5)
        points = (nucleus.center + offset)[None]
        nucleoli.append(Tube(cell * IDS_PER_CELL + n, cell, points, radius))
    return tuple(nucleoli)


def _plan_organelles(
    kind: OrganelleKind,
    cell: int,
    nucleus: Nucleus,
    spacing: float,
    voxel: float,
    random: np.random.Generator,
) -> tuple[Tube, ...]:
    """Draw the organelles of one kind around a nucleus."""
    low = max(kind.min_radius * spacing, 2 * voxel)
    high = max(kind.max_radius * spacing, 3 * voxel)
    radii = random.uniform(low, high, kind.count)
    organelles = []
    for n, radius in enumerate(radii, 1):
        count = int(random.integers(*kind.points))
        points = _random_walk(nucleus, spacing, radius, count, kind.step, random)
        organelles.append(Tube(cell * IDS_PER_CELL + n, cell, points, float(radius)))
    return tuple(organelles)


def _random_walk(
    nucleus: Nucleus,
    spacing: float,
    radius: float,
    count: int,
    step: float,
    random: np.random.Generator,
) -> Points:
    """Return a wandering chain of points in the cytoplasm.

    Points that would enter the nucleus are pushed out of it.
    """
    position = organelle_start(nucleus, spacing, random)
    heading = random_direction(random)
    points = []
    for _ in range(count):
        points.append(_outside_nucleus(position, nucleus, radius))
        heading = turned(heading, 0.5, random)
        position = points[-1] + heading * radius * step
    return np.stack(points)


def organelle_start(nucleus: Nucleus, spacing: float, random: np.random.Generator) -> Point:
    """Return a random position around a nucleus."""
    start: Point = nucleus.center + random_direction(random) * spacing * random.uniform(0.36, 0.64)
    return start


def _outside_nucleus(position: Point, nucleus: Nucleus, radius: float) -> Point:
    """Return a position from which a ball of this radius does not reach into a nucleus."""
    offset = position - nucleus.center
    distance = float(np.linalg.norm(nucleus.metric @ offset))
    min_distance = 1.12 + 1.1 * radius / nucleus.radius
    return nucleus.center + offset * max(1.0, min_distance / max(distance, 1e-9))


def _plan_filopodia(
    cell: int, center: Point, spacing: float, voxel: float, random: np.random.Generator
) -> tuple[Tube, ...]:
    """Draw the filopodia of a cell."""
    radius = max(0.026 * spacing, MIN_FILOPODIUM_VOXELS * voxel)
    filopodia = []
    for n in range(1, FILOPODIA_PER_CELL + 1):
        points = _filopodium_points(center, spacing, random)
        filopodia.append(Tube(cell * IDS_PER_CELL + n, cell, points, radius))
    return tuple(filopodia)


def _filopodium_points(center: Point, spacing: float, random: np.random.Generator) -> Points:
    """Return a thin curved protrusion, from inside its cell to between and into the neighbors."""
    heading = random_direction(random)
    position = center + heading * 0.36 * spacing
    points = [position]
    for _ in range(int(random.integers(5, 9))):
        heading = turned(heading, 0.45, random)
        position = position + heading * 0.09 * spacing
        points.append(position)
    return np.stack(points)


def turned(heading: Point, amount: float, random: np.random.Generator) -> Point:
    """Return a unit vector that is turned at random, the more the larger ``amount``."""
    turned = heading + amount * random.standard_normal(3)
    turned /= np.linalg.norm(turned)
    return turned


def random_direction(random: np.random.Generator) -> Point:
    """Return a random unit vector."""
    direction = random.standard_normal(3)
    return direction / np.linalg.norm(direction)


def _random_metric(random: np.random.Generator, amount: float) -> Metric3D:
    """Return a metric that stretches space along random axes by up to ``amount``.

    Volumes are preserved.
    """
    rotation, _ = np.linalg.qr(random.standard_normal((3, 3)))
    factors = np.exp(random.uniform(-amount, amount, 3))
    factors /= np.prod(factors) ** (1 / 3)
    metric: Metric3D = rotation @ np.diag(factors) @ rotation.T
    return metric
