"""An array on disk whose decoded chunks are kept in memory.

A viewer reads slice by slice, and a chunk is as deep as a z-block, so the next slices lie in chunks
that are decoded already. Objects that are measured one after the other share chunks, too.
"""

import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparsem.store.chunks import chunk_parts
from sparsem.store.lazy import Index, box_and_rest
from sparsem.store.volume import Volume

READERS = 4  # chunks that are decoded at the same time

Key = tuple[str, tuple[int, ...]]


class ChunkCache:
    """Decoded chunks of any number of arrays, up to a size in memory; the oldest are dropped.

    Args:
        max_bytes: memory of all chunks together.
    """

    def __init__(self, max_bytes: int = 1_000_000_000) -> None:
        self._max_bytes = max_bytes
        self._chunks: OrderedDict[Key, NDArray[Any]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(READERS)

    def chunks(
        self, volume: Volume, level: int, indices: list[tuple[int, ...]]
    ) -> list[NDArray[Any]]:
        """Return chunks (z, y, x) of a level of a volume; those that are missing are decoded."""
        name = f"{volume.directory}/{level} {volume.fingerprint}"
        keys = [(name, index) for index in indices]
        with self._lock:
            present = {key: self._chunks[key] for key in keys if key in self._chunks}
            for key in present:
                self._chunks.move_to_end(key)
        missing = [key for key in keys if key not in present]
        decoded = self._pool.map(lambda key: _decode(volume, level, key[1]), missing)
        for key, chunk in zip(missing, decoded, strict=True):
            present[key] = chunk
            self._keep(key, chunk)
        return [present[key] for key in keys]

    def _keep(self, key: Key, chunk: NDArray[Any]) -> None:
        with self._lock:
            if key not in self._chunks:
                self._chunks[key] = chunk
                self._bytes += chunk.nbytes
            while self._bytes > self._max_bytes and len(self._chunks) > 1:
                _, dropped = self._chunks.popitem(last=False)
                self._bytes -= dropped.nbytes


def _decode(volume: Volume, level: int, index: tuple[int, ...]) -> NDArray[Any]:
    """Return a chunk (z, y, x) of a level.

    Raises:
        SampleError: the chunk is damaged or lost.
    """
    snapshot = volume.snapshot.levels[level]
    lengths = zip(index, snapshot.chunks, snapshot.shape, strict=True)
    box = tuple(slice(n * edge, min((n + 1) * edge, length)) for n, edge, length in lengths)
    return volume.lazy(level)[box]


class CachedArray:
    """A level of a volume that reads like a numpy array (z, y, x) and keeps decoded chunks.

    Args:
        volume: the volume.
        level: level of the pyramid; 0 is the full resolution.
        cache: where decoded chunks are kept.
    """

    def __init__(self, volume: Volume, level: int, cache: ChunkCache) -> None:
        self._volume = volume
        self._level = level
        self._cache = cache
        snapshot = volume.snapshot.levels[level]
        self.shape: tuple[int, ...] = snapshot.shape
        self.dtype: np.dtype[Any] = snapshot.dtype
        self.ndim = 3
        self._edges = snapshot.chunks

    @property
    def size(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=np.int64))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Return a part of the array, by integers, slices and ``...``.

        Raises:
            IndexError: an integer lies outside of the array, or there are more than three.
            SampleError: a chunk is damaged or lost.
        """
        box, within = box_and_rest(index, self.shape)
        part: NDArray[Any] = self._box(box)[within]
        return part

    def _box(self, axes: list[tuple[int, int]]) -> NDArray[Any]:
        """Return the voxels between start and stop of each axis, put together from chunks."""
        box = np.empty([stop - start for start, stop in axes], self.dtype)
        if not box.size:
            return box
        parts = list(chunk_parts(axes, self._edges))
        # A few at a time: the box and all of its chunks together may not fit into memory.
        for first in range(0, len(parts), READERS):
            batch = parts[first : first + READERS]
            numbers = [part.numbers for part in batch]
            chunks = self._cache.chunks(self._volume, self._level, numbers)
            for part, chunk in zip(batch, chunks, strict=True):
                box[part.target] = chunk[part.within]
        return box


def cached_levels(volume: Volume, cache: ChunkCache) -> list[CachedArray]:
    """Return all levels of a volume, the full resolution first."""
    return [CachedArray(volume, level, cache) for level in range(volume.levels)]
