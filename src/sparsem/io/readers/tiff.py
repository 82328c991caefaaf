"""TIFF in all its forms: multi-page, BigTIFF, OME, ImageJ and its hyperstacks, with the voxel size that each states."""

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
from sparsem.io.readers.display import Display, refuse_color_tiff, tiff_display, tiff_display_notes
from sparsem.io.readers.missing import Index
from sparsem.io.readers.source import (
    UNREADABLE,
    Selection,
    Source,
    refuse_damaged_file,
    stack_layout,
)
from sparsem.io.readers.tiff_missing import missing_pages
from sparsem.io.readers.units import StatedLength, axis_lengths_nm, length_faults, stated_length

METADATA_FILE = re.compile(
    r'BinaryOnly[^>]*MetadataFile="([^"]+)"'
)  # that describes a set of OME-TIFF files
PIXELS = re.compile(r"<(?:\w+:)?Pixels[^>]*>")
SIZE_OF_VOXEL = re.compile(r'PhysicalSize\w+="[^"]*"')
MAX_IMAGES = 6  # that a message names
TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")


def open_tiff(path: Path, pick: Selection) -> Source:
    """A TIFF as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "TIFF"), _complaints_refused(path), _tiff_file(path) as tiff:
        if not tiff.series:
            raise InputError(f"{path.name} holds no image.")
        number = _number_of_series(tiff, pick, path)
        series, page = tiff.series[number], tiff.pages.first
        if series.axes.endswith("S"):
            refuse_color_tiff(page, path, pick.labels)
        index, shape = stack_layout(series.axes, series.shape, pick, path.name)
        display = tiff_display(page, path, pick)
        dtype = display.dtype if display else np.dtype(series.dtype)
        stack = TiffStack(path, shape, dtype, index, number, display)
        lengths = _lengths_of_series(tiff, number)
        image = "" if pick.dataset is None else f"image {number}"
        return Source(
            stack,
            axis_lengths_nm(lengths),
            (path,),
            part=", ".join(filter(None, (image, pick.part))),
            missing=missing_pages(series, path, index),
            notes=tiff_display_notes(page, path, pick),
            voxel_faults=length_faults(lengths),
        )
    raise AssertionError  # the context raises or the block returns


@dataclass(frozen=True)
class TiffStack:
    """The pages of one TIFF, decoded when sliced; also ImageJ's files over 4 GB, which have one page entry for all slices."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    index: Index
    series: int = 0
    display: Display | None = None

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with _tiff_file(self.path) as tiff, tiff.series[self.series].aszarr(level=0) as store:
                array: Any = zarr.open_array(store=store, mode="r")
                voxels = np.asarray(
                    array[tuple(slice(start, stop) if one is None else one for one in self.index)]
                )
        except UNREADABLE as error:
            raise InputError(
                f"Slices {start} to {stop - 1} of {self.path.name} cannot be read ({error}); is the file complete?"
            ) from None
        stored = voxels.reshape((stop - start, *self.shape[1:]))
        return self.display.read(stored, self.path.name) if self.display else stored


def _tiff_file(path: Path) -> tifffile.TiffFile:
    """An open TIFF. Programs that add slices one by one leave as many series of one page: these are read as one stack."""
    tiff = tifffile.TiffFile(path)
    described_elsewhere = METADATA_FILE.search(tiff.ome_metadata or "") if tiff.is_ome else None
    if described_elsewhere:
        tiff.close()
        return tifffile.TiffFile(
            path, omexml=_description_in(path.parent / unescape(described_elsewhere[1]), path)
        )
    pages = {(series.shape, series.dtype) for series in tiff.series}
    if tiff.is_shaped and len(tiff.series) > 1 and len(pages) == 1:
        tiff.close()
        tiff = tifffile.TiffFile(path, is_shaped=False)
    return tiff


def _description_in(file: Path, path: Path) -> str:
    """The OME-XML of a set of files, which all but one of them lack: in a companion file, or in another TIFF of the set."""
    if not file.is_file():
        raise InputError(
            f"{path.name} is one file of a set that {file.name} describes, which is not there; put it back, or import the folder of "
            "the files, if each is one slice."
        )
    if file.suffix.lower() not in TIFF_ENDINGS:
        return file.read_text(encoding="utf-8")
    with tifffile.TiffFile(file) as tiff:
        return tiff.ome_metadata or ""


@contextmanager
def _complaints_refused(path: Path) -> Iterator[None]:
    """What tifffile only logs as an error, a broken list of pages above all, is an error: the rest would pass for the whole."""
    complaints: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: complaints.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    if complaints:
        raise InputError(f"{path.name} is damaged ({complaints[0]}); is it complete?")


