"""Models of Microscopy Image Browser (.model; MATLAB 5 or HDF5) and plain .mat files.

They hold labels and the names of their materials. MATLAB's axes are (y, x, z).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.axes import FULL_AXIS, Index
from sparsem.io.readers.damage import refuse_damaged_file
from sparsem.io.readers.hdf5 import Hdf5Stack
from sparsem.io.readers.hdf5_files import hdf5_file
from sparsem.io.readers.hdf5_missing import missing_hdf5_parts
from sparsem.io.readers.selection import Selection
from sparsem.io.readers.source import NO_LENGTHS, Source

MATLAB_ENDINGS = (".model", ".mat")
MATLAB_FORMAT = "a MATLAB file"  # in messages
MAX_MATERIALS = 255  # models of more hold objects
MATERIALS_63 = 63  # models of this type keep mask and selection in the two highest bits
MIN_EDGE = 4  # shorter variables are no labels


class _Model(NamedTuple):
    """The entries of a file that describe its labels.

    Attributes:
        shapes: of all variables, in MATLAB's order (y, x, z).
        variable: name of the variable that holds the labels; None if the file does not state it.
        materials: names of the numbers from 1 on.
        model_type: the highest number that the type of model can hold; 0 if the file has none.
    """

    shapes: dict[str, tuple[int, ...]]
    variable: str | None
    materials: list[str]
    model_type: int

    @property
    def label_names(self) -> dict[str, tuple[int, ...]]:
        """The number of each material by its name.

        It is empty where the numbers are objects, whose names are the numbers themselves.
        """
        numbered = list(enumerate(self.materials, 1))
        holds_objects = self.model_type > MAX_MATERIALS
        if holds_objects or all(name == str(number) for number, name in numbered):
            return {}
        return {name: (number,) for number, name in numbered}

    def choose_variable(self, selection: Selection, path: Path) -> str:
        """Return the variable that holds the labels.

        It is the selected one, the one that the model names, or the only large one.
        """
        listed = ", ".join(self.shapes) or "none"
        name = selection.dataset or self.variable
        if name is not None:
            if name not in self.shapes:
                raise InputError(f"{path.name} has no variable '{name}'; it has {listed}.")
            return name
        large = [name for name, shape in self.shapes.items() if _may_hold_labels(shape)]
        if len(large) != 1:
            raise InputError(
                f"{path.name} holds the variables {listed}; name one with --dataset KEY."
            )
        return large[0]


def _may_hold_labels(shape: tuple[int, ...]) -> bool:
    return len(shape) in (2, 3, 4) and min(shape) > 0 and max(shape) > MIN_EDGE


def _stack_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    """Return (z, y, x) of a variable (y, x), (y, x, z) or (y, x, z, 1)."""
    y, x, z, *times = shape if len(shape) >= 3 else (*shape, 1)
    if any(length != 1 for length in times):
        raise InputError(
            f"{path.name} holds an array {shape} of several times; expected one, (y, x, z)."
        )
    return z, y, x


def open_matlab(path: Path, selection: Selection) -> Source:
    """Open a model or a MATLAB file as a stack; see ``open_source``."""
    with refuse_damaged_file(path, MATLAB_FORMAT):
        if h5py.is_hdf5(path):
            source = _matlab_7_source(path, selection)
        else:
            source = _matlab_5_source(path, selection)
    return source


def _matlab_5_source(path: Path, selection: Selection) -> Source:
    model = _read_matlab_5_model(path)
    variable = model.choose_variable(selection, path)
    shape = _stack_shape(model.shapes[variable], path)
    changed_ns = path.stat().st_mtime_ns
    is_type_63 = model.model_type == MATERIALS_63
    stack = MatlabStack(path, changed_ns, variable, shape, is_type_63)
    return Source(stack, NO_LENGTHS, (path,), names=model.label_names, part=variable)


def _read_matlab_5_model(path: Path) -> _Model:
    import scipy.io  # takes half a second, for which every command would wait

    with path.open("rb") as file:
        shapes = {name: tuple(shape) for name, shape, _ in scipy.io.whosmat(file)}
        entries = scipy.io.loadmat(
            file, variable_names=["modelVariable", "modelMaterialNames", "modelType"]
        )
    variable = None
    if "modelVariable" in entries:
        variable = str(np.ravel(entries["modelVariable"])[0])
    cells = np.ravel(entries.get("modelMaterialNames", np.array([])))
    materials = [str(np.ravel(cell)[0]) for cell in cells]
    model_type = int(np.ravel(entries["modelType"])[0]) if "modelType" in entries else 0
    return _Model(shapes, variable, materials, model_type)


def _matlab_7_source(path: Path, selection: Selection) -> Source:
    """Open a MATLAB 7.3 file: HDF5, with the axes in the opposite order, (z, x, y)."""
    with hdf5_file(path) as file:
        model = _read_matlab_7_model(file)
        variable = model.choose_variable(selection, path)
        node = file[variable]
        z, y, x = _stack_shape(model.shapes[variable], path)
        index = _index_in_file(node.ndim)
        missing = missing_hdf5_parts(node, path, index, f"'{variable}' in {path.name}")
        stored = Hdf5Stack(path, variable, index, (z, x, y), np.dtype(node.dtype))
    is_type_63 = model.model_type == MATERIALS_63
    return Source(
        TransposedStack(stored, (z, y, x), is_type_63),
        NO_LENGTHS,
        (path,),
        names=model.label_names,
        part=variable,
        missing=missing,
    )


def _index_in_file(n_axes: int) -> Index:
    """Return the position of a stack in a variable of two, three or four axes."""
    leading_axes: tuple[int | None, ...] = ()
    if n_axes == 3:
        leading_axes = (None,)
    elif n_axes == 4:
        leading_axes = (0, None)
    return (*leading_axes, FULL_AXIS, FULL_AXIS)


def _read_matlab_7_model(file: h5py.File) -> _Model:
    datasets = {name: node for name, node in file.items() if isinstance(node, h5py.Dataset)}
    shapes = {name: tuple(node.shape[::-1]) for name, node in datasets.items()}
    variable = _read_text(file["modelVariable"]) if "modelVariable" in file else None
    cells: Any = []
    if "modelMaterialNames" in file:
        cells = np.ravel(file["modelMaterialNames"][...])
    materials = [_read_text(file[cell]) for cell in cells if isinstance(cell, h5py.Reference)]
    model_type = int(np.ravel(file["modelType"][...])[0]) if "modelType" in file else 0
    return _Model(shapes, variable, materials, model_type)


def _read_text(node: Any) -> str:
    return "".join(chr(int(letter)) for letter in np.ravel(node[...]))


@dataclass(frozen=True)
class TransposedStack:
    """A stack whose slices lie in the file as (x, y).

    Attributes:
        stack: (z, x, y), as it lies in the file.
        shape: (z, y, x).
        is_type_63: the two highest bits are no labels.
    """

    stack: Hdf5Stack
    shape: tuple[int, ...]
    is_type_63: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels."""
        return self.stack.dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        labels = np.swapaxes(self.stack[slices], 1, 2)
        return labels & MATERIALS_63 if self.is_type_63 else labels


