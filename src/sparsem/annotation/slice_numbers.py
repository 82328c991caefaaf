"""Which slices masks and labeled volumes are of: by the numbers in file names, or by --slices."""

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
    found: Source,
    shape: tuple[int, int, int],
    chosen: str | None,
    numbering: Sequence[Number],
    where: str,
) -> tuple[list[int], list[int]]:
    """Return slice numbers, ascending, and which plane of the source holds each.

    Args:
        found: masks, or a labeled volume.
        shape: (z, y, x) of the image.
        chosen: ``0,13,26``, ``10-20``, ``all`` or ``non-empty``; None where file names carry the
            number.
        numbering: the number that stands for each slice of the image in file names.
        where: the source, for messages.

    Raises:
        InputError: slices of another size, or their numbers are not given, are ambiguous, or are
            not those of the image.
    """
    n_slices, n_planes = shape[0], found.stack.shape[0]
    if tuple(found.stack.shape[1:]) != tuple(shape[1:]):
        hint = axes_hint(found.stack.shape[1:], shape[1:])
        raise InputError(
            f"{where} has slices of {tuple(found.stack.shape[1:])} px, but the image has {shape[1:]}"
            f"{hint or '; labels must cover the whole slice'}."
        )
    if chosen is None:
        numbers = _by_name(found, numbering, where)
        planes = list(range(n_planes))
    else:
        found.refuse_unordered()
        numbers, planes = _by_choice(found, n_slices, chosen, where)
    outside = [number for number in numbers if not 0 <= number < n_slices]
    if outside or not numbers:
        fault = f"{outside[0]} is outside 0 to {n_slices - 1}" if outside else "there are none"
        raise InputError(f"The annotated slices of {where} do not fit the image: {fault}.")
    order = np.argsort(numbers)
    return [numbers[i] for i in order], [planes[i] for i in order]


def _by_choice(
    found: Source, n_slices: int, chosen: str, where: str
) -> tuple[list[int], list[int]]:
    """Slice numbers and planes as --slices names them."""
    n_planes = found.stack.shape[0]
    if chosen in WORDS:
        if n_planes != n_slices:
            raise InputError(
                f"{where} has {n_planes} slices and the image {n_slices}; name the annotated ones with --slices."
            )
        planes = list(range(n_planes))
        if chosen == "non-empty":
            planes = [plane for plane in planes if np.any(found.stack[plane : plane + 1])]
        return planes, planes
    try:
        numbers = parsed_slices(chosen)
    except ValueError as error:
        raise InputError(f"--slices: {error}. It takes {CHOICES}.") from None
    if n_planes not in (n_slices, len(numbers)):
        raise InputError(
            f"{where} has {n_planes} slices; expected {n_slices} as the image, or {len(numbers)}, one for each of --slices."
        )
    return numbers, numbers if n_planes == n_slices else list(range(n_planes))


def _by_name(found: Source, numbering: Sequence[Number], where: str) -> list[int]:
    """The slice of each file, by the one number in the names that can be it."""
    names = distinct_names(found.files)
    has_decimals = any(number != int(number) for number in numbering)
    is_signed = any(number < 0 for number in numbering)
    candidates: list[tuple[Number, ...]] = []
    if len(names) == found.stack.shape[0]:
        candidates = possible_slice_numbers(names, has_decimals, is_signed)
    if not candidates:
        found.refuse_unordered()
        _refuse_twins(names)
        raise InputError(
            f"Which slices of {where} are annotated? Give --slices {CHOICES}: a slice without labels is unlabeled, not background."
        )
    slice_of = {number: z for z, number in enumerate(numbering)}
    fitting = [numbers for numbers in candidates if all(number in slice_of for number in numbers)]
    if len(fitting) > 1:
        one, other = (", ".join(map(str, numbers[:3])) for numbers in fitting[:2])
        raise InputError(
            f"Which number in the file names of {where} is the slice, {one} or {other}? Write z before it, or give --slices in their order."
        )
    if fitting:
        return [slice_of[number] for number in fitting[0]]
    raise InputError(_misfit(candidates[-1], numbering, where))


def _misfit(numbers: Sequence[Number], numbering: Sequence[Number], where: str) -> str:
    """Say which numbers were expected."""
    first, last = min(numbering), max(numbering)
    unknown = next(number for number in numbers if number not in set(numbering))
    if list(numbering) == list(range(len(numbering))):
        count, highest = len(numbering), max(numbers)
        hint = (
            "; if the first slice is numbered 1, give --first-slice-number 1"
            if highest == count
            else ""
        )
        return f"The file names in {where} carry the numbers {min(numbers)} to {highest}, but the image has {count} slices{hint}."
    gaps = " with gaps" if first < unknown < last else ""
    return (
        f"A file name in {where} carries the number {unknown}, but the first slice is numbered {first} and the last {last}{gaps}, as "
        "the files of the stack were, or as --first-slice-number says; if masks count slices from 0, give --first-slice-number 0."
    )


def _refuse_twins(names: Sequence[str]) -> None:
    """Refuse two masks of one slice."""
    named: dict[tuple[Number, ...], str] = {}
    for name in split_names(names) if len(names) > 1 else ():
        numbers = tuple(part.value for part in name.parts)
        if numbers and numbers in named:
            listed = ", ".join(map(str, numbers))
            raise InputError(
                f"{named[numbers]} and {name.name} carry the same number, {listed}: a slice has one mask; keep one of them, or name "
                "the masks of one structure with a pattern in quotes."
            )
        named[numbers] = name.name


def slice_numbering(sample: Sample, first: int | None) -> Sequence[Number]:
    """Return the number that stands for each slice in file names: that of the stack's own files, or counted from ``first``."""
    raw = sample.image("raw")
    return (
        raw.numbers
        if raw.numbers and first is None
        else range(first or 0, (first or 0) + raw.shape[0])
    )
