"""Gaps in the slice numbers of a series of files."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

from sparsem.io.readers.file_names import DAY, HOUR, MONTH, SIXTY, YEAR, Number

# Missing numbers for each slice; numbers with more gaps count something else, such as the time.
MAX_GAPS = 20
TIME_NUMBER = re.compile(rf"{YEAR}{MONTH}{DAY}(?:{HOUR}{SIXTY}{SIXTY})?")


def missing_numbers(numbers: Sequence[Number]) -> list[Number]:
    """Return the numbers that a series of slices lacks.

    A series that counts in tens lacks nothing, and neither do numbers that do not count slices,
    such as times.
    """
    if not numbers or not counts_slices(numbers):
        return []
    whole, scale = _scale_to_whole(numbers)
    expected = range(min(whole), max(whole), _step(whole))
    missing = sorted(set(expected) - set(whole))
    return [number if scale == 1 else _unscale(number, scale) for number in missing]


def counts_slices(numbers: Sequence[Number]) -> bool:
    """Return whether a series may count slices: few numbers are missing, and it holds no times."""
    if all(TIME_NUMBER.fullmatch(str(number)) for number in numbers):
        return False
    return _n_missing(numbers) <= MAX_GAPS * len(numbers)


def is_complete(numbers: Sequence[Number]) -> bool:
    """Return whether numbers follow each other in equal steps."""
    return _n_missing(numbers) == 0


def is_nearly_complete(numbers: Sequence[Number]) -> bool:
    """Return whether a series lacks at most as many numbers as it has."""
    return _n_missing(numbers) <= len(numbers)


def _n_missing(numbers: Sequence[Number]) -> int:
    whole, _ = _scale_to_whole(numbers)
    return (max(whole) - min(whole)) // _step(whole) + 1 - len(whole)


def _scale_to_whole(numbers: Sequence[Number]) -> tuple[list[int], int]:
    """Return numbers multiplied by a power of ten that makes all of them whole, and that power."""
    if all(isinstance(number, int) for number in numbers):
        return [int(number) for number in numbers], 1
    exact = [Decimal(repr(number)) for number in numbers]
    digits = max(0, *(-int(number.as_tuple().exponent) for number in exact))
    return [int(number.scaleb(digits)) for number in exact], 10**digits


def _unscale(number: int, scale: int) -> Number:
    return number // scale if number % scale == 0 else float(Decimal(number) / scale)


def _step(numbers: Sequence[int]) -> int:
    """Return the step in which a series counts: 1, 10."""
    differences = (after - before for before, after in pairwise(sorted(numbers)))
    return math.gcd(*differences) or 1
