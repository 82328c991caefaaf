"""What to do about file names that give no order, in sentences."""

from collections.abc import Sequence

from sparsem.io.readers.file_order import NameFault, SeriesOrder
from sparsem.io.readers.patterns import pattern_for_one_kind


def name_fault_message(found: SeriesOrder, names: Sequence[str], where: str, folder: str) -> str:
    """Say why names give no order, and what to do.

    Args:
        found: the fault.
        names: of the files.
        where: the source, for people.
        folder: of the files, for a pattern.
    """
    one, other = (names[index] for index in found.pair)
    same = f"{one} and {other} in {where} carry the same slice number, {found.same}"
    kind = pattern_for_one_kind(names, found.pair)
    example = f", such as '{folder}/{kind}'" if kind else ""
    pattern = f"a pattern in quotes{example}"
    move = f"or name the files of one stack with {pattern}"
    match found.fault:
        case NameFault.CHANNEL if found.same is not None:
            asked = "which channel, detector, tile or time is wanted?"
            return f"{same}: {asked} Name its files with {pattern}."
        case NameFault.CHANNEL:
            return (
                f"{one} and {other} in {where} look like channels, detectors or tiles of one slice: "
                f"which one is wanted? Name its files with {pattern}; images that are no stack come "
                "in with import --montage."
            )
        case NameFault.SAME_NUMBER if found.same is not None:
            return f"{same}: keep one of them in the folder, {move}."
        case NameFault.SAME_NAME:
            alike = f"{one} and {other} in {where} have the name of one slice"
            return f"{alike}: keep one of them in the folder, {move}."
        case NameFault.NO_NUMBER:
            bare = f"{one} in {where} carries no slice number, but {other} does"
            return f"{bare}: move it out of the folder, {move}."
        case NameFault.CONTRADICTION:
            return (
                f"The names in {where} do not say whether {one} or {other} comes first: write z before "
                "the slice number (z0001), or rename the files so that only that number differs."
            )
        case NameFault.DECIMAL:
            return (
                f"The numbers of {one} and {other} in {where} can be decimals or pairs of whole numbers, "
                "which gives different orders: write all of them with the same number of digits."
            )
    unlike = f"{one} and {other} in {where} are not named alike"
    return f"{unlike}, so that their order is not clear: rename one or move it away, {move}."
