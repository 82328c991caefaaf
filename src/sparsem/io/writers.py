"""Writers: a volume of a sample -> what other programs read, block by block."""

import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.geometry import VoxelSize
from sparsem.progress import Meter
from sparsem.store.volume import Volume

MATLAB_5_BYTES = 2**31 - 1  # of a variable, by its format
NRRD_TYPES = {"uint8": "uchar", "uint16": "ushort", "uint32": "uint"}
CHUNK_YX = 256


@dataclass(frozen=True)
class ExportVolume:
    """What is written.

    Attributes:
        stack: (z, y, x), sliced along z.
        voxel_size: nm.
        depth: slices read at once.
        names: of labels: what numbers mean, by name.
    """

    stack: Any
    voxel_size: VoxelSize
    depth: int
    names: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_volume(cls, volume: Volume, names: Mapping[str, int] | None = None) -> "ExportVolume":
        """A volume of a sample."""
        return cls(volume.kept(), volume.voxel_size, volume.block_depth, names or {})

    @property
    def nbytes(self) -> int:
        """Of all voxels."""
        return int(np.prod(self.stack.shape, dtype=np.int64) * np.dtype(self.stack.dtype).itemsize)

    def blocks(self, title: str, quiet: bool) -> Iterator[tuple[int, NDArray[Any]]]:
        """(first slice, voxels) one block after the other, with progress."""
        starts = range(0, self.stack.shape[0], self.depth)
        with Meter(title, len(starts), quiet=quiet) as meter:
            for start in starts:
                yield start, np.asarray(self.stack[start : start + self.depth])
                meter.step()


