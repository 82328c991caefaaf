"""The second pass, over slabs of z-blocks: surface and corners of every object in every slice.

The sums of the slices are added in the order of z, so no result depends on the blocks.
Labels are (z, y, x).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.geometry import ZBlock, z_blocks
from sparsem.labels.overlaps import renumber
from sparsem.measure.features.hull import slice_corners
from sparsem.measure.features.surface import SurfaceSums, SurfaceWindow, surface_reach
from sparsem.measure.links import LinkResults, run_links
from sparsem.measure.structures import MeasuredStructure
from sparsem.store.volume import Volume
from sparsem.workflow.stage import Arrays, Stage

SLAB_DEPTH = 16  # slices of a slab, or a whole z-block

Floats = NDArray[np.float64]
Ids = NDArray[np.uint32]


class SurfaceLink(NamedTuple):
    """A slab of numbered objects whose surfaces are summed.

    Attributes:
        volume: labels that number the objects.
        slab: slices of the slab, with a halo of the slices that its surfaces depend on.
        ids: ids of the objects in the slab that are measured, ascending, (n,).
        centroids: centroids of these objects, (n, 3), voxels.
    """

    volume: Volume
    slab: ZBlock
    ids: Ids
    centroids: Floats


def surface_slabs(volume: Volume) -> list[ZBlock]:
    """Return the slabs of a volume: several z-blocks, so that few slices are read twice."""
    depth = volume.block_depth
    blocks_of_slab = -(-SLAB_DEPTH // depth)
    reach = surface_reach(volume.voxel_size.micrometers)
    halo = 0 if volume.sizes else reach
    return z_blocks(volume.shape[0], depth * blocks_of_slab, halo)


def surface_link_name(structure: str, slab: ZBlock) -> str:
    """Return the name of the link of a slab, under which its surfaces and corners are stored."""
    return f"surface.{structure}.{slab.start}"


def run_surface_pass(stage: Stage, structures: Mapping[str, MeasuredStructure]) -> LinkResults:
    """Measure the surfaces and corners of the objects of every structure, slab by slab."""
    links = {}
    for name, structure in structures.items():
        moments = structure.moments
        for slab in surface_slabs(structure.volume):
            # The faces after the last slice belong to objects that begin in the next one, too.
            in_slab = (moments.low[:, 0] <= slab.stop) & (moments.high[:, 0] > slab.start)
            objects = moments.select(in_slab)
            link = SurfaceLink(structure.volume, slab, objects.ids, objects.centroids)
            links[surface_link_name(name, slab)] = link
    return run_links(stage, "surfaces", slab_surfaces, links)


def slab_surfaces(link: SurfaceLink, _previous: None) -> Arrays:
    """Measure the surface and find the corners of every object in every slice of a slab.

    Returns:
        ``rows``, (n, 5): id, z, area, radius, squared radius, see ``SurfaceSums``; and
        ``corners``, (m, 4): id, z, y, x.
    """
    slab = link.slab
    in_depth = not link.volume.sizes
    window = SurfaceWindow(link.volume.shape[1:], link.volume.voxel_size.micrometers)
    delay = window.reach if in_depth else 0
    rows = [np.empty((0, 5))]
    corners = [np.empty((0, 4), np.int64)]
    slices = _numbered_slices(link)
    for z in range(slab.read_start, slab.stop + delay):
        section = next(slices, None)
        if section is not None:
            window.add(z, section)
        measured_z = z - delay
        if measured_z >= slab.start:
            sums = window.sums(measured_z, link.centroids, in_depth)
            rows.append(_surface_rows(sums, link.ids, measured_z))
            corners.append(_corner_rows(window.section(measured_z), link.ids, measured_z))
    return {"rows": np.concatenate(rows), "corners": np.concatenate(corners)}


def _numbered_slices(link: SurfaceLink) -> Iterator[Ids]:
    """Yield the slices of a slab and its halo, (y, x), numbered by position among the objects.

    Unassigned islands, which are not measured, are background. Blocks are read one by one.
    """
    depth = link.volume.block_depth
    start = link.slab.read_start
    while start < link.slab.read_stop:
        stop = min((start // depth + 1) * depth, link.slab.read_stop)
        yield from renumber(link.ids, link.volume.read(slice(start, stop)))
        start = stop


def combine_surfaces(results: LinkResults, name: str, structure: MeasuredStructure) -> SurfaceSums:
    """Add the surfaces of all slabs of a structure, for each of its objects."""
    total = np.zeros((3, structure.count))
    for slab in surface_slabs(structure.volume):
        rows = results.array(surface_link_name(name, slab), "rows").reshape(-1, 5)
        objects = np.searchsorted(structure.ids, rows[:, 0])
        for k in range(3):  # in the order of z: the sum of floats depends on the order
            np.add.at(total[k], objects, rows[:, 2 + k])
    return SurfaceSums(*total)


def _surface_rows(sums: SurfaceSums, ids: Ids, z: int) -> Floats:
    """Return the rows (id, z, area, radius, squared radius) of the objects of a slice."""
    objects = np.flatnonzero(sums.area > 0)
    values = [column[objects] for column in sums]
    return np.column_stack([ids[objects], np.full(len(objects), z), *values])


def _corner_rows(section: Ids, ids: Ids, z: int) -> NDArray[np.int64]:
    """Return the corners (id, z, y, x) of the objects of a slice, whose labels are 1 to n."""
    corner_labels, yx = slice_corners(section, len(ids))
    owners = ids[corner_labels - 1].astype(np.int64)
    return np.column_stack([owners, np.full(len(owners), z), yx])
