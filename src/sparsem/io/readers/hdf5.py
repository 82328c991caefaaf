"""HDF5: a dataset by its key, or the only one that is a stack."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.hdf5_files import (
    Datasets,
    find_dataset,
    find_datasets,
    hdf5_file,
    link_target,
    require_filters,
)
from sparsem.io.readers.hdf5_missing import missing_hdf5_parts
from sparsem.io.readers.missing import Index
from sparsem.io.readers.source import (
    DEFAULT_AXES,
    UNREADABLE,
    Selection,
    Source,
    default_axes,
    refuse_damaged_file,
    stack_layout,
)
from sparsem.io.readers.units import StatedLength, axis_lengths_nm, length_faults, stated_length

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf", ".he5")


def open_hdf5(path: Path, pick: Selection) -> Source:
    """A dataset of an HDF5 file as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "HDF5"), hdf5_file(path) as file:
        found = find_datasets(file) if pick.dataset is None else Datasets()
        key = _only_stack(found, path) if pick.dataset is None else pick.dataset
        node = find_dataset(file, key)
        name = f"'{key}' in {path.name}"
        if node is None:
            raise InputError(_no_dataset(file, key, path))
        if node.shape is None or not 3 <= node.ndim <= len(DEFAULT_AXES) or not all(node.shape):
            raise InputError(f"{name} has the shape {node.shape}; expected one channel, (z, y, x).")
        index, shape = stack_layout(_axes(node), node.shape, pick, name)
        missing = missing_hdf5_parts(node, path, index, name)
        part = ", ".join(str(one) for one in (key, pick.channel, pick.time) if one is not None)
        lengths, notes = _lengths(node), tuple(f"{one}." for one in found.dangling)
        stack = Hdf5Stack(path, key, index, shape, np.dtype(node.dtype))
        return Source(
            stack,
            axis_lengths_nm(lengths),
            (path,),
            part=part,
            missing=missing,
            notes=notes,
            voxel_faults=length_faults(lengths),
        )
    raise AssertionError  # the context raises or the block returns


def _axes(node: h5py.Dataset) -> str:
    """A letter an axis: as ilastik and vigra state it, else the plain order."""
    stated = node.attrs.get("axistags")
    if stated is not None:
        names = "".join(str(axis["key"]) for axis in json.loads(stated)["axes"]).upper()
        if len(names) == node.ndim:
            return names
    return default_axes(node.shape)


def _no_dataset(file: h5py.File, key: str, path: Path) -> str:
    """Why a dataset cannot be opened."""
    target = link_target(file, key)
    if target is not None:
        return f"'{key}' in {path.name} is a link to {target}, which is not there; put it back."
    return f"{path.name} has no dataset '{key}'; it has {', '.join(find_datasets(file).keys) or 'none'}."


def _only_stack(found: Datasets, path: Path) -> str:
    if not found.keys:
        dangling = f" ({'; '.join(found.dangling[:3])})" if found.dangling else ""
        raise InputError(f"{path.name} holds no stack: no dataset of three axes{dangling}.")
    if len(found.keys) > 1:
        raise InputError(
            f"{path.name} holds the datasets {', '.join(found.keys)}; name one with --dataset KEY."
        )
    return found.keys[0]


def _lengths(node: h5py.Dataset) -> dict[str, StatedLength]:
    """Edges of a voxel by axis, from attributes that hold them as z y x.

    ``element_size_um`` is that of ImageJ's HDF5 plugins and ilastik, ``resolution`` (nm) of CREMI.
    """
    for name, unit in (("element_size_um", "um"), ("resolution", "nm")):
        found = (
            np.ravel(np.asarray(node.attrs[name], object)).tolist() if name in node.attrs else []
        )
        if len(found) == 3:
            return {
                axis: stated_length(edge, unit) for axis, edge in zip("zyx", found, strict=True)
            }
    return {}


@dataclass(frozen=True)
class Hdf5Stack:
    """A dataset, opened whenever it is sliced."""

    path: Path
    key: str
    index: Index
    shape: tuple[int, ...]
    stored: np.dtype[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stored.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with hdf5_file(self.path) as file:
                node = find_dataset(file, self.key)
                if node is None:
                    raise InputError(f"{self.path.name} has no dataset '{self.key}' any more.")
                require_filters(
                    node, f"'{self.key}' in {self.path.name}"
                )  # a worker loads its plugins itself
                found = np.asarray(
                    node[tuple(slice(start, stop) if one is None else one for one in self.index)],
                    self.dtype,
                )
        except UNREADABLE as error:
            raise InputError(
                f"Slices {start} to {stop - 1} of '{self.key}' in {self.path.name} cannot be read ({error})."
            ) from None
        return found.reshape(stop - start, *self.shape[1:])
