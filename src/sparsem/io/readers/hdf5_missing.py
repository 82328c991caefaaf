"""Which parts of an HDF5 dataset hold nothing: chunks that were never written, sources of a virtual dataset that are not there.

HDF5 reads them as the fill value and reports nothing. They are found from the lists of chunks and of sources; no voxel is read.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
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
    FULL_AXIS,
    Boxes,
    ChunkGrid,
    Index,
    MissingBoxes,
    MissingParts,
    fill_number,
    missing_from_stack,
    touches_stack,
)

# What a dataset lacks, and the boxes of all parts of that kind; None where they are not counted.
Parts = list[tuple[MissingBoxes, Boxes | None]]


def missing_hdf5_parts(
    node: h5py.Dataset, path: Path, index: Index, name: str
) -> tuple[MissingParts, ...]:
    """What a stack lacks of a dataset.

    Args:
        node: the dataset.
        path: of the file that holds it.
        index: which part of the dataset the stack is.
        name: of the dataset, for messages.

    Raises:
        InputError: a filter is not installed; a source is smaller than the dataset says; raw numbers in another file are missing.
    """
    found: list[MissingParts] = []
    for part, places in _parts(node, path, name, frozenset()):
        total = None if places is None else int(touches_stack(places, index).sum())
        found += missing_from_stack(name, part, index, total)
    return tuple(found)


def _parts(node: h5py.Dataset, path: Path, name: str, seen: frozenset[tuple[str, str]]) -> Parts:
    """What a dataset lacks, in its own voxels; ``seen`` are the virtual datasets that it is a source of."""
    require_filters(node, name)
    if node.size == 0 or node.dtype.kind not in "biuf":
        return []
    if node.is_virtual:
        return _virtual_parts(node, path, name, seen)
    if node.external:
        _refuse_lost_numbers(node, path, name)
        return []
    fill = fill_number(node.fillvalue)
    if node.chunks is not None:
        return _unwritten_chunks(node, fill)
    layout = node.id.get_create_plist().get_layout()
    if layout == h5py.h5d.CONTIGUOUS and node.id.get_storage_size() == 0:
        whole = _whole(node.shape)
        return [
            (
                MissingBoxes(
                    "block",
                    whole,
                    lambda number: "all of it, which was never written",
                    fill,
                    sparse=True,
                ),
                whole,
            )
        ]
    return []


def _whole(shape: Sequence[int]) -> Boxes:
    return np.array([[(0, length) for length in shape]], np.int64)


def _unwritten_chunks(node: h5py.Dataset, fill: float) -> Parts:
    grid = ChunkGrid(node.shape, node.chunks, (FULL_AXIS,) * node.ndim)
    present = grid.empty()
    if node.id.get_num_chunks() == present.size:
        return []

    def note(chunk: Any) -> None:
        place = tuple(
            start // edge for start, edge in zip(chunk.chunk_offset, node.chunks, strict=True)
        )
        present[place] = chunk.byte_offset is not None

    node.id.chunk_iter(note)
    boxes = grid.boxes(~present)
    if not len(boxes):
        return []

    def named(number: int) -> str:
        return f"the one at {_start(boxes[number])}"

    return [
        (MissingBoxes("chunk", boxes, named, fill, sparse=True), grid.boxes(np.ones_like(present)))
    ]


def _refuse_lost_numbers(node: h5py.Dataset, path: Path, name: str) -> None:
    """Refuse a dataset whose numbers lie in other files that are missing or too short: HDF5 reads the rest as zeros."""
    wanted = int(np.prod(node.shape, dtype=np.int64)) * node.dtype.itemsize
    folder = os.environ.get("HDF5_EXTFILE_PREFIX", str(path.parent)).replace(
        "${ORIGIN}", str(path.parent)
    )
    for file_name, offset, stated in node.external:
        size = min(stated, wanted)  # the last one may be without a limit
        wanted -= size
        file = Path(folder) / file_name
        if not file.is_file():
            raise InputError(
                f"{name} keeps its voxels in {file_name}, which is not there; put it next to {path.name}."
            )
        if file.stat().st_size < offset + size:
            raise InputError(
                f"{name} keeps {size} bytes of its voxels in {file_name}, which is shorter; copy it again."
            )


def _virtual_parts(
    node: h5py.Dataset, path: Path, name: str, seen: frozenset[tuple[str, str]]
) -> Parts:
    """What a virtual dataset lacks: sources that are not there, what these lack themselves, and what no source covers."""
    own = (str(path.resolve()), str(node.name))
    if own in seen:
        raise InputError(f"{name} is a source of itself.")
    fill = fill_number(node.fillvalue)
    mappings = mappings_of(node)
    shown = np.concatenate([_whole(node.shape)[:0], *(mapping.boxes for mapping in mappings)])
    of_file: dict[str, list[VirtualMapping]] = defaultdict(list)
    for mapping in mappings:
        of_file[mapping.file].append(mapping)
    lacking = _Lacking()
    for file_name, of_one in of_file.items():
        source = source_path(file_name, path)
        if source is None:
            lacking.lost += [
                (mapping.boxes, f"{file_name}, which is not there") for mapping in of_one
            ]
            continue
        try:
            with hdf5_file(source) as file:
                _look_into(file, source, of_one, seen | {own}, lacking)
        except OSError:
            lacking.lost += [
                (mapping.boxes, f"{file_name}, which cannot be opened") for mapping in of_one
            ]
    found: Parts = [(part, None) for part in lacking.parts()]
    if lacking.lost:
        found.append((_joined("source", lacking.lost, fill, sparse=False), shown))
    free = uncovered_boxes(node.shape, shown)
    if len(free):
        found.append(
            (
                MissingBoxes(
                    "part without a source",
                    free,
                    lambda number: f"the one at {_start(free[number])}",
                    fill,
                    sparse=True,
                ),
                None,
            )
        )
    return found


@dataclass
class _Lacking:
    """What the sources of a virtual dataset lack, as boxes of that dataset, each with its name.

    Attributes:
        lost: sources that are not there.
        own: kind, fill value and sparseness of parts that the sources lack themselves.
    """

    lost: list[tuple[Boxes, str]] = field(default_factory=list)
    own: dict[tuple[str, float, bool], list[tuple[Boxes, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def parts(self) -> list[MissingBoxes]:
        """The parts that the sources lack themselves."""
        return [
            _joined(what, named, fill, sparse) for (what, fill, sparse), named in self.own.items()
        ]


def _joined(
    what: str, named: Sequence[tuple[Boxes, str]], fill: float, sparse: bool
) -> MissingBoxes:
    names = [name for boxes, name in named for _ in boxes]
    return MissingBoxes(
        what,
        np.concatenate([boxes for boxes, _ in named]),
        lambda number: names[number],
        fill,
        sparse,
    )


def _look_into(
    file: h5py.File,
    path: Path,
    mappings: Sequence[VirtualMapping],
    seen: frozenset[tuple[str, str]],
    lacking: _Lacking,
) -> None:
    """Note what the datasets of one source file lack of what is read of them."""
    parts_of: dict[str, Parts] = {}
    for mapping in mappings:
        name = f"'{mapping.key}' in {path.name}"
        source = find_dataset(file, mapping.key)
        if source is None:
            lacking.lost.append((mapping.boxes, f"{name}, which is not there"))
            continue
        _refuse_smaller(source, mapping, name)
        if mapping.key not in parts_of:
            parts_of[mapping.key] = _parts(source, path, name, seen)
        for part, _ in parts_of[mapping.key]:
            boxes = boxes_in_virtual(
                part.boxes, boxes_of(mapping.selection, source.shape), mapping.boxes
            )
            if len(boxes):
                what = part.what if part.what.endswith("source") else f"{part.what} of a source"
                lacking.own[what, part.fill, part.sparse].append(
                    (boxes, f"{part.named(0)} of {name}")
                )


def _refuse_smaller(source: h5py.Dataset, mapping: VirtualMapping, name: str) -> None:
    """Refuse a source that does not hold what is read of it: HDF5 reads the rest as the fill value."""
    selection = mapping.selection
    if selection.get_select_type() == h5py.h5s.SEL_ALL:
        wanted = int((mapping.boxes[..., 1] - mapping.boxes[..., 0]).prod(axis=1).sum())
        fits = wanted == source.size
    elif is_unlimited(selection):
        return  # it is as long as the source is
    else:
        _, last = selection.get_select_bounds()
        fits = len(last) == source.ndim and all(
            end < length for end, length in zip(last, source.shape, strict=True)
        )
    if not fits:
        raise InputError(
            f"The source {name} has the shape {source.shape}, which is not what is read of it; write it again."
        )


def _start(box: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(box[:, 0].tolist())
