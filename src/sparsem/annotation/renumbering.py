"""Numbers of label files: which are refused, and how those beyond 32 bits are renumbered.

Files hold any type of number; sparsem stores uint32 with 0 for background. A number that fits stays itself. As soon as one
does not fit, all are renumbered from 1 in ascending order, and the table of both is kept with the sample.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.errors import InputError

MAX_DIFFERENT_NEIGHBORS = 0.5  # of the pixels of labels may differ from the next one,
MIN_IMAGE_PX = 1024  # if there are so many pixels
MIN_GRAY_LEVELS = 16  # and values: else it is a gray image
SMEARED_BYTES = 4  # different values between black and white that no mask of bytes has by intent,
SMEARED_WIDER = 16  # and none of wider numbers, which may be objects
MASK_TOPS = (255, 65535)  # the structure in masks of 8 and 16 bits
UNLABELED = (
    2**32 - 1
)  # stands for the ignored number of a file where that does not fit or others are renumbered
EXTRA_BACKGROUND = UNLABELED - 1  # stands likewise for the background number of a file
MARKS_64 = (
    2**63 - 1,
    2**64 - 1,
)  # no object has the largest numbers of 64 bits: programs mark pixels with them
MARKS = (2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)  # and often with those of fewer bits

Numbers = NDArray[np.integer[Any]]
Labels = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class SpecialNumbers:
    """The numbers of a file that are no objects.

    Attributes:
        ignore: pixels that are not labeled.
        background: pixels outside of everything, in addition to 0.
        option: names the number in the advice about a number that is neither.
    """

    ignore: int | None = None
    background: int | None = None
    option: str = "--ignore"

    @property
    def numbers(self) -> list[int]:
        """Both, as far as there are any."""
        return [number for number in (self.ignore, self.background) if number is not None]

    @property
    def limit(self) -> int:
        """Numbers of objects below it can be stored as they are."""
        has_stand_in = self.background is not None and not 0 < self.background < EXTRA_BACKGROUND
        return EXTRA_BACKGROUND if has_stand_in else UNLABELED


@dataclass(frozen=True, eq=False)
class Renumbering:
    """How the numbers of a file become stored ones.

    Attributes:
        file: (n,) uint64, ascending: numbers of the file; empty where numbers stay.
        stored: (n,) uint32: the stored number of each.
        special: the file's numbers that are no objects.
    """

    file: NDArray[np.uint64]
    stored: NDArray[np.uint32]
    special: SpecialNumbers = SpecialNumbers()

    @property
    def is_identity(self) -> bool:
        """Whether numbers of objects stay as they are."""
        return not self.file.size

    def number(self, file_number: int) -> int:
        """The stored number of one of the file's."""
        if file_number == 0:
            return 0
        for special, stand_in in (
            (self.special.ignore, UNLABELED),
            (self.special.background, EXTRA_BACKGROUND),
        ):
            if file_number == special and not (
                self.is_identity and 0 < file_number < EXTRA_BACKGROUND
            ):
                return stand_in
        if self.is_identity:
            return file_number
        return int(self.stored[np.searchsorted(self.file, np.uint64(file_number))])

    def of(self, numbers: Numbers) -> Labels:
        """Stored numbers (uint32) for whole numbers of the file, of any shape.

        Raises:
            KeyError: a number is not among those that were renumbered.
        """
        specials = [(number, numbers == number) for number in self.special.numbers if number]
        plain = numbers.copy() if specials else numbers
        for _, pixels in specials:
            plain[pixels] = 0
        stored = plain.astype(np.uint32) if self.is_identity else self._looked_up(plain)
        for number, pixels in specials:
            stored[pixels] = self.number(number)
        return stored

    def carried(self, stored: Labels, before: "Renumbering") -> Labels:
        """Labels as they are stored by this renumbering, which extends the one by which they were stored: special numbers may move."""
        carried = stored.copy()
        for number in self.special.numbers:
            old, new = before.number(number), self.number(number)
            if old != new:
                carried[stored == old] = new
        return carried

    def _looked_up(self, numbers: Numbers) -> Labels:
        wanted = numbers.astype(np.uint64)
        places = np.minimum(np.searchsorted(self.file, wanted), len(self.file) - 1)
        is_unknown = (self.file[places] != wanted) & (wanted != 0)
        if is_unknown.any():
            raise KeyError(int(wanted[is_unknown][0]))
        return np.where(wanted == 0, np.uint32(0), self.stored[places])

    def table(self) -> pa.Table:
        """One row a number: ``id``, as stored, and ``file_id``, as in the file."""
        order = np.argsort(self.stored)
        return pa.table({"id": self.stored[order], "file_id": self.file[order]})


