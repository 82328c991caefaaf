"""Readers: one function a format, each giving a lazy stack and the voxel size that the file states.

A stack is anything with ``shape`` (z, y, x), ``dtype`` and ``stack[z0:z1]``; nothing is read before it is sliced.
A voxel size axis that the format does not state is None: it is asked for, never assumed.
"""

import glob
import logging
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

from sparsem.errors import InputError
from sparsem.geometry import VoxelSize

NM = {"m": 1e9, "cm": 1e7, "mm": 1e6, "um": 1e3, "µm": 1e3, "μm": 1e3, "micron": 1e3, "microns": 1e3, "nm": 1.0, "å": 0.1, "angstrom": 0.1}
NM |= {"meter": 1e9, "centimeter": 1e7, "millimeter": 1e6, "micrometer": 1e3, "nanometer": 1.0, "\\u00b5m": 1e3}
TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf8")
# What the libraries raise at files that are damaged.
UNREADABLE = (tifffile.TiffFileError, OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, struct.error)
PICTURE_ENDINGS = (*TIFF_ENDINGS, ".png")

Axes = tuple[float | None, float | None, float | None]


class Stack(Protocol):
    """A stack of slices that is read when it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, slices: slice) -> Any: ...


@dataclass(frozen=True)
class Source:
    """What a reader found.

    Attributes:
        stack: (z, y, x), lazy.
        voxel_nm: lengths in nm, (z, y, x); None where the format does not state one.
        files: what was opened, for fingerprints.
        numbers: of a series of files: the number in each file's name that tells its slice, in the order of the slices.
    """

    stack: Stack
    voxel_nm: Axes
    files: tuple[Path, ...]
    numbers: tuple[int, ...] = ()

    def voxel_size(self, given: Sequence[float] | None = None) -> VoxelSize:
        """The voxel size: ``given`` if any, else the file's.

        Raises:
            InputError: the file does not state all three lengths and none were given.
        """
        if given is not None:
            return VoxelSize.of(given)
        z, y, x = self.voxel_nm
        if z is None or y is None or x is None:
            found = ", ".join(f"{axis} = {value:g} nm" for axis, value in zip("zyx", self.voxel_nm, strict=True) if value)
            raise InputError(
                f"{self.files[0].name} does not state its voxel size{f' completely (only {found})' if found else ''}; "
                "give it in nm as --voxel-nm Z Y X, for instance --voxel-nm 8 4 4."
            )
        return VoxelSize.of((z, y, x))

    def identity(self) -> list[list[Any]]:
        """Name, size and time of change of every file (of a Zarr: of all its chunks together): to notice another input."""
        return [[file.name, *_size_and_change(file)] for file in self.files]


def open_source(source: str | Path, dataset: str | None = None) -> Source:
    """Open a stack: a TIFF (multi-page, BigTIFF, OME, ImageJ), a folder or glob of TIFF/PNG slices, Zarr or OME-Zarr.

    Args:
        source: path of a file or folder, or a glob pattern in quotes.
        dataset: key of the array within a Zarr group, where it is not the first level of an OME-Zarr.

    Raises:
        InputError: nothing there, a format that is not known, slices of unequal shape, an RGB picture.
    """
    path = Path(source).absolute()  # a worker on another machine has another working directory
    if any(mark in str(source) for mark in "*?[") and not path.exists():
        files = [Path(name) for name in glob.glob(str(path))]  # noqa: PTH207  # Path.glob takes no absolute pattern
        return _open_slices(files, f"the pattern {source}")
    if not path.exists():
        raise InputError(f"There is no file or folder {source}.")
    if path.is_dir() and any((path / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        return _open_zarr(path, dataset)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in PICTURE_ENDINGS and not file.name.startswith(".")]
        return _open_slices(files, f"the folder {source}")
    if path.suffix.lower() in TIFF_ENDINGS:
        return _open_tiff(path)
    if path.suffix.lower() == ".png":
        return _open_slices([path], str(path))
    known = ", ".join((*PICTURE_ENDINGS, ".zarr"))
    raise InputError(f"{path.name} is of a format that is not read: expected {known}, or a folder of slices.")


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sorting key by which ``s2`` comes before ``s10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def numbers_in(names: Sequence[str]) -> tuple[int, ...]:
    """The slice number in each file's name: the last number that differs from file to file, ``mask_z0137_8bit.tif`` is 137.

    Empty where a name has no number, or the names are not alike.
    """
    found = [[int(number) for number in re.findall(r"\d+", Path(name).stem)] for name in names]
    if not found or not found[0] or len({len(numbers) for numbers in found}) > 1:
        return ()
    columns = list(zip(*found, strict=True))
    different = [column for column in columns if len(set(column)) == len(names)]
    return different[-1] if different else ()


def _open_tiff(path: Path) -> Source:
    try:
        with _complaints_refused(path), _tiff_file(path) as tiff:
            if not tiff.series:
                raise InputError(f"{path.name} holds no image.")
            series = tiff.series[0]
            _refuse_parts(tiff, path)
            shape = tuple(length for length, axis in zip(series.shape, series.axes, strict=True) if not (length == 1 and axis not in "YX"))
            if "S" in series.axes:
                raise InputError(f"{path.name} is a colour picture ({series.axes} {series.shape}); convert it to grey first.")
            _refuse_inverted(tiff.pages.first, path)
            channels = series.axes.count("C") and series.shape[series.axes.index("C")] > 1
            if len(shape) not in (2, 3) or channels:
                raise InputError(f"{path.name} has the axes {series.axes} {series.shape}; expected one channel, (z, y, x).")
            shape = (1, *shape) if len(shape) == 2 else shape
            stack = TiffStack(path, shape, np.dtype(series.dtype))
            return Source(stack, _tiff_voxel(tiff), (path,))
    except UNREADABLE as error:
        raise InputError(f"{path.name} cannot be read as TIFF ({error}); is it complete?") from None


@dataclass(frozen=True)
class TiffStack:
    """The pages of one TIFF, decoded when sliced; also ImageJ's files over 4 GB, which have one page entry for all slices."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with _tiff_file(self.path) as tiff, tiff.series[0].aszarr(level=0) as store:
                array: Any = zarr.open_array(store=store, mode="r")
                leading = [0 if length == 1 else slice(start, stop) for length in array.shape[:-2]]
                voxels = np.asarray(array[(*leading, ...)])
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


