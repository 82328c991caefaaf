"""Parts of a stack that its files lack: how they are reported, refused or filled.

Libraries read a missing chunk, page or file as its fill value: black slices without any warning.
Such an image is refused, unless filling was asked for. In labels, a chunk that was never written is
background: sparse writers leave it out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.axes import Index

Boxes = NDArray[np.int64]  # (n, axes, 2): start and stop along each axis of an array

MAX_RUNS = 8  # runs of slices that a message names


@dataclass(frozen=True)
class MissingParts:
    """Parts of one kind that a stack lacks.

    Attributes:
        name: of the file, or of the array in it.
        what: the kind of part: chunk, page, source file.
        count: number of missing parts.
        total: number of parts of that kind; None if it is not known.
        first: the first missing part.
        slices: slices of the stack that lack voxels.
        voxels: number of missing voxels.
        fill: the value that is read in their place.
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
    def _plural(self) -> str:
        kind, space, rest = self.what.partition(" ")
        return f"{kind}s{space}{rest}"

    @property
    def _summary(self) -> str:
        """Beginning of a sentence: how many parts are missing."""
        if self.total is None:
            kind = self.what if self.count == 1 else self._plural
            return f"{self.name} lacks {self.count} {kind}"
        kind = self.what if self.total == 1 else self._plural
        return f"{self.name} lacks {self.count} of {self.total} {kind}"

    @property
    def note(self) -> str:
        """Sentence about what is filled, for a note and for the history of a sample."""
        slices = describe_slices(self.slices, len(self.slices))
        return f"{self._summary}; {self.voxels} voxels of {slices} are read as {self.fill:g}"

    def refusal(self, labels: bool) -> str | None:
        """Return why a stack that lacks these parts is refused, and what to do.

        None if the parts are the background of labels.
        """
        first = f"; the first is {self.first}" if self.count > 1 else f": {self.first}"
        lost = f"{self._summary} ({describe_slices(self.slices)}{first})"
        return self._labels_refusal(lost) if labels else self._image_refusal(lost)

    def _image_refusal(self, lost: str) -> str:
        copy_again = "copy it again, or put what is missing back"
        fill_option = (
            f"import it with --missing fill, which reads them as {self.fill:g} and reports it"
        )
        if self.sparse:
            return (
                f"{lost}. Programs leave out {self._plural} that hold only {self.fill:g}: "
                f"if that is so, {fill_option}; otherwise {copy_again}."
            )
        return f"{lost}; {copy_again}, or {fill_option}."

    def _labels_refusal(self, lost: str) -> str | None:
        if not self.sparse:
            return f"{lost}; copy it again, or put what is missing back."
        if self.count == self.total:
            return f"{lost}, so it is empty; copy it again, or write its background too."
        if self.fill != 0:
            return (
                f"{lost} and fills them with {self.fill:g}, which is not background (0); "
                f"write these {self._plural} too."
            )
        return None


class MissingBoxes(NamedTuple):
    """Parts of one kind that an array lacks.

    Attributes:
        what: the kind of part.
        boxes: missing boxes of the array, disjoint.
        box_name: returns the name of a box, by its number in ``boxes``.
        fill: the value that is read in their place.
        sparse: see ``MissingParts``.
    """

    what: str
    boxes: Boxes
    box_name: Callable[[int], str]
    fill: float
    sparse: bool = False


def missing_from_stack(
    name: str, lacking: MissingBoxes, index: Index, total: int | None
) -> tuple[MissingParts, ...]:
    """Return the parts that a stack lacks because its array does; empty if it needs none of them.

    Args:
        name: of the array, for messages.
        lacking: the parts that the array lacks.
        index: the position of the stack in the array.
        total: number of parts of this kind in the stack; None if it is not known.
    """
    is_needed = touches_stack(lacking.boxes, index)
    if not is_needed.any():
        return ()
    boxes = lacking.boxes[is_needed]
    edges = boxes[..., 1] - boxes[..., 0]
    edges[:, [isinstance(position, int) for position in index]] = 1
    parts = MissingParts(
        name,
        lacking.what,
        count=len(boxes),
        total=total,
        first=lacking.box_name(int(np.argmax(is_needed))),
        slices=_slices_of(boxes, index),
        voxels=int(edges.prod(axis=1).sum()),
        fill=lacking.fill,
        sparse=lacking.sparse,
    )
    return (parts,)


