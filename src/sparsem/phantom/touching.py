"""The plan of mitochondria that touch and form networks, for trials with objects.

Every mitochondrion is connected: it is a trunk, in every second case with branches, whose axis runs
where cytoplasm is free. Many begin at the side of another one, and press against it. Positions are
(z, y, x) in nm.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.phantom.anatomy import (
    IDS_PER_CELL,
    MITOCHONDRIA,
    Anatomy,
    Cell,
    Points,
    Tube,
    organelle_start,
    random_direction,
    turned,
)
from sparsem.phantom.draw import SliceRenderer
from sparsem.phantom.random_fields import generator

PER_CELL = 40  # mitochondria that are tried; fewer find a position
STEPS = (4, 16)  # number of points of a trunk, from the first to before the last
BRANCH_STEPS = (4, 10)
MAX_BRANCHES = 3
MIN_POINTS = 3  # of an axis; shorter ones are left out
STEP = 0.8  # distance of two points of an axis, as a multiple of the radius
TURN = 0.35
TOUCHING_FRACTION = 0.7  # of mitochondria that begin at the side of another one
# Distance of the axes of two mitochondria, as a multiple of the sum of their radii. Where it is
# less than 1, they are flattened against each other.
CLEARANCE = 0.88
FREE_RADII = 1.15  # free cytoplasm around an axis, as a multiple of the radius
TRIES = 16  # walks of which the longest is taken
GRID_STEP = 0.02  # of the map of free cytoplasm, as a fraction of the spacing of cells
VIEW_MARGIN = 0.4  # of that map around the volume, as a fraction of the spacing of cells


class FreeSpace(NamedTuple):
    """A map of the cytoplasm on a regular grid.

    Attributes:
        cell: (z, y, x) number of the cell, 0 outside of cells and in protrusions.
        free: (z, y, x) nm to the nearest membrane that is in the way.
        origin: (3,) position of the first point, nm.
        step: distance of two points, nm.
    """

    cell: NDArray[np.uint32]
    free: NDArray[np.float32]
    origin: NDArray[np.float64]
    step: float

    def is_free(self, points: Points, cell: int, distance: float) -> NDArray[np.bool_]:
        """Return which points (n, 3) lie in a cell, at a distance in nm from all membranes."""
        index = np.round((points - self.origin) / self.step).astype(int)
        is_inside = np.all((index >= 0) & (index < self.cell.shape), axis=1)
        z, y, x = np.clip(index, 0, np.array(self.cell.shape) - 1).T
        is_own = self.cell[z, y, x] == cell
        return np.asarray(is_inside & is_own & (self.free[z, y, x] >= distance))


class _Axes:
    """The axes of all mitochondria of a cell that have a position."""

    def __init__(self) -> None:
        self.points: Points = np.empty((0, 3))
        self.radii: NDArray[np.float64] = np.empty(0)
        self.numbers: NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, tube: Tube) -> None:
        """Add an axis."""
        count = len(tube.points)
        self.points = np.concatenate([self.points, tube.points])
        self.radii = np.append(self.radii, np.full(count, tube.radius))
        self.numbers = np.append(self.numbers, np.full(count, tube.number))

    def are_clear(self, points: Points, radius: float, number: int) -> NDArray[np.bool_]:
        """Return which points (n, 3) of a mitochondrion leave enough room to all others."""
        others = self.numbers != number
        offsets = points[:, None] - self.points[others]
        distances = np.linalg.norm(offsets, axis=2)
        min_distances = CLEARANCE * (self.radii[others] + radius)
        return np.asarray((distances >= min_distances).all(axis=1))


def view_margin(anatomy: Anatomy) -> float:
    """Return how far beyond the volume the map of free cytoplasm reaches, nm."""
    return VIEW_MARGIN * anatomy.spacing


def with_touching_mitochondria(renderer: SliceRenderer) -> Anatomy:
    """Return the anatomy of a renderer with other mitochondria: they touch and form networks.

    Args:
        renderer: draws the anatomy; its margin is at least ``view_margin``.
    """
    anatomy = renderer.anatomy
    space = map_free_space(renderer)
    cells = []
    for cell in anatomy.cells:
        tubes = _plan_mitochondria(cell, anatomy.spacing, space, renderer.seed)
        cells.append(replace(cell, mitochondria=tubes))
    return replace(anatomy, cells=tuple(cells), flattened=("mitochondrion",))


def map_free_space(renderer: SliceRenderer) -> FreeSpace:
    """Return the map of the cytoplasm of a volume and its margin."""
    anatomy = renderer.anatomy
    step = GRID_STEP * anatomy.spacing
    margin = view_margin(anatomy)
    origin = np.full(3, -margin)
    counts = np.floor((anatomy.size + 2 * margin) / step).astype(int)
    heights, rows, columns = (
        start + step * np.arange(n) for start, n in zip(origin, counts, strict=True)
    )
    slices = [renderer.free_cytoplasm(float(height), rows, columns) for height in heights]
    cell, free = (np.stack(maps) for maps in zip(*slices, strict=True))
    return FreeSpace(cell, free, origin, step)


def _plan_mitochondria(cell: Cell, spacing: float, space: FreeSpace, seed: int) -> tuple[Tube, ...]:
    """Draw the mitochondria of a cell at random."""
    if not (space.cell == cell.number).any():
        return ()
    planner = _Planner(cell, spacing, space, generator(seed, "touching", cell.number))
    for n in range(1, PER_CELL + 1):
        planner.add_mitochondrion(cell.number * IDS_PER_CELL + n)
    return tuple(planner.tubes)


class _Planner:
    """The mitochondria of a cell while they are drawn at random.

    Attributes:
        tubes: trunks and branches that have a position.
    """

    def __init__(
        self, cell: Cell, spacing: float, space: FreeSpace, random: np.random.Generator
    ) -> None:
        self.cell = cell
        self.spacing = spacing
        self.space = space
        self.random = random
        self.axes = _Axes()
        self.tubes: list[Tube] = []

    def add_mitochondrion(self, number: int) -> None:
        """Add a trunk, in every second case with branches, if there is room for it."""
        random = self.random
        low, high = MITOCHONDRIA.min_radius, MITOCHONDRIA.max_radius
        radius = float(random.uniform(low, high)) * self.spacing
        trunk = self._longest_walk(self._starts(radius), STEPS, radius, number)
        if trunk is None:
            return
        self._add(trunk)
        for _ in range(int(random.integers(0, MAX_BRANCHES + 1) * random.integers(0, 2))):
            starts = random.choice(trunk.points, TRIES)
            branch = self._longest_walk(starts, BRANCH_STEPS, radius, number)
            if branch is not None:
                self._add(branch)

    def _add(self, tube: Tube) -> None:
        self.tubes.append(tube)
        self.axes.add(tube)

    def _starts(self, radius: float) -> Points:
        """Return positions (TRIES, 3) at which a mitochondrion may begin."""
        random = self.random
        axes = self.axes
        if not len(axes.points) or random.random() >= TOUCHING_FRACTION:
            nucleus = self.cell.nucleus
            return np.stack([organelle_start(nucleus, self.spacing, random) for _ in range(TRIES)])
        directions = np.stack([random_direction(random) for _ in range(TRIES)])
        neighbors = random.integers(len(axes.points), size=TRIES)
        distances = 1.02 * CLEARANCE * (axes.radii[neighbors] + radius)
        starts: Points = axes.points[neighbors] + directions * distances[:, None]
        return starts

    def _are_free(self, points: Points, radius: float, number: int) -> NDArray[np.bool_]:
        """Return at which points (n, 3) a mitochondrion has room."""
        is_free = self.space.is_free(points, self.cell.number, FREE_RADII * radius)
        is_free[is_free] = self.axes.are_clear(points[is_free], radius, number)
        return is_free

    def _longest_walk(
        self, starts: Points, steps: tuple[int, int], radius: float, number: int
    ) -> Tube | None:
        """Return the longest of several walks through free cytoplasm; None if all are too short."""
        count = int(self.random.integers(*steps))
        walks = np.stack([_walk(start, count, radius, self.random) for start in starts])
        is_free = self._are_free(walks.reshape(-1, 3), radius, number)
        lengths = np.cumprod(is_free.reshape(len(starts), count), axis=1).sum(axis=1)
        longest = int(lengths.argmax())
        length = int(lengths[longest])
        if length < MIN_POINTS:
            return None
        return Tube(number, self.cell.number, walks[longest, :length], radius)


def _walk(start: Points, count: int, radius: float, random: np.random.Generator) -> Points:
    """Return a wandering chain of points (count, 3)."""
    heading = random_direction(random)
    points = [start]
    for _ in range(count - 1):
        heading = turned(heading, TURN, random)
        points.append(points[-1] + heading * radius * STEP)
    return np.stack(points)
