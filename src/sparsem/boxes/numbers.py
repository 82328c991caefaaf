"""Numbers as programs write them into files of boxes.

Ids and numbers of JSON files, and numbers of tables with decimal points or commas and with
separators of thousands.
"""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

MAX_NUMBER = 1e300  # larger numbers overflow in computations
MAX_EXACT_FLOAT = 2**53  # from here on, floats skip integers: an id was rounded
EMPTY_IDS = ("", "nan", "none", "null")
INTEGER = re.compile(r"(-?(?:0|[1-9]\d{0,400}))(?:\.0+)?")
# A space or an apostrophe before groups of three digits, as in 1 234 and 1'234. Numbers hold these
# characters for no other reason.
SPACED_THOUSANDS = re.compile("(?<=\\d)[ \u00a0\u202f'\u2019](?=\\d{3}(?:\\D|$))")
GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # 1.234 or 1,234: thousands, or three decimals

Mark = Literal[".", ","]
Decimal = Mark | Literal["?"]  # decimal mark of a table; "?" if it is unknown


def parse_id(value: Any) -> int | str | None:
    """Return an id that can be compared: 1, 1.0 and "1" are one id; None if this is no id.

    >>> parse_id(2.0), parse_id("2"), parse_id("a7"), parse_id(2.5), parse_id(True)
    (2, 2, 'a7', None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < MAX_EXACT_FLOAT else None
    if not isinstance(value, str) or value.strip().lower() in EMPTY_IDS:
        return None
    integer = INTEGER.fullmatch(value.strip())
    return int(integer[1]) if integer else value.strip()


def parse_json_number(value: Any) -> float | None:
    """Return a number of a JSON file; None if this is no number.

    Text with a decimal point is accepted.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int) and abs(value) >= MAX_NUMBER:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return None if abs(number) >= MAX_NUMBER else number


def parse_json_integer(value: Any) -> int | None:
    """Return an integer of a JSON file: 120, 120.0 or "120"; None for anything else."""
    number = parse_json_number(value)
    return int(number) if number is not None and number.is_integer() else None


def is_missing(value: Any) -> bool:
    """Return True if a JSON file holds no value: null, empty text, or NaN, as pandas writes it."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def decimal_mark(words: Iterable[str], separator: str) -> Decimal:
    """Return the decimal mark of the numbers of a table.

    Args:
        words: all numbers of the table.
        separator: character between its values.

    Returns:
        The mark; "?" if numbers such as 1.234 may have thousands or decimals.
    """
    compact = [SPACED_THOUSANDS.sub("", word.strip()) for word in words]
    marked = [word for word in compact if "." in word or "," in word]
    grouped = [word for word in marked if GROUP.fullmatch(word)]
    clear_marks: set[str] = {_mark_in(word) for word in marked if not GROUP.fullmatch(word)}
    clear_marks.discard("")
    if clear_marks == {","}:
        return ","
    if clear_marks == {"."}:
        return "."
    return "?" if clear_marks or _are_unclear(grouped, separator) else "."


def _are_unclear(grouped: Sequence[str], separator: str) -> bool:
    """Return True if the marks of numbers such as 1.234 may be of thousands or of decimals."""
    marks = {mark for mark in ".," if any(mark in word for word in grouped)}
    if len(marks) == 2:
        return True
    # Where commas separate values, they do not separate decimals.
    return bool(marks) and (marks == {","} or separator != ",")


def _mark_in(word: str) -> str:
    """Return the last mark in a number.

    A mark that occurs twice separates thousands, so the other one is returned. The result is ""
    if this is no number.
    """
    last = max(word.rfind("."), word.rfind(","))
    if not re.fullmatch(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?", word):
        return ""
    if word.count(word[last]) > 1:
        return "," if word[last] == "." else "."
    return word[last]


def parse_number(word: str, decimal: Decimal = ".") -> float | None:
    """Return a number of a table with a known decimal mark; None if it is no number, or unclear.

    >>> parse_number("1.234,5", ","), parse_number("1,234.5", "."), parse_number("1 234", ".")
    (1234.5, 1234.5, 1234.0)
    >>> parse_number("1,234", "?") is None
    True
    """
    compact = SPACED_THOUSANDS.sub("", word.strip())
    if decimal == "?":
        if GROUP.fullmatch(compact):
            return None
        decimal = "," if _mark_in(compact) == "," else "."
    thousands = "." if decimal == "," else ","
    whole, _, decimals = compact.partition(decimal)
    grouped_pattern = rf"[+-]?\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+"
    is_grouped = re.fullmatch(grouped_pattern, whole) is not None
    if thousands in decimals or (thousands in whole and not is_grouped):
        return None
    try:
        return float(compact.replace(thousands, "").replace(decimal, "."))
    except ValueError:
        return None
