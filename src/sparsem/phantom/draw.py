"""Drawing one slice of a phantom: exact labels, and gray levels as an electron microscope shows stained tissue.

Everything is an implicit function of position in nm, positive inside; a membrane is dark where such a function is near zero,
so it widens where it is cut obliquely, as in tissue. Arrays are (y, x); labels uint32 ids; gray levels float32 in 0..255.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.phantom.anatomy import Anatomy, Cell, Nucleus, Tube
from sparsem.phantom.noise import Field, SmoothField

Labels = NDArray[np.uint32]
Coordinates = NDArray[np.float64]

STRUCTURES = ("cells", "nucleus", "nucleolus", "mitochondrion", "endosome", "lysosome")

CYTOPLASM, MATRIX, NUCLEOPLASM = 162.0, 200.0, 160.0
FAR = np.float32(-1e9)


class Drawing(NamedTuple):
    """One slice: gray levels before the microscope's faults, and the exact labels by structure."""

    gray: Field
    labels: dict[str, Labels]


class Window(NamedTuple):
    """The part of a slice that an object can reach, and the positions of its pixels."""

    rows: slice
    columns: slice
    y: Field  # (rows, 1)
    x: Field  # (1, columns)


@dataclass(frozen=True)
class Artist:
    """Draws slices of one anatomy.

    Attributes:
        anatomy: the plan.
        seed: of the textures.
        voxel: (y, x) nm of a pixel.
        margin: nm by which drift may carry the view beyond the volume.
    """

    anatomy: Anatomy
    seed: int
    voxel: tuple[float, float]
    margin: float
    _fields: dict[str, SmoothField] = field(default_factory=dict, compare=False, repr=False)

    def draw(self, z: float, y: Coordinates, x: Coordinates) -> Drawing:
        """The slice at height ``z`` at the pixel positions ``y`` and ``x``, all in nm."""
        view = _View(self, z, y, x)
        view.divide_space()
        view.add_filopodia()
        gray = view.tissue()
        labels = {"cells": view.cell}
        labels["nucleus"], labels["nucleolus"], gray = view.nuclei(gray)
        free = np.minimum(view.inside, -view.nuclear) - 1.5 * view.membrane
        for name in STRUCTURES[3:]:
            labels[name], gray, free = view.organelles(name, gray, free)
        return Drawing(gray, labels)

    def field(self, name: str, *wavelength: float) -> SmoothField:
        """A random field of that name; one wavelength for all axes, or (z, y, x), in nm."""
        if name not in self._fields:
            z, y, x = wavelength * 3 if len(wavelength) == 1 else wavelength
            least = 1.5 * min(self.voxel)
            size = (float(self.anatomy.size[1]), float(self.anatomy.size[2]))
            self._fields[name] = SmoothField(
                self.seed, name, (max(z, least), max(y, least), max(x, least)), size, self.margin
            )
        return self._fields[name]


