"""HDF5: a dataset by its key, or the only one that is a stack."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.store.readers.source import PLAIN_AXES, UNREADABLE, Pick, Source, layout, sentences
from sparsem.store.readers.units import StatedLength, axes_of, faults_of, stated_length

MOST_CHANNELS = 4  # that a last axis holds of which nobody says what it is
HDF5_ENDINGS = (".h5", ".hdf5", ".hdf", ".he5")


def open_hdf5(path: Path, pick: Pick) -> Source:
    """A dataset of an HDF5 file as a stack; see ``open_source``."""
    with sentences(path, "HDF5"), h5py.File(path, "r") as file:
        key = pick.dataset or _only_stack(file, path)
        node = file.get(key)
        if not isinstance(node, h5py.Dataset):
            raise InputError(f"{path.name} has no dataset '{key}'; it has {', '.join(_datasets(file)) or 'none'}.")
        if not 3 <= node.ndim <= len(PLAIN_AXES) or not all(node.shape):
            raise InputError(f"'{key}' in {path.name} has the shape {node.shape}; expected one channel, (z, y, x).")
        axes, lengths = _axes(node), node.shape
        if axes[-1] == "C":  # ilastik's order
            if lengths[-1] > 1:
                raise InputError(f"'{key}' in {path.name} has its {lengths[-1]} channels last, {lengths}; write one of them, (z, y, x).")
            axes, lengths = axes[:-1], lengths[:-1]
        index, shape = layout(axes, lengths, pick, path.name)
        part = ", ".join(str(one) for one in (key, pick.channel, pick.time) if one is not None)
        lengths = _lengths(node)
        stack = Hdf5Stack(path, key, index, shape, np.dtype(node.dtype))
        return Source(stack, axes_of(lengths), (path,), part=part, voxel_faults=faults_of(lengths))
    raise AssertionError  # the context raises or the block returns


def _axes(node: h5py.Dataset) -> str:
    """A letter an axis: as ilastik and vigra tell it, else the plain order; a short last axis of four holds channels."""
    told = node.attrs.get("axistags")
    if told is not None:
        names = "".join(str(axis["key"]) for axis in json.loads(told)["axes"]).upper()
        if len(names) == node.ndim:
            return names
    return "ZYXC" if node.ndim == 4 and node.shape[-1] <= MOST_CHANNELS else PLAIN_AXES[-node.ndim :]


def _datasets(file: h5py.File) -> list[str]:
    """Keys of all datasets that could be a stack."""
    keys: list[str] = []

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim >= 3:
            keys.append(name)

    file.visititems(note)
    return keys


def _only_stack(file: h5py.File, path: Path) -> str:
    keys = _datasets(file)
    if not keys:
        raise InputError(f"{path.name} holds no stack: no dataset of three axes.")
    if len(keys) > 1:
        raise InputError(f"{path.name} holds the datasets {', '.join(keys)}; name one with --dataset KEY.")
    return keys[0]


def _lengths(node: h5py.Dataset) -> dict[str, StatedLength]:
    """Edges of a voxel by axis, from attributes that hold them as z y x.

    ``element_size_um`` is that of ImageJ's HDF5 plugins and ilastik, ``resolution`` (nm) of CREMI.
    """
    for name, unit in (("element_size_um", "um"), ("resolution", "nm")):
        found = np.ravel(np.asarray(node.attrs[name], object)).tolist() if name in node.attrs else []
        if len(found) == 3:
            return {axis: stated_length(edge, unit) for axis, edge in zip("zyx", found, strict=True)}
    return {}


@dataclass(frozen=True)
class Hdf5Stack:
    """A dataset, opened whenever it is sliced."""

    path: Path
    key: str
    index: tuple[int | None, ...]
    shape: tuple[int, ...]
    stored: np.dtype[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stored.newbyteorder("=")

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        try:
            with h5py.File(self.path, "r") as file:
                node = file[self.key]
                found = np.asarray(node[tuple(slice(start, stop) if one is None else one for one in self.index)], self.dtype)
        except UNREADABLE as error:
            raise InputError(f"Slices {start} to {stop - 1} of '{self.key}' in {self.path.name} cannot be read ({error}).") from None
        return found.reshape(stop - start, *self.shape[1:])
