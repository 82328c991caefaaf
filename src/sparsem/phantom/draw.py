"""Drawing one slice of a phantom: exact labels, and gray levels as in electron microscopy.

Every shape is an implicit function of position in nm, positive inside. A membrane is dark where
such a function is near zero, so that it widens where it is cut obliquely, as in tissue. Arrays are
(y, x); labels uint32 ids; gray levels float32 in 0..255. The numbers in the drawing of tissue are
gray levels, or sizes as fractions of the spacing of cells; they were set by eye.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.phantom.anatomy import Anatomy, Cell, Tube
from sparsem.phantom.implicit_shapes import (
    Coordinates,
    Window,
    membrane_profile,
    metric_length,
    nucleus_depth,
    tube_depth,
    window_around,
)
from sparsem.phantom.random_fields import Field, SmoothField

Labels = NDArray[np.uint32]

ORGANELLES = ("mitochondrion", "endosome", "lysosome")
STRUCTURES = ("cells", "nucleus", "nucleolus", *ORGANELLES)

# Gray levels.
CYTOPLASM = 162.0
MATRIX = 200.0
NUCLEOPLASM = 160.0
MEMBRANE_DARKNESS = {"mitochondrion": 50, "endosome": 75, "lysosome": 30}

FAR = np.float32(-1e9)  # depth outside of all shapes, nm


class DrawnSlice(NamedTuple):
    """One slice: gray levels before the microscope's faults, and the exact labels by structure."""

    gray: Field
    labels: dict[str, Labels]


@dataclass(frozen=True)
class SliceRenderer:
    """Draws slices of one anatomy.

    Attributes:
        anatomy: the plan.
        seed: of the textures.
        voxel: (y, x) nm of a pixel.
        margin: nm by which drift may move the view beyond the volume.
    """

    anatomy: Anatomy
    seed: int
    voxel: tuple[float, float]
    margin: float
    _fields: dict[str, SmoothField] = field(default_factory=dict, compare=False, repr=False)

    def draw(self, z: float, y: Coordinates, x: Coordinates) -> DrawnSlice:
        """Return the slice at height ``z`` at the pixel positions ``y`` and ``x``, all in nm."""
        canvas = _SliceCanvas(self, z, y, x)
        canvas.divide_space()
        canvas.add_filopodia()
        gray = canvas.draw_tissue()
        labels = {"cells": canvas.cell}
        labels["nucleus"], labels["nucleolus"] = canvas.place_nuclei()
        gray = canvas.shade_nuclei(gray, labels["nucleolus"])
        free = canvas.free_cytoplasm()
        for name in ORGANELLES:
            labels[name], gray, free = canvas.draw_organelles(name, gray, free)
        return DrawnSlice(gray, labels)

    def free_cytoplasm(self, z: float, y: Coordinates, x: Coordinates) -> tuple[Labels, Field]:
        """Return where organelles may lie on a slice.

        Returns:
            The number of the cell, 0 in protrusions, and nm to the nearest membrane of cell and
            nucleus, (y, x).
        """
        canvas = _SliceCanvas(self, z, y, x)
        canvas.divide_space()
        canvas.add_filopodia()
        canvas.place_nuclei()
        cell = np.where(canvas.protrusion, 0, canvas.cell).astype(np.uint32)
        return cell, canvas.free_cytoplasm()

    def draw_shapes(
        self, name: str, depth: Field, z: float, y: Coordinates, x: Coordinates
    ) -> Field:
        """Return gray levels (y, x) of organelles of other shapes, in cytoplasm without cells.

        Args:
            name: kind of the organelles.
            depth: (y, x) nm into an organelle, negative outside.
            z: height of the slice, nm.
            y: (rows,) positions of its pixels, nm.
            x: (columns,) positions of its pixels, nm.
        """
        canvas = _SliceCanvas(self, z, y, x)
        canvas.inside[:] = -FAR
        return canvas.shade_organelles(name, canvas.draw_tissue(), depth)

    def random_field(self, name: str, *wavelength: float) -> SmoothField:
        """Return the random field of a name.

        Args:
            name: fields of different names are independent.
            *wavelength: nm, one for all axes, or (z, y, x).
        """
        if name not in self._fields:
            z, y, x = wavelength * 3 if len(wavelength) == 1 else wavelength
            shortest = 1.5 * min(self.voxel)
            size = (float(self.anatomy.size[1]), float(self.anatomy.size[2]))
            self._fields[name] = SmoothField(
                self.seed,
                name,
                (max(z, shortest), max(y, shortest), max(x, shortest)),
                size,
                self.margin,
            )
        return self._fields[name]


