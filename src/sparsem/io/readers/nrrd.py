"""NRRD, and the segmentations of 3D Slicer (.seg.nrrd), whose segments have names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.arrays import MappedStack
from sparsem.io.readers.axes import DEFAULT_AXES, default_axes, stack_layout
from sparsem.io.readers.compressed import DECOMPRESSORS, CompressedStack
from sparsem.io.readers.damage import refuse_damaged_file
from sparsem.io.readers.selection import Selection
from sparsem.io.readers.source import Placement, Source, Stack
from sparsem.io.readers.units import (
    StatedLength,
    axis_lengths_nm,
    length_faults,
    stated_length,
)

NRRD_ENDINGS = (".nrrd", ".nhdr")
MAX_HEADER_BYTES = 1 << 24
# NumPy's code of each type of NRRD, without "_t", "signed" and a second "int".
TYPES = {
    "char": "i1",
    "uchar": "u1",
    "short": "i2",
    "ushort": "u2",
    "int": "i4",
    "u": "u4",
    "uint": "u4",
    "long": "i8",
    "ulong": "u8",
    "longlong": "i8",
    "ulonglong": "u8",
    "float": "f4",
    "double": "f8",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
}
# A geometry of 3D Slicer: a matrix, then the first and last voxel along x, y, z.
MATRIX_NUMBERS = 16
GEOMETRY_NUMBERS = MATRIX_NUMBERS + 6
SAME_TOLERANCE = 0.01  # fraction by which two equal voxel lengths may differ
# Kinds of axes that may be one of z, y, x.
SPACE_KINDS = ("domain", "space", "none", "???", "unknown")
SKIP_KEYS = ("line skip", "lineskip", "byte skip", "byteskip")


def open_nrrd(path: Path, selection: Selection) -> Source:
    """Open an NRRD file as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "NRRD"):
        source = _nrrd_source(path, selection)
    return source


def _nrrd_source(path: Path, selection: Selection) -> Source:
    """Open an NRRD file as a stack."""
    header, header_end = _read_header(path)
    data, offset = _data_file(path, header, header_end)
    if any(header.get(key, 0) for key in SKIP_KEYS):
        raise InputError(
            f"{path.name} skips lines or bytes of its data file; save it again as one .nrrd file."
        )
    dtype = _stored_dtype(header)
    if dtype is None:
        raise InputError(f"{path.name} holds {header['type']} numbers; expected real ones.")
    sizes = _space_sizes(header, path)
    _, shape = stack_layout(DEFAULT_AXES[-len(sizes) :], sizes, selection, path.name)
    encoding = str(header["encoding"]).lower()
    if encoding != "raw" and encoding not in DECOMPRESSORS:
        raise InputError(f"{path.name} is encoded as {encoding}; expected raw, gzip or bzip2.")
    stack: Stack = MappedStack(data, offset, shape, dtype)
    if encoding != "raw":
        stack = CompressedStack(data, offset, shape, dtype, encoding)
    files = (path,) if data == path else (path, data)
    return _source_of(stack, header, files)


