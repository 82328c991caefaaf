"""Lost slices: where a stack has gaps, and which objects cross them."""

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.results import is_outdated
from sparsem.quality.flags import LOST
from sparsem.store.sample import Sample

Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]


def cross_gaps(first: Ints, last: Ints, gaps: Ints) -> Mask:
    """Return which objects lie on both sides of a gap, (n,).

    Args:
        first: first slice of each object, (n,).
        last: last slice of each object, (n,).
        gaps: slices before which slices are lost, (m,).
    """
    is_across = (first[:, None] < gaps) & (gaps <= last[:, None])
    return np.asarray(is_across.any(axis=1), bool)


def lost_slice_positions(sample: Sample) -> Ints:
    """Return the slices before which slices are lost, ascending.

    These are the slices that ``quality`` found, and those next to slices that replace lost ones.
    """
    if not sample.has_image:
        return np.empty(0, np.int64)
    repeated = set(sample.image("raw").repeated)
    positions = repeated | {z + 1 for z in repeated}
    for name in sample.images:
        positions |= _lost_slices_of_quality(sample, name)
    return np.array(sorted(positions), np.int64)


def _lost_slices_of_quality(sample: Sample, image: str) -> set[int]:
    """Return the slices before which ``quality`` found lost slices in an image."""
    table = f"quality_{image}"
    if table not in sample.tables or is_outdated(sample, image, "quality"):
        return set()
    columns = sample.read_table(table)
    if "spacing" not in columns.column_names:
        return set()
    spacing = np.asarray(columns["spacing"].to_numpy(zero_copy_only=False), np.float64)
    return set(columns["z"].to_numpy()[spacing >= LOST].tolist())
