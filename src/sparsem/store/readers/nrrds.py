"""NRRD, and the segmentations of 3D Slicer (.seg.nrrd), whose segments have names."""

import atexit
import bz2
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.store.readers.arrays import MappedStack
from sparsem.store.readers.source import NM, PLAIN_AXES, Axes, Pick, Placement, Source, layout, plain_axes, sentences

NRRD_ENDINGS = (".nrrd", ".nhdr")
PACKED: dict[str, Any] = {"gzip": gzip.open, "gz": gzip.open, "bzip2": bz2.open, "bz2": bz2.open}
TYPES = {"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "u": "u4", "uint": "u4", "float": "f4", "double": "f8"}
TYPES |= {f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)}
TYPES |= {"longlong": "i8", "ulonglong": "u8", "long": "i8", "ulong": "u8"}
MATRIX = 16  # numbers of a geometry of 3D Slicer before the first and last voxel along x, y, z
SPACE = ("domain", "space", "none", "???", "unknown")  # kinds of axes that may be one of z, y, x
ROOM = 1 << 24  # bytes unpacked at once while slices are skipped


def open_nrrd(path: Path, pick: Pick) -> Source:
    """An NRRD file as a stack; see ``open_source``."""
    with sentences(path, "NRRD"):
        with path.open("rb") as file:
            header: dict[str, Any] = nrrd.read_header(file)
            offset = file.tell()
        data, offset = _data_of(path, header, offset)
        sizes = [int(size) for size in header["sizes"]][::-1]  # the first axis of the file is the fastest
        if any(header.get(key, 0) for key in ("line skip", "lineskip", "byte skip", "byteskip")):
            raise InputError(f"{path.name} skips lines or bytes of its data file; save it anew as one .nrrd file.")
        kind = _kind(header)
        if kind is None:
            raise InputError(f"{path.name} holds {header['type']} numbers; expected real ones.")
        sizes = _without_single_axes(sizes, header, path)
        _, shape = layout(PLAIN_AXES[-len(sizes) :], sizes, pick, path.name)
        encoding = str(header["encoding"]).lower()
        if encoding == "raw":
            stack: Any = MappedStack(data, offset, shape, kind)
        elif encoding in PACKED:
            stack = PackedStack(data, offset, shape, kind, encoding)
        else:
            raise InputError(f"{path.name} is encoded as {encoding}; expected raw, gzip or bzip2.")
        files = (path, *([data] if data != path else []))
        return Source(stack, _voxel(header), files, names=_segments(header), placement=_placement(header, path))


def _kind(header: Mapping[str, Any]) -> np.dtype[Any] | None:
    """The type of the numbers; None if they are no plain ones."""
    words = str(header["type"]).removesuffix("_t").split()
    name = "".join(word for word in words if word not in ("int", "signed") or len(words) == 1)
    code = TYPES.get(name.replace("unsigned", "u"))
    return None if code is None else np.dtype(code).newbyteorder("<" if header.get("endian", "little") == "little" else ">")


def _data_of(path: Path, header: Mapping[str, Any], offset: int) -> tuple[Path, int]:
    """The file that holds the numbers, and where they begin in it."""
    detached = header.get("data file", header.get("datafile"))
    if detached is None:
        return path, offset
    if isinstance(detached, list) or "%" in str(detached) or str(detached).upper().startswith("LIST"):
        raise InputError(f"{path.name} names several data files; save it anew as one .nrrd file.")
    data = path.parent / str(detached)
    if not data.is_file():
        raise InputError(f"{path.name} keeps its numbers in {data.name}, which is not beside it; put both into one folder.")
    return data, 0


def _without_single_axes(sizes: list[int], header: Mapping[str, Any], path: Path) -> list[int]:
    """The lengths of the axes of space; others are left out if they are one long.

    Raises:
        InputError: segments that overlap, channels, or times.
    """
    kinds = [str(kind).lower() for kind in header.get("kinds", ())][::-1]
    beyond = len(sizes) - 3
    if len(kinds) != len(sizes):
        kinds = ["unknown"] * max(beyond, 0) + ["domain"] * min(len(sizes), 3)
    stated = f"{path.name} has the sizes {sizes[::-1]}"
    if "list" in kinds and sizes[kinds.index("list")] > 1:  # segments that overlap lie in layers
        raise InputError(
            f"{path.name} has segments that overlap, in {sizes[kinds.index('list')]} layers; in 3D Slicer, export them to a labelmap first."
        )
    channels = [kind for size, kind in zip(sizes, kinds, strict=True) if kind not in SPACE and size > 1]
    if len(sizes) == 3 and channels == ["time"]:
        return sizes  # as ImageJ calls slices
    left = [size for size, kind in zip(sizes, kinds, strict=True) if kind in ("domain", "space") or size > 1]
    if channels or len(left) > 3:
        what = f" ({', '.join(channels)})" if channels else ""
        raise InputError(f"{stated}{what}; expected x, y, z of one channel and one time.")
    if len(left) == 3 and plain_axes(left) == "YXC":
        raise InputError(f"{stated}, which looks like one image of {left[-1]} channels; expected x, y, z.")
    return left


