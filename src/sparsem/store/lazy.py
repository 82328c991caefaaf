"""An array on disk that is read when it is sliced.

sparsem writes every chunk of its volumes. So a chunk that is missing was lost, and must not read as
zeros.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import EllipsisType
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.store.chunks import is_plain, read_plain, refuse_lost_chunks, slices_in_words

KEPT_ARRAYS = 256  # whose metadata stay in memory

AxisIndex = int | np.integer[Any] | slice | EllipsisType
Index = AxisIndex | tuple[AxisIndex, ...]


@dataclass(frozen=True)
class LazyArray:
    """A picklable handle on a Zarr array.

    Attributes:
        directory: folder of the array.
        is_complete: every chunk was written; other programs may leave out chunks of zeros.
    """

    directory: Path
    is_complete: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return tuple(self._array().shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the values."""
        return np.dtype(self._array().dtype)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Return a part of the array, by integers, slices and ``...`` as of a numpy array.

        Raises:
            IndexError: an integer lies outside of the array, or there are more indices than axes.
            SampleError: a chunk of the part is damaged or lost.
        """
        array = self._array()
        box, within = box_and_rest(index, array.shape)
        is_empty = any(start >= stop for start, stop in box)
        if is_empty:
            lengths = [max(0, stop - start) for start, stop in box]
            return np.asarray(np.empty(lengths, array.dtype)[within])
        try:
            values = self._read(array, box)
        except (RuntimeError, ValueError) as error:  # the errors of codecs
            slices_text = slices_in_words(box[0][0], box[0][1] - 1)
            raise SampleError(
                f"{self.directory} is damaged within {slices_text} ({error}); "
                "compute it again, or replace it by a copy."
            ) from None
        part: NDArray[Any] = values[within]
        return part

    def _read(self, array: "zarr.Array[Any]", box: list[tuple[int, int]]) -> NDArray[Any]:
        """Return a box of the array that is not empty."""
        if self.is_complete and is_plain(array):
            try:
                return read_plain(self.directory, array, box)
            except FileNotFoundError:
                refuse_lost_chunks(self.directory, array, box)
                raise
        if self.is_complete:
            refuse_lost_chunks(self.directory, array, box)
        return np.asarray(array[tuple(slice(start, stop) for start, stop in box)])

    def _array(self) -> "zarr.Array[Any]":
        try:
            status = (self.directory / "zarr.json").stat()
        except OSError:
            return zarr.open_array(store=self.directory, mode="r")  # its error says what is missing
        return _open_once(self.directory, status.st_mtime_ns, status.st_ino, status.st_size)


@lru_cache(maxsize=KEPT_ARRAYS)
def _open_once(directory: Path, modified_ns: int, inode: int, size: int) -> "zarr.Array[Any]":
    """Return the array in a folder; its metadata are parsed once as long as they are the same."""
    return zarr.open_array(store=directory, mode="r")


def box_and_rest(
    index: Index, shape: tuple[int, ...]
) -> tuple[list[tuple[int, int]], tuple[Any, ...]]:
    """Return the box (start, stop) to read along each axis, and the index within what is read.

    Steps and integers are applied to the box in memory, so that Zarr reads plain boxes only.
    """
    parts = [
        _range_and_rest(part, axis, length)
        for axis, (part, length) in enumerate(zip(_full_index(index, shape), shape, strict=True))
    ]
    box = [axis_range for axis_range, _ in parts]
    within = tuple(rest for _, rest in parts)
    return box, within


def _full_index(index: Index, shape: tuple[int, ...]) -> list[Any]:
    """Return an integer or a slice for each axis.

    Raises:
        IndexError: there are more indices than axes.
    """
    indices = list(index) if isinstance(index, tuple) else [index]
    n_missing = len(shape) - len([part for part in indices if part is not Ellipsis])
    if n_missing < 0:
        raise IndexError(f"The array has {len(shape)} axes; got {len(indices)} indices.")
    if Ellipsis not in indices:
        return [*indices, *[slice(None)] * n_missing]
    position = indices.index(Ellipsis)
    return [*indices[:position], *[slice(None)] * n_missing, *indices[position + 1 :]]


def _range_and_rest(part: Any, axis: int, length: int) -> tuple[tuple[int, int], slice | int]:
    """Return the range to read along an axis, and the index within it.

    Raises:
        IndexError: an integer lies outside of the axis.
    """
    if not isinstance(part, slice):
        number = int(part)
        if not -length <= number < length:
            raise IndexError(f"Index {number} is outside of axis {axis}, which has {length}.")
        number %= length
        return (number, number + 1), 0
    start, stop, step = part.indices(length)
    rest = slice(None, None, step)
    if step > 0:
        return (start, max(start, stop)), rest
    positions = range(start, stop, step)
    if not positions:
        return (0, 0), rest
    return (positions[-1], start + 1), rest
