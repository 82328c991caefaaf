"""Sentences about file names that give no order, and what to do about them."""

from collections.abc import Sequence

from sparsem.io.readers.file_order import NameFault, SeriesOrder
from sparsem.io.readers.patterns import pattern_for_one_kind


def name_fault_message(order: SeriesOrder, names: Sequence[str], where: str, folder: str) -> str:
    """Return why names give no order, and what to do.

    Args:
        order: the fault.
        names: of the files.
        where: the source, for messages.
        folder: of the files, for a pattern.
    """
    first, second = (names[index] for index in order.pair)
    kind = pattern_for_one_kind(names, order.pair)
    example = f", such as '{folder}/{kind}'" if kind else ""
    pattern = f"a pattern in quotes{example}"
    keep_one = f"keep one of them in the folder, or name the files of one stack with {pattern}"
    same_number = f"{first} and {second} in {where} carry the same slice number, {order.same}"
    match order.fault:
        case NameFault.CHANNEL if order.same is not None:
            return (
                f"{same_number}: which channel, detector, tile or time is wanted? "
                f"Name its files with {pattern}."
            )
        case NameFault.CHANNEL:
            return (
                f"{first} and {second} in {where} look like channels, detectors or tiles of one "
                f"slice: which one is wanted? Name its files with {pattern}; "
                "images that form no stack are imported with import --montage."
            )
        case NameFault.SAME_NUMBER if order.same is not None:
            return f"{same_number}: {keep_one}."
        case NameFault.SAME_NAME:
            return f"{first} and {second} in {where} have the name of one slice: {keep_one}."
        case NameFault.NO_NUMBER:
            return (
                f"{first} in {where} carries no slice number, but {second} does: "
                f"move it out of the folder, or name the files of one stack with {pattern}."
            )
        case NameFault.CONTRADICTION:
            return (
                f"The names in {where} do not say whether {first} or {second} comes first: "
                "write z before the slice number (z0001), or rename the files so that only that "
                "number differs."
            )
        case NameFault.DECIMAL:
            return (
                f"The numbers of {first} and {second} in {where} can be decimals or pairs of whole "
                "numbers, which gives different orders: write all of them with the same number of "
                "digits."
            )
    return (
        f"{first} and {second} in {where} have names of different forms, so that their order is "
        f"not clear: rename one or move it away, or name the files of one stack with {pattern}."
    )
