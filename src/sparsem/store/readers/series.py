"""A series of slices: one TIFF or PNG file a slice, in the natural order of their names."""

import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from sparsem.errors import InputError
from sparsem.store.readers.source import UNREADABLE, Axes, Source
from sparsem.store.readers.tiff import TIFF_ENDINGS, refuse_inverted, tiff_voxel
from sparsem.store.readers.tiff_parts import refuse_unwritten

PICTURE_ENDINGS = (*TIFF_ENDINGS, ".png")
MOST_GAPS = 20  # for each slice that is there: numbers with more count something else, such as the time
SLICE_MARK = re.compile(r"(?:z|slice)[ _-]?$", re.IGNORECASE)  # before a number that is a slice's


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorting key by which ``s2`` comes before ``s10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def numberings(names: Sequence[str]) -> list[tuple[int, ...]]:
    """What may be the slice number in each file's name: the numbers that differ from file to file; only those after z or slice, if any are.

    Of a single file it is the number after z or slice, or the only one. Empty where that tells nothing, or the names are not alike.
    """
    found = [re.findall(r"(\D*)(\d+)", Path(name).stem) for name in names]
    if not found or len({len(parts) for parts in found}) > 1:
        return []
    columns = [(tuple(int(number) for _, number in column), [text for text, _ in column]) for column in zip(*found, strict=True)]
    different = [(numbers, before) for numbers, before in columns if len(set(numbers)) == len(names)]
    of_slices = [numbers for numbers, before in different if all(SLICE_MARK.search(text) for text in before)]
    told = of_slices or [numbers for numbers, _ in different]
    return told if len(names) > 1 or len(told) == 1 else []


def numbers_in(names: Sequence[str]) -> tuple[int, ...]:
    """The number of each slice of a series in its file's name: of several that may be (see ``numberings``) the last that counts slices.

    One with far more gaps than files counts something else, such as the time. Empty where names tell nothing.
    """
    told = numberings(names)
    return ([numbers for numbers in told if _counts_slices(numbers)] or told or [()])[-1]


def missing_in(numbers: Sequence[int]) -> list[int]:
    """Numbers that a series of slices lacks; one that counts in tens lacks nothing.

    Of numbers that do not count slices nothing is known.
    """
    if not numbers or not _counts_slices(numbers):
        return []
    return sorted(set(range(min(numbers), max(numbers), _step(numbers))) - set(numbers))


def _counts_slices(numbers: Sequence[int]) -> bool:
    """Whether a series lacks no more numbers than slices may be lost."""
    return (max(numbers) - min(numbers)) // _step(numbers) + 1 - len(numbers) <= MOST_GAPS * len(numbers)


def _step(numbers: Sequence[int]) -> int:
    """What a series counts in: ones, tens."""
    return math.gcd(*(after - before for before, after in pairwise(sorted(numbers)))) or 1


def with_repeats(source: Source) -> Source:
    """A series in which the slice before stands in for each missing one."""
    if not isinstance(source.stack, SliceSeries):
        return source
    file_of = dict(zip(source.numbers, source.stack.files, strict=True))
    lost = missing_in(source.numbers)
    whole = sorted({*source.numbers, *lost})
    files: list[Path] = []
    for number in whole:
        files.append(file_of.get(number, files[-1] if files else source.stack.files[0]))
    stack = SliceSeries(tuple(files), (len(files), *source.stack.shape[1:]), source.stack.dtype)
    repeated = tuple(map(whole.index, lost))
    return replace(source, stack=stack, numbers=tuple(whole), repeated=repeated, part="missing slices repeated")


def open_slices(files: Sequence[Path], where: str) -> Source:
    """A series of files as a stack; ``where`` names it in messages."""
    if not files:
        raise InputError(f"There are no TIFF or PNG slices in {where}; other pictures, such as JPEG, are to be saved as one of these.")
    ordered = sorted(files, key=lambda file: natural_key(file.name))
    headers = [_slice_header(file) for file in ordered]
    for file, header in zip(ordered, headers, strict=True):
        if header != headers[0]:
            shape, dtype = header
            raise InputError(
                f"All slices must be alike: {ordered[0].name} is {headers[0][0]} {headers[0][1]}, but {file.name} is {shape} {dtype}."
            )
    shape, dtype = headers[0]
    voxel: Axes = (None, None, None)
    if ordered[0].suffix.lower() in TIFF_ENDINGS:
        with tifffile.TiffFile(ordered[0]) as tiff:
            voxel = (None, *tiff_voxel(tiff)[1:])
    stack = SliceSeries(tuple(ordered), (len(ordered), *shape), dtype)
    return Source(stack, voxel, tuple(ordered), numbers_in([file.name for file in ordered]))