def identity_renumbering(special: SpecialNumbers = SpecialNumbers()) -> Renumbering:
    """Numbers stay as they are."""
    return Renumbering(np.empty(0, np.uint64), np.empty(0, np.uint32), special)


def make_renumbering(
    numbers: Iterable[int], special: SpecialNumbers = SpecialNumbers()
) -> Renumbering:
    """Numbers of a file from 1 on, in ascending order, if one of them does not fit into 32 bits; else as they are.

    Args:
        numbers: of all slices; 0 and the special ones among them stay out.
        special: which are no objects.
    """
    objects = sorted(set(numbers) - {0, *special.numbers})
    if not objects or objects[-1] < special.limit:
        return identity_renumbering(special)
    return Renumbering(
        np.array(objects, np.uint64), np.arange(1, len(objects) + 1, dtype=np.uint32), special
    )


def extend_renumbering(
    before: Renumbering, stored_before: Iterable[int], numbers: Iterable[int]
) -> Renumbering:
    """A renumbering in which more numbers have a stored one, and all that had one keep it.

    Args:
        before: of the labels that are there.
        stored_before: every number in these labels, where they were not renumbered.
        numbers: those of more slices.

    Raises:
        InputError: there are no more numbers of 32 bits.
    """
    special = before.special
    more = set(numbers) - {0, *special.numbers}
    if before.is_identity:
        if max(more, default=0) < special.limit:
            return before
        own = sorted(set(stored_before) - {0, UNLABELED, EXTRA_BACKGROUND, *special.numbers})
        before = Renumbering(np.array(own, np.uint64), np.array(own, np.uint32), special)
    fresh = sorted(more - set(before.file.tolist()))
    first = int(before.stored.max(initial=0)) + 1
    if first + len(fresh) > EXTRA_BACKGROUND:
        raise InputError(
            f"There is no room for {len(fresh)} more numbers of objects after {first - 1}; import all slices anew, with --overwrite."
        )
    file = np.concatenate([before.file, np.array(fresh, np.uint64)])
    stored = np.concatenate([before.stored, np.arange(first, first + len(fresh), dtype=np.uint32)])
    order = np.argsort(file)
    return Renumbering(file[order], stored[order], special)


def integer_labels(
    labels: NDArray[Any], where: str, special: SpecialNumbers = SpecialNumbers()
) -> Numbers:
    """Labels as integers, of the file's own width; ``where`` names them in messages.

    Raises:
        InputError: they are not whole numbers, have lost digits, are negative or a mark of unlabeled pixels that
            ``special`` does not name, or are a gray image.
    """
    numbers = labels.astype(np.uint8) if labels.dtype == bool else labels
    if not np.issubdtype(numbers.dtype, np.integer):
        numbers = _integers(numbers, where)
    _refuse_gray_image(numbers, where)
    _refuse_marks(numbers, where, special)
    return numbers


def distinct_numbers(labels: Numbers) -> set[int]:
    """The different numbers of labels of any shape; runs of equal pixels are sorted, not pixels."""
    flat = labels.ravel()
    if not flat.size:
        return set()
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return set(np.unique(flat[starts]).tolist())


def is_any_of(numbers: Numbers, wanted: Iterable[int]) -> NDArray[np.bool_]:
    """Where numbers are among those wanted, of which some may be beyond their type."""
    limits = np.iinfo(numbers.dtype)
    possible = [number for number in wanted if limits.min <= number <= limits.max]
    return np.isin(numbers, np.array(possible, numbers.dtype))