def _refuse_inverted(page: Any, path: Path) -> None:
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


def _tiff_voxel(tiff: tifffile.TiffFile) -> Axes:
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


def _open_slices(files: Sequence[Path], where: str) -> Source:
    if not files:
        raise InputError(f"There are no TIFF or PNG slices in {where}.")
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
            voxel = (None, *_tiff_voxel(tiff)[1:])
    stack = SliceSeries(tuple(ordered), (len(ordered), *shape), dtype)
    return Source(stack, voxel, tuple(ordered), numbers_in([file.name for file in ordered]))


@dataclass(frozen=True)
class SliceSeries:
    """One file a slice."""

    files: tuple[Path, ...]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        chosen = self.files[slices]
        if not chosen:
            return np.empty((0, *self.shape[1:]), self.dtype)
        return np.stack([_read_slice(file) for file in chosen])


def _slice_header(file: Path) -> tuple[tuple[int, int], np.dtype[Any]]:
    """(y, x) and dtype of one slice, without decoding it."""
    try:
        if file.suffix.lower() in TIFF_ENDINGS:
            with tifffile.TiffFile(file) as tiff:
                if len(tiff.pages) != 1:
                    raise InputError(f"{file.name} holds {len(tiff.pages)} pages; in a folder of slices each file is one slice.")
                page = tiff.pages.first
                _refuse_inverted(page, file)
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
            return np.asarray(tifffile.imread(file))
        picture = cv2.imread(os.fspath(file), cv2.IMREAD_UNCHANGED)
    except UNREADABLE as error:
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None
    if picture is None or picture.ndim != 2:
        raise InputError(f"{file.name} cannot be read as a grey PNG; is it complete?")
    return picture


def _open_zarr(path: Path, dataset: str | None) -> Source:
    try:
        node = zarr.open(store=path, mode="r")
    except UNREADABLE as error:
        raise InputError(f"{path.name} cannot be read as Zarr ({error}); is it complete?") from None
    voxel: Axes = (None, None, None)
    if isinstance(node, zarr.Group):
        attributes: Any = node.attrs.asdict()
        multiscales: Any = attributes.get("ome", attributes).get("multiscales")  # 0.5 has the key "ome", 0.4 has not
        if dataset is None and multiscales:
            try:
                dataset, voxel = str(multiscales[0]["datasets"][0]["path"]), _ngff_voxel(multiscales[0])
            except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
                raise InputError(f"{path.name} has damaged OME-Zarr metadata ({error!r}); name its array with --dataset KEY.") from None
        if dataset is None:
            keys = sorted(node.array_keys())
            if len(keys) != 1:
                raise InputError(f"{path.name} holds the arrays {keys or 'none'}; name one with --dataset KEY.")
            dataset = keys[0]
        if ".." in dataset or dataset not in node:
            raise InputError(f"{path.name} has no array '{dataset}'.")
        node = node[dataset]
    if not isinstance(node, zarr.Array):
        raise InputError(f"'{dataset}' in {path.name} is a group, not an array; name an array with --dataset KEY.")
    if node.ndim < 3 or any(length != 1 for length in node.shape[:-3]) or not all(node.shape):
        raise InputError(f"{path.name} has the shape {node.shape}; expected one channel, (z, y, x).")
    return Source(ZarrStack(node), voxel, (path / (dataset or ""),))


def _size_and_change(path: Path) -> tuple[int, int]:
    """Bytes and the latest change, ns, of a file or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    found = [file.stat() for file in files]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


@dataclass(frozen=True)
class ZarrStack:
    """A Zarr array of (z, y, x), possibly behind axes of length one."""

    array: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape[-3:])

    @property
    def dtype(self) -> np.dtype[Any]:
        kind: np.dtype[Any] = np.dtype(self.array.dtype)
        return kind.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        try:
            return np.asarray(self.array[(*(0,) * (self.array.ndim - 3), slices)], self.dtype)
        except UNREADABLE as error:
            raise InputError(f"Slices {slices.start} to {slices.stop} of {self.array.store_path} cannot be read ({error}).") from None


def _ngff_voxel(multiscale: Mapping[str, Any]) -> Axes:
    axes = multiscale.get("axes", [None])
    steps = [*multiscale["datasets"][0].get("coordinateTransformations", ()), *multiscale.get("coordinateTransformations", ())]
    scales = [one["scale"] for one in steps if one.get("type") == "scale"]
    if not scales or not isinstance(axes[0], Mapping):
        return None, None, None  # NGFF before 0.4 states no lengths
    lengths: dict[str, float] = {}
    for axis, length in zip(axes, np.prod(scales, axis=0), strict=True):
        unit = NM.get(str(axis.get("unit", "")).lower())
        if unit is not None:
            lengths[axis["name"]] = float(length) * unit
    return lengths.get("z"), lengths.get("y"), lengths.get("x")
