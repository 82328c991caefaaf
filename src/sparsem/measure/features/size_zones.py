"""Size zones in an object: connected voxels of one gray level.

Thibault et al. 2013; Machireddy et al. 2023, equations 14 and 15.

Gray levels are (z, y, x) integers 1 to N, and 0 outside the object. Zones are 26-connected.
"""

from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

Gray = NDArray[np.uint8] | NDArray[np.uint16]


class SizeZoneFeatures(NamedTuple):
    """Features of a size-zone matrix P(i, j), the number of zones of level i and size j.

    They are NaN if there is no zone.

    Attributes:
        zone_percentage: zones / voxels, equation 14; a ratio, 1 if no neighbors are equal.
        small_zone_high_gray: sum P i^2 / j^2 / zones. Equation 15 is printed without 1 / j^2,
            without which sizes do not enter.
        mean_level: centroid of the matrix along i, sum i P / sum P.
        mean_size: centroid along j, sum j P / sum P, voxels.
    """

    zone_percentage: float
    small_zone_high_gray: float
    mean_level: float
    mean_size: float


def zones(gray: Gray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the gray level of every zone, (n,), and its size in voxels, (n,)."""
    connected, count = cc3d.connected_components(gray, connectivity=26, return_N=True)
    levels, sizes = np.zeros((2, count + 1), np.int64)
    _add_voxels(connected.ravel(), gray.ravel(), levels, sizes)
    return levels[1:], sizes[1:]


@compiled()
def _add_voxels(connected: Any, gray: Any, levels: Any, sizes: Any) -> None:
    """Write the level of every zone, and count its voxels."""
    for index in range(len(connected)):
        zone = connected[index]
        if zone:
            levels[zone] = gray[index]
            sizes[zone] += 1


def size_zone_features(levels: NDArray[np.int64], sizes: NDArray[np.int64]) -> SizeZoneFeatures:
    """Compute the features from the level and the size of every zone."""
    if not len(levels):
        return SizeZoneFeatures(*[float("nan")] * 4)
    emphasis = float((levels.astype(float) ** 2 / sizes.astype(float) ** 2).mean())
    return SizeZoneFeatures(
        zone_percentage=len(levels) / int(sizes.sum()),
        small_zone_high_gray=emphasis,
        mean_level=float(levels.mean()),
        mean_size=float(sizes.mean()),
    )
