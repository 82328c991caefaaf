"""Connected components of a volume of any size, from the parts that lie in its blocks.

The components of every block, called parts, are labeled independently. Parts that touch across
blocks are joined in one small graph, and the objects are numbered by their first voxel. So the
numbers do not depend on the blocks. Masks are (z, y, x); any number except 0 is the structure.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsem.workflow.compiled import compiled

Parts = NDArray[np.uint32]
Ints = NDArray[np.int64]


class ObjectNumbering(NamedTuple):
    """The objects that the parts of blocks form.

    Attributes:
        numbers: for every block, the object of each of its parts, 0 for one that is too small:
            (parts + 1,) uint32.
        objects: number of objects.
        small_components: number of components that are too small.
        small_voxels: voxels of these.
    """

    numbers: list[Parts]
    objects: int
    small_components: int
    small_voxels: int


def connected_parts(mask: NDArray[Any]) -> Parts:
    """Return the 26-connected components of a block, numbered from 1."""
    # cc3d 4.1 counts too few labels for a single line of boolean voxels, and raises: hence bytes.
    inside = (mask > 0).view(np.uint8)
    return np.asarray(cc3d.connected_components(inside, connectivity=26), np.uint32)


def part_sizes(parts: Parts) -> tuple[Ints, Ints]:
    """Return the voxels of every part 1 to n, (n,), and the flat index of its first one, (n,)."""
    voxels, firsts = _part_sizes(parts.reshape(-1), int(parts.max(initial=0)))
    return voxels, firsts


@compiled()
def _part_sizes(parts: Any, n_parts: Any) -> Any:
    """Return voxels and first voxels of parts (voxels,)."""
    voxels = np.zeros(n_parts, np.int64)
    firsts = np.zeros(n_parts, np.int64)
    for index in range(len(parts)):
        if parts[index]:
            part = parts[index] - 1
            if voxels[part] == 0:
                firsts[part] = index
            voxels[part] += 1
    return voxels, firsts


class SliceRuns(NamedTuple):
    """The parts in a slice as runs of equal pixels along x, row by row.

    Attributes:
        first_of_row: position of the first run of every row, and the number of runs, (rows + 1,).
        starts: first pixel of every run, (n,).
        stops: last pixel plus one, (n,).
        parts: part of every run, (n,).
    """

    first_of_row: Ints
    starts: NDArray[np.int32]
    stops: NDArray[np.int32]
    parts: Parts


def slice_runs(section: Parts) -> SliceRuns:
    """Return the runs of a slice of parts (y, x): little to store, and quick to compare."""
    first_of_row = np.zeros(len(section) + 1, np.int64)
    _count_runs(section, first_of_row)
    n_runs = int(first_of_row[-1])
    runs = SliceRuns(
        first_of_row,
        np.empty(n_runs, np.int32),
        np.empty(n_runs, np.int32),
        np.empty(n_runs, np.uint32),
    )
    _write_runs(section, *runs)
    return runs


def touching_pairs(upper: SliceRuns, lower: SliceRuns) -> Ints:
    """Return the pairs of parts of two neighboring slices that touch, (n, 2).

    Parts also touch across edges and corners.
    """
    pairs = [np.empty((0, 2), np.uint32)]
    for shift in (-1, 0, 1):
        pairs.append(_touching_runs(upper, lower, shift))
    return np.unique(np.concatenate(pairs), axis=0).astype(np.int64)


@compiled()
def _count_runs(section: Any, first_of_row: Any) -> None:
    """Write the position of the first run of every row, and the number of runs."""
    rows, columns = section.shape
    for y in range(rows):
        count = 0
        previous = np.uint32(0)
        for x in range(columns):
            part = section[y, x]
            count += (part != previous) & (part > 0)
            previous = part
        first_of_row[y + 1] = first_of_row[y] + count


@compiled()
def _write_runs(section: Any, first_of_row: Any, starts: Any, stops: Any, parts: Any) -> None:
    """Write the runs of a slice."""
    rows, columns = section.shape
    for y in range(rows):
        number = first_of_row[y] - 1
        previous = np.uint32(0)
        for x in range(columns):
            part = section[y, x]
            if part == previous:
                continue
            if previous:
                stops[number] = x
            if part:
                number += 1
                starts[number] = x
                parts[number] = part
            previous = part
        if previous:
            stops[number] = columns


@compiled()
def _touching_runs(upper: Any, lower: Any, shift: Any) -> Any:
    """Return the parts (n, 2) of runs that touch those ``shift`` rows after them, some often."""
    first_upper, starts, stops, parts = upper
    first_lower, lower_starts, lower_stops, lower_parts = lower
    rows = len(first_upper) - 1
    pairs = np.empty((len(starts) + len(lower_starts), 2), np.uint32)
    n_pairs = 0
    for y in range(max(0, -shift), rows - max(0, shift)):
        first, end = first_lower[y + shift], first_lower[y + shift + 1]
        for run in range(first_upper[y], first_upper[y + 1]):
            while first < end and lower_stops[first] < starts[run]:
                first += 1
            number = first
            while number < end and lower_starts[number] <= stops[run]:
                is_repeated = (
                    n_pairs > 0
                    and pairs[n_pairs - 1, 0] == parts[run]
                    and pairs[n_pairs - 1, 1] == lower_parts[number]
                )
                if not is_repeated:
                    pairs[n_pairs, 0] = parts[run]
                    pairs[n_pairs, 1] = lower_parts[number]
                    n_pairs += 1
                number += 1
    return pairs[:n_pairs]


def join_parts(
    voxels: Sequence[Ints], firsts: Sequence[Ints], pairs: Sequence[Ints], min_voxels: int
) -> ObjectNumbering:
    """Return the objects that parts of blocks form, numbered in the order of their first voxels.

    Args:
        voxels: for every block, the voxels of its parts, (parts,).
        firsts: for every block, the flat index in the volume of the first voxel of its parts,
            (parts,).
        pairs: for every block but the last, parts that touch parts of the next one, (n, 2), both
            numbered from 1.
        min_voxels: smaller components are left out.
    """
    starts = part_starts(voxels)
    n_components, component = join_touching(starts, pairs)
    return number_components(component, n_components, voxels, firsts, min_voxels)


def part_starts(voxels: Sequence[Ints]) -> Ints:
    """Return the position of the first part of each block among all parts, (blocks + 1,)."""
    parts_of_blocks = [len(block_voxels) for block_voxels in voxels]
    return np.concatenate([[0], np.cumsum(parts_of_blocks)]).astype(np.int64)


def number_components(
    component: Ints,
    n_components: int,
    voxels: Sequence[Ints],
    firsts: Sequence[Ints],
    min_voxels: int,
) -> ObjectNumbering:
    """Return the objects that components of parts form, numbered in the order of first voxels.

    Args:
        component: component of every part of all blocks, (parts,).
        n_components: number of components.
        voxels: see ``join_parts``.
        firsts: see ``join_parts``.
        min_voxels: see ``join_parts``.
    """
    sizes = np.zeros(n_components, np.int64)
    np.add.at(sizes, component, values_of_blocks(voxels))
    first_voxel = first_of_components(component, n_components, firsts)
    is_large = sizes >= min_voxels
    object_of = _number_in_order(np.flatnonzero(is_large), first_voxel)
    n_objects = int(is_large.sum())
    return ObjectNumbering(
        numbers=_numbers_of_blocks(object_of[component], part_starts(voxels)),
        objects=n_objects,
        small_components=n_components - n_objects,
        small_voxels=int(sizes[~is_large].sum()),
    )


def first_of_components(component: Ints, n_components: int, firsts: Sequence[Ints]) -> Ints:
    """Return the flat index in the volume of the first voxel of every component, (n,)."""
    first_voxel = np.full(n_components, 2**62)
    np.minimum.at(first_voxel, component, values_of_blocks(firsts))
    return first_voxel


def _number_in_order(large: NDArray[np.int64], first_voxel: Ints) -> Parts:
    """Return the object of every component, numbered by first voxel; 0 if it is not large."""
    in_order = large[np.argsort(first_voxel[large])]
    object_of = np.zeros(len(first_voxel), np.uint32)
    object_of[in_order] = np.arange(1, len(large) + 1)
    return object_of


def _numbers_of_blocks(object_of_part: Parts, starts: Ints) -> list[Parts]:
    """Return for every block the objects of its parts, (parts + 1,), 0 for the background."""
    numbers = []
    for start, stop in pairwise(starts):
        objects = object_of_part[start:stop]
        numbers.append(np.concatenate([[0], objects]).astype(np.uint32))
    return numbers


def join_touching(starts: Ints, pairs: Sequence[Ints]) -> tuple[int, Ints]:
    """Return the number of components of all parts, and the component of each part.

    Args:
        starts: (blocks + 1,) position of the first part of each block among all parts.
        pairs: see ``join_parts``.
    """
    n_parts = int(starts[-1])
    if not n_parts:
        return 0, np.empty(0, np.int64)
    return connected_numbers(n_parts, shifted_pairs(starts, pairs))


def connected_numbers(count: int, edges: Ints) -> tuple[int, Ints]:
    """Return the number of connected groups, and the group of each of ``count`` items.

    Args:
        count: number of items.
        edges: (n, 2) items that belong together.
    """
    rows, columns = edges.T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    n_groups, group = connected_components(graph, directed=False)
    return n_groups, group.astype(np.int64)


def shifted_pairs(starts: Ints, pairs: Sequence[Ints]) -> Ints:
    """Return the positions of touching parts among all parts, (n, 2)."""
    edges = [np.empty((0, 2), np.int64)]
    for block, block_pairs in enumerate(pairs):
        shift = np.array([starts[block] - 1, starts[block + 1] - 1])
        edges.append(block_pairs + shift)
    return np.concatenate(edges)


def values_of_blocks(arrays: Sequence[Ints]) -> Ints:
    """Return arrays of numbers as one; empty if there is none."""
    return np.concatenate([np.empty(0, np.int64), *arrays])
