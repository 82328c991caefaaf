"""TIFF: multi-page, BigTIFF, OME, ImageJ and its hyperstacks, with the voxel size of each."""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.axes import Index, index_of_slices, stack_layout
from sparsem.io.readers.damage import UNREADABLE, refuse_damaged_file
from sparsem.io.readers.display import (
    Display,
    refuse_color_tiff,
    tiff_display,
    tiff_display_notes,
)
from sparsem.io.readers.selection import Selection
from sparsem.io.readers.source import Source
from sparsem.io.readers.tiff_missing import missing_pages
from sparsem.io.readers.units import (
    StatedLength,
    axis_lengths_nm,
    length_faults,
    stated_length,
)

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")
# The file that describes a set of OME-TIFF files.
METADATA_FILE = re.compile(r'BinaryOnly[^>]*MetadataFile="([^"]+)"')
PIXELS = re.compile(r"<(?:\w+:)?Pixels[^>]*>")
PHYSICAL_SIZE = re.compile(r'PhysicalSize\w+="[^"]*"')
MAX_IMAGES = 6  # that a message names
MIN_STACK_FRACTION = 0.9  # of the pixels of a file: a stack next to a thumbnail is read


def open_tiff(path: Path, selection: Selection) -> Source:
    """Open a TIFF as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "TIFF"), _refuse_logged_errors(path), _open(path) as tiff:
        source = _tiff_source(tiff, path, selection)
    return source


def _tiff_source(tiff: tifffile.TiffFile, path: Path, selection: Selection) -> Source:
    if not tiff.series:
        raise InputError(f"{path.name} holds no image.")
    number = _image_number(tiff, selection, path)
    series = tiff.series[number]
    page = tiff.pages.first
    if series.axes.endswith("S"):
        refuse_color_tiff(page, path, selection.labels)
    index, shape = stack_layout(series.axes, series.shape, selection, path.name)
    display = tiff_display(page, path, selection)
    dtype = display.dtype if display else np.dtype(series.dtype)
    lengths = _image_lengths(tiff, number)
    image = "" if selection.dataset is None else f"image {number}"
    return Source(
        TiffStack(path, shape, dtype, index, number, display),
        axis_lengths_nm(lengths),
        (path,),
        part=", ".join(filter(None, (image, selection.part))),
        missing=missing_pages(series, path, index),
        notes=tiff_display_notes(page, path, selection),
        voxel_faults=length_faults(lengths),
    )


@dataclass(frozen=True)
class TiffStack:
    """The pages of one TIFF, decoded when sliced.

    This includes ImageJ's files over 4 GB, which have one page entry for all slices.

    Attributes:
        path: the file.
        shape: (z, y, x).
        dtype: of the pixels that are read.
        index: the position of the stack in the image.
        series: number of the image in the file.
        display: lookup table of the pixels; None if they are read as they are stored.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    index: Index
    series: int = 0
    display: Display | None = None

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with _open(self.path) as tiff, tiff.series[self.series].aszarr(level=0) as store:
                array: Any = zarr.open_array(store=store, mode="r")
                voxels = np.asarray(array[index_of_slices(self.index, slice(start, stop))])
        except UNREADABLE as error:
            raise InputError(
                f"Slices {start} to {stop - 1} of {self.path.name} cannot be read ({error}); "
                "is the file complete?"
            ) from None
        stored = voxels.reshape((stop - start, *self.shape[1:]))
        return self.display.read(stored, self.path.name) if self.display else stored


def _open(path: Path) -> tifffile.TiffFile:
    """Open a TIFF.

    Programs that add slices one by one leave as many series of one page. These are read as one
    stack.
    """
    tiff = tifffile.TiffFile(path)
    metadata_file = METADATA_FILE.search(tiff.ome_metadata or "") if tiff.is_ome else None
    if metadata_file:
        tiff.close()
        description = _description_in(path.parent / unescape(metadata_file[1]), path)
        return tifffile.TiffFile(path, omexml=description)
    kinds = {(series.shape, series.dtype) for series in tiff.series}
    if tiff.is_shaped and len(tiff.series) > 1 and len(kinds) == 1:
        tiff.close()
        tiff = tifffile.TiffFile(path, is_shaped=False)
    return tiff


def _description_in(file: Path, path: Path) -> str:
    """Return the OME-XML of a set of files, which all but one of them lack.

    It is in a companion file, or in another TIFF of the set.
    """
    if not file.is_file():
        raise InputError(
            f"{path.name} is one file of a set that {file.name} describes, which is not there; "
            "put it back, or import the folder of the files, if each is one slice."
        )
    if file.suffix.lower() not in TIFF_ENDINGS:
        return file.read_text(encoding="utf-8")
    with tifffile.TiffFile(file) as tiff:
        return tiff.ome_metadata or ""


@contextmanager
def _refuse_logged_errors(path: Path) -> Iterator[None]:
    """Raise errors that tifffile only logs, such as a broken list of pages.

    Otherwise the readable part would pass for the whole file.
    """
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if logged:
        raise InputError(f"{path.name} is damaged ({logged[0]}); is it complete?")


