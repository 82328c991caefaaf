"""MRC, as IMOD, SerialEM and most electron microscopes write it (CCP4 / MRC2014).

The first row of a file is the lowest one: IMOD and Fiji show it at the bottom, and so do pictures that were saved from there. Rows are
turned round here, so that labels drawn on what these programs show lie where they were drawn.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.store.readers.arrays import MappedStack
from sparsem.store.readers.source import Axes, Source, sentences

MRC_ENDINGS = (".mrc", ".rec", ".st", ".ali", ".map", ".mrcs")
IMOD = 1146047817  # its stamp at byte 152; bit 0 of the number after it says that bytes are signed


def open_mrc(path: Path) -> Source:
    """An MRC file as a stack; see ``open_source``."""
    with sentences(path, "MRC"), mrcfile.mmap(path, mode="r") as file:
        data, header = file.data, file.header
        order = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
        if data is None or data.ndim not in (2, 3) or not all(data.shape):
            raise InputError(f"{path.name} holds {'no data' if data is None else f'an array {data.shape}'}; expected a stack (z, y, x).")
        if order not in ((1, 2, 3), (0, 0, 0)):
            raise InputError(f"{path.name} stores its axes in the order {order}; expected columns, rows, slices (1, 2, 3).")
        if data.dtype.kind not in "iuf":
            raise InputError(f"{path.name} holds {data.dtype} numbers; expected real ones.")
        offset = 1024 + int(header.nsymbt)
        kind = np.dtype(data.dtype)
        if kind == np.int8 and _bytes_are_unsigned(path):
            kind = np.dtype(np.uint8)
        shape = (1, *data.shape) if data.ndim == 2 else data.shape
        # An edge of zero, or of exactly one Angstrom, is what programs write that know none.
        edges = [float(file.voxel_size[axis]) for axis in "zyx"]
        voxel: Axes = (None, None, None)
        if all(np.isfinite(edges)) and min(edges) > 0 and set(edges) != {1.0}:
            voxel = (edges[0] / 10, edges[1] / 10, edges[2] / 10)
        return Source(UprightStack(MappedStack(path, offset, shape, kind)), voxel, (path,))
    raise AssertionError  # the context raises or the block returns


@dataclass(frozen=True)
class UprightStack:
    """Slices whose last row in the file is the uppermost one."""

    stack: MappedStack

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return self.stack.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stack.dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        return np.ascontiguousarray(np.asarray(self.stack[slices])[:, ::-1])


def _bytes_are_unsigned(path: Path) -> bool:
    """IMOD stores bytes of mode 0 unsigned unless it says that they are signed; other programs, signed."""
    with path.open("rb") as file:
        file.seek(152)
        stamp, flags = struct.unpack("<2i", file.read(8))
    return stamp == IMOD and not flags & 1