class _View:
    """One slice while it is drawn."""

    def __init__(self, artist: Artist, z: float, y: Coordinates, x: Coordinates) -> None:
        self.artist, self.z, self.y, self.x = artist, z, y, x
        self.spacing = artist.anatomy.spacing
        self.membrane = np.float32(max(0.0045 * self.spacing, 0.9 * min(artist.voxel)))
        self.shape = (len(y), len(x))
        self.cell: Labels = np.zeros(self.shape, np.uint32)
        self.inside: Field = np.full(self.shape, FAR)  # nm into the cell, negative outside
        self.protrusion: NDArray[np.bool_] = np.zeros(
            self.shape, bool
        )  # of one cell in another: too thin for organelles
        self.nuclear: Field = np.full(self.shape, FAR)  # nm into the nucleus

    def noise(self, name: str, *wavelength: float) -> Field:
        return self.artist.field(name, *wavelength).at(self.z, self.y, self.x)

    def divide_space(self) -> None:
        """Cells share space by the nearest center in a bent metric; between them a gap that mostly closes."""
        s = self.spacing
        bend = [
            0.11 * s * self.noise(f"bend {axis}", 0.5 * s)
            + 0.03 * s * self.noise(f"ripple {axis}", 0.14 * s)
            for axis in "zyx"
        ]
        first, second = (np.full(self.shape, 1e9, np.float32) for _ in range(2))
        for cell in self.artist.anatomy.cells:
            window = self._window(cell.center[None], 1.9 * s)
            if window is None:
                continue
            area = (window.rows, window.columns)
            distance = self._metric_distance(cell, window, [bent[area] for bent in bend])
            nearer = distance < first[area]
            second[area] = np.where(nearer, first[area], np.minimum(second[area], distance))
            self.cell[area][nearer] = cell.number
            first[area] = np.minimum(first[area], distance)
        gap = 0.16 * s * np.clip(self.noise("gap", 0.45 * s) - 0.55, 0, 1.2)
        self.inside = np.minimum((second - first) / 2 - gap, 0.80 * s - first).astype(np.float32)
        self.cell[self.inside <= 0] = 0

    def _metric_distance(self, cell: Cell, window: Window, bend: Sequence[Field]) -> Field:
        dz = np.float32(self.z - cell.center[0]) + bend[0]
        dy = window.y - np.float32(cell.center[1]) + bend[1]
        dx = window.x - np.float32(cell.center[2]) + bend[2]
        return _length(cell.metric, dz, dy, dx)

    def add_filopodia(self) -> None:
        """Thin protrusions run through the gaps and into the neighbors, with a membrane and a cleft of their own."""
        cleft = 1.2 * self.membrane
        cortex = (
            0.10 * self.spacing
        )  # as deep as a neighbor lets a protrusion in: far from its nucleus
        for cell in self.artist.anatomy.cells:
            for tube in cell.filopodia:
                window = self._window(tube.points, tube.radius + 3 * float(cleft))
                if window is None:
                    continue
                area = (window.rows, window.columns)
                inside, foreign = self.inside[area], self.cell[area] != cell.number
                depth = self._depth(tube, window)
                depth = np.where(foreign, np.minimum(depth, cortex - inside), depth)
                entered = foreign & (depth > -cleft)  # the neighbor gives way, a cleft remains
                kept = np.where(
                    foreign, np.minimum(inside, -depth - cleft), np.maximum(inside, depth)
                )
                self.inside[area] = np.where(entered, np.maximum(depth, -cleft / 2), kept)
                self.cell[area] = np.where(
                    entered & (depth > 0), np.uint32(cell.number), self.cell[area]
                )
                self.protrusion[area] |= entered
        self.cell[self.inside <= 0] = 0

    def tissue(self) -> Field:
        """Cytoplasm with reticulum and ribosomes, the matrix between cells with its fibrils, and the cells' membranes."""
        s, t = self.spacing, self.membrane
        shade = np.array(
            [0.0, *(3.5 * np.sin(5.0 * cell.number) for cell in self.artist.anatomy.cells)],
            np.float32,
        )[self.cell]
        ribosomes = self.noise("ribosomes", 0.010 * s)
        clouds = self.noise("clouds", 0.09 * s)
        reticulum = np.exp(
            -((self.noise("reticulum", 0.045 * s, 0.05 * s, 0.05 * s) / 0.16) ** 2)
        ) * np.clip(2 * self.noise("reticulum here", 0.2 * s), 0, 1)
        cytoplasm = (
            CYTOPLASM
            + shade
            + 7 * clouds
            - 30 * np.clip(ribosomes - 0.5, 0, 2) * np.clip(0.7 + 0.5 * clouds, 0.1, 1.5)
            - 48 * reticulum
        )
        fibrils = self.noise("fibrils", 0.12 * s, 0.022 * s, 0.06 * s)
        matrix = MATRIX + 4 * self.noise("matrix", 0.15 * s) - 30 * np.clip(fibrils - 0.7, 0, 1.5)
        gray = np.where(self.inside > 0, cytoplasm, matrix)
        visible = np.clip(
            0.72 + 0.3 * self.noise("membrane", 0.25 * s), 0.25, 1
        )  # tumor cells: borders come and go
        return np.asarray(gray - 105 * visible * _line(self.inside, t), np.float32)

    def nuclei(self, gray: Field) -> tuple[Labels, Labels, Field]:
        """Nuclei with furrows, clumped chromatin along the envelope, and nucleoli with holes."""
        s, t = self.spacing, self.membrane
        nucleus, nucleolus = np.zeros(self.shape, np.uint32), np.zeros(self.shape, np.uint32)
        nucleolar = np.full(self.shape, FAR)
        rough = 0.075 * self.noise("envelope", 0.2 * s) + 0.022 * self.noise(
            "envelope fine", 0.05 * s
        )
        sheet = self.noise("furrow", 0.26 * s)
        blob = self.noise("nucleolus", 0.06 * s)
        holes = self.noise("fenestration", 0.034 * s)
        for cell in self.artist.anatomy.cells:
            window = self._window(cell.nucleus.center[None], 1.7 * cell.nucleus.radius)
            if window is None:
                continue
            area = (window.rows, window.columns)
            depth = self._nuclear_depth(cell.nucleus, window, rough[area], sheet[area])
            depth = np.where(
                self.cell[area] == cell.number, np.minimum(depth, self.inside[area] - 5 * t), FAR
            )
            nucleus[area][depth > 0] = cell.number
            self.nuclear[area] = np.maximum(self.nuclear[area], depth)
            for tube in cell.nucleoli:
                whole = self._depth(tube, window) + np.float32(0.2 * tube.radius) * blob[area]
                net = np.minimum(
                    whole, np.float32(0.22 * tube.radius) * (np.float32(1.4) - holes[area])
                )
                net = np.minimum(net, depth - 2 * t)
                nucleolus[area] = np.where(
                    (net > 0) & (nucleolus[area] == 0), np.uint32(tube.number), nucleolus[area]
                )
                nucleolar[area] = np.maximum(nucleolar[area], net)
        chromatin = self.noise("chromatin", 0.028 * s)
        rim = np.exp(-np.clip(self.nuclear, 0, None) / (0.022 * s))
        clumps = np.clip(chromatin - 0.55 + 1.2 * rim, 0, 1)
        inner = NUCLEOPLASM - 58 * clumps + 7 * self.noise("nucleoplasm", 0.01 * s)
        inner = np.where(nucleolus > 0, 84 + 9 * self.noise("granules", 0.012 * s), inner)
        gray = np.where(self.nuclear > 0, inner, gray)
        envelope = _line(self.nuclear, t) + 0.8 * _line(
            self.nuclear + 2.6 * t, 0.8 * t
        )  # two membranes
        return nucleus, nucleolus, (gray - 80 * np.clip(envelope, 0, 1)).astype(np.float32)

    def _nuclear_depth(self, nucleus: Nucleus, window: Window, rough: Field, sheet: Field) -> Field:
        dz = np.float32(self.z - nucleus.center[0])
        dy, dx = window.y - np.float32(nucleus.center[1]), window.x - np.float32(nucleus.center[2])
        radial = _length(nucleus.metric, dz, dy, dx)
        depth = 1 - radial + rough
        for normal, deep in zip(nucleus.furrows, nucleus.furrow_depths, strict=True):
            across = (
                np.float32(normal[0]) * dz + np.float32(normal[1]) * dy + np.float32(normal[2]) * dx
            ) / np.float32(nucleus.radius)
            reach = np.clip(
                (radial - (1 - deep)) / deep, 0, 1
            )  # 0 at the furrow's bottom, 1 at the surface
            width = np.float32(0.06) * np.sqrt(reach)
            depth = np.where(
                reach > 0,
                np.minimum(depth, np.abs(across + np.float32(0.26) * sheet) - width),
                depth,
            )
        return (depth * np.float32(nucleus.radius)).astype(np.float32)

    def organelles(self, name: str, gray: Field, free: Field) -> tuple[Labels, Field, Field]:
        """Mitochondria, endosomes or lysosomes where the cytoplasm is ``free`` (nm to what is in the way)."""
        t = self.membrane
        labels, depth = np.zeros(self.shape, np.uint32), np.full(self.shape, FAR)
        for cell in self.artist.anatomy.cells:
            for tube in {
                "mitochondrion": cell.mitochondria,
                "endosome": cell.endosomes,
                "lysosome": cell.lysosomes,
            }[name]:
                window = self._window(tube.points, 1.4 * tube.radius + 3 * float(t))
                if window is None:
                    continue
                area = (window.rows, window.columns)
                reach = np.minimum(self._depth(tube, window), free[area])
                reach = np.where(
                    (self.cell[area] == cell.number) & ~self.protrusion[area], reach, FAR
                )
                wins = reach > depth[area]
                labels[area] = np.where(wins & (reach > 0), np.uint32(tube.number), labels[area])
                depth[area] = np.maximum(depth[area], reach)
        body = {"mitochondrion": self._cristae, "endosome": self._lumen, "lysosome": self._dense}[
            name
        ]()
        gray = np.where(depth > 0, body, gray)
        rim = {"mitochondrion": 50, "endosome": 75, "lysosome": 30}[name]
        gray = (gray - rim * _line(depth - 0.5 * t, t)).astype(np.float32)
        return labels, gray, np.minimum(free, -depth - 2 * t)

    def _cristae(self) -> Field:
        folds = self.noise(
            "cristae", 0.05 * self.spacing, 0.013 * self.spacing, 0.03 * self.spacing
        )
        bend = self.noise(
            "cristae turned", 0.05 * self.spacing, 0.03 * self.spacing, 0.013 * self.spacing
        )
        pattern = np.where(self.noise("cristae side", 0.12 * self.spacing) > 0, folds, bend)
        return np.asarray(
            124 - 44 * np.exp(-((pattern / 0.35) ** 2)) + 14 * np.clip(pattern, -1, 1), np.float32
        )

    def _lumen(self) -> Field:
        return np.asarray(
            192 - 38 * np.clip(self.noise("vesicles", 0.012 * self.spacing) - 0.5, 0, 2), np.float32
        )

    def _dense(self) -> Field:
        return np.asarray(74 + 15 * self.noise("lysosome", 0.014 * self.spacing), np.float32)

    def _depth(self, tube: Tube, window: Window) -> Field:
        """Nm into a tube (positive inside): its radius less the distance to its chain of points."""
        points = tube.points.astype(np.float32)
        nearest = np.full((window.y.shape[0], window.x.shape[1]), np.float32(1e18))
        for start, end in zip(points, points[1:] if len(points) > 1 else points, strict=False):
            along = end - start
            to = (np.float32(self.z) - start[0], window.y - start[1], window.x - start[2])
            squared = float(along @ along)
            share = (
                np.clip((to[0] * along[0] + to[1] * along[1] + to[2] * along[2]) / squared, 0, 1)
                if squared
                else np.float32(0)
            )
            rest = [offset - share * step for offset, step in zip(to, along, strict=True)]
            nearest = np.minimum(nearest, rest[0] ** 2 + rest[1] ** 2 + rest[2] ** 2)
        return (np.float32(tube.radius) - np.sqrt(nearest)).astype(np.float32)

    def _window(self, points: NDArray[np.float64], reach: float) -> Window | None:
        """The pixels within ``reach`` nm of any of the points, as a box; None where the slice passes by."""
        low, high = points.min(axis=0) - reach, points.max(axis=0) + reach
        if not low[0] < self.z < high[0]:
            return None
        rows = slice(*np.searchsorted(self.y, (low[1], high[1])))
        columns = slice(*np.searchsorted(self.x, (low[2], high[2])))
        if rows.start == rows.stop or columns.start == columns.stop:
            return None
        return Window(
            rows,
            columns,
            self.y[rows, None].astype(np.float32),
            self.x[None, columns].astype(np.float32),
        )


def _length(metric: NDArray[np.float64], dz: Field | np.float32, dy: Field, dx: Field) -> Field:
    m = metric.astype(np.float32)
    parts = [row[0] * dz + row[1] * dy + row[2] * dx for row in m]
    return np.asarray(np.sqrt(parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2), np.float32)


def _line(depth: Field, thickness: np.float32) -> Field:
    """1 on the surface of an implicit function, falling off over a membrane's thickness."""
    return np.asarray(np.exp(-np.square(np.clip(depth / thickness, -6, 6))), np.float32)
