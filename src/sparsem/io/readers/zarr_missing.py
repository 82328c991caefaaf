"""Which chunks of a Zarr array were never written: by the names of its files and the indexes of its shards; no voxel is read."""

import os
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec

from sparsem.errors import InputError
from sparsem.io.readers.missing import (
    ChunkGrid,
    Index,
    MissingBoxes,
    MissingParts,
    fill_number,
    missing_from_stack,
)

EMPTY = (
    2**64 - 1
)  # in the index of a shard: the offset and the length of an inner chunk that was never written
CHECKSUM = 4  # bytes of CRC32C behind the index

KeyOf = Callable[[tuple[int, ...]], str]


def missing_chunks(
    array: "zarr.Array[Any]", directory: Path, index: Index, name: str
) -> tuple[MissingParts, ...]:
    """The chunks that a stack lacks.

    Args:
        array: that holds the stack.
        directory: of the array.
        index: which part of the array the stack is.
        name: of the array, for messages.

    Raises:
        InputError: no chunk has the name that the metadata give it, but files with the names of another encoding are there; a shard
            is damaged.
    """
    files = _files_in(directory)
    key_of: KeyOf = array.metadata.encode_chunk_key
    grid = ChunkGrid(array.shape, array.shards or array.chunks, index)
    there = [key_of(place) in files for place in product(*grid.ranges)]
    present = np.array(there, bool).reshape(grid.empty().shape)
    if not present.any():
        _refuse_other_keys(grid, key_of, files, directory, name)
    chunks = grid
    if array.shards is not None:
        chunks = ChunkGrid(array.shape, array.chunks, index)
        present = _written_in_shards(array, directory, grid, chunks, present)
    if present.all():
        return ()
    places = chunks.places(~present)

    def named(number: int) -> str:
        place = tuple(places[number].tolist())
        return key_of(place) if array.shards is None else str(place)

    part = MissingBoxes(
        "chunk", chunks.boxes(~present), named, fill_number(array.fill_value), sparse=True
    )
    return missing_from_stack(name, part, index, present.size)


def _files_in(directory: Path, prefix: str = "") -> set[str]:
    """Paths of all files below a folder, relative to it, with slashes; links whose target is missing are none."""
    found: set[str] = set()
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file():
                found.add(prefix + entry.name)
            elif entry.is_dir():
                found |= _files_in(Path(entry.path), f"{prefix}{entry.name}/")
    return found


def _refuse_other_keys(
    grid: ChunkGrid, key_of: KeyOf, files: set[str], directory: Path, name: str
) -> None:
    """Refuse an array whose chunks are there, but under the names of another encoding: it would be read as empty."""
    joined: dict[str, KeyOf] = {
        '{"name": "v2", "configuration": {"separator": "."}}': lambda place: ".".join(
            map(str, place)
        ),
        '{"name": "v2", "configuration": {"separator": "/"}}': lambda place: "/".join(
            map(str, place)
        ),
        '{"name": "default", "configuration": {"separator": "/"}}': lambda place: "/".join(
            ["c", *map(str, place)]
        ),
        '{"name": "default", "configuration": {"separator": "."}}': lambda place: ".".join(
            ["c", *map(str, place)]
        ),
    }
    for place in product(*grid.ranges):
        for encoding, other_key in joined.items():
            if other_key(place) not in files:
                continue
            metadata = next(one for one in (".zarray", "zarr.json") if (directory / one).is_file())
            separator = '"/"' if '"/"' in encoding else '"."'
            entry = (
                f'"dimension_separator": {separator}'
                if metadata == ".zarray"
                else f'"chunk_key_encoding": {encoding}'
            )
            raise InputError(
                f"{name} has chunks named {other_key(place)}, but its metadata call them {key_of(place)}; write {entry} "
                f"into {directory.name}/{metadata}."
            )


def _written_in_shards(
    array: "zarr.Array[Any]",
    directory: Path,
    shards: ChunkGrid,
    chunks: ChunkGrid,
    present: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    """Which inner chunks were written; the index of each shard that is present tells it."""
    metadata: Any = array.metadata
    codec = next(one for one in metadata.codecs if isinstance(one, ShardingCodec))
    per_shard = tuple(
        shard // chunk for shard, chunk in zip(shards.edges, chunks.edges, strict=True)
    )
    written = chunks.empty()
    ranges = chunks.ranges
    for place, there in zip(product(*shards.ranges), present.flat, strict=True):
        if not there:
            continue
        inside = _shard_index(directory / metadata.encode_chunk_key(place), codec, per_shard)
        source, target = [], []
        for number, count, numbers in zip(place, per_shard, ranges, strict=True):
            first = number * count
            start, stop = max(first, numbers.start), min(first + count, numbers.stop)
            source.append(slice(start - first, stop - first))
            target.append(slice(start - numbers.start, stop - numbers.start))
        written[tuple(target)] = inside[tuple(source)]
    return written


def _shard_index(path: Path, codec: ShardingCodec, per_shard: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which inner chunks a shard holds."""
    known = [one for one in codec.index_codecs if isinstance(one, BytesCodec | Crc32cCodec)]
    if len(known) < len(codec.index_codecs) or not isinstance(known[0], BytesCodec):
        raise InputError(
            f"The shard {path.name} has an index that is compressed; expected a plain one."
        )
    endian = getattr(known[0].endian, "value", "little")
    stored = np.dtype(np.uint64).newbyteorder("<" if endian == "little" else ">")
    length = int(np.prod(per_shard)) * 2 * stored.itemsize
    behind = CHECKSUM * (len(known) - 1)
    if path.stat().st_size < length + behind:
        raise InputError(f"The shard {path} is shorter than its index; copy it again.")
    with path.open("rb") as file:
        if getattr(codec.index_location, "value", codec.index_location) == "end":
            file.seek(-length - behind, os.SEEK_END)
        found = np.frombuffer(file.read(length), stored)
    return np.asarray(found.reshape(*per_shard, 2)[..., 0] != EMPTY)