def open_pictures(files: Sequence[Path], where: str) -> Source:
    """Pictures that are no stack, of any size: each is a slice, continued with black to the size of the largest.

    Raises:
        InputError: there are none, one cannot be read, or they are not of one type.
    """
    if not files:
        raise InputError(f"There are no TIFF or PNG pictures in {where}; other ones, such as JPEG, are to be saved as one of these.")
    ordered = sorted(files, key=lambda file: natural_key(file.name))
    headers = [_slice_header(file) for file in ordered]
    dtype = headers[0][1]
    for file, (_, kind) in zip(ordered, headers, strict=True):
        if kind != dtype:
            raise InputError(f"All pictures must be of one type: {ordered[0].name} is {dtype}, but {file.name} is {kind}.")
    twice = next((file for file, after in pairwise(sorted(ordered, key=lambda file: file.stem)) if file.stem == after.stem), None)
    if twice:
        raise InputError(f"Two pictures in {where} are called {twice.stem}; a picture is known by its name, so give them different ones.")
    sizes = tuple(shape for shape, _ in headers)
    height, width = (max(lengths) for lengths in zip(*sizes, strict=True))
    voxel: Axes = (None, None, None)
    if ordered[0].suffix.lower() in TIFF_ENDINGS:
        with tifffile.TiffFile(ordered[0]) as tiff:
            voxel = (None, *tiff_voxel(tiff)[1:])
    return Source(SliceSeries(tuple(ordered), (len(ordered), height, width), dtype), voxel, tuple(ordered), sizes=sizes)


@dataclass(frozen=True)
class SliceSeries:
    """One file a slice; what is smaller than the others is continued with black."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        chosen = self.files[slices]
        if not chosen:
            return np.empty((0, *self.shape[1:]), self.dtype)
        out = np.zeros((len(chosen), *self.shape[1:]), self.dtype)
        for place, file in zip(out, chosen, strict=True):
            picture = _read_slice(file)
            place[: picture.shape[0], : picture.shape[1]] = picture
        return out


def _slice_header(file: Path) -> tuple[tuple[int, int], np.dtype[Any]]:
    """(y, x) and dtype of one slice, without decoding it."""
    try:
        if file.suffix.lower() in TIFF_ENDINGS:
            with tifffile.TiffFile(file) as tiff:
                if len(tiff.pages) != 1:
                    raise InputError(f"{file.name} holds {len(tiff.pages)} pages; in a folder of slices each file is one slice.")
                page = tiff.pages.first
                refuse_inverted(page, file)
                refuse_unwritten(page, file)
                shape, dtype = page.shape, np.dtype(page.dtype)
        else:
            with Image.open(file) as picture:
                bands = len(picture.getbands()) if picture.mode != "P" else 3
                shape = (picture.height, picture.width) + ((bands,) if bands > 1 else ())
                dtype = np.dtype(np.uint16 if picture.mode.startswith("I") else np.uint8)
    except UNREADABLE as error:
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None
    if len(shape) != 2:
        raise InputError(f"{file.name} is a colour picture {shape}; convert it to grey first.")
    return (shape[0], shape[1]), dtype


def _read_slice(file: Path) -> NDArray[Any]:
    try:
        if file.suffix.lower() in TIFF_ENDINGS:
            with tifffile.TiffFile(file) as tiff:  # the page itself: what OME-XML says of other files is not followed
                return np.asarray(tiff.pages.first.asarray())
        picture = cv2.imread(os.fspath(file), cv2.IMREAD_UNCHANGED)
    except UNREADABLE as error:
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None
    if picture is None or picture.ndim != 2:
        raise InputError(f"{file.name} cannot be read as a grey PNG; is it complete?")
    return picture
