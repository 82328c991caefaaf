"""Labels of a few slices that are about to become an annotation: their numbers, what these mean, and how they came about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsem.annotation.corrected_predictions import infer_origins
from sparsem.annotation.labeled_slices import (
    Origin,
    read_renumbering,
    stored_labels,
    structure_mask,
)
from sparsem.annotation.renumbering import (
    Labels,
    Numbers,
    Renumbering,
    SpecialNumbers,
    distinct_numbers,
    extend_renumbering,
    find_ignore_mark,
    integer_labels,
    make_renumbering,
    refuse_interpolated_mask,
)
from sparsem.io.readers.source import Stack
from sparsem.progress import tell
from sparsem.store.lazy import LazyArray
from sparsem.store.sample import Sample

MAX_LISTED = 8  # numbers in a message


@dataclass(frozen=True)
class FileLabels:
    """Labels that are about to become an annotation.

    Attributes:
        stack: of the file.
        plane_of: slice number -> its plane in the stack; ascending.
        where: the file, for messages.
        is_plain: nothing is said about what the numbers mean, so gray levels between two numbers would pass for labels.
        classes: structure -> its numbers in the file.
        numbers: all that occur in the file.
        mark: the largest number of a type, next to others on a slice: many programs mark unlabeled pixels so; None if there is none.
        renumbering: from these to stored ones.
        image: that they were drawn on.
    """

    stack: Stack
    plane_of: Mapping[int, int]
    where: str
    is_plain: bool
    classes: Mapping[str, Sequence[int]]
    numbers: frozenset[int]
    renumbering: Renumbering
    image: str
    mark: int | None = None

    @property
    def z(self) -> list[int]:
        """Slice numbers, ascending."""
        return list(self.plane_of)

    @property
    def meaning(self) -> tuple[Any, ...]:
        """Classes, ignored and background number of the file."""
        special = self.renumbering.special
        return (
            {name: list(ids) for name, ids in self.classes.items()},
            special.ignore,
            special.background,
        )

    def of_file(self, number: int) -> Numbers:
        """The labels (y, x) of a slice as the file numbers them."""
        plane = self.plane_of[number]
        where = f"slice {number} of {self.where}"
        labels = integer_labels(
            np.asarray(self.stack[plane : plane + 1])[0], where, self.renumbering.special
        )
        if self.is_plain:
            refuse_interpolated_mask(labels, where)
        return labels

    def labels(self, number: int) -> Labels:
        """The labels (y, x) of a slice as they are stored."""
        return self.renumbering.of(self.of_file(number))

    def objects(self, labels: Labels, structure: str) -> Labels:
        """Stored labels of one structure; 0 elsewhere, and where they are not known."""
        ids, ignore, background = (
            [self.renumbering.number(one) for one in some] for some in self._ids(structure)
        )
        inside, _ = structure_mask(
            labels, ids, ignore[0] if ignore else None, background[0] if background else None
        )
        return np.where(inside, labels, 0).astype(labels.dtype)

    def _ids(self, structure: str) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
        special = self.renumbering.special
        ignore, background = (
            [] if one is None else [one] for one in (special.ignore, special.background)
        )
        return self.classes.get(structure, ()), ignore, background


def read_file_labels(
    sample: Sample,
    name: str,
    stack: Stack,
    plane_of: Mapping[int, int],
    meaning: tuple[Mapping[str, Sequence[int]], int | None, int | None],
    adding: bool,
    where: str,
    image: str,
) -> FileLabels:
    """Labels of a file, and how its numbers become stored ones; all of its slices are read for that.

    Args:
        sample: that they are for.
        name: of the annotation.
        stack: of the file.
        plane_of: slice number -> its plane in the stack; ascending.
        meaning: classes, ignored and background number of the file.
        adding: whether they come to an annotation of that name, whose numbers stay.
        where: the file, for messages.
        image: that they were drawn on.
    """
    classes, ignore, background = meaning
    special = SpecialNumbers(ignore, background)
    is_plain = not classes and ignore is None
    unread = FileLabels(
        stack, plane_of, where, is_plain, classes, frozenset(), make_renumbering([], special), image
    )
    numbers: set[int] = set()
    marks: set[int | None] = set()
    for number in plane_of:
        on_slice = distinct_numbers(unread.of_file(number))
        numbers |= on_slice
        marks.add(find_ignore_mark(on_slice, special))
    mark = find_ignore_mark(numbers, special)
    named = {one for ids in classes.values() for one in ids}
    if adding:
        before = read_renumbering(sample, name)
        own = (
            _numbers_of(sample, name)
            if before.is_identity and max(numbers) >= special.limit
            else ()
        )
        renumbering = extend_renumbering(before, own, numbers | named)
    else:
        renumbering = make_renumbering(numbers | named, special)
    return replace(
        unread,
        numbers=frozenset(numbers),
        renumbering=renumbering,
        mark=mark if mark in marks else None,
    )


def _numbers_of(sample: Sample, name: str) -> set[int]:
    """Every number in the labels of an annotation."""
    kept = stored_labels(sample, name)
    found: set[int] = set()
    for index in range(kept.shape[0]):
        found |= distinct_numbers(read_slice(kept, index))
    return found


def report_unexpected_numbers(drawing: FileLabels, quiet: bool) -> None:
    """Report what a number may mean that nobody named, and names whose numbers do not occur."""
    special = drawing.renumbering.special
    mark = drawing.mark if special.ignore is None else None
    named = {one for ids in drawing.classes.values() for one in ids}
    if mark is not None and mark not in named:
        counts = "background" if named else "the structure"
        tell(
            f"Note: pixels of {mark} in {drawing.where} count as {counts}; if they are not labeled, give --ignore {mark}.",
            quiet,
        )
    if special.ignore not in (None, 0) and special.ignore not in drawing.numbers:
        tell(
            f"Note: no pixel of {drawing.where} has the number to ignore, {special.ignore}.", quiet
        )
    absent = [
        f"{name}={','.join(map(str, ids))}"
        for name, ids in drawing.classes.items()
        if not drawing.numbers & set(ids)
    ]
    if absent:
        there = _listed(sorted(drawing.numbers))
        tell(
            f"Note: no pixel of {drawing.where} has the numbers of {', '.join(absent)}; it holds {there}.",
            quiet,
        )


def _listed(numbers: Sequence[int]) -> str:
    """The first numbers of a list, and how many follow."""
    more = f" and {len(numbers) - MAX_LISTED} more" if len(numbers) > MAX_LISTED else ""
    return f"{', '.join(map(str, numbers[:MAX_LISTED]))}{more}"


def slice_origins(
    sample: Sample,
    name: str,
    drawing: FileLabels,
    there: Mapping[str, Any] | None,
    said: Origin | None,
) -> tuple[dict[int, Origin], list[str]]:
    """How the labels of a drawing came about: as is said, as before where they did not change, or as they compare with predictions.

    Args:
        sample: that they are for.
        name: of the annotation.
        drawing: the labels.
        there: attributes of the annotation that they replace or come to, if any.
        said: what somebody said of it.

    Returns:
        The origin of each slice, and sentences about those that resemble a prediction.
    """
    if said:
        return dict.fromkeys(drawing.z, said), []
    kept = stored_labels(sample, name) if there else None
    numbered = read_renumbering(sample, name) if there else drawing.renumbering
    place = {number: index for index, number in enumerate(there["z"])} if there else {}
    recorded = there.get("origin", {}) if there else {}
    known: dict[int, Origin] = {number: recorded.get(str(number), "unknown") for number in place}

    def before(number: int) -> Labels:
        if kept is None or number not in place or kept.shape[1:] != drawing.stack.shape[1:]:
            return np.zeros(drawing.stack.shape[1:], np.uint32)
        stored = read_slice(kept, place[number])
        means_the_same = numbered.special == drawing.renumbering.special
        return drawing.renumbering.carried(stored, numbered) if means_the_same else stored

    unchanged = [
        number
        for number in drawing.z
        if number in place and np.array_equal(before(number), drawing.labels(number))
    ]
    changed = [number for number in drawing.z if number not in unchanged]
    compared, sentences = infer_origins(
        sample,
        list(drawing.classes) or [name],
        changed,
        lambda number, structure: drawing.objects(drawing.labels(number), structure),
        lambda number, structure: drawing.objects(before(number), structure),
        known,
        drawing.image,
    )
    return {**{number: known[number] for number in unchanged}, **compared}, sentences


def read_slice(kept: LazyArray, index: int) -> Labels:
    """One slice (y, x) of labels on disk."""
    return np.asarray(kept[index : index + 1][0])
