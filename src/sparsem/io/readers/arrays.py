"""Numbers that lie in a file as they are, and NumPy's own format, as scripts save labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.source import (
    DEFAULT_AXES,
    Selection,
    Source,
    default_axes,
    refuse_damaged_file,
    stack_layout,
)

NPY_ENDINGS = (".npy",)


def open_npy(path: Path) -> Source:
    """A .npy file as a stack; see ``open_source``. Files that would need a pickle are refused."""
    with refuse_damaged_file(path, "NumPy"):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if (
            array.ndim not in (2, 3)
            or array.dtype.kind not in "iufb"
            or array.flags.f_contiguous > array.flags.c_contiguous
        ):
            raise InputError(
                f"{path.name} holds {array.dtype} {array.shape}; expected numbers, (z, y, x), in C order."
            )
        if default_axes(array.shape) == "YXC":
            raise InputError(
                f"{path.name} holds one image of {array.shape[-1]} channels, {array.shape}; expected one channel, (z, y, x)."
            )
        _, shape = stack_layout(DEFAULT_AXES[-array.ndim :], array.shape, Selection(), path.name)
        return Source(
            MappedStack(path, int(array.offset), shape, np.dtype(array.dtype)),
            (None, None, None),
            (path,),
        )
    raise AssertionError  # the context raises or the block returns


@dataclass(frozen=True)
class MappedStack:
    """Numbers that lie in a file as they are, mapped into memory whenever they are sliced."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    stored: np.dtype[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stored.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        plane = int(np.prod(self.shape[1:], dtype=np.int64))
        wanted = max(stop - start, 0) * plane
        with self.path.open("rb") as file:
            file.seek(self.offset + start * plane * self.stored.itemsize)
            found = np.fromfile(file, self.stored, wanted)
        if found.size < wanted:
            raise InputError(
                f"{self.path.name} ends within slice {start + found.size // plane} of {self.shape[0]}; is it complete?"
            )
        return np.asarray(found.reshape(-1, *self.shape[1:]), self.dtype)
