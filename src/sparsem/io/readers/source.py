"""What a reader finds: a lazy stack, and what the file states of it.

A stack is anything with ``shape`` (z, y, x), ``dtype`` and ``stack[z0:z1]``; nothing is read before it is sliced, and it can be pickled.
A voxel size axis that the format does not state is None: it is asked for, never assumed.
"""

import hashlib
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import tifffile

from sparsem.errors import InputError, SparsemError
from sparsem.geometry import VoxelSize
from sparsem.io.readers.missing import FULL_AXIS, Index, MissingParts

# What the libraries raise at files that are damaged.
UNREADABLE = (
    tifffile.TiffFileError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    RuntimeError,
    struct.error,
    NotImplementedError,
)

DEFAULT_AXES = "TCZYX"  # of an array that names none: the last of these
MAX_CHANNELS = 4  # in the last axis of an array that names no axes

MrcBytes = Literal["signed", "unsigned"]
AxisLengths = tuple[float | None, float | None, float | None]
MinIsWhite = Literal["stored", "displayed"]  # which numbers of a "min is white" TIFF count


class Stack(Protocol):
    """A stack of slices that is read when it is sliced."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, slices: slice) -> Any: ...


class Selection(NamedTuple):
    """Which part of a file that holds several stacks.

    Attributes:
        dataset: key of the array in a Zarr group, an HDF5 or a MATLAB file; number of the image in a TIFF.
        channel: of a stack with several.
        time: of a series of stacks.
        labels: the numbers are classes or objects, read as they are stored; else gray levels, read as
            they are displayed.
        min_is_white: which numbers of a "min is white" TIFF count; None where it is not stated.
        mrc_bytes: whether the bytes of an MRC file are signed, where that is known better than the file states it.
    """

    dataset: str | None = None
    channel: int | None = None
    time: int | None = None
    labels: bool = False
    min_is_white: MinIsWhite | None = None
    mrc_bytes: MrcBytes | None = None

    @property
    def part(self) -> str:
        """Channel and time for fingerprints; empty where neither was picked."""
        return (
            f"channel {self.channel}, time {self.time}"
            if (self.channel, self.time) != (None, None)
            else ""
        )


WHOLE_FILE = Selection()  # all of a file that holds one stack


class Placement(NamedTuple):
    """Where a cropped segmentation lies in its image.

    Attributes:
        offset: (z, y, x) of its first voxel.
        shape: (z, y, x) of the image, where the file states it.
    """

    offset: tuple[int, int, int]
    shape: tuple[int, int, int] | None


@dataclass(frozen=True)
class Source:
    """What a reader found.

    Attributes:
        stack: (z, y, x), lazy.
        voxel_nm: lengths in nm, (z, y, x); None where the format does not state one.
        files: what was opened, for fingerprints.
        numbers: of a series of files: the number in each file's name that tells its slice, in the order of the slices.
        repeated: slices that stand in for missing ones: the same as the one before.
        names: of labels: what the numbers mean, as the file says.
        part: what was picked of the file, for fingerprints.
        sizes: of pictures that are no stack, (y, x) of each.
        order_error: why the names of a series of files do not give their order; empty if they do.
        order_note: what was understood of the names of files and may be wrong.
        voxel_faults: lengths that the format states and that cannot be, in words.
        name: of the source, where that of its first file says little.
        missing: parts that the files lack, see ``missing``.
        notes: sentences about how the file was read, where another reading is possible.
        placement: where a cropped segmentation lies in its image.
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
            InputError: two files are named, and what to do.
        """
        if self.order_error:
            raise InputError(self.order_error)

    def voxel_size(self, given: Sequence[float] | None = None) -> VoxelSize:
        """Return the voxel size: ``given`` if any, else the file's.

        Raises:
            InputError: the file does not state all three lengths, or states some that cannot be,
                and none were given.
        """
        if given is not None:
            return VoxelSize.of(given)
        z, y, x = self.voxel_nm
        if z is None or y is None or x is None:
            found = ", ".join(
                f"{axis} = {value:g} nm"
                for axis, value in zip("zyx", self.voxel_nm, strict=True)
                if value
            )
            name = self.name or self.files[0].name
            asked = "give the voxel size in nm as --voxel-nm Z Y X, for instance --voxel-nm 8 4 4."
            if self.voxel_faults:
                raise InputError(f"{name}: {'; '.join(self.voxel_faults)}; {asked}")
            raise InputError(
                f"{name} does not state its voxel size{f' completely (only {found})' if found else ''}; "
                "give it in nm as --voxel-nm Z Y X, for instance --voxel-nm 8 4 4."
            )
        return VoxelSize.of((z, y, x))

    @property
    def title(self) -> str:
        """The files, for people: the name of the first, and how many follow."""
        more = f" and {len(self.files) - 1} more" if len(self.files) > 1 else ""
        return f"{self.files[0].name}{more}"

    def identity(self) -> str:
        """A short hash of name, size and time of change of every file (of a Zarr: of all its chunks together): to notice another input."""
        known = [[self.part], *([file.name, *_size_and_change(file)] for file in self.files)]
        return hashlib.blake2b(repr(known).encode(), digest_size=16).hexdigest()


def _size_and_change(path: Path) -> tuple[int, int]:
    """Bytes and the latest change, ns, of a file or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    found = [file.stat() for file in files]
    return sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)


