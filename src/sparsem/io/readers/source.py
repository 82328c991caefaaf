"""Sources: a lazy stack, and what its file states about it. Each reader returns one.

A stack is anything with ``shape`` (z, y, x), ``dtype`` and ``stack[z0:z1]``. Nothing is read before
it is sliced, and it can be pickled. A voxel length that the format does not state is None: the user
is asked for it, and it is never assumed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from sparsem.errors import InputError
from sparsem.geometry import VoxelSize
from sparsem.io.readers.missing import MissingParts

# Voxel lengths in nm, (z, y, x); None where they are not known.
AxisLengths = tuple[float | None, float | None, float | None]
NO_LENGTHS: AxisLengths = (None, None, None)


class Stack(Protocol):
    """A stack of slices that is read when it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, slices: slice) -> Any: ...


class Placement(NamedTuple):
    """The position of a cropped segmentation in its image.

    Attributes:
        offset: (z, y, x) of its first voxel.
        shape: (z, y, x) of the image; None if the file does not state it.
    """

    offset: tuple[int, int, int]
    shape: tuple[int, int, int] | None


@dataclass(frozen=True)
class Source:
    """A stack with what its file states about it.

    Attributes:
        stack: (z, y, x), lazy.
        voxel_nm: lengths in nm, (z, y, x); None where the format does not state one.
        files: the files that were opened, for fingerprints.
        numbers: for a series of files: the slice number in each file's name, in the order of the
            slices.
        repeated: slices that are copies of the previous one because their file is missing.
        names: for labels: the numbers of each structure by its name, as the file states them.
        part: the selected part of the file, for fingerprints.
        sizes: for a montage: (y, x) of each image.
        order_error: why the names of a series of files do not give their order; empty if they do.
        order_note: how the file names were interpreted, if this may be wrong.
        voxel_faults: stated lengths that are impossible or have an unknown unit, as text.
        name: of the source, where the name of its first file means little.
        missing: parts that the files lack, see ``missing``.
        notes: sentences about how the file was read, where it can be read in another way.
        placement: the position of a cropped segmentation in its image.
    """

    stack: Stack
    voxel_nm: AxisLengths
    files: tuple[Path, ...]
    numbers: tuple[int | float, ...] = ()
    repeated: tuple[int, ...] = ()
    names: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    part: str = ""
    sizes: tuple[tuple[int, int], ...] = ()
    order_error: str = ""
    order_note: str = ""
    voxel_faults: tuple[str, ...] = ()
    name: str = ""
    missing: tuple[MissingParts, ...] = ()
    notes: tuple[str, ...] = ()
    placement: Placement | None = None

    def refuse_unordered(self) -> None:
        """Refuse a series of files whose names do not give their order.

        Raises:
            InputError: the message names two files, and what to do.
        """
        if self.order_error:
            raise InputError(self.order_error)

    def voxel_size(self, given: Sequence[float] | None = None) -> VoxelSize:
        """Return the voxel size: ``given`` if it is not None, else the file's.

        Raises:
            InputError: the file does not state all three lengths, or states impossible ones, and
                none were given.
        """
        if given is not None:
            return VoxelSize.of(given)
        z, y, x = self.voxel_nm
        if z is None or y is None or x is None:
            raise InputError(self._voxel_size_error())
        return VoxelSize.of((z, y, x))

    def _voxel_size_error(self) -> str:
        """Return the sentence that asks for a voxel size."""
        name = self.name or self.files[0].name
        if self.voxel_faults:
            faults = "; ".join(self.voxel_faults)
            return (
                f"{name}: {faults}; give the voxel size in nm as --voxel-nm Z Y X, "
                "for instance --voxel-nm 8 4 4."
            )
        stated = [
            f"{axis} = {length:g} nm"
            for axis, length in zip("zyx", self.voxel_nm, strict=True)
            if length
        ]
        incomplete = f" completely (only {', '.join(stated)})" if stated else ""
        return (
            f"{name} does not state its voxel size{incomplete}; "
            "give it in nm as --voxel-nm Z Y X, for instance --voxel-nm 8 4 4."
        )

    @property
    def title(self) -> str:
        """The name of the first file, and how many follow."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.files[0].name}{more}"

    def identity(self) -> str:
        """Return a short hash of the name, size and modification time of every file.

        It shows whether the input has changed. A Zarr counts as one file: all of its chunks
        together.
        """
        known = [[self.part], *([file.name, *_size_and_change(file)] for file in self.files)]
        return hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()


def _size_and_change(path: Path) -> tuple[int, int]:
    """Return bytes and latest modification time, ns, of a file or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    status = [file.stat() for file in files]
    n_bytes = sum(file_status.st_size for file_status in status)
    changed_ns = max((file_status.st_mtime_ns for file_status in status), default=0)
    return n_bytes, changed_ns
