"""Chunks of the arrays that sparsem writes, read and written one after the other.

Zarr reads and writes in an event loop with threads for every chunk, which takes twice as long for
chunks that the system holds in memory. Arrays of other layouts are left to Zarr.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ZstdCodec

from sparsem.errors import SampleError

# Files that are read or written at the same time, while chunks are decompressed or compressed: a
# disk of another computer answers each only after a while.
FILES_AT_ONCE = 8
DECODER = Zstd()

Ranges = Sequence[tuple[int, int]]


class ChunkPart(NamedTuple):
    """The part of a chunk that lies in a box.

    Attributes:
        numbers: of the chunk, along every axis.
        within: index of the part in the chunk.
        target: index of the part in the box.
    """

    numbers: tuple[int, ...]
    within: tuple[slice, ...]
    target: tuple[slice, ...]


def is_plain(array: "zarr.Array[Any]") -> bool:
    """Return whether an array has the layout that sparsem writes.

    That is Zarr 3 with regular chunks, each a file of little-endian values compressed by zstd.
    """
    codecs: Any = getattr(array.metadata, "codecs", ())  # of Zarr 3
    if len(codecs) != 2:
        return False
    to_bytes, compressor = codecs
    is_little = isinstance(to_bytes, BytesCodec) and (
        array.dtype.itemsize == 1 or to_bytes.endian in ("little", zarr.codecs.Endian.little)
    )
    return is_little and isinstance(compressor, ZstdCodec)


def read_plain(directory: Path, array: "zarr.Array[Any]", box: Ranges) -> NDArray[Any]:
    """Return a box of an array for which ``is_plain`` holds.

    Args:
        directory: folder of the array.
        array: its metadata.
        box: start and stop along every axis, within the array; not empty.

    Raises:
        FileNotFoundError: a chunk is missing.
        RuntimeError, ValueError: a chunk is damaged.
    """
    parts = list(chunk_parts(box, array.chunks))
    paths = [directory / array.metadata.encode_chunk_key(part.numbers) for part in parts]
    values: NDArray[Any] = np.empty([stop - start for start, stop in box], array.dtype)
    for part, content in zip(parts, _contents(paths), strict=True):
        chunk = np.frombuffer(DECODER.decode(content), array.dtype).reshape(array.chunks)
        values[part.target] = chunk[part.within]
    return values


def _contents(paths: Sequence[Path]) -> Iterator[bytes]:
    """Yield the contents of files in order."""
    if len(paths) < FILES_AT_ONCE:
        yield from map(Path.read_bytes, paths)
        return
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        yield from pool.map(Path.read_bytes, paths)


def write_plain(
    directory: Path, array: "zarr.Array[Any]", start: int, values: NDArray[Any]
) -> None:
    """Write whole chunks of an array for which ``is_plain`` holds, from slice ``start`` on.

    The bytes are those that Zarr writes. A file appears when it is complete.

    Args:
        directory: folder of the array.
        array: its metadata.
        start: a multiple of the chunks' depth.
        values: (z, ...), as wide as the array, up to the end of a chunk or of the array.

    Raises:
        OSError: a file cannot be written.
    """
    box = [(start, start + len(values)), *((0, length) for length in array.shape[1:])]
    compressor: Any = array.metadata.codecs[1]  # type: ignore[union-attr]
    encoder = Zstd(compressor.level, compressor.checksum)
    folders: set[Path] = set()
    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        written = []
        for part in chunk_parts(box, array.chunks):
            path = directory / array.metadata.encode_chunk_key(part.numbers)
            if path.parent not in folders:
                path.parent.mkdir(parents=True, exist_ok=True)
                folders.add(path.parent)
            content = encoder.encode(_whole_chunk(values[part.target], array))
            written.append(pool.submit(_write_file, path, content))
    for result in written:
        result.result()  # raises what went wrong


def _whole_chunk(values: NDArray[Any], array: "zarr.Array[Any]") -> NDArray[Any]:
    """Return the values of a chunk, those beyond the end of the array too."""
    if values.shape == array.chunks:
        return np.ascontiguousarray(values)
    chunk = np.full(array.chunks, array.fill_value, array.dtype)
    chunk[tuple(slice(length) for length in values.shape)] = values
    return chunk


def _write_file(path: Path, content: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def chunk_parts(box: Ranges, edges: Sequence[int]) -> Iterator[ChunkPart]:
    """Yield the parts of a box that lie in different chunks.

    Args:
        box: start and stop along every axis; not empty.
        edges: of a chunk, along every axis.

    >>> [part.within for part in chunk_parts([(3, 9)], [4])]
    [(slice(3, 4, None),), (slice(0, 4, None),), (slice(0, 1, None),)]
    """
    ranges = [
        range(start // edge, -(-stop // edge))
        for (start, stop), edge in zip(box, edges, strict=True)
    ]
    for numbers in product(*ranges):
        within = []
        target = []
        for number, (start, stop), edge in zip(numbers, box, edges, strict=True):
            low = max(start, number * edge)
            high = min(stop, (number + 1) * edge)
            within.append(slice(low - number * edge, high - number * edge))
            target.append(slice(low - start, high - start))
        yield ChunkPart(numbers, tuple(within), tuple(target))


def refuse_lost_chunks(directory: Path, array: "zarr.Array[Any]", box: Ranges) -> None:
    """Refuse to read a box of an array whose every chunk was written, if one is missing.

    Raises:
        SampleError: a chunk is missing.
    """
    for part in chunk_parts(box, array.chunks):
        key = array.metadata.encode_chunk_key(part.numbers)
        if (directory / key).is_file():
            continue
        first = part.numbers[0] * array.chunks[0]
        last = min(first + array.chunks[0], array.shape[0]) - 1
        raise SampleError(
            f"{directory} has lost a chunk of its {slices_in_words(first, last)}: {key} "
            "is missing. Compute it again, or copy it again."
        )


def slices_in_words(first: int, last: int) -> str:
    """Return a range of slices as words.

    >>> slices_in_words(3, 3)
    'slice 3'
    """
    return f"slice {first}" if first == last else f"slices {first} to {last}"