def touches_stack(boxes: Boxes, index: Index) -> NDArray[np.bool_]:
    """Return, for each box of an array, whether it holds voxels of the stack, (n,)."""
    inside = np.ones(len(boxes), bool)
    for axis, position in enumerate(index):
        if isinstance(position, int):
            inside &= (boxes[:, axis, 0] <= position) & (position < boxes[:, axis, 1])
    return inside


def _slices_of(boxes: Boxes, index: Index) -> tuple[int, ...]:
    """Return the slices of a stack in which boxes lie, ascending."""
    if None not in index:
        return (0,)
    slices: set[int] = set()
    for start, stop in np.unique(boxes[:, index.index(None)], axis=0).tolist():
        slices.update(range(start, stop))
    return tuple(sorted(slices))


@dataclass(frozen=True)
class ChunkGrid:
    """The chunks of an array that hold voxels of a stack.

    Attributes:
        shape: of the array.
        edges: of a chunk.
        index: the position of the stack in the array.
    """

    shape: tuple[int, ...]
    edges: tuple[int, ...]
    index: Index

    @property
    def ranges(self) -> tuple[range, ...]:
        """Numbers of the chunks along each axis."""
        ranges = []
        for length, edge, position in zip(self.shape, self.edges, self.index, strict=True):
            if isinstance(position, int):
                ranges.append(range(position // edge, position // edge + 1))
            else:
                n_chunks = -(-length // edge)
                ranges.append(range(n_chunks))
        return tuple(ranges)

    def empty(self) -> NDArray[np.bool_]:
        """Return one False for each chunk."""
        return np.zeros([len(numbers) for numbers in self.ranges], bool)

    def positions(self, selected: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the numbers of selected chunks along each axis, (n, axes)."""
        first = np.array([numbers.start for numbers in self.ranges], np.int64)
        return np.argwhere(selected).astype(np.int64) + first

    def boxes(self, selected: NDArray[np.bool_]) -> Boxes:
        """Return the boxes of selected chunks; those at the end of the array are cut to it."""
        starts = self.positions(selected) * np.array(self.edges)
        stops = np.minimum(starts + np.array(self.edges), np.array(self.shape))
        return np.stack([starts, stops], axis=-1)


def whole_box(shape: Sequence[int]) -> Boxes:
    """Return the box of a whole array, (1, axes, 2)."""
    box = np.array([[(0, length) for length in shape]], np.int64)
    return box.reshape(1, len(shape), 2)


def box_at(box: NDArray[np.int64]) -> str:
    """Return the name of a box: where it starts."""
    return f"the one at {tuple(box[:, 0].tolist())}"


def describe_slices(numbers: Sequence[int], max_runs: int = MAX_RUNS) -> str:
    """Return slice numbers as text: ``slice 3``, ``slices 3, 7 to 9 and 40 more``."""
    runs = _runs_of(numbers)
    texts = [_describe_run(run) for run in runs[:max_runs]]
    n_more = sum(len(run) for run in runs[max_runs:])
    more = f" and {n_more} more" if n_more else ""
    plural = "s" if len(numbers) > 1 else ""
    return f"slice{plural} {', '.join(texts)}{more}"


def _describe_run(run: Sequence[int]) -> str:
    return str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}"


def _runs_of(numbers: Sequence[int]) -> list[list[int]]:
    """Split ascending numbers into runs without gaps."""
    # In a run, the difference of a number and its position stays the same.
    runs = groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])
    return [[number for _, number in run] for _, run in runs]


def refuse_missing(missing: Sequence[MissingParts], labels: bool, fill: bool) -> None:
    """Refuse a stack that lacks parts.

    Args:
        missing: the parts.
        labels: the stack holds labels, whose background a sparse writer leaves out.
        fill: the parts are to be filled.

    Raises:
        InputError: a part is missing that is neither to be filled nor background.
    """
    if fill:
        return
    for parts in missing:
        refusal = parts.refusal(labels)
        if refusal:
            raise InputError(refusal)


def fill_number(fill: Any) -> float:
    """Return the fill value of an array; one that is not defined is read as 0."""
    return 0.0 if fill is None else float(fill)
