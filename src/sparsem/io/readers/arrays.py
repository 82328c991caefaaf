"""Arrays that lie uncompressed in a file, and NumPy's own format, in which scripts save labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.axes import DEFAULT_AXES, default_axes, stack_layout
from sparsem.io.readers.damage import refuse_damaged_file
from sparsem.io.readers.selection import WHOLE_FILE
from sparsem.io.readers.source import NO_LENGTHS, Source

NPY_ENDINGS = (".npy",)


def open_npy(path: Path) -> Source:
    """Open a .npy file as a stack; see ``open_source``. Files that need a pickle are refused."""
    with refuse_damaged_file(path, "NumPy"):
        source = _npy_source(path)
    return source


def _npy_source(path: Path) -> Source:
    """Open an array as a stack; its voxels are read when they are sliced."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    _refuse_other_arrays(array, path)
    axes = DEFAULT_AXES[-array.ndim :]
    _, shape = stack_layout(axes, array.shape, WHOLE_FILE, path.name)
    stack = MappedStack(path, int(array.offset), shape, np.dtype(array.dtype))
    return Source(stack, NO_LENGTHS, (path,))


def _refuse_other_arrays(array: NDArray[Any], path: Path) -> None:
    """Raise an InputError if an array holds no stack of real numbers in C order."""
    is_fortran_order = array.flags.f_contiguous > array.flags.c_contiguous
    if array.ndim not in (2, 3) or array.dtype.kind not in "iufb" or is_fortran_order:
        raise InputError(
            f"{path.name} holds {array.dtype} {array.shape}; "
            "expected numbers, (z, y, x), in C order."
        )
    if default_axes(array.shape) == "YXC":
        raise InputError(
            f"{path.name} holds one image of {array.shape[-1]} channels, {array.shape}; "
            "expected one channel, (z, y, x)."
        )


@dataclass(frozen=True)
class MappedStack:
    """An uncompressed array in a file, read whenever it is sliced.

    Attributes:
        path: the file.
        offset: bytes before the first voxel.
        shape: (z, y, x).
        stored: type of the numbers in the file, with their byte order.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, in native byte order."""
        return self.stored.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        voxels_per_slice = int(np.prod(self.shape[1:], dtype=np.int64))
        n_voxels = max(stop - start, 0) * voxels_per_slice
        first_byte = self.offset + start * voxels_per_slice * self.stored.itemsize
        with self.path.open("rb") as file:
            file.seek(first_byte)
            voxels = np.fromfile(file, self.stored, n_voxels)
        if voxels.size < n_voxels:
            raise InputError(self._end_message(start + voxels.size // voxels_per_slice))
        return np.asarray(voxels.reshape(-1, *self.shape[1:]), self.dtype)

    def _end_message(self, last_slice: int) -> str:
        return (
            f"{self.path.name} ends within slice {last_slice} of {self.shape[0]}; is it complete?"
        )
