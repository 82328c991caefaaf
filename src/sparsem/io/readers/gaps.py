"""Slices that a series lacks, by the numbers that are there."""

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise

from sparsem.io.readers.file_names import DAY, HOUR, MONTH, SIXTY, YEAR, Number

# For each slice that is there: numbers with more gaps count something else, such as the time.
MAX_GAPS = 20
TIME_NUMBER = re.compile(rf"{YEAR}{MONTH}{DAY}(?:{HOUR}{SIXTY}{SIXTY})?")


def missing_numbers(numbers: Sequence[Number]) -> list[Number]:
    """Return the numbers that a series of slices lacks; one that counts in tens lacks nothing.

    Numbers that do not count slices, such as times, lack nothing either.
    """
    if not numbers or not counts_slices(numbers):
        return []
    whole, scale = _scaled(numbers)
    lacking = sorted(set(range(min(whole), max(whole), _step(whole))) - set(whole))
    return [number if scale == 1 else _unscaled(number, scale) for number in lacking]


def counts_slices(numbers: Sequence[Number]) -> bool:
    """Whether a series lacks no more numbers than slices may be lost, and holds no times."""
    if all(TIME_NUMBER.fullmatch(str(number)) for number in numbers):
        return False
    return _n_lacking(numbers) <= MAX_GAPS * len(numbers)


def is_complete(numbers: Sequence[Number]) -> bool:
    """Whether numbers follow each other in equal steps."""
    return _n_lacking(numbers) == 0


def is_nearly_complete(numbers: Sequence[Number]) -> bool:
    """Whether numbers lack at most as many as there are."""
    return _n_lacking(numbers) <= len(numbers)


def _n_lacking(numbers: Sequence[Number]) -> int:
    whole, _ = _scaled(numbers)
    return (max(whole) - min(whole)) // _step(whole) + 1 - len(whole)


def _scaled(numbers: Sequence[Number]) -> tuple[list[int], int]:
    """Whole numbers in the ratio of ``numbers``, and by how much they are larger."""
    if all(isinstance(number, int) for number in numbers):
        return [int(number) for number in numbers], 1
    exact = [Decimal(repr(number)) for number in numbers]
    digits = max(0, *(-int(number.as_tuple().exponent) for number in exact))
    return [int(number.scaleb(digits)) for number in exact], 10**digits


def _unscaled(number: int, scale: int) -> Number:
    return number // scale if number % scale == 0 else float(Decimal(number) / scale)


def _step(numbers: Sequence[int]) -> int:
    """What a series counts in: ones, tens."""
    steps = (after - before for before, after in pairwise(sorted(numbers)))
    return math.gcd(*steps) or 1
