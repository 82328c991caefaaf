"""Slice numbers of masks and labeled planes, from the numbers in file names or from --slices."""

from collections.abc import Sequence

import numpy as np

from sparsem.errors import InputError
from sparsem.geometry import axes_hint
from sparsem.io.readers.file_names import Number, distinct_names, split_names
from sparsem.io.readers.file_order import possible_slice_numbers
from sparsem.io.readers.source import Source
from sparsem.settings import parsed_slices
from sparsem.store.sample import Sample

WORDS = {"all": "every slice is labeled", "non-empty": "slices that hold a label are labeled"}
CHOICES = "0,13,26 or 10-20, " + " or ".join(f"'{word}' ({why})" for word, why in WORDS.items())


def match_planes_to_slices(
    labels: Source,
    shape: tuple[int, int, int],
    choice: str | None,
    numbering: Sequence[Number],
    where: str,
) -> tuple[list[int], list[int]]:
    """Return slice numbers, ascending, and the plane of the source that holds each.

    Args:
        labels: masks, or a labeled volume.
        shape: (z, y, x) of the image.
        choice: ``0,13,26``, ``10-20``, ``all`` or ``non-empty``; None where file names carry the
            number.
        numbering: number of each slice of the image in file names.
        where: the source, for messages.

    Raises:
        InputError: the slices have another size than those of the image, or their numbers are
            missing, ambiguous or outside the image.
    """
    n_slices = shape[0]
    _refuse_other_size(tuple(labels.stack.shape[1:]), shape[1:], where)
    if choice is None:
        slices = _slices_by_name(labels, numbering, where)
        planes = list(range(labels.stack.shape[0]))
    else:
        labels.refuse_unordered()
        slices, planes = _slices_by_choice(labels, n_slices, choice, where)
    _refuse_slices_outside(slices, n_slices, where)
    order = np.argsort(slices)
    return [slices[i] for i in order], [planes[i] for i in order]


def _refuse_other_size(plane_size: tuple[int, ...], size: tuple[int, int], where: str) -> None:
    """Raise an InputError if planes have another size (y, x) than the slices of the image."""
    if plane_size != tuple(size):
        hint = axes_hint(plane_size, size) or "; labels must cover the whole slice"
        raise InputError(f"{where} has slices of {plane_size} px, but the image has {size}{hint}.")


def _refuse_slices_outside(slices: Sequence[int], n_slices: int, where: str) -> None:
    """Raise an InputError if no slice is annotated, or one that the image does not have."""
    if not slices:
        raise InputError(f"The annotated slices of {where} do not fit the image: there are none.")
    outside = [z for z in slices if not 0 <= z < n_slices]
    if outside:
        raise InputError(
            f"The annotated slices of {where} do not fit the image: {outside[0]} is outside 0 to "
            f"{n_slices - 1}."
        )


def _slices_by_choice(
    labels: Source, n_slices: int, choice: str, where: str
) -> tuple[list[int], list[int]]:
    """Return slice numbers and planes as --slices states them."""
    n_planes = labels.stack.shape[0]
    if choice in WORDS:
        if n_planes != n_slices:
            raise InputError(
                f"{where} has {n_planes} slices and the image {n_slices}; name the annotated ones "
                "with --slices."
            )
        planes = list(range(n_planes))
        if choice == "non-empty":
            planes = [plane for plane in planes if np.any(labels.stack[plane : plane + 1])]
        return planes, planes
    slices = _parsed_choice(choice)
    if n_planes == n_slices:
        return slices, slices
    if n_planes == len(slices):
        return slices, list(range(n_planes))
    raise InputError(
        f"{where} has {n_planes} slices; expected {n_slices} as the image, or {len(slices)}, "
        "one for each of --slices."
    )


def _parsed_choice(choice: str) -> list[int]:
    """Return the slices that --slices lists.

    Raises:
        InputError: it lists no slices.
    """
    try:
        return parsed_slices(choice)
    except ValueError as error:
        raise InputError(f"--slices: {error}. It takes {CHOICES}.") from None


def _slices_by_name(labels: Source, numbering: Sequence[Number], where: str) -> list[int]:
    """Return the slice of each file, by the only number in the names that can be its number."""
    candidates = _possible_numbers(labels, numbering)
    if not candidates:
        labels.refuse_unordered()
        _refuse_equal_numbers(distinct_names(labels.files))
        raise InputError(
            f"Which slices of {where} are annotated? Give --slices {CHOICES}; slices that are not "
            "listed are unlabeled, not background."
        )
    slice_of = {number: z for z, number in enumerate(numbering)}
    fitting = [numbers for numbers in candidates if all(number in slice_of for number in numbers)]
    if not fitting:
        raise InputError(_misfit_message(candidates[-1], numbering, where))
    if len(fitting) > 1:
        raise InputError(_ambiguity_message(fitting, where))
    return [slice_of[number] for number in fitting[0]]


def _ambiguity_message(fitting: Sequence[Sequence[Number]], where: str) -> str:
    """Return an error message that names two numbers that can be that of the slice."""
    first, second = (", ".join(map(str, numbers[:3])) for numbers in fitting[:2])
    return (
        f"Which number in the file names of {where} is the slice, {first} or {second}? Write z "
        "before it, or give --slices in their order."
    )


def _possible_numbers(labels: Source, numbering: Sequence[Number]) -> list[tuple[Number, ...]]:
    """Return the numbers in the names of all files that may be slice numbers."""
    names = distinct_names(labels.files)
    if len(names) != labels.stack.shape[0]:
        return []
    has_decimals = any(number != int(number) for number in numbering)
    is_signed = any(number < 0 for number in numbering)
    return possible_slice_numbers(names, has_decimals, is_signed)


def _misfit_message(numbers: Sequence[Number], numbering: Sequence[Number], where: str) -> str:
    """Return an error message that states which numbers were expected."""
    first, last = min(numbering), max(numbering)
    n_slices = len(numbering)
    if list(numbering) == list(range(n_slices)):
        highest = max(numbers)
        hint = ""
        if highest == n_slices:
            hint = "; if the first slice is numbered 1, give --first-slice-number 1"
        return (
            f"The file names in {where} carry the numbers {min(numbers)} to {highest}, but the "
            f"image has {n_slices} slices{hint}."
        )
    known = set(numbering)
    unknown = next(number for number in numbers if number not in known)
    gaps = " with gaps" if first < unknown < last else ""
    return (
        f"A file name in {where} carries the number {unknown}, but the first slice is numbered "
        f"{first} and the last {last}{gaps}, as in the files of the stack or with "
        "--first-slice-number; if the masks count slices from 0, give --first-slice-number 0."
    )


def _refuse_equal_numbers(names: Sequence[str]) -> None:
    """Refuse two masks of one slice."""
    if len(names) < 2:
        return
    name_of: dict[tuple[Number, ...], str] = {}
    for name in split_names(names):
        numbers = tuple(part.value for part in name.parts)
        if numbers and numbers in name_of:
            listed = ", ".join(map(str, numbers))
            raise InputError(
                f"{name_of[numbers]} and {name.name} carry the same number, {listed}, but a slice "
                "has one mask; keep one of them, or select the masks of one structure with a "
                "pattern in quotes."
            )
        name_of[numbers] = name.name


def slice_numbering(sample: Sample, first: int | None) -> Sequence[Number]:
    """Return the number of each slice in file names.

    It is that of the stack's own files, or counted from ``first``.
    """
    raw = sample.image("raw")
    if raw.numbers and first is None:
        return raw.numbers
    start = first or 0
    return range(start, start + raw.shape[0])
