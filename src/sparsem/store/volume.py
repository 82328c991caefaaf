"""One multiscale volume in a sample: an OME-Zarr 0.5 group of (z, y, x) levels.

Its arrays are called ``0``, ``1`` and so on.

A chunk is as deep as the z-block of its level. So one task writes a block, and no chunk has two
writers. The z-blocks of coarser levels are those of the full resolution, shrunk, as long as they
halve evenly: the task that has a block in memory writes the coarser levels of the block too, and no
level is read back.
"""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from ome_zarr_models.common.coordinate_transformations import VectorScale, VectorTranslation
from ome_zarr_models.v05.axes import Axis
from ome_zarr_models.v05.multiscales import Dataset, Multiscale
from zarr.codecs import ZstdCodec

from sparsem.errors import SampleError
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.store.lazy import Index, LazyArray
from sparsem.store.names import RAW
from sparsem.store.snapshot import VolumeSnapshot, read_snapshot
from sparsem.store.transforms import Motion

# A chunk of 16 slices has 4 MB: small enough for a viewer, large enough for a cluster's files.
CHUNK_YX = 512
COARSEST = 512  # levels are added until the longest axis is no longer than this
FOREGROUND = 128  # probabilities on disk, round(255 p), are foreground from this value on


class Kind(StrEnum):
    """The meaning of a volume's voxels.

    It decides how coarser levels are computed and how viewers show the volume.
    """

    IMAGE = "image"
    PROBABILITY = "probability"
    LABELS = "labels"


