"""Writers: a volume of a sample -> a file for other programs, block by block."""

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

CLASSIC_TIFF_BYTES = 2**31  # larger volumes are written as BigTIFF
MATLAB_5_BYTES = 2**31 - 1  # of a variable, by its format
MODEL_TYPES = (63, 255, 65535, 2**32 - 1)  # most materials that each type of MIB model holds
MAX_NAMED_MATERIALS = 255  # models of more materials list the first two numbers only
NRRD_TYPES = {"uint8": "uchar", "uint16": "ushort", "uint32": "uint"}
CHUNK_YX = 256


@dataclass(frozen=True)
class ExportVolume:
    """Voxels to write, with their voxel size and the names of their numbers.

    Attributes:
        stack: (z, y, x), sliced along z.
        voxel_size: nm.
        depth: slices to read at once.
        names: for labels: the number of each structure by its name.
    """

    stack: Any
    voxel_size: VoxelSize
    depth: int
    names: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_volume(cls, volume: Volume, names: Mapping[str, int] | None = None) -> "ExportVolume":
        """Return a volume of a sample as an export."""
        return cls(volume.lazy(), volume.voxel_size, volume.block_depth, names or {})

    @property
    def nbytes(self) -> int:
        """Bytes of all voxels."""
        return int(np.prod(self.stack.shape, dtype=np.int64) * np.dtype(self.stack.dtype).itemsize)

    def blocks(self, title: str, quiet: bool) -> Iterator[tuple[int, NDArray[Any]]]:
        """Yield (first slice, voxels) of one block after the other, with progress."""
        starts = range(0, self.stack.shape[0], self.depth)
        with Meter(title, len(starts), quiet=quiet) as meter:
            for start in starts:
                yield start, np.asarray(self.stack[start : start + self.depth])
                meter.step()


