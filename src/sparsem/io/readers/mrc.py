"""MRC, as IMOD, SerialEM and most electron microscopes write it (CCP4 / MRC2014).

The first row of a file is the lowest one: IMOD and Fiji show it at the bottom, and so do images
that were saved from there. Rows are flipped on reading, so that labels lie where they were drawn in
these programs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mrcfile.dtypes
import mrcfile.utils
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.arrays import MappedStack
from sparsem.io.readers.damage import refuse_damaged_file
from sparsem.io.readers.mrc_bytes import AMBIGUOUS_FROM, ByteSign, byte_sign
from sparsem.io.readers.selection import Selection
from sparsem.io.readers.source import NO_LENGTHS, AxisLengths, Source

MRC_ENDINGS = (".mrc", ".rec", ".st", ".ali", ".map", ".mrcs")
HEADER_BYTES = 1024
MACHINE_STAMP = 212  # its first byte
BIG_ENDIAN = 0x11  # stamp of big-endian files; little-endian ones have 0x44, old ones any
FORMAT_NAME = slice(208, 211)  # of a header: MAP
READABLE_MODES = (0, 1, 2, 6, 12)
BYTES_MODE = 0
FOUR_BIT_MODE = 101
UNREADABLE_MODES = {
    3: "complex integers",
    4: "complex numbers",
    16: "a color image",
    FOUR_BIT_MODE: "4-bit numbers",
}
MAX_EDGE = 10**6  # px of an image; in the wrong byte order small numbers are far beyond
VOLUME_STACK = 401  # from this space group on a file holds several volumes

ByteOrder = Literal["<", ">"]


def open_mrc(path: Path, selection: Selection) -> Source:
    """Open an MRC file as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "MRC"):
        source = _mrc_source(path, selection)
    return source


def _mrc_source(path: Path, selection: Selection) -> Source:
    header, byte_order = _read_header(path)
    _refuse_unreadable(header, path)
    mode = int(header["mode"])
    shape = _shape(header)
    offset = HEADER_BYTES + int(header["nsymbt"])
    sign = ByteSign()
    if mode == BYTES_MODE:
        unsigned_bytes = MappedStack(path, offset, shape, np.dtype(np.uint8))
        sign = byte_sign(header, unsigned_bytes, selection.mrc_bytes)
        stored = np.dtype(np.int8 if sign.signed else np.uint8)
    else:
        stored = mrcfile.utils.dtype_from_mode(mode).newbyteorder(byte_order)
    stack = FlippedStack(MappedStack(path, offset, shape, stored), sign.limited)
    part = selection.mrc_bytes or ""
    return Source(stack, _voxel_lengths(header), (path,), part=part, notes=sign.notes)


def _refuse_unreadable(header: Any, path: Path) -> None:
    """Refuse a file whose numbers, axes or volumes are not read."""
    mode = int(header["mode"])
    if mode in UNREADABLE_MODES:
        hint = "; convert it with newstack -mode 0 of IMOD" if mode == FOUR_BIT_MODE else ""
        raise InputError(
            f"{path.name} holds {UNREADABLE_MODES[mode]} (mode {mode}); "
            f"expected real numbers of 8, 16 or 32 bit{hint}."
        )
    axes = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
    if axes not in ((1, 2, 3), (0, 0, 0)):
        raise InputError(
            f"{path.name} stores its axes in the order {axes}; "
            "expected columns, rows, slices (1, 2, 3)."
        )
    n_slices = _shape(header)[0]
    if header["ispg"] >= VOLUME_STACK and 0 < header["mz"] < n_slices:
        raise InputError(
            f"{path.name} holds several volumes, {n_slices} slices in all; "
            "expected one stack (z, y, x)."
        )


