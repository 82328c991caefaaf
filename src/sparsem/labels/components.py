"""Connected components of a volume of any size, from the parts that lie in its blocks.

The components of every block, called parts, are labeled independently. Parts that touch across
blocks are joined in one small graph, and the objects are numbered by their first voxel. So the
numbers do not depend on the blocks. Masks are (z, y, x); any number except 0 is the structure.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsem.compiled import compiled
from sparsem.labels.overlaps import sum_equal_pairs
from sparsem.labels.runs import LabelRuns, label_runs

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


def connected_parts(mask: NDArray[Any]) -> LabelRuns:
    """Return the runs of a mask with the 26-connected component of each.

    Components are numbered from 1, in the order of their first voxels. Runs that touch are joined,
    so that the time depends on the runs, and hardly on the voxels.
    """
    return connected_labels(mask > 0)


def connected_labels(labels: NDArray[Any]) -> LabelRuns:
    """Return the runs of labels with the 26-connected component of each.

    Voxels of different labels are not connected. See ``connected_parts``.
    """
    runs = label_runs(labels)
    depth, rows, columns = labels.shape
    parts = _join_runs(runs, _first_of_lines(runs, depth * rows, columns), rows, columns)
    return runs._replace(labels=parts)


def sizes_of_runs(runs: LabelRuns) -> tuple[Ints, Ints]:
    """Return voxels, (n,), and flat index of the first voxel, (n,), of every part 1 to n."""
    lengths = runs.stops - runs.starts
    voxels = np.bincount(runs.labels, lengths)[1:].astype(np.int64)
    _, first_runs = np.unique(runs.labels, return_index=True)
    return voxels, runs.starts[first_runs]


def number_runs(runs: LabelRuns, numbers: Parts, shape: tuple[int, ...]) -> Parts:
    """Return an array of a shape in which runs have the number of their part, else 0."""
    out = np.zeros(shape, np.uint32)
    _paint_runs(runs, numbers, out.reshape(-1))
    return out


@compiled()
def _paint_runs(runs: Any, numbers: Any, out: Any) -> None:
    for run in range(len(runs.starts)):
        number = numbers[runs.labels[run]]
        for index in range(runs.starts[run], runs.stops[run]):
            out[index] = number


def _first_of_lines(runs: LabelRuns, n_lines: int, columns: int) -> Ints:
    """Return the position of the first run of every line along x, and the number of runs."""
    return np.searchsorted(runs.starts, np.arange(n_lines + 1) * columns)


@compiled()
def _join_runs(runs: Any, first_of_line: Any, rows: Any, columns: Any) -> Any:
    """Return the component of every run, from 1, by union and find."""
    parents = np.arange(len(runs.starts))
    for line in range(len(first_of_line) - 1):
        y = line % rows
        if y > 0:
            _join_lines(runs, first_of_line, line, line - 1, columns, parents)
        for shift in range(-1, 2):
            if line >= rows and 0 <= y + shift < rows:
                _join_lines(runs, first_of_line, line, line - rows + shift, columns, parents)
    parts = np.empty(len(parents), np.uint32)
    n_parts = 0
    for run in range(len(parents)):
        if parents[run] == run:  # the first run of its component
            n_parts += 1
            parts[run] = n_parts
        else:
            parts[run] = parts[_root(parents, run)]
    return parts


@compiled()
def _join_lines(
    runs: Any, first_of_line: Any, line: Any, earlier: Any, columns: Any, parents: Any
) -> None:
    """Join the runs of a line with those that they touch in an earlier line."""
    run, end = first_of_line[line], first_of_line[line + 1]
    before, end_before = first_of_line[earlier], first_of_line[earlier + 1]
    shift = (line - earlier) * columns
    while run < end and before < end_before:
        _join_touching(runs, run, before, shift, parents)
        difference = runs.stops[before] - (runs.stops[run] - shift)
        if difference < 0:
            before += 1
            continue
        if difference == 0 and before + 1 < end_before:  # the next one touches at a corner
            _join_touching(runs, run, before + 1, shift, parents)
        run += 1


@compiled()
def _join_touching(runs: Any, run: Any, before: Any, shift: Any, parents: Any) -> None:
    """Join two runs of the same label that touch, of which one is ``shift`` voxels further."""
    start, stop = runs.starts[run] - shift, runs.stops[run] - shift
    touches = runs.starts[before] <= stop and start <= runs.stops[before]
    if touches and runs.labels[run] == runs.labels[before]:
        first, second = _root(parents, run), _root(parents, before)
        if first != second:
            parents[max(first, second)] = min(first, second)


@compiled()
def _root(parents: Any, run: Any) -> Any:
    """Return the first run of a component as far as it is known; paths to it are halved."""
    while parents[run] != run:
        parents[run] = parents[parents[run]]
        run = parents[run]
    return run


def runs_of_slice(runs: LabelRuns, z: int, pixels: int) -> LabelRuns:
    """Return the runs of slice ``z`` of a block, counted from the first of its ``pixels``."""
    first, last = np.searchsorted(runs.starts, [z * pixels, (z + 1) * pixels])
    starts, stops = runs.starts[first:last], runs.stops[first:last]
    return LabelRuns(starts - z * pixels, stops - z * pixels, runs.labels[first:last])


def touching_pairs(upper: LabelRuns, lower: LabelRuns, shape: tuple[int, int]) -> Ints:
    """Return the pairs of parts of two neighboring slices of a shape (y, x) that touch, (n, 2).

    Parts also touch across edges and corners.
    """
    rows, columns = shape
    lines = _first_of_lines(upper, rows, columns), _first_of_lines(lower, rows, columns)
    pairs = np.concatenate(
        [_touching_runs(upper, lower, *lines, shift, columns) for shift in (-1, 0, 1)]
    )
    touching = sum_equal_pairs(pairs[:, 0], pairs[:, 1], np.ones(len(pairs), np.int64))
    return np.stack([touching.first, touching.second], axis=1).astype(np.int64)


@compiled()
def _touching_runs(
    upper: Any, lower: Any, upper_lines: Any, lower_lines: Any, shift: Any, columns: Any
) -> Any:
    """Return the parts (n, 2) of runs that touch those ``shift`` rows after them, some often."""
    rows = len(upper_lines) - 1
    pairs = np.empty((len(upper.starts) + len(lower.starts), 2), np.uint32)
    n_pairs = 0
    for y in range(max(0, -shift), rows - max(0, shift)):
        run, end = upper_lines[y], upper_lines[y + 1]
        below, end_below = lower_lines[y + shift], lower_lines[y + shift + 1]
        while run < end and below < end_below:
            start = lower.starts[below] - shift * columns
            stop = lower.stops[below] - shift * columns
            if start <= upper.stops[run] and upper.starts[run] <= stop:
                pairs[n_pairs, 0] = upper.labels[run]
                pairs[n_pairs, 1] = lower.labels[below]
                n_pairs += 1
            if stop < upper.stops[run]:
                below += 1
            else:
                run += 1
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
