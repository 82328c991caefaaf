"""Columns of numbers: those at one position of the names of all files of a series."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsem.io.readers.file_names import FileName, NamePart, Number


@dataclass(frozen=True)
class Column:
    """The numbers at one position of all names, in the order of the names."""

    parts: tuple[NamePart, ...]

    @property
    def values(self) -> tuple[Number, ...]:
        """Values of the numbers."""
        return tuple(part.value for part in self.parts)

    @property
    def is_constant(self) -> bool:
        """True if all names have the same number."""
        return len(set(self.values)) == 1

    @property
    def is_unique(self) -> bool:
        """True if no two names have the same number."""
        return len(set(self.values)) == len(self.parts)

    @property
    def is_slice(self) -> bool:
        """True if z or slice precedes all numbers."""
        return all(part.is_slice for part in self.parts)

    @property
    def is_channel(self) -> bool:
        """True if channel, tile or the like precedes all numbers."""
        return all(part.is_channel for part in self.parts)

    @property
    def is_time(self) -> bool:
        """True if all numbers are dates, or dates with times."""
        return all(part.is_time for part in self.parts)

    @property
    def is_whole(self) -> bool:
        """True if all numbers are written with digits only."""
        return all(part.is_whole for part in self.parts)

    @property
    def is_after_hyphen(self) -> bool:
        """True if only a hyphen separates z from the numbers, and may be their sign.

        Numbers that are padded with zeros have no sign.
        """
        return all(
            part.is_slice and part.before.endswith(("z-", "Z-")) and not part.is_padded
            for part in self.parts
        )

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the names, by ascending number."""
        return tuple(sorted(range(len(self.parts)), key=self.values.__getitem__))

    def first_duplicate(self) -> tuple[int, int]:
        """Return the indices of the first two names with the same number."""
        index_of: dict[Number, int] = {}
        for index, value in enumerate(self.values):
            if value in index_of:
                return index_of[value], index
            index_of[value] = index
        return 0, 0


def columns_of(names: Sequence[FileName]) -> list[Column]:
    """Return the columns of all names; none if names have different counts of numbers."""
    if len({len(name.parts) for name in names}) != 1:
        return []
    return [Column(parts) for parts in zip(*(name.parts for name in names), strict=True)]


def marked_columns(names: Sequence[FileName]) -> list[Column]:
    """Return the columns of numbers after z or slice, in all names."""
    columns = columns_of(names)
    if columns:
        return [column for column in columns if column.is_slice]
    marked = [[part for part in name.parts if part.is_slice] for name in names]
    if all(len(parts) == 1 for parts in marked):
        return [Column(tuple(parts[0] for parts in marked))]
    return []