class _NuclearTextures(NamedTuple):
    """Random fields (y, x) by which nuclei and nucleoli differ from smooth bodies.

    Attributes:
        roughness: of the envelope, as a fraction of the radius.
        sheet: by which furrows are bent.
        blob: by which nucleoli are bent.
        holes: in nucleoli.
    """

    roughness: Field
    sheet: Field
    blob: Field
    holes: Field


def _depth_in_nucleolus(tube: Tube, window: Window, textures: _NuclearTextures) -> Field:
    """Return nm into a nucleolus with holes (fenestrations)."""
    area = window.area
    body = tube_depth(tube, window) + np.float32(0.2 * tube.radius) * textures.blob[area]
    to_hole = np.float32(0.22 * tube.radius) * (np.float32(1.4) - textures.holes[area])
    return np.asarray(np.minimum(body, to_hole))


def _insert_distance(distance: Field, nearest: Field, second: Field) -> None:
    """Update the distances of the nearest two cells by that of one more, in place."""
    is_nearer = distance < nearest
    second[:] = np.where(is_nearer, nearest, np.minimum(second, distance))
    nearest[:] = np.minimum(nearest, distance)


def _insert_organelle(
    number: int, depth: Field, labels: Labels, nearest: Field, second: Field
) -> None:
    """Update the depths in the nearest and the second organelle by one more, in place."""
    is_nearest = depth > nearest
    # What an organelle displaces is the second one there, or what it does not displace.
    displaced = np.where(is_nearest, nearest, depth)
    is_own = labels == number
    second[:] = np.where(is_own, second, np.maximum(second, displaced))
    labels[is_nearest] = number
    nearest[:] = np.maximum(nearest, depth)


