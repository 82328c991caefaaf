"""The assignment of objects to the cells or nuclei that contain them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import Overlaps, add_overlaps

Ids = NDArray[np.uint32]
Floats = NDArray[np.float64]


def main_containers(
    overlaps: Overlaps,
    ids: Ids,
    voxels: NDArray[np.int64],
    excluded: NDArray[Any] | Sequence[int] = (),
) -> tuple[Ids, Floats]:
    """Return the container that holds most voxels of every object, and the fraction of voxels.

    Args:
        overlaps: voxels that objects (first) share with containers (second); container 0 is the
            background.
        ids: ids of the objects, ascending, (n,).
        voxels: voxels of the objects, (n,).
        excluded: containers that count as background.

    Returns:
        The id of the container, (n,), 0 if most voxels lie in no container; and the fraction of
        the object's voxels in it, (n,). If two containers hold equally many, the larger id counts.
    """
    merged = _merge_into_background(overlaps, np.asarray(excluded, np.uint32))
    main = np.zeros(len(ids), np.uint32)
    main_voxels = np.zeros(len(ids))
    # The last of several assignments to an object remains: the largest overlap, then the larger id.
    order = np.lexsort((merged.second, merged.pixels))
    objects = np.searchsorted(ids, merged.first[order])
    main[objects] = merged.second[order]
    main_voxels[objects] = merged.pixels[order]
    return main, main_voxels / voxels


def contents_of(containers: Ids, owners: Ids) -> list[NDArray[np.intp]]:
    """Return the indices of the objects in each container, ascending.

    Args:
        containers: ids of the containers, (n,).
        owners: the container of each object, (objects,).
    """
    order = np.argsort(owners, kind="stable")
    in_order = owners[order]
    first = np.searchsorted(in_order, containers, "left")
    last = np.searchsorted(in_order, containers, "right")
    return [order[start:stop] for start, stop in zip(first, last, strict=True)]


def _merge_into_background(overlaps: Overlaps, excluded: Ids) -> Overlaps:
    """Return overlaps in which excluded containers are a part of the background."""
    is_excluded = np.isin(overlaps.second, excluded)
    containers = np.where(is_excluded, 0, overlaps.second).astype(np.uint32)
    return add_overlaps([Overlaps(overlaps.first, containers, overlaps.pixels)])
