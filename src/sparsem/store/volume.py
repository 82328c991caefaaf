"""One multiscale volume inside a sample: an OME-Zarr 0.5 group whose arrays ``0``, ``1``, ... are (z, y, x) levels.

A chunk is as deep as the z-block of its level, so a block is written by one task and no chunk has two writers. The z-blocks of
coarser levels are those of the full resolution, shrunk, as long as these halve evenly: whoever has a block in memory writes
its coarser levels too, and no level is read back.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
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
from sparsem.store.lazy import LazyArray
from sparsem.store.transforms import Motion

CHUNK_YX = 512  # a chunk of 16 slices is then 4 MB: small enough to look at, large enough for a cluster file system
COARSEST = 512  # levels are added until the longest axis is no longer than this
FOREGROUND = (
    128  # round(255 p) for p >= 0.5: from this value on a probability on disk is foreground
)


class Kind(StrEnum):
    """What a volume's numbers mean; decides how it is made coarser and how viewers show it."""

    IMAGE = "image"
    PROBABILITY = "probability"
    LABELS = "labels"


@dataclass(frozen=True)
class VolumeSpec:
    """What a volume is before it has a voxel.

    Attributes:
        path: where in the sample, for instance ``labels/nucleus``; empty for the raw image.
        shape: (z, y, x) voxels.
        dtype: of the numbers.
        kind: image, probability or labels.
        voxel_size: nm.
        block_depth: slices a z-block, and so a chunk.
        made_on: name and fingerprint of the image that a derived volume was made on; its pixels are that image's, but for ``motions``.
        motions: (z, 2, 3) of a derived image, from its pixels to those of the image it was made from; None where they are the same.
        numbers: of a raw image that was a series of files: the number in each file's name, in the order of the slices.
        repeated: slices that stand in for lost ones: the same as the one before.
        names: of a raw image whose slices were files of their own: those of the files, without ending.
        sizes: of slices that are pictures of their own, (y, x) of each; what lies beyond in a slice is nothing. Empty for a stack.
        slice_use: of a network's answer, which slices its training used (see ``slice_use``); None if that is not known.
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
        """By how much each level is smaller than the one before it; (1, 1, 1) for the first."""
        factors, shape, voxel = [(1, 1, 1)], self.shape, self.voxel_size
        while max(shape) > COARSEST:
            z, y, x = (
                1 if length == 1 else factor
                for length, factor in zip(shape, voxel.halving(), strict=True)
            )
            halve = (1 if self.sizes else z, y, x)  # a picture is never mixed with the next one
            if halve == (1, 1, 1):
                break
            shape, voxel = _shrunk(shape, halve), voxel.times(halve)
            factors.append(halve)
        return factors

    def level_shapes(self) -> list[tuple[int, int, int]]:
        """(z, y, x) of every level."""
        shapes = [self.shape]
        for factors in self.level_factors()[1:]:
            shapes.append(_shrunk(shapes[-1], factors))
        return shapes

    def level_runs(self) -> list[list[tuple[int, int]]]:
        """(level, depth of its z-blocks) of all levels, cut into runs; a block of a run's first level holds its blocks of the others."""
        runs: list[list[tuple[int, int]]] = []
        for level, (factor, _, _) in enumerate(self.level_factors()):
            if runs and runs[-1][-1][1] % factor == 0:
                runs[-1].append((level, runs[-1][-1][1] // factor))
            else:
                runs.append([(level, self.block_depth)])
        return runs

    @property
    def nbytes(self) -> int:
        """Uncompressed bytes of all levels."""
        return (
            sum(int(np.prod(shape, dtype=np.int64)) for shape in self.level_shapes())
            * self.dtype.itemsize
        )


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
    """A VolumeSpec with its numbers made plain Python ones."""
    z, y, x = (int(length) for length in shape)
    return VolumeSpec(
        path, (z, y, x), np.dtype(dtype), kind, voxel_size, int(block_depth), made_on, motions
    )


@dataclass(frozen=True)
class Volume:
    """A finished volume: a picklable handle that opens its arrays when they are asked for."""

    directory: Path

    def __post_init__(self) -> None:
        if not (self.directory / "zarr.json").is_file():
            raise SampleError(f"{self.directory} is not a Zarr v3 group (it has no zarr.json).")

    @property
    def attributes(self) -> dict[str, Any]:
        """The group's attributes: ``ome`` for every NGFF tool, ``sparsem`` for us."""
        return read_attributes(self.directory)

    def level(self, number: int = 0) -> "zarr.Array[Any]":
        """The array of one level; 0 is full resolution."""
        return zarr.open_array(store=self.directory / str(number), mode="r")

    def kept(self, level: int = 0) -> LazyArray:
        """The voxels of a level, read when they are sliced; chunks that are lost or damaged are told."""
        return LazyArray(self.directory / str(level), "sparsem" in self.attributes)

    def read(self, slices: slice, level: int = 0) -> NDArray[Any]:
        """Slices of a level, the full resolution if not given, as an array (z, y, x).

        Raises:
            SampleError: chunks are damaged or lost.
        """
        return self.kept(level)[slices]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(z, y, x) voxels."""
        z, y, x = self.level().shape
        return z, y, x

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return np.dtype(self.level().dtype)

    @property
    def block_depth(self) -> int:
        """Slices a z-block."""
        return int(self.level().chunks[0])

    def blocks(self, halo: int = 0) -> list[ZBlock]:
        """The z-blocks of the full resolution."""
        return z_blocks(self.shape[0], self.block_depth, halo)

    def like(
        self, path: str, dtype: DTypeLike, kind: Kind, made_on: tuple[str, str] | None
    ) -> VolumeSpec:
        """A volume to be, of the same voxels and blocks."""
        return replace(
            volume_spec(path, self.shape, dtype, kind, self.voxel_size, self.block_depth, made_on),
            sizes=self.sizes,
        )

    @property
    def voxel_size(self) -> VoxelSize:
        """Of the full resolution, nm."""
        return self.voxel_size_of(0)

    def voxel_size_of(self, level: int) -> VoxelSize:
        """Of a level, nm."""
        scale = self.attributes["ome"]["multiscales"][0]["datasets"][level][
            "coordinateTransformations"
        ][0]["scale"]
        return VoxelSize.of(scale)

    @property
    def levels(self) -> int:
        """How many levels there are."""
        return len(self.attributes["ome"]["multiscales"][0]["datasets"])

    @property
    def fingerprint(self) -> str:
        """What this volume was made from; two volumes with one fingerprint hold the same bytes. One made elsewhere has none."""
        return str(self.attributes.get("sparsem", {}).get("fingerprint", "made elsewhere"))

    @property
    def made_on(self) -> tuple[str, str] | None:
        """Name and fingerprint of the image that this was made on; None of the raw image, and of what was brought in from elsewhere."""
        made_on = self.attributes.get("sparsem", {}).get("made_on")
        return (str(made_on[0]), str(made_on[1])) if made_on else None

    @property
    def motions(self) -> Motion | None:
        """(z, 2, 3) from the pixels of a derived image to those of the image it was made from; None where they are the same."""
        motions = self.attributes.get("sparsem", {}).get("motions")
        return None if motions is None else np.array(motions, np.float64)

    @property
    def numbers(self) -> tuple[int | float, ...]:
        """Of a raw image that was a series of files: the number in each file's name, in the order of the slices; else empty."""
        return tuple(self.attributes.get("sparsem", {}).get("numbers", ()))

    @property
    def repeated(self) -> tuple[int, ...]:
        """Slices that stand in for lost ones: the same as the one before."""
        return tuple(self.attributes.get("sparsem", {}).get("repeated", ()))

    @property
    def slice_use(self) -> dict[str, list[int]] | None:
        """Numbers of the slices that a training used, by ``trained`` and ``validated``; None if that is not known."""
        used: dict[str, list[int]] | None = self.attributes.get("sparsem", {}).get("slice_use")
        return used

    @property
    def names(self) -> tuple[str, ...]:
        """Of a raw image whose slices were files of their own: those of the files, without ending; else empty."""
        return tuple(self.attributes.get("sparsem", {}).get("names", ()))

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Of slices that are pictures of their own: (y, x) of each; empty for a stack."""
        return tuple(
            (int(y), int(x)) for y, x in self.attributes.get("sparsem", {}).get("sizes", ())
        )

    def size_of(self, z: int) -> tuple[int, int]:
        """(y, x) of what there is in a slice."""
        return self.sizes[z] if self.sizes else self.shape[1:]


def create_volume(directory: Path, spec: VolumeSpec, fingerprint: str) -> None:
    """Make the group and its empty arrays."""
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
    about: dict[str, Any] = {"kind": spec.kind.value, "fingerprint": fingerprint}
    about |= {"made_on": list(spec.made_on)} if spec.made_on else {}
    about |= {"motions": spec.motions.tolist()} if spec.motions is not None else {}
    told = (
        ("numbers", spec.numbers),
        ("repeated", spec.repeated),
        ("names", spec.names),
        ("sizes", spec.sizes),
    )
    about |= {name: list(slices) for name, slices in told if slices}
    about |= {"slice_use": dict(spec.slice_use)} if spec.slice_use is not None else {}
    write_group(directory, {"ome": _ome_metadata(spec), "sparsem": about})


def _ome_metadata(spec: VolumeSpec) -> dict[str, Any]:
    """NGFF 0.5 ``ome`` attributes, built from and so checked by the models of ome-zarr-models."""
    datasets, voxel, offset = [], spec.voxel_size, [0.0, 0.0, 0.0]
    for level, factors in enumerate(spec.level_factors()):
        # A cell's center lies half a fine voxel further on for every halving.
        offset = [o + (f - 1) / 2 * v for o, f, v in zip(offset, factors, voxel, strict=True)]
        voxel = voxel.times(factors)
        transforms = (
            VectorScale(type="scale", scale=list(voxel)),
            VectorTranslation(type="translation", translation=offset),
        )
        datasets.append(
            Dataset(
                path=str(level), coordinateTransformations=transforms if level else transforms[:1]
            )
        )
    name = spec.path.rsplit("/", 1)[-1] or "raw"
    axes = [Axis(name=axis, type="space", unit="nanometer") for axis in "zyx"]
    multiscale = Multiscale(
        axes=axes,
        datasets=tuple(datasets),
        name=name,
        type="mode" if spec.kind is Kind.LABELS else "mean",
    )
    ome: dict[str, Any] = {
        "version": "0.5",
        "multiscales": [multiscale.model_dump(exclude_none=True)],
    }
    if spec.kind is Kind.LABELS:
        depth = (
            spec.path.count("/") + 1
        )  # the way back up to the image that the labels were drawn on
        image = f"images/{spec.made_on[0]}/" if spec.made_on and spec.made_on[0] != "raw" else ""
        ome["image-label"] = {"source": {"image": "/".join([".."] * depth) + "/" + image}}
    return ome


def read_attributes(directory: Path) -> dict[str, Any]:
    """The attributes of the Zarr group or array in ``directory``."""
    try:
        metadata = json.loads((directory / "zarr.json").read_text(encoding="utf-8"))
        attributes = metadata["attributes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SampleError(f"{directory / 'zarr.json'} is missing or damaged ({error}).") from None
    if not isinstance(attributes, dict):
        raise SampleError(f"{directory / 'zarr.json'} is damaged: its attributes are not a table.")
    return attributes


def write_group(directory: Path, attributes: dict[str, Any]) -> None:
    """Write a Zarr v3 group's metadata in one step: a reader sees the old attributes or the new ones."""
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(
        directory / "zarr.json",
        json_bytes({"attributes": attributes, "zarr_format": 3, "node_type": "group"}),
    )


def write_atomically(path: Path, content: bytes) -> None:
    """Write a small file so that it holds the old content or the new one, never half of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    unfinished.write_bytes(content)
    os.replace(unfinished, path)


def put_in_place(made: Path, final: Path, aside: Path) -> None:
    """Rename a complete folder to its final name; what had that name is moved ``aside``, and is complete there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        os.replace(final, aside)
    os.replace(made, final)


def json_bytes(value: Any) -> bytes:
    """Readable JSON with a stable order of what was given."""
    return (json.dumps(value, indent=2) + "\n").encode()


def _shrunk(shape: tuple[int, int, int], factors: tuple[int, int, int]) -> tuple[int, int, int]:
    z, y, x = (-(-length // factor) for length, factor in zip(shape, factors, strict=True))
    return z, y, x
