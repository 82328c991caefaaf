"""Storage of label numbers as uint32: which numbers stay, and how larger ones are replaced.

sparsem stores labels as uint32 with 0 as background. Numbers that fit are stored unchanged. As soon
as one number does not fit, all are replaced by 1, 2, ... in ascending order, and the sample keeps a
table of both.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.annotation.label_numbers import (
    EXTRA_BACKGROUND,
    NO_SPECIAL_NUMBERS,
    UNLABELED,
    Labels,
    Numbers,
    SpecialNumbers,
)
from sparsem.errors import InputError
from sparsem.store.sample import Sample


@dataclass(frozen=True, eq=False)
class Renumbering:
    """Mapping from the numbers of a file to the stored ones.

    Attributes:
        file: (n,) uint64, ascending: numbers of the file; empty where numbers stay.
        stored: (n,) uint32: the stored number of each.
        special: numbers of the file that do not stand for an object.
    """

    file: NDArray[np.uint64]
    stored: NDArray[np.uint32]
    special: SpecialNumbers = NO_SPECIAL_NUMBERS

    @property
    def is_identity(self) -> bool:
        """True if numbers of objects are stored unchanged."""
        return not self.file.size

    def stored_number(self, file_number: int) -> int:
        """Return the stored number of a number of the file."""
        if file_number == 0:
            return 0
        fits = self.is_identity and 0 < file_number < EXTRA_BACKGROUND
        if file_number == self.special.ignore and not fits:
            return UNLABELED
        if file_number == self.special.background and not fits:
            return EXTRA_BACKGROUND
        if self.is_identity:
            return file_number
        return int(self.stored[np.searchsorted(self.file, np.uint64(file_number))])

    def apply(self, numbers: Numbers) -> Labels:
        """Return the stored numbers (uint32) of integers of the file, of any shape.

        Raises:
            KeyError: a number is not among those that are replaced.
        """
        special_numbers = [number for number in self.special.numbers if number]
        special_pixels = [numbers == number for number in special_numbers]
        object_numbers = numbers.copy() if special_numbers else numbers
        for pixels in special_pixels:
            object_numbers[pixels] = 0
        if self.is_identity:
            stored = object_numbers.astype(np.uint32)
        else:
            stored = self._look_up(object_numbers)
        for number, pixels in zip(special_numbers, special_pixels, strict=True):
            stored[pixels] = self.stored_number(number)
        return stored

    def convert_stored(self, stored: Labels, previous: "Renumbering") -> Labels:
        """Return labels that were stored by a previous renumbering as this one stores them.

        Args:
            stored: labels of any shape.
            previous: the renumbering that this one extends; only special numbers may be stored
                differently.
        """
        converted = stored.copy()
        for number in self.special.numbers:
            old = previous.stored_number(number)
            new = self.stored_number(number)
            if old != new:
                converted[stored == old] = new
        return converted

    def _look_up(self, numbers: Numbers) -> Labels:
        wanted = numbers.astype(np.uint64)
        positions = np.minimum(np.searchsorted(self.file, wanted), len(self.file) - 1)
        is_unknown = (self.file[positions] != wanted) & (wanted != 0)
        if is_unknown.any():
            raise KeyError(int(wanted[is_unknown][0]))
        return np.where(wanted == 0, np.uint32(0), self.stored[positions])

    def table(self) -> pa.Table:
        """Return one row for each number: ``id`` as stored, and ``file_id`` as in the file."""
        order = np.argsort(self.stored)
        return pa.table({"id": self.stored[order], "file_id": self.file[order]})


def identity_renumbering(special: SpecialNumbers = NO_SPECIAL_NUMBERS) -> Renumbering:
    """Return a renumbering that keeps the numbers of objects."""
    return Renumbering(np.empty(0, np.uint64), np.empty(0, np.uint32), special)


def make_renumbering(
    numbers: Iterable[int], special: SpecialNumbers = NO_SPECIAL_NUMBERS
) -> Renumbering:
    """Return a renumbering from 1 in ascending order if a number does not fit into 32 bits.

    If all numbers fit, they are kept.

    Args:
        numbers: numbers of all slices; 0 and the special ones are left out.
        special: numbers that do not stand for an object.
    """
    objects = sorted(set(numbers) - {0, *special.numbers})
    if not objects or objects[-1] < special.limit:
        return identity_renumbering(special)
    stored = np.arange(1, len(objects) + 1, dtype=np.uint32)
    return Renumbering(np.array(objects, np.uint64), stored, special)


def extend_renumbering(
    previous: Renumbering, stored_previously: Iterable[int], numbers: Iterable[int]
) -> Renumbering:
    """Return a renumbering that also covers more numbers; numbers that had a stored one keep it.

    Args:
        previous: renumbering of the labels that the sample holds.
        stored_previously: every number in these labels, where they were not renumbered.
        numbers: numbers of the additional slices.

    Raises:
        InputError: 32 bits do not suffice for all numbers.
    """
    special = previous.special
    additional = set(numbers) - {0, *special.numbers}
    if previous.is_identity:
        if max(additional, default=0) < special.limit:
            return previous
        previous = _explicit_identity(stored_previously, special)
    new_numbers = sorted(additional - set(previous.file.tolist()))
    first = int(previous.stored.max(initial=0)) + 1
    if first + len(new_numbers) > EXTRA_BACKGROUND:
        raise InputError(
            f"32 bits do not suffice for {len(new_numbers)} more object numbers after {first - 1}; "
            "import all slices again, with --overwrite."
        )
    return _with_numbers(previous, new_numbers, first)


def _with_numbers(previous: Renumbering, new_numbers: list[int], first: int) -> Renumbering:
    """Return a renumbering that also stores new numbers, as ``first`` and those that follow."""
    file = np.concatenate([previous.file, np.array(new_numbers, np.uint64)])
    new_stored = np.arange(first, first + len(new_numbers), dtype=np.uint32)
    stored = np.concatenate([previous.stored, new_stored])
    order = np.argsort(file)
    return Renumbering(file[order], stored[order], previous.special)


def _explicit_identity(numbers: Iterable[int], special: SpecialNumbers) -> Renumbering:
    """Return a renumbering that lists all numbers of objects, each of which is stored as it is."""
    reserved = {0, UNLABELED, EXTRA_BACKGROUND, *special.numbers}
    objects = sorted(set(numbers) - reserved)
    return Renumbering(np.array(objects, np.uint64), np.array(objects, np.uint32), special)


def write_renumbering_table(sample: Sample, table: str, renumbering: Renumbering) -> None:
    """Write the table of stored numbers and numbers of the file; remove it where they are equal."""
    if renumbering.is_identity:
        sample.remove_table(table)
    else:
        sample.write_table(table, renumbering.table())
