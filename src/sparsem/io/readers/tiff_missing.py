"""Missing parts of a TIFF, or of a set of OME-TIFF files: pages, files, strips never written.

tifffile reads them as zeros and, at most, logs it. They are found from the tables of the pages; no
voxel is read.
"""

import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.axes import FULL_AXIS, Index
from sparsem.io.readers.missing import (
    Boxes,
    ChunkGrid,
    MissingBoxes,
    MissingParts,
    box_at,
    missing_from_stack,
    touches_stack,
    whole_box,
)

FILE_NAME = re.compile(r'FileName="([^"]+)"')


def missing_pages(
    series: tifffile.TiffPageSeries, path: Path, index: Index
) -> tuple[MissingParts, ...]:
    """Return the pages, strips and tiles that a stack lacks.

    Args:
        series: of one file, or of a set of files.
        path: of the file that was opened.
        index: the position of the stack in the series.

    Raises:
        InputError: a file ends before its voxels do.
    """
    keyframe = series.keyframe
    n_page_axes = series.ndim - keyframe.ndim
    page_shape = series.shape[:n_page_axes]
    n_pages = int(np.prod(page_shape, dtype=np.int64))
    has_one_entry = series.is_truncated or len(series) != n_pages
    if has_one_entry:  # for all slices, which lie one after the other
        _refuse_short(keyframe.dataoffsets[0] + series.nbytes, keyframe, path)
        return ()
    positions = np.argwhere(np.ones(page_shape, bool)).reshape(n_pages, n_page_axes)
    in_stack = _is_in_stack(positions, index)
    pages, segments = _missing_boxes(series, positions, in_stack, path)
    n_stack_pages = int(in_stack.sum())
    segments_per_page = int(np.prod(keyframe.chunked, dtype=np.int64))
    n_segments = (n_stack_pages - len(pages)) * segments_per_page
    lacking_pages = _lacking_pages(series, pages, path)
    lacking_segments = _lacking_segments(series, segments)
    return (
        *missing_from_stack(path.name, lacking_pages, index, n_stack_pages),
        *missing_from_stack(path.name, lacking_segments, index, n_segments),
    )


def _is_in_stack(positions: NDArray[np.int64], index: Index) -> NDArray[np.bool_]:
    """Return which pages belong to a stack; positions are (pages, axes)."""
    page_boxes = np.stack([positions, positions + 1], axis=-1)
    return touches_stack(page_boxes, index[: positions.shape[1]])


def _lacking_pages(series: tifffile.TiffPageSeries, boxes: Boxes, path: Path) -> MissingBoxes:
    """Return missing pages; they are named by the file of the set that is missing, if any."""
    n_page_axes = series.ndim - series.keyframe.ndim
    missing_file = _missing_file(series.parent, path) if len(boxes) else None

    def page_name(number: int) -> str:
        return missing_file or box_at(boxes[number, :n_page_axes])

    return MissingBoxes("page", boxes, page_name, float(series.keyframe.nodata))


def _lacking_segments(series: tifffile.TiffPageSeries, boxes: Boxes) -> MissingBoxes:
    """Return strips or tiles that were not written."""
    kind = "tile" if series.keyframe.is_tiled else "strip"

    def segment_name(number: int) -> str:
        return box_at(boxes[number])

    return MissingBoxes(kind, boxes, segment_name, float(series.keyframe.nodata))


def _missing_boxes(
    series: tifffile.TiffPageSeries,
    positions: NDArray[np.int64],
    in_stack: NDArray[np.bool_],
    path: Path,
) -> tuple[Boxes, Boxes]:
    """Return the boxes of missing pages, and those of strips or tiles that were not written.

    Args:
        series: all pages.
        positions: of the pages, (pages, axes).
        in_stack: whether a page belongs to the stack, (pages,).
        path: of the file that was opened.
    """
    whole_page = whole_box(series.keyframe.shape)
    no_boxes = whole_box(series.shape)[:0]
    pages = [no_boxes]
    segments = [no_boxes]
    for position, page, is_in_stack in zip(positions, series, in_stack, strict=True):
        if not is_in_stack:
            continue
        if page is None:
            pages.append(_boxes_in_series(position, whole_page))
        else:
            segments.append(_boxes_in_series(position, unwritten_segments(page, path)))
    return np.concatenate(pages), np.concatenate(segments)


