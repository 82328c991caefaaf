"""The layout of an HDF5 virtual dataset: selected boxes, source files, and uncovered boxes."""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.io.readers.missing import Boxes, whole_box

MAX_CELLS = 10**8  # of the grid on which the sources of a dataset are laid out


class VirtualMapping(NamedTuple):
    """A region of a virtual dataset and the source that it is read from.

    Attributes:
        boxes: of the virtual dataset.
        file: name of the source file, as the dataset states it.
        key: of the dataset in the source file.
        selection: the part of that dataset that is read.
    """

    boxes: Boxes
    file: str
    key: str
    selection: Any


def mappings_of(node: h5py.Dataset) -> list[VirtualMapping]:
    """Return all mappings of a virtual dataset; a pattern of names is expanded."""
    mappings = []
    for source in node.virtual_sources():
        if "%b" in source.file_name + source.dset_name:
            mappings += _expand_pattern(source, node.shape)
            continue
        boxes = boxes_of(source.vspace, node.shape)
        mappings.append(VirtualMapping(boxes, source.file_name, source.dset_name, source.src_space))
    return mappings


def _expand_pattern(source: Any, shape: Sequence[int]) -> list[VirtualMapping]:
    """Return one mapping for each block of a mapping whose names hold the number of the block.

    Block number n is read from the file, or the dataset, with n in its name.
    """
    mappings = []
    boxes = boxes_of(source.vspace, shape, merged=False)
    for number in range(len(boxes)):
        file = _insert_block_number(source.file_name, number)
        key = _insert_block_number(source.dset_name, number)
        mappings.append(VirtualMapping(boxes[number : number + 1], file, key, source.src_space))
    return mappings


def _insert_block_number(name: str, number: int) -> str:
    return name.replace("%b", str(number)).replace("%%", "%")


def boxes_of(space: Any, shape: Sequence[int], merged: bool = True) -> Boxes:
    """Return the boxes of a selection in an array of this shape.

    Args:
        space: the selection.
        shape: of the array.
        merged: return blocks that follow one another without a gap as one box.
    """
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_NONE:
        return np.empty((0, len(shape), 2), np.int64)
    if kind == h5py.h5s.SEL_ALL:
        return whole_box(shape)
    if not space.is_regular_hyperslab():
        corners = np.asarray(space.get_select_hyper_blocklist(), np.int64)  # (n, first/last, axes)
        return np.stack([corners[:, 0], corners[:, 1] + 1], axis=-1)
    return _boxes_of_hyperslab(space, shape, merged)


def _boxes_of_hyperslab(space: Any, shape: Sequence[int], merged: bool) -> Boxes:
    """Return the boxes of a regular selection: all combinations of its spans along the axes."""
    starts, strides, counts, blocks = space.get_regular_hyperslab()
    axes = zip(starts, strides, counts, blocks, shape, strict=True)
    spans_of_axes = [_spans_along(*axis, merged) for axis in axes]
    return np.array(list(product(*spans_of_axes)), np.int64).reshape(-1, len(shape), 2)


