"""NRRD, and the segmentations of 3D Slicer (.seg.nrrd), whose segments have names."""

import atexit
import bz2
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.arrays import MappedStack
from sparsem.io.readers.source import (
    DEFAULT_AXES,
    Placement,
    Selection,
    Source,
    default_axes,
    refuse_damaged_file,
    stack_layout,
)
from sparsem.io.readers.units import StatedLength, axis_lengths_nm, length_faults, stated_length

NRRD_ENDINGS = (".nrrd", ".nhdr")
PACKED: dict[str, Any] = {"gzip": gzip.open, "gz": gzip.open, "bzip2": bz2.open, "bz2": bz2.open}
TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "u": "u4",
    "uint": "u4",
    "float": "f4",
    "double": "f8",
}
TYPES |= {
    f"{sign}int{8 * size}": f"{sign or 'i'}{size}" for sign in ("", "u") for size in (1, 2, 4, 8)
}
TYPES |= {"longlong": "i8", "ulonglong": "u8", "long": "i8", "ulong": "u8"}
MAX_HEADER = 1 << 24  # bytes
MATRIX = 16  # numbers of a geometry of 3D Slicer before the first and last voxel along x, y, z
SPACE = ("domain", "space", "none", "???", "unknown")  # kinds of axes that may be one of z, y, x
ROOM = 1 << 24  # bytes unpacked at once while slices are skipped


def open_nrrd(path: Path, pick: Selection) -> Source:
    """An NRRD file as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "NRRD"):
        header, offset = _header(path)
        data, offset = _data_of(path, header, offset)
        sizes = [int(size) for size in header["sizes"]][
            ::-1
        ]  # the first axis of the file is the fastest
        if any(header.get(key, 0) for key in ("line skip", "lineskip", "byte skip", "byteskip")):
            raise InputError(
                f"{path.name} skips lines or bytes of its data file; save it anew as one .nrrd file."
            )
        kind = _kind(header)
        if kind is None:
            raise InputError(f"{path.name} holds {header['type']} numbers; expected real ones.")
        sizes = _without_single_axes(sizes, header, path)
        _, shape = stack_layout(DEFAULT_AXES[-len(sizes) :], sizes, pick, path.name)
        encoding = str(header["encoding"]).lower()
        if encoding == "raw":
            stack: Any = MappedStack(data, offset, shape, kind)
        elif encoding in PACKED:
            stack = CompressedStack(data, offset, shape, kind, encoding)
        else:
            raise InputError(f"{path.name} is encoded as {encoding}; expected raw, gzip or bzip2.")
        lengths, names = _lengths(header), _segments(header)
        files = (path, *([data] if data != path else []))
        placement, faults = _placement(header, path), length_faults(lengths)
        return Source(
            stack,
            axis_lengths_nm(lengths),
            files,
            names=names,
            voxel_faults=faults,
            placement=placement,
        )


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where it ends.

    Its text is decoded here: the library drops letters beyond ASCII, and would turn µm into m.
    """
    lines, offset = [], 0
    with path.open("rb") as file:
        for line in file:
            offset += len(line)
            lines.append(_decoded(line))
            if not line.strip():
                break
            if offset > MAX_HEADER:
                raise InputError(f"{path.name} has no end of its NRRD header; is it complete?")
    return dict(nrrd.read_header(lines)), offset


