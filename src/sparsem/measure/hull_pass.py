"""The third pass: the convex hull of every object, from the corners of its slices.

Objects that begin in the same slab are one link, so that at no time all corners are in memory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.measure.features.hull import Hulls, measure_hulls
from sparsem.measure.links import LinkResults, run_links
from sparsem.measure.structures import MeasuredStructure
from sparsem.measure.surface_pass import surface_link_name, surface_slabs
from sparsem.workflow.stage import Arrays, Stage

Ints = NDArray[np.int64]


class HullLink(NamedTuple):
    """Objects that begin in the same slab.

    Attributes:
        ids: ids of the objects, ascending, (n,).
        surface_links: names of the links of the surface pass that hold the corners of the
            objects, from their first to their last slab.
        voxel: edges of a voxel z, y, x, µm; y and x in separate images.
    """

    ids: NDArray[np.uint32]
    surface_links: tuple[str, ...]
    voxel: tuple[float, ...]


class HullBatch(NamedTuple):
    """A link, and the objects of a structure that it measures.

    Attributes:
        structure: name of the structure.
        objects: indices of the objects in the structure, (n,).
        link: input of the link.
    """

    structure: str
    objects: Ints
    link: HullLink


def run_hull_pass(
    stage: Stage, structures: Mapping[str, MeasuredStructure], surface_results: LinkResults
) -> dict[str, Hulls]:
    """Measure the convex hulls of the objects of every structure.

    Args:
        stage: stage that the pass belongs to.
        structures: structures to measure, by name.
        surface_results: results of the surface pass, which hold the corners.
    """
    batches = _batches_of_all(structures)
    links = {key: batch.link for key, batch in batches.items()}
    results = run_links(stage, "hulls", hulls_of_link, links, surface_results.folder)

    columns = {name: np.zeros((3, structure.count)) for name, structure in structures.items()}
    for key, batch in batches.items():
        columns[batch.structure][:, batch.objects] = results.array(key, "hulls")
    return {
        name: Hulls(voxels.astype(np.int64), max_feret, min_feret)
        for name, (voxels, max_feret, min_feret) in columns.items()
    }


def _batches_of_all(structures: Mapping[str, MeasuredStructure]) -> dict[str, HullBatch]:
    """Return the batches of all structures, by the name of their link."""
    batches = {}
    for name, structure in structures.items():
        for number, batch in enumerate(_batches_by_first_slab(name, structure)):
            batches[f"hulls.{name}.{number}"] = batch
    return batches


def hulls_of_link(link: HullLink, _previous: None, surface_folder: Path) -> Arrays:
    """Measure the convex hull of every object of a link.

    Returns:
        ``hulls``, (3, n), see ``Hulls``.
    """
    surface_results = LinkResults(surface_folder)
    parts = [np.empty((0, 4), np.int64)]
    for name in link.surface_links:
        rows = surface_results.array(name, "corners").reshape(-1, 4)
        parts.append(rows[np.isin(rows[:, 0], link.ids)])
    corners = np.concatenate(parts)
    labels = np.searchsorted(link.ids, corners[:, 0]) + 1
    return {"hulls": np.stack(measure_hulls(labels, corners[:, 1:], len(link.ids), link.voxel))}


def _batches_by_first_slab(name: str, structure: MeasuredStructure) -> list[HullBatch]:
    """Group the objects of a structure by the slab in which they begin."""
    slabs = surface_slabs(structure.volume)
    edges = structure.volume.voxel_size.micrometers
    voxel = edges[1:] if structure.is_in_images else edges
    link_names = [surface_link_name(name, slab) for slab in slabs]
    starts = np.array([slab.start for slab in slabs])
    first_slabs = _slabs_of_slices(starts, structure.moments.low[:, 0])
    last_slabs = _slabs_of_slices(starts, structure.moments.high[:, 0] - 1)
    batches = []
    for first_slab in np.unique(first_slabs):
        objects = np.flatnonzero(first_slabs == first_slab)
        surface_links = link_names[first_slab : last_slabs[objects].max() + 1]
        link = HullLink(structure.ids[objects], tuple(surface_links), voxel)
        batches.append(HullBatch(name, objects, link))
    return batches


def _slabs_of_slices(starts: Ints, slices: Ints) -> Ints:
    """Return the index of the slab of each slice (n,), from the first slice of every slab."""
    return np.searchsorted(starts, slices, side="right") - 1
