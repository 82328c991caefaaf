"""Which slices masks and labelled volumes are of: by the numbers in file names, or as somebody says."""

from collections.abc import Sequence

import numpy as np

from sparsem.errors import InputError
from sparsem.store.readers.series import numberings
from sparsem.store.readers.source import Source
from sparsem.store.sample import Sample


def slices_of(
    found: Source, shape: tuple[int, int, int], chosen: str | None, numbering: Sequence[int], where: str
) -> tuple[list[int], list[int]]:
    """Slice numbers, ascending, and which plane of the source holds each.

    Args:
        found: masks, or a labelled volume.
        shape: (z, y, x) of the image.
        chosen: ``0,13,26``, ``all`` or ``non-empty``; None where file names carry the number.
        numbering: the number that stands for each slice of the image in file names.
        where: the source, for messages.

    Raises:
        InputError: slices of another size, or their numbers are not told, not clear, or not those of the image.
    """
    n_slices, n_planes = shape[0], found.stack.shape[0]
    if tuple(found.stack.shape[1:]) != tuple(shape[1:]):
        raise InputError(
            f"{where} has slices of {tuple(found.stack.shape[1:])} px, but the image has {shape[1:]}; labels must cover the whole slice."
        )
    if chosen is None:
        numbers = _by_name(found, numbering, where)
        planes = list(range(n_planes))
    elif chosen in ("all", "non-empty"):
        if n_planes != n_slices:
            raise InputError(f"{where} has {n_planes} slices and the image {n_slices}; name the annotated ones with --slices.")
        keep_all = chosen == "all"
        planes = [plane for plane in range(n_planes) if keep_all or np.any(found.stack[plane : plane + 1])]
        numbers = planes
    else:
        numbers = parsed_slices(chosen)
        if n_planes not in (n_slices, len(numbers)):
            raise InputError(
                f"{where} has {n_planes} slices; expected {n_slices} as the image, or {len(numbers)}, one for each of --slices."
            )
        planes = numbers if n_planes == n_slices else list(range(n_planes))
    outside = [number for number in numbers if not 0 <= number < n_slices]
    if outside or len(set(numbers)) != len(numbers) or not numbers:
        fault = f"{outside[0]} is outside 0 to {n_slices - 1}" if outside else "a number appears twice" if numbers else "there are none"
        raise InputError(f"The annotated slices of {where} do not fit the image: {fault}.")
    order = np.argsort(numbers)
    return [numbers[i] for i in order], [planes[i] for i in order]


def _by_name(found: Source, numbering: Sequence[int], where: str) -> list[int]:
    """The slice of each file, by the one number in the names that can be it."""
    names = [file.name for file in found.files]
    told = numberings(names) if len(names) == found.stack.shape[0] else []
    if not told:
        _refuse_twins(names)
        raise InputError(
            f"Which slices of {where} are annotated? Give --slices 0,13,26 (or 'all'): a slice that nobody labelled is not background."
        )
    slice_of = {number: z for z, number in enumerate(numbering)}
    fitting = [numbers for numbers in told if all(number in slice_of for number in numbers)]
    if len(fitting) > 1:
        one, other = (", ".join(map(str, numbers[:3])) for numbers in fitting[:2])
        raise InputError(
            f"Which number in the file names of {where} is the slice, {one} or {other}? Write z before it, or give --slices in their order."
        )
    if fitting:
        return [slice_of[number] for number in fitting[0]]
    first, last, unknown = min(numbering), max(numbering), next(number for number in told[-1] if number not in slice_of)
    if list(numbering) == list(range(len(numbering))):
        count, lowest, highest = len(numbering), min(told[-1]), max(told[-1])
        hint = "; if the first slice is numbered 1, give --first-number 1" if highest == count else ""
        raise InputError(f"The file names in {where} carry the numbers {lowest} to {highest}, but the image has {count} slices{hint}.")
    gaps = " with gaps" if first < unknown < last else ""
    raise InputError(
        f"A file name in {where} carries the number {unknown}, but the first slice is numbered {first} and the last {last}{gaps}, as "
        "the files of the stack were, or as --first-number says; if masks count slices from 0, give --first-number 0."
    )


def _refuse_twins(names: Sequence[str]) -> None:
    """Two masks of one slice are told as such."""
    named: dict[int, str] = {}
    for name in names if len(names) > 1 else ():
        for (number,) in numberings([name]):
            if number in named:
                raise InputError(f"{named[number]} and {name} carry the same number, {number}: a slice has one mask; keep one of them.")
            named[number] = name


def parsed_slices(text: str) -> list[int]:
    """Return slice numbers that were given as 0,13,26.

    Raises:
        InputError: it is no such list.
    """
    try:
        return [int(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        raise InputError(f"--slices takes numbers such as 0,13,26, or 'all', or 'non-empty'; got '{text}'.") from None


def numbering_of(sample: Sample, first: int | None) -> Sequence[int]:
    """Return the number that stands for each slice in file names: that of the stack's own files, or counted from ``first``."""
    raw = sample.image("raw")
    return raw.numbers if raw.numbers and first is None else range(first or 0, (first or 0) + raw.shape[0])
