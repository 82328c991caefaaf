"""The metadata of a volume, parsed once from the ``zarr.json`` files of its group and levels.

A finished volume is replaced as a whole, by a rename. So its metadata cannot change under a handle
that holds them, and parsed files are kept as long as the file system says that they are the same
files.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sparsem.errors import SampleError
from sparsem.geometry import VoxelSize
from sparsem.store.transforms import Motion

KEPT_FILES = 1024  # parsed files that are kept in memory; a sample has a few dozen
UNKNOWN_ORIGIN = "made elsewhere"  # fingerprint of a volume that no stage of sparsem wrote


@dataclass(frozen=True)
class LevelSnapshot:
    """One level of the multiscale pyramid.

    Attributes:
        shape: (z, y, x) voxels.
        chunks: (z, y, x) voxels of a chunk.
        dtype: data type of the voxels.
        voxel_size: nm.
    """

    shape: tuple[int, int, int]
    chunks: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel_size: VoxelSize


@dataclass(frozen=True)
class VolumeSnapshot:
    """The metadata of a volume at the moment when they were read.

    Attributes:
        levels: the pyramid, full resolution first.
        is_complete: every chunk was written, because a stage of sparsem wrote the volume.
        fingerprint: hash of what the volume was made from; equal fingerprints mean equal bytes.
        made_on: name and fingerprint of the image that the volume was made on; None for the raw
            image and for imported volumes.
        motions: (z, 2, 3) from the pixels of a derived image to those of the image that it was made
            from; None where they are equal.
        numbers: slice numbers in the names of the files of an imported series; else empty.
        repeated: indices of slices that stand in for lost ones.
        names: file names of the slices of an imported series, without suffix; else empty.
        sizes: (y, x) of each image of a montage; empty for a stack.
        slice_use: numbers of the slices that training used, by ``trained`` and ``validated``; None
            if unknown.
        computed: for labels in which something drawn by a person takes precedence, the fingerprint
            of the labels as they were computed; else None.
    """

    levels: tuple[LevelSnapshot, ...]
    is_complete: bool
    fingerprint: str = UNKNOWN_ORIGIN
    made_on: tuple[str, str] | None = None
    motions: Motion | None = None
    numbers: tuple[int | float, ...] = ()
    repeated: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    slice_use: Mapping[str, Sequence[int]] | None = None
    computed: str | None = None


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, which is parsed once as long as the file is the same.

    Do not change what it returns.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not JSON.
    """
    status = path.stat()
    return _parse_json(path, status.st_mtime_ns, status.st_ino, status.st_size)


@lru_cache(maxsize=KEPT_FILES)
def _parse_json(path: Path, modified_ns: int, inode: int, size: int) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_attributes(directory: Path) -> dict[str, Any]:
    """Return a copy of the attributes of the Zarr group or array in ``directory``.

    Raises:
        SampleError: ``zarr.json`` is missing or damaged.
    """
    return deepcopy(_attributes(directory))


def _attributes(directory: Path) -> dict[str, Any]:
    path = directory / "zarr.json"
    try:
        attributes = read_json(path)["attributes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SampleError(f"{path} is missing or damaged ({error}).") from None
    if not isinstance(attributes, dict):
        raise SampleError(f"{path} is damaged: its attributes are not a table.")
    return attributes


def read_snapshot(directory: Path) -> VolumeSnapshot:
    """Return the metadata of the volume in ``directory``.

    Raises:
        SampleError: a ``zarr.json`` of the volume is missing or damaged.
    """
    attributes = _attributes(directory)
    try:
        return _volume_snapshot(directory, attributes)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise SampleError(f"The metadata of {directory} are damaged ({error}).") from None


def _volume_snapshot(directory: Path, attributes: Mapping[str, Any]) -> VolumeSnapshot:
    datasets = attributes["ome"]["multiscales"][0]["datasets"]
    levels = tuple(_level_snapshot(directory, dataset) for dataset in datasets)
    if "sparsem" not in attributes:
        return VolumeSnapshot(levels, is_complete=False)
    record = attributes["sparsem"]
    made_on = record.get("made_on")
    motions = record.get("motions")
    return VolumeSnapshot(
        levels=levels,
        is_complete=bool(record.get("complete", True)),
        fingerprint=str(record.get("fingerprint", UNKNOWN_ORIGIN)),
        made_on=(str(made_on[0]), str(made_on[1])) if made_on else None,
        motions=None if motions is None else np.array(motions, np.float64),
        numbers=tuple(record.get("numbers", ())),
        repeated=tuple(record.get("repeated", ())),
        names=tuple(record.get("names", ())),
        sizes=tuple((int(y), int(x)) for y, x in record.get("sizes", ())),
        slice_use=record.get("slice_use"),
        computed=record.get("computed"),
    )


def _level_snapshot(directory: Path, dataset: Mapping[str, Any]) -> LevelSnapshot:
    array = read_json(directory / dataset["path"] / "zarr.json")
    z, y, x = (int(length) for length in array["shape"])
    depth, rows, columns = array["chunk_grid"]["configuration"]["chunk_shape"]
    scale = dataset["coordinateTransformations"][0]["scale"]
    return LevelSnapshot(
        shape=(z, y, x),
        chunks=(int(depth), int(rows), int(columns)),
        dtype=np.dtype(array["data_type"]),
        voxel_size=VoxelSize.of(scale),
    )
