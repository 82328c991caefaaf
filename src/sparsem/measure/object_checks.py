"""What to know of the objects of a table before anybody counts them: how many are probably specks, and how many cross lost slices."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from sparsem.labels.results import is_outdated
from sparsem.quality.flags import LOST
from sparsem.store.sample import Sample

LEAST_OBJECTS = 20  # fewer make no histogram
STEP = 0.02  # of the histogram, decades of volume
WIDTH = 0.15  # by which it is smoothed, decades
DEEP = 0.6  # part of the lower of two peaks below which the density between them is a valley
MOST_VOLUME = 0.1  # part of all volume that specks may hold
LEAST_BELOW = 0.05  # part of the objects that are smaller: fewer are chance

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ObjectChecks(NamedTuple):
    """What to know of the objects of a structure.

    Attributes:
        objects: how many there are.
        minimum_um3: a volume that parts specks from objects; None if the volumes show none.
        below: how many objects are smaller.
        gaps: how many places with lost slices are known in the stack.
        crossing: how many objects lie on both sides of one.
    """

    objects: int
    minimum_um3: float | None
    below: int
    gaps: int
    crossing: int


def propose_min_volume(volumes: Floats) -> float | None:
    """Return the volume at the deepest valley of the histogram of volumes (logarithmic), between specks and objects.

    Of a network's doubt come many specks, of one size or falling off, and the objects are a peak of their own at larger volumes:
    between both is a valley. Without a valley, or if specks would hold more than a tenth of all volume, there is no proposal.

    Args:
        volumes: of the objects, (n,), larger than 0, in any unit.

    Returns:
        The volume, in the same unit, or None.
    """
    if len(volumes) < LEAST_OBJECTS:
        return None
    logs = np.log10(volumes)
    margin = 4 * WIDTH
    edges = np.arange(logs.min() - margin, logs.max() + margin + STEP, STEP)
    counts, _ = np.histogram(logs, edges)
    density = gaussian_filter1d(counts.astype(np.float64), WIDTH / STEP, mode="constant")
    before, after = np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1]
    inside = (edges[:-1] > logs.min()) & (edges[:-1] < logs.max())
    depth = np.ones_like(density)  # as on the slopes of the only peak
    depth[inside] = density[inside] / np.minimum(before, after)[inside]
    if not inside.any():
        return None
    deepest = depth.min()
    # A gap of several decades is a plain: its middle is as far from specks as from objects.
    at = np.flatnonzero(inside & (depth <= deepest + 1e-9))
    place = at[len(at) // 2]
    minimum = float(10 ** (edges[place] + STEP / 2))
    is_small = volumes < minimum
    are_few = is_small.mean() < LEAST_BELOW
    hold_much = volumes[is_small].sum() > MOST_VOLUME * volumes.sum()
    return None if depth[place] > DEEP or are_few or hold_much else minimum


def cross_gaps(first: Ints, last: Ints, gaps: Ints) -> NDArray[np.bool_]:
    """Return which objects lie on both sides of a gap.

    Args:
        first: slice in which each begins, (n,).
        last: slice in which each ends, (n,).
        gaps: slices before which others are lost, (m,).
    """
    is_across: NDArray[np.bool_] = (first[:, None] < gaps) & (gaps <= last[:, None])
    return np.asarray(is_across.any(axis=1), bool)


def lost_slice_positions(sample: Sample) -> Ints:
    """Return the slices before which others are lost, ascending: as ``quality`` found, and where slices stand in for lost ones."""
    if not sample.has_image:
        return np.empty(0, np.int64)
    repeated = set(sample.image("raw").repeated)
    gaps = repeated | {z + 1 for z in repeated}
    for name in sample.images:
        table = f"quality_{name}"
        if table in sample.tables and not is_outdated(sample, name, "quality"):
            columns = sample.read_table(table)
            if "spacing" in columns.column_names:
                spacing = np.asarray(columns["spacing"].to_numpy(zero_copy_only=False), np.float64)
                gaps |= set(columns["z"].to_numpy()[spacing >= LOST].tolist())
    return np.array(sorted(gaps), np.int64)


def check_objects(sample: Sample, name: str, cells: str) -> ObjectChecks:
    """Return what to know of ``tables/NAME``; of cells no minimum is proposed."""
    table = sample.read_table(name)
    volumes = (
        table["volume_um3"].to_numpy()
        if "volume_um3" in table.column_names and name != cells
        else np.empty(0)
    )
    minimum = propose_min_volume(volumes)
    gaps = (
        lost_slice_positions(sample) if "first_z" in table.column_names else np.empty(0, np.int64)
    )
    across = (
        cross_gaps(table["first_z"].to_numpy(), table["last_z"].to_numpy(), gaps)
        if len(gaps)
        else np.empty(0, bool)
    )
    below = int((volumes < minimum).sum()) if minimum is not None else 0
    return ObjectChecks(table.num_rows, minimum, below, len(gaps), int(across.sum()))


def object_warnings(sample: Sample, name: str, cells: str) -> list[str]:
    """Return the same in sentences."""
    known = check_objects(sample, name, cells)
    lines = []
    if known.minimum_um3 is not None:
        size = f"{known.minimum_um3:.2g}"
        smaller = f"{name}: {known.below} of {known.objects} objects are smaller than {size} um3, where the histogram of volumes has a valley"
        lines.append(
            f"{smaller}, and are probably specks; --min-volume-um3 {name}={size} leaves them out"
        )
    if known.crossing:
        places = "a place" if known.gaps == 1 else f"one of {known.gaps} places"
        crossing_objects = f"{known.crossing} of {known.objects} objects cross {places}"
        lines.append(
            f"{name}: {crossing_objects} where slices are lost; they are larger than they are measured"
        )
    return lines