class _SliceCanvas:
    """One slice while it is drawn.

    Attributes:
        membrane: thickness of a membrane, nm.
        cleft: width of the cleft around protrusions, nm.
        cell: numbers of the cells.
        inside: nm into the cell, negative outside.
        protrusion: parts of a cell inside another cell, too thin for organelles.
        nuclear: nm into the nucleus.
    """

    def __init__(self, renderer: SliceRenderer, z: float, y: Coordinates, x: Coordinates) -> None:
        self.renderer = renderer
        self.cells = renderer.anatomy.cells
        self.z = z
        self.y = y
        self.x = x
        self.spacing = renderer.anatomy.spacing
        self.membrane = np.float32(max(0.0045 * self.spacing, 0.9 * min(renderer.voxel)))
        self.cleft = 1.2 * self.membrane
        self.shape = (len(y), len(x))
        self.cell: Labels = np.zeros(self.shape, np.uint32)
        self.inside: Field = np.full(self.shape, FAR)
        self.protrusion: NDArray[np.bool_] = np.zeros(self.shape, bool)
        self.nuclear: Field = np.full(self.shape, FAR)

    def noise(self, name: str, *wavelength: float) -> Field:
        """Return the values of a random field on the slice; wavelengths in nm."""
        return self.renderer.random_field(name, *wavelength).at(self.z, self.y, self.x)

    def window(self, points: NDArray[np.float64], reach: float) -> Window | None:
        """Return the pixels within ``reach`` nm of any of the points (n, 3)."""
        return window_around(points, reach, self.z, self.y, self.x)

    def divide_space(self) -> None:
        """Give every pixel to the nearest cell in a bent metric.

        Between cells lies a gap that is closed in most places.
        """
        bend = [self._bend(axis) for axis in "zyx"]
        nearest = np.full(self.shape, 1e9, np.float32)
        second = np.full(self.shape, 1e9, np.float32)
        for cell in self.cells:
            window = self.window(cell.center[None], 1.9 * self.spacing)
            if window is None:
                continue
            area = window.area
            distance = self._distance_to_cell(cell, window, [bent[area] for bent in bend])
            self.cell[area][distance < nearest[area]] = cell.number
            _insert_distance(distance, nearest[area], second[area])
        self.inside = self._depth_in_cells(nearest, second)
        self.cell[self.inside <= 0] = 0

    def _bend(self, axis: str) -> Field:
        """Return by how many nm space is bent along an axis."""
        s = self.spacing
        large = 0.11 * s * self.noise(f"bend {axis}", 0.5 * s)
        small = 0.03 * s * self.noise(f"ripple {axis}", 0.14 * s)
        return large + small

    def _depth_in_cells(self, nearest: Field, second: Field) -> Field:
        """Return nm into a cell, from the distances of the nearest two cells."""
        s = self.spacing
        gap = 0.16 * s * np.clip(self.noise("gap", 0.45 * s) - 0.55, 0, 1.2)
        to_neighbor = (second - nearest) / 2 - gap
        return np.asarray(np.minimum(to_neighbor, 0.80 * s - nearest), np.float32)

    def _distance_to_cell(self, cell: Cell, window: Window, bend: Sequence[Field]) -> Field:
        """Return the distance to the center of a cell in its metric, nm."""
        dz = np.float32(self.z - cell.center[0]) + bend[0]
        dy = window.y - np.float32(cell.center[1]) + bend[1]
        dx = window.x - np.float32(cell.center[2]) + bend[2]
        return metric_length(cell.metric, dz, dy, dx)

    def add_filopodia(self) -> None:
        """Draw thin protrusions that run through the gaps and into the neighbors.

        Each has a membrane and a cleft of its own.
        """
        for cell in self.cells:
            for tube in cell.filopodia:
                window = self.window(tube.points, tube.radius + 3 * float(self.cleft))
                if window is not None:
                    self._add_filopodium(tube, window)
        self.cell[self.inside <= 0] = 0

    def _add_filopodium(self, tube: Tube, window: Window) -> None:
        """Draw one protrusion."""
        area = window.area
        inside = self.inside[area]
        is_foreign = self.cell[area] != tube.cell
        depth = tube_depth(tube, window)
        # A neighbor lets a protrusion in so deep: far from its nucleus.
        cortex = 0.10 * self.spacing
        depth = np.where(is_foreign, np.minimum(depth, cortex - inside), depth)
        # The neighbor gives way, and a cleft remains.
        is_entered = is_foreign & (depth > -self.cleft)
        outside_tube = np.where(
            is_foreign, np.minimum(inside, -depth - self.cleft), np.maximum(inside, depth)
        )
        inside_tube = np.maximum(depth, -self.cleft / 2)
        self.inside[area] = np.where(is_entered, inside_tube, outside_tube)
        self.cell[area][is_entered & (depth > 0)] = tube.cell
        self.protrusion[area] |= is_entered

    def draw_tissue(self) -> Field:
        """Return gray levels of cytoplasm, of the matrix between cells, and of cell membranes."""
        s = self.spacing
        gray = np.where(self.inside > 0, self._cytoplasm(), self._matrix())
        # As in tumor cells, membranes are visible in some places only.
        visibility = np.clip(0.72 + 0.3 * self.noise("membrane", 0.25 * s), 0.25, 1)
        membranes = membrane_profile(self.inside, self.membrane)
        return np.asarray(gray - 105 * visibility * membranes, np.float32)

    def _cytoplasm(self) -> Field:
        """Return gray levels of cytoplasm with reticulum and ribosomes."""
        s = self.spacing
        shades = [0.0, *(3.5 * np.sin(5.0 * cell.number) for cell in self.cells)]
        shade = np.array(shades, np.float32)[self.cell]
        clouds = self.noise("clouds", 0.09 * s)
        ribosome_density = np.clip(0.7 + 0.5 * clouds, 0.1, 1.5)
        ribosomes = np.clip(self.noise("ribosomes", 0.010 * s) - 0.5, 0, 2)
        background = CYTOPLASM + shade + 7 * clouds
        return np.asarray(background - 30 * ribosomes * ribosome_density - 48 * self._reticulum())

    def _reticulum(self) -> Field:
        """Return the darkness of the endoplasmic reticulum, 0 to 1: sheets in some places."""
        s = self.spacing
        distance = self.noise("reticulum", 0.045 * s, 0.05 * s, 0.05 * s)
        sheets = np.exp(-((distance / 0.16) ** 2))
        return np.asarray(sheets * np.clip(2 * self.noise("reticulum here", 0.2 * s), 0, 1))

    def _matrix(self) -> Field:
        """Return gray levels of the matrix between cells with its fibrils."""
        s = self.spacing
        fibrils = self.noise("fibrils", 0.12 * s, 0.022 * s, 0.06 * s)
        matrix = MATRIX + 4 * self.noise("matrix", 0.15 * s) - 30 * np.clip(fibrils - 0.7, 0, 1.5)
        return np.asarray(matrix)

    def place_nuclei(self) -> tuple[Labels, Labels]:
        """Return the labels of nuclei with furrows, and of nucleoli with holes."""
        nucleus = np.zeros(self.shape, np.uint32)
        nucleolus = np.zeros(self.shape, np.uint32)
        textures = self._nuclear_textures()
        for cell in self.cells:
            window = self.window(cell.nucleus.center[None], 1.7 * cell.nucleus.radius)
            if window is None:
                continue
            area = window.area
            depth = self._depth_in_nucleus(cell, window, textures)
            nucleus[area][depth > 0] = cell.number
            self.nuclear[area] = np.maximum(self.nuclear[area], depth)
            for tube in cell.nucleoli:
                net = _depth_in_nucleolus(tube, window, textures)
                net = np.minimum(net, depth - 2 * self.membrane)
                is_new = (net > 0) & (nucleolus[area] == 0)
                nucleolus[area][is_new] = tube.number
        return nucleus, nucleolus

    def free_cytoplasm(self) -> Field:
        """Return nm to the nearest membrane of cell and nucleus, once nuclei are placed."""
        return np.asarray(np.minimum(self.inside, -self.nuclear) - 1.5 * self.membrane)

    def _nuclear_textures(self) -> _NuclearTextures:
        """Return the random fields of nuclei and nucleoli."""
        s = self.spacing
        coarse_roughness = 0.075 * self.noise("envelope", 0.2 * s)
        return _NuclearTextures(
            roughness=coarse_roughness + 0.022 * self.noise("envelope fine", 0.05 * s),
            sheet=self.noise("furrow", 0.26 * s),
            blob=self.noise("nucleolus", 0.06 * s),
            holes=self.noise("fenestration", 0.034 * s),
        )

    def _depth_in_nucleus(self, cell: Cell, window: Window, textures: _NuclearTextures) -> Field:
        """Return nm into a nucleus, which stays within its cell."""
        area = window.area
        depth = nucleus_depth(cell.nucleus, window, textures.roughness[area], textures.sheet[area])
        within_cell = np.minimum(depth, self.inside[area] - 5 * self.membrane)
        return np.where(self.cell[area] == cell.number, within_cell, FAR)

    def shade_nuclei(self, gray: Field, nucleolus: Labels) -> Field:
        """Return gray levels with nucleoplasm, nucleoli, and the two membranes of the envelope."""
        t = self.membrane
        nucleoli = 84 + 9 * self.noise("granules", 0.012 * self.spacing)
        inner = np.where(nucleolus > 0, nucleoli, self._nucleoplasm())
        gray = np.where(self.nuclear > 0, inner, gray)
        inner_membrane = membrane_profile(self.nuclear, t)
        outer_membrane = membrane_profile(self.nuclear + 2.6 * t, 0.8 * t)
        envelope = np.clip(inner_membrane + 0.8 * outer_membrane, 0, 1)
        return np.asarray(gray - 80 * envelope, np.float32)

    def _nucleoplasm(self) -> Field:
        """Return gray levels of nucleoplasm with clumped chromatin, densest along the envelope."""
        s = self.spacing
        chromatin = self.noise("chromatin", 0.028 * s)
        rim = np.exp(-np.clip(self.nuclear, 0, None) / (0.022 * s))
        clumps = np.clip(chromatin - 0.55 + 1.2 * rim, 0, 1)
        return np.asarray(NUCLEOPLASM - 58 * clumps + 7 * self.noise("nucleoplasm", 0.01 * s))

    def draw_organelles(self, name: str, gray: Field, free: Field) -> tuple[Labels, Field, Field]:
        """Draw mitochondria, endosomes or lysosomes where the cytoplasm is free.

        Args:
            name: of the structure.
            gray: levels before.
            free: nm to the nearest object in the way.

        Returns:
            Labels, gray levels, and free space with the organelles.
        """
        labels, depth = self._place_organelles(name, free)
        gray = self.shade_organelles(name, gray, depth)
        return labels, gray, np.minimum(free, -depth - 2 * self.membrane)

    def shade_organelles(self, name: str, gray: Field, depth: Field) -> Field:
        """Return gray levels with the content and the membranes of organelles.

        ``depth`` is the way into them, nm.
        """
        t = self.membrane
        gray = np.where(depth > 0, self._organelle_interior(name), gray)
        darkness = MEMBRANE_DARKNESS[name] * membrane_profile(depth - 0.5 * t, t)
        return (gray - darkness).astype(np.float32)

    def _place_organelles(self, name: str, free: Field) -> tuple[Labels, Field]:
        """Return labels of all organelles of one kind, and nm into them.

        Where two organelles overlap, they are flattened against each other if the anatomy says so.
        """
        labels = np.zeros(self.shape, np.uint32)
        nearest = np.full(self.shape, FAR)
        second = np.full(self.shape, FAR)
        for tube in self._tubes(name):
            window = self.window(tube.points, 1.4 * tube.radius + 3 * float(self.membrane))
            if window is not None:
                depth = self._depth_in_organelle(tube, window, free)
                area = window.area
                _insert_organelle(tube.number, depth, labels[area], nearest[area], second[area])
        labels[nearest <= 0] = 0
        if name in self.renderer.anatomy.flattened:
            nearest = np.minimum(nearest, (nearest - second) / 2)
        return labels, nearest

    def _depth_in_organelle(self, tube: Tube, window: Window, free: Field) -> Field:
        """Return nm into an organelle, which stays in the free cytoplasm of its cell."""
        area = window.area
        is_allowed = (self.cell[area] == tube.cell) & ~self.protrusion[area]
        tube_or_free = np.minimum(tube_depth(tube, window), free[area])
        return np.where(is_allowed, tube_or_free, FAR)

    def _tubes(self, name: str) -> Iterator[Tube]:
        """Yield all organelles of one kind."""
        for cell in self.cells:
            tubes = {
                "mitochondrion": cell.mitochondria,
                "endosome": cell.endosomes,
                "lysosome": cell.lysosomes,
            }
            yield from tubes[name]

    def _organelle_interior(self, name: str) -> Field:
        """Return the gray levels inside organelles of one kind."""
        if name == "mitochondrion":
            return self._cristae()
        s = self.spacing
        if name == "endosome":
            vesicles = np.clip(self.noise("vesicles", 0.012 * s) - 0.5, 0, 2)
            return np.asarray(192 - 38 * vesicles, np.float32)
        return np.asarray(74 + 15 * self.noise("lysosome", 0.014 * s), np.float32)

    def _cristae(self) -> Field:
        """Return the gray levels of mitochondria: parallel folds in one of two directions."""
        s = self.spacing
        folds = self.noise("cristae", 0.05 * s, 0.013 * s, 0.03 * s)
        turned_folds = self.noise("cristae turned", 0.05 * s, 0.03 * s, 0.013 * s)
        pattern = np.where(self.noise("cristae side", 0.12 * s) > 0, folds, turned_folds)
        membranes = np.exp(-((pattern / 0.35) ** 2))
        return np.asarray(124 - 44 * membranes + 14 * np.clip(pattern, -1, 1), np.float32)
