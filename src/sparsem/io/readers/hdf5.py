"""HDF5: a dataset by its key, or the only one that is a stack."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.axes import (
    DEFAULT_AXES,
    Index,
    default_axes,
    index_of_slices,
    stack_layout,
)
from sparsem.io.readers.damage import UNREADABLE, refuse_damaged_file
from sparsem.io.readers.hdf5_files import (
    Datasets,
    find_dataset,
    find_datasets,
    hdf5_file,
    link_target,
    require_filters,
)
from sparsem.io.readers.hdf5_missing import missing_hdf5_parts
from sparsem.io.readers.selection import Selection
from sparsem.io.readers.source import Source
from sparsem.io.readers.units import (
    StatedLength,
    axis_lengths_nm,
    length_faults,
    stated_length,
)

HDF5_ENDINGS = (".h5", ".hdf5", ".hdf", ".he5")

# Attributes that hold the edges of a voxel as z y x, and their unit: of ImageJ's HDF5 plugins and
# ilastik, and of CREMI.
LENGTH_ATTRIBUTES = (("element_size_um", "um"), ("resolution", "nm"))


def open_hdf5(path: Path, selection: Selection) -> Source:
    """Open a dataset of an HDF5 file as a stack; see ``open_source``."""
    with refuse_damaged_file(path, "HDF5"), hdf5_file(path) as file:
        source = _hdf5_source(file, path, selection)
    return source


def _hdf5_source(file: h5py.File, path: Path, selection: Selection) -> Source:
    """Open a dataset of an HDF5 file as a stack."""
    datasets = Datasets()
    if selection.dataset is None:
        datasets = find_datasets(file)
        key = _only_stack(datasets, path)
    else:
        key = selection.dataset
    name = f"'{key}' in {path.name}"
    node = _require_stack(file, key, path)
    index, shape = stack_layout(_axis_letters(node), node.shape, selection, name)
    missing = missing_hdf5_parts(node, path, index, name)
    lengths = _stated_lengths(node)
    return Source(
        Hdf5Stack(path, key, index, shape, np.dtype(node.dtype)),
        axis_lengths_nm(lengths),
        (path,),
        part=_selected_part(key, selection),
        missing=missing,
        notes=tuple(f"{sentence}." for sentence in datasets.dangling),
        voxel_faults=length_faults(lengths),
    )


def _selected_part(key: str, selection: Selection) -> str:
    """Return the key of a dataset, and the selected channel and time, as text."""
    numbers = (selection.channel, selection.time)
    selected = [key, *(str(number) for number in numbers if number is not None)]
    return ", ".join(selected)


def _require_stack(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """Return a dataset that has the axes of a stack.

    Raises:
        InputError: there is no such dataset, or its shape is not that of a stack.
    """
    node = find_dataset(file, key)
    if node is None:
        raise InputError(_no_dataset_error(file, key, path))
    if node.shape is None or not 3 <= node.ndim <= len(DEFAULT_AXES) or not all(node.shape):
        raise InputError(
            f"'{key}' in {path.name} has the shape {node.shape}; expected one channel, (z, y, x)."
        )
    return node


def _axis_letters(node: h5py.Dataset) -> str:
    """Return a letter an axis: as ilastik and vigra state them, else the default order."""
    stated = node.attrs.get("axistags")
    if stated is not None:
        letters = "".join(str(axis["key"]) for axis in json.loads(stated)["axes"]).upper()
        if len(letters) == node.ndim:
            return letters
    return default_axes(node.shape)


def _no_dataset_error(file: h5py.File, key: str, path: Path) -> str:
    """Return why a dataset cannot be opened."""
    target = link_target(file, key)
    if target is not None:
        return f"'{key}' in {path.name} is a link to {target}, which is not there; put it back."
    available = ", ".join(find_datasets(file).keys) or "none"
    return f"{path.name} has no dataset '{key}'; it has {available}."


def _only_stack(datasets: Datasets, path: Path) -> str:
    """Return the key of the only dataset that could be a stack."""
    if not datasets.keys:
        dangling = f" ({'; '.join(datasets.dangling[:3])})" if datasets.dangling else ""
        raise InputError(f"{path.name} holds no stack: no dataset of three axes{dangling}.")
    if len(datasets.keys) > 1:
        keys = ", ".join(datasets.keys)
        raise InputError(f"{path.name} holds the datasets {keys}; name one with --dataset KEY.")
    return datasets.keys[0]


def _stated_lengths(node: h5py.Dataset) -> dict[str, StatedLength]:
    """Return the edges of a voxel by axis, from the attributes of a dataset."""
    for attribute, unit in LENGTH_ATTRIBUTES:
        if attribute not in node.attrs:
            continue
        edges = np.ravel(np.asarray(node.attrs[attribute], object)).tolist()
        if len(edges) == 3:
            axes = zip("zyx", edges, strict=True)
            return {axis: stated_length(edge, unit) for axis, edge in axes}
    return {}


@dataclass(frozen=True)
class Hdf5Stack:
    """A dataset of an HDF5 file, which is opened whenever the stack is sliced.

    Attributes:
        path: the file.
        key: of the dataset.
        index: the position of the stack in the dataset.
        shape: (z, y, x).
        stored: type of the numbers in the file, with their byte order.
    """

    path: Path
    key: str
    index: Index
    shape: tuple[int, ...]
    stored: np.dtype[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, in native byte order."""
        return self.stored.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with hdf5_file(self.path) as file:
                voxels = self._read(file, slice(start, stop))
        except UNREADABLE as error:
            raise InputError(
                f"Slices {start} to {stop - 1} of '{self.key}' in {self.path.name} "
                f"cannot be read ({error})."
            ) from None
        return voxels.reshape(stop - start, *self.shape[1:])

    def _read(self, file: h5py.File, slices: slice) -> NDArray[Any]:
        node = find_dataset(file, self.key)
        if node is None:
            raise InputError(f"{self.path.name} has no dataset '{self.key}' any more.")
        # Each worker process loads its plugins itself.
        require_filters(node, f"'{self.key}' in {self.path.name}")
        return np.asarray(node[index_of_slices(self.index, slices)], self.dtype)
