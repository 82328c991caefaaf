"""Labels of a few slices, or of a part of the slices, as a stack in which the rest is unlabeled."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.label_numbers import (
    EXTRA_BACKGROUND,
    UNLABELED,
    Numbers,
    SpecialNumbers,
    distinct_numbers,
    integer_labels,
    is_any_of,
    refuse_interpolated_mask,
)
from sparsem.annotation.renumbering import Renumbering, make_renumbering
from sparsem.geometry import Box

Shape = tuple[int, int, int]

WHOLE: Box = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class SparseStack:
    """Labels of some slices as a stack (z, y, x) uint32.

    Labels are 0 outside the structure and ``UNLABELED`` where nothing is known.

    Attributes:
        planes: (n, y, x) labels, read when they are sliced.
        plane_of: slice number -> the plane that holds its labels.
        shape: (z, y, x) of the whole stack.
        where: the source, for messages.
        box: the labeled part; planes have its size, or that of whole slices.
        ids: numbers of the structure in the file; empty: every number except 0.
        ignore: number of unlabeled pixels in the file.
        renumbering: mapping from the numbers of the file to those of the stack; None if the stack
            is a mask of 0 and 1.
    """

    planes: Any
    plane_of: dict[int, int] = field(hash=False)
    shape: Shape
    where: str
    box: Box = WHOLE
    ids: tuple[int, ...] = ()
    ignore: int | None = None
    renumbering: Renumbering | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the labels."""
        return np.dtype(np.uint32)

    def __getitem__(self, slices: slice) -> NDArray[np.uint32]:
        first, stop, _ = slices.indices(self.shape[0])
        n_slices = max(stop - first, 0)
        stack = np.full((n_slices, *self.shape[1:]), UNLABELED, np.uint32)
        for z in range(first, stop):
            if z in self.plane_of:
                stack[z - first][self.box[1:]] = self._labels(z)
        return stack

    def numbers(self, z: int) -> Numbers:
        """Return the numbers (y, x) of the labeled part of a slice, as they are in the file.

        Raises:
            InputError: the slice does not hold labels.
        """
        plane = self.plane_of[z]
        where = f"slice {z} of {self.where}"
        in_file = np.asarray(self.planes[plane : plane + 1])[0]
        if in_file.shape == self.shape[1:]:
            in_file = in_file[self.box[1:]]
        numbers = integer_labels(in_file, where, SpecialNumbers(self.ignore))
        if not self.ids and self.ignore is None:
            refuse_interpolated_mask(numbers, where, "--ids or --ignore")
        return numbers

    def inside(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Return where numbers of the file are those of the structure."""
        inside = is_any_of(numbers, self.ids) if self.ids else numbers != 0
        return inside if self.ignore is None else inside & (numbers != self.ignore)

    def object_renumbering(self) -> Renumbering:
        """Return how the numbers of objects are stored; all labeled slices are read."""
        objects: set[int] = set()
        for z in self.plane_of:
            objects |= distinct_numbers(self._objects(self.numbers(z)))
        return make_renumbering(objects)

    def _objects(self, numbers: Numbers) -> Numbers:
        """Return numbers of the file, 0 outside the structure."""
        return np.where(self.inside(numbers), numbers, 0).astype(numbers.dtype)

    def _labels(self, z: int) -> NDArray[np.uint32]:
        """Return the labels (y, x) of the labeled part of a slice."""
        numbers = self.numbers(z)
        if self.renumbering is None:
            labels = self.inside(numbers).astype(np.uint32)
        else:
            labels = self.renumbering.apply(self._objects(numbers)).astype(np.uint32)
        # An object may have the largest number of 32 bits, which stands for unlabeled pixels.
        labels[labels == UNLABELED] = EXTRA_BACKGROUND
        if self.ignore is not None:
            labels[numbers == self.ignore] = UNLABELED
        return labels
