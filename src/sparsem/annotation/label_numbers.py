"""Numbers in label files: their validation, and the numbers that do not stand for an object.

Label files hold numbers of any type. They must be integers, and those of a gray image, of a
probability map or of an interpolated mask are refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError

# An array is refused as a gray image if it has at least MIN_IMAGE_PX pixels, more than
# MIN_GRAY_LEVELS different values, and if more than this fraction of its pixels differ from the
# next pixel in x.
MAX_DIFFERENT_NEIGHBORS = 0.5
MIN_IMAGE_PX = 1024
MIN_GRAY_LEVELS = 16

# Number of the structure in masks of 8 and 16 bits.
MASK_MAXIMA = (255, 65535)
# So many different values between 0 and the maximum do not occur on purpose in a mask of bytes,
MIN_INTERPOLATED_VALUES_8_BIT = 4
# nor so many in a mask of wider numbers, which may be objects.
MIN_INTERPOLATED_VALUES_WIDER = 16

# Stored in place of the ignored number of a file that does not fit into 32 bits, or whose numbers
# are replaced.
UNLABELED = 2**32 - 1
# Stored in place of the background number of a file in the same cases.
EXTRA_BACKGROUND = UNLABELED - 1

# No object has the largest number of a 64-bit type: programs mark pixels with it.
MARKS_64_BIT = (2**63 - 1, 2**64 - 1)
# Programs often mark pixels with the largest number of a narrower type as well.
MARKS = (2**8 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)

Numbers = NDArray[np.integer[Any]]
Labels = NDArray[np.unsignedinteger[Any]]


class LabelMeaning(NamedTuple):
    """Meaning of the numbers in labels.

    Attributes:
        classes: structure -> its numbers; empty: every number except 0 is the structure.
        ignore: number of unlabeled pixels; None if there is none.
        background: number of background pixels in addition to 0; None if there is none.
    """

    classes: Mapping[str, list[int]]
    ignore: int | None
    background: int | None


@dataclass(frozen=True)
class SpecialNumbers:
    """Numbers of a file that do not stand for an object.

    Attributes:
        ignore: number of unlabeled pixels; None if there is none.
        background: number of background pixels in addition to 0; None if there is none.
        option: option that error messages recommend for a number that is neither.
    """

    ignore: int | None = None
    background: int | None = None
    option: str = "--ignore"

    @property
    def numbers(self) -> list[int]:
        """The numbers that are given: none, one or both."""
        return [number for number in (self.ignore, self.background) if number is not None]

    @property
    def limit(self) -> int:
        """Exclusive upper limit of the object numbers that can be stored unchanged."""
        needs_extra_background = (
            self.background is not None and not 0 < self.background < EXTRA_BACKGROUND
        )
        return EXTRA_BACKGROUND if needs_extra_background else UNLABELED


NO_SPECIAL_NUMBERS = SpecialNumbers()


def integer_labels(
    labels: NDArray[Any], where: str, special: SpecialNumbers = NO_SPECIAL_NUMBERS
) -> Numbers:
    """Return labels as integers of the width that they have in the file, after validation.

    Args:
        labels: numbers of any type and shape.
        where: the source, for error messages.
        special: the numbers that do not stand for an object.

    Raises:
        InputError: the labels are not integers, have lost digits, are those of a gray image, or
            hold a negative number or a mark of unlabeled pixels that ``special`` does not name.
    """
    numbers = labels.astype(np.uint8) if labels.dtype == bool else labels
    if not np.issubdtype(numbers.dtype, np.integer):
        numbers = _float_to_integer(numbers, where)
    _refuse_gray_image(numbers, where)
    _refuse_marks(numbers, where, special)
    return numbers


def distinct_numbers(labels: Numbers) -> set[int]:
    """Return the distinct numbers of labels of any shape.

    Runs of equal pixels are sorted, not pixels.
    """
    flat = labels.ravel()
    if not flat.size:
        return set()
    run_starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return set(np.unique(flat[run_starts]).tolist())


def is_any_of(numbers: Numbers, candidates: Iterable[int]) -> NDArray[np.bool_]:
    """Return where numbers are among candidates, which may exceed the type of the array."""
    limits = np.iinfo(numbers.dtype)
    possible = [number for number in candidates if limits.min <= number <= limits.max]
    return np.isin(numbers, np.array(possible, numbers.dtype))


def refuse_interpolated_mask(
    labels: Numbers, where: str, options: str = "--classes or --ignore"
) -> None:
    """Refuse a mask of two numbers that has values in between, as JPEG and resizing cause.

    Args:
        labels: numbers of any shape.
        where: the source, for the error message.
        options: options that state what the numbers mean, and with which they are accepted.

    Raises:
        InputError: it is such a mask.
    """
    maximum = int(labels.max(initial=0))
    if maximum not in MASK_MAXIMA:
        return
    between = labels[(labels > 0) & (labels < maximum)]
    is_8_bit = labels.dtype.itemsize == 1
    min_values = MIN_INTERPOLATED_VALUES_8_BIT if is_8_bit else MIN_INTERPOLATED_VALUES_WIDER
    is_minority = 0 < between.size < np.count_nonzero(labels == maximum)
    if is_minority and len(np.unique(between)) >= min_values:
        raise InputError(
            f"{_capitalize(where)} is a mask of 0 and {maximum}, but {between.size} pixels have "
            "values in between, as JPEG compression and resizing cause; threshold it, or state "
            f"what its numbers mean with {options}."
        )


def find_ignore_mark(numbers: set[int], special: SpecialNumbers) -> int | None:
    """Return the largest number of a type if it occurs and is not adjacent to another number.

    Many programs mark unlabeled pixels with it. None if there is no such number, or if there is no
    other number except 0 and the special ones.
    """
    object_numbers = numbers - {0, *special.numbers}
    highest = max(object_numbers, default=0)
    is_isolated = len(object_numbers) > 1 and highest - 1 not in object_numbers
    return highest if highest in MARKS and is_isolated else None


def _float_to_integer(labels: NDArray[Any], where: str) -> Numbers:
    """Return the integers that a file holds as floats."""
    if not np.isfinite(labels).all():
        first_value = labels[~np.isfinite(labels)][0]
        content = "NaN" if np.isnan(first_value) else "infinite values"
        raise InputError(
            f"Labels must be whole numbers, but {where} holds {content}; replace them by a number "
            "that is not used, and give it as --ignore if these pixels are unlabeled."
        )
    is_whole = labels == np.rint(labels)
    if not is_whole.all():
        first_value = labels[~is_whole][0]
        raise InputError(
            f"Labels must be whole numbers, but {where} holds {labels.dtype} values such as "
            f"{first_value:.3g}; {_advice_for_fractions(labels)}."
        )
    _refuse_inexact(labels, where)
    return labels.astype(np.int64)


def _advice_for_fractions(labels: NDArray[Any]) -> str:
    """Return what to do with labels that are no whole numbers."""
    is_probability = labels.min() >= 0 and labels.max() <= 1
    if is_probability:
        return "if it is a probability map, threshold it, for instance at 0.5, and save the mask"
    return "save whole numbers"


def _refuse_inexact(labels: NDArray[Any], where: str) -> None:
    """Raise an InputError if a number is so large that floats do not hold it exactly."""
    exact_limit = 2 ** (np.finfo(labels.dtype).nmant + 1)
    highest = float(np.abs(labels).max(initial=0))
    if highest >= exact_limit:
        raise InputError(
            f"{_capitalize(where)} holds {labels.dtype} numbers up to {highest:.0f}, but these are "
            f"exact only below {exact_limit}: several objects may have the same number. Save them "
            "as integers."
        )


def _refuse_marks(numbers: Numbers, where: str, special: SpecialNumbers) -> None:
    """Refuse negative numbers and the largest 64-bit ones, unless they are special numbers."""
    if not numbers.size:
        return
    object_numbers = numbers
    for special_number in special.numbers:
        object_numbers = object_numbers[object_numbers != special_number]
    lowest = int(object_numbers.min(initial=0))
    highest = int(object_numbers.max(initial=0))
    if lowest < 0:
        mark, reason = lowest, "labels cannot be negative"
    elif highest in MARKS_64_BIT:
        mark, reason = highest, "the largest 64-bit number cannot be an object"
    else:
        return
    meaning = "unlabeled" if special.option == "--ignore" else "background"
    raise InputError(
        f"{_capitalize(where)} holds {mark}, but {reason}; give {special.option} {mark} if these "
        f"pixels are {meaning}."
    )


def _refuse_gray_image(numbers: Numbers, where: str) -> None:
    if numbers.size < MIN_IMAGE_PX:
        return
    different_fraction = np.mean(numbers[..., 1:] != numbers[..., :-1])
    is_rough = different_fraction > MAX_DIFFERENT_NEIGHBORS
    if is_rough and len(np.unique(numbers)) > MIN_GRAY_LEVELS:
        raise InputError(
            f"{_capitalize(where)} changes from pixel to pixel, as a gray image does; expected "
            "labels of areas."
        )


def _capitalize(where: str) -> str:
    """Return ``where`` as the beginning of a sentence."""
    return f"{where[:1].upper()}{where[1:]}"