def default_axes(shape: Sequence[int]) -> str:
    """A letter for each axis of an array that names none: a short last axis holds channels."""
    channels_last = len(shape) >= 3 and shape[-1] <= MAX_CHANNELS
    if len(shape) == 3 and min(shape[:2]) <= MAX_CHANNELS:
        channels_last = False  # as likely a few slices of a tiny stack
    axes = "TZYXC" if channels_last else DEFAULT_AXES
    return axes[-len(shape) :]


def stack_layout(
    axes: str, shape: Sequence[int], pick: Selection, name: str
) -> tuple[Index, tuple[int, int, int]]:
    """How a stack lies in an array of more axes.

    Args:
        axes: a letter an axis: T, C, Z, Y, X; I and Q are pages that nobody named; C may also be the last one.
        shape: of the array.
        pick: which channel and which time, where there are several.
        name: of the file, for messages.

    Returns:
        An index for each axis: None is z, FULL_AXIS is y or x, a number is what was picked; and the shape (z, y, x).

    Raises:
        InputError: a color image; several channels, times or other axes, and none was picked.
    """
    lengths = f"the axes {axes} {tuple(shape)}"
    if "S" in axes:
        advice = (
            "export its numbers of classes or objects instead"
            if pick.labels
            else "convert it to gray first"
        )
        raise InputError(
            f"{name} is a color image ({axes} {tuple(shape)}); {advice}, or, if these are slices, save it "
            "as such (tifffile: photometric='minisblack')."
        )
    if axes.removesuffix("C")[-2:] != "YX" or not all(shape):
        raise InputError(f"{name} has {lengths}; expected slices (y, x) one after the other.")
    y = axes.index("YX")
    others = [place for place in range(len(axes)) if place not in (y, y + 1)]
    picked = _picked(axes, shape, pick, name)
    left = [place for place in others if place not in picked]
    long = [place for place in left if shape[place] > 1]
    named = "".join(axes[place] for place in long)
    if "C" in named:
        raise InputError(
            f"{name} has {lengths}; expected one channel, or --channel with its number (the first is 0)."
        )
    if "T" in named and len(long) > 1:
        raise InputError(
            f"{name} has {lengths}; expected one time, or --time with its number (the first is 0)."
        )
    if len(long) > 1:
        raise InputError(f"{name} has {lengths}; expected one channel, (z, y, x).")
    # ImageJ calls many stacks a time series: the only long axis is z, whatever its name.
    along = [*long, *(place for place in left if axes[place] not in "CT"), *left[::-1], None][0]
    index: list[int | slice | None] = [picked.get(place, 0) for place in range(len(axes))]
    index[y] = index[y + 1] = FULL_AXIS
    if along is not None:
        index[along] = None
    return tuple(index), (1 if along is None else shape[along], shape[y], shape[y + 1])


def _picked(axes: str, shape: Sequence[int], pick: Selection, name: str) -> dict[int, int]:
    """Place of an axis -> the channel or time that was asked for."""
    picked: dict[int, int] = {}
    for axis, what, chosen in (("C", "channel", pick.channel), ("T", "time", pick.time)):
        if chosen is None:
            continue
        found = shape[axes.index(axis)] if axis in axes else 1
        if not 0 <= chosen < found:
            only = f"only 0 to {found - 1}" if found > 1 else "only one, 0"
            raise InputError(
                f"{name} has the axes {axes} {tuple(shape)}; there is no {what} {chosen}, {only}."
            )
        if axis in axes:
            picked[axes.index(axis)] = chosen
    return picked


@contextmanager
def refuse_damaged_file(path: Path, what: str) -> Iterator[None]:
    """Whatever a library raises at a damaged file becomes one sentence."""
    try:
        yield
    except (SparsemError, MemoryError):
        raise
    except Exception as error:  # damaged files bring parsers to raise almost anything
        reason = (
            str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        )
        raise InputError(
            f"{path.name} cannot be read as {what} ({reason}); is it complete?"
        ) from None
