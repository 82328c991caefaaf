"""From a mask to numbered objects: 26-connected components of a volume of any size.

Blocks are labeled by themselves, their parts joined where they touch in one small graph, and the objects numbered by their
first voxel, so the numbers do not depend on the blocks. Masks are (z, y, x), any number but 0 is the structure.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsem.geometry import ZBlock
from sparsem.labels.overlaps import overlaps
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Arrays, BlockResult, Stage, link_arrays

Parts = NDArray[np.uint32]
Ints = NDArray[np.int64]


class ObjectNumbering(NamedTuple):
    """What the parts of blocks make together.

    Attributes:
        numbers: of every block, the object that each of its parts belongs to, 0 for one that is too small: (parts + 1,) uint32.
        objects: how many objects there are.
        specks: how many were too small.
        speck_voxels: how many voxels these have.
    """

    numbers: list[Parts]
    objects: int
    specks: int
    speck_voxels: int


def connected_parts(mask: NDArray[Any]) -> Parts:
    """26-connected components of a block, numbered from 1."""
    inside = (mask > 0).view(
        np.uint8
    )  # cc3d 4.1 counts too few labels for a single line of boolean voxels, and raises
    return np.asarray(cc3d.connected_components(inside, connectivity=26), np.uint32)


def first_voxels(parts: Parts) -> Ints:
    """Place of the first voxel of every part 1 to n in a block laid out flat, (n,)."""
    flat = parts.reshape(-1)
    starts = np.flatnonzero(np.diff(flat, prepend=np.uint32(0)))
    out = np.zeros(int(flat.max(initial=0)) + 1, np.int64)
    out[flat[starts[::-1]]] = starts[::-1]  # of several runs of a part the first is written last
    return out[1:]


def touching_pairs(upper: Parts, lower: Parts) -> Ints:
    """Pairs of parts of two neighboring slices (y, x) that touch, across corners too: (n, 2)."""
    padded = np.pad(lower, 1)
    rows, columns = upper.shape
    shifted = [padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)]
    found = [overlaps(upper, one) for one in shifted]
    pairs = np.concatenate([np.column_stack([one.first, one.second]) for one in found]).astype(
        np.int64
    )
    return np.unique(pairs[(pairs > 0).all(axis=1)], axis=0)


def join_parts(
    voxels: Sequence[Ints], firsts: Sequence[Ints], pairs: Sequence[Ints], least_voxels: int
) -> ObjectNumbering:
    """Objects from the parts of blocks, numbered in the order of their first voxels.

    Args:
        voxels: of every block's parts, (parts,) each.
        firsts: place in the volume of their first voxels, (parts,) each.
        pairs: of every block but the last, parts that touch parts of the next one, (n, 2), both numbered from 1.
        least_voxels: objects with fewer are left out.
    """
    starts = np.concatenate([[0], np.cumsum([len(one) for one in voxels])]).astype(np.int64)
    total = int(starts[-1])
    edges = np.concatenate(
        [
            np.empty((0, 2), np.int64),
            *(one + np.array([starts[k] - 1, starts[k + 1] - 1]) for k, one in enumerate(pairs)),
        ]
    )
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(total, total))
    groups, group = (
        connected_components(graph, directed=False) if total else (0, np.empty(0, np.int64))
    )
    size, first = np.zeros(groups, np.int64), np.full(groups, 2**62)
    np.add.at(size, group, np.concatenate([np.empty(0, np.int64), *voxels]))
    np.minimum.at(first, group, np.concatenate([np.empty(0, np.int64), *firsts]))
    large = np.flatnonzero(size >= least_voxels)
    names = np.zeros(groups, np.uint32)
    names[large[np.argsort(first[large])]] = np.arange(1, len(large) + 1)
    numbers = [
        np.concatenate([[0], names[group[a:b]]]).astype(np.uint32) for a, b in pairwise(starts)
    ]
    return ObjectNumbering(
        numbers, len(large), groups - len(large), int(size[size < least_voxels].sum())
    )


class ObjectSettings(Settings):
    """Which parts of a mask are objects."""

    min_voxels: int = Field(description="parts with fewer voxels are specks")


def number_objects(
    sample: Sample, name: str, mask: Volume, least_voxels: int, on: Execution = HERE
) -> tuple[Volume, int, int]:
    """Write ``labels/NAME-objects`` (uint32): the objects of a mask, numbered from 1.

    Args:
        sample: to write to.
        name: of the structure.
        mask: its labels; any number but 0 is the structure.
        least_voxels: smaller objects are specks.
        on: how the work is spread.

    Returns:
        The volume, and how many specks were left out, with how many voxels.
    """
    output = mask.like(f"labels/{name}-objects", np.uint32, Kind.LABELS, mask.made_on)
    depth, (_, y, x) = mask.block_depth, mask.shape
    needs = Needs(
        (depth + 1) * y * x * 12 + y * x * 40,
        output.nbytes // 16,
        "import with a smaller --block-depth, or use fewer --workers",
    )
    with Stage(
        sample,
        f"objects-{name}",
        ObjectSettings(min_voxels=least_voxels),
        {"mask": mask.fingerprint},
        [output],
        on,
        needs,
    ) as stage:
        found: ObjectNumbering | None = None
        if not stage.finished:
            blocks = mask.blocks()
            folder = stage.chain(
                f"{stage.name}, parts",
                _parts,
                {_name("parts", block): [block] for block in blocks},
                mask,
            )
            seams = {_name("seam", upper): [(upper, lower)] for upper, lower in pairwise(blocks)}
            stage.chain(f"{stage.name}, seams", _seam, seams, folder)
            parts = [link_arrays(folder, _name("parts", block), 0) for block in blocks]
            voxels, firsts = (
                [np.asarray(one[key][...]) for one in parts] for key in ("voxels", "firsts")
            )
            pairs = [
                np.asarray(link_arrays(folder, seam, 0)["pairs"][...]).reshape(-1, 2)
                for seam in seams
            ]
            if mask.sizes:  # pictures, a block each, which nothing connects
                pairs = [pair[:0] for pair in pairs]
            found = join_parts(voxels, firsts, pairs, least_voxels)
        names = found.numbers if found else []
        specks = [found.specks, found.speck_voxels] if found else [0, 0]
        summaries = stage.map(
            _number,
            mask.blocks(),
            mask,
            output.path,
            specks,
            of_block=lambda block: names[block.start // depth] if names else None,
        )
    left_out, voxels_left_out = summaries[0]["specks"]
    return sample.volume("labels", f"{name}-objects"), int(left_out), int(voxels_left_out)


def _name(what: str, block: ZBlock) -> str:
    return f"{what}-{block.start}"


def _parts(block: ZBlock, _before: None, mask: Volume) -> Arrays:
    """Voxels and first voxels of the parts of a block, and its outer slices."""
    parts = connected_parts(mask.read(block.own))
    firsts = first_voxels(parts) + block.start * parts[0].size
    return {
        "voxels": np.bincount(parts.reshape(-1))[1:],
        "firsts": firsts,
        "bottom": parts[0],
        "top": parts[-1],
    }


def _seam(blocks: tuple[ZBlock, ZBlock], _before: None, folder: Path) -> Arrays:
    """Which parts of a block touch which parts of the next one."""
    top, bottom = (
        link_arrays(folder, _name("parts", block), 0)[side]
        for block, side in zip(blocks, ("top", "bottom"), strict=True)
    )
    return {"pairs": touching_pairs(np.asarray(top[...]), np.asarray(bottom[...]))}


def _number(block: ZBlock, mask: Volume, path: str, specks: list[int], names: Parts) -> BlockResult:
    return {path: names[connected_parts(mask.read(block.own))]}, {"specks": specks}