def _source_of(stack: Stack, header: Mapping[str, Any], files: tuple[Path, ...]) -> Source:
    """Return a stack with the lengths, the names and the position that a header states."""
    lengths = _stated_lengths(header)
    return Source(
        stack,
        axis_lengths_nm(lengths),
        files,
        names=_segment_names(header),
        voxel_faults=length_faults(lengths),
        placement=_placement(header, files[0]),
    )


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header, and the offset of its end.

    Its text is decoded here: the library drops letters beyond ASCII, and would turn µm into m.
    """
    lines = []
    offset = 0
    with path.open("rb") as file:
        for line in file:
            offset += len(line)
            lines.append(_decode(line))
            if not line.strip():
                break
            if offset > MAX_HEADER_BYTES:
                raise InputError(f"{path.name} has no end of its NRRD header; is it complete?")
    return dict(nrrd.read_header(lines)), offset


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _stored_dtype(header: Mapping[str, Any]) -> np.dtype[Any] | None:
    """Return the type of the numbers in the file; None if it is not one of ``TYPES``."""
    words = str(header["type"]).removesuffix("_t").split()
    if len(words) > 1:
        words = [word for word in words if word not in ("int", "signed")]
    code = TYPES.get("".join(words).replace("unsigned", "u"))
    if code is None:
        return None
    is_little_endian = header.get("endian", "little") == "little"
    return np.dtype(code).newbyteorder("<" if is_little_endian else ">")


def _data_file(path: Path, header: Mapping[str, Any], header_end: int) -> tuple[Path, int]:
    """Return the file that holds the numbers, and their offset in it."""
    detached = header.get("data file", header.get("datafile"))
    if detached is None:
        return path, header_end
    file_name = str(detached)
    if isinstance(detached, list) or "%" in file_name or file_name.upper().startswith("LIST"):
        raise InputError(f"{path.name} names several data files; save it again as one .nrrd file.")
    data = path.parent / file_name
    if not data.is_file():
        raise InputError(
            f"{path.name} keeps its numbers in {data.name}, which is not there; "
            "put both files into one folder."
        )
    return data, 0


def _space_sizes(header: Mapping[str, Any], path: Path) -> list[int]:
    """Return the lengths of the axes of space, slowest first.

    Other axes are left out if they have the length one.

    Raises:
        InputError: segments that overlap, channels, or times.
    """
    sizes = [int(size) for size in header["sizes"]][::-1]  # the first axis in a file is the fastest
    kinds = _axis_kinds(header, len(sizes))
    _refuse_layers(sizes, kinds, path)
    axes = list(zip(sizes, kinds, strict=True))
    channels = [kind for size, kind in axes if kind not in SPACE_KINDS and size > 1]
    if len(sizes) == 3 and channels == ["time"]:
        return sizes  # as ImageJ calls slices
    space = [size for size, kind in axes if kind in ("domain", "space") or size > 1]
    _refuse_channels(f"{path.name} has the sizes {sizes[::-1]}", channels, space)
    return space


def _refuse_channels(stated: str, channels: Sequence[str], space: Sequence[int]) -> None:
    """Raise an InputError if there are channels, times, or more than three axes of space."""
    if channels or len(space) > 3:
        listed = f" ({', '.join(channels)})" if channels else ""
        raise InputError(f"{stated}{listed}; expected x, y, z of one channel and one time.")
    if len(space) == 3 and default_axes(space) == "YXC":
        raise InputError(
            f"{stated}, which looks like one image of {space[-1]} channels; expected x, y, z."
        )


def _refuse_layers(sizes: Sequence[int], kinds: Sequence[str], path: Path) -> None:
    """Raise an InputError if segments overlap, and therefore lie in layers."""
    n_layers = sizes[kinds.index("list")] if "list" in kinds else 1
    if n_layers > 1:
        raise InputError(
            f"{path.name} has segments that overlap, in {n_layers} layers; "
            "in 3D Slicer, export them to a labelmap first."
        )


def _axis_kinds(header: Mapping[str, Any], n_axes: int) -> list[str]:
    """Return the kind of each axis, slowest first; if not stated, the last three are of space."""
    kinds = [str(kind).lower() for kind in header.get("kinds", ())][::-1]
    if len(kinds) == n_axes:
        return kinds
    return ["unknown"] * max(n_axes - 3, 0) + ["domain"] * min(n_axes, 3)


def _placement(header: Mapping[str, Any], path: Path) -> Placement | None:
    """Return the position of a segmentation of 3D Slicer in its image; None for other files."""
    offset = header.get("Segmentation_ReferenceImageExtentOffset")
    if offset is None:
        return None
    x, y, z = (int(number) for number in str(offset).split())
    numbers = _image_geometry(header)
    if len(numbers) != GEOMETRY_NUMBERS:
        return Placement((z, y, x), None)
    _refuse_other_voxels(numbers, header, path)
    x0, x1, y0, y1, z0, z1 = (int(number) for number in numbers[MATRIX_NUMBERS:])
    image_shape = (z1 - z0 + 1, y1 - y0 + 1, x1 - x0 + 1)
    return Placement((z - z0, y - y0, x - x0), image_shape)


def _image_geometry(header: Mapping[str, Any]) -> list[float]:
    """Return the numbers of the geometry of the image that a segmentation was drawn on."""
    parameters = str(header.get("Segmentation_ConversionParameters", ""))
    _, _, after_key = parameters.partition("Reference image geometry|")
    geometry, _, _ = after_key.partition("|")
    return [float(number) for number in geometry.split(";") if number.strip()]


def _refuse_other_voxels(numbers: list[float], header: Mapping[str, Any], path: Path) -> None:
    """Refuse a segmentation with other voxels than its image: its offset counts other voxels."""
    rows = [row for row in header.get("space directions", ()) if row is not None]
    edges = sorted(float(np.linalg.norm(np.asarray(row, float))) for row in rows)
    matrix = np.reshape(numbers[:MATRIX_NUMBERS], (4, 4))
    image_edges = sorted(np.linalg.norm(matrix[:3, :3], axis=0).tolist())
    if len(edges) != 3 or not np.isfinite(edges).all():
        return
    if not np.allclose(edges, image_edges, rtol=SAME_TOLERANCE):
        raise InputError(
            f"{path.name} has other voxels than the image it was drawn on; in 3D Slicer, export it "
            "as a labelmap with the image as its reference."
        )


def _stated_lengths(header: Mapping[str, Any]) -> dict[str, StatedLength]:
    """Return the edges of a voxel by axis.

    A world space without units, as 3D Slicer writes it, is in mm.
    """
    if header.get("space directions") is None:
        edges = _lengths_of_spacings(header)
    else:
        edges = _lengths_of_directions(header)
    return dict(zip("xyz", edges, strict=True)) if len(edges) == 3 else {}


def _lengths_of_spacings(header: Mapping[str, Any]) -> list[StatedLength]:
    spacings = _last_three(header.get("spacings"))
    units = _last_three(header.get("units")) or [None] * 3
    return [stated_length(edge, unit) for edge, unit in zip(spacings, units, strict=False)]


def _lengths_of_directions(header: Mapping[str, Any]) -> list[StatedLength]:
    rows = [np.asarray(row, float) for row in header["space directions"] if row is not None]
    # An axis without a direction, such as that of layers, is none of space.
    vectors = [row for row in rows if not np.isnan(row).all()][-3:]
    units = header.get("space units", header.get("units"))
    if units is None:
        in_space = header.get("space") is not None or header.get("space dimension") is not None
        space_units: list[Any] = ["mm" if in_space else None] * 3
    else:
        space_units = list(units)[-3:]
    return [_length_along(vector, space_units) for vector in vectors]


def _last_three(values: Any) -> list[Any]:
    """Return the values of the axes of space: others come before them."""
    return [] if values is None else list(values)[-3:]


def _length_along(vector: NDArray[np.float64], units: Sequence[Any]) -> StatedLength:
    """Return the length of the step from a voxel to the next; its components have units."""
    components = [
        (value, unit) for value, unit in zip(vector.tolist(), units, strict=True) if value
    ]
    if not components:
        return stated_length(0, units[0])
    sum_of_squares = 0.0
    for value, unit in components:
        length = stated_length(abs(value), unit)
        if length.nm is None:
            return length
        sum_of_squares += length.nm**2
    return StatedLength(float(np.sqrt(sum_of_squares)))


def _segment_names(header: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the number of each segment of 3D Slicer by its name."""
    names: dict[str, tuple[int, ...]] = {}
    for key, value in header.items():
        if key.endswith("_LabelValue"):
            segment = key.removesuffix("_LabelValue")
            name = str(header.get(f"{segment}_Name", segment))
            names[name] = (int(value),)
    return names
