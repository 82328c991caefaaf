"""Index of the objects of a label volume: their voxels and bounding boxes, chunk by chunk.

An index is computed once, in one pass over the volume, and kept in the sample. An edit then reads
and writes only the chunks of the objects that it changes, and renews only their part of the index.
"""

import contextlib
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.errors import InputError
from sparsem.geometry import Box
from sparsem.progress import Meter
from sparsem.store.patches import ChunkIndex, chunk_box, chunk_grid
from sparsem.store.sample import Sample, save_table
from sparsem.store.summary import list_first
from sparsem.store.volume import Volume

Ints = NDArray[np.int64]

READERS = 4  # chunks that are read and decoded at the same time

COLUMNS = (
    *("block", "row", "column"),
    "id",
    *("z_start", "y_start", "x_start"),
    *("z_stop", "y_stop", "x_stop"),
    "voxels",
)


class Runs(NamedTuple):
    """Runs of equal labels along x, without the background.

    Attributes:
        ids: (n,) label of each run.
        rows: (n, 4) z, y, first x, and x after the last voxel.
    """

    ids: NDArray[np.uint32]
    rows: Ints


@compiled()
def _count_runs(labels: Any) -> int:
    count = 0
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            previous = labels.dtype.type(0)
            for x in range(labels.shape[2]):
                label = labels[z, y, x]
                if label != previous and label != 0:
                    count += 1
                previous = label
    return count


@compiled()
def _fill_runs(labels: Any, ids: Any, rows: Any) -> None:
    n = -1
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            previous = labels.dtype.type(0)
            for x in range(labels.shape[2]):
                label = labels[z, y, x]
                if label != 0:
                    if label != previous:
                        n += 1
                        ids[n] = label
                        rows[n, 0] = z
                        rows[n, 1] = y
                        rows[n, 2] = x
                    rows[n, 3] = x + 1
                previous = label


def find_runs(labels: NDArray[Any]) -> Runs:
    """Return the runs of equal labels along x of an array (z, y, x) of unsigned integers."""
    n_runs = _count_runs(labels)
    ids = np.empty(n_runs, np.uint32)
    rows = np.empty((n_runs, 4), np.int64)
    _fill_runs(labels, ids, rows)
    return Runs(ids, rows)


