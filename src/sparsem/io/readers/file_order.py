"""The order of a series of files, from the numbers in their names.

A number that is the same in all names (a voxel size, bits, a sample) is not the number of a slice.
Names that support no order give a fault: no order is guessed.
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
    NamePart,
    Number,
    find_copy,
    read_hyphens_as_minus,
    split_names,
)
from sparsem.io.readers.gaps import counts_slices, is_complete, is_nearly_complete
from sparsem.io.readers.name_columns import Column, columns_of, marked_columns

# With fewer similar names, it is not clear which one differs from all others.
MIN_SIMILAR_NAMES = 3


class NameFault(Enum):
    """Reasons why names give no order."""

    SAME_NUMBER = "two files carry the same number"
    SAME_NAME = "two names differ in their ending, in letter case or as copies do"
    CHANNEL = "names differ in a channel only, or alternate between channels"
    NO_NUMBER = "one file carries no number, others do"
    UNLIKE = "names carry different counts of numbers, or one has other text than all others"
    CONTRADICTION = "numbers, or numbers and text, give different orders"
    DECIMAL = "numbers with decimals or pairs of numbers give different orders"


@dataclass(frozen=True)
class SeriesOrder:
    """The order of the files of a series, or why there is none.

    Attributes:
        order: indices of the names, in the order of the slices.
        numbers: of the slices, in that order; empty where names carry none.
        fault: why names give no order; files are in natural order then.
        pair: indices of two names that show the fault.
        same: the number that both carry.
        note: how the names were interpreted, if this may be wrong.
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
        possible = possible_slice_numbers(names)
        return SeriesOrder((0,), possible[0] if possible else ())
    order = _best_order(names)
    if order.fault:
        dated_names = split_names(names, time=DATED_ONLY)
        order_by_time = _order_of(dated_names)
        has_times = any(part.is_time for part in dated_names[0].parts)
        if has_times and not order_by_time.fault:
            order = order_by_time
    if order.fault in (None, NameFault.UNLIKE):
        copy = find_copy(names)
        if copy:
            return replace(order, fault=NameFault.SAME_NAME, pair=copy)
    return order


def _best_order(names: Sequence[str]) -> SeriesOrder:
    """Return the order by whole numbers or by decimals, whichever the names support."""
    by_whole = _order_of(split_names(names))
    decimal_names = split_names(names, decimals=True)
    if not _decimal_parts(decimal_names):
        return by_whole
    values = [value for name in decimal_names for value in name.values]
    if not all(math.isfinite(value) for value in values):
        return by_whole
    by_decimal = _order_of(decimal_names)
    if not by_decimal.fault and not _is_evenly_written(decimal_names, by_decimal.numbers):
        first, second = by_decimal.order[:2]
        by_decimal = replace(by_decimal, fault=NameFault.DECIMAL, pair=(first, second))
    if _is_surely_decimal(decimal_names):
        supports_whole = by_whole.fault or is_complete(by_whole.numbers)
        return by_whole if by_decimal.fault and supports_whole else by_decimal
    return _more_likely_order(by_whole, by_decimal)


def _more_likely_order(by_whole: SeriesOrder, by_decimal: SeriesOrder) -> SeriesOrder:
    """Return the order whose numbers are complete; a fault if the two are equally likely."""
    if by_decimal.fault:
        return by_whole
    if by_whole.fault:
        return by_decimal if is_nearly_complete(by_decimal.numbers) else by_whole
    whole_complete = bool(by_whole.numbers) and is_complete(by_whole.numbers)
    decimal_complete = bool(by_decimal.numbers) and is_complete(by_decimal.numbers)
    if decimal_complete and not whole_complete:
        return by_decimal
    if by_whole.order == by_decimal.order or whole_complete != decimal_complete:
        return by_whole
    pair = _first_difference(by_whole.order, by_decimal.order)
    return replace(by_decimal, fault=NameFault.DECIMAL, pair=pair)


def _decimal_parts(names: Sequence[FileName]) -> list[NamePart]:
    """Return the numbers that are written with decimals."""
    return [part for name in names for part in name.parts if not part.is_whole and not part.is_time]


