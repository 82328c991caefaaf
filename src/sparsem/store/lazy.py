"""An array on disk, read when it is sliced. We write every chunk, so one that is not there is lost: it must not read as zeros."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.errors import SampleError


@dataclass(frozen=True)
class LazyArray:
    """A picklable handle on a Zarr array.

    Attributes:
        directory: of the array.
        whole: every chunk was written; of an array made elsewhere chunks of zeros may have been left out.
    """

    directory: Path
    whole: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return tuple(self._array().shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its numbers."""
        return np.dtype(self._array().dtype)

    def __getitem__(self, box: slice | tuple[slice, ...]) -> NDArray[Any]:
        """A box of it.

        Raises:
            SampleError: a chunk of the box is damaged or lost.
        """
        array, slices = self._array(), box if isinstance(box, tuple) else (box,)
        bounds = [one.indices(length)[:2] for one, length in zip(slices, array.shape, strict=False)]
        bounds += [(0, length) for length in array.shape[len(slices) :]]
        if self.whole and all(start < stop for start, stop in bounds):
            self._refuse_lost(array, bounds)
        try:
            return np.asarray(array[slices])
        except (RuntimeError, ValueError) as error:  # what codecs raise
            raise SampleError(
                f"{self.directory} is damaged within slices {bounds[0][0]} to {bounds[0][1] - 1} ({error}); "
                "make it anew, or put a copy in its place."
            ) from None

    def _array(self) -> "zarr.Array[Any]":
        return zarr.open_array(store=self.directory, mode="r")

    def _refuse_lost(self, array: "zarr.Array[Any]", bounds: list[tuple[int, int]]) -> None:
        chunks = (
            range(start // edge, -(-stop // edge))
            for (start, stop), edge in zip(bounds, array.chunks, strict=True)
        )
        for place in product(*chunks):
            chunk = array.metadata.encode_chunk_key(place)
            if not (self.directory / chunk).is_file():
                first = place[0] * array.chunks[0]
                last = min(first + array.chunks[0], array.shape[0]) - 1
                lost = f"has lost a piece of its slices {first} to {last}: {chunk} is not there"
                raise SampleError(f"{self.directory} {lost}; make it anew, or copy it again.")
