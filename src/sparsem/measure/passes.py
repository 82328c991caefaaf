"""The passes over z-blocks that measure objects of any size: first their sums, then their surfaces and corners.

Labels are (z, y, x). What a block gives adds up over blocks, slice after slice in the order of z, so no result depends on the blocks.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize, ZBlock
from sparsem.labels.overlaps import Overlaps, add_overlaps, overlaps, positions_in
from sparsem.measure.features.hull import convex_voxels_per_object, slice_corners
from sparsem.measure.features.moments import (
    Moments,
    combine_moments,
    compact_labels,
    object_moments,
)
from sparsem.measure.features.surface import SurfaceSums, slice_surface_sums, surface_reach
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, link_arrays

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Read = Mapping[str, Any]  # arrays on disk


class Sums(NamedTuple):
    """A block's objects to sum up.

    Attributes:
        volume: numbered objects.
        block: which slices.
        within: volumes whose objects may hold these: name to labels.
    """

    volume: Volume
    block: ZBlock
    within: Mapping[str, Volume]


class Surfaces(NamedTuple):
    """A block's objects whose surface is summed up.

    Attributes:
        volume: numbered objects.
        block: which slices, with a halo of ``halo(voxel)``.
        ids: of all objects that are measured, ascending.
        centroids: theirs, (n, 3), voxels.
    """

    volume: Volume
    block: ZBlock
    ids: NDArray[np.uint32]
    centroids: Floats


def halo(voxel: VoxelSize) -> int:
    """Slices around a block that the surfaces in it depend on."""
    return surface_reach(voxel.micrometers)


def sums(link: Sums, _before: None) -> Arrays:
    """Moments of the objects of a block, and the voxels that they share with the objects of other volumes."""
    labels = link.volume.read(link.block.own).astype(np.uint32, copy=False)
    found = object_moments(labels, link.block.start)
    shared = {
        name: overlaps(labels, volume.read(link.block.own), labels > 0)
        for name, volume in link.within.items()
    }
    columns = {
        f"{name}.{side}": getattr(one, side)
        for name, one in shared.items()
        for side in Overlaps._fields
    }
    return {**found._asdict(), **columns}


def summed(blocks: Iterable[Read], within: Iterable[str]) -> tuple[Moments, dict[str, Overlaps]]:
    """The objects of the volume from those of its blocks."""
    found: list[Moments] = []
    shared: dict[str, list[Overlaps]] = {name: [] for name in within}
    for arrays in blocks:
        found.append(Moments(*(np.asarray(arrays[name][...]) for name in Moments._fields)))
        for name, parts in shared.items():
            parts.append(
                Overlaps(*(np.asarray(arrays[f"{name}.{side}"][...]) for side in Overlaps._fields))
            )
    return combine_moments(found), {name: add_overlaps(parts) for name, parts in shared.items()}


def surfaces(link: Surfaces, _before: None) -> Arrays:
    """Surface and corners of every object in every slice of a block: rows (id, z, area, radius, radius squared) and (id, z, y, x)."""
    block, voxel = link.block, link.volume.voxel_size.micrometers
    labels = link.volume.read(block.read).astype(np.uint32, copy=False)
    index, present = compact_labels(labels)
    places = positions_in(link.ids, present)
    known = places > 0  # others are nobody's islands
    centroids = np.concatenate([np.zeros((1, 3)), link.centroids])[places]
    rows, corners = [np.empty((0, 5))], [np.empty((0, 4), np.int64)]
    around = surface_reach(voxel)
    for z in range(block.start, block.stop):
        low = max(block.read_start, z - around)
        window = index[low - block.read_start : z + around + 1 - block.read_start]
        if (
            link.volume.sizes
        ):  # a picture goes on above and below: it has an outline, and nothing that ends it
            low, window = (
                z - around,
                np.repeat(index[z - block.read_start][None], 2 * around + 1, axis=0),
            )
        found = slice_surface_sums(window, z - low, low, voxel, centroids)
        there = np.flatnonzero((found.area > 0) & known)
        rows.append(
            np.column_stack(
                [present[there], np.full(len(there), z), *(one[there] for one in found)]
            )
        )
        of, yx = slice_corners(index[z - block.read_start], len(present))
        corners.append(
            np.column_stack([present[of - 1], np.full(len(of), z), yx])[known[of - 1]].astype(
                np.int64
            )
        )
    return {"rows": np.concatenate(rows), "corners": np.concatenate(corners)}


def surfaces_summed(blocks: Iterable[Read], ids: NDArray[np.uint32]) -> SurfaceSums:
    """Surfaces of the objects ``ids``."""
    total = np.zeros((3, len(ids)))
    for arrays in blocks:
        rows = np.asarray(arrays["rows"][...]).reshape(-1, 5)
        places = np.searchsorted(ids, rows[:, 0])
        for k in range(3):  # in the order of z: sums of floats depend on their order
            np.add.at(total[k], places, rows[:, 2 + k])
    return SurfaceSums(*total)


class Hulls(NamedTuple):
    """Objects that begin in the same block, and the chains that hold the corners of their slices.

    Attributes:
        ids: of the objects, ascending.
        chains: names of the chains of ``surfaces``, block after block, from their first to their last slice.
    """

    ids: NDArray[np.uint32]
    chains: tuple[str, ...]


def batches_of_hulls(
    found: Moments, blocks: Sequence[ZBlock], names: Sequence[str]
) -> list[tuple[Ints, Hulls]]:
    """Places of the objects that begin in each block, and what their hulls are made from; at no time are all corners in memory."""
    starts = np.array([block.start for block in blocks])
    first, last = (
        np.searchsorted(starts, edge, side="right") - 1
        for edge in (found.low[:, 0], found.high[:, 0] - 1)
    )
    made = []
    for number in np.unique(first):
        chosen = np.flatnonzero(first == number)
        made.append(
            (chosen, Hulls(found.ids[chosen], tuple(names[number : int(last[chosen].max()) + 1])))
        )
    return made


def hull_voxels(link: Hulls, _before: None, folder: Path) -> Arrays:
    """Voxels in the convex hull of every object, (n,)."""
    corners = [np.empty((0, 4), np.int64)]
    for name in link.chains:
        rows = np.asarray(link_arrays(folder, name, 0)["corners"][...]).reshape(-1, 4)
        corners.append(rows[np.isin(rows[:, 0], link.ids)])
    every = np.concatenate(corners)
    return {
        "voxels": convex_voxels_per_object(
            np.searchsorted(link.ids, every[:, 0]) + 1, every[:, 1:], len(link.ids)
        )
    }


def main_containers(
    shared: Overlaps,
    ids: NDArray[np.uint32],
    voxels: Ints,
    nobody: NDArray[Any] | Sequence[int] = (),
) -> tuple[NDArray[np.uint32], Floats]:
    """Who holds the largest part of every object, and how large that part is: (n,) each; 0 if that is nobody.

    Args:
        shared: voxels that objects share with their possible holders, 0 among these.
        ids: of the objects, ascending.
        voxels: theirs.
        nobody: holders that do not count.
    """
    holder = np.where(np.isin(shared.second, np.asarray(nobody, np.uint32)), 0, shared.second)
    merged = add_overlaps([Overlaps(shared.first, holder.astype(np.uint32), shared.pixels)])
    out, share = np.zeros(len(ids), np.uint32), np.zeros(len(ids))
    order = np.lexsort(
        (merged.second, merged.pixels)
    )  # the last of an object holds most of it; of equals the larger id
    places = np.searchsorted(ids, merged.first[order])
    out[places] = merged.second[order]
    share[places] = merged.pixels[order]
    return out, share / voxels
