"""A series of slices: one TIFF or PNG file a slice, in the order of the numbers in their names."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.display import refuse_color_tiff, tiff_display, tiff_display_notes
from sparsem.io.readers.file_names import distinct_names, natural_key
from sparsem.io.readers.file_order import SeriesOrder, series_order
from sparsem.io.readers.gaps import missing_numbers
from sparsem.io.readers.name_faults import name_fault_message
from sparsem.io.readers.png import png_slice, read_png
from sparsem.io.readers.source import UNREADABLE, WHOLE_FILE, Selection, Source, refuse_damaged_file
from sparsem.io.readers.tiff import TIFF_ENDINGS, tiff_lengths
from sparsem.io.readers.tiff_missing import refuse_unwritten
from sparsem.io.readers.units import StatedLength, axis_lengths_nm, length_faults

SLICE_FILE_ENDINGS = (*TIFF_ENDINGS, ".png")


def repeat_missing_slices(source: Source) -> Source:
    """A series in which the slice before stands in for each missing one."""
    if not isinstance(source.stack, SliceSeries):
        return source
    file_of = dict(zip(source.numbers, source.stack.files, strict=True))
    lost = missing_numbers(source.numbers)
    whole = sorted({*source.numbers, *lost})
    files: list[Path] = []
    for number in whole:
        files.append(file_of.get(number, files[-1] if files else source.stack.files[0]))
    stack = replace(source.stack, files=tuple(files), shape=(len(files), *source.stack.shape[1:]))
    repeated = tuple(map(whole.index, lost))
    return replace(
        source, stack=stack, numbers=tuple(whole), repeated=repeated, part="missing slices repeated"
    )


def open_series(
    files: Sequence[Path], where: str, pick: Selection = WHOLE_FILE, folder: str = ""
) -> Source:
    """Open a series of files as a stack.

    Files whose names give no order are in their natural order, and ``order_error`` says why.

    Args:
        files: one a slice.
        where: the source, for messages.
        pick: says whether it holds labels.
        folder: of the files, as the user wrote it.
    """
    if not files:
        raise InputError(
            f"There are no TIFF or PNG slices in {where}; other pictures, such as JPEG, are to be saved as one of these."
        )
    names = distinct_names(files)
    found = series_order(names)
    ordered = [files[index] for index in found.order]
    headers = [_slice_header(file, pick) for file in ordered]
    shape, dtype, _ = headers[0]
    for file, header in zip(ordered, headers, strict=True):
        if (header.shape, header.dtype) != (shape, dtype):
            raise InputError(
                f"All slices must be alike: {ordered[0].name} is {shape} {dtype}, but {file.name} is {header.shape} {header.dtype}."
            )
    lengths = _pixel_lengths(ordered[0])
    stack = SliceSeries(tuple(ordered), (len(ordered), *shape), dtype, pick)
    return Source(
        stack,
        axis_lengths_nm(lengths),
        tuple(ordered),
        found.numbers,
        notes=_first_notes(headers),
        voxel_faults=length_faults(lengths),
        order_error=name_fault_message(found, names, where, folder) if found.fault else "",
        order_note=_note_sentence(found, names, where),
    )


def _note_sentence(found: SeriesOrder, names: Sequence[str], where: str) -> str:
    if not found.note:
        return ""
    first, last = names[found.order[0]], names[found.order[-1]]
    return f"{where}: {found.note}, {first} to {last}."


def open_montage_images(files: Sequence[Path], where: str, pick: Selection = WHOLE_FILE) -> Source:
    """Pictures that are no stack, of any size: each is a slice, continued with black to the size of the largest.

    Raises:
        InputError: there are none, one cannot be read, or they are not of one type.
    """
    if not files:
        raise InputError(
            f"There are no TIFF or PNG pictures in {where}; other ones, such as JPEG, are to be saved as one of these."
        )
    ordered = sorted(files, key=lambda file: natural_key(file.name))
    headers = [_slice_header(file, pick) for file in ordered]
    dtype = headers[0].dtype
    for file, (_, kind, _) in zip(ordered, headers, strict=True):
        if kind != dtype:
            raise InputError(
                f"All pictures must be of one type: {ordered[0].name} is {dtype}, but {file.name} is {kind}."
            )
    twice = next(
        (
            file
            for file, after in pairwise(sorted(ordered, key=lambda file: file.stem))
            if file.stem == after.stem
        ),
        None,
    )
    if twice:
        raise InputError(
            f"Two pictures in {where} are called {twice.stem}; a picture is known by its name, so give them different ones."
        )
    sizes = tuple(header.shape for header in headers)
    height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
    lengths = _pixel_lengths(ordered[0])
    stack = SliceSeries(tuple(ordered), (len(ordered), height, width), dtype, pick)
    notes, faults = _first_notes(headers), length_faults(lengths)
    return Source(
        stack,
        axis_lengths_nm(lengths),
        tuple(ordered),
        sizes=sizes,
        notes=notes,
        voxel_faults=faults,
    )


def _pixel_lengths(file: Path) -> dict[str, StatedLength]:
    """Edges of a pixel that a slice states, by axis: a slice has no depth."""
    if file.suffix.lower() not in TIFF_ENDINGS:
        return {}
    with refuse_damaged_file(file, "TIFF"), tifffile.TiffFile(file) as tiff:
        return {axis: length for axis, length in tiff_lengths(tiff).items() if axis != "z"}
    raise AssertionError  # the context raises or the block returns


@dataclass(frozen=True)
class SliceSeries:
    """One file a slice; what is smaller than the others is continued with black."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pick: Selection = WHOLE_FILE

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        chosen = self.files[slices]
        if not chosen:
            return np.empty((0, *self.shape[1:]), self.dtype)
        out = np.zeros((len(chosen), *self.shape[1:]), self.dtype)
        for place, file in zip(out, chosen, strict=True):
            picture = _read_slice(file, self.pick)
            place[: picture.shape[0], : picture.shape[1]] = picture
        return out