@dataclass(frozen=True)
class VolumeSpec:
    """Description of a volume before it is written.

    Attributes:
        path: path in the sample, for instance ``labels/nucleus``; empty for the raw image.
        shape: (z, y, x) voxels.
        dtype: data type of the voxels.
        kind: image, probability or labels.
        voxel_size: nm.
        block_depth: slices of a z-block, and so of a chunk.
        made_on: name and fingerprint of the image that a derived volume is made on. Its pixels are
            those of the image, except for ``motions``.
        motions: (z, 2, 3) from the pixels of a derived image to those of the image that it is made
            from; None where they are equal.
        numbers: slice numbers in the names of the files of an imported series, in the order of the
            slices.
        repeated: indices of slices that stand in for lost ones; each equals the slice before it.
        names: file names of the slices of an imported series, without suffix.
        sizes: (y, x) of each image of a montage; the rest of a slice is padding. Empty for a stack.
        slice_use: for the output of a network, the slices that its training used (see
            ``slice_use``); None if unknown.
    """

    path: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    kind: Kind
    voxel_size: VoxelSize
    block_depth: int
    made_on: tuple[str, str] | None = None
    motions: Motion | None = field(default=None, compare=False)
    numbers: tuple[int | float, ...] = ()
    repeated: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()
    slice_use: Mapping[str, Sequence[int]] | None = field(default=None, compare=False)

    def level_factors(self) -> list[tuple[int, int, int]]:
        """Return by how much each level is smaller than the level before it.

        (1, 1, 1) for the first.
        """
        factors = [(1, 1, 1)]
        shape = self.shape
        voxel_size = self.voxel_size
        while max(shape) > COARSEST:
            halved = self._halved_axes(shape, voxel_size)
            if halved == (1, 1, 1):
                break
            shape = _shrink(shape, halved)
            voxel_size = voxel_size.times(halved)
            factors.append(halved)
        return factors

    def _halved_axes(
        self, shape: tuple[int, int, int], voxel_size: VoxelSize
    ) -> tuple[int, int, int]:
        """Return the factors (2 or 1) of the level after one of this shape."""
        z, y, x = (
            1 if length == 1 else factor
            for length, factor in zip(shape, voxel_size.halving(), strict=True)
        )
        is_montage = bool(self.sizes)  # an image of a montage is never mixed with the next one
        return (1 if is_montage else z), y, x

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """Return (z, y, x) of every level."""
        shapes = [self.shape]
        for factors in self.level_factors()[1:]:
            shapes.append(_shrink(shapes[-1], factors))
        return shapes

    def level_runs(self) -> list[list[tuple[int, int]]]:
        """Return (level, depth of its z-blocks) of all levels, cut into runs.

        A block of the first level of a run contains the blocks of the run's other levels.
        """
        runs: list[list[tuple[int, int]]] = []
        for level, (factor, _, _) in enumerate(self.level_factors()):
            finer_depth = runs[-1][-1][1] if runs else 0
            if runs and finer_depth % factor == 0:
                runs[-1].append((level, finer_depth // factor))
            else:
                runs.append([(level, self.block_depth)])
        return runs

    @property
    def nbytes(self) -> int:
        """Uncompressed bytes of all levels."""
        voxels = sum(int(np.prod(shape, dtype=np.int64)) for shape in self.level_shapes())
        return voxels * self.dtype.itemsize


def volume_spec(
    path: str,
    shape: tuple[int, int, int],
    dtype: DTypeLike,
    kind: Kind,
    voxel_size: VoxelSize,
    block_depth: int,
    made_on: tuple[str, str] | None = None,
    motions: Motion | None = None,
) -> VolumeSpec:
    """Return a VolumeSpec whose numbers are plain Python integers."""
    z, y, x = (int(length) for length in shape)
    return VolumeSpec(
        path, (z, y, x), np.dtype(dtype), kind, voxel_size, int(block_depth), made_on, motions
    )


@dataclass(frozen=True)
class Volume:
    """A finished volume: a picklable handle that reads like a numpy array.

    ``volume[10:20]`` reads slices 10 to 19 of the full resolution. The metadata are parsed once,
    when they are first needed, and do not change under the handle.

    Attributes:
        directory: folder of the Zarr group.

    Raises:
        SampleError: the folder is no Zarr v3 group.
    """

    directory: Path

    def __post_init__(self) -> None:
        if not (self.directory / "zarr.json").is_file():
            raise SampleError(f"{self.directory} is not a Zarr v3 group (it has no zarr.json).")

    def __reduce__(self) -> tuple[type["Volume"], tuple[Path]]:
        return Volume, (self.directory,)  # a worker parses the metadata itself, once

    @cached_property
    def snapshot(self) -> VolumeSnapshot:
        """The metadata, parsed when they are first needed."""
        return read_snapshot(self.directory)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        """Return a part of the full resolution, indexed as a numpy array.

        An index consists of integers, slices and ``...``.

        Raises:
            SampleError: chunks are damaged or lost.
        """
        return self.lazy()[index]

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[...], dtype)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        """Number of axes: 3."""
        return 3

    def level(self, number: int = 0) -> "zarr.Array[Any]":
        """Return the Zarr array of one level; 0 is the full resolution."""
        return zarr.open_array(store=self.directory / str(number), mode="r")

    def lazy(self, level: int = 0) -> LazyArray:
        """Return the voxels of a level, which are read when they are sliced.

        Lost or damaged chunks raise an error.
        """
        return LazyArray(self.directory / str(level), self.snapshot.is_complete)

    def read(self, slices: slice, level: int = 0) -> NDArray[Any]:
        """Return slices of a level, by default of the full resolution, as an array (z, y, x).

        Raises:
            SampleError: chunks are damaged or lost.
        """
        return self.lazy(level)[slices]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the full resolution, (z, y, x)."""
        return self.snapshot.levels[0].shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the voxels."""
        return self.snapshot.levels[0].dtype

    @property
    def block_depth(self) -> int:
        """Slices of a z-block."""
        return self.snapshot.levels[0].chunks[0]

    def blocks(self, halo: int = 0) -> list[ZBlock]:
        """Return the z-blocks of the full resolution."""
        return z_blocks(self.shape[0], self.block_depth, halo)

    def like(
        self, path: str, dtype: DTypeLike, kind: Kind, made_on: tuple[str, str] | None
    ) -> VolumeSpec:
        """Return the description of a new volume with the same voxels and blocks."""
        spec = volume_spec(
            path, self.shape, dtype, kind, self.voxel_size, self.block_depth, made_on
        )
        return replace(spec, sizes=self.sizes)

    @property
    def voxel_size(self) -> VoxelSize:
        """Voxel size of the full resolution, nm."""
        return self.voxel_size_of(0)

    def voxel_size_of(self, level: int) -> VoxelSize:
        """Return the voxel size of a level, nm."""
        return self.snapshot.levels[level].voxel_size

    @property
    def levels(self) -> int:
        """Number of levels."""
        return len(self.snapshot.levels)

    @property
    def fingerprint(self) -> str:
        """Hash of what the volume was made from.

        Two volumes with the same fingerprint hold the same bytes.
        """
        return self.snapshot.fingerprint

    @property
    def computed_fingerprint(self) -> str:
        """Fingerprint of the volume as a stage computed it.

        It differs from ``fingerprint`` where something drawn by a person takes precedence.
        """
        return self.snapshot.computed or self.snapshot.fingerprint

    @property
    def made_on(self) -> tuple[str, str] | None:
        """Name and fingerprint of the image that the volume was made on.

        It is None for the raw image and for imported volumes.
        """
        return self.snapshot.made_on

    @property
    def motions(self) -> Motion | None:
        """Motions (z, 2, 3) from the pixels of a derived image to those of its source.

        They are None where the pixels are equal.
        """
        return self.snapshot.motions

    @property
    def numbers(self) -> tuple[int | float, ...]:
        """Slice numbers in the file names of an imported series, by slice; else empty."""
        return self.snapshot.numbers

    @property
    def repeated(self) -> tuple[int, ...]:
        """Indices of slices that stand in for lost ones; each equals the slice before it."""
        return self.snapshot.repeated

    @property
    def slice_use(self) -> Mapping[str, Sequence[int]] | None:
        """Numbers of the slices that training used, by ``trained`` and ``validated``.

        It is None if the use is unknown.
        """
        return self.snapshot.slice_use

    @property
    def names(self) -> tuple[str, ...]:
        """File names of the slices of an imported series, without suffix; else empty."""
        return self.snapshot.names

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Shape (y, x) of each image of a montage; empty for a stack."""
        return self.snapshot.sizes

    def size_of(self, z: int) -> tuple[int, int]:
        """Return (y, x) of the part of a slice that shows something."""
        return self.sizes[z] if self.sizes else self.shape[1:]


def create_volume(directory: Path, spec: VolumeSpec, fingerprint: str) -> None:
    """Create the group of a volume and its empty arrays."""
    directory.mkdir(parents=True, exist_ok=True)
    shapes = spec.level_shapes()
    for level, depth in chain.from_iterable(spec.level_runs()):
        zarr.create_array(
            store=directory / str(level),
            shape=shapes[level],
            chunks=(depth, min(CHUNK_YX, spec.shape[1]), min(CHUNK_YX, spec.shape[2])),
            dtype=spec.dtype,
            fill_value=0,
            compressors=ZstdCodec(level=1),
            dimension_names=("z", "y", "x"),
            zarr_format=3,
        )
    write_group(directory, {"ome": _ome_metadata(spec), "sparsem": _record(spec, fingerprint)})


def _record(spec: VolumeSpec, fingerprint: str) -> dict[str, Any]:
    """Return the attributes under ``sparsem``; those that are empty are left out."""
    record: dict[str, Any] = {"kind": spec.kind.value, "fingerprint": fingerprint}
    if spec.made_on:
        record["made_on"] = list(spec.made_on)
    if spec.motions is not None:
        record["motions"] = spec.motions.tolist()
    for name in ("numbers", "repeated", "names", "sizes"):
        values = getattr(spec, name)
        if values:
            record[name] = list(values)
    if spec.slice_use is not None:
        record["slice_use"] = dict(spec.slice_use)
    return record


def _ome_metadata(spec: VolumeSpec) -> dict[str, Any]:
    """Return NGFF 0.5 ``ome`` attributes, validated by the models of ome-zarr-models."""
    name = spec.path.rsplit("/", 1)[-1] or RAW
    multiscale = Multiscale(
        axes=[Axis(name=axis, type="space", unit="nanometer") for axis in "zyx"],
        datasets=tuple(_ome_datasets(spec)),
        name=name,
        type="mode" if spec.kind is Kind.LABELS else "mean",
    )
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [multiscale.model_dump(exclude_none=True)],
    }
    if spec.kind is Kind.LABELS:
        depth = spec.path.count("/") + 1  # folders from the labels up to the sample
        is_derived = spec.made_on is not None and spec.made_on[0] != RAW
        image = f"images/{spec.made_on[0]}/" if spec.made_on and is_derived else ""
        ome["image-label"] = {"source": {"image": "/".join([".."] * depth) + "/" + image}}
    return ome


def _ome_datasets(spec: VolumeSpec) -> list[Dataset]:
    """Return the scale and position of every level."""
    datasets = []
    voxel_size = spec.voxel_size
    offset = [0.0, 0.0, 0.0]
    for level, factors in enumerate(spec.level_factors()):
        # Every halving moves the center of a voxel by half a fine voxel.
        offset = [
            start + (factor - 1) / 2 * length
            for start, factor, length in zip(offset, factors, voxel_size, strict=True)
        ]
        voxel_size = voxel_size.times(factors)
        scale = VectorScale(type="scale", scale=list(voxel_size))
        translation = VectorTranslation(type="translation", translation=offset)
        transformations = (scale, translation) if level else (scale,)
        datasets.append(Dataset(path=str(level), coordinateTransformations=transformations))
    return datasets


def write_group(directory: Path, attributes: dict[str, Any]) -> None:
    """Write a Zarr v3 group's metadata in one step; a reader sees the old or the new ones."""
    directory.mkdir(parents=True, exist_ok=True)
    group = {"attributes": attributes, "zarr_format": 3, "node_type": "group"}
    write_atomically(directory / "zarr.json", json_bytes(group))


def process_name() -> str:
    """Return a name of this process that no other one has, also on other machines."""
    return f"{platform.node()}.{os.getpid()}"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file in one step, so that it holds the old or the new content."""
    unfinished = path.with_name(f"{path.name}.{process_name()}.partial")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def put_in_place(complete: Path, final: Path, aside: Path) -> None:
    """Rename a complete folder to its final name.

    A folder that has this name is moved ``aside``.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        os.replace(final, aside)
    os.replace(complete, final)


def json_bytes(value: Any) -> bytes:
    """Return readable JSON that keeps the order of keys."""
    return (json.dumps(value, indent=2) + "\n").encode()


def _shrink(shape: tuple[int, int, int], factors: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = (-(-length // factor) for length, factor in zip(shape, factors, strict=True))
    return z, y, x
