"""Lengths as files state them: a number and a unit, in the words of OME, ImageJ, NGFF and NRRD."""

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sparsem.io.readers.source import AxisLengths

# Name, symbol and power of ten of every SI prefix; none is a prefix too.
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
    ("micro", "\u03bc", -6),  # to which normalization turns the micro sign
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
# What programs write where they know no length.
NO_LENGTH = {"", "pixel", "px", "voxel", "referenceframe", "none", "null", "unit", "unknown", "n/a"}
ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")  # as ImageJ writes letters beyond ASCII


def _symbols() -> dict[str, float]:
    return {f"{symbol}m": float(f"1e{9 + power}") for _, symbol, power in PREFIXES}


def _names() -> dict[str, float]:
    names = {f"{prefix}meter": float(f"1e{9 + power}") for prefix, _, power in PREFIXES}
    names |= {name: nm for words, nm in OTHER_UNITS.items() for name in words}
    return names


SYMBOLS, NAMES = _symbols(), _names()
# Symbols whose case is often wrong; the others differ in case only: pm and Pm, mm and Mm.
COMMON_SYMBOLS = {
    symbol: SYMBOLS[symbol] for symbol in ("m", "cm", "mm", "um", "\u03bcm", "nm", "pm")
}


def unit_nm(unit: str) -> float | None:
    """Length of a unit in nm; None if it is not known.

    >>> unit_nm("micrometers"), unit_nm("dm"), unit_nm("furlong")
    (1000.0, 100000000.0, None)
    """
    text = _normalized(unit)
    if text in SYMBOLS:
        return SYMBOLS[text]
    name = _name(text)
    for known in (NAMES, COMMON_SYMBOLS):
        for form in (name, name.removesuffix("s")):
            if form in known:
                return known[form]
    return None


def _readable(unit: str) -> str:
    return ESCAPED.sub(lambda match: chr(int(match[1], 16)), unit.strip(" \t\"'\0"))


def _normalized(unit: str) -> str:
    text = _readable(unit)
    with suppress(UnicodeError):  # UTF-8 that was read as Latin-1
        text = text.encode("latin-1").decode("utf-8")
    return unicodedata.normalize("NFKC", text)


def _name(text: str) -> str:
    return re.sub(r"[ _-]", "", text).casefold().replace("metre", "meter")


@dataclass(frozen=True)
class StatedLength:
    """The length of one axis, as a file states it.

    Attributes:
        nm: the length; None where the file states none, or none that can be.
        unknown_unit: a unit that is not known.
        impossible: a length that cannot be, as the file states it.
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
    text = str(unit)
    if _name(_normalized(text)).removesuffix("s") in NO_LENGTH:
        return StatedLength()
    nm, value = unit_nm(text), _as_float(number)
    if nm is None:
        return StatedLength(unknown_unit=_readable(text))
    length = value * nm
    if not (math.isfinite(length) and length > 0):
        return StatedLength(impossible=shown or f"{number} {_readable(text)}")
    return StatedLength(length)


def _as_float(number: Any) -> float:
    try:
        return float(str(number).strip().replace(",", "."))
    except ValueError:
        return math.nan


def axis_lengths_nm(lengths: Mapping[str, StatedLength]) -> AxisLengths:
    """Lengths in nm of z, y, x; None where there is none."""
    z, y, x = (lengths.get(axis, StatedLength()).nm for axis in "zyx")
    return z, y, x


def length_faults(lengths: Mapping[str, StatedLength]) -> tuple[str, ...]:
    """What is wrong with stated lengths, in words."""
    units: dict[str, list[str]] = {}
    impossible: dict[str, list[str]] = {}
    for axis in "zyx":
        length = lengths.get(axis, StatedLength())
        if length.unknown_unit:
            units.setdefault(length.unknown_unit, []).append(axis)
        if length.impossible:
            impossible.setdefault(length.impossible, []).append(axis)
    return (
        *(f"the unit '{unit}' of {_listed(axes)} is not known" for unit, axes in units.items()),
        *(
            f"{_listed(axes)} {'is' if len(axes) == 1 else 'are'} stated as {shown}, which is no positive length"
            for shown, axes in impossible.items()
        ),
    )


def _listed(axes: Sequence[str]) -> str:
    return f"axis {axes[0]}" if len(axes) == 1 else f"the axes {', '.join(axes)}"
