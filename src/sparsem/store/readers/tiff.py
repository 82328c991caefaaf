"""TIFF in all its forms: multi-page, BigTIFF, OME, ImageJ and its hyperstacks, with the voxel size that each states."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.store.readers.display import Display, notes_of, refuse_color_tiff, tiff_display
from sparsem.store.readers.source import NM, UNREADABLE, Axes, Pick, Source, layout, sentences

TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")


def open_tiff(path: Path, pick: Pick) -> Source:
    """A TIFF as a stack; see ``open_source``."""
    with sentences(path, "TIFF"), _complaints_refused(path), _tiff_file(path) as tiff:
        if not tiff.series:
            raise InputError(f"{path.name} holds no image.")
        series = tiff.series[0]
        _refuse_parts(tiff, path)
        page = tiff.pages.first
        if series.axes.endswith("S"):
            refuse_color_tiff(page, path, pick.labels)
        index, shape = layout(series.axes, series.shape, pick, path.name)
        display = tiff_display(page, path, pick)
        dtype = display.dtype if display else np.dtype(series.dtype)
        stack = TiffStack(path, shape, dtype, index, display)
        return Source(stack, tiff_voxel(tiff), (path,), part=pick.part, notes=notes_of(page, path, pick))
    raise AssertionError  # the context raises or the block returns


@dataclass(frozen=True)
class TiffStack:
    """The pages of one TIFF, decoded when sliced; also ImageJ's files over 4 GB, which have one page entry for all slices."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    index: tuple[int | None, ...]
    display: Display | None = None

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with _tiff_file(self.path) as tiff, tiff.series[0].aszarr(level=0) as store:
                array: Any = zarr.open_array(store=store, mode="r")
                voxels = np.asarray(array[tuple(slice(start, stop) if one is None else one for one in self.index)])
        except UNREADABLE as error:
            raise InputError(f"Slices {start} to {stop - 1} of {self.path.name} cannot be read ({error}); is the file complete?") from None
        stored = voxels.reshape((stop - start, *self.shape[1:]))
        return self.display.read(stored, self.path.name) if self.display else stored


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


def tiff_voxel(tiff: tifffile.TiffFile) -> Axes:
    """The voxel size that a TIFF states, in OME, ImageJ's or FEI's words."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_voxel(tiff.ome_metadata)
    tags = tiff.pages.first.tags
    imagej: Mapping[str, Any] = tiff.imagej_metadata or {}
    unit = NM.get(str(imagej.get("unit", "")).lower())
    if unit is not None:
        spacing = imagej.get("spacing")
        z = float(spacing) * unit if spacing else None
        return z, _length_of(tags.get("YResolution"), unit), _length_of(tags.get("XResolution"), unit)
    if tiff.is_fei and tiff.fei_metadata:
        scan = tiff.fei_metadata.get("Scan", {})  # Thermo Fisher / FEI dual beams; metres
        y, x = (float(scan[key]) * 1e9 if scan.get(key) else None for key in ("PixelHeight", "PixelWidth"))
        return None, y, x
    return None, None, None  # a resolution tag alone is mostly the 72 or 96 dots per inch of some program


def _length_of(tag: Any, unit_nm: float) -> float | None:
    """Pixel edge in nm from a TIFF resolution tag (pixels per unit as a fraction)."""
    if tag is None or not tag.value[0]:
        return None
    pixels, units = tag.value
    return float(units / pixels * unit_nm)


def _ome_voxel(xml: str) -> Axes:
    pixels = tifffile.xml2dict(xml).get("OME", {}).get("Image", {})
    pixels = (pixels[0] if isinstance(pixels, list) else pixels).get("Pixels", {})

    def length(axis: str) -> float | None:
        value, unit = pixels.get(f"PhysicalSize{axis}"), NM.get(str(pixels.get(f"PhysicalSize{axis}Unit", "µm")).lower())
        return float(value) * unit if value is not None and unit is not None else None

    return length("Z"), length("Y"), length("X")
