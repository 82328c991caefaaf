"""Labels of a few slices in a file, and the annotation that they replace or extend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsem.annotation.label_numbers import (
    LabelMeaning,
    Labels,
    Numbers,
    SpecialNumbers,
    distinct_numbers,
    find_ignore_mark,
    integer_labels,
    refuse_interpolated_mask,
)
from sparsem.annotation.labeled_slices import (
    Origin,
    annotation_attributes,
    meaning_in_file,
    read_renumbering,
    read_slice,
    stored_labels,
    structure_mask,
)
from sparsem.annotation.renumbering import Renumbering, extend_renumbering, make_renumbering
from sparsem.io.readers.source import Stack
from sparsem.progress import print_note
from sparsem.store.lazy import LazyArray
from sparsem.store.sample import Sample
from sparsem.store.summary import list_first


@dataclass(frozen=True)
class StoredAnnotation:
    """An annotation of the sample that labels of a file replace or extend.

    Attributes:
        attributes: attributes of ``annotations/NAME``.
        labels: (n, y, x) on disk.
        renumbering: mapping from the numbers of its file to the labels.
    """

    attributes: Mapping[str, Any]
    labels: LazyArray
    renumbering: Renumbering

    @property
    def image(self) -> tuple[str, str]:
        """Name and fingerprint of the image that the labels were drawn on."""
        return self.attributes["image"], self.attributes["image_fingerprint"]

    @property
    def meaning(self) -> LabelMeaning:
        """Meaning of the numbers in its file."""
        return meaning_in_file(self.attributes)

    @property
    def z(self) -> list[int]:
        """Slice numbers, ascending."""
        return list(self.attributes["z"])

    @property
    def added(self) -> list[int]:
        """Slices that were added after the first import."""
        return list(self.attributes.get("added", ()))

    @property
    def origins(self) -> dict[int, Origin]:
        """Origin of the labels of every slice; unknown where it was not recorded."""
        recorded = self.attributes.get("origin", {})
        return {z: recorded.get(str(z), "unknown") for z in self.z}

    def read(self, z: int) -> Labels:
        """Return the labels (y, x) of a slice as they are stored."""
        return read_slice(self.labels, self.z.index(z))

    def converted(self, z: int, renumbering: Renumbering) -> Labels:
        """Return the labels (y, x) of a slice as an extended renumbering stores them."""
        return renumbering.convert_stored(self.read(z), self.renumbering)


def read_stored_annotation(sample: Sample, name: str) -> StoredAnnotation | None:
    """Return ``annotations/NAME``; None if the sample does not hold it."""
    if name not in sample.names("annotations"):
        return None
    attributes = annotation_attributes(sample, name)
    return StoredAnnotation(attributes, stored_labels(sample, name), read_renumbering(sample, name))


@dataclass(frozen=True)
class FileLabels:
    """Labels of slices in a file, which are to become an annotation.

    Attributes:
        stack: planes of the file.
        plane_of: slice number -> its plane in the stack; ascending.
        where: the file, for messages.
        check_interpolation: nothing states what the numbers mean, so gray levels between two
            numbers of an interpolated mask would be taken for labels.
        classes: structure -> its numbers in the file.
        numbers: all numbers that occur in the file.
        renumbering: mapping from these to the stored ones.
        image: name of the image that the labels were drawn on.
        ignore_mark: the largest number of a type, if it occurs next to others on a slice: many
            programs mark unlabeled pixels with it.
    """

    stack: Stack
    plane_of: Mapping[int, int]
    where: str
    check_interpolation: bool
    classes: Mapping[str, Sequence[int]]
    numbers: frozenset[int]
    renumbering: Renumbering
    image: str
    ignore_mark: int | None = None

    @property
    def z(self) -> list[int]:
        """Slice numbers, ascending."""
        return list(self.plane_of)

    @property
    def meaning(self) -> LabelMeaning:
        """Meaning of the numbers in the file."""
        special = self.renumbering.special
        classes = {name: list(ids) for name, ids in self.classes.items()}
        return LabelMeaning(classes, special.ignore, special.background)

    def file_numbers(self, z: int) -> Numbers:
        """Return the labels (y, x) of a slice with the numbers of the file."""
        plane = self.plane_of[z]
        where = f"slice {z} of {self.where}"
        in_file = np.asarray(self.stack[plane : plane + 1])[0]
        numbers = integer_labels(in_file, where, self.renumbering.special)
        if self.check_interpolation:
            refuse_interpolated_mask(numbers, where)
        return numbers

    def labels(self, z: int) -> Labels:
        """Return the labels (y, x) of a slice as they are stored."""
        return self.renumbering.apply(self.file_numbers(z))

    def objects(self, labels: Labels, structure: str) -> Labels:
        """Return stored labels of one structure; 0 outside it, and where they are not known."""
        stored_number = self.renumbering.stored_number
        special = self.renumbering.special
        ids = [stored_number(number) for number in self.classes.get(structure, ())]
        ignore = None if special.ignore is None else stored_number(special.ignore)
        background = None if special.background is None else stored_number(special.background)
        inside, _ = structure_mask(labels, ids, ignore, background)
        return np.where(inside, labels, 0).astype(labels.dtype)


def read_file_labels(
    stack: Stack,
    plane_of: Mapping[int, int],
    meaning: LabelMeaning,
    extended: StoredAnnotation | None,
    where: str,
    image: str,
) -> FileLabels:
    """Return the labels of a file, and how they are stored; all of its labeled slices are read.

    Args:
        stack: planes of the file.
        plane_of: slice number -> its plane in the stack; ascending.
        meaning: meaning of the numbers in the file.
        extended: annotation to which the labels are added, whose numbers stay; None for a new one.
        where: the file, for messages.
        image: name of the image that the labels were drawn on.

    Raises:
        InputError: a slice does not hold labels.
    """
    special = SpecialNumbers(meaning.ignore, meaning.background)
    labels = FileLabels(
        stack=stack,
        plane_of=plane_of,
        where=where,
        check_interpolation=not meaning.classes and meaning.ignore is None,
        classes=meaning.classes,
        numbers=frozenset(),
        renumbering=make_renumbering([], special),
        image=image,
    )
    numbers, ignore_mark = _numbers_in(labels, special)
    class_numbers = {number for ids in meaning.classes.values() for number in ids}
    if extended is None:
        renumbering = make_renumbering(numbers | class_numbers, special)
    else:
        renumbering = _extended_renumbering(extended, numbers, class_numbers, special)
    return replace(
        labels,
        numbers=frozenset(numbers),
        renumbering=renumbering,
        ignore_mark=ignore_mark,
    )


def _numbers_in(labels: FileLabels, special: SpecialNumbers) -> tuple[set[int], int | None]:
    """Return all numbers in the labels, and the one of them that may mark unlabeled pixels."""
    numbers: set[int] = set()
    marks_on_slices: set[int | None] = set()
    for z in labels.plane_of:
        numbers_on_slice = distinct_numbers(labels.file_numbers(z))
        numbers |= numbers_on_slice
        marks_on_slices.add(find_ignore_mark(numbers_on_slice, special))
    mark = find_ignore_mark(numbers, special)
    return numbers, mark if mark in marks_on_slices else None


def _extended_renumbering(
    extended: StoredAnnotation,
    numbers: set[int],
    class_numbers: set[int],
    special: SpecialNumbers,
) -> Renumbering:
    """Return the renumbering of an annotation, extended to the numbers of more slices."""
    is_exceeded = extended.renumbering.is_identity and max(numbers) >= special.limit
    stored_previously = _all_numbers(extended) if is_exceeded else set()
    return extend_renumbering(extended.renumbering, stored_previously, numbers | class_numbers)


def _all_numbers(annotation: StoredAnnotation) -> set[int]:
    """Return every number in the labels of an annotation."""
    numbers: set[int] = set()
    for index in range(annotation.labels.shape[0]):
        numbers |= distinct_numbers(read_slice(annotation.labels, index))
    return numbers


def report_unexpected_numbers(labels: FileLabels, quiet: bool) -> None:
    """Report a number that may mark unlabeled pixels, and classes whose numbers do not occur."""
    special = labels.renumbering.special
    class_numbers = {number for ids in labels.classes.values() for number in ids}
    mark = labels.ignore_mark
    if mark is not None and special.ignore is None and mark not in class_numbers:
        meaning = "background" if class_numbers else "the structure"
        print_note(
            f"Note: pixels of {mark} in {labels.where} count as {meaning}; if they are unlabeled, "
            f"give --ignore {mark}.",
            quiet,
        )
    if special.ignore not in (None, 0) and special.ignore not in labels.numbers:
        print_note(
            f"Note: no pixel of {labels.where} has the ignored number {special.ignore}.", quiet
        )
    _report_absent_classes(labels, quiet)


def _report_absent_classes(labels: FileLabels, quiet: bool) -> None:
    """Report the classes whose numbers do not occur."""
    absent = [
        f"{name}={','.join(map(str, ids))}"
        for name, ids in labels.classes.items()
        if not labels.numbers & set(ids)
    ]
    if absent:
        print_note(
            f"Note: no pixel of {labels.where} has the numbers of {', '.join(absent)}; it holds "
            f"{list_first(sorted(labels.numbers))}.",
            quiet,
        )
