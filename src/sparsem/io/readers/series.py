"""Series of slices: one TIFF or PNG file a slice, in the order of the numbers in their names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.damage import UNREADABLE, refuse_damaged_file
from sparsem.io.readers.display import refuse_color_tiff, tiff_display, tiff_display_notes
from sparsem.io.readers.file_names import Number, distinct_names, natural_key
from sparsem.io.readers.file_order import SeriesOrder, series_order
from sparsem.io.readers.gaps import missing_numbers
from sparsem.io.readers.name_faults import name_fault_message
from sparsem.io.readers.png import png_slice, read_png
from sparsem.io.readers.selection import WHOLE_FILE, Selection
from sparsem.io.readers.source import Source
from sparsem.io.readers.tiff import TIFF_ENDINGS, tiff_lengths
from sparsem.io.readers.tiff_missing import refuse_unwritten
from sparsem.io.readers.units import StatedLength, axis_lengths_nm, length_faults

SLICE_FILE_ENDINGS = (*TIFF_ENDINGS, ".png")


@dataclass(frozen=True)
class SliceSeries:
    """A stack of one file a slice; slices smaller than the stack are padded with black.

    Attributes:
        files: one a slice, in order.
        shape: (z, y, x).
        dtype: of the pixels that are read.
        selection: how their numbers are read.
    """

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    selection: Selection = WHOLE_FILE

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        files = self.files[slices]
        if not files:
            return np.empty((0, *self.shape[1:]), self.dtype)
        voxels = np.zeros((len(files), *self.shape[1:]), self.dtype)
        for plane, file in zip(voxels, files, strict=True):
            image = _read_slice(file, self.selection)
            height, width = image.shape
            plane[:height, :width] = image
        return voxels


class SliceHeader(NamedTuple):
    """Shape (y, x) and dtype of one slice, and sentences about how it is read."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()


def open_series(
    files: Sequence[Path], where: str, selection: Selection = WHOLE_FILE, folder: str = ""
) -> Source:
    """Open a series of files as a stack.

    Files whose names give no order are in their natural order, and ``order_error`` says why.

    Args:
        files: one a slice.
        where: the source, for messages.
        selection: how the numbers are read.
        folder: of the files, as the user wrote it.

    Raises:
        InputError: there are no files, one cannot be read, or they differ in shape or type.
    """
    if not files:
        raise InputError(
            f"There are no TIFF or PNG slices in {where}; "
            "save images of other formats, such as JPEG, as one of these."
        )
    names = distinct_names(files)
    order = series_order(names)
    ordered = tuple(files[index] for index in order.order)
    headers = [_slice_header(file, selection) for file in ordered]
    _refuse_unequal(ordered, headers)
    shape, dtype, _ = headers[0]
    lengths = _pixel_lengths(ordered[0])
    fault = name_fault_message(order, names, where, folder) if order.fault else ""
    return Source(
        SliceSeries(ordered, (len(ordered), *shape), dtype, selection),
        axis_lengths_nm(lengths),
        ordered,
        order.numbers,
        notes=_first_notes(headers),
        voxel_faults=length_faults(lengths),
        order_error=fault,
        order_note=_order_note(order, names, where),
    )


def _refuse_unequal(files: Sequence[Path], headers: Sequence[SliceHeader]) -> None:
    """Raise an InputError if the slices of a stack differ in shape or type."""
    shape, dtype, _ = headers[0]
    for file, header in zip(files, headers, strict=True):
        if (header.shape, header.dtype) != (shape, dtype):
            raise InputError(
                f"All slices must have one shape and type: {files[0].name} is {shape} {dtype}, "
                f"but {file.name} is {header.shape} {header.dtype}."
            )


def _order_note(order: SeriesOrder, names: Sequence[str], where: str) -> str:
    """Return the sentence about how names were interpreted; empty if it is not needed."""
    if not order.note:
        return ""
    first = names[order.order[0]]
    last = names[order.order[-1]]
    return f"{where}: {order.note}, {first} to {last}."


def open_montage_images(
    files: Sequence[Path], where: str, selection: Selection = WHOLE_FILE
) -> Source:
    """Open images that form no stack, of any size; each is padded with black to the largest.

    Args:
        files: one an image.
        where: the source, for messages.
        selection: how the numbers are read.

    Raises:
        InputError: there are no files, one cannot be read, they are not of one type, or two have
            the same name.
    """
    if not files:
        raise InputError(
            f"There are no TIFF or PNG images in {where}; "
            "save images of other formats, such as JPEG, as one of these."
        )
    ordered = tuple(sorted(files, key=lambda file: natural_key(file.name)))
    headers = [_slice_header(file, selection) for file in ordered]
    _refuse_other_types(ordered, headers)
    _refuse_same_stem(ordered, where)
    sizes = tuple(header.shape for header in headers)
    height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
    lengths = _pixel_lengths(ordered[0])
    stack = SliceSeries(ordered, (len(ordered), height, width), headers[0].dtype, selection)
    return Source(
        stack,
        axis_lengths_nm(lengths),
        ordered,
        sizes=sizes,
        notes=_first_notes(headers),
        voxel_faults=length_faults(lengths),
    )


