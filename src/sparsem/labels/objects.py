"""Numbered objects of a mask: 26-connected components of a volume of any size.

The components of every block, called parts, are labeled independently. Parts that touch across
blocks are joined in one small graph, and the objects are numbered by their first voxel. So the
numbers do not depend on the blocks. Masks are (z, y, x); any number except 0 is the structure.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sparsem.annotation.precedence import apply_precedence, read_drawing
from sparsem.geometry import ZBlock
from sparsem.labels.overlaps import overlaps
from sparsem.settings import Settings
from sparsem.store.names import OBJECTS
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Arrays, BlockResult, Stage, fingerprint_of, link_arrays

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


# Compute: parts of blocks, and how they are joined.


def connected_parts(mask: NDArray[Any]) -> Parts:
    """Return the 26-connected components of a block, numbered from 1."""
    # cc3d 4.1 counts too few labels for a single line of boolean voxels, and raises: hence bytes.
    inside = (mask > 0).view(np.uint8)
    return np.asarray(cc3d.connected_components(inside, connectivity=26), np.uint32)


def first_voxels(parts: Parts) -> Ints:
    """Return the flat index in a block of the first voxel of every part 1 to n, (n,)."""
    flat = parts.reshape(-1)
    starts = np.flatnonzero(np.diff(flat, prepend=np.uint32(0)))
    firsts = np.zeros(int(flat.max(initial=0)) + 1, np.int64)
    firsts[flat[starts[::-1]]] = starts[::-1]  # of several runs of a part the first is written last
    return firsts[1:]


def touching_pairs(upper: Parts, lower: Parts) -> Ints:
    """Return the pairs of parts of two neighboring slices (y, x) that touch, (n, 2).

    Parts also touch across edges and corners.
    """
    padded = np.pad(lower, 1)
    rows, columns = upper.shape
    pairs_of_shifts = []
    for y in range(3):
        for x in range(3):
            shifted = padded[y : y + rows, x : x + columns]
            table = overlaps(upper, shifted)
            pairs_of_shifts.append(np.column_stack([table.first, table.second]))
    pairs = np.concatenate(pairs_of_shifts).astype(np.int64)
    return np.unique(pairs[(pairs > 0).all(axis=1)], axis=0)


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
    parts_of_blocks = [len(block_voxels) for block_voxels in voxels]
    starts = np.concatenate([[0], np.cumsum(parts_of_blocks)]).astype(np.int64)
    n_components, component = _components(starts, pairs)
    sizes = np.zeros(n_components, np.int64)
    np.add.at(sizes, component, _concatenate(voxels))
    first_voxel = np.full(n_components, 2**62)
    np.minimum.at(first_voxel, component, _concatenate(firsts))
    is_large = sizes >= min_voxels
    object_of = _number_in_order(np.flatnonzero(is_large), first_voxel)
    n_objects = int(is_large.sum())
    return ObjectNumbering(
        numbers=_numbers_of_blocks(object_of[component], starts),
        objects=n_objects,
        small_components=n_components - n_objects,
        small_voxels=int(sizes[~is_large].sum()),
    )


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


def _components(starts: Ints, pairs: Sequence[Ints]) -> tuple[int, NDArray[np.integer[Any]]]:
    """Return the number of components of all parts, and the component of each part.

    Args:
        starts: (blocks + 1,) position of the first part of each block among all parts.
        pairs: see ``join_parts``.
    """
    n_parts = int(starts[-1])
    if not n_parts:
        return 0, np.empty(0, np.int64)
    rows, columns = _edges(starts, pairs).T
    graph = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(n_parts, n_parts))
    n_components, component = connected_components(graph, directed=False)
    return n_components, component


def _edges(starts: Ints, pairs: Sequence[Ints]) -> Ints:
    """Return the positions of touching parts among all parts, (n, 2)."""
    edges = [np.empty((0, 2), np.int64)]
    for block, block_pairs in enumerate(pairs):
        shift = np.array([starts[block] - 1, starts[block + 1] - 1])
        edges.append(block_pairs + shift)
    return np.concatenate(edges)


def _concatenate(arrays: Sequence[Ints]) -> Ints:
    return np.concatenate([np.empty(0, np.int64), *arrays])


# The stage.


class ObjectSettings(Settings):
    """Minimum size of the objects of a mask."""

    min_voxels: int = Field(
        description="minimum size of an object; smaller components are left out"
    )


def number_objects(
    sample: Sample, name: str, mask: Volume, min_voxels: int, on: Execution = HERE
) -> tuple[Volume, int, int]:
    """Write ``labels/NAME-objects`` (uint32): the objects of a mask, numbered from 1.

    Args:
        sample: sample to write to.
        name: name of the structure.
        mask: labels of the structure; any number except 0 is the structure.
        min_voxels: smaller components are left out.
        on: how the work is distributed.

    Returns:
        The volume, the number of small components that were left out, and their voxels.
    """
    output = mask.like(f"labels/{name}{OBJECTS}", np.uint32, Kind.LABELS, mask.made_on)
    needs = _needs(mask, output.nbytes)
    settings = ObjectSettings(min_voxels=min_voxels)
    inputs = {"mask": mask.fingerprint, **_source_of(sample, mask)}
    with Stage(sample, f"objects-{name}", settings, inputs, [output], on, needs) as stage:
        summaries = _write_objects(stage, mask, output.path, min_voxels)
    apply_precedence(sample, f"{name}{OBJECTS}", on.quiet)
    count, voxels = summaries[0]["small_components"]
    return sample.volume("labels", f"{name}{OBJECTS}"), int(count), int(voxels)


def are_objects_current(sample: Sample, name: str, mask: Volume) -> bool:
    """Return True if ``labels/NAME-objects`` number a mask as it is, but for later corrections.

    Edits of objects correct the mask too. A mask that was predicted again, or in which other slices
    are labeled, has other objects.
    """
    recorded = sample.last_settings(f"objects-{name}")
    return all(
        recorded.get(f"input {key}") == value for key, value in _source_of(sample, mask).items()
    )


def _source_of(sample: Sample, mask: Volume) -> dict[str, str]:
    """Return fingerprints of a mask without its corrections."""
    mask_name = mask.directory.name
    drawing = read_drawing(sample, mask_name)
    return {
        "computed mask": sample.computed(mask_name).fingerprint,
        "labeled slices": fingerprint_of(drawing.record["annotation"]),
    }


def _write_objects(stage: Stage, mask: Volume, path: str, min_voxels: int) -> list[dict[str, Any]]:
    """Number the objects of all blocks, and return the summaries of the blocks."""
    numbers: list[Parts] = []
    small_components = [0, 0]
    if not stage.finished:
        numbering = _number_parts(stage, mask, min_voxels)
        numbers = numbering.numbers
        small_components = [numbering.small_components, numbering.small_voxels]
    depth = mask.block_depth
    return stage.map(
        _number_block,
        mask.blocks(),
        mask,
        path,
        small_components,
        of_block=lambda block: numbers[block.start // depth] if numbers else None,
    )


def _needs(mask: Volume, output_bytes: int) -> Needs:
    """Return what it takes to number the objects of a mask."""
    _, y, x = mask.shape
    return Needs(
        (mask.block_depth + 1) * y * x * 12 + y * x * 40,
        output_bytes // 16,
        "import with a smaller --block-depth, or use fewer --workers",
    )


def _number_parts(stage: Stage, mask: Volume, min_voxels: int) -> ObjectNumbering:
    """Label the parts of all blocks, find those that touch, and number the objects."""
    blocks = mask.blocks()
    part_links = {_link_name("parts", block): [block] for block in blocks}
    folder = stage.chain(f"{stage.name}, parts", _label_parts, part_links, mask)
    seam_links = {_link_name("seam", upper): [(upper, lower)] for upper, lower in pairwise(blocks)}
    stage.chain(f"{stage.name}, seams", _find_touching, seam_links, folder)
    voxels = _read_links(folder, part_links, "voxels")
    firsts = _read_links(folder, part_links, "firsts")
    pairs = [links.reshape(-1, 2) for links in _read_links(folder, seam_links, "pairs")]
    if mask.sizes:  # images of a montage, one a block, which are not connected
        pairs = [block_pairs[:0] for block_pairs in pairs]
    return join_parts(voxels, firsts, pairs, min_voxels)


def _read_links(folder: Path, links: Iterable[str], name: str) -> list[NDArray[Any]]:
    """Return an array of every link of a finished chain."""
    return [np.asarray(link_arrays(folder, link, 0)[name][...]) for link in links]


def _link_name(content: str, block: ZBlock) -> str:
    return f"{content}-{block.start}"


def _label_parts(block: ZBlock, _previous: None, mask: Volume) -> Arrays:
    """Return voxels and first voxels of the parts of a block, and its first and last slice."""
    parts = connected_parts(mask.read(block.own))
    return {
        "voxels": np.bincount(parts.reshape(-1))[1:],
        "firsts": first_voxels(parts) + block.start * parts[0].size,
        "bottom": parts[0],
        "top": parts[-1],
    }


def _find_touching(blocks: tuple[ZBlock, ZBlock], _previous: None, folder: Path) -> Arrays:
    """Return the parts of a block that touch parts of the next one."""
    upper, lower = blocks
    top = link_arrays(folder, _link_name("parts", upper), 0)["top"]
    bottom = link_arrays(folder, _link_name("parts", lower), 0)["bottom"]
    return {"pairs": touching_pairs(np.asarray(top[...]), np.asarray(bottom[...]))}


def _number_block(
    block: ZBlock, mask: Volume, path: str, small_components: list[int], numbers: Parts
) -> BlockResult:
    labels = numbers[connected_parts(mask.read(block.own))]
    return {path: labels}, {"small_components": small_components}
