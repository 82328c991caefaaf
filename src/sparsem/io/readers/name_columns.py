"""The numbers at one place of the names of all files of a series."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsem.io.readers.file_names import FileName, NamePart, Number


@dataclass(frozen=True)
class Column:
    """The numbers at one place of all names."""

    parts: tuple[NamePart, ...]

    @property
    def values(self) -> tuple[Number, ...]:
        return tuple(part.value for part in self.parts)

    @property
    def is_constant(self) -> bool:
        return len(set(self.values)) == 1

    @property
    def is_unique(self) -> bool:
        return len(set(self.values)) == len(self.parts)

    @property
    def is_slice(self) -> bool:
        return all(part.is_slice for part in self.parts)

    @property
    def is_channel(self) -> bool:
        return all(part.is_channel for part in self.parts)

    @property
    def is_time(self) -> bool:
        return all(part.is_time for part in self.parts)

    @property
    def is_whole(self) -> bool:
        return all(part.is_whole for part in self.parts)

    @property
    def is_after_hyphen(self) -> bool:
        """Whether only a hyphen parts z from the numbers, which may be its sign: no digits pad them."""
        return all(
            part.is_slice and part.before.endswith(("z-", "Z-")) and not part.is_padded
            for part in self.parts
        )

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(sorted(range(len(self.parts)), key=self.values.__getitem__))

    def first_pair(self) -> tuple[int, int]:
        """Two files of the same number."""
        seen: dict[Number, int] = {}
        for index, value in enumerate(self.values):
            if value in seen:
                return seen[value], index
            seen[value] = index
        return 0, 0


def columns_of(names: Sequence[FileName]) -> list[Column]:
    """Numbers at the same place of all names; none where names carry different counts."""
    if len({len(one.parts) for one in names}) != 1:
        return []
    return [Column(parts) for parts in zip(*(one.parts for one in names), strict=True)]


def marked_columns(names: Sequence[FileName]) -> list[Column]:
    """Numbers after z or slice in all names."""
    columns = columns_of(names)
    if columns:
        return [column for column in columns if column.is_slice]
    marked = [[part for part in one.parts if part.is_slice] for one in names]
    if all(len(parts) == 1 for parts in marked):
        return [Column(tuple(parts[0] for parts in marked))]
    return []