def _image_number(tiff: tifffile.TiffFile, selection: Selection, path: Path) -> int:
    """Return the number of the image to read.

    A stack that is only a part of its file must not pass for the whole; one next to a thumbnail
    may.
    """
    sizes = [series.size for series in tiff.series]
    dataset = selection.dataset
    if dataset is not None:
        if not dataset.isdecimal() or int(dataset) >= len(sizes):
            raise InputError(
                f"{path.name} has no image '{dataset}'; expected its number. "
                f"The file holds images {_list_images(tiff)}."
            )
        return int(dataset)
    if sizes[0] < MIN_STACK_FRACTION * sum(sizes):
        raise InputError(
            f"{path.name} holds several images {_list_images(tiff)}; "
            "expected one stack, or --dataset with its number."
        )
    _refuse_fewer_slices(tiff, path)
    return 0


def _list_images(tiff: tifffile.TiffFile) -> str:
    """Return shapes and names of the images of a file, for messages."""
    images = [f"{series.shape} {series.name}".rstrip() for series in tiff.series]
    more = f" and {len(images) - MAX_IMAGES} more" if len(images) > MAX_IMAGES else ""
    return f"(numbered from 0: {', '.join(images[:MAX_IMAGES])}{more})"


def _refuse_fewer_slices(tiff: tifffile.TiffFile, path: Path) -> None:
    """Refuse a stack that has fewer slices than ImageJ or tifffile state in its first page."""
    first = tiff.series[0]
    stated = int((tiff.imagej_metadata or {}).get("images", 1))
    description = tiff.pages.first.shaped_description or ""
    if description.startswith("{"):
        size = int(np.prod(json.loads(description)["shape"], dtype=np.int64))
        page_size = int(np.prod(first.shape[-2:], dtype=np.int64))
        stated = max(stated, size // page_size)
    n_slices = int(np.prod(first.shape[:-2]))
    if stated > n_slices:
        raise InputError(
            f"{path.name} says that it has {stated} slices, but holds {n_slices}; is it complete?"
        )


def _image_lengths(tiff: tifffile.TiffFile, number: int) -> dict[str, StatedLength]:
    """Return the edges of a voxel of an image.

    A file states those of its first image, unless OME states the same for all.
    """
    if number == 0:
        return tiff_lengths(tiff)
    if not tiff.is_ome:
        return {}
    elements = PIXELS.findall(tiff.ome_metadata or "")
    sizes = {tuple(PHYSICAL_SIZE.findall(element)) for element in elements}
    return tiff_lengths(tiff) if len(sizes) == 1 else {}


def tiff_lengths(tiff: tifffile.TiffFile) -> dict[str, StatedLength]:
    """Return the edges of a voxel by axis, as OME, ImageJ or FEI state them in a TIFF.

    A resolution tag alone is not read: mostly it is the 72 or 96 dots per inch of some program.
    """
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_lengths(tiff.ome_metadata)
    imagej: dict[str, Any] = tiff.imagej_metadata or {}
    if imagej.get("unit") is not None:
        return _imagej_lengths(imagej, tiff.pages.first.tags)
    if tiff.is_fei and tiff.fei_metadata:
        return _fei_lengths(tiff.fei_metadata)
    return {}


def _fei_lengths(metadata: dict[str, Any]) -> dict[str, StatedLength]:
    """Return the edges of a pixel that dual beams of Thermo Fisher / FEI state, in meters."""
    scan = metadata.get("Scan", {})
    edges = {"y": scan.get("PixelHeight"), "x": scan.get("PixelWidth")}
    return {axis: stated_length(edge, "m") for axis, edge in edges.items()}


def _imagej_lengths(imagej: dict[str, Any], tags: Any) -> dict[str, StatedLength]:
    """Return the edges of a voxel that ImageJ states.

    It states the units of y and z where they differ from that of x.
    """
    unit = imagej["unit"]
    y_unit = imagej.get("yunit", unit)
    z_unit = imagej.get("zunit", unit)
    return {
        "z": stated_length(imagej.get("spacing"), z_unit),
        "y": _length_of(tags.get("YResolution"), y_unit),
        "x": _length_of(tags.get("XResolution"), unit),
    }


def _length_of(tag: Any, unit: Any) -> StatedLength:
    """Return the edge of a pixel from a TIFF resolution tag: pixels per unit, as a fraction."""
    if tag is None:
        return StatedLength()
    pixels, units = tag.value
    edge = units / pixels if pixels else 0.0
    return stated_length(edge, unit, f"{pixels}/{units} pixels per {unit}")


def _ome_lengths(xml: str) -> dict[str, StatedLength]:
    """Return PhysicalSizeX, Y and Z of the first image; their unit is µm if none is stated."""
    images = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    first_image = images[0] if isinstance(images, list) else images
    pixels = first_image.get("Pixels", {})
    lengths = {}
    for axis in "zyx":
        key = f"PhysicalSize{axis.upper()}"
        lengths[axis] = stated_length(pixels.get(key), pixels.get(f"{key}Unit", "µm"))
    return lengths
