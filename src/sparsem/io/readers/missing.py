"""Parts of a stack that its files lack, and what becomes of them.

Libraries read a chunk, a page or a file that is not there as its fill value: black slices that nobody recorded. An image is
refused for it, unless filling was asked for. In labels a chunk that was never written is background: sparse writers leave it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError

Index = tuple[
    int | slice | None, ...
]  # of an array: None is z, a slice is y or x, a number is what was picked of another axis
FULL_AXIS = slice(None)
Boxes = NDArray[np.int64]  # (n, axes, 2): start and stop along each axis of an array

MAX_RUNS = 8  # of slices, that a message names


@dataclass(frozen=True)
class MissingParts:
    """Parts of one kind that a stack lacks.

    Attributes:
        name: of the file, or of the array in it.
        what: the kind of part: chunk, page, source file.
        count: how many are missing.
        total: how many there are of that kind; None where that is not known.
        first: the first missing one.
        slices: of the stack that lack voxels.
        voxels: how many voxels are missing.
        fill: the value that stands in for them.
        sparse: programs leave such parts out where they hold only the fill value.
    """

    name: str
    what: str
    count: int
    total: int | None
    first: str
    slices: tuple[int, ...]
    voxels: int
    fill: float
    sparse: bool = False

    @property
    def _lost(self) -> str:
        if self.total is None:
            return (
                f"{self.name} lacks {self.count} {self.what if self.count == 1 else self._plural}"
            )
        return f"{self.name} lacks {self.count} of {self.total} {self.what if self.total == 1 else self._plural}"

    @property
    def _plural(self) -> str:
        kind, space, more = self.what.partition(" ")
        return f"{kind}s{space}{more}"

    @property
    def note(self) -> str:
        """What is filled, for a note and for the history of a sample."""
        return f"{self._lost}; {self.voxels} voxels of {describe_slices(self.slices, len(self.slices))} are taken as {self.fill:g}"

    def refusal(self, labels: bool) -> str | None:
        """Why a stack that lacks these parts is refused, and what to do; None if they are the background of labels."""
        first = f"; the first is {self.first}" if self.count > 1 else f": {self.first}"
        lost = f"{self._lost} ({describe_slices(self.slices)}{first})"
        again = "copy it again, or put what is missing back"
        if not labels and self.sparse:
            return (
                f"{lost}. Programs leave out {self._plural} that hold only {self.fill:g}: if that is so, import it with --missing fill, "
                f"which takes them as {self.fill:g} and reports it; otherwise {again}."
            )
        if not labels:
            return f"{lost}; {again}, or import it with --missing fill, which takes them as {self.fill:g} and reports it."
        if not self.sparse:
            return f"{lost}; {again}."
        if self.count == self.total:
            return f"{lost}, so it holds nothing; copy it again, or write its background too."
        if self.fill != 0:
            return f"{lost} and fills them with {self.fill:g}, which is not background (0); write these {self._plural} too."
        return None


class MissingBoxes(NamedTuple):
    """A kind of part that an array lacks.

    Attributes:
        what: the kind.
        boxes: of the array that are missing, disjoint.
        named: the name of the box at a place in that list.
        fill: the value that stands in for them.
        sparse: see ``MissingParts``.
    """

    what: str
    boxes: Boxes
    named: Callable[[int], str]
    fill: float
    sparse: bool = False


def missing_from_stack(
    name: str, part: MissingBoxes, index: Index, total: int | None
) -> tuple[MissingParts, ...]:
    """What a stack lacks of an array; empty where it has no share in what is missing.

    Args:
        name: of the array, for messages.
        part: what the array lacks.
        index: which part of the array the stack is.
        total: how many parts of this kind the stack has.
    """
    inside = touches_stack(part.boxes, index)
    if not inside.any():
        return ()
    boxes = part.boxes[inside]
    edges = boxes[..., 1] - boxes[..., 0]
    edges[:, [isinstance(picked, int) for picked in index]] = 1
    first = part.named(int(np.argmax(inside)))
    slices = _slices_of(boxes, index)
    return (
        MissingParts(
            name,
            part.what,
            len(boxes),
            total,
            first,
            slices,
            int(edges.prod(axis=1).sum()),
            part.fill,
            part.sparse,
        ),
    )


def touches_stack(boxes: Boxes, index: Index) -> NDArray[np.bool_]:
    """Which boxes of an array a stack has a share in."""
    inside = np.ones(len(boxes), bool)
    for axis, picked in enumerate(index):
        if isinstance(picked, int):
            inside &= (boxes[:, axis, 0] <= picked) & (picked < boxes[:, axis, 1])
    return inside


def _slices_of(boxes: Boxes, index: Index) -> tuple[int, ...]:
    if None not in index:
        return (0,)
    slices: set[int] = set()
    for start, stop in np.unique(boxes[:, index.index(None)], axis=0).tolist():
        slices.update(range(start, stop))
    return tuple(sorted(slices))


@dataclass(frozen=True)
class ChunkGrid:
    """The chunks of an array that a stack has part in.

    Attributes:
        shape: of the array.
        edges: of a chunk.
        index: which part of the array the stack is.
    """

    shape: tuple[int, ...]
    edges: tuple[int, ...]
    index: Index

    @property
    def ranges(self) -> tuple[range, ...]:
        """Numbers of the chunks along each axis."""
        found = []
        for length, edge, picked in zip(self.shape, self.edges, self.index, strict=True):
            found.append(
                range(picked // edge, picked // edge + 1)
                if isinstance(picked, int)
                else range(-(-length // edge))
            )
        return tuple(found)

    def empty(self) -> NDArray[np.bool_]:
        """One False for each chunk."""
        return np.zeros([len(numbers) for numbers in self.ranges], bool)

    def places(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The numbers of chosen chunks along each axis, (n, axes)."""
        first = np.array([numbers.start for numbers in self.ranges], np.int64)
        return np.argwhere(chosen).astype(np.int64) + first

    def boxes(self, chosen: NDArray[np.bool_]) -> Boxes:
        """The boxes of chosen chunks; those at the end of the array are cut to it."""
        starts = self.places(chosen) * np.array(self.edges)
        stops = np.minimum(starts + np.array(self.edges), np.array(self.shape))
        return np.stack([starts, stops], axis=-1)


def describe_slices(numbers: Sequence[int], most: int = MAX_RUNS) -> str:
    """Slices for people: ``slice 3``, ``slices 3, 7 to 9 and 40 more``."""
    runs = [
        [number for _, number in run]
        for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    ]
    named = ", ".join(
        str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs[:most]
    )
    left = sum(len(run) for run in runs[most:])
    more = f" and {left} more" if left else ""
    return f"slice{'s' if len(numbers) > 1 else ''} {named}{more}"


def refuse_missing(missing: Sequence[MissingParts], labels: bool, fill: bool) -> None:
    """Refuse a stack that lacks parts.

    Args:
        missing: the parts.
        labels: the stack holds labels, whose background a sparse writer leaves out.
        fill: the parts are to be filled.

    Raises:
        InputError: a part is missing that is neither to be filled nor background.
    """
    for one in missing if not fill else ():
        refusal = one.refusal(labels)
        if refusal:
            raise InputError(refusal)


def fill_number(fill: Any) -> float:
    """The fill value of an array; one that is not defined reads as 0."""
    return 0.0 if fill is None else float(fill)
