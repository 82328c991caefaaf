"""Numbers as programs write them: ids of JSON files, and words of tables with decimal points or commas, and separators of thousands."""

import math
import re
from collections.abc import Iterable
from typing import Any, Literal

LARGEST = 1e300  # larger numbers overflow when a computer calculates with them
LARGEST_EXACT_FLOAT = 2**53  # beyond, floats are no longer every whole number: ids were rounded
NO_IDS = ("", "nan", "none", "null")
WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,400}))(?:\.0+)?")
SPACED_THOUSANDS = re.compile(
    "(?<=\\d)[ \u00a0\u202f'\u2019](?=\\d{3}(?:\\D|$))"
)  # 1 234, 1'234: no number has these otherwise
GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")  # 1.234 or 1,234: thousands, or three decimals

Mark = Literal[".", ","]
Decimal = Mark | Literal["?"]  # how a table writes decimals; unknown


def parse_id(value: Any) -> int | str | None:
    """Return an id that can be compared: 1, 1.0 and "1" are one id; None of what is no id.

    >>> id_of(2.0), id_of("2"), id_of("a7"), id_of(2.5), id_of(True)
    (2, 2, 'a7', None, None)
    """
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < LARGEST_EXACT_FLOAT else None
    if not isinstance(value, str) or value.strip().lower() in NO_IDS:
        return None
    whole = WHOLE.fullmatch(value.strip())
    return int(whole[1]) if whole else value.strip()


def parse_json_number(value: Any) -> float | None:
    """Return a number of a JSON file, also one that is written as text with a decimal point; None of what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, int) and abs(value) >= LARGEST:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return None if abs(number) >= LARGEST else number


def parse_json_integer(value: Any) -> int | None:
    """Return a whole number of a JSON file: 120, 120.0 or "120"; None of anything else."""
    number = parse_json_number(value)
    return int(number) if number is not None and number.is_integer() else None


def is_missing(value: Any) -> bool:
    """Return True if a JSON file holds no value: null, text without letters, or NaN, which pandas writes for it."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def decimal_mark(words: Iterable[str], separator: str) -> Decimal:
    """Return the mark before decimals in the numbers of a table; "?" if numbers such as 1.234 may be thousands, or decimals.

    Args:
        words: all numbers of the table.
        separator: between its values.
    """
    compact = [SPACED_THOUSANDS.sub("", word.strip()) for word in words]
    marked = [word for word in compact if "." in word or "," in word]
    clear: set[str] = {_decimal_mark(word) for word in marked if not GROUP.fullmatch(word)}
    clear.discard("")
    if clear in ({"."}, {","}):
        return "," if "," in clear else "."
    groups = {mark for word in marked if GROUP.fullmatch(word) for mark in ".," if mark in word}
    if clear or len(groups) == 2:
        return "?"
    # Where values are separated by commas, decimals are not.
    return "?" if groups and (groups == {","} or separator != ",") else "."


def _decimal_mark(word: str) -> str:
    """The last mark in a number; "" if it is there twice, and so separates thousands, or if this is no number."""
    last = max(word.rfind("."), word.rfind(","))
    if not re.fullmatch(r"[+-]?[\d.,]+(?:[eE][+-]?\d+)?", word):
        return ""
    if word.count(word[last]) > 1:
        return "," if word[last] == "." else "."
    return word[last]


def parse_number(word: str, decimal: Decimal = ".") -> float | None:
    """Return a number of a table whose decimals follow a mark; None of what is no number, or may be two.

    >>> number_of("1.234,5", ","), number_of("1,234.5", "."), number_of("1,234", "?"), number_of("1 234", ".")
    (1234.5, 1234.5, None, 1234.0)
    """
    compact = SPACED_THOUSANDS.sub("", word.strip())
    if decimal == "?":
        if GROUP.fullmatch(compact):
            return None
        decimal = "," if _decimal_mark(compact) == "," else "."
    thousands = "." if decimal == "," else ","
    whole, _, rest = compact.partition(decimal)
    is_grouped = (
        re.fullmatch(rf"[+-]?\d{{1,3}}(?:{re.escape(thousands)}\d{{3}})+", whole) is not None
    )
    if thousands in rest or (thousands in whole and not is_grouped):
        return None
    try:
        return float(compact.replace(thousands, "").replace(decimal, "."))
    except ValueError:
        return None