def refuse_interpolated_mask(
    labels: Numbers, where: str, options: str = "--classes or --ignore"
) -> None:
    """Refuse a mask of black and white that was saved as JPEG or resized: it has pixels in between, which nobody drew.

    Args:
        labels: of any shape.
        where: names them in the message.
        options: which say what the numbers mean, and make it acceptable.

    Raises:
        InputError: it is such a mask.
    """
    top = int(labels.max(initial=0))
    if top not in MASK_TOPS:
        return
    between = labels[(labels > 0) & (labels < top)]
    values = SMEARED_BYTES if labels.dtype.itemsize == 1 else SMEARED_WIDER
    if 0 < between.size < np.count_nonzero(labels == top) and len(np.unique(between)) >= values:
        raise InputError(
            f"{_opening(where)} is a mask of 0 and {top} with {between.size} pixels in between, as JPEG and resizing leave "
            f"them; make it black and white, or say what its numbers mean with {options}."
        )


def find_ignore_mark(numbers: set[int], special: SpecialNumbers) -> int | None:
    """The largest number of a type, if it is far above all others: many programs mark unlabeled pixels so."""
    others = numbers - {0, *special.numbers}
    highest = max(others, default=0)
    is_apart = len(others) > 1 and highest - 1 not in others
    return highest if highest in MARKS and is_apart else None


def _integers(labels: NDArray[Any], where: str) -> Numbers:
    """Whole numbers that a file holds as floats."""
    if not np.isfinite(labels).all():
        found = labels[~np.isfinite(labels)][0]
        raise InputError(
            f"Labels are whole numbers, but {where} holds {'NaN' if np.isnan(found) else 'infinite values'}; replace it by a number of its "
            "own, and give that as --ignore if these pixels are not labeled."
        )
    is_whole = labels == np.rint(labels)
    if not is_whole.all():
        found = labels[~is_whole][0]
        is_probability = labels.min() >= 0 and labels.max() <= 1
        advice = (
            "is it a probability map? Threshold it, for instance at 0.5, and save the mask"
            if is_probability
            else "save whole numbers"
        )
        raise InputError(
            f"Labels are whole numbers, but {where} holds {labels.dtype} such as {found:.3g}; {advice}."
        )
    exact = 2 ** (np.finfo(labels.dtype).nmant + 1)
    highest = float(np.abs(labels).max(initial=0))
    if highest >= exact:
        raise InputError(
            f"{_opening(where)} holds {labels.dtype} numbers up to {highest:.0f}, but these are exact only below {exact}: "
            "different objects may have one number. Save them as integers."
        )
    return labels.astype(np.int64)


def _refuse_marks(numbers: Numbers, where: str, special: SpecialNumbers) -> None:
    """Refuse negative numbers and the largest ones of 64 bits, unless they are the special ones."""
    if not numbers.size:
        return
    plain = numbers
    for number in special.numbers:
        plain = plain[plain != number]
    lowest, highest = int(plain.min(initial=0)), int(plain.max(initial=0))
    mark = lowest if lowest < 0 else highest if highest in MARKS_64 else None
    if mark is None:
        return
    negative = "no label is negative" if mark < 0 else "no object has the largest number of 64 bits"
    meaning = "are not labeled" if special.option == "--ignore" else "are background"
    raise InputError(
        f"{_opening(where)} holds {mark}, but {negative}; give {special.option} {mark} if these pixels {meaning}."
    )


def _refuse_gray_image(numbers: Numbers, where: str) -> None:
    if numbers.size < MIN_IMAGE_PX:
        return
    is_rough = np.mean(numbers[..., 1:] != numbers[..., :-1]) > MAX_DIFFERENT_NEIGHBORS
    if is_rough and len(np.unique(numbers)) > MIN_GRAY_LEVELS:
        raise InputError(
            f"{_opening(where)} changes from pixel to pixel, as a gray image does; expected labels of areas."
        )


def _opening(where: str) -> str:
    """``where`` as the beginning of a sentence."""
    return f"{where[:1].upper()}{where[1:]}"