def _is_surely_decimal(names: Sequence[FileName]) -> bool:
    """Return whether z, slice or a unit of length marks all numbers written with decimals."""
    return all(part.is_slice or part.has_unit for part in _decimal_parts(names))


def _is_evenly_written(names: Sequence[FileName], numbers: Sequence[Number]) -> bool:
    """Return whether numbers are written as decimals are.

    1.9 and 1.10 are not, and neither are 003 and 003.1.
    """
    if not numbers:
        return False
    for column in columns_of(names):
        if column.is_constant or column.is_whole or column.is_time:
            continue
        if not _is_evenly_written_column(column, numbers):
            return False
    return True


def _is_evenly_written_column(column: Column, numbers: Sequence[Number]) -> bool:
    """Return whether all numbers of a column have one count of decimals, or can have several."""
    written = [re.sub("[,p]", ".", part.written) for part in column.parts]
    fractions = [text.partition(".")[2] for text in written if "." in text]
    shortest = min(map(len, fractions), default=0)
    if any(len(text) > shortest and text.endswith("0") for text in fractions):
        return False
    is_mixed = len(fractions) < len(written)
    has_padded = any(part.is_padded for part in column.parts)
    fits = is_complete(numbers) if has_padded else is_nearly_complete(numbers)
    return not is_mixed or fits


def _order_of(names: Sequence[FileName]) -> SeriesOrder:
    """Return the order of names that were split in one mode."""
    natural = tuple(sorted(range(len(names)), key=lambda index: names[index].key))
    sorted_names = [names[index] for index in natural]
    order = _order_by_marks(sorted_names) or _order_without_marks(sorted_names)
    first, second = order.pair
    order = replace(
        order,
        order=tuple(natural[index] for index in order.order),
        pair=(natural[first], natural[second]),
    )
    if order.fault:
        return replace(order, order=natural, numbers=())
    if order.numbers and min(order.numbers) < 0:
        return replace(order, note="numbers after a hyphen are read as negative")
    return order


def _order_by_marks(names: Sequence[FileName]) -> SeriesOrder | None:
    """Return the order by numbers after z or slice; None if these do not distinguish slices."""
    marked = marked_columns(names)
    varying = [column for column in marked if not column.is_constant]
    unique = [column for column in varying if column.is_unique]
    if unique:
        return _order_by_unique_marks(names, unique)
    if varying:
        return _same_number(names, varying[0])
    constant = [column for column in marked if not any(part.has_unit for part in column.parts)]
    others = [column for column in columns_of(names) if column.is_unique and not column.is_channel]
    return _same_number(names, constant[0]) if constant and not others else None


def _order_by_unique_marks(names: Sequence[FileName], unique: Sequence[Column]) -> SeriesOrder:
    """Return the order by marked numbers that all distinguish slices; they have to agree."""
    for column in unique:
        if column.order != unique[0].order:
            return _contradiction(unique[0].order, column.order)
    slice_column = next((column for column in unique if column.is_whole), unique[0])
    return _order_by_column(names, slice_column)


def _order_without_marks(names: Sequence[FileName]) -> SeriesOrder:
    """Return the order by the one number that distinguishes slices.

    It has to be the natural order, in which the names are given.
    """
    natural = tuple(range(len(names)))
    if len({len(name.parts) for name in names}) > 1:
        return _unlike(names)
    columns = [column for column in columns_of(names) if not column.is_constant]
    if not columns:
        note = "the names carry no slice number; the order is alphabetical"
        return SeriesOrder(natural, note=note)
    channels = _channel_columns(names)
    if any(not column.is_unique for column in channels) or len(columns) == len(channels):
        return _same_or_channel(names, columns, channels)
    unique = [column for column in columns if column.is_unique and column not in channels]
    if not unique:
        return _same_number(names, _most_varied(columns))
    return _order_by_unmarked(names, columns, _most_likely_slices(unique))


def _order_by_unmarked(
    names: Sequence[FileName], columns: Sequence[Column], slice_column: Column
) -> SeriesOrder:
    """Return the order by a number that distinguishes slices, or what contradicts it."""
    natural = tuple(range(len(names)))
    outlier = _outlier(names, slice_column)
    if outlier:
        return SeriesOrder(natural, fault=NameFault.UNLIKE, pair=outlier)
    if slice_column.order != natural:
        return _contradiction(natural, slice_column.order)
    pair = _alternating(names, columns)
    if pair:
        return SeriesOrder(natural, fault=NameFault.CHANNEL, pair=pair)
    return _order_by_column(names, slice_column)