@dataclass(frozen=True)
class FlippedStack:
    """A stack whose slices are flipped: the last row in the file is the uppermost one.

    Attributes:
        stack: as it lies in the file.
        limited: refuse bytes that would mean something else if they were signed: the file does not
            state whether they are.
    """

    stack: MappedStack
    limited: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (z, y, x)."""
        return self.stack.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.stack.dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        voxels = np.asarray(self.stack[slices])
        if self.limited and (voxels >= AMBIGUOUS_FROM).any():
            raise InputError(
                f"{self.stack.path.name} does not state whether its bytes are signed, "
                f"and some are {AMBIGUOUS_FROM} or more; "
                "give --mrc-bytes signed or --mrc-bytes unsigned."
            )
        return np.ascontiguousarray(voxels[:, ::-1])


def _read_header(path: Path) -> tuple[Any, ByteOrder]:
    """Return the header, and the byte order in which it is plausible.

    The stamps of old programs do not state the byte order.

    Raises:
        InputError: it is plausible in neither, or the file is shorter than it states.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(HEADER_BYTES)
    if len(content) < HEADER_BYTES:
        raise InputError(
            f"{path.name} cannot be read as MRC ({size} bytes are fewer than its header has); "
            "is it complete?"
        )
    plausible = [decoded for decoded in _decode_header(content) if _is_plausible(decoded[0])]
    for header, byte_order in plausible:
        if _needed_bytes(header) <= size:
            return header, byte_order
    has_format_name = content[FORMAT_NAME] == b"MAP"
    if not plausible or not has_format_name:
        raise InputError(
            f"{path.name} cannot be read as MRC (its header makes no sense); is it complete?"
        )
    needed = _needed_bytes(plausible[0][0])
    raise InputError(
        f"{path.name} cannot be read as MRC "
        f"(its header states {needed} bytes, it has {size}); is it complete?"
    )


def _decode_header(content: bytes) -> list[tuple[Any, ByteOrder]]:
    """Return the header in both byte orders, first the one that its machine stamp states."""
    byte_orders: tuple[ByteOrder, ByteOrder] = ("<", ">")
    if content[MACHINE_STAMP] == BIG_ENDIAN:
        byte_orders = (">", "<")
    decoded = []
    for byte_order in byte_orders:
        dtype = mrcfile.dtypes.HEADER_DTYPE.newbyteorder(byte_order)
        decoded.append((np.frombuffer(content, dtype)[0], byte_order))
    return decoded


def _is_plausible(header: Any) -> bool:
    return (
        int(header["mode"]) in (*READABLE_MODES, *UNREADABLE_MODES)
        and all(1 <= int(header[name]) <= MAX_EDGE for name in ("nx", "ny", "nz"))
        and all(0 <= int(header[name]) <= 3 for name in ("mapc", "mapr", "maps"))
        and int(header["nsymbt"]) >= 0
    )


def _shape(header: Any) -> tuple[int, int, int]:
    """Return (z, y, x)."""
    return int(header["nz"]), int(header["ny"]), int(header["nx"])


def _needed_bytes(header: Any) -> int:
    """Return the bytes that a file has at least."""
    mode = int(header["mode"])
    bits = 4
    if mode in READABLE_MODES:
        bits = 8 * mrcfile.utils.dtype_from_mode(mode).itemsize
    n_voxels = int(np.prod(_shape(header), dtype=np.int64))
    return HEADER_BYTES + int(header["nsymbt"]) + n_voxels * bits // 8


def _voxel_lengths(header: Any) -> AxisLengths:
    """Return the edges of a voxel in nm.

    Programs that know no length write zero, or exactly one Angstrom for all three.
    """
    edges_angstrom = []
    for axis in "zyx":
        n_intervals = int(header[f"m{axis}"])
        cell = float(header["cella"][axis])
        edges_angstrom.append(cell / n_intervals if n_intervals else 0.0)
    is_known = np.isfinite(edges_angstrom).all() and min(edges_angstrom) > 0
    if not is_known or set(edges_angstrom) == {1.0}:
        return NO_LENGTHS
    z, y, x = edges_angstrom
    return z / 10, y / 10, x / 10