def _refuse_other_types(files: Sequence[Path], headers: Sequence[SliceHeader]) -> None:
    """Raise an InputError if the images of a montage are not of one type."""
    dtype = headers[0].dtype
    for file, header in zip(files, headers, strict=True):
        if header.dtype != dtype:
            raise InputError(
                f"All images must be of one type: {files[0].name} is {dtype}, "
                f"but {file.name} is {header.dtype}."
            )


def _refuse_same_stem(files: Sequence[Path], where: str) -> None:
    """Refuse two images whose names differ in the ending only."""
    by_stem = sorted(files, key=lambda file: file.stem)
    for file, next_file in pairwise(by_stem):
        if file.stem == next_file.stem:
            raise InputError(
                f"Two images in {where} are called {file.stem}; "
                "images are identified by name, so give them different ones."
            )


def repeat_missing_slices(source: Source) -> Source:
    """Return a series in which a copy of the slice before replaces each missing one."""
    if not isinstance(source.stack, SliceSeries):
        return source
    missing = missing_numbers(source.numbers)
    numbers = tuple(sorted({*source.numbers, *missing}))
    files = _files_with_copies(source.numbers, source.stack.files, numbers)
    stack = replace(source.stack, files=files, shape=(len(files), *source.stack.shape[1:]))
    return replace(
        source,
        stack=stack,
        numbers=numbers,
        repeated=tuple(map(numbers.index, missing)),
        part="missing slices repeated",
    )


def _files_with_copies(
    present: Sequence[Number], files: Sequence[Path], numbers: Sequence[Number]
) -> tuple[Path, ...]:
    """Return the file of every number; of a missing one that of the slice before."""
    file_of_number = dict(zip(present, files, strict=True))
    complete: list[Path] = []
    for number in numbers:
        previous = complete[-1] if complete else files[0]
        complete.append(file_of_number.get(number, previous))
    return tuple(complete)


def _pixel_lengths(file: Path) -> dict[str, StatedLength]:
    """Return the edges of a pixel that a slice states, by axis: a slice has no depth."""
    if file.suffix.lower() not in TIFF_ENDINGS:
        return {}
    with refuse_damaged_file(file, "TIFF"), tifffile.TiffFile(file) as tiff:
        lengths = tiff_lengths(tiff)
    return {axis: length for axis, length in lengths.items() if axis != "z"}


def _first_notes(headers: Sequence[SliceHeader]) -> tuple[str, ...]:
    """Return the sentences about the first slice that has any; those of the others are equal."""
    return next((header.notes for header in headers if header.notes), ())


def _slice_header(file: Path, selection: Selection) -> SliceHeader:
    """Return what one file states about its slice, without decoding it."""
    try:
        if file.suffix.lower() not in TIFF_ENDINGS:
            return SliceHeader(*png_slice(file, selection.labels))
        return _tiff_slice_header(file, selection)
    except UNREADABLE as error:
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None


def _tiff_slice_header(file: Path, selection: Selection) -> SliceHeader:
    with tifffile.TiffFile(file) as tiff:
        if len(tiff.pages) != 1:
            raise InputError(
                f"{file.name} holds {len(tiff.pages)} pages; "
                "in a folder of slices each file is one slice."
            )
        page = tiff.pages.first
        if len(page.shape) != 2:
            refuse_color_tiff(page, file, selection.labels)
        refuse_unwritten(page, file)
        display = tiff_display(page, file, selection)
        dtype = display.dtype if display else np.dtype(page.dtype)
        notes = tiff_display_notes(page, file, selection)
        return SliceHeader((page.shape[0], page.shape[1]), dtype, notes)


def _read_slice(file: Path, selection: Selection) -> NDArray[Any]:
    """Return the pixels (y, x) of one file."""
    try:
        if file.suffix.lower() not in TIFF_ENDINGS:
            return read_png(file, selection.labels)
        # The page itself is read: references of its OME-XML to other files are not followed.
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages.first
            display = tiff_display(page, file, selection)
            pixels = np.asarray(page.asarray())
    except UNREADABLE as error:
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None
    return display.read(pixels, file.name) if display else pixels
