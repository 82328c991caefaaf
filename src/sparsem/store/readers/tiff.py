"""TIFF in all its forms: multi-page, BigTIFF, OME, ImageJ and its hyperstacks, with the voxel size that each states."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.store.readers.source import UNREADABLE, Pick, Source, layout, sentences
from sparsem.store.readers.units import StatedLength, axes_of, faults_of, stated_length

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")


def open_tiff(path: Path, pick: Pick) -> Source:
    """A TIFF as a stack; see ``open_source``."""
    with sentences(path, "TIFF"), _complaints_refused(path), _tiff_file(path) as tiff:
        if not tiff.series:
            raise InputError(f"{path.name} holds no image.")
        series = tiff.series[0]
        _refuse_parts(tiff, path)
        index, shape = layout(series.axes, series.shape, pick, path.name)
        refuse_inverted(tiff.pages.first, path)
        lengths = tiff_lengths(tiff)
        stack = TiffStack(path, shape, np.dtype(series.dtype), index)
        return Source(stack, axes_of(lengths), (path,), part=pick.part, voxel_faults=faults_of(lengths))
    raise AssertionError  # the context raises or the block returns


@dataclass(frozen=True)
class TiffStack:
    """The pages of one TIFF, decoded when sliced; also ImageJ's files over 4 GB, which have one page entry for all slices."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    index: tuple[int | None, ...]

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with _tiff_file(self.path) as tiff, tiff.series[0].aszarr(level=0) as store:
                array: Any = zarr.open_array(store=store, mode="r")
                voxels = np.asarray(array[tuple(slice(start, stop) if one is None else one for one in self.index)])
        except UNREADABLE as error:
            raise InputError(f"Slices {start} to {stop - 1} of {self.path.name} cannot be read ({error}); is the file complete?") from None
        return voxels.reshape((stop - start, *self.shape[1:]))


def _tiff_file(path: Path) -> tifffile.TiffFile:
    """An open TIFF. Programs that add slices one by one leave as many series of one page: these are read as one stack."""
    tiff = tifffile.TiffFile(path)
    pages = {(series.shape, series.dtype) for series in tiff.series}
    if tiff.is_shaped and len(tiff.series) > 1 and len(pages) == 1:
        tiff.close()
        tiff = tifffile.TiffFile(path, is_shaped=False)
    return tiff


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


def refuse_inverted(page: Any, path: Path) -> None:
    """Refuse a picture that stores white as 0."""
    if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        raise InputError(f"{path.name} stores white as 0 (photometric 'min is white'); invert it and save it as 'min is black' first.")


def _refuse_parts(tiff: tifffile.TiffFile, path: Path) -> None:
    """A stack that is only a part of its file must not pass for the whole; a thumbnail beside it may."""
    first, everything = tiff.series[0], sum(series.size for series in tiff.series)
    if first.size < 0.9 * everything:
        shapes = ", ".join(str(series.shape) for series in tiff.series[:6])
        raise InputError(f"{path.name} holds several images of unlike shape ({shapes}); expected one stack.")
    stated = int((tiff.imagej_metadata or {}).get("images", 1))
    found = int(np.prod(first.shape[:-2]))
    if stated > found:
        raise InputError(f"{path.name} says that it has {stated} slices, but holds {found}; is it complete?")


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
