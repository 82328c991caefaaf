"""Sizes and positions.

Axis order is (z, y, x) everywhere; lengths are in nm. Everything here is immutable.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

from sparsem.errors import InputError

Box = tuple[slice, slice, slice]  # a part of a stack (z, y, x)


class VoxelSize(NamedTuple):
    """Edge lengths of one voxel in nm, (z, y, x)."""

    z: float
    y: float
    x: float

    @classmethod
    def of(cls, lengths_nm: Sequence[float]) -> Self:
        """Check three lengths in nm, (z, y, x).

        Raises:
            InputError: not three positive finite numbers.
        """
        if len(lengths_nm) != 3 or not all(
            math.isfinite(length) and length > 0 for length in lengths_nm
        ):
            raise InputError(
                "A voxel size is three positive lengths in nm (z y x), for example 8 4 4; got "
                f"{list(lengths_nm)}."
            )
        return cls(*(float(length) for length in lengths_nm))

    @property
    def volume_um3(self) -> float:
        """Volume of one voxel in cubic micrometers."""
        return self.z * self.y * self.x * 1e-9

    @property
    def micrometers(self) -> tuple[float, float, float]:
        """Edge lengths in µm, (z, y, x)."""
        return self.z / 1000, self.y / 1000, self.x / 1000

    def times(self, factors: Sequence[float]) -> "VoxelSize":
        """Return the size of a voxel that is longer by a factor along each axis."""
        return VoxelSize(*(length * factor for length, factor in zip(self, factors, strict=True)))

    def halving(self) -> tuple[int, int, int]:
        """Return by how much the next coarser pyramid level shrinks each axis (z, y, x): 2 or 1.

        An axis whose voxel is already twice as long as the shortest one is kept, so that coarse
        levels become isotropic.
        """
        z, y, x = (2 if length < 2 * min(self) else 1 for length in self)
        return z, y, x


class ZBlock(NamedTuple):
    """Slices ``start`` to ``stop`` (exclusive) of one task, and the halo that it may read."""

    start: int
    stop: int
    read_start: int
    read_stop: int

    @property
    def own(self) -> slice:
        """The owned slices, in stack coordinates."""
        return slice(self.start, self.stop)

    @property
    def read(self) -> slice:
        """The owned slices and their halo, in stack coordinates."""
        return slice(self.read_start, self.read_stop)

    @property
    def inner(self) -> slice:
        """The owned slices within an array that holds ``read``."""
        return slice(self.start - self.read_start, self.stop - self.read_start)


def z_blocks(n_slices: int, depth: int, halo: int = 0) -> list[ZBlock]:
    """Cut ``n_slices`` into blocks of ``depth`` slices; the last may be thinner.

    Each has a halo of up to ``halo`` slices on either side.
    """
    blocks = []
    for start in range(0, n_slices, depth):
        stop = min(start + depth, n_slices)
        read_start = max(0, start - halo)
        read_stop = min(stop + halo, n_slices)
        blocks.append(ZBlock(start, stop, read_start, read_stop))
    return blocks


def evenly_spaced(n_slices: int, count: int) -> list[int]:
    """Return ``count`` slice indices, evenly spaced from the first to the last slice.

    The papers choose the slices to label so.

    Raises:
        InputError: ``count`` is smaller than 1 or larger than ``n_slices``.
    """
    if not 1 <= count <= n_slices:
        raise InputError(f"Cannot choose {count} of {n_slices} slices; ask for 1 to {n_slices}.")
    if count == 1:
        return [n_slices // 2]
    return [round(index * (n_slices - 1) / (count - 1)) for index in range(count)]


def axes_hint(shape: Sequence[int], expected: Sequence[int]) -> str:
    """Return which axes of a shape are exchanged, as the end of a message.

    It is empty if exchanged axes do not explain why the shape does not fit.

    >>> axes_hint((128, 96), (96, 128))
    '; y and x are exchanged, transpose it'
    """
    is_permutation = sorted(shape) == sorted(expected)
    if tuple(shape) == tuple(expected) or not is_permutation:
        return ""
    if list(shape[:-2]) == list(expected[:-2]):
        return "; y and x are exchanged, transpose it"
    return "; its axes are in another order than z, y, x"