def _placement(header: Mapping[str, Any], path: Path) -> Placement | None:
    """Where a segmentation of 3D Slicer lies in its image."""
    offset = header.get("Segmentation_ReferenceImageExtentOffset")
    if offset is None:
        return None
    x, y, z = (int(number) for number in str(offset).split())
    geometry = str(header.get("Segmentation_ConversionParameters", "")).partition("Reference image geometry|")[2].partition("|")[0]
    numbers = [float(number) for number in geometry.split(";") if number.strip()]
    if len(numbers) != MATRIX + 6:
        return Placement((z, y, x), None)
    _refuse_other_voxels(numbers, header, path)
    x0, x1, y0, y1, z0, z1 = (int(number) for number in numbers[MATRIX:])
    return Placement((z - z0, y - y0, x - x0), (z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1))


def _refuse_other_voxels(numbers: list[float], header: Mapping[str, Any], path: Path) -> None:
    """Refuse a segmentation with other voxels than its image has: its place would be counted in the wrong ones."""
    directions = [one for one in header.get("space directions", ()) if one is not None]
    own = sorted(float(np.linalg.norm(np.asarray(one, float))) for one in directions)
    matrix = np.reshape(numbers[:MATRIX], (4, 4))
    stated = sorted(np.linalg.norm(matrix[:3, :3], axis=0).tolist())
    if len(own) == 3 and np.isfinite(own).all() and not np.allclose(own, stated, rtol=0.01):
        raise InputError(
            f"{path.name} has other voxels than the image it was drawn on; in 3D Slicer, export it as a labelmap with the image as its "
            "reference."
        )


def _voxel(header: Mapping[str, Any]) -> Axes:
    """From spacings or directions; a world space, as 3D Slicer writes it, is in mm."""
    units = header.get("space units", header.get("units"))
    in_space = header.get("space") is not None
    unit = NM.get(str(units[0]).strip('" ').lower()) if units is not None and len(units) else (NM["mm"] if in_space else None)
    directions, spacings = header.get("space directions"), header.get("spacings")
    if directions is not None:
        spacings = [float(np.linalg.norm(np.asarray(one, float))) for one in directions if one is not None]
    if unit is None or spacings is None or len(spacings) < 3 or not np.isfinite(np.asarray(spacings, float)).all():
        return None, None, None
    x, y, z = (float(one) * unit for one in list(spacings)[-3:])
    return z or None, y or None, x or None


def _segments(header: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names of 3D Slicer's segments and their numbers."""
    numbers = {key.removesuffix("_LabelValue"): int(value) for key, value in header.items() if key.endswith("_LabelValue")}
    return {str(header.get(f"{segment}_Name", segment)): (number,) for segment, number in numbers.items()}


@dataclass(frozen=True)
class PackedStack:
    """Numbers that lie packed in a file: they can only be read from the front, so reading on is fast and going back is not."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    encoding: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stored.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        plane = int(np.prod(self.shape[1:], dtype=np.int64)) * self.stored.itemsize
        with sentences(self.path, f"{self.encoding} NRRD"):
            found = _read(self, start * plane, max(stop - start, 0) * plane)
        if len(found) < max(stop - start, 0) * plane:
            raise InputError(f"{self.path.name} ends within slice {start + len(found) // plane} of {self.shape[0]}; is it complete?")
        return np.asarray(np.frombuffer(found, self.stored).reshape(-1, *self.shape[1:]), self.dtype)


_OPEN: dict[PackedStack, tuple[Any, Any]] = {}  # the last packed file of this process, where reading stopped


@atexit.register
def _close_all() -> None:
    for one in (opened for pair in _OPEN.values() for opened in pair):
        if one is not None:
            one.close()
    _OPEN.clear()


def _read(stack: PackedStack, place: int, count: int) -> bytes:
    """Unpacked bytes of a stack; fewer at its end."""
    file, reader = _OPEN.pop(stack, (None, None))
    if reader is None or reader.tell() > place:
        _OPEN[stack] = (file, reader)
        _close_all()
        file = stack.path.open("rb")
        file.seek(stack.offset)
        reader = PACKED[stack.encoding](file, "rb")
    try:
        while reader.tell() < place and reader.read(min(ROOM, place - reader.tell())):
            pass
        found: bytes = reader.read(count)
    except BaseException:
        reader.close()
        file.close()
        raise
    if len(found) < count or reader.tell() >= int(np.prod(stack.shape, dtype=np.int64)) * stack.stored.itemsize:
        reader.close()
        file.close()
    else:
        _OPEN[stack] = (file, reader)
    return found
