"""Lengths as files state them: a number and a unit, in the words of OME, ImageJ, NGFF and NRRD."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sparsem.io.readers.source import AxisLengths

# Name, symbol and power of ten of every SI prefix; no prefix is one of them.
PREFIXES = [
    ("quetta", "Q", 30),
    ("ronna", "R", 27),
    ("yotta", "Y", 24),
    ("zetta", "Z", 21),
    ("exa", "E", 18),
    ("peta", "P", 15),
    ("tera", "T", 12),
    ("giga", "G", 9),
    ("mega", "M", 6),
    ("kilo", "k", 3),
    ("hecto", "h", 2),
    ("deca", "da", 1),
    ("deka", "da", 1),
    ("", "", 0),
    ("deci", "d", -1),
    ("centi", "c", -2),
    ("milli", "m", -3),
    ("micro", "u", -6),
    ("micro", "\u03bc", -6),  # the micro sign after normalization
    ("nano", "n", -9),
    ("pico", "p", -12),
    ("femto", "f", -15),
    ("atto", "a", -18),
    ("zepto", "z", -21),
    ("yocto", "y", -24),
    ("ronto", "r", -27),
    ("quecto", "q", -30),
]
INCH = 25.4e6  # nm
# Names of units without an SI prefix, and their length in nm.
OTHER_UNITS = {
    (
        "\u00e5",
        "angstrom",
        "\u00e5ngstr\u00f6m",
        "angstr\u00f6m",
        "\u00e5ngstrom",
        "angstroem",
    ): 0.1,
    ("micron", "\u03bc"): 1e3,
    ("in", "inch", "inches"): INCH,
    ("thou", "mil"): INCH / 1000,
    ("li", "line"): INCH / 12,
    ("pt", "point"): INCH / 72,
    ("ft", "foot", "feet"): 12 * INCH,
    ("yd", "yard"): 36 * INCH,
    ("mi", "mile"): 63360 * INCH,
    ("ua", "au", "astronomicalunit"): 1.495978707e20,
    ("ly", "lightyear"): 9.4607304725808e24,
    ("pc", "parsec"): 3.0856775814913673e25,
}
# Units that programs write where they know no length.
NO_LENGTH = {"", "pixel", "px", "voxel", "referenceframe", "none", "null", "unit", "unknown", "n/a"}
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")  # ImageJ writes letters beyond ASCII so


def _symbols_nm() -> dict[str, float]:
    """Return the length in nm of the symbol of each unit with an SI prefix."""
    return {f"{symbol}m": float(f"1e{9 + power}") for _, symbol, power in PREFIXES}


def _names_nm() -> dict[str, float]:
    """Return the length in nm of each name of a unit."""
    names = {f"{prefix}meter": float(f"1e{9 + power}") for prefix, _, power in PREFIXES}
    for unit_names, length_nm in OTHER_UNITS.items():
        names |= dict.fromkeys(unit_names, length_nm)
    return names


SYMBOLS = _symbols_nm()
NAMES = _names_nm()
# Symbols whose case is often wrong. The others differ in case only: pm and Pm, mm and Mm.
COMMON_SYMBOLS = {
    symbol: SYMBOLS[symbol] for symbol in ("m", "cm", "mm", "um", "\u03bcm", "nm", "pm")
}


@dataclass(frozen=True)
class StatedLength:
    """The length of one axis, as a file states it.

    Attributes:
        nm: the length; None where the file states no valid one.
        unknown_unit: a unit that is not known.
        impossible: a length that is not positive or not finite, as the file states it.
    """

    nm: float | None = None
    unknown_unit: str = ""
    impossible: str = ""


def stated_length(number: Any, unit: Any, shown: str = "") -> StatedLength:
    """Read a length.

    Args:
        number: as the file states it, also as text; decimal commas are understood.
        unit: as the file states it; None, or a word for pixels, states no length.
        shown: how the file writes the length, for messages.
    """
    if number is None or unit is None:
        return StatedLength()
    unit_text = str(unit)
    if _unit_name(_normalize(unit_text)).removesuffix("s") in NO_LENGTH:
        return StatedLength()
    nm_per_unit = unit_nm(unit_text)
    if nm_per_unit is None:
        return StatedLength(unknown_unit=_unescape(unit_text))
    length = _parse_number(number) * nm_per_unit
    if not (math.isfinite(length) and length > 0):
        return StatedLength(impossible=shown or f"{number} {_unescape(unit_text)}")
    return StatedLength(length)


def _parse_number(number: Any) -> float:
    try:
        return float(str(number).strip().replace(",", "."))
    except ValueError:
        return math.nan


def unit_nm(unit: str) -> float | None:
    """Return the length of a unit in nm; None if it is not known.

    >>> unit_nm("micrometers"), unit_nm("dm"), unit_nm("furlong")
    (1000.0, 100000000.0, None)
    """
    symbol = _normalize(unit)
    if symbol in SYMBOLS:
        return SYMBOLS[symbol]
    name = _unit_name(symbol)
    for lengths_nm in (NAMES, COMMON_SYMBOLS):
        for form in (name, name.removesuffix("s")):
            if form in lengths_nm:
                return lengths_nm[form]
    return None


def _unescape(unit: str) -> str:
    """Return a unit as people read it, without quotes and escapes."""
    return ESCAPED.sub(lambda match: chr(int(match[1], 16)), unit.strip(" \t\"'\0"))


def _normalize(unit: str) -> str:
    """Return a unit with compatible characters replaced by their usual ones (Unicode NFKC)."""
    text = _unescape(unit)
    with suppress(UnicodeError):  # UTF-8 that was read as Latin-1
        text = text.encode("latin-1").decode("utf-8")
    return unicodedata.normalize("NFKC", text)


def _unit_name(text: str) -> str:
    """Return a unit in small letters without separators, in American spelling."""
    return re.sub(r"[ _-]", "", text).casefold().replace("metre", "meter")


def axis_lengths_nm(lengths: Mapping[str, StatedLength]) -> AxisLengths:
    """Return the lengths in nm of z, y, x; None where there is none."""
    z, y, x = (lengths.get(axis, StatedLength()).nm for axis in "zyx")
    return z, y, x


def length_faults(lengths: Mapping[str, StatedLength]) -> tuple[str, ...]:
    """Return what is wrong with stated lengths, as text."""
    unknown_units: dict[str, list[str]] = {}
    impossible: dict[str, list[str]] = {}
    for axis in "zyx":
        length = lengths.get(axis, StatedLength())
        if length.unknown_unit:
            unknown_units.setdefault(length.unknown_unit, []).append(axis)
        if length.impossible:
            impossible.setdefault(length.impossible, []).append(axis)
    unit_faults = [
        f"the unit '{unit}' of {_list_axes(axes)} is not known"
        for unit, axes in unknown_units.items()
    ]
    impossible_faults = [_impossible_message(shown, axes) for shown, axes in impossible.items()]
    return (*unit_faults, *impossible_faults)


def _impossible_message(shown: str, axes: Sequence[str]) -> str:
    """Return that the length of some axes cannot be one, as text."""
    verb = "is" if len(axes) == 1 else "are"
    return f"{_list_axes(axes)} {verb} stated as {shown}, which is not a positive length"


def _list_axes(axes: Sequence[str]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"the axes {', '.join(axes)}"