def refuse_unwritten(page: Any, path: Path) -> None:
    """Refuse a slice of a series that lacks strips or tiles, or whose file is too short.

    Raises:
        InputError: the message names the first of them.
    """
    unwritten = unwritten_segments(page, path)
    if len(unwritten):
        kind = "tiles" if page.keyframe.is_tiled else "strips"
        total = int(np.prod(page.keyframe.chunked, dtype=np.int64))
        first = box_at(unwritten[0, :2])
        raise InputError(
            f"{path.name} lacks {len(unwritten)} of {total} {kind} (the first is {first}); "
            "copy it again."
        )


def unwritten_segments(page: Any, path: Path) -> Boxes:
    """Return the strips or tiles of a page that were never written.

    They have no position in the file, or no length.

    Raises:
        InputError: the file ends before the voxels of the page do.
    """
    keyframe = page.keyframe
    grid = _segment_grid(keyframe)
    present = grid.empty()
    offsets = _filled_up(page.dataoffsets, page, present.size)
    lengths = _filled_up(page.databytecounts, page, present.size)
    is_written = (offsets > 0) & (lengths > 0)
    if is_written.any():
        ends = offsets + _needed_lengths(lengths, keyframe)
        _refuse_short(int(ends[is_written].max()), page, path)
    return grid.boxes(~is_written.reshape(present.shape))


def _filled_up(values: Any, page: Any, size: int) -> NDArray[np.int64]:
    """Return a value for every segment of a page, 0 where offset or length is not known."""
    n_known = min(size, len(page.dataoffsets), len(page.databytecounts))
    filled = np.zeros(size, np.int64)
    filled[:n_known] = values[:n_known]
    return filled


def _segment_grid(keyframe: Any) -> ChunkGrid:
    """Return the grid of the strips or tiles of a page."""
    return ChunkGrid(keyframe.shape, keyframe.chunks, (FULL_AXIS,) * keyframe.ndim)


def _needed_lengths(lengths: NDArray[np.int64], keyframe: Any) -> NDArray[np.int64]:
    """Return the bytes of each segment that are needed.

    The last strip of a page is often stated to be as long as the others.
    """
    if keyframe.compression != tifffile.COMPRESSION.NONE or keyframe.is_tiled:
        return lengths
    boxes = _segment_grid(keyframe).boxes(np.ones(keyframe.chunked, bool))
    rows = boxes[:, -2, 1] - boxes[:, -2, 0]
    bytes_per_row = -(-int(keyframe.imagewidth) * int(keyframe.bitspersample) // 8)
    return np.asarray(np.minimum(lengths, rows * bytes_per_row))


def _refuse_short(end: int, page: Any, path: Path) -> None:
    """Refuse a file that is shorter than ``end`` bytes."""
    file = page.parent.filehandle
    if file.size < end:
        name = Path(file.name).name or path.name
        raise InputError(
            f"{name} is damaged (it ends {end - file.size} bytes before its last voxel); "
            "copy it again."
        )


def _boxes_in_series(position: NDArray[np.int64], boxes: Boxes) -> Boxes:
    """Return boxes of the page at a position as boxes of its series."""
    page_box = np.stack([position, position + 1], axis=-1)
    return np.concatenate([np.repeat(page_box[None], len(boxes), axis=0), boxes], axis=1)


def _missing_file(tiff: Any, path: Path) -> str | None:
    """Return which file of a set is the first that is missing or is no TIFF, as text."""
    names = [unescape(name) for name in FILE_NAME.findall(tiff.ome_metadata or "")]
    for name in dict.fromkeys(names):
        if not (path.parent / name).is_file():
            return f"in {name}, which is not there"
        try:
            tifffile.TiffFile(path.parent / name).close()
        except (OSError, ValueError, tifffile.TiffFileError):
            return f"in {name}, which cannot be read"
    return None