@dataclass(frozen=True)
class MatlabStack:
    """A variable of a MATLAB 5 file, at most 2 GB by its format.

    All of it is decompressed when it is first sliced, and kept.

    Attributes:
        path: the file.
        changed_ns: when the file was modified, ns.
        variable: name of the variable.
        shape: (z, y, x).
        is_type_63: the two highest bits are no labels.
    """

    path: Path
    changed_ns: int
    variable: str
    shape: tuple[int, ...]
    is_type_63: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels."""
        dtype: np.dtype[Any] = self._array().dtype
        return dtype

    def _array(self) -> NDArray[Any]:
        with refuse_damaged_file(self.path, MATLAB_FORMAT):
            array = _load_variable(self.path, self.changed_ns, self.variable)
        return array

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        z, y, x = self.shape
        labels = np.moveaxis(self._array().reshape(y, x, z)[:, :, slices], 2, 0)
        return labels & MATERIALS_63 if self.is_type_63 else np.ascontiguousarray(labels)


@lru_cache(maxsize=1)
def _load_variable(path: Path, _changed_ns: int, variable: str) -> NDArray[Any]:
    """Return a variable of a MATLAB 5 file; the time of its change invalidates the cache."""
    import scipy.io

    load: Callable[..., dict[str, Any]] = scipy.io.loadmat
    with path.open("rb") as file:
        return np.asarray(load(file, variable_names=[variable])[variable])