def _spans_along(
    start: int, stride: int, count: int, block: int, length: int, merged: bool
) -> list[tuple[int, int]]:
    """Return the spans (start, stop) of a regular selection along one axis.

    Args:
        start: of the first block.
        stride: from a block to the next.
        count: number of blocks, or unlimited.
        block: length of a block, or unlimited.
        length: of the axis.
        merged: return blocks that follow one another without a gap as one span.
    """
    is_endless = count == h5py.h5s.UNLIMITED
    is_dense = stride == block and (merged or not is_endless)
    if block == h5py.h5s.UNLIMITED or (is_dense and is_endless):
        spans = [(start, length)]
    elif is_dense:
        spans = [(start, start + count * block)]
    else:
        n_fitting = max(-(-(length - start) // stride), 0)
        starts = [start + number * stride for number in range(min(count, n_fitting))]
        spans = [(block_start, block_start + block) for block_start in starts]
    return [(first, min(last, length)) for first, last in spans if first < length]


def is_unlimited(space: Any) -> bool:
    """Return whether a selection extends to the end of its dataset, however long that is."""
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return False
    _, _, counts, blocks = space.get_regular_hyperslab()
    return h5py.h5s.UNLIMITED in (*counts, *blocks)


def source_path(name: str, path: Path) -> Path | None:
    """Return where HDF5 finds a source file of the dataset in ``path``; None if nowhere.

    The folders are searched in the order of the HDF5 documentation.
    """
    if name == ".":
        return path
    stated = Path(name)
    candidates = []
    relative = name
    if stated.is_absolute():
        candidates.append(stated)
        relative = stated.name
    prefixes = os.environ.get("HDF5_VDS_PREFIX", "").replace("${ORIGIN}", str(path.parent))
    candidates += [Path(prefix) / relative for prefix in prefixes.split(os.pathsep) if prefix]
    candidates += [
        path.parent / relative,
        Path(relative).absolute(),
        path.resolve().parent / relative,
    ]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def uncovered_boxes(shape: Sequence[int], boxes: Boxes) -> Boxes:
    """Return boxes of an array that no mapping covers.

    Args:
        shape: of the array.
        boxes: of all mappings. Their edges cut the array into cells.
    """
    edges = [
        np.unique([0, length, *boxes[:, axis].ravel().tolist()])
        for axis, length in enumerate(shape)
    ]
    n_cells = [len(axis_edges) - 1 for axis_edges in edges]
    if int(np.prod(n_cells, dtype=np.int64)) > MAX_CELLS:
        return _uncovered_by_count(shape, boxes)
    cells = np.argwhere(_is_free_cell(edges, boxes))
    spans = []
    for axis, axis_edges in enumerate(edges):
        axis_spans = np.stack([axis_edges[:-1], axis_edges[1:]], axis=-1)
        spans.append(axis_spans[cells[:, axis]])
    return np.stack(spans, axis=1)


def _is_free_cell(edges: Sequence[NDArray[np.int64]], boxes: Boxes) -> NDArray[np.bool_]:
    """Return which cells between the edges no box covers."""
    is_free = np.ones([len(axis_edges) - 1 for axis_edges in edges], bool)
    for box in boxes:
        inside = []
        for axis_edges, bounds in zip(edges, box, strict=True):
            inside.append(slice(*np.searchsorted(axis_edges, bounds).tolist()))
        is_free[tuple(inside)] = False
    return is_free


def _uncovered_by_count(shape: Sequence[int], boxes: Boxes) -> Boxes:
    """Return the whole array if boxes have fewer voxels than it, else no box."""
    covered = int((boxes[..., 1] - boxes[..., 0]).prod(axis=1).sum())
    whole = whole_box(shape)
    return whole[:0] if covered >= int(np.prod(shape, dtype=np.int64)) else whole


def boxes_in_virtual(missing: Boxes, source: Boxes, virtual: Boxes) -> Boxes:
    """Return missing boxes of a source, as they lie in the virtual dataset.

    Args:
        missing: of the source.
        source: boxes of the source that are read.
        virtual: boxes of the virtual dataset that show them, in the same order of voxels.

    Returns:
        The boxes; all of ``virtual`` if the two have different layouts.
    """
    shifted: list[Boxes] = []
    same_layout = len(source) == len(virtual)
    for number, source_box in enumerate(source):
        boxes = _boxes_within(source_box, missing)
        if not len(boxes):
            continue
        if not same_layout:
            return virtual
        shifted.append(_shift_boxes(boxes, source_box, virtual[number]))
    return np.concatenate(shifted) if shifted else virtual[:0]


def _boxes_within(box: NDArray[np.int64], boxes: Boxes) -> Boxes:
    """Return the parts of boxes that lie within a box; those outside are left out."""
    starts = np.maximum(boxes[..., 0], box[:, 0])
    stops = np.minimum(boxes[..., 1], box[:, 1])
    overlaps = (starts < stops).all(axis=1)
    return np.stack([starts[overlaps], stops[overlaps]], axis=-1)


def _shift_boxes(
    boxes: Boxes, source_box: NDArray[np.int64], virtual_box: NDArray[np.int64]
) -> Boxes:
    """Return boxes within ``source_box``, as they lie within ``virtual_box``.

    Axes of length one may be added or left out; if the others differ, this is all of
    ``virtual_box``.
    """
    source_lengths = source_box[:, 1] - source_box[:, 0]
    virtual_lengths = virtual_box[:, 1] - virtual_box[:, 0]
    source_axes = np.flatnonzero(source_lengths > 1)
    virtual_axes = np.flatnonzero(virtual_lengths > 1)
    if not np.array_equal(source_lengths[source_axes], virtual_lengths[virtual_axes]):
        return virtual_box[None]
    shifted = np.repeat(virtual_box[None], len(boxes), axis=0)
    shift = virtual_box[virtual_axes, 0] - source_box[source_axes, 0]
    shifted[:, virtual_axes] = boxes[:, source_axes] + shift[None, :, None]
    return shifted
