"""Checks of measured objects: probable small components, and objects that cross lost slices."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from sparsem.measure.lost_slices import cross_gaps, lost_slice_positions
from sparsem.store.sample import Sample

MIN_OBJECTS = 20  # fewer objects make no histogram
BIN_DECADES = 0.02  # width of a bin of the histogram, decades of volume
SMOOTHING_DECADES = 0.15  # sigma by which the histogram is smoothed, decades of volume
# The density between two peaks is a valley below this fraction of the lower peak.
MAX_VALLEY_DEPTH = 0.6
# Small components hold at most this fraction of all volume.
MAX_SMALL_VOLUME_FRACTION = 0.1
# Small components are at least this fraction of the objects: fewer may be chance.
MIN_SMALL_OBJECT_FRACTION = 0.05

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


class ObjectChecks(NamedTuple):
    """The checks of the objects of a structure.

    Attributes:
        objects: number of objects.
        min_volume_um3: a volume that separates small components from objects; None if the volumes
            show none.
        smaller_objects: number of objects below this volume.
        gaps: number of places in the stack where slices are lost.
        crossing_objects: number of objects that lie on both sides of such a place.
        other_volume_um3: volume of all objects that do not.
    """

    objects: int
    min_volume_um3: float | None
    smaller_objects: int
    gaps: int
    crossing_objects: int
    other_volume_um3: float


def propose_min_volume(volumes: Floats) -> float | None:
    """Propose a minimum volume that separates small components from objects.

    The prediction of a network with uncertain voxels has many small components, of one size or
    falling off with size, and the objects are a peak of their own at larger volumes. The minimum is
    at the deepest valley between them in the histogram of the logarithm of volumes. If there is no
    valley, or if small components would hold more than a tenth of all volume, no minimum is
    proposed.

    Args:
        volumes: volumes of the objects, (n,), larger than 0, in any unit.

    Returns:
        The volume, in the same unit, or None.
    """
    if len(volumes) < MIN_OBJECTS:
        return None
    logs = np.log10(volumes)
    edges, density = _density_of(logs)
    in_range = (edges[:-1] > logs.min()) & (edges[:-1] < logs.max())
    if not in_range.any():
        return None
    depth = _valley_depths(density, in_range)
    valley = _middle_of_deepest(depth, in_range)
    minimum = float(10 ** (edges[valley] + BIN_DECADES / 2))
    is_valley = depth[valley] <= MAX_VALLEY_DEPTH
    return minimum if is_valley and _are_small_components(volumes, minimum) else None


def _middle_of_deepest(depth: Floats, in_range: Mask) -> int:
    """Return the bin in the middle of the deepest bins.

    A gap of several decades is flat: its middle is as far from small components as from objects.
    """
    deepest = np.flatnonzero(in_range & (depth <= depth.min() + 1e-9))
    return int(deepest[len(deepest) // 2])


def check_objects(sample: Sample, name: str, cells: str) -> ObjectChecks:
    """Check the objects of ``tables/NAME``.

    Args:
        sample: sample with the table.
        name: name of the structure.
        cells: name of the cells, for which no minimum volume is proposed.
    """
    table = sample.read_table(name)
    volumes = _volumes(table)
    minimum = None if name == cells else propose_min_volume(volumes[np.isfinite(volumes)])
    smaller_objects = 0 if minimum is None else int((volumes < minimum).sum())
    has_slices = "first_z" in table.column_names
    gaps = lost_slice_positions(sample) if has_slices else np.empty(0, np.int64)
    is_crossing = _crossing(table, gaps)
    other_volume = float(_volumes(table)[~is_crossing].sum())
    return ObjectChecks(
        table.num_rows,
        minimum,
        smaller_objects,
        len(gaps),
        int(is_crossing.sum()),
        other_volume,
    )


def object_warnings(sample: Sample, name: str, cells: str) -> list[str]:
    """Return the warnings that follow from the checks of ``tables/NAME``, see ``check_objects``."""
    checks = check_objects(sample, name, cells)
    warnings = []
    if checks.min_volume_um3 is not None:
        size = f"{checks.min_volume_um3:.2g}"
        warnings.append(
            f"{name}: {checks.smaller_objects} of {checks.objects} objects are smaller than "
            f"{size} um3, where the histogram of volumes has a valley; they are probably small "
            f"components and no objects; exclude them with --min-volume-um3 {name}={size}"
        )
    if checks.crossing_objects:
        places = "a place" if checks.gaps == 1 else f"one of {checks.gaps} places"
        warnings.append(
            f"{name}: {checks.crossing_objects} of {checks.objects} objects cross {places} where "
            "slices are lost; they are larger than measured; without them "
            f"{checks.objects - checks.crossing_objects} objects and "
            f"{checks.other_volume_um3:.4g} um3 remain"
        )
    return warnings


def _density_of(logs: Floats) -> tuple[Floats, Floats]:
    """Return the edges of the bins, (n + 1,), and the smoothed histogram of logarithms, (n,)."""
    margin = 4 * SMOOTHING_DECADES
    edges = np.arange(logs.min() - margin, logs.max() + margin + BIN_DECADES, BIN_DECADES)
    counts, _ = np.histogram(logs, edges)
    sigma_bins = SMOOTHING_DECADES / BIN_DECADES
    density = gaussian_filter1d(counts.astype(np.float64), sigma_bins, mode="constant")
    return edges, np.asarray(density, np.float64)


def _valley_depths(density: Floats, in_range: Mask) -> Floats:
    """Return the density over the lower of the highest peaks to the left and right, (n,).

    Outside the range of the data it is 1, as on the slopes of a single peak.
    """
    left_peak = np.maximum.accumulate(density)
    right_peak = np.maximum.accumulate(density[::-1])[::-1]
    depth = np.ones_like(density)
    depth[in_range] = density[in_range] / np.minimum(left_peak, right_peak)[in_range]
    return depth


def _are_small_components(volumes: Floats, minimum: float) -> bool:
    """Return whether the objects below a minimum are many, and hold little of all volume."""
    is_small = volumes < minimum
    are_many = is_small.mean() >= MIN_SMALL_OBJECT_FRACTION
    max_volume = MAX_SMALL_VOLUME_FRACTION * volumes.sum()
    return bool(are_many and volumes[is_small].sum() <= max_volume)


def _volumes(table: pa.Table) -> Floats:
    """Return the volumes of the objects of a table; NaN where they have none, in images."""
    if "volume_um3" not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return np.asarray(table["volume_um3"].to_numpy(), np.float64)


def _crossing(table: pa.Table, gaps: Ints) -> Mask:
    """Return which objects of a table lie on both sides of a gap."""
    if not len(gaps):
        return np.zeros(table.num_rows, bool)
    return cross_gaps(table["first_z"].to_numpy(), table["last_z"].to_numpy(), gaps)