def _decoded(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _kind(header: Mapping[str, Any]) -> np.dtype[Any] | None:
    """The type of the numbers; None if they are no plain ones."""
    words = str(header["type"]).removesuffix("_t").split()
    name = "".join(word for word in words if word not in ("int", "signed") or len(words) == 1)
    code = TYPES.get(name.replace("unsigned", "u"))
    return (
        None
        if code is None
        else np.dtype(code).newbyteorder("<" if header.get("endian", "little") == "little" else ">")
    )


def _data_of(path: Path, header: Mapping[str, Any], offset: int) -> tuple[Path, int]:
    """The file that holds the numbers, and where they begin in it."""
    detached = header.get("data file", header.get("datafile"))
    if detached is None:
        return path, offset
    if (
        isinstance(detached, list)
        or "%" in str(detached)
        or str(detached).upper().startswith("LIST")
    ):
        raise InputError(f"{path.name} names several data files; save it anew as one .nrrd file.")
    data = path.parent / str(detached)
    if not data.is_file():
        raise InputError(
            f"{path.name} keeps its numbers in {data.name}, which is not beside it; put both into one folder."
        )
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
    channels = [
        kind for size, kind in zip(sizes, kinds, strict=True) if kind not in SPACE and size > 1
    ]
    if len(sizes) == 3 and channels == ["time"]:
        return sizes  # as ImageJ calls slices
    left = [
        size
        for size, kind in zip(sizes, kinds, strict=True)
        if kind in ("domain", "space") or size > 1
    ]
    if channels or len(left) > 3:
        what = f" ({', '.join(channels)})" if channels else ""
        raise InputError(f"{stated}{what}; expected x, y, z of one channel and one time.")
    if len(left) == 3 and default_axes(left) == "YXC":
        raise InputError(
            f"{stated}, which looks like one image of {left[-1]} channels; expected x, y, z."
        )
    return left


def _placement(header: Mapping[str, Any], path: Path) -> Placement | None:
    """Where a segmentation of 3D Slicer lies in its image."""
    offset = header.get("Segmentation_ReferenceImageExtentOffset")
    if offset is None:
        return None
    x, y, z = (int(number) for number in str(offset).split())
    geometry = (
        str(header.get("Segmentation_ConversionParameters", ""))
        .partition("Reference image geometry|")[2]
        .partition("|")[0]
    )
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


def _lengths(header: Mapping[str, Any]) -> dict[str, StatedLength]:
    """Edges of a voxel by axis; a world space without units, as 3D Slicer writes it, is in mm."""
    in_space = header.get("space") is not None or header.get("space dimension") is not None
    directions = header.get("space directions")
    if directions is None:
        spacings = _last_three(header.get("spacings"))
        units = _last_three(header.get("units")) or [None] * 3
        edges = [stated_length(edge, unit) for edge, unit in zip(spacings, units, strict=False)]
    else:
        # An axis without a direction, such as that of layers, is none of space.
        rows = [np.asarray(row, float) for row in directions if row is not None]
        vectors = [row for row in rows if not np.isnan(row).all()][-3:]
        units = header.get("space units", header.get("units"))
        space_units = ["mm" if in_space else None] * 3 if units is None else list(units)[-3:]
        edges = [_length_along(vector, space_units) for vector in vectors]
    return dict(zip("xyz", edges, strict=True)) if len(edges) == 3 else {}


def _last_three(values: Any) -> list[Any]:
    """Those of the axes of space: others come before them."""
    return [] if values is None else list(values)[-3:]


def _length_along(vector: NDArray[np.float64], units: Sequence[Any]) -> StatedLength:
    """Length of the step from a voxel to the next, whose components may have units of their own."""
    components = [
        (value, unit) for value, unit in zip(vector.tolist(), units, strict=True) if value
    ]
    if not components:
        return stated_length(0, units[0])
    squares = 0.0
    for value, unit in components:
        length = stated_length(abs(value), unit)
        if length.nm is None:
            return length
        squares += length.nm**2
    return StatedLength(float(np.sqrt(squares)))


def _segments(header: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names of 3D Slicer's segments and their numbers."""
    numbers = {
        key.removesuffix("_LabelValue"): int(value)
        for key, value in header.items()
        if key.endswith("_LabelValue")
    }
    return {
        str(header.get(f"{segment}_Name", segment)): (number,)
        for segment, number in numbers.items()
    }


@dataclass(frozen=True)
class CompressedStack:
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
        with refuse_damaged_file(self.path, f"{self.encoding} NRRD"):
            found = _read(self, start * plane, max(stop - start, 0) * plane)
        if len(found) < max(stop - start, 0) * plane:
            raise InputError(
                f"{self.path.name} ends within slice {start + len(found) // plane} of {self.shape[0]}; is it complete?"
            )
        return np.asarray(
            np.frombuffer(found, self.stored).reshape(-1, *self.shape[1:]), self.dtype
        )


_OPEN: dict[
    CompressedStack, tuple[Any, Any]
] = {}  # the last packed file of this process, where reading stopped


@atexit.register
def _close_all() -> None:
    for one in (opened for pair in _OPEN.values() for opened in pair):
        if one is not None:
            one.close()
    _OPEN.clear()


def _read(stack: CompressedStack, place: int, count: int) -> bytes:
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
    if (
        len(found) < count
        or reader.tell() >= int(np.prod(stack.shape, dtype=np.int64)) * stack.stored.itemsize
    ):
        reader.close()
        file.close()
    else:
        _OPEN[stack] = (file, reader)
    return found
