"""Models of Microscopy Image Browser (.model; MATLAB 5 or HDF5) and plain .mat files: labels and the names of their materials."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.hdf5 import Hdf5Stack
from sparsem.io.readers.hdf5_files import hdf5_file
from sparsem.io.readers.hdf5_missing import missing_hdf5_parts
from sparsem.io.readers.missing import FULL_AXIS
from sparsem.io.readers.source import Selection, Source, refuse_damaged_file

MATLAB_ENDINGS = (".model", ".mat")
MOST_MATERIALS = 255  # models of more hold objects
MATERIALS_63 = 63  # models of this type keep mask and selection in the two highest bits


def open_matlab(path: Path, pick: Selection) -> Source:
    """A model as a stack; see ``open_source``. MATLAB's axes are (y, x, z)."""
    with refuse_damaged_file(path, "a MATLAB file"):
        return _open_hdf5(path, pick) if h5py.is_hdf5(path) else _open_5(path, pick)
    raise AssertionError  # the context raises or the block returns


def _named(names: list[str], kind: int) -> dict[str, tuple[int, ...]]:
    """What numbers mean; nothing where they are numbers of objects, whose names are the numbers themselves."""
    of_objects = kind > MOST_MATERIALS or all(
        name == str(number) for number, name in enumerate(names, 1)
    )
    return {} if of_objects else {name: (number,) for number, name in enumerate(names, 1)}


def _variable(
    pick: Selection, told: str | None, shapes: dict[str, tuple[int, ...]], path: Path
) -> str:
    """The variable that holds the labels: the one asked for, the one that the model names, or the only large one."""
    wanted = pick.dataset or told
    if wanted is not None:
        if wanted not in shapes:
            raise InputError(
                f"{path.name} has no variable '{wanted}'; it has {', '.join(shapes) or 'none'}."
            )
        return wanted
    large = [
        name
        for name, shape in shapes.items()
        if len(shape) in (2, 3, 4) and min(shape) > 0 and max(shape) > 4
    ]
    if len(large) != 1:
        raise InputError(
            f"{path.name} holds the variables {', '.join(shapes) or 'none'}; name one with --dataset KEY."
        )
    return large[0]


def _open_5(path: Path, pick: Selection) -> Source:
    import scipy.io  # half a second that every command would wait

    with path.open("rb") as file:
        shapes = {name: tuple(shape) for name, shape, _ in scipy.io.whosmat(file)}
        about = scipy.io.loadmat(
            file, variable_names=["modelVariable", "modelMaterialNames", "modelType"]
        )
    told = str(np.ravel(about["modelVariable"])[0]) if "modelVariable" in about else None
    names = [
        str(np.ravel(one)[0]) for one in np.ravel(about.get("modelMaterialNames", np.array([])))
    ]
    kind = int(np.ravel(about["modelType"])[0]) if "modelType" in about else 0
    variable = _variable(pick, told, shapes, path)
    stack = MatlabStack(
        path,
        path.stat().st_mtime_ns,
        variable,
        _stack_shape(shapes[variable], path),
        kind == MATERIALS_63,
    )
    return Source(stack, (None, None, None), (path,), names=_named(names, kind), part=variable)


def _stack_shape(shape: tuple[int, ...], path: Path) -> tuple[int, int, int]:
    y, x, z, *more = (*shape, 1)[: max(3, len(shape))]
    if any(length != 1 for length in more):
        raise InputError(
            f"{path.name} holds an array {shape} of several times; expected one, (y, x, z)."
        )
    return z, y, x


def _open_hdf5(path: Path, pick: Selection) -> Source:
    """MATLAB 7.3: HDF5, where axes are in the opposite order, (z, x, y)."""
    with hdf5_file(path) as file:
        shapes = {
            name: tuple(node.shape[::-1])
            for name, node in file.items()
            if isinstance(node, h5py.Dataset)
        }
        told = _text(file["modelVariable"]) if "modelVariable" in file else None
        cells: Any = (
            np.ravel(file["modelMaterialNames"][...]) if "modelMaterialNames" in file else []
        )
        names = [_text(file[one]) for one in cells if isinstance(one, h5py.Reference)]
        kind = int(np.ravel(file["modelType"][...])[0]) if "modelType" in file else 0
        variable = _variable(pick, told, shapes, path)
        node = file[variable]
        z, y, x = _stack_shape(shapes[variable], path)
        before: tuple[int | None, ...] = (
            (None,) if node.ndim == 3 else (0, None) if node.ndim == 4 else ()
        )
        index = (*before, FULL_AXIS, FULL_AXIS)
        missing = missing_hdf5_parts(node, path, index, f"'{variable}' in {path.name}")
        inner = Hdf5Stack(path, variable, index, (z, x, y), np.dtype(node.dtype))
        stack = TransposedStack(inner, (z, y, x), kind == MATERIALS_63)
        return Source(
            stack,
            (None, None, None),
            (path,),
            names=_named(names, kind),
            part=variable,
            missing=missing,
        )


def _text(node: Any) -> str:
    return "".join(chr(int(one)) for one in np.ravel(node[...]))


@dataclass(frozen=True)
class TransposedStack:
    """Slices that lie in the file as (x, y)."""

    stack: Hdf5Stack
    shape: tuple[int, ...]
    of_63: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stack.dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        found = np.swapaxes(self.stack[slices], 1, 2)
        return found & MATERIALS_63 if self.of_63 else found


@dataclass(frozen=True)
class MatlabStack:
    """A variable of a MATLAB 5 file, at most 2 GB by its format: unpacked whole when it is first sliced, and kept."""

    path: Path
    changed: int
    variable: str
    shape: tuple[int, ...]
    of_63: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        kind: np.dtype[Any] = self._array().dtype
        return kind

    def _array(self) -> NDArray[Any]:
        with refuse_damaged_file(self.path, "a MATLAB file"):
            return _unpacked(self.path, self.changed, self.variable)
        raise AssertionError  # the context raises or the block returns

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        found = np.moveaxis(
            self._array().reshape(self.shape[1], self.shape[2], self.shape[0])[:, :, slices], 2, 0
        )
        return found & MATERIALS_63 if self.of_63 else np.ascontiguousarray(found)


@lru_cache(maxsize=1)
def _unpacked(path: Path, _changed: int, variable: str) -> NDArray[Any]:
    import scipy.io

    load: Callable[..., dict[str, Any]] = scipy.io.loadmat
    with path.open("rb") as file:
        return np.asarray(load(file, variable_names=[variable])[variable])
