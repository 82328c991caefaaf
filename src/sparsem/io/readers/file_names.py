"""File names, split into numbers and the text between them.

Numbers are read in one of two modes: as whole numbers only (``z0.80`` holds 0 and 80), or with
decimals (0.8). Dates with times are one number each where all names of a series hold them.
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

Number = int | float
MINUS = "\u2212"

# A date, or a date with a time, in forms that are not mistaken for slice numbers.
YEAR = r"(?:19|20)\d\d"
MONTH = r"(?:0[1-9]|1[0-2])"
DAY = r"(?:0[1-9]|[12]\d|3[01])"
HOUR = r"(?:[01]\d|2[0-3])"
SIXTY = r"[0-5]\d"
CLOCK = rf"{HOUR}[-_.:h]{SIXTY}[-_.:m]{SIXTY}"
TIME = re.compile(
    rf"(?<!\d){YEAR}(?:([-_.]){MONTH}\1{DAY}|{MONTH}{DAY})[ T_-]{{0,3}}{CLOCK}(?!\d)"
    rf"|(?<!\d){YEAR}{MONTH}{DAY}T?{HOUR}{SIXTY}{SIXTY}(?!\d)"
    rf"|(?<!\d){YEAR}([-_.]){MONTH}\2{DAY}(?!\d)"
)
# The six digits after a date may be a slice number: they are a time only where nothing else is.
DATED_ONLY = re.compile(rf"(?<!\d){YEAR}{MONTH}{DAY}[ T_-]{HOUR}{SIXTY}{SIXTY}(?!\d)")
WHOLE = re.compile(r"\d+")
DECIMAL = re.compile(
    r"(?<!\d[.,])(?<!\d)\d+[.,p]\d+(?:[eE][-+]?\d+)?(?!\d|[.,]\d)"  # 0.8 0,8 0p8, not 1.2.3
    r"|(?<!\d)\d+[eE][-+]?\d+(?!\d|[.,]\d)"  # 8e-3
    r"|\d+"
)

# Text before the number of a slice: z or slice, as a word of their own.
SLICE_MARK = re.compile(
    r"(?:(?<![^\W\d_])[zZ]|(?<=[a-z])Z|[sS][lL][iI][cC][eE][sS]?)[ ._=-]*[-+\u2212]?$"
)
# Text before a number that distinguishes images of one slice.
CHANNEL_MARK = re.compile(
    r"(?:(?<![^\W\d_])|(?<=[a-z])(?=[A-Z]))"
    r"(?:ch|chan|channel|tile|mosaic|det|detector|pos|position|view|angle)s?[ _=-]*$",
    re.IGNORECASE,
)
LENGTH_UNIT = re.compile(
    r"[ _]?(?:nm|[uµμ]m|mm|pm|å|angstroms?|microns?|micromet(?:er|re)s?|nanomet(?:er|re)s?)"
    r"(?![^\W\d_])",
    re.IGNORECASE,
)

# Words that programs and people add to the name of a copy.
COPY = r"(?:copy|kopie|copie|copia|duplicate|old|bak|backup|orig|original|new|final|edited|tmp)"
COPY_BEGIN = re.compile(rf"^{COPY}(?: ?\(?\d+\)?)?(?: (?:of|von|de|di))?[ _-]+")
COPY_END = re.compile(rf"(?:[ _.-]+{COPY}(?: ?\(?\d+\)?)?|[ _-]*\(\d+\)|~)+$")


@dataclass(frozen=True)
class NamePart:
    """A number in a name.

    Attributes:
        before: the text between the previous number, or the beginning of the name, and this number.
        written: the number as it is written.
        value: of the number.
        after: the text after it, up to the next number or the end.
        is_time: the number is a date, or a date with a time.
    """

    before: str
    written: str
    value: Number
    after: str
    is_time: bool = False

    @property
    def is_slice(self) -> bool:
        """True if the text before it marks it as the number of a slice."""
        return bool(SLICE_MARK.search(self.before))

    @property
    def is_channel(self) -> bool:
        """True if the text before it marks it as the number of a channel, tile or detector."""
        return bool(CHANNEL_MARK.search(self.before))

    @property
    def has_unit(self) -> bool:
        """True if a unit of length follows."""
        return bool(LENGTH_UNIT.match(self.after))

    @property
    def is_padded(self) -> bool:
        """True if the number is padded with zeros."""
        return len(self.written) > 1 and self.written[0] == "0" and self.is_whole

    @property
    def is_whole(self) -> bool:
        """True if the number is written with digits only."""
        return self.written.isdecimal()


@dataclass(frozen=True)
class FileName:
    """A name without its ending, as text and numbers that alternate.

    Attributes:
        name: the name with its ending.
        parts: the numbers.
        text: the text before, between and after the numbers, in small letters.
    """

    name: str
    parts: tuple[NamePart, ...]
    text: tuple[str, ...]

    @property
    def key(self) -> tuple[tuple[int, Number, str], ...]:
        """Sorting key: text by letters, numbers by value."""
        key: list[tuple[int, Number, str]] = []
        for text, part in zip(self.text, self.parts, strict=False):
            key += [(1, 0, text), (0, part.value, "")]
        return (*key, (1, 0, self.text[-1]))

    @property
    def values(self) -> tuple[Number, ...]:
        """Values of the numbers."""
        return tuple(part.value for part in self.parts)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sorting key by which ``s2`` comes before ``s10``."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if index % 2 else (-1, part) for index, part in enumerate(parts)]


def distinct_names(files: Sequence[Path]) -> list[str]:
    """Return the names of files; those in several folders with the folders in which they differ."""
    if len({file.parent for file in files}) <= 1:
        return [file.name for file in files]
    common = os.path.commonpath([file.parent for file in files])
    return [file.relative_to(common).as_posix() for file in files]


def split_names(
    names: Sequence[str], decimals: bool = False, time: re.Pattern[str] = TIME
) -> list[FileName]:
    """Split all names in the same mode.

    Dates are numbers of their own only if all names hold the same count of them.

    Args:
        names: of the files of a series.
        decimals: read numbers with decimals.
        time: pattern of dates.
    """
    pattern = DECIMAL if decimals else WHOLE
    with_dates = [_split_name(name, pattern, time) for name in names]
    date_counts = {sum(part.is_time for part in name.parts) for name in with_dates}
    if len(date_counts) == 1:
        return _read_signs(with_dates)
    return _read_signs([_split_name(name, pattern, None) for name in names])


def _stem(name: str) -> str:
    """Return a name, or path, without its ending."""
    return unicodedata.normalize("NFC", str(PurePosixPath(name).with_suffix("")))


def _split_name(name: str, pattern: re.Pattern[str], time: re.Pattern[str] | None) -> FileName:
    stem = _stem(name)
    spans = _number_spans(stem, pattern, time)
    texts = _texts_between(stem, spans)
    parts = []
    for index, (start, stop, is_time) in enumerate(spans):
        written = stem[start:stop]
        value = int(re.sub(r"\D", "", written)) if is_time else _value(written)
        parts.append(NamePart(texts[index], written, value, texts[index + 1], is_time))
    return FileName(name, tuple(parts), tuple(text.casefold() for text in texts))


def _texts_between(stem: str, spans: Sequence[tuple[int, int, bool]]) -> list[str]:
    """Return the text before the first number, between numbers, and after the last one."""
    starts = [0, *(stop for _, stop, _ in spans)]
    stops = [*(start for start, _, _ in spans), len(stem)]
    return [stem[start:stop] for start, stop in zip(starts, stops, strict=True)]


def _number_spans(
    stem: str, pattern: re.Pattern[str], time: re.Pattern[str] | None
) -> list[tuple[int, int, bool]]:
    """Return (start, stop, is a time) of the numbers in a name, in order."""
    spans: list[tuple[int, int, bool]] = []
    start = 0
    times = time.finditer(stem) if time else ()
    for match in times:
        spans += [
            (*number.span(), False) for number in pattern.finditer(stem, start, match.start())
        ]
        spans.append((*match.span(), True))
        start = match.end()
    spans += [(*number.span(), False) for number in pattern.finditer(stem, start)]
    return spans


def _value(written: str) -> Number:
    if written.isdecimal():
        return int(written)
    value = float(re.sub("[,p]", ".", written))
    return int(value) if value.is_integer() else value


def _read_signs(names: Sequence[FileName]) -> list[FileName]:
    """Read a hyphen before a number as a minus sign where other names have none at that position.

    ``z-1`` next to ``z1`` is negative; in ``slice-001``, ``slice-002`` the hyphen is a separator.
    """
    signed = list(names)
    n_positions = min((len(name.parts) for name in names), default=0)
    for index in range(n_positions):
        texts = [name.text[index] for name in names]
        if _hold_signs(texts):
            signed = [_read_sign(name, index) for name in signed]
    return signed


def _hold_signs(texts: Sequence[str]) -> bool:
    """Return whether the texts before the numbers at one position of all names end with signs."""
    if any(text.endswith(MINUS) for text in texts):
        return True
    if all(text.endswith(("--", "_-", "=-")) for text in texts):  # a separator, and a sign
        return True
    base = min(texts, key=len)
    if set(texts) in ({base, base + "-"}, {base, base + "-", base + "+"}):
        return True
    return set(texts) == {base[:-1] + "-", base[:-1] + "+"}


def _read_sign(name: FileName, index: int) -> FileName:
    """Return the name with the sign before a number as a part of the number."""
    part = name.parts[index]
    text = name.text[index]
    if not text.endswith(("-", "+", MINUS)):
        return name
    value = part.value if text.endswith("+") else -part.value
    texts = (*name.text[:index], text[:-1], *name.text[index + 1 :])
    parts = (*name.parts[:index], replace(part, value=value), *name.parts[index + 1 :])
    return replace(name, parts=parts, text=texts)


def read_hyphens_as_minus(names: Sequence[FileName]) -> list[FileName]:
    """Return names in which every hyphen right before a number is a minus sign."""
    negative_names = []
    for name in names:
        negative_name = name
        for index in range(len(name.parts)):
            if name.text[index].endswith("-"):
                negative_name = _read_sign(negative_name, index)
        negative_names.append(negative_name)
    return negative_names


def find_copy(names: Sequence[str]) -> tuple[int, int] | None:
    """Find two names of one file: they differ in ending or letter case, or one is a copy.

    Returns:
        The indices of the original and of the copy; None where there are no such names.
    """
    stems = [_stem(name).casefold() for name in names]
    index_of: dict[str, int] = {}
    for index, stem in enumerate(stems):
        if stem in index_of:
            return index_of[stem], index
        index_of[stem] = index
    for index, stem in enumerate(stems):
        original = COPY_END.sub("", COPY_BEGIN.sub("", stem))
        if original != stem and original in index_of:
            return index_of[original], index
    return None