def _most_likely_slices(columns: Sequence[Column]) -> Column:
    """Return the column that most likely counts slices: the last one without too many gaps."""
    counting = [column for column in columns if counts_slices(column.values)]
    without_times = [column for column in columns if not column.is_time]
    return (counting or without_times or columns)[-1]


def _order_by_column(names: Sequence[FileName], column: Column) -> SeriesOrder:
    """Return the order by the numbers of one column."""
    outlier = _outlier(names, column)
    if outlier:
        return SeriesOrder(column.order, fault=NameFault.UNLIKE, pair=outlier)
    numbers = tuple(column.values[index] for index in column.order)
    note = ""
    if column.is_time:
        note = "the names carry no slice number; the order is that of dates and times"
    elif column.is_after_hyphen and min(numbers) > 0:
        note = "hyphens before the numbers are read as separators, not as minus signs"
    return SeriesOrder(column.order, numbers, note=note)


def _channel_columns(names: Sequence[FileName]) -> list[Column]:
    """Return varying numbers after channel, tile or the like, and those that directly follow them.

    A number follows directly if only a hyphen, an x or a comma separates it.
    """
    channels: list[Column] = []
    after_channel = False
    for column in columns_of(names):
        follows = all(part.before in ("-", "x", ",") for part in column.parts)
        after_channel = column.is_channel or (after_channel and follows)
        if after_channel and not column.is_constant and not column.is_slice:
            channels.append(column)
    return channels


def _same_or_channel(
    names: Sequence[FileName], columns: Sequence[Column], channels: Sequence[Column]
) -> SeriesOrder:
    """Return the fault of several channels of slices, or of one image."""
    repeated = [column for column in columns if column not in channels and not column.is_unique]
    if repeated:
        return _same_number(names, _most_varied(repeated))
    values = channels[-1].values
    second = next(index for index, value in enumerate(values) if value != values[0])
    return SeriesOrder((), fault=NameFault.CHANNEL, pair=(0, second))


def _most_varied(columns: Sequence[Column]) -> Column:
    """Return the column that most likely counts slices, where a slice has several files."""
    without_times = [column for column in columns if not column.is_time]
    return max(without_times or columns, key=lambda column: len(set(column.values)))


def _same_number(names: Sequence[FileName], column: Column) -> SeriesOrder:
    """Return the fault of two files with the same number in a column."""
    first, second = column.first_duplicate()
    counts = set(Counter(column.values).values())
    has_equal_counts = len(counts) == 1
    has_channels = len(names) > max(counts) or bool(_channel_columns(names))
    differs = names[first].key != names[second].key
    is_channel = has_equal_counts and has_channels and differs
    fault = NameFault.CHANNEL if is_channel else NameFault.SAME_NUMBER
    return SeriesOrder((), fault=fault, pair=(first, second), same=column.values[first])


def _unlike(names: Sequence[FileName]) -> SeriesOrder:
    """Return the fault of names with different counts of numbers.

    The pair is a name without numbers, a name with a number more, or any two, and another name.
    """
    n_parts = [len(name.parts) for name in names]
    if 0 in n_parts:
        bare = n_parts.index(0)
        numbered = next(index for index, count in enumerate(n_parts) if count)
        return SeriesOrder((), fault=NameFault.NO_NUMBER, pair=(bare, numbered))
    extended = _extended_name(names)
    if extended:
        return extended
    frequency = Counter(n_parts)
    usual = max(frequency, key=lambda count: (frequency[count], -count))
    typical = n_parts.index(usual)
    unusual = next(index for index, count in enumerate(n_parts) if count != usual)
    return SeriesOrder((), fault=NameFault.UNLIKE, pair=(typical, unusual))


