"""Arrays that lie compressed in a file, and can only be read from the front."""

import atexit
import bz2
import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.damage import refuse_damaged_file

# Functions that open a compressed stream, by the name of the encoding.
DECOMPRESSORS: dict[str, Any] = {
    "gzip": gzip.open,
    "gz": gzip.open,
    "bzip2": bz2.open,
    "bz2": bz2.open,
}
SKIP_BYTES = 1 << 24  # decompressed at once while slices are skipped


@dataclass(frozen=True)
class CompressedStack:
    """A compressed array in a file: reading on is fast, and going back is not.

    Attributes:
        path: the file.
        offset: bytes before the compressed ones.
        shape: (z, y, x).
        stored: type of the numbers in the file, with their byte order.
        encoding: one of ``DECOMPRESSORS``.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    encoding: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, in native byte order."""
        return self.stored.newbyteorder("=")

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels, decompressed."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.stored.itemsize

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        slice_bytes = int(np.prod(self.shape[1:], dtype=np.int64)) * self.stored.itemsize
        n_bytes = max(stop - start, 0) * slice_bytes
        with refuse_damaged_file(self.path, f"{self.encoding} NRRD"):
            content = _read(self, start * slice_bytes, n_bytes)
        if len(content) < n_bytes:
            raise InputError(self._end_message(start + len(content) // slice_bytes))
        voxels = np.frombuffer(content, self.stored).reshape(-1, *self.shape[1:])
        return np.asarray(voxels, self.dtype)

    def _end_message(self, last_slice: int) -> str:
        return (
            f"{self.path.name} ends within slice {last_slice} of {self.shape[0]}; is it complete?"
        )


# The compressed file that this process read last, (file, reader), where reading stopped.
_OPEN: dict[CompressedStack, tuple[Any, Any]] = {}


@atexit.register
def _close_all() -> None:
    for file, reader in _OPEN.values():
        for stream in (file, reader):
            if stream is not None:
                stream.close()
    _OPEN.clear()


def _read(stack: CompressedStack, position: int, count: int) -> bytes:
    """Return ``count`` decompressed bytes from a position on; fewer at the end of the file.

    The file stays open for the slices that follow, until its last voxel was read.
    """
    file, reader = _OPEN.pop(stack, (None, None))
    if reader is None or reader.tell() > position:
        _OPEN[stack] = (file, reader)
        _close_all()
        file, reader = _open_stream(stack)
    try:
        _skip_to(reader, position)
        content: bytes = reader.read(count)
    except BaseException:
        reader.close()
        file.close()
        raise
    if len(content) < count or reader.tell() >= stack.nbytes:
        reader.close()
        file.close()
    else:
        _OPEN[stack] = (file, reader)
    return content


def _open_stream(stack: CompressedStack) -> tuple[Any, Any]:
    """Open the file of a stack, and return it and the reader of its decompressed bytes."""
    file = stack.path.open("rb")
    file.seek(stack.offset)
    return file, DECOMPRESSORS[stack.encoding](file, "rb")


def _skip_to(reader: Any, position: int) -> None:
    """Decompress up to a position, or to the end of the file."""
    while reader.tell() < position:
        if not reader.read(min(SKIP_BYTES, position - reader.tell())):
            return
