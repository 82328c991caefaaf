"""A structure while its objects are measured, before its table is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import Overlaps
from sparsem.measure.crops import finest_level_within
from sparsem.measure.features.moments import Moments
from sparsem.measure.features.shape import Columns
from sparsem.measure.settings import MeasureSettings
from sparsem.store.volume import Volume


class SmallComponents(NamedTuple):
    """The components of a mask that are too small to be measured.

    Attributes:
        components: number of components.
        voxels: number of voxels of all of them.
    """

    components: int
    voxels: int


@dataclass
class MeasuredStructure:
    """The objects of a structure, and what has been measured of them.

    Attributes:
        volume: labels that number the objects.
        moments: sums over the voxels of n objects, ascending by id.
        overlaps: voxels that the objects share with cells and with nuclei, by name of these.
        columns: measured columns, (n,) each.
        spectra: pattern spectra, (n, 2 sizes), and the step between sizes in nm; None if texture
            is not measured.
        notes: how the structure was measured, for the metadata of the table.
    """

    volume: Volume
    moments: Moments
    overlaps: Mapping[str, Overlaps]
    columns: Columns = field(default_factory=dict)
    spectra: tuple[NDArray[np.float64], float] | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def ids(self) -> NDArray[np.uint32]:
        """Ids of the objects, (n,), ascending."""
        return self.moments.ids

    @property
    def count(self) -> int:
        """Number of objects."""
        return len(self.moments.ids)

    @property
    def is_in_images(self) -> bool:
        """True if the objects lie in separate images, which no depth connects."""
        return bool(self.volume.sizes)


def level_in_budget(
    structure: MeasuredStructure, settings: MeasureSettings, arrays_in_memory: int = 1
) -> int:
    """Return the finest level at which the largest object fits the budget.

    Args:
        structure: objects to measure.
        settings: settings with the budget, ``max_mvoxels``.
        arrays_in_memory: arrays of the object's size, compared with a structure of one array.
    """
    max_voxels = int(settings.max_mvoxels * 1e6 / arrays_in_memory)
    moments = structure.moments
    return finest_level_within(structure.volume, moments.low, moments.high, max_voxels)
