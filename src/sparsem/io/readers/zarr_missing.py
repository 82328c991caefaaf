"""Chunks of a Zarr array that were never written.

They are found from the names of its files and the indexes of its shards; no voxel is read.
"""

import os
from collections.abc import Callable, Collection
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from sparsem.errors import InputError
from sparsem.io.readers.axes import Index
from sparsem.io.readers.missing import (
    ChunkGrid,
    MissingBoxes,
    MissingParts,
    fill_number,
    missing_from_stack,
)

# Offset and length of an inner chunk that was never written, in the index of a shard.
EMPTY = 2**64 - 1
CHECKSUM_BYTES = 4  # CRC32C behind the index

KeyOf = Callable[[tuple[int, ...]], str]


def missing_chunks(
    array: "zarr.Array[Any]", directory: Path, index: Index, name: str
) -> tuple[MissingParts, ...]:
    """Return the chunks that a stack lacks.

    Args:
        array: the array that holds the stack.
        directory: of the array.
        index: the position of the stack in the array.
        name: of the array, for messages.

    Raises:
        InputError: no chunk has the name that the metadata give it, but files with the names of
            another encoding are there; a shard is damaged.
    """
    files = _files_in(directory)
    key_of: KeyOf = array.metadata.encode_chunk_key
    file_grid = ChunkGrid(array.shape, array.shards or array.chunks, index)
    present = _has_file(file_grid, key_of, files)
    if not present.any():
        _refuse_other_encodings(file_grid, key_of, files, directory, name)
    chunk_grid = file_grid
    if array.shards is not None:
        chunk_grid = ChunkGrid(array.shape, array.chunks, index)
        present = _written_in_shards(array, directory, file_grid, chunk_grid, present)
    if present.all():
        return ()
    chunk_key = key_of if array.shards is None else str
    fill = fill_number(array.fill_value)
    lacking = _lacking_chunks(chunk_grid, ~present, chunk_key, fill)
    return missing_from_stack(name, lacking, index, present.size)


def _has_file(grid: ChunkGrid, key_of: KeyOf, files: Collection[str]) -> NDArray[np.bool_]:
    """Return which chunks have a file, in the shape of the grid."""
    has_file = [key_of(position) in files for position in product(*grid.ranges)]
    return np.array(has_file, bool).reshape(grid.empty().shape)


def _lacking_chunks(
    grid: ChunkGrid, is_missing: NDArray[np.bool_], key_of: KeyOf, fill: float
) -> MissingBoxes:
    """Return the boxes of missing chunks, and their names."""
    positions = grid.positions(is_missing)

    def chunk_name(number: int) -> str:
        return key_of(tuple(positions[number].tolist()))

    return MissingBoxes("chunk", grid.boxes(is_missing), chunk_name, fill, sparse=True)


def _files_in(directory: Path, prefix: str = "") -> set[str]:
    """Return the paths of all files below a folder, relative to it, with slashes.

    Links whose target is missing are left out.
    """
    files: set[str] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file():
                files.add(prefix + entry.name)
            elif entry.is_dir():
                files |= _files_in(Path(entry.path), f"{prefix}{entry.name}/")
    return files


class _KeyEncoding(NamedTuple):
    """An encoding of the names of chunks: version 2, or the default of version 3."""

    name: str
    separator: str

    def key(self, position: tuple[int, ...]) -> str:
        """Return the name of the chunk at a position."""
        numbers = [str(number) for number in position]
        return self.separator.join(numbers if self.name == "v2" else ["c", *numbers])

    def metadata_entry(self, metadata_file: str) -> str:
        """Return the entry of the metadata that states this encoding."""
        if metadata_file == ".zarray":
            return f'"dimension_separator": "{self.separator}"'
        configuration = f'{{"separator": "{self.separator}"}}'
        return f'"chunk_key_encoding": {{"name": "{self.name}", "configuration": {configuration}}}'


KEY_ENCODINGS = (
    _KeyEncoding("v2", "."),
    _KeyEncoding("v2", "/"),
    _KeyEncoding("default", "/"),
    _KeyEncoding("default", "."),
)


