"""Copies of a volume in which few chunks differ from the original.

All other chunks are hard links, so a copy of a terabyte takes seconds and no space. The chunks of
coarser levels that lie above a replaced one are computed again.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import zarr
from numpy.typing import NDArray

from sparsem.geometry import Box
from sparsem.store.pyramid import coarser
from sparsem.store.volume import Volume

ChunkIndex = tuple[int, int, int]
Patch = tuple[ChunkIndex, NDArray[Any]]


def chunk_box(volume: Volume, chunk: ChunkIndex, level: int = 0) -> Box:
    """Return the voxels (z, y, x) of a level that a chunk holds."""
    snapshot = volume.snapshot.levels[level]
    lengths = zip(chunk, snapshot.chunks, snapshot.shape, strict=True)
    z, y, x = (slice(n * edge, min((n + 1) * edge, length)) for n, edge, length in lengths)
    return z, y, x


def rows_of_chunks(chunks: Sequence[ChunkIndex]) -> list[list[ChunkIndex]]:
    """Return sorted chunks as lists of chunks that follow each other along x.

    To read a row at once takes a fraction of the time of its chunks.
    """
    rows: list[list[ChunkIndex]] = []
    for chunk in chunks:
        z, y, x = chunk
        if rows and rows[-1][-1] == (z, y, x - 1):
            rows[-1].append(chunk)
        else:
            rows.append([chunk])
    return rows


def box_of_row(volume: Volume, row: Sequence[ChunkIndex]) -> Box:
    """Return the voxels (z, y, x) of chunks that follow each other along x."""
    z, y, first = chunk_box(volume, row[0])
    _, _, last = chunk_box(volume, row[-1])
    return z, y, slice(first.start, last.stop)


def chunks_in(volume: Volume, box: Box) -> list[ChunkIndex]:
    """Return the chunks of the full resolution that share voxels with a box."""
    edges = volume.snapshot.levels[0].chunks
    z, y, x = (
        range(axis.start // edge, -(-axis.stop // edge))
        for axis, edge in zip(box, edges, strict=True)
    )
    return list(product(z, y, x))


def chunk_grid(volume: Volume) -> ChunkIndex:
    """Return the number of chunks of the full resolution along (z, y, x)."""
    snapshot = volume.snapshot.levels[0]
    z, y, x = (-(-n // edge) for n, edge in zip(snapshot.shape, snapshot.chunks, strict=True))
    return z, y, x


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder by hard links; file by file where the file system has none."""

    def link(file: str, copy: str) -> None:
        try:
            os.link(file, copy)
        except OSError:
            shutil.copyfile(file, copy)

    shutil.copytree(source, target, copy_function=link)


def replace_chunks(directory: Path, patches: Iterable[Patch]) -> list[ChunkIndex]:
    """Replace chunks of a label volume that ``link_tree`` copied; the original stays as it is.

    Args:
        directory: folder of the copy.
        patches: chunks of the full resolution, with their voxels.

    Returns:
        The replaced chunks.
    """
    volume = Volume(directory)
    replaced = []
    writer = _ChunkWriter(volume, 0)
    for chunk, voxels in patches:
        writer.write(chunk, voxels)
        replaced.append(chunk)
    changed = set(replaced)
    for level in range(1, volume.levels):
        changed = _chunks_above(volume, changed, level)
        writer = _ChunkWriter(volume, level)
        for chunk in sorted(changed):
            writer.write(chunk, _coarser_chunk(volume, chunk, level))
    return replaced


class _ChunkWriter:
    """Writes chunks of a level as new files, since other volumes may share the old ones."""

    def __init__(self, volume: Volume, level: int) -> None:
        self._volume = volume
        self._level = level
        self._folder = volume.directory / str(level)
        array = zarr.open_array(store=self._folder, mode="r+")
        self._array = array.with_config({"write_empty_chunks": True})

    def write(self, chunk: ChunkIndex, voxels: NDArray[Any]) -> None:
        """Write a whole chunk."""
        key = self._array.metadata.encode_chunk_key(chunk)
        (self._folder / key).unlink(missing_ok=True)
        self._array[chunk_box(self._volume, chunk, self._level)] = voxels


def _factors(volume: Volume, level: int) -> tuple[int, int, int]:
    """Return by how much a level is smaller than the level before it, (z, y, x)."""
    fine = volume.voxel_size_of(level - 1)
    coarse = volume.voxel_size_of(level)
    z, y, x = (round(c / f) for c, f in zip(coarse, fine, strict=True))
    return z, y, x


def _coarser_chunk(volume: Volume, chunk: ChunkIndex, level: int) -> NDArray[Any]:
    """Return the voxels of a chunk of a level, computed from the level before it."""
    factors = _factors(volume, level)
    box = chunk_box(volume, chunk, level)
    fine_shape = volume.snapshot.levels[level - 1].shape
    axes = zip(box, factors, fine_shape, strict=True)
    z, y, x = (slice(axis.start * f, min(axis.stop * f, length)) for axis, f, length in axes)
    fine = volume.lazy(level - 1)[z, y, x]
    return coarser(fine, factors, labels=True)


def _chunks_above(volume: Volume, changed: set[ChunkIndex], level: int) -> set[ChunkIndex]:
    """Return the chunks of a level that show voxels of changed chunks of the level before it."""
    factors = _factors(volume, level)
    edges = volume.snapshot.levels[level].chunks
    above: set[ChunkIndex] = set()
    for chunk in changed:
        axes = zip(chunk_box(volume, chunk, level - 1), factors, edges, strict=True)
        z, y, x = (
            range(axis.start // factor // edge, (axis.stop - 1) // factor // edge + 1)
            for axis, factor, edge in axes
        )
        above.update(product(z, y, x))
    return above
