"""Tables that ``track`` writes: tracks of islands, links of regions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.cells.linking import Links, Tracks, relabel_islands
from sparsem.geometry import VoxelSize


def track_table(
    tracks: Tracks, pixels: Sequence[NDArray[np.int64]], voxel_size: VoxelSize, first_new: int
) -> pa.Table:
    """Return one row for each track of islands.

    A row holds its identity (0 if it was left out), whether that is an annotated cell, its slices
    and its size.

    Args:
        tracks: result of ``resolve_tracks``.
        pixels: number of pixels of every island, slice by slice.
        voxel_size: size of a voxel.
        first_new: identities from here on are those of no annotated cell.
    """
    columns: dict[str, Any] = {
        "track": np.arange(len(tracks.identity)),
        "identity": tracks.identity,
        "in_cell": (tracks.identity > 0) & (tracks.identity < first_new),
        **_extent_of_tracks(tracks, pixels),
    }
    columns["volume_um3"] = columns["voxels"] * voxel_size.volume_um3
    return pa.table(columns)


def new_cell_table(
    areas: Sequence[Mapping[int, int]], first_track: int, voxel_size: VoxelSize
) -> pa.Table:
    """Return one row for each new cell without its islands, as ``track_table`` does.

    Args:
        areas: for every slice, the pixels of its new cells by their ids.
        first_track: number of the first row.
        voxel_size: size of a voxel.
    """
    z = np.repeat(np.arange(len(areas)), [len(of_slice) for of_slice in areas])
    cells = concatenate([np.array(list(of_slice), np.int64) for of_slice in areas])
    pixels = concatenate([np.array(list(of_slice.values()), np.int64) for of_slice in areas])
    identities, row, slices = np.unique(cells, return_inverse=True, return_counts=True)
    first_z = np.full(len(identities), len(areas))
    last_z = np.full(len(identities), -1)
    np.minimum.at(first_z, row, z)
    np.maximum.at(last_z, row, z)
    voxels = np.bincount(row, pixels, len(identities)).astype(np.int64)
    return pa.table(
        {
            "track": first_track + np.arange(len(identities)),
            "identity": identities.astype(np.uint32),
            "in_cell": np.zeros(len(identities), bool),
            "first_z": first_z,
            "last_z": last_z,
            "slices": slices,
            "voxels": voxels,
            "volume_um3": voxels * voxel_size.volume_um3,
        }
    )


def _extent_of_tracks(
    tracks: Tracks, pixels: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """Return first and last slice, number of slices and voxels of every track."""
    count = len(tracks.identity)
    first_z = np.full(count, len(pixels))
    last_z = np.full(count, -1)
    slices = np.zeros(count, np.int64)
    voxels = np.zeros(count, np.int64)
    for z, (of_slice, island_pixels) in enumerate(zip(tracks.of_slice, pixels, strict=True)):
        first_z[of_slice] = np.minimum(first_z[of_slice], z)
        last_z[of_slice] = z
        slices[np.unique(of_slice)] += 1
        np.add.at(voxels, of_slice, island_pixels)
    return {"first_z": first_z, "last_z": last_z, "slices": slices, "voxels": voxels}


def link_table(links: Sequence[Links], tracks: Tracks, base: int) -> pa.Table:
    """Return one row for each pair of overlapping regions of slice ``z`` and the next.

    At least one of the two is an island. ``used`` is True where tracking follows the link.

    Args:
        links: links of the slices 0 and 1, 1 and 2, ...
        tracks: result of ``resolve_tracks``.
        base: labels above it are islands.
    """
    z = np.repeat(np.arange(len(links)), [len(link.lower) for link in links])
    lower_regions = [link.lower for link in links]
    upper_regions = [link.upper for link in links]
    columns: dict[str, Any] = {
        "z": z,
        "lower_region": concatenate(lower_regions),
        "lower_identity": concatenate(_identities(lower_regions, tracks, 0, base)),
        "upper_region": concatenate(upper_regions),
        "upper_identity": concatenate(_identities(upper_regions, tracks, 1, base)),
        "shared_px": concatenate([link.pixels for link in links]),
        "used": concatenate([link.continues | link.merges for link in links]),
    }
    return pa.table(columns)


def _identities(
    regions: Sequence[Any], tracks: Tracks, first_slice: int, base: int
) -> list[NDArray[np.uint32]]:
    """Return the identities of the regions of links, whose slices begin with ``first_slice``."""
    identities = []
    for number, labels in enumerate(regions):
        of_slice = tracks.of_slice[first_slice + number]
        identities.append(relabel_islands(labels, tracks.identity[of_slice], base))
    return identities


def concatenate(parts: Sequence[Any]) -> Any:
    """Concatenate arrays; without any, return an empty one of int64."""
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
