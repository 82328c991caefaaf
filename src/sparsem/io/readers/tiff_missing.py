"""Which parts of a TIFF, or of a set of OME-TIFF files, hold nothing: pages and files that are not there, strips that were not written.

tifffile reads them as zeros and, at most, logs it. They are found from the tables of the pages; no voxel is read.
"""

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.missing import (
    FULL_AXIS,
    Boxes,
    ChunkGrid,
    Index,
    MissingBoxes,
    MissingParts,
    missing_from_stack,
    touches_stack,
)

FILE_NAME = re.compile(r'FileName="([^"]+)"')


def missing_pages(
    series: tifffile.TiffPageSeries, path: Path, index: Index
) -> tuple[MissingParts, ...]:
    """What a stack lacks of a series of pages: pages that are not there, and strips or tiles that were not written.

    Args:
        series: of one file, or of a set of files.
        path: of the file that was opened.
        index: which part of the series the stack is.

    Raises:
        InputError: a file ends before its voxels do.
    """
    keyframe = series.keyframe
    before = series.shape[: series.ndim - keyframe.ndim]
    n_pages = int(np.prod(before, dtype=np.int64))
    if (
        series.is_truncated or len(series) != n_pages
    ):  # one entry for all slices, which lie one after the other
        _refuse_short(keyframe.dataoffsets[0] + series.nbytes, keyframe, path)
        return ()
    within_page = _whole(keyframe.shape)
    places = np.argwhere(np.ones(before, bool)).reshape(n_pages, len(before))
    in_stack = touches_stack(np.stack([places, places + 1], axis=-1), index[: len(before)])
    lost, unwritten = [_whole(series.shape)[:0]], [_whole(series.shape)[:0]]
    for place, page in zip(
        places[in_stack],
        (page for page, chosen in zip(series, in_stack, strict=True) if chosen),
        strict=True,
    ):
        if page is None:
            lost.append(_at(place, within_page))
        else:
            unwritten.append(_at(place, unwritten_segments(page, path)))
    pages, segments = np.concatenate(lost), np.concatenate(unwritten)
    file = _lost_file(series.parent, path) if len(pages) else None
    fill = float(keyframe.nodata)
    page_part = MissingBoxes(
        "page", pages, lambda number: file or _named(pages[number], len(before)), fill
    )
    kind = "tile" if keyframe.is_tiled else "strip"
    segment_part = MissingBoxes(
        kind, segments, lambda number: _named(segments[number], series.ndim), fill
    )
    n_segments = (int(in_stack.sum()) - len(pages)) * int(np.prod(keyframe.chunked, dtype=np.int64))
    return (
        *missing_from_stack(path.name, page_part, index, int(in_stack.sum())),
        *missing_from_stack(path.name, segment_part, index, n_segments),
    )


def refuse_unwritten(page: Any, path: Path) -> None:
    """Refuse a slice of a series of which strips or tiles were never written, or whose file is too short.

    Raises:
        InputError: the first of them is named.
    """
    unwritten = unwritten_segments(page, path)
    if len(unwritten):
        kind = "tiles" if page.keyframe.is_tiled else "strips"
        total = int(np.prod(page.keyframe.chunked, dtype=np.int64))
        raise InputError(
            f"{path.name} lacks {len(unwritten)} of {total} {kind} (the first is {_named(unwritten[0], 2)}); copy it again."
        )


def unwritten_segments(page: Any, path: Path) -> Boxes:
    """The strips or tiles of a page that were never written: they have no place in the file, or no length.

    Raises:
        InputError: the file ends before the voxels of the page do.
    """
    keyframe = page.keyframe
    grid = ChunkGrid(keyframe.shape, keyframe.chunks, (FULL_AXIS,) * keyframe.ndim)
    present = grid.empty()
    known = min(present.size, len(page.dataoffsets), len(page.databytecounts))
    offsets, lengths = np.zeros((2, present.size), np.int64)
    offsets[:known], lengths[:known] = page.dataoffsets[:known], page.databytecounts[:known]
    written = (offsets > 0) & (lengths > 0)
    if written.any():
        _refuse_short(int((offsets + _stored(lengths, keyframe))[written].max()), page, path)
    return grid.boxes(~written.reshape(present.shape))


def _stored(lengths: NDArray[np.int64], keyframe: Any) -> NDArray[np.int64]:
    """Bytes of each segment that are needed: the last strip of a page is often stated as long as the others."""
    if keyframe.compression != tifffile.COMPRESSION.NONE or keyframe.is_tiled:
        return lengths
    boxes = ChunkGrid(keyframe.shape, keyframe.chunks, (FULL_AXIS,) * keyframe.ndim).boxes(
        np.ones(keyframe.chunked, bool)
    )
    rows = boxes[:, -2, 1] - boxes[:, -2, 0]
    bytes_per_row = -(-int(keyframe.imagewidth) * int(keyframe.bitspersample) // 8)
    return np.asarray(np.minimum(lengths, rows * bytes_per_row))


def _refuse_short(end: int, page: Any, path: Path) -> None:
    file = page.parent.filehandle
    if file.size < end:
        name = Path(file.name).name or path.name
        raise InputError(
            f"{name} is damaged (it ends {end - file.size} bytes before its last voxel); copy it again."
        )


def _whole(shape: tuple[int, ...]) -> Boxes:
    return np.array([[(0, length) for length in shape]], np.int64).reshape(1, len(shape), 2)


def _at(place: NDArray[np.int64], boxes: Boxes) -> Boxes:
    """Boxes of a page as boxes of its series."""
    before = np.stack([place, place + 1], axis=-1)
    return np.concatenate([np.repeat(before[None], len(boxes), axis=0), boxes], axis=1)


def _named(box: NDArray[np.int64], axes: int) -> str:
    return f"the one at {tuple(box[:axes, 0].tolist())}"


def _lost_file(tiff: Any, path: Path) -> str | None:
    """The first file of a set that is not there, or is no TIFF; in words."""
    for name in dict.fromkeys(
        unescape(name) for name in FILE_NAME.findall(tiff.ome_metadata or "")
    ):
        if not (path.parent / name).is_file():
            return f"in {name}, which is not there"
        try:
            tifffile.TiffFile(path.parent / name).close()
        except (OSError, ValueError, tifffile.TiffFileError):
            return f"in {name}, which cannot be read"
    return None
