"""The inputs that all blocks of the stage ``cells`` share."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import read_annotation
from sparsem.cells.propagate import (
    ArrivalCarrier,
    Carrier,
    FlowCarrier,
    GridSlice,
    PerFrameCarrier,
)
from sparsem.cells.separate import METHODS, METHODS_WITH_CARRIED_IDS, Labels, Mask
from sparsem.cells.settings import CellsSettings
from sparsem.image.flow import reduce_to_grid
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume


@dataclass(frozen=True)
class SeparationJob:
    """The inputs of the separation; a picklable handle for workers.

    Attributes:
        sample: sample with the annotation.
        image_name: name of the image.
        image: image for the flow.
        interior: probability of lying in a cell, uint8 as the network wrote it.
        boundary: probability of lying on a boundary, uint8.
        settings: settings of the stage.
        grid: (h, w) of the flow.
        z: numbers of the labeled slices.
        base: labels above it are islands.
        first_new: id from which on cells are new ones; ``base`` + 1 if none are looked for.
        window: gray levels of the image that become 0 and 255 for the flow; None for 8 bit images.
    """

    sample: Sample
    image_name: str
    image: Volume
    interior: Volume
    boundary: Volume
    settings: CellsSettings
    grid: tuple[int, int]
    z: tuple[int, ...]
    base: int
    first_new: int
    window: tuple[float, float] | None = None

    @property
    def volume_fingerprints(self) -> dict[str, str]:
        """Fingerprints of image, interior and boundary."""
        return {
            "image": self.image.fingerprint,
            "interior": self.interior.fingerprint,
            "boundary": self.boundary.fingerprint,
        }

    @property
    def pixel_nm(self) -> float:
        """Edge of a grid pixel in nm; if it is not square, that of a square of the same area."""
        _, y, x = self.image.shape
        voxel = self.image.voxel_size
        return float(np.sqrt(voxel.y * y / self.grid[0] * voxel.x * x / self.grid[1]))

    @property
    def carrier(self) -> Carrier:
        """The method of propagation."""
        method = self.settings.method
        if method == "arrival":
            return ArrivalCarrier(self.settings, self.image.voxel_size.z / self.pixel_nm)
        if method == "per_frame":
            return PerFrameCarrier(self.settings)
        return FlowCarrier(self.settings)

    @property
    def uses_seeds(self) -> bool:
        """True if slices are separated from seeds after the propagation, and not during it."""
        method = self.settings.method
        return method in METHODS and method not in METHODS_WITH_CARRIED_IDS

    @property
    def min_island_px(self) -> int:
        """Minimum area of an island in pixels of a slice."""
        return self._area_px(self.settings.min_island_nm2)

    @property
    def max_hole_px(self) -> int:
        """Maximum area of a filled hole in pixels of a slice."""
        return self._area_px(1e6 * self.settings.fill_holes_um2)

    @property
    def min_new_voxels(self) -> int:
        """Minimum size of a new cell in voxels of the grid."""
        voxel_nm3 = self.pixel_nm**2 * self.image.voxel_size.z
        return max(1, round(1e9 * self.settings.new_cells_um3 / voxel_nm3))

    def _area_px(self, area_nm2: float) -> int:
        return round(area_nm2 / (self.image.voxel_size.y * self.image.voxel_size.x))

    def grid_slices(self, slices: slice) -> list[GridSlice]:
        """Return slices reduced to the grid.

        Volumes are read one after the other, so that only one is in memory at full resolution.
        """
        images = self._read_on_grid(self.image, slices, self.window)
        interiors = self._read_on_grid(self.interior, slices)
        boundaries = self._read_on_grid(self.boundary, slices)
        margin = self.settings.outline_margin_nm / self.pixel_nm
        return [
            GridSlice(image, _to_unit(interior), _to_unit(boundary), margin)
            for image, interior, boundary in zip(images, interiors, boundaries, strict=True)
        ]

    def _read_on_grid(
        self, volume: Volume, slices: slice, window: tuple[float, float] | None = None
    ) -> list[NDArray[np.uint8]]:
        return [reduce_to_grid(image, self.grid, window) for image in volume.read(slices)]

    def labeled_slice(self, index: int) -> tuple[Labels, Mask]:
        """Return the ids of a labeled slice, and where they are known, at full resolution."""
        annotation = read_annotation(self.sample, self.settings.cells, self.image_name)
        return annotation.objects(index)


def _to_unit(probability: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale stored probabilities to 0..1."""
    return probability.astype(np.float32) / np.float32(255)