@dataclass(frozen=True)
class LabelStack:
    """Several masks as one label map: the first is 1, the second 2, and so on.

    Where masks overlap, the later one counts.
    """

    stacks: tuple[Any, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (z, y, x)."""
        return tuple(self.stacks[0].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels."""
        return np.dtype(np.uint8)

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        labels: NDArray[Any] | None = None
        for number, stack in enumerate(self.stacks, 1):
            inside = np.asarray(stack[slices]) > 0
            if labels is None:
                labels = np.zeros(inside.shape, np.uint8)
            labels[inside] = number
        return np.zeros((0, *self.shape[1:]), np.uint8) if labels is None else labels


def combine_masks(volumes: Mapping[str, Volume]) -> ExportVolume:
    """Combine the masks of several structures into one label map, whose numbers have names.

    Raises:
        InputError: the masks differ in shape.
    """
    shapes: Sequence[tuple[int, ...]] = [volume.shape for volume in volumes.values()]
    if len(set(shapes)) > 1:
        raise InputError(
            f"{', '.join(volumes)} have different shapes {', '.join(map(str, shapes))}; "
            "write them one by one."
        )
    first = next(iter(volumes.values()))
    names = {name: number for number, name in enumerate(volumes, 1)}
    labels = LabelStack(tuple(volume.lazy() for volume in volumes.values()))
    return ExportVolume(labels, first.voxel_size, first.block_depth, names)


@contextmanager
def atomic_output(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to; the complete file is renamed to ``path``.

    If writing fails, the temporary file is removed.

    Raises:
        InputError: the file exists, and ``overwrite`` is not set.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.name.partition(".")[0]
    unfinished = path.with_name(f".{stem}.partial{''.join(path.suffixes)}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_volume(
    volume: ExportVolume, path: str | Path, overwrite: bool = False, quiet: bool = True
) -> Path:
    """Write voxels in the format that the ending names, with their voxel size.

    The file appears when it is complete.

    Args:
        volume: one volume, or several masks combined.
        path: NAME.tif (OME-TIFF, for Fiji, MIB and napari), .nrrd or .seg.nrrd (3D Slicer), .h5,
            .model (Microscopy Image Browser).
        overwrite: replace an existing file.
        quiet: show no progress.

    Raises:
        InputError: the ending is not known, the file exists, or the format cannot hold so much.
    """
    path = Path(path)
    write = WRITERS.get(path.suffix.lower())
    if write is None:
        raise InputError(
            f"Voxels are written as {', '.join(WRITERS)}; "
            f"expected a name with one of these endings, got '{path.name}'."
        )
    with atomic_output(path, overwrite) as unfinished:
        write(volume, unfinished, path, quiet)
    return path


def write_tiff(
    volume: Volume, path: str | Path, overwrite: bool = False, quiet: bool = True
) -> Path:
    """Write a volume as a compressed multi-page OME-TIFF, a BigTIFF if needed.

    See ``write_volume``.
    """
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        raise InputError(
            "Volumes are exported as TIFF; "
            f"expected a name that ends in .tif, got '{Path(path).name}'."
        )
    return write_volume(ExportVolume.from_volume(volume), path, overwrite, quiet)


def _write_tiff(volume: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    metadata: dict[str, Any] = {"axes": "ZYX"}
    for axis, edge_nm in zip("ZYX", volume.voxel_size, strict=True):
        metadata[f"PhysicalSize{axis}"] = edge_nm / 1000
    for axis in "ZYX":
        metadata[f"PhysicalSize{axis}Unit"] = "µm"
    # Programs that read no OME-XML take the resolution: pixels per centimeter.
    resolution = (1e7 / volume.voxel_size.x, 1e7 / volume.voxel_size.y)
    is_big = volume.nbytes > CLASSIC_TIFF_BYTES
    with tifffile.TiffWriter(unfinished, bigtiff=is_big, ome=True) as tiff:
        tiff.write(
            _slices_of(volume, path, quiet),
            shape=volume.stack.shape,
            dtype=volume.stack.dtype,
            compression="zlib",
            photometric="minisblack",
            metadata=metadata,
            resolution=resolution,
            resolutionunit="CENTIMETER",
        )


def _slices_of(volume: ExportVolume, path: Path, quiet: bool) -> Iterator[NDArray[Any]]:
    """Yield one slice (y, x) after the other."""
    for _, block in volume.blocks(f"export {path.name}", quiet):
        yield from block


def _write_nrrd(volume: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    lines = _nrrd_header(volume)
    if path.name.endswith(".seg.nrrd"):
        lines += _segment_lines(volume)
    with unfinished.open("wb") as file:
        file.write(("\n".join(lines) + "\n\n").encode())
        with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=3, mtime=0) as packed:
            for _, block in volume.blocks(f"export {path.name}", quiet):
                little_endian = np.dtype(block.dtype).newbyteorder("<")
                packed.write(np.ascontiguousarray(block, little_endian).tobytes())


def _nrrd_header(volume: ExportVolume) -> list[str]:
    """Return the header lines of a NRRD file."""
    z, y, x = volume.stack.shape
    # In mm: programs that read no units assume them.
    edges_mm = [edge_nm / 1e6 for edge_nm in volume.voxel_size[::-1]]
    directions = []
    for axis, edge in enumerate(edges_mm):
        components = ["0", "0", "0"]
        components[axis] = repr(edge)
        directions.append(f"({','.join(components)})")
    return [
        "NRRD0005",
        f"type: {NRRD_TYPES[np.dtype(volume.stack.dtype).name]}",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {x} {y} {z}",
        f"space directions: {' '.join(directions)}",
        'space units: "mm" "mm" "mm"',
        "space origin: (0,0,0)",
        "kinds: domain domain domain",
        "endian: little",
        "encoding: gzip",
    ]


def _segment_lines(volume: ExportVolume) -> list[str]:
    """Return the header lines that name the segments for 3D Slicer."""
    z, y, x = volume.stack.shape
    lines = []
    for index, (name, number) in enumerate(volume.names.items()):
        segment = {
            "ID": name,
            "Name": name,
            "LabelValue": number,
            "Layer": 0,
            "Extent": f"0 {x - 1} 0 {y - 1} 0 {z - 1}",
        }
        lines += [f"Segment{index}_{key}:={value}" for key, value in segment.items()]
    return lines


def _write_hdf5(volume: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    """Write a volume as the dataset ``data`` of an HDF5 file."""
    z, y, x = volume.stack.shape
    chunks = (min(volume.depth, z), min(CHUNK_YX, y), min(CHUNK_YX, x))
    with h5py.File(unfinished, "w") as file:
        data = file.create_dataset(
            "data",
            (z, y, x),
            np.dtype(volume.stack.dtype),
            chunks=chunks,
            compression="gzip",
            compression_opts=3,
        )
        data.attrs["element_size_um"] = [edge_nm / 1000 for edge_nm in volume.voxel_size]
        for name, number in volume.names.items():
            data.attrs[f"label {number}"] = name
        for start, block in volume.blocks(f"export {path.name}", quiet):
            data[start : start + len(block)] = block


def _write_model(volume: ExportVolume, unfinished: Path, path: Path, quiet: bool) -> None:
    """Write a model of Microscopy Image Browser: a MATLAB 5 file, held in memory, at most 2 GB."""
    if volume.nbytes > MATLAB_5_BYTES:
        raise InputError(
            f"{path.name} would hold {volume.nbytes / 1e9:.1f} GB, more than the 2 GB of its "
            "format; Microscopy Image Browser also opens .nrrd and .tif."
        )
    z, y, x = volume.stack.shape
    model = np.empty((y, x, z), volume.stack.dtype, order="F")
    for start, block in volume.blocks(f"export {path.name}", quiet):
        model[:, :, start : start + len(block)] = np.moveaxis(block, 0, 2)
    with unfinished.open("wb") as file:
        scipy.io.savemat(file, _model_content(volume, model), do_compression=True)


def _model_content(volume: ExportVolume, model: NDArray[Any]) -> dict[str, Any]:
    """Return the variables of a model of Microscopy Image Browser.

    Args:
        volume: names and voxel size.
        model: labels (y, x, z).
    """
    largest = int(model.max(initial=0))
    model_type = next(limit for limit in MODEL_TYPES if largest <= limit)
    materials = _material_names(volume, largest, model_type)
    return {
        "mibModel": model.astype(_model_dtype(model_type), copy=False),
        "modelVariable": "mibModel",
        "modelType": float(model_type),
        "modelMaterialNames": np.array(materials, dtype=object).reshape(-1, 1),
        "modelMaterialColors": np.random.default_rng(0).random((max(len(materials), 1), 3)),
        "BoundingBox": np.array([_bounding_box_um(volume)]),
    }


def _model_dtype(model_type: int) -> type[np.unsignedinteger[Any]]:
    """Return the type of the numbers of a model of Microscopy Image Browser."""
    if model_type <= np.iinfo(np.uint8).max:
        return np.uint8
    if model_type <= np.iinfo(np.uint16).max:
        return np.uint16
    return np.uint32


def _material_names(volume: ExportVolume, largest: int, model_type: int) -> list[str]:
    """Return the names of the numbers from 1 on; a number without a name is its own.

    Models of more than 255 materials list the first two numbers only, as the program itself writes
    them.
    """
    names = {number: name for name, number in volume.names.items()}
    last = 2
    if model_type <= MAX_NAMED_MATERIALS:
        last = max([largest, *names])
    return [names.get(number, str(number)) for number in range(1, last + 1)]


def _bounding_box_um(volume: ExportVolume) -> list[float]:
    """Return the first and last voxel center along x, y and z, in µm."""
    z, y, x = volume.stack.shape
    voxel = volume.voxel_size
    return [
        0,
        (x - 1) * voxel.x / 1000,
        0,
        (y - 1) * voxel.y / 1000,
        0,
        (z - 1) * voxel.z / 1000,
    ]


Writer = Callable[[ExportVolume, Path, Path, bool], None]
WRITERS: dict[str, Writer] = {
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
    ".nrrd": _write_nrrd,
    ".h5": _write_hdf5,
    ".model": _write_model,
}
