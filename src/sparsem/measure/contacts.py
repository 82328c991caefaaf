"""The stage ``contacts``: where the objects of two structures are close to each other.

Points on the surfaces of both are compared block by block. Sums are taken slice by slice and added
in the order of z, so no result depends on the blocks.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.labels.components import connected_numbers
from sparsem.labels.objects import numbered_objects
from sparsem.labels.results import require_same_pixels
from sparsem.measure.features.contact import NearPoints, near_points
from sparsem.measure.features.contact_sites import (
    SiteVoxels,
    join_voxels,
    site_voxels,
)
from sparsem.measure.features.moments import renumber_consecutively
from sparsem.measure.features.surface_points import (
    REACH,
    SurfacePoints,
    nearby_labels,
    surface_points,
)
from sparsem.measure.joined_columns import SIDES, renew_statistics
from sparsem.measure.links import LinkResults, run_links
from sparsem.measure.settings import ContactSettings
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, Stage

NM2 = 1e-6  # um2
BYTES_PER_VOXEL = 30  # of a block with its halo: labels of both, renumbered, and points

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.uint32]
# Pairs of objects (n, 2), and the area of one side, area times distance, and smallest distance.
PairSums = tuple[Ints, Floats]


@dataclass(frozen=True)
class ContactsResult(StageResult):
    """The result of ``contacts``.

    Attributes:
        pairs: number of pairs of objects in contact.
        sites: number of contact sites.
        area_um2: area of all contacts.
    """

    pairs: int
    sites: int
    area_um2: float


class ContactLink(NamedTuple):
    """A block in which two structures are compared.

    Attributes:
        first: numbered objects.
        second: numbered objects; the same volume for contacts within a structure.
        block: slices of the block, with a halo.
        reach: slices around the block whose surfaces may be in contact with those in it.
        distance_nm: largest distance.
    """

    first: Volume
    second: Volume
    block: ZBlock
    reach: int
    distance_nm: float

    @property
    def is_within(self) -> bool:
        """True for contacts between the objects of one structure."""
        return self.first.directory == self.second.directory


class _Surface(NamedTuple):
    """The surface of a structure in a block.

    Attributes:
        points: points near the other structure, in the slices of the block and around it.
        ids: ids of the labels of the points, which are numbered from 1.
        areas: (slices of the block, labels + 1) areas of all surfaces, nm2.
    """

    points: SurfacePoints
    ids: Ids
    areas: Floats


def contacts(
    sample: Sample,
    first: str,
    second: str,
    settings: ContactSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ContactsResult:
    """Measure the contacts between the objects of two structures, or of one with itself.

    Writes ``tables/contacts_FIRST_SECOND``, one row for each pair of objects: the area of the
    surface of either that lies within the distance of the other, the number of connected contact
    sites, and the mean and the smallest distance of the surfaces. Writes
    ``tables/contact_fraction_FIRST_SECOND``, one row for each object: the area of its surface, and
    what fraction of it is in contact. For an organelle and ``cells`` this is its contact with the
    membrane of a cell. The border of the stack is no surface.

    Args:
        sample: sample with labels of both.
        first: name of a structure; a mask needs numbered objects, see ``objects``.
        second: name of the other structure; the same name for contacts between its objects.
        settings: the distance.
        on: how the work is distributed.
        changes: fields of the settings, by name.

    Raises:
        SampleError: there are no such labels or objects, they differ in shape or alignment, or
            they are those of separate images.
        ResumeError: there are contacts of other labels or settings, and ``on.overwrite`` is not
            set.
        ResourceError: a block does not fit into memory.
    """
    settings = resolve_settings(ContactSettings, settings, changes)
    volumes = [numbered_objects(sample, name) for name in (first, second)]
    require_same_pixels(
        sample, dict(zip((first, f"{second} "), volumes, strict=True)), "name other structures"
    )
    if volumes[0].sizes:
        raise SampleError(
            f"{sample.path.name} holds separate images, which have no depth; contacts are measured "
            "in a stack."
        )
    inputs = {"first": volumes[0].fingerprint, "second": volumes[1].fingerprint}
    name = f"{first}_{second}"
    with Stage(
        sample, f"contacts-{name}", settings, inputs, [], on, _needs(volumes[0], settings)
    ) as stage:
        if not stage.finished:
            links = _links(volumes, settings)
            results = run_links(stage, "surfaces", block_contacts, links)
            tables = _tables(results, links, (first, second))
            stage.forget()
            for prefix, table in zip(("contacts", "contact_fraction"), tables, strict=True):
                sample.write_table(f"{prefix}_{name}", table)
    renew_statistics(sample)
    return _summary(sample, name)


def _summary(sample: Sample, name: str) -> ContactsResult:
    """Return the result from the table that is in the sample."""
    table = sample.read_table(f"contacts_{name}")
    return ContactsResult(
        sample=sample,
        written=(f"tables/contacts_{name}", f"tables/contact_fraction_{name}"),
        pairs=len(table),
        sites=int(table["sites"].to_numpy().sum()),
        area_um2=float(table["area_um2"].to_numpy().sum()),
    )


def _links(volumes: Sequence[Volume], settings: ContactSettings) -> dict[str, ContactLink]:
    """Return the blocks in which surfaces are compared, by name."""
    first, second = volumes
    reach = _reach(first, settings)
    links = {}
    for block in first.blocks(halo=reach + REACH + 1):
        link = ContactLink(first, second, block, reach, settings.distance_nm)
        links[f"contacts.{block.start}"] = link
    return links


def _reach(volume: Volume, settings: ContactSettings) -> int:
    """Return how many slices away a surface in contact may be; points are moved by up to one."""
    return math.ceil(settings.distance_nm / volume.voxel_size.z) + 2


def _needs(volume: Volume, settings: ContactSettings) -> Needs:
    """Return the memory of a block."""
    _, height, width = volume.shape
    depth = volume.block_depth + 2 * (_reach(volume, settings) + REACH + 1)
    return Needs(
        depth * height * width * BYTES_PER_VOXEL,
        smaller="use fewer --workers, or import with a smaller --block-depth",
    )


def block_contacts(link: ContactLink, _previous: None) -> Arrays:
    """Compare the surfaces of two structures in a block.

    Returns:
        ``first`` and ``second``, (n, 6): z, id, id of the other, area in contact, its mean distance
        times area, smallest distance; ``first_areas`` and ``second_areas``, (n, 4): z, id, area of
        the surface, area in contact with any other; and the arrays of ``_site_arrays``.
    """
    surfaces = _surfaces(link)
    arrays: dict[str, NDArray[Any]] = {}
    for side in (0,) if link.is_within else (0, 1):
        surface, opposite = surfaces[side], surfaces[1 - side]
        points = _points_of_block(surface.points, link)
        near = near_points(points, opposite.points, link.distance_nm, link.is_within)
        if side == 0:
            sites = _sites(points, near, surface.ids, opposite.ids, link)
            arrays |= _site_arrays(sites, link.block)
        near = _of_block(points, near, link)
        name = SIDES[side]
        arrays[name] = _contact_rows(points, near, surface.ids, opposite.ids, link)
        arrays[f"{name}_areas"] = _area_rows(points, near, surface, link)
    return arrays


def _surfaces(link: ContactLink) -> tuple[_Surface, _Surface]:
    """Return the surfaces of both structures in a block and around it."""
    voxel = link.first.voxel_size
    labels, ids = _read_compact(link.first, link.block)
    first_nearby = nearby_labels(labels, link.distance_nm, voxel)
    if link.is_within:
        surface = _surface(link, labels, ids, first_nearby)
        return surface, surface
    other_labels, other_ids = _read_compact(link.second, link.block)
    second_nearby = nearby_labels(other_labels, link.distance_nm, voxel)
    first = _surface(link, labels, ids, second_nearby)
    second = _surface(link, other_labels, other_ids, first_nearby)
    return first, second


def _read_compact(volume: Volume, block: ZBlock) -> tuple[Ids, Ids]:
    """Return the labels of a block, numbered from 1, and their ids."""
    return renumber_consecutively(volume.read(block.read).astype(np.uint32, copy=False))


def _surface(
    link: ContactLink,
    labels: Ids,
    ids: Ids,
    nearby: Any,
) -> _Surface:
    """Return the surface of one structure; ``nearby`` are the labels of the other one."""
    inner = link.block.inner
    wide = slice(max(0, inner.start - link.reach), min(len(labels), inner.stop + link.reach))
    first_z = link.block.read_start
    voxel = link.first.voxel_size
    points, areas = surface_points(labels, wide, inner, first_z, voxel, nearby, link.is_within)
    return _Surface(points, ids, areas)


def _points_of_block(points: SurfacePoints, link: ContactLink) -> SurfacePoints:
    """Return the points of the faces of all voxels of a block.

    The faces below its first slice count as those of the slice before, and are returned too.
    """
    _, height, width = link.first.shape
    plane = height * width
    inner = link.block.inner
    first, last = np.searchsorted(points.faces, [(inner.start - 1) * plane, inner.stop * plane])
    return SurfacePoints._make(column[first:last] for column in points)


def _of_block(points: SurfacePoints, near: NearPoints, link: ContactLink) -> NearPoints:
    """Return the rows of the faces that count as those of the block."""
    is_own = _slices_of(points, link)[near.points] >= link.block.start
    return NearPoints._make(column[is_own] for column in near)


def _slices_of(points: SurfacePoints, link: ContactLink) -> Ints:
    """Return the slice in the volume of every point."""
    _, height, width = link.first.shape
    return points.faces // (height * width) + link.block.read_start


def _ids_of_pairs(
    points: SurfacePoints,
    near: NearPoints,
    ids: Ids,
    other_ids: Ids,
) -> Ints:
    """Return the ids (n, 2) of the object of every point and of the one that is near."""
    own_ids = ids[points.labels[near.points] - 1]
    return np.column_stack([own_ids, other_ids[near.labels - 1]]).astype(np.int64)


def _contact_rows(
    points: SurfacePoints,
    near: NearPoints,
    ids: Ids,
    other_ids: Ids,
    link: ContactLink,
) -> Floats:
    """Return the sums of every slice and pair of objects, see ``block_contacts``."""
    z = _slices_of(points, link)[near.points]
    labels = np.column_stack([z, _ids_of_pairs(points, near, ids, other_ids)])
    keys, row = np.unique(labels, axis=0, return_inverse=True)
    row = row.reshape(-1)
    areas = points.areas[near.points]
    smallest = np.full(len(keys), np.inf)
    np.minimum.at(smallest, row, near.distances)
    sums = _sum_in_order(np.column_stack([areas, areas * near.distances]), row, len(keys))
    return np.column_stack([keys, *sums, smallest])


def _area_rows(
    points: SurfacePoints,
    near: NearPoints,
    surface: _Surface,
    link: ContactLink,
) -> Floats:
    """Return the area of every object in every slice, and how much of it is in contact."""
    touching = np.unique(near.points)
    in_contact = np.zeros_like(surface.areas)
    slices = _slices_of(points, link)[touching] - link.block.start
    np.add.at(in_contact, (slices, points.labels[touching]), points.areas[touching])
    z, label = np.nonzero(surface.areas)
    ids = surface.ids[label - 1]
    areas = surface.areas[z, label]
    return np.column_stack([z + link.block.start, ids, areas, in_contact[z, label]])


def _sites(
    points: SurfacePoints,
    near: NearPoints,
    ids: Ids,
    other_ids: Ids,
    link: ContactLink,
) -> SiteVoxels:
    """Return the voxels of the block at which the first object of a pair is in contact."""
    pairs = _ids_of_pairs(points, near, ids, other_ids)
    block = link.block
    voxels = _positions(points.voxels[near.points], link)
    is_inside = (voxels[:, 0] >= block.start) & (voxels[:, 0] < block.stop)
    if link.is_within:  # the object with the smaller id is the first one
        is_inside &= pairs[:, 0] < pairs[:, 1]
    return site_voxels(pairs[is_inside], voxels[is_inside])


def _positions(voxels: Ints, link: ContactLink) -> Ints:
    """Return z, y, x in the volume (n, 3) of flat indices in the slices of a block and its halo."""
    _, height, width = link.first.shape
    z, rest = np.divmod(voxels, height * width)
    return np.column_stack([z + link.block.read_start, *np.divmod(rest, width)])


def _site_arrays(sites: SiteVoxels, block: ZBlock) -> dict[str, NDArray[Any]]:
    """Return the contact sites of a block, and their voxels in its first and last slice.

    Returns:
        ``site_pairs``, (sites, 2): ids of the pair; ``bottom`` and ``top``, (n, 6): site, ids of
        the pair, z, y, x.
    """
    _, number = connected_numbers(len(sites.pairs), join_voxels(sites, sites))
    _, first_voxel = np.unique(number, return_index=True)
    rows = np.column_stack([number, sites.pairs, sites.voxels])
    z = sites.voxels[:, 0]
    return {
        "site_pairs": sites.pairs[first_voxel],
        "bottom": rows[z == block.start],
        "top": rows[z == block.stop - 1],
    }


def _tables(
    results: LinkResults, links: Mapping[str, ContactLink], names: tuple[str, str]
) -> tuple[pa.Table, pa.Table]:
    """Return the table of pairs and the table of objects."""
    is_within = next(iter(links.values())).is_within
    first = _sum_pairs(results, links, "first")
    if is_within:
        first, second = _part_sides(*first)
    else:
        keys, sums = _sum_pairs(results, links, "second")
        second = keys[:, ::-1], sums
    pairs = _pair_table(first, second, _count_sites(results, links))
    areas = [_object_table(results, links, side, names) for side in SIDES[: 1 if is_within else 2]]
    return pairs, pa.concat_tables(areas)


def _part_sides(keys: Ints, sums: Floats) -> tuple[PairSums, PairSums]:
    """Return the sums on the objects with the smaller id of every pair, and on the other ones."""
    is_first = keys[:, 0] < keys[:, 1]
    first = keys[is_first], sums[is_first]
    second = keys[~is_first][:, ::-1], sums[~is_first]
    return first, second


def _sum_pairs(results: LinkResults, links: Mapping[str, ContactLink], side: str) -> PairSums:
    """Return the pairs (n, 2) of a side, and their area, area times distance, and distance."""
    rows = _rows(results, links, side)
    keys, row = np.unique(rows[:, 1:3].astype(np.int64), axis=0, return_inverse=True)
    smallest = np.full(len(keys), np.inf)
    np.minimum.at(smallest, row.reshape(-1), rows[:, 5])
    area, product = _sum_in_order(rows[:, 3:5], row.reshape(-1), len(keys))
    return keys, np.column_stack([area, product, smallest])


def _sum_in_order(rows: Floats, group: Ints, n_groups: int) -> Floats:
    """Return the sums (columns, groups) of rows, added in their order: that of z."""
    sums = np.zeros((rows.shape[1], n_groups))
    for column in range(rows.shape[1]):
        np.add.at(sums[column], group, rows[:, column])
    return sums


def _rows(results: LinkResults, links: Mapping[str, ContactLink], name: str) -> NDArray[Any]:
    """Return an array of all links, one after the other."""
    return np.concatenate([results.array(link, name) for link in links])


def _pair_table(
    first: PairSums, second: PairSums, sites: Mapping[tuple[int, int], int]
) -> pa.Table:
    """Return one row for each pair; on a side without a contact its area is 0."""
    pairs = np.unique(np.concatenate([first[0], second[0]]), axis=0)
    first_area, first_product, first_distance = _sums_of(pairs, *first)
    second_area, second_product, second_distance = _sums_of(pairs, *second)
    total = first_area + second_area
    first_ids, second_ids = pairs.T
    columns = {
        "first": first_ids,
        "second": second_ids,
        "area_um2": total / 2 * NM2,
        "first_area_um2": first_area * NM2,
        "second_area_um2": second_area * NM2,
        "sites": [sites.get((a, b), 0) for a, b in pairs.tolist()],
        "mean_distance_nm": (first_product + second_product) / total,
        "min_distance_nm": np.minimum(first_distance, second_distance),
    }
    return pa.table(columns)


def _sums_of(pairs: Ints, keys: Ints, sums: Floats) -> Floats:
    """Return the sums (3, n) of pairs, those of no area for pairs that are missing."""
    with_missing = np.concatenate([sums, [[0.0, 0.0, np.inf]]])
    return np.asarray(with_missing[_find_rows(keys, pairs)].T)


def _find_rows(keys: Ints, pairs: Ints) -> Ints:
    """Return the row of every pair in sorted keys (n, 2); n for a pair that is missing."""
    rows = {tuple(key): row for row, key in enumerate(keys.tolist())}
    return np.array([rows.get(tuple(pair), len(keys)) for pair in pairs.tolist()], np.int64)


def _object_table(
    results: LinkResults,
    links: Mapping[str, ContactLink],
    side: str,
    names: tuple[str, str],
) -> pa.Table:
    """Return one row for each object of a structure: its surface, and the fraction in contact."""
    rows = _rows(results, links, f"{side}_areas")
    ids, row = np.unique(rows[:, 1].astype(np.int64), return_inverse=True)
    surface, in_contact = _sum_in_order(rows[:, 2:4], row, len(ids))
    structure = names[SIDES.index(side)]
    return pa.table(
        {
            "structure": pa.array([structure] * len(ids), pa.string()),
            "object": ids,
            "surface_um2": surface * NM2,
            "contact_um2": in_contact * NM2,
            "contact_fraction": in_contact / surface,
        }
    )


def _count_sites(
    results: LinkResults, links: Mapping[str, ContactLink]
) -> dict[tuple[int, int], int]:
    """Return the number of contact sites of every pair, by its ids."""
    pairs = [results.array(link, "site_pairs") for link in links]
    starts = np.concatenate([[0], np.cumsum([len(block) for block in pairs])])
    edges = [np.empty((0, 2), np.int64)]
    for index, (upper, lower) in enumerate(pairwise(links)):
        top, bottom = results.array(upper, "top"), results.array(lower, "bottom")
        edges.append(_joined_sites(top, bottom) + starts[index : index + 2])
    all_pairs = np.concatenate(pairs)
    _, number = connected_numbers(len(all_pairs), np.concatenate(edges))
    _, first = np.unique(number, return_index=True)
    return dict(Counter(map(tuple, all_pairs[first].tolist())))


def _joined_sites(top: Ints, bottom: Ints) -> Ints:
    """Return the sites (n, 2) of two blocks that touch, from the rows of ``_site_arrays``."""
    upper, lower = (SiteVoxels(rows[:, 1:3], rows[:, 3:]) for rows in (top, bottom))
    joined = join_voxels(upper, lower)
    return np.column_stack([top[joined[:, 0], 0], bottom[joined[:, 1], 0]])
