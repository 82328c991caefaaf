"""Missing parts of an HDF5 dataset: chunks never written, and missing sources of a virtual one.

HDF5 reads them as the fill value and reports nothing. They are found from the lists of chunks and
of sources; no voxel is read.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from sparsem.errors import InputError
from sparsem.io.readers.axes import FULL_AXIS, Index
from sparsem.io.readers.hdf5_files import find_dataset, hdf5_file, require_filters
from sparsem.io.readers.hdf5_virtual import (
    VirtualMapping,
    boxes_in_virtual,
    boxes_of,
    is_unlimited,
    mappings_of,
    source_path,
    uncovered_boxes,
)
from sparsem.io.readers.missing import (
    Boxes,
    ChunkGrid,
    MissingBoxes,
    MissingParts,
    box_at,
    fill_number,
    missing_from_stack,
    touches_stack,
    whole_box,
)

# What a dataset lacks, and the boxes of all parts of that kind; None where they are not counted.
Lacking = list[tuple[MissingBoxes, Boxes | None]]

# Virtual datasets by path and key: those that a dataset is a source of, to notice cycles.
Ancestors = frozenset[tuple[str, str]]


def missing_hdf5_parts(
    node: h5py.Dataset, path: Path, index: Index, name: str
) -> tuple[MissingParts, ...]:
    """Return the parts of a dataset that a stack lacks.

    Args:
        node: the dataset.
        path: of the file that holds it.
        index: the position of the stack in the dataset.
        name: of the dataset, for messages.

    Raises:
        InputError: a filter is not installed; a source is smaller than the dataset says; raw
            numbers in another file are missing.
    """
    missing: list[MissingParts] = []
    for lacking, all_boxes in _lacking_of(node, path, name, frozenset()):
        total = None
        if all_boxes is not None:
            total = int(touches_stack(all_boxes, index).sum())
        missing += missing_from_stack(name, lacking, index, total)
    return tuple(missing)


def _lacking_of(node: h5py.Dataset, path: Path, name: str, ancestors: Ancestors) -> Lacking:
    """Return what a dataset lacks, in its own voxels."""
    require_filters(node, name)
    if node.size == 0 or node.dtype.kind not in "biuf":
        return []
    if node.is_virtual:
        return _lacking_of_virtual(node, path, name, ancestors)
    if node.external:
        _refuse_missing_external(node, path, name)
        return []
    if node.chunks is not None:
        return _unwritten_chunks(node)
    return _unwritten_block(node)


def _unwritten_chunks(node: h5py.Dataset) -> Lacking:
    """Return the chunks of a dataset that were never written."""
    grid = ChunkGrid(node.shape, node.chunks, (FULL_AXIS,) * node.ndim)
    present = grid.empty()
    if node.id.get_num_chunks() == present.size:
        return []

    def mark_present(chunk: Any) -> None:
        offsets = zip(chunk.chunk_offset, node.chunks, strict=True)
        position = tuple(offset // edge for offset, edge in offsets)
        present[position] = chunk.byte_offset is not None

    node.id.chunk_iter(mark_present)
    boxes = grid.boxes(~present)
    if not len(boxes):
        return []
    lacking = _lacking_at("chunk", boxes, fill_number(node.fillvalue))
    all_boxes = grid.boxes(np.ones_like(present))
    return [(lacking, all_boxes)]


def _unwritten_block(node: h5py.Dataset) -> Lacking:
    """Return all of a dataset without chunks if it was never written."""
    layout = node.id.get_create_plist().get_layout()
    if layout != h5py.h5d.CONTIGUOUS or node.id.get_storage_size() != 0:
        return []

    def block_name(number: int) -> str:
        return "all of it, which was never written"

    whole = whole_box(node.shape)
    lacking = MissingBoxes("block", whole, block_name, fill_number(node.fillvalue), sparse=True)
    return [(lacking, whole)]


def _refuse_missing_external(node: h5py.Dataset, path: Path, name: str) -> None:
    """Refuse a dataset whose numbers lie in other files that are missing or too short.

    HDF5 reads the rest as zeros.
    """
    n_bytes_left = int(np.prod(node.shape, dtype=np.int64)) * node.dtype.itemsize
    prefix = os.environ.get("HDF5_EXTFILE_PREFIX", str(path.parent))
    folder = prefix.replace("${ORIGIN}", str(path.parent))
    for file_name, offset, stated_size in node.external:
        size = min(stated_size, n_bytes_left)  # the last one may be without a limit
        n_bytes_left -= size
        file = Path(folder) / file_name
        if not file.is_file():
            raise InputError(
                f"{name} keeps its voxels in {file_name}, which is not there; "
                f"put it next to {path.name}."
            )
        if file.stat().st_size < offset + size:
            raise InputError(
                f"{name} keeps {size} bytes of its voxels in {file_name}, which is shorter; "
                "copy it again."
            )


def _lacking_of_virtual(node: h5py.Dataset, path: Path, name: str, ancestors: Ancestors) -> Lacking:
    """Return what a virtual dataset lacks.

    These are missing sources, the parts that sources lack themselves, and what no source covers.
    """
    identity = (str(path.resolve()), str(node.name))
    if identity in ancestors:
        raise InputError(f"{name} is a source of itself.")
    fill = fill_number(node.fillvalue)
    mappings = mappings_of(node)
    no_boxes = whole_box(node.shape)[:0]
    source_boxes = np.concatenate([no_boxes, *(mapping.boxes for mapping in mappings)])
    gaps = _gaps_of_sources(mappings, path, ancestors | {identity})
    lacking: Lacking = [(parts, None) for parts in gaps.parts_of_sources()]
    if gaps.missing_sources:
        sources = _merge_boxes("source", gaps.missing_sources, fill, sparse=False)
        lacking.append((sources, source_boxes))
    free = uncovered_boxes(node.shape, source_boxes)
    if len(free):
        lacking.append((_lacking_at("part without a source", free, fill), None))
    return lacking


def _lacking_at(what: str, boxes: Boxes, fill: float) -> MissingBoxes:
    """Return parts that programs leave out, each named by its position."""

    def name_at(number: int) -> str:
        return box_at(boxes[number])

    return MissingBoxes(what, boxes, name_at, fill, sparse=True)


@dataclass
class _SourceGaps:
    """Gaps of the sources of a virtual dataset, as boxes of that dataset, each with its name.

    Attributes:
        missing_sources: sources that are missing.
        in_sources: parts that sources lack themselves, by kind, fill value and sparseness.
    """

    missing_sources: list[tuple[Boxes, str]] = field(default_factory=list)
    in_sources: dict[tuple[str, float, bool], list[tuple[Boxes, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def parts_of_sources(self) -> list[MissingBoxes]:
        """Return the parts that the sources lack themselves."""
        return [
            _merge_boxes(what, named_boxes, fill, sparse)
            for (what, fill, sparse), named_boxes in self.in_sources.items()
        ]


def _gaps_of_sources(
    mappings: Sequence[VirtualMapping], path: Path, ancestors: Ancestors
) -> _SourceGaps:
    """Return the sources that are missing, and what the others lack."""
    gaps = _SourceGaps()
    for file_name, file_mappings in _group_by_file(mappings).items():
        _check_source_file(file_name, file_mappings, path, ancestors, gaps)
    return gaps


def _merge_boxes(
    what: str, named_boxes: Sequence[tuple[Boxes, str]], fill: float, sparse: bool
) -> MissingBoxes:
    """Return boxes of several names as one kind of missing part."""
    names = [name for boxes, name in named_boxes for _ in boxes]
    merged = np.concatenate([boxes for boxes, _ in named_boxes])
    return MissingBoxes(what, merged, names.__getitem__, fill, sparse)


def _group_by_file(mappings: Sequence[VirtualMapping]) -> dict[str, list[VirtualMapping]]:
    by_file: dict[str, list[VirtualMapping]] = defaultdict(list)
    for mapping in mappings:
        by_file[mapping.file].append(mapping)
    return by_file


def _check_source_file(
    file_name: str,
    mappings: Sequence[VirtualMapping],
    path: Path,
    ancestors: Ancestors,
    gaps: _SourceGaps,
) -> None:
    """Add the gaps of one source file to ``gaps``.

    Args:
        file_name: as the virtual dataset states it.
        mappings: of that file.
        path: of the file that holds the virtual dataset.
        ancestors: the virtual dataset and those that it is a source of.
        gaps: of the virtual dataset.
    """
    source = source_path(file_name, path)
    if source is None:
        gap = f"{file_name}, which is not there"
        gaps.missing_sources += [(mapping.boxes, gap) for mapping in mappings]
        return
    try:
        with hdf5_file(source) as file:
            _check_source_datasets(file, source, mappings, ancestors, gaps)
    except OSError:
        gap = f"{file_name}, which cannot be opened"
        gaps.missing_sources += [(mapping.boxes, gap) for mapping in mappings]


def _check_source_datasets(
    file: h5py.File,
    path: Path,
    mappings: Sequence[VirtualMapping],
    ancestors: Ancestors,
    gaps: _SourceGaps,
) -> None:
    """Add to ``gaps`` what the datasets of one source file lack of the parts that are read."""
    lacking_by_key: dict[str, Lacking] = {}
    for mapping in mappings:
        name = f"'{mapping.key}' in {path.name}"
        source = find_dataset(file, mapping.key)
        if source is None:
            gaps.missing_sources.append((mapping.boxes, f"{name}, which is not there"))
            continue
        _refuse_smaller(source, mapping, name)
        if mapping.key not in lacking_by_key:
            lacking_by_key[mapping.key] = _lacking_of(source, path, name, ancestors)
        read_boxes = boxes_of(mapping.selection, source.shape)
        for parts, _ in lacking_by_key[mapping.key]:
            boxes = boxes_in_virtual(parts.boxes, read_boxes, mapping.boxes)
            if len(boxes):
                _add_source_gap(parts, boxes, name, gaps)


def _add_source_gap(parts: MissingBoxes, boxes: Boxes, name: str, gaps: _SourceGaps) -> None:
    """Add the boxes that parts missing in a source have in the virtual dataset."""
    what = parts.what
    if not what.endswith("source"):
        what = f"{what} of a source"
    gap = f"{parts.box_name(0)} of {name}"
    gaps.in_sources[what, parts.fill, parts.sparse].append((boxes, gap))


def _refuse_smaller(source: h5py.Dataset, mapping: VirtualMapping, name: str) -> None:
    """Refuse a source that is smaller than the part that is read of it.

    HDF5 reads the rest as the fill value.
    """
    selection = mapping.selection
    if selection.get_select_type() == h5py.h5s.SEL_ALL:
        n_voxels = int((mapping.boxes[..., 1] - mapping.boxes[..., 0]).prod(axis=1).sum())
        fits = n_voxels == source.size
    elif is_unlimited(selection):
        return  # it is as long as the source is
    else:
        _, last = selection.get_select_bounds()
        fits = len(last) == source.ndim and all(
            end < length for end, length in zip(last, source.shape, strict=True)
        )
    if not fits:
        raise InputError(
            f"The source {name} has the shape {source.shape}, which is not what is read of it; "
            "write it again."
        )
