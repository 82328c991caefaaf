"""Contact sites: connected parts of the voxels at which two objects are in contact.

Voxels are 26-connected. A block finds the parts of its own voxels; those of neighboring blocks that
touch are joined afterwards, so the sites do not depend on blocks.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class SiteVoxels(NamedTuple):
    """Voxels at which pairs of objects are in contact, ascending by pair and position.

    Attributes:
        pairs: (n, 2) ids of the two objects.
        voxels: (n, 3) z, y, x in the volume.
    """

    pairs: Ints
    voxels: Ints


def site_voxels(pairs: Ints, voxels: Ints) -> SiteVoxels:
    """Return the voxels of pairs, each once.

    Args:
        pairs: (n, 2) ids.
        voxels: (n, 3) z, y, x.
    """
    rows = np.unique(np.concatenate([pairs, voxels], axis=1), axis=0)
    return SiteVoxels(rows[:, :2], rows[:, 2:])


def join_voxels(upper: SiteVoxels, lower: SiteVoxels) -> Ints:
    """Return the indices (m, 2) of voxels of one pair that touch or are the same.

    Args:
        upper: voxels of one block.
        lower: voxels of the next one, or of the same.
    """
    if not len(upper.pairs) or not len(lower.pairs):
        return np.empty((0, 2), np.int64)
    keys, row, plane = _keys(upper, lower)
    upper_keys, lower_keys = np.split(keys, [len(upper.pairs)])
    order = np.argsort(lower_keys, kind="stable")
    sorted_keys = lower_keys[order]
    edges = []
    for z, y, x in np.ndindex(3, 3, 3):
        wanted = upper_keys + (z - 1) * plane + (y - 1) * row + x - 1
        position = np.minimum(np.searchsorted(sorted_keys, wanted), len(sorted_keys) - 1)
        matches = np.flatnonzero(sorted_keys[position] == wanted)
        edges.append(np.column_stack([matches, order[position[matches]]]))
    return np.concatenate(edges)


def _keys(upper: SiteVoxels, lower: SiteVoxels) -> tuple[Ints, int, int]:
    """Return numbers (n,) for pair and position of all voxels, and the steps along y and z."""
    both = np.concatenate([upper.voxels, lower.voxels])
    origin = both.min(axis=0)
    # With a margin of one on either side, a step of one never reaches the next row or pair.
    depth, rows, columns = (both.max(axis=0) - origin + 3).tolist()
    z, y, x = (both - origin + 1).T
    pairs = np.concatenate([upper.pairs, lower.pairs])
    _, pair = np.unique(pairs, axis=0, return_inverse=True)
    plane = rows * columns
    return pair.reshape(-1) * depth * plane + z * plane + y * columns + x, columns, plane