@dataclass(frozen=True)
class LabelStack:
    """Several masks as one label map: the first is 1, the second 2, ...; where they overlap the later one counts."""

    stacks: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return tuple(self.stacks[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return np.dtype(np.uint8)

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        out: NDArray[Any] | None = None
        for number, stack in enumerate(self.stacks, 1):
            inside = np.asarray(stack[slices]) > 0
            out = np.zeros(inside.shape, np.uint8) if out is None else out
            out[inside] = number
        return np.zeros((0, *self.shape[1:]), np.uint8) if out is None else out


@contextmanager
def atomic_output(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A name to write to; the file gets its own name when it is complete, and is gone if writing fails.

    Raises:
        InputError: the file exists, and is not to be replaced.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name.partition('.')[0]}.partial{''.join(path.suffixes)}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_volume(
    piece: ExportVolume, path: str | Path, overwrite: bool = False, quiet: bool = True
) -> Path:
    """Write voxels in the format that the ending names, with their voxel size; the file appears when it is complete.

    Args:
        piece: a volume, or several masks together.
        path: NAME.tif (OME-TIFF, for Fiji, MIB and napari), .nrrd or .seg.nrrd (3D Slicer), .h5, .model (Microscopy Image Browser).
        overwrite: replace an existing file.
        quiet: no progress.

    Raises:
        InputError: the ending is not known, the file exists, or the format cannot hold so much.
    """
    path = Path(path)
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        raise InputError(
            f"Voxels are written as {', '.join(WRITERS)}; expected a name that ends so, got '{path.name}'."
        )
    with atomic_output(path, overwrite) as unfinished:
        write(piece, unfinished, path, quiet)
    return path


def write_tiff(
    volume: Volume, path: str | Path, overwrite: bool = False, quiet: bool = True
) -> Path:
    """Write a volume as a multi-page OME-TIFF (BigTIFF where needed), compressed; see ``write_volume``."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        raise InputError(
            f"Volumes are exported as TIFF; expected a name that ends in .tif, got '{Path(path).name}'."
        )
    return write_volume(ExportVolume.from_volume(volume), path, overwrite, quiet)


def _write_tiff(piece: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    sizes = {
        f"PhysicalSize{axis.upper()}": getattr(piece.voxel_size, axis) / 1000 for axis in "zyx"
    }
    units = {f"PhysicalSize{axis.upper()}Unit": "µm" for axis in "zyx"}
    slices = (one for _, block in piece.blocks(f"export {path.name}", quiet) for one in block)
    with tifffile.TiffWriter(unfinished, bigtiff=piece.nbytes > 2**31, ome=True) as tiff:
        metadata = {"axes": "ZYX", **sizes, **units}
        tiff.write(
            slices,
            shape=piece.stack.shape,
            dtype=piece.stack.dtype,
            compression="zlib",
            photometric="minisblack",
            metadata=metadata,
            resolution=(
                1e7 / piece.voxel_size.x,
                1e7 / piece.voxel_size.y,
            ),  # for programs that read no OME-XML
            resolutionunit="CENTIMETER",
        )


def _write_nrrd(piece: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    z, y, x = piece.stack.shape
    edges = [
        edge / 1e6 for edge in piece.voxel_size[::-1]
    ]  # mm: programs that read no units take them for granted
    directions = " ".join(
        f"({','.join(repr(edge) if k == axis else '0' for k in range(3))})"
        for axis, edge in enumerate(edges)
    )
    lines = [
        "NRRD0005",
        f"type: {NRRD_TYPES[np.dtype(piece.stack.dtype).name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {x} {y} {z}",
        f"space directions: {directions}",
        'space units: "mm" "mm" "mm"',
        "space origin: (0,0,0)",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
    ]
    for place, (name, number) in enumerate(
        piece.names.items() if path.name.endswith(".seg.nrrd") else ()
    ):
        about = {
            "ID": name,
            "Name": name,
            "LabelValue": number,
            "Layer": 0,
            "Extent": f"0 {x - 1} 0 {y - 1} 0 {z - 1}",
        }
        lines += [f"Segment{place}_{key}:={value}" for key, value in about.items()]
    with unfinished.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0) as packed:
            for _, block in piece.blocks(f"export {path.name}", quiet):
                packed.write(
                    np.ascontiguousarray(block, np.dtype(block.dtype).newbyteorder("<")).tobytes()
                )


def _write_hdf5(piece: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    shape = piece.stack.shape
    chunks = (min(piece.depth, shape[0]), min(CHUNK_YX, shape[1]), min(CHUNK_YX, shape[2]))
    with h5py.File(unfinished, "w") as file:
        data = file.create_dataset(
            "data",
            shape,
            np.dtype(piece.stack.dtype),
            chunks=chunks,
            compression="gzip",
            compression_opts=3,
        )
        data.attrs["element_size_um"] = [edge / 1000 for edge in piece.voxel_size]
        for name, number in piece.names.items():
            data.attrs[f"label {number}"] = name
        for start, block in piece.blocks(f"export {path.name}", quiet):
            data[start : start + len(block)] = block


def _write_model(piece: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    """A model of Microscopy Image Browser; MATLAB 5 holds 2 GB, and whole."""
    names = {number: name for name, number in piece.names.items()}
    if piece.nbytes > MATLAB_5_BYTES:
        raise InputError(
            f"{path.name} would hold {piece.nbytes / 1e9:.1f} GB, more than the 2 GB of its format; "
            "Microscopy Image Browser opens .nrrd and .tif, too."
        )
    z, y, x = piece.stack.shape
    model = np.empty((y, x, z), piece.stack.dtype, order="F")
    for start, block in piece.blocks(f"export {path.name}", quiet):
        model[:, :, start : start + len(block)] = np.moveaxis(block, 0, 2)
    largest = int(model.max(initial=0))
    kind = next(limit for limit in (63, 255, 65535, 2**32 - 1) if largest <= limit)
    # Models of more than 255 materials list the first two numbers only, as the program itself writes them.
    last = max([largest, *names]) if kind <= 255 else 2
    listed = [names.get(number, str(number)) for number in range(1, last + 1)]
    sizes = dict(zip("zyx", piece.voxel_size, strict=True))
    ends = [
        0,
        (x - 1) * sizes["x"] / 1000,
        0,
        (y - 1) * sizes["y"] / 1000,
        0,
        (z - 1) * sizes["z"] / 1000,
    ]
    content = {
        "mibModel": model.astype(
            np.uint8 if kind <= 255 else np.uint16 if kind <= 65535 else np.uint32, copy=False
        ),
        "modelVariable": "mibModel",
        "modelType": float(kind),
        "modelMaterialNames": np.array(listed, dtype=object).reshape(-1, 1),
        "modelMaterialColors": np.random.default_rng(0).random((max(len(listed), 1), 3)),
        "BoundingBox": np.array([ends]),
    }
    with unfinished.open("wb") as file:
        scipy.io.savemat(file, content, do_compression=True)


Writer = Callable[[ExportVolume, Path, Path, bool], None]
WRITERS: dict[str, Writer] = {
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
    ".nrrd": _write_nrrd,
    ".h5": _write_hdf5,
    ".model": _write_model,
}


def combine_masks(volumes: Mapping[str, Volume]) -> ExportVolume:
    """Masks of several structures as one piece, whose numbers have names.

    Raises:
        InputError: they differ in shape.
    """
    shapes: Sequence[tuple[int, ...]] = [one.shape for one in volumes.values()]
    if len(set(shapes)) > 1:
        raise InputError(
            f"{', '.join(volumes)} have unlike shapes {', '.join(map(str, shapes))}; write them one by one."
        )
    first = next(iter(volumes.values()))
    names = {name: number for number, name in enumerate(volumes, 1)}
    return ExportVolume(
        LabelStack(tuple(volume.kept() for volume in volumes.values())),
        first.voxel_size,
        first.block_depth,
        names,
    )
