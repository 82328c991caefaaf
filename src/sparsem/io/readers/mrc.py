"""MRC, as IMOD, SerialEM and most electron microscopes write it (CCP4 / MRC2014).

The first row of a file is the lowest one: IMOD and Fiji show it at the bottom, and so do pictures that were saved from there. Rows are
turned round here, so that labels drawn on what these programs show lie where they were drawn.
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
from sparsem.io.readers.mrc_bytes import AMBIGUOUS_FROM, ByteSign, byte_sign
from sparsem.io.readers.source import AxisLengths, Selection, Source, refuse_damaged_file

MRC_ENDINGS = (".mrc", ".rec", ".st", ".ali", ".map", ".mrcs")
HEADER_BYTES = 1024
BIG_ENDIAN = 0x11  # the first byte of the machine stamp; little-endian files have 0x44, and old ones anything
READ = (0, 1, 2, 6, 12)  # modes
MODES = {
    3: "complex integers",
    4: "complex numbers",
    16: "a color image",
    101: "4-bit numbers",
}  # that are known, and not read
MAX_EDGE = 10**6  # px of an image; in the wrong byte order small numbers are far beyond
VOLUME_STACK = 401  # from this space group on a file holds several volumes


def open_mrc(path: Path, pick: Selection) -> Source:
    """An MRC file as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "MRC"):
        header, order_of_bytes = _header(path)
        mode = int(header["mode"])
        if mode in MODES:
            hint = "; convert it with newstack -mode 0 of IMOD" if mode == 101 else ""
            raise InputError(
                f"{path.name} holds {MODES[mode]} (mode {mode}); expected real numbers of 8, 16 or 32 bit{hint}."
            )
        order = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
        if order not in ((1, 2, 3), (0, 0, 0)):
            raise InputError(
                f"{path.name} stores its axes in the order {order}; expected columns, rows, slices (1, 2, 3)."
            )
        shape = _shape(header)
        if header["ispg"] >= VOLUME_STACK and 0 < header["mz"] < shape[0]:
            raise InputError(
                f"{path.name} holds several volumes, {shape[0]} slices in all; expected one stack (z, y, x)."
            )
        stored = mrcfile.utils.dtype_from_mode(mode).newbyteorder(order_of_bytes)
        stack = MappedStack(path, HEADER_BYTES + int(header["nsymbt"]), shape, stored)
        sign = ByteSign()
        if mode == 0:
            sign = byte_sign(
                header, MappedStack(path, stack.offset, shape, np.dtype(np.uint8)), pick.mrc_bytes
            )
            stack = MappedStack(
                path, stack.offset, shape, np.dtype(np.int8 if sign.signed else np.uint8)
            )
        upright = FlippedStack(stack, sign.limited)
        return Source(upright, _voxel(header), (path,), part=pick.mrc_bytes or "", notes=sign.notes)
    raise AssertionError  # the context raises or the block returns


@dataclass(frozen=True)
class FlippedStack:
    """Slices whose last row in the file is the uppermost one.

    Attributes:
        stack: as it lies in the file.
        limited: bytes that mean something else if they are signed are refused: the file does not state whether they are.
    """

    stack: MappedStack
    limited: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return self.stack.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stack.dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        found = np.asarray(self.stack[slices])
        if self.limited and (found >= AMBIGUOUS_FROM).any():
            raise InputError(
                f"{self.stack.path.name} does not state whether its bytes are signed, and some are {AMBIGUOUS_FROM} or more; give "
                "--mrc-bytes signed or --mrc-bytes unsigned."
            )
        return np.ascontiguousarray(found[:, ::-1])


def _header(path: Path) -> tuple[Any, Literal["<", ">"]]:
    """The header, and the byte order in which it makes sense: the stamps of old programs do not state it.

    Raises:
        InputError: it makes sense in neither, or the file is shorter than it states.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(HEADER_BYTES)
    if len(content) < HEADER_BYTES:
        raise InputError(
            f"{path.name} cannot be read as MRC ({size} bytes are fewer than its header has); is it complete?"
        )
    stated: Literal["<", ">"] = ">" if content[212] == BIG_ENDIAN else "<"
    other: Literal["<", ">"] = "<" if stated == ">" else ">"
    orders = (stated, other)
    headers = {
        order: np.frombuffer(content, mrcfile.dtypes.HEADER_DTYPE.newbyteorder(order))[0]
        for order in orders
    }
    plausible = [order for order in orders if _is_plausible(headers[order])]
    complete = [order for order in plausible if _end(headers[order]) <= size]
    is_named = content[208:211] == b"MAP"
    if not plausible or not (complete or is_named):
        raise InputError(
            f"{path.name} cannot be read as MRC (its header makes no sense); is it complete?"
        )
    if not complete:
        needed = _end(headers[plausible[0]])
        raise InputError(
            f"{path.name} cannot be read as MRC (its header states {needed} bytes, it has {size}); is it complete?"
        )
    return headers[complete[0]], complete[0]


def _is_plausible(header: Any) -> bool:
    return (
        int(header["mode"]) in (*READ, *MODES)
        and all(1 <= int(header[name]) <= MAX_EDGE for name in ("nx", "ny", "nz"))
        and all(0 <= int(header[name]) <= 3 for name in ("mapc", "mapr", "maps"))
        and int(header["nsymbt"]) >= 0
    )


def _shape(header: Any) -> tuple[int, int, int]:
    return int(header["nz"]), int(header["ny"]), int(header["nx"])


def _end(header: Any) -> int:
    """Bytes that a file has at least."""
    mode = int(header["mode"])
    bits = 8 * mrcfile.utils.dtype_from_mode(mode).itemsize if mode in READ else 4
    return (
        HEADER_BYTES
        + int(header["nsymbt"])
        + int(np.prod(_shape(header), dtype=np.int64)) * bits // 8
    )


def _voxel(header: Any) -> AxisLengths:
    """Edges in nm. One of zero, or three of exactly one Angstrom, is what programs write that know none."""
    edges = []
    for axis in "zyx":
        intervals = int(header[f"m{axis}"])
        edges.append(float(header["cella"][axis]) / intervals if intervals else 0.0)
    if not np.isfinite(edges).all() or min(edges) <= 0 or set(edges) == {1.0}:
        return None, None, None
    return edges[0] / 10, edges[1] / 10, edges[2] / 10
