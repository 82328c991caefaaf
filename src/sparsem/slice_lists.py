"""Lists of slices as a user writes them: numbers and ranges, ``0,13,26`` or ``10-20,40``."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

MAX_SLICES = 1_000_000
RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


def parsed_slices(text: str) -> list[int]:
    """Return the numbers of slices, in the order in which they are given; ranges are inclusive.

    >>> parsed_slices("1-3,9")
    [1, 2, 3, 9]

    Raises:
        ValueError: not a list of numbers, a range that runs backwards or is too long, or a slice
            that is given twice.
    """
    joined = re.sub(r"\s*-\s*", "-", text.strip())
    numbers: list[int] = []
    for part in re.split(r"[,\s]+", joined):
        if not part:
            continue
        match = RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"expected numbers and ranges such as 0,13,26 or 10-20; got '{text}'")
        first = int(match[1])
        last = int(match[2] or first)
        if last < first:
            raise ValueError(f"the range {part} runs backwards; write {last}-{first}")
        if len(numbers) + last - first >= MAX_SLICES:
            raise ValueError(f"{part} is too long; expected at most {MAX_SLICES} slices")
        numbers += range(first, last + 1)
    seen: set[int] = set()
    for number in numbers:
        if number in seen:
            raise ValueError(f"slice {number} is given twice in '{text}'")
        seen.add(number)
    return numbers


def _as_text(value: Any) -> Any:
    """A number, or a list of numbers and ranges, as one text; anything else stays."""
    parts = [value] if isinstance(value, int) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, int | str) for part in parts):
        return value
    return ",".join(map(str, parts))


def _as_numbers(value: Any) -> Any:
    text = _as_text(value)
    return tuple(parsed_slices(text)) if isinstance(text, str) else value


# Every field of settings that takes slices has one of these types, so that all take 5, [0, 9] and "10-20,40".
SliceNumbers = Annotated[tuple[int, ...], BeforeValidator(_as_numbers)]
SliceChoice = Annotated[str, BeforeValidator(_as_text)]  # or a word, such as "non-empty" or "all"
