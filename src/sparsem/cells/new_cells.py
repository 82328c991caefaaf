"""Cells that no labeled slice shows: tissue that labels only reach across boundaries.

In packed tissue every label spreads until it meets another one, and so into cells between two
labeled slices that neither of them shows. Labels reach such a cell at a high cost. Its connected
parts become seeds of new cells, and labels are propagated once more, with the new seeds among them.

On neurites with every 50th slice labeled, the adapted Rand error is 0.066 instead of 0.096 (FIB-25,
see benchmarks/README.md). Masks are (h, w), on the grid of the flow.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.cells.intervals import Fronts, Leg
from sparsem.cells.job import SeparationJob
from sparsem.cells.propagate import Front, GridSlice
from sparsem.cells.separate import Mask
from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.labels.components import (
    Ints,
    Parts,
    connected_parts,
    first_of_components,
    join_parts,
    number_runs,
    runs_of_slice,
    sizes_of_runs,
    touching_pairs,
    values_of_blocks,
)
from sparsem.labels.runs import LabelRuns
from sparsem.workflow.stage import Arrays, Stage, read_link

# Labels that cost more have crossed a boundary: a pixel of a boundary of 0.9 costs 9.
MIN_NEW_COST = 5.0
# A seed of a new cell has no pixel whose probability of a boundary, or of the outside, is higher.
MAX_SEED_BOUNDARY = 0.3
# New cells that can begin in one slice. Their ids are made of the slice and a number below it.
MAX_NEW_PER_SLICE = 2**12


class SeededLeg(NamedTuple):
    """A leg of the second propagation.

    Attributes:
        leg: the slices.
        ids: new cell of each part of its block, 0 for none, (parts + 1,).
    """

    leg: Leg
    ids: Parts


def seeded_legs(legs: Sequence[Leg], ids: Sequence[Parts], depth: int) -> list[SeededLeg]:
    """Return the legs of a chain with the new cells of their blocks; none if there are no new ones.

    Args:
        legs: legs that cross an interval; none crosses a border of blocks.
        ids: for every block, the new cell of each of its parts (see ``find_new_cells``).
        depth: slices of a block.
    """
    seeded = [SeededLeg(leg, ids[leg.start // depth]) for leg in legs]
    has_new_cells = any(leg.ids.any() for leg in seeded)
    return seeded if has_new_cells else []


def find_new_cells(stage: Stage, job: SeparationJob, fronts: Fronts) -> list[Parts]:
    """Find the new cells of all intervals that the fronts of the first propagation cross.

    Returns:
        For every block the new cell of each of its parts, 0 for none, (parts + 1,).

    Raises:
        InputError: too many new cells begin in one slice.
    """
    blocks = job.image.blocks()
    part_links = {_name_of_parts(block): [block] for block in blocks}
    title = f"{stage.name}, new cells"
    folder = stage.chain(title, _unreached_parts, part_links, job, fronts, in_one_file=True)
    seam_links = {f"seam-{upper.start}": [(lower, upper)] for lower, upper in pairwise(blocks)}
    stage.chain(f"{title}, seams", _touching_parts, seam_links, job, folder, in_one_file=True)
    parts = [read_link(folder, name, ("voxels", "firsts")) for name in part_links]
    voxels, firsts = ([of_block[key] for of_block in parts] for key in ("voxels", "firsts"))
    pairs = [read_link(folder, name)["pairs"] for name in seam_links]
    return new_cell_ids(voxels, firsts, pairs, job)


def read_seeds(seeded: SeededLeg, job: SeparationJob, folder: Path) -> NDArray[np.uint32]:
    """Return the ids of new cells in the slices of a leg, (slices, h, w), 0 elsewhere."""
    leg = seeded.leg
    block = job.image.blocks()[leg.start // job.image.block_depth]
    runs = _read_runs(folder, block)
    pixels = job.grid[0] * job.grid[1]
    seeds = [
        number_runs(runs_of_slice(runs, z - block.start, pixels), seeded.ids, job.grid)
        for z in range(leg.start, leg.stop)
    ]
    return np.stack(seeds)


def unreached(below: Front, above: Front, grid_slice: GridSlice) -> Mask:
    """Return the pixels of cells that labels only reach across boundaries, without the boundaries.

    Pixels that no label of a known cell reaches are not among them.
    """
    cost = np.minimum(below.cost, above.cost)
    crossing = np.maximum(grid_slice.boundary, 1 - grid_slice.interior)
    is_far = np.isfinite(cost) & (cost > MIN_NEW_COST)
    return np.asarray(is_far & (crossing < MAX_SEED_BOUNDARY))


def new_cell_ids(
    voxels: Sequence[Ints], firsts: Sequence[Ints], pairs: Sequence[Ints], job: SeparationJob
) -> list[Parts]:
    """Return for every block the new cell of each of its parts, 0 for none, (parts + 1,).

    The id of a new cell is made of its first slice, and its number among those that begin there: a
    correction elsewhere does not change it.

    Args:
        voxels: for every block, the voxels of its parts.
        firsts: for every block, the flat index in the stack of the first voxel of its parts.
        pairs: for every block but the last, parts that touch parts of the next one, (n, 2).
        job: grid, minimum size and first id of new cells.

    Raises:
        InputError: too many new cells begin in one slice.
    """
    numbering = join_parts(voxels, firsts, pairs, job.min_new_voxels)
    # Objects are numbered in the order of their first voxels; 0 are all that are too small.
    object_of_part = values_of_blocks([numbers[1:].astype(int) for numbers in numbering.numbers])
    first_voxel = first_of_components(object_of_part, numbering.objects + 1, firsts)[1:]
    first_slice = first_voxel // (job.grid[0] * job.grid[1])
    ids = np.insert(job.first_new + _numbers_by_slice(first_slice), 0, 0).astype(np.uint32)
    return [ids[numbers] for numbers in numbering.numbers]


def _numbers_by_slice(first_slice: Ints) -> Ints:
    """Return numbers made of a slice and the position among those of the same slice, (n,).

    Args:
        first_slice: (n,) ascending.
    """
    number = np.arange(len(first_slice)) - np.searchsorted(first_slice, first_slice)
    _refuse_many(first_slice, number)
    return first_slice * MAX_NEW_PER_SLICE + number


def _refuse_many(first_slice: Ints, number: Ints) -> None:
    """Raise an InputError if more new cells begin in a slice than ids allow."""
    too_many = np.flatnonzero(number >= MAX_NEW_PER_SLICE)
    if too_many.size:
        raise InputError(
            f"More than {MAX_NEW_PER_SLICE} new cells begin in slice {first_slice[too_many[0]]}; "
            "use a larger --new-cells-um3, or label more slices."
        )


def _unreached_parts(block: ZBlock, _previous: None, job: SeparationJob, fronts: Fronts) -> Arrays:
    """Return the connected parts of a block that labels only reach across boundaries."""
    runs = connected_parts(_unreached_in(block, job, fronts))
    voxels, firsts = sizes_of_runs(runs)
    offset = block.start * job.grid[0] * job.grid[1]
    return {**runs._asdict(), "voxels": voxels, "firsts": firsts + offset}


def _unreached_in(block: ZBlock, job: SeparationJob, fronts: Fronts) -> Mask:
    """Return what is unreached in the unlabeled slices of a block, (slices, h, w)."""
    masks = np.zeros((block.stop - block.start, *job.grid), bool)
    fronts_of_slices = [fronts.at(z) for z in range(block.start, block.stop)]
    if not any(fronts_of_slices):
        return masks
    grid_slices = job.grid_slices(block.own)
    for n, of_slice in enumerate(fronts_of_slices):
        if of_slice and block.start + n not in job.z:
            masks[n] = unreached(*both_sides(of_slice), grid_slices[n])
    return masks


def both_sides(fronts: Mapping[int, tuple[int, Front]]) -> tuple[Front, Front]:
    """Return the fronts from below and from above; where only one has arrived, it is both."""
    _, below = fronts[1] if 1 in fronts else fronts[-1]
    _, above = fronts[-1] if -1 in fronts else fronts[1]
    return below, above


def _touching_parts(
    seam: tuple[ZBlock, ZBlock], _previous: None, job: SeparationJob, folder: Path
) -> Arrays:
    """Return the pairs of parts of two neighboring blocks that touch."""
    lower, upper = seam
    pixels = job.grid[0] * job.grid[1]
    last = runs_of_slice(_read_runs(folder, lower), lower.stop - lower.start - 1, pixels)
    first = runs_of_slice(_read_runs(folder, upper), 0, pixels)
    return {"pairs": touching_pairs(last, first, job.grid)}


def _name_of_parts(block: ZBlock) -> str:
    return f"unreached-{block.start}"


def _read_runs(folder: Path, block: ZBlock) -> LabelRuns:
    return LabelRuns(**read_link(folder, _name_of_parts(block), LabelRuns._fields))
