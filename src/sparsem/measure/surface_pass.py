"""The second pass over z-blocks: surface and corners of every object in every slice.

The sums of the slices are added in the order of z, so no result depends on the blocks.
Labels are (z, y, x).
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import VoxelSize, ZBlock
from sparsem.labels.overlaps import positions_in
from sparsem.measure.features.hull import slice_corners
from sparsem.measure.features.moments import renumber_consecutively
from sparsem.measure.features.surface import SurfaceSums, slice_surface_sums, surface_reach
from sparsem.measure.links import LinkResults, run_links
from sparsem.measure.structures import MeasuredStructure
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage

Floats = NDArray[np.float64]
Ids = NDArray[np.uint32]
Mask = NDArray[np.bool_]


class SurfaceLink(NamedTuple):
    """A block of numbered objects whose surfaces are summed.

    Attributes:
        volume: labels that number the objects.
        block: slices of the block, with a halo of ``surface_halo(voxel)`` slices.
        ids: ids of all objects that are measured, ascending, (n,).
        centroids: centroids of these objects, (n, 3), voxels.
    """

    volume: Volume
    block: ZBlock
    ids: Ids
    centroids: Floats


def surface_halo(voxel: VoxelSize) -> int:
    """Return the number of slices around a block that the surfaces in it depend on."""
    return surface_reach(voxel.micrometers)


def surface_link_name(structure: str, block: ZBlock) -> str:
    """Return the name of the link of a block, under which its surfaces and corners are stored."""
    return f"surface.{structure}.{block.start}"


def run_surface_pass(stage: Stage, structures: Mapping[str, MeasuredStructure]) -> LinkResults:
    """Measure the surfaces and corners of the objects of every structure, block by block."""
    links = {}
    for name, structure in structures.items():
        volume = structure.volume
        centroids = structure.moments.centroids
        for block in volume.blocks(surface_halo(volume.voxel_size)):
            link = SurfaceLink(volume, block, structure.ids, centroids)
            links[surface_link_name(name, block)] = link
    return run_links(stage, "surfaces", block_surfaces, links)


def block_surfaces(link: SurfaceLink, _previous: None) -> Arrays:
    """Measure the surface and find the corners of every object in every slice of a block.

    Returns:
        ``rows``, (n, 5): id, z, area, radius, squared radius, see ``SurfaceSums``; and
        ``corners``, (m, 4): id, z, y, x.
    """
    block = link.block
    voxel = link.volume.voxel_size.micrometers
    labels = link.volume.read(block.read).astype(np.uint32, copy=False)
    index, ids = renumber_consecutively(labels)
    is_measured, centroids = _measured_objects(link, ids)
    rows = [np.empty((0, 5))]
    corners = [np.empty((0, 4), np.int64)]
    for z in range(block.start, block.stop):
        window, first_z = _window_around(link, index, z)
        sums = slice_surface_sums(window, z - first_z, first_z, voxel, centroids)
        rows.append(_surface_rows(sums, ids, is_measured, z))
        corners.append(_corner_rows(index[z - block.read_start], ids, is_measured, z))
    return {"rows": np.concatenate(rows), "corners": np.concatenate(corners)}


def _measured_objects(link: SurfaceLink, ids: Ids) -> tuple[Mask, Floats]:
    """Return which labels of a block are measured, (n,), and the centroids of all, (n, 3)."""
    positions = positions_in(link.ids, ids)
    is_measured = positions > 0  # other labels are unassigned islands
    centroids = np.concatenate([np.zeros((1, 3)), link.centroids])[positions]
    return is_measured, centroids


def combine_surfaces(results: LinkResults, name: str, structure: MeasuredStructure) -> SurfaceSums:
    """Add the surfaces of all blocks of a structure, for each of its objects."""
    total = np.zeros((3, structure.count))
    for block in structure.volume.blocks():
        rows = results.array(surface_link_name(name, block), "rows").reshape(-1, 5)
        objects = np.searchsorted(structure.ids, rows[:, 0])
        for k in range(3):  # in the order of z: the sum of floats depends on the order
            np.add.at(total[k], objects, rows[:, 2 + k])
    return SurfaceSums(*total)


def _surface_rows(sums: SurfaceSums, ids: Ids, is_measured: Mask, z: int) -> Floats:
    """Return the rows (id, z, area, radius, squared radius) of the objects of a slice."""
    objects = np.flatnonzero((sums.area > 0) & is_measured)
    values = [column[objects] for column in sums]
    return np.column_stack([ids[objects], np.full(len(objects), z), *values])


def _corner_rows(
    section: NDArray[np.uint32], ids: Ids, is_measured: Mask, z: int
) -> NDArray[np.int64]:
    """Return the corners (id, z, y, x) of the objects of a slice, whose labels are 1 to n."""
    corner_labels, yx = slice_corners(section, len(ids))
    owners = corner_labels - 1
    rows = np.column_stack([ids[owners], np.full(len(owners), z), yx])
    return rows[is_measured[owners]].astype(np.int64)


def _window_around(
    link: SurfaceLink, index: NDArray[np.uint32], z: int
) -> tuple[NDArray[np.uint32], int]:
    """Return the slices that the surface in slice ``z`` depends on, and the z of the first one.

    A separate image continues above and below without end: its objects have an outline, and no
    faces above and below.
    """
    block = link.block
    reach = surface_reach(link.volume.voxel_size.micrometers)
    if link.volume.sizes:
        section = index[z - block.read_start]
        return np.repeat(section[None], 2 * reach + 1, axis=0), z - reach
    first_z = max(block.read_start, z - reach)
    window = index[first_z - block.read_start : z + reach + 1 - block.read_start]
    return window, first_z