def object_boxes(labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return the objects of an array (z, y, x) of unsigned integers, ascending by id.

    Returns:
        (n, 8) int64: id, start of the bounding box (z, y, x), its stop (z, y, x), voxels.
    """
    runs = find_runs(labels)
    if not len(runs.ids):
        return np.empty((0, 8), np.int64)
    order = np.argsort(runs.ids, kind="stable")
    ids = runs.ids[order]
    rows = runs.rows[order]
    starts = np.flatnonzero(np.diff(ids, prepend=ids[0] + np.uint32(1)))
    low = np.minimum.reduceat(rows[:, :3], starts)
    last = np.maximum.reduceat(rows[:, [0, 1, 3]], starts)
    high = last + np.array([1, 1, 0])  # the end of a run is exclusive already
    voxels = np.add.reduceat(rows[:, 3] - rows[:, 2], starts)
    return np.column_stack([ids[starts].astype(np.int64), low, high, voxels])


@dataclass(frozen=True)
class ObjectIndex:
    """The objects of a label volume, chunk by chunk.

    Attributes:
        rows: (n, 11) int64, one row for every object in every chunk, in the columns of ``COLUMNS``;
            positions are those of the volume.
    """

    rows: Ints

    @property
    def ids(self) -> Ints:
        """Ids of all objects, ascending."""
        return np.unique(self.rows[:, 3])

    @property
    def max_id(self) -> int:
        """The largest id; 0 if there is no object."""
        return int(self.rows[:, 3].max(initial=0))

    def of(self, ids: Sequence[int]) -> Ints:
        """Return the rows of some objects.

        Raises:
            InputError: one of them does not exist.
        """
        selected = self.rows[np.isin(self.rows[:, 3], list(ids))]
        missing = sorted(set(ids) - set(np.unique(selected[:, 3]).tolist()))
        if missing or not ids:
            known = self.ids
            present = (
                f"numbers are from {known[0]} to {known[-1]}" if len(known) else "there is none"
            )
            raise InputError(
                f"There is no object {list_first(missing) or '(none was given)'} among "
                f"{len(known)} objects; {present}."
            )
        return selected

    def chunks_of(self, ids: Sequence[int]) -> list[ChunkIndex]:
        """Return the chunks that hold voxels of some objects, ascending.

        Raises:
            InputError: one of them does not exist.
        """
        chunks = np.unique(self.of(ids)[:, :3], axis=0)
        return [(int(z), int(y), int(x)) for z, y, x in chunks]

    def box_of(self, ids: Sequence[int]) -> Box:
        """Return the bounding box (z, y, x) of some objects together.

        Raises:
            InputError: one of them does not exist.
        """
        rows = self.of(ids)
        starts, stops = rows[:, 4:7].min(axis=0), rows[:, 7:10].max(axis=0)
        z, y, x = (slice(int(a), int(b)) for a, b in zip(starts, stops, strict=True))
        return z, y, x

    def voxels_of(self, ids: Sequence[int]) -> int:
        """Return the number of voxels of some objects.

        Raises:
            InputError: one of them does not exist.
        """
        return int(self.of(ids)[:, 10].sum())

    def objects(self) -> NDArray[np.int64]:
        """Return all objects as ``object_boxes`` does, (n, 8), ascending by id."""
        if not len(self.rows):
            return np.empty((0, 8), np.int64)
        rows = self.rows[np.argsort(self.rows[:, 3], kind="stable")]
        starts = np.flatnonzero(np.diff(rows[:, 3], prepend=-1))
        low = np.minimum.reduceat(rows[:, 4:7], starts)
        high = np.maximum.reduceat(rows[:, 7:10], starts)
        voxels = np.add.reduceat(rows[:, 10], starts)
        return np.column_stack([rows[starts, 3], low, high, voxels])


def object_index(sample: Sample, name: str, quiet: bool = False) -> ObjectIndex:
    """Return the index of ``labels/NAME``; it is computed if the labels changed since it was.

    Raises:
        SampleError: there are no such labels, or they are damaged.
    """
    while True:
        labels = sample.volume("labels", name)
        stored = _read_index(sample, name, labels.fingerprint)
        if stored is not None:
            return stored
        z, y, x = chunk_grid(labels)
        chunks = list(product(range(z), range(y), range(x)))
        index = ObjectIndex(_rows_of_chunks(labels, chunks, f"objects of {name}", quiet))
        # Chunks of two versions must not be mixed: labels that changed meanwhile are read again.
        if sample.volume("labels", name).fingerprint == labels.fingerprint:
            with contextlib.suppress(OSError):  # of a sample that cannot be written
                _write_index(sample, name, index, labels.fingerprint)
            return index


def stored_index(sample: Sample, name: str) -> ObjectIndex | None:
    """Return the index of ``labels/NAME`` on disk; None if there is none of the labels as now.

    Raises:
        SampleError: there are no such labels.
    """
    return _read_index(sample, name, sample.volume("labels", name).fingerprint)


def renewed_index(
    sample: Sample, name: str, index: ObjectIndex, chunks: Iterable[ChunkIndex]
) -> ObjectIndex:
    """Return the index of ``labels/NAME`` after some chunks changed, and keep it.

    Args:
        sample: sample that holds the labels.
        name: name of the labels.
        index: index before the change.
        chunks: chunks that changed.
    """
    labels = sample.volume("labels", name)
    changed = sorted(set(chunks))
    is_changed = np.zeros(chunk_grid(labels), bool)
    for chunk in changed:
        is_changed[chunk] = True
    z, y, x = index.rows[:, :3].T
    unchanged = index.rows[~is_changed[z, y, x]]
    new = _rows_of_chunks(labels, changed, "", quiet=True)
    renewed = ObjectIndex(np.concatenate([unchanged, new]))
    _write_index(sample, name, renewed, labels.fingerprint)
    return renewed


def _rows_of_chunks(
    labels: Volume, chunks: Sequence[ChunkIndex], title: str, quiet: bool
) -> NDArray[np.int64]:
    """Return the rows of the objects of some chunks; several chunks are read at a time."""
    parts = [np.empty((0, len(COLUMNS)), np.int64)]
    with (
        ThreadPoolExecutor(READERS) as pool,
        Meter(title, len(chunks), 0, quiet) as meter,
    ):
        for part in pool.map(partial(_rows_of_chunk, labels), chunks):
            parts.append(part)
            meter.step()
    return np.concatenate(parts)


def _rows_of_chunk(labels: Volume, chunk: ChunkIndex) -> NDArray[np.int64]:
    z, y, x = chunk_box(labels, chunk)
    objects = object_boxes(labels.lazy()[z, y, x])
    corner = np.array([z.start, y.start, x.start])
    objects[:, 1:4] += corner
    objects[:, 4:7] += corner
    return np.column_stack([np.tile(chunk, (len(objects), 1)), objects])


def _index_file(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "objects" / f"{name}.parquet"


def _read_index(sample: Sample, name: str, fingerprint: str) -> ObjectIndex | None:
    """Return the index on disk; None if there is none of labels with this fingerprint."""
    file = _index_file(sample, name)
    if not file.exists():
        return None
    metadata = pyarrow.parquet.read_schema(file).metadata or {}
    if json.loads(metadata.get(b"sparsem", b"{}")).get("labels") != fingerprint:
        return None
    table = pyarrow.parquet.read_table(file)
    return ObjectIndex(np.column_stack([table[column].to_numpy() for column in COLUMNS]))


def _write_index(sample: Sample, name: str, index: ObjectIndex, fingerprint: str) -> None:
    file = _index_file(sample, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = dict(zip(COLUMNS, index.rows.T, strict=True))
    notes = {"sparsem": json.dumps({"labels": fingerprint})}
    save_table(pa.table(columns).replace_schema_metadata(notes), file)