def _number_of_series(tiff: tifffile.TiffFile, pick: Selection, path: Path) -> int:
    """Which image of a file is read. A stack that is only a part of its file must not pass for the whole; one next to a thumbnail may."""
    sizes = [series.size for series in tiff.series]
    if pick.dataset is not None:
        if not pick.dataset.isdecimal() or int(pick.dataset) >= len(sizes):
            raise InputError(
                f"{path.name} has no image '{pick.dataset}'; expected its number. The file holds images {_images_in(tiff)}."
            )
        return int(pick.dataset)
    if sizes[0] < 0.9 * sum(sizes):
        raise InputError(
            f"{path.name} holds several images {_images_in(tiff)}; expected one stack, or --dataset with its number."
        )
    _refuse_fewer_slices(tiff, path)
    return 0


def _images_in(tiff: tifffile.TiffFile) -> str:
    """Shapes and names of the images of a file, for messages."""
    images = [f"{series.shape} {series.name}".rstrip() for series in tiff.series]
    more = f" and {len(images) - MAX_IMAGES} more" if len(images) > MAX_IMAGES else ""
    return f"(numbered from 0: {', '.join(images[:MAX_IMAGES])}{more})"


def _refuse_fewer_slices(tiff: tifffile.TiffFile, path: Path) -> None:
    """Refuse a stack that is longer by what ImageJ or tifffile wrote into its first page."""
    first = tiff.series[0]
    stated = int((tiff.imagej_metadata or {}).get("images", 1))
    description = tiff.pages.first.shaped_description or ""
    if description.startswith("{"):
        size = int(np.prod(json.loads(description)["shape"], dtype=np.int64))
        stated = max(stated, size // int(np.prod(first.shape[-2:], dtype=np.int64)))
    found = int(np.prod(first.shape[:-2]))
    if stated > found:
        raise InputError(
            f"{path.name} says that it has {stated} slices, but holds {found}; is it complete?"
        )


def _lengths_of_series(tiff: tifffile.TiffFile, number: int) -> dict[str, StatedLength]:
    """Return the edges of a voxel of an image: a file states those of its first one, unless OME states the same of all."""
    if number == 0:
        return tiff_lengths(tiff)
    stated = (
        {tuple(SIZE_OF_VOXEL.findall(pixels)) for pixels in PIXELS.findall(tiff.ome_metadata or "")}
        if tiff.is_ome
        else set()
    )
    return tiff_lengths(tiff) if len(stated) == 1 else {}


def tiff_lengths(tiff: tifffile.TiffFile) -> dict[str, StatedLength]:
    """Return the edges of a voxel by axis that a TIFF states, in the words of OME, ImageJ or FEI."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_lengths(tiff.ome_metadata)
    imagej: dict[str, Any] = tiff.imagej_metadata or {}
    if imagej.get("unit") is not None:
        return _imagej_lengths(imagej, tiff.pages.first.tags)
    if tiff.is_fei and tiff.fei_metadata:
        scan = tiff.fei_metadata.get("Scan", {})  # Thermo Fisher / FEI dual beams; meters
        edges = {"y": scan.get("PixelHeight"), "x": scan.get("PixelWidth")}
        return {axis: stated_length(edge, "m") for axis, edge in edges.items()}
    return {}  # a resolution tag alone is mostly the 72 or 96 dots per inch of some program


def _imagej_lengths(imagej: dict[str, Any], tags: Any) -> dict[str, StatedLength]:
    """ImageJ states units of y and z where they differ from that of x."""
    unit = imagej["unit"]
    y_unit, z_unit = imagej.get("yunit", unit), imagej.get("zunit", unit)
    return {
        "z": stated_length(imagej.get("spacing"), z_unit),
        "y": _length_of(tags.get("YResolution"), y_unit),
        "x": _length_of(tags.get("XResolution"), unit),
    }


def _length_of(tag: Any, unit: Any) -> StatedLength:
    """Edge of a pixel from a TIFF resolution tag: pixels per unit, as a fraction."""
    if tag is None:
        return StatedLength()
    pixels, units = tag.value
    edge = units / pixels if pixels else 0.0
    return stated_length(edge, unit, f"{pixels}/{units} pixels per {unit}")


def _ome_lengths(xml: str) -> dict[str, StatedLength]:
    """PhysicalSizeX, Y and Z of the first image; their unit is µm if none is stated."""
    image = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    lengths = {}
    for axis in "zyx":
        key = f"PhysicalSize{axis.upper()}"
        lengths[axis] = stated_length(pixels.get(key), pixels.get(f"{key}Unit", "µm"))
    return lengths