def _extended_name(names: Sequence[FileName]) -> SeriesOrder | None:
    """Return the fault of a name with the numbers of another and one more; None without one."""
    index_of = {name.values: index for index, name in enumerate(names)}
    for index, name in enumerate(names):
        for shorter in (name.values[:-1], name.values[1:]):
            if shorter not in index_of:
                continue
            pair = (index_of[shorter], index)
            if len(shorter) == 1:
                return SeriesOrder((), fault=NameFault.SAME_NUMBER, pair=pair, same=shorter[0])
            return SeriesOrder((), fault=NameFault.UNLIKE, pair=pair)
    return None


def _contradiction(order: Sequence[int], other_order: Sequence[int]) -> SeriesOrder:
    """Return the fault of two numbers that give different orders."""
    pair = _first_difference(order, other_order)
    return SeriesOrder((), fault=NameFault.CONTRADICTION, pair=pair)


def _first_difference(order: Sequence[int], other_order: Sequence[int]) -> tuple[int, int]:
    """Return the first two indices in which two orders differ."""
    pairs = zip(order, other_order, strict=True)
    return next((first, second) for first, second in pairs if first != second)


def _outlier(names: Sequence[FileName], column: Column) -> tuple[int, int] | None:
    """Return a usual name and the only one with another beginning, such as an overview."""
    columns = columns_of(names)
    if column not in columns:
        return None
    position = columns.index(column)
    texts = [name.text[: position + 1] for name in names]
    (usual, count), *others = Counter(texts).most_common()
    if len(others) != 1 or count < MIN_SIMILAR_NAMES:
        return None
    unusual, unusual_count = others[0]
    if unusual_count != 1:
        return None
    return texts.index(usual), texts.index(unusual)


def _alternating(names: Sequence[FileName], columns: Sequence[Column]) -> tuple[int, int] | None:
    """Return two names of a series whose text, or a number in it, recurs at a fixed period.

    Files of two detectors that share one counter look so: 0001_ESB, 0002_InLens, 0003_ESB, ...
    """
    kinds = _kinds_of(names, columns)
    period = len(set(kinds))
    if period < 2 or len(kinds) < 2 * period or len(set(kinds[:period])) < period:
        return None
    repeats = all(kind == kinds[index % period] for index, kind in enumerate(kinds))
    return (0, 1) if repeats else None


def _kinds_of(names: Sequence[FileName], columns: Sequence[Column]) -> list[tuple[object, ...]]:
    """Return the text of every name, with the numbers in it that are not ascending."""
    recurring_values = [
        column.values
        for column in columns
        if not column.is_unique and list(column.values) != sorted(column.values)
    ]
    texts = zip(*(name.text for name in names), strict=True)
    return list(zip(*recurring_values, *texts, strict=True))


def possible_slice_numbers(
    names: Sequence[str], decimals: bool = False, signed: bool = False
) -> list[tuple[Number, ...]]:
    """Return what may be the slice number in the names of files that are slices of a known stack.

    These are the numbers that differ from file to file; only those after z or slice, if there are
    any. For a single file it is the number after z or slice, or the only one.

    Args:
        names: of the files.
        decimals: the slices of the stack have numbers with decimals.
        signed: the slices of the stack have negative numbers.

    Returns:
        One tuple for each possibility, in the order of the names; empty where names give none.
    """
    if not names:
        return []
    decimal_names = split_names(names, decimals=True)
    has_decimals = bool(_decimal_parts(decimal_names))
    if has_decimals and (decimals or _is_surely_decimal(decimal_names)):
        readings = [decimal_names]
    else:
        readings = [split_names(names)]
    if signed:
        readings = [*map(read_hyphens_as_minus, readings), *readings]
    possible = [numbers for reading in readings for numbers in _varying_numbers(reading)]
    return list(dict.fromkeys(possible))


def _varying_numbers(names: Sequence[FileName]) -> list[tuple[Number, ...]]:
    """Return the numbers that differ from name to name, times first."""
    columns = columns_of(names)
    if len(names) == 1:
        columns = [column for column in columns if not column.is_time] or columns
    marked = [column for column in marked_columns(names) if column.is_unique]
    varying = marked or [column for column in columns if column.is_unique]
    varying.sort(key=lambda column: not column.is_time)
    if len(names) == 1 and len(varying) != 1:
        return []
    return [column.values for column in varying]