def _refuse_other_encodings(
    grid: ChunkGrid, key_of: KeyOf, files: set[str], directory: Path, name: str
) -> None:
    """Refuse an array whose chunks have names of another encoding: it would be read as empty."""
    for position in product(*grid.ranges):
        for encoding in KEY_ENCODINGS:
            key = encoding.key(position)
            if key not in files:
                continue
            candidates = (".zarray", "zarr.json")
            metadata_file = next(file for file in candidates if (directory / file).is_file())
            raise InputError(
                f"{name} has chunks named {key}, but its metadata call them {key_of(position)}; "
                f"write {encoding.metadata_entry(metadata_file)} "
                f"into {directory.name}/{metadata_file}."
            )


def _written_in_shards(
    array: "zarr.Array[Any]",
    directory: Path,
    shard_grid: ChunkGrid,
    chunk_grid: ChunkGrid,
    present: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Return which inner chunks were written, from the index of each shard that is present.

    Args:
        array: the sharded array.
        directory: of the array.
        shard_grid: the shards.
        chunk_grid: the inner chunks.
        present: whether the file of a shard is there, in the shape of ``shard_grid``.
    """
    metadata: Any = array.metadata
    codec = next(codec for codec in metadata.codecs if isinstance(codec, ShardingCodec))
    edges = zip(shard_grid.edges, chunk_grid.edges, strict=True)
    per_shard = tuple(shard // chunk for shard, chunk in edges)
    written = chunk_grid.empty()
    chunk_ranges = chunk_grid.ranges
    for position, is_present in zip(product(*shard_grid.ranges), present.flat, strict=True):
        if not is_present:
            continue
        shard_path = directory / metadata.encode_chunk_key(position)
        in_shard = _shard_index(shard_path, codec, per_shard)
        source, target = _overlap(position, per_shard, chunk_ranges)
        written[target] = in_shard[source]
    return written


def _overlap(
    position: tuple[int, ...], per_shard: tuple[int, ...], chunk_ranges: tuple[range, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Return where the chunks of a shard lie in the shard, and in the grid of all inner chunks.

    Args:
        position: of the shard.
        per_shard: inner chunks of a shard along each axis.
        chunk_ranges: numbers of the inner chunks that hold voxels of the stack, along each axis.
    """
    in_shard = []
    in_grid = []
    for number, count, chunks in zip(position, per_shard, chunk_ranges, strict=True):
        first = number * count
        start = max(first, chunks.start)
        stop = min(first + count, chunks.stop)
        in_shard.append(slice(start - first, stop - first))
        in_grid.append(slice(start - chunks.start, stop - chunks.start))
    return tuple(in_shard), tuple(in_grid)


def _shard_index(path: Path, codec: ShardingCodec, per_shard: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which inner chunks a shard holds, in the shape ``per_shard``."""
    stored = _index_dtype(codec, path)
    index_bytes = int(np.prod(per_shard)) * 2 * stored.itemsize
    checksum_bytes = CHECKSUM_BYTES * (len(codec.index_codecs) - 1)
    if path.stat().st_size < index_bytes + checksum_bytes:
        raise InputError(f"The shard {path} is shorter than its index; copy it again.")
    is_at_end = getattr(codec.index_location, "value", codec.index_location) == "end"
    with path.open("rb") as file:
        if is_at_end:
            file.seek(-index_bytes - checksum_bytes, os.SEEK_END)
        entries = np.frombuffer(file.read(index_bytes), stored)
    offsets = entries.reshape(*per_shard, 2)[..., 0]
    return np.asarray(offsets != EMPTY)


def _index_dtype(codec: ShardingCodec, path: Path) -> np.dtype[Any]:
    """Return the type of the numbers in the index of a shard.

    Raises:
        InputError: the index is compressed: it has other codecs than bytes and a checksum.
    """
    codecs = [item for item in codec.index_codecs if isinstance(item, BytesCodec | Crc32cCodec)]
    if len(codecs) < len(codec.index_codecs) or not isinstance(codecs[0], BytesCodec):
        raise InputError(
            f"The shard {path.name} has an index that is compressed; expected a plain one."
        )
    endian = getattr(codecs[0].endian, "value", "little")
    return np.dtype(np.uint64).newbyteorder("<" if endian == "little" else ">")
