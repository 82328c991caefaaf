"""The order of a series of files, from the numbers in their names.

A number that is the same in all names (a voxel size, bits, a sample) is not the number of a slice.
Names that support no order give a fault: nothing is ordered by a guess.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from sparsem.io.readers.file_names import (
    DATED_ONLY,
    FileName,
    Number,
    find_copy,
    read_hyphens_as_minus,
    split_names,
)
from sparsem.io.readers.gaps import counts_slices, is_complete, is_nearly_complete
from sparsem.io.readers.name_columns import Column, columns_of, marked_columns


class NameFault(Enum):
    """Why names give no order."""

    SAME_NUMBER = "two files carry the same number"
    SAME_NAME = "two names differ in their ending, in letter case or as copies do"
    CHANNEL = "names differ in a channel only, or alternate between channels"
    NO_NUMBER = "one file carries no number, others do"
    UNLIKE = "names carry different counts of numbers, or one has other text than all others"
    CONTRADICTION = "numbers, or numbers and text, give different orders"
    DECIMAL = "numbers with decimals or pairs of numbers give different orders"


@dataclass(frozen=True)
class SeriesOrder:
    """How files follow each other.

    Attributes:
        order: indices of the names, in the order of the slices.
        numbers: of the slices, in that order; empty where names carry none.
        fault: why names give no order; files are in natural order then.
        pair: indices of two names that show the fault.
        same: the number that both carry.
        note: what was understood and may be wrong.
    """

    order: tuple[int, ...]
    numbers: tuple[Number, ...] = ()
    fault: NameFault | None = None
    pair: tuple[int, int] = (0, 0)
    same: Number | None = None
    note: str = ""


def series_order(names: Sequence[str]) -> SeriesOrder:
    """Find the order of files, or why their names give none."""
    if len(names) == 1:
        told = possible_slice_numbers(names)
        return SeriesOrder((0,), told[0] if told else ())
    found = _best_reading(names)
    if found.fault:
        dated = split_names(names, time=DATED_ONLY)
        by_time = _order_of(dated)
        if any(part.is_time for part in dated[0].parts) and not by_time.fault:
            found = by_time
    if found.fault in (None, NameFault.UNLIKE):
        copy = find_copy(names)
        if copy:
            return replace(found, fault=NameFault.SAME_NAME, pair=copy)
    return found


def _best_reading(names: Sequence[str]) -> SeriesOrder:
    """The order by whole numbers or by decimals, whichever the names support."""
    whole, decimal = split_names(names), split_names(names, decimals=True)
    by_whole = _order_of(whole)
    if all(part.is_whole or part.is_time for one in decimal for part in one.parts):
        return by_whole
    values = [part.value for one in decimal for part in one.parts]
    if not all(math.isfinite(value) for value in values):
        return by_whole
    by_decimal = _order_of(decimal)
    if not by_decimal.fault and not _is_evenly_written(decimal, by_decimal.numbers):
        by_decimal = replace(
            by_decimal, fault=NameFault.DECIMAL, pair=(by_decimal.order[0], by_decimal.order[1])
        )
    if _is_surely_decimal(decimal):
        by_pairs = by_whole.fault or is_complete(by_whole.numbers)
        return by_whole if by_decimal.fault and by_pairs else by_decimal
    if by_decimal.fault:
        return by_whole
    if by_whole.fault:
        return by_decimal if is_nearly_complete(by_decimal.numbers) else by_whole
    complete = [bool(one.numbers) and is_complete(one.numbers) for one in (by_whole, by_decimal)]
    if by_whole.order == by_decimal.order or complete[0] != complete[1]:
        return by_decimal if complete == [False, True] else by_whole
    pair = _first_difference(by_whole.order, by_decimal.order)
    return replace(by_decimal, fault=NameFault.DECIMAL, pair=pair)


def _is_surely_decimal(names: Sequence[FileName]) -> bool:
    """Whether z, slice or a unit of length marks all numbers that are written with decimals."""
    written = [
        part for one in names for part in one.parts if not part.is_whole and not part.is_time
    ]
    return all(part.is_slice or part.has_unit for part in written)


def _is_evenly_written(names: Sequence[FileName], numbers: Sequence[Number]) -> bool:
    """Whether numbers are written as decimals are: 1.9 and 1.10 are not, 003 and 003.1 are not."""
    if not numbers:
        return False
    for column in columns_of(names):
        written = [re.sub("[,p]", ".", part.written) for part in column.parts]
        if column.is_constant or column.is_whole or column.is_time:
            continue
        fractions = [text.partition(".")[2] for text in written if "." in text]
        shortest = min(map(len, fractions), default=0)
        if any(len(text) > shortest and text.endswith("0") for text in fractions):
            return False
        is_mixed = len(fractions) < len(written)
        has_padded = any(part.is_padded for part in column.parts)
        fits = is_complete(numbers) if has_padded else is_nearly_complete(numbers)
        if is_mixed and not fits:
            return False
    return True


def _order_of(names: Sequence[FileName]) -> SeriesOrder:
    """The order of names that were split in one way."""
    natural = tuple(sorted(range(len(names)), key=lambda index: names[index].key))
    ordered = [names[index] for index in natural]
    found = _order_by_marks(ordered) or _order_without_marks(ordered)
    order = tuple(natural[index] for index in found.order)
    first, second = found.pair
    found = replace(found, order=order, pair=(natural[first], natural[second]))
    if found.fault:
        return replace(found, order=natural, numbers=())
    if found.numbers and min(found.numbers) < 0:
        return replace(found, note="numbers after a hyphen are read as negative")
    return found


def _order_by_marks(names: Sequence[FileName]) -> SeriesOrder | None:
    """The order by numbers after z or slice; None where names have none that tells slices apart."""
    marked = marked_columns(names)
    varying = [column for column in marked if not column.is_constant]
    unique = [column for column in varying if column.is_unique]
    if unique:
        for column in unique:
            if column.order != unique[0].order:
                return _contradiction(names, unique[0].order, column.order)
        chosen = next((column for column in unique if column.is_whole), unique[0])
        return _ordered(names, chosen)
    if varying:
        return _same_number(names, varying[0])
    constant = [column for column in marked if not any(part.has_unit for part in column.parts)]
    others = [column for column in columns_of(names) if column.is_unique and not column.is_channel]
    return _same_number(names, constant[0]) if constant and not others else None


def _order_without_marks(names: Sequence[FileName]) -> SeriesOrder:
    """The order by the one number that tells slices apart; it has to be the natural order."""
    natural = tuple(range(len(names)))
    if len({len(one.parts) for one in names}) > 1:
        return _unlike(names)
    columns = [column for column in columns_of(names) if not column.is_constant]
    if not columns:
        return SeriesOrder(
            natural, note="the names carry no slice number; the order is alphabetical"
        )
    channels = _channel_columns(names)
    if any(not column.is_unique for column in channels) or len(columns) == len(channels):
        return _same_or_channel(names, columns, channels)
    unique = [column for column in columns if column.is_unique and column not in channels]
    if not unique:
        return _same_number(names, _most_varied(columns))
    counting = [column for column in unique if counts_slices(column.values)]
    numbered = [column for column in unique if not column.is_time]
    chosen = (counting or numbered or unique)[-1]
    stranger = _stranger(names, chosen)
    if stranger:
        return SeriesOrder(natural, fault=NameFault.UNLIKE, pair=stranger)
    if chosen.order != natural:
        return _contradiction(names, natural, chosen.order)
    pair = _alternating(names, columns)
    if pair:
        return SeriesOrder(natural, fault=NameFault.CHANNEL, pair=pair)
    return _ordered(names, chosen)


def _ordered(names: Sequence[FileName], column: Column) -> SeriesOrder:
    pair = _stranger(names, column)
    if pair:
        return SeriesOrder(column.order, fault=NameFault.UNLIKE, pair=pair)
    numbers = tuple(column.values[index] for index in column.order)
    note = ""
    if column.is_time:
        note = "the names carry no slice number; the order is that of dates and times"
    elif column.is_after_hyphen and min(numbers) > 0:
        note = "hyphens before the numbers are read as separators, not as minus signs"
    return SeriesOrder(column.order, numbers, note=note)


def _channel_columns(names: Sequence[FileName]) -> list[Column]:
    """Varying numbers after channel, tile or the like, and those that only a hyphen parts from them."""
    found: list[Column] = []
    after_channel = False
    for column in columns_of(names):
        follows = all(part.before in ("-", "x", ",") for part in column.parts)
        after_channel = column.is_channel or (after_channel and follows)
        if after_channel and not column.is_constant and not column.is_slice:
            found.append(column)
    return found


def _same_or_channel(
    names: Sequence[FileName], columns: Sequence[Column], channels: Sequence[Column]
) -> SeriesOrder:
    """Several channels of slices, or of one image."""
    others = [column for column in columns if column not in channels and not column.is_unique]
    if others:
        return _same_number(names, _most_varied(others))
    values = channels[-1].values
    other = next(index for index, value in enumerate(values) if value != values[0])
    return SeriesOrder((), fault=NameFault.CHANNEL, pair=(0, other))


def _most_varied(columns: Sequence[Column]) -> Column:
    """The column that most likely counts slices of which there are several files each."""
    likely = [column for column in columns if not column.is_time] or columns
    return max(likely, key=lambda column: len(set(column.values)))


def _same_number(names: Sequence[FileName], column: Column) -> SeriesOrder:
    pair = column.first_pair()
    counts = set(Counter(column.values).values())
    is_channel = len(counts) == 1 and (len(names) > max(counts) or bool(_channel_columns(names)))
    first, second = (names[index] for index in pair)
    is_channel = is_channel and first.key != second.key
    kind = NameFault.CHANNEL if is_channel else NameFault.SAME_NUMBER
    return SeriesOrder((), fault=kind, pair=pair, same=column.values[pair[0]])


def _unlike(names: Sequence[FileName]) -> SeriesOrder:
    """Names of different counts of numbers: one without, one with a number more, or any two."""
    counts = Counter(len(one.parts) for one in names)
    usual = max(counts, key=lambda count: (counts[count], -count))
    typical = next(index for index, one in enumerate(names) if len(one.parts) == usual)
    bare = next((index for index, one in enumerate(names) if not one.parts), None)
    if bare is not None:
        numbered = next(index for index, one in enumerate(names) if one.parts)
        return SeriesOrder((), fault=NameFault.NO_NUMBER, pair=(bare, numbered))
    place = {tuple(part.value for part in one.parts): index for index, one in enumerate(names)}
    for index, one in enumerate(names):
        values = tuple(part.value for part in one.parts)
        for shorter in (values[:-1], values[1:]):
            if shorter in place:
                same = shorter[0] if len(shorter) == 1 else None
                kind = NameFault.UNLIKE if same is None else NameFault.SAME_NUMBER
                return SeriesOrder((), fault=kind, pair=(place[shorter], index), same=same)
    other = next(index for index, one in enumerate(names) if len(one.parts) != usual)
    return SeriesOrder((), fault=NameFault.UNLIKE, pair=(typical, other))


def _contradiction(
    names: Sequence[FileName], order: Sequence[int], other: Sequence[int]
) -> SeriesOrder:
    pair = _first_difference(order, other)
    return SeriesOrder((), fault=NameFault.CONTRADICTION, pair=pair)


def _first_difference(order: Sequence[int], other: Sequence[int]) -> tuple[int, int]:
    return next((a, b) for a, b in zip(order, other, strict=True) if a != b)


def _stranger(names: Sequence[FileName], column: Column) -> tuple[int, int] | None:
    """The one name that begins otherwise than all others, such as an overview, and another."""
    columns = columns_of(names)
    if column not in columns:
        return None
    place = columns.index(column)
    texts = [one.text[: place + 1] for one in names]
    (usual, count), *others = Counter(texts).most_common()
    if len(others) != 1 or others[0][1] != 1 or count < 3:
        return None
    return texts.index(usual), texts.index(others[0][0])


def _alternating(names: Sequence[FileName], columns: Sequence[Column]) -> tuple[int, int] | None:
    """Two names of a series whose text, or a number in it, comes back at a fixed period.

    Files of two detectors that share one counter look so: 0001_ESB, 0002_InLens, 0003_ESB, ...
    """
    recurring = [
        column.values
        for column in columns
        if not column.is_unique and list(column.values) != sorted(column.values)
    ]
    kinds = list(zip(*recurring, *zip(*(one.text for one in names), strict=True), strict=True))
    period = len(set(kinds))
    if period < 2 or len(kinds) < 2 * period or len(set(kinds[:period])) < period:
        return None
    repeats = all(kind == kinds[index % period] for index, kind in enumerate(kinds))
    return (0, 1) if repeats else None


def possible_slice_numbers(
    names: Sequence[str], decimals: bool = False, signed: bool = False
) -> list[tuple[Number, ...]]:
    """What may be the slice number in each file's name, for files that are slices of a known stack.

    These are the numbers that differ from file to file; only those after z or slice, if any are.
    Of a single file it is the number after z or slice, or the only one.

    Args:
        names: of the files.
        decimals: the slices of the stack have numbers with decimals.
        signed: the slices of the stack have negative numbers.

    Returns:
        One tuple for each possibility, in the order of the names; empty where names give none.
    """
    if not names:
        return []
    whole, decimal = split_names(names), split_names(names, decimals=True)
    has_decimals = any(
        not part.is_whole and not part.is_time for one in decimal for part in one.parts
    )
    readings = [whole]
    if has_decimals and (decimals or _is_surely_decimal(decimal)):
        readings = [decimal]
    if signed:
        readings = [*map(read_hyphens_as_minus, readings), *readings]
    found = [numbers for reading in readings for numbers in _candidates(reading)]
    return list(dict.fromkeys(found))


def _candidates(names: Sequence[FileName]) -> list[tuple[Number, ...]]:
    columns = columns_of(names)
    if len(names) == 1:
        columns = [column for column in columns if not column.is_time] or columns
    marked = [column for column in marked_columns(names) if column.is_unique]
    different = marked or [column for column in columns if column.is_unique]
    different.sort(key=lambda column: not column.is_time)
    return [column.values for column in different] if len(names) > 1 or len(different) == 1 else []
