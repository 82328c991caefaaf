"""How an HDF5 virtual dataset is laid out: the boxes of its selections, where its source files lie, what no source covers."""

import os
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.io.readers.missing import Boxes

MAX_CELLS = 10**8  # of the grid on which the sources of a dataset are laid out


class VirtualMapping(NamedTuple):
    """A region of a virtual dataset and what it is read from.

    Attributes:
        boxes: of the virtual dataset.
        file: name of the source file, as the dataset states it.
        key: of the dataset in it.
        selection: of that dataset.
    """

    boxes: Boxes
    file: str
    key: str
    selection: Any


def mappings_of(node: h5py.Dataset) -> list[VirtualMapping]:
    """All mappings of a virtual dataset; a pattern of names is written out."""
    found = []
    for source in node.virtual_sources():
        if "%b" not in source.file_name + source.dset_name:
            found.append(
                VirtualMapping(
                    boxes_of(source.vspace, node.shape),
                    source.file_name,
                    source.dset_name,
                    source.src_space,
                )
            )
            continue
        boxes = boxes_of(source.vspace, node.shape, joined=False)
        for number in range(
            len(boxes)
        ):  # block number n is read from the file, or the dataset, with n in its name
            file, key = (
                name.replace("%b", str(number)).replace("%%", "%")
                for name in (source.file_name, source.dset_name)
            )
            found.append(VirtualMapping(boxes[number : number + 1], file, key, source.src_space))
    return found


def boxes_of(space: Any, shape: Sequence[int], joined: bool = True) -> Boxes:
    """The boxes of a selection in an array of this shape; blocks that follow one another without a gap are one box if ``joined``."""
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_NONE:
        return np.empty((0, len(shape), 2), np.int64)
    if kind == h5py.h5s.SEL_ALL:
        return np.array([[(0, length) for length in shape]], np.int64)
    if not space.is_regular_hyperslab():
        blocks = np.asarray(
            space.get_select_hyper_blocklist(), np.int64
        )  # (n, first and last, axes)
        return np.stack([blocks[:, 0], blocks[:, 1] + 1], axis=-1)
    along = []
    for start, stride, count, block, length in zip(
        *space.get_regular_hyperslab(), shape, strict=True
    ):
        dense = stride == block and (joined or count != h5py.h5s.UNLIMITED)
        if block == h5py.h5s.UNLIMITED or (dense and count == h5py.h5s.UNLIMITED):
            spans = [(start, length)]
        elif dense:
            spans = [(start, start + count * block)]
        else:
            number = min(count, max(-(-(length - start) // stride), 0))
            spans = [
                (start + place * stride, start + place * stride + block) for place in range(number)
            ]
        along.append([(begin, min(end, length)) for begin, end in spans if begin < length])
    return np.array(list(product(*along)), np.int64).reshape(-1, len(shape), 2)


def is_unlimited(space: Any) -> bool:
    """Whether a selection goes on to the end of its dataset, however long that is."""
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return False
    _, _, counts, blocks = space.get_regular_hyperslab()
    return h5py.h5s.UNLIMITED in (*counts, *blocks)


def source_path(name: str, path: Path) -> Path | None:
    """Where HDF5 finds a source file of the dataset in ``path``: in the order of its documentation; None if nowhere."""
    if name == ".":
        return path
    stated = Path(name)
    places = [stated] if stated.is_absolute() else []
    relative = stated.name if stated.is_absolute() else name
    prefixes = os.environ.get("HDF5_VDS_PREFIX", "").replace("${ORIGIN}", str(path.parent))
    places += [Path(prefix) / relative for prefix in prefixes.split(os.pathsep) if prefix]
    places += [path.parent / relative, Path(relative).absolute(), path.resolve().parent / relative]
    return next((place for place in places if place.is_file()), None)


def uncovered_boxes(shape: Sequence[int], boxes: Boxes) -> Boxes:
    """Boxes of an array that no mapping covers."""
    edges = [
        np.unique([0, length, *boxes[:, axis].ravel().tolist()])
        for axis, length in enumerate(shape)
    ]
    cells = [len(along) - 1 for along in edges]
    if int(np.prod(cells, dtype=np.int64)) > MAX_CELLS:
        covered = int((boxes[..., 1] - boxes[..., 0]).prod(axis=1).sum())
        whole = np.array([[(0, length) for length in shape]], np.int64)
        return whole[:0] if covered >= int(np.prod(shape, dtype=np.int64)) else whole
    free = np.ones(cells, bool)
    for box in boxes:
        inside = [
            slice(*np.searchsorted(along, bounds).tolist())
            for along, bounds in zip(edges, box, strict=True)
        ]
        free[tuple(inside)] = False
    places = np.argwhere(free)
    spans = [
        np.stack([along[:-1], along[1:]], axis=-1)[places[:, axis]]
        for axis, along in enumerate(edges)
    ]
    return np.stack(spans, axis=1)


def boxes_in_virtual(missing: Boxes, source: Boxes, virtual: Boxes) -> Boxes:
    """Missing boxes of a source, as they lie in the virtual dataset.

    Args:
        missing: of the source.
        source: what is read of it.
        virtual: where that is shown, in the same order of voxels.

    Returns:
        The boxes; all that is shown of the source where the two are not laid out alike.
    """
    found: list[Boxes] = []
    alike = len(source) == len(virtual)
    for number, read in enumerate(source):
        starts = np.maximum(missing[..., 0], read[:, 0])
        stops = np.minimum(missing[..., 1], read[:, 1])
        inside = (starts < stops).all(axis=1)
        if not inside.any():
            continue
        if not alike:
            return virtual
        found.append(
            _shifted(np.stack([starts[inside], stops[inside]], axis=-1), read, virtual[number])
        )
    return np.concatenate(found) if found else virtual[:0]


def _shifted(boxes: Boxes, read: NDArray[np.int64], shown: NDArray[np.int64]) -> Boxes:
    """Boxes within ``read`` of the source, as they lie within ``shown`` of the virtual dataset."""
    read_lengths, shown_lengths = read[:, 1] - read[:, 0], shown[:, 1] - shown[:, 0]
    long_read, long_shown = np.flatnonzero(read_lengths > 1), np.flatnonzero(shown_lengths > 1)
    if not np.array_equal(read_lengths[long_read], shown_lengths[long_shown]):
        return shown[None]
    shifted = np.repeat(shown[None], len(boxes), axis=0)
    shift = shown[long_shown, 0] - read[long_read, 0]
    shifted[:, long_shown] = boxes[:, long_read] + shift[None, :, None]
    return shifted