class SliceHeader(NamedTuple):
    """What a file says of its slice: (y, x), dtype, and sentences about how it is read."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    notes: tuple[str, ...] = ()


def _first_notes(headers: Sequence[SliceHeader]) -> tuple[str, ...]:
    """The sentences about the first slice that has any: those about the others are the same."""
    return next((header.notes for header in headers if header.notes), ())


def _slice_header(file: Path, pick: Selection) -> SliceHeader:
    """What one file says of its slice, without decoding it."""
    try:
        if file.suffix.lower() not in TIFF_ENDINGS:
            return SliceHeader(*png_slice(file, pick.labels))
        with tifffile.TiffFile(file) as tiff:
            if len(tiff.pages) != 1:
                raise InputError(
                    f"{file.name} holds {len(tiff.pages)} pages; in a folder of slices each file is one slice."
                )
            page = tiff.pages.first
            if len(page.shape) != 2:
                refuse_color_tiff(page, file, pick.labels)
            refuse_unwritten(page, file)
            display = tiff_display(page, file, pick)
            dtype = display.dtype if display else np.dtype(page.dtype)
            return SliceHeader(
                (page.shape[0], page.shape[1]), dtype, tiff_display_notes(page, file, pick)
            )
    except UNREADABLE as error:
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None


def _read_slice(file: Path, pick: Selection) -> NDArray[Any]:
    try:
        if file.suffix.lower() not in TIFF_ENDINGS:
            return read_png(file, pick.labels)
        with tifffile.TiffFile(
            file
        ) as tiff:  # the page itself: what OME-XML says of other files is not followed
            page = tiff.pages.first
            display = tiff_display(page, file, pick)
            pixels = np.asarray(page.asarray())
    except UNREADABLE as error:
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None
    return display.read(pixels, file.name) if display else pixels
