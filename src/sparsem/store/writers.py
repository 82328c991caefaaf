"""Writers: a volume of a sample -> what other programs read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.progress import Meter
from sparsem.store.volume import Volume


def write_tiff(volume: Volume, path: str | Path, overwrite: bool = False, quiet: bool = True) -> Path:
    """Write a volume as a multi-page OME-TIFF (BigTIFF where needed), block by block, compressed, with its voxel size.

    Args:
        volume: any volume of a sample.
        path: NAME.tif; it appears when it is complete.
        overwrite: replace an existing file.
        quiet: no progress.

    Raises:
        InputError: the file exists and is not to be replaced, or its name is not that of a TIFF.
    """
    path = Path(path)
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"Volumes are exported as TIFF; expected a name that ends in .tif, got '{path.name}'.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; use --overwrite to replace it, or choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.stem}.partial.ome.tif")
    voxel = volume.voxel_size
    sizes = {f"PhysicalSize{axis.upper()}": getattr(voxel, axis) / 1000 for axis in "zyx"}
    units = {f"PhysicalSize{axis.upper()}Unit": "µm" for axis in "zyx"}
    large = volume.dtype.itemsize * int(np.prod(volume.shape, dtype=np.int64)) > 2**31
    with tifffile.TiffWriter(unfinished, bigtiff=large, ome=True) as tiff:
        metadata = {"axes": "ZYX", **sizes, **units}
        tiff.write(
            _slices(volume, f"export {path.name}", quiet),
            shape=volume.shape,
            dtype=volume.dtype,
            compression="zlib",
            photometric="minisblack",
            metadata=metadata,
        )
    unfinished.replace(path)
    return path


def _slices(volume: Volume, title: str, quiet: bool) -> Iterator[NDArray[Any]]:
    with Meter(title, len(volume.blocks()), quiet=quiet) as meter:
        for block in volume.blocks():
            yield from volume.read(block.own)
            meter.step()
