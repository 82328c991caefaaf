"""Labels of every slice, made elsewhere: whether they are a mask or numbers of objects, and how these are stored."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsem.annotation.renumbering import (
    Labels,
    Numbers,
    Renumbering,
    SpecialNumbers,
    distinct_numbers,
    identity_renumbering,
    integer_labels,
    make_renumbering,
    refuse_interpolated_mask,
)
from sparsem.geometry import ZBlock
from sparsem.io.ingest import ImportSettings
from sparsem.io.readers.source import Source, Stack
from sparsem.progress import tell
from sparsem.store.sample import Sample
from sparsem.workflow.stage import BlockResult

WIDE_BYTES = 8  # numbers of this width may be beyond 32 bits
USUAL_MASK = (1, 255)  # numbers of the structure in most masks


@dataclass(frozen=True, eq=False)
class LabelInterpretation:
    """How a volume of labels is understood.

    Attributes:
        is_mask: all that is not 0 is the structure; else every number is an object.
        value: the only number but 0 of a mask; None where that was not looked for or there is none.
        background: a number that is background in addition to 0.
        may_be_smeared: nothing is said about what the numbers mean, so gray levels between two numbers would pass for labels.
        renumbering: from numbers of the file to stored ones.
        title: the file, for messages.
    """

    is_mask: bool
    value: int | None
    background: int | None
    may_be_smeared: bool
    renumbering: Renumbering
    title: str

    def __str__(self) -> str:
        if self.is_mask:
            return "a mask" if self.value is None else f"a mask (value {self.value})"
        return (
            "objects by number"
            if self.renumbering.is_identity
            else "objects by number, renumbered from 1"
        )

    def of_file(self, block: ZBlock, stack: Stack) -> Numbers:
        """Numbers (z, y, x) of a block as they are in the file, 0 for background.

        Raises:
            InputError: these are no labels; the slice is named.
        """
        special = SpecialNumbers(background=self.background, option="--background")
        slices = []
        for z, stored in zip(
            range(block.start, block.stop), np.asarray(stack[block.own]), strict=True
        ):
            where = f"slice {z} of {self.title}"
            numbers = integer_labels(stored, where, special)
            if self.background is not None:
                numbers = np.where(numbers == self.background, 0, numbers).astype(numbers.dtype)
            if self.may_be_smeared:
                refuse_interpolated_mask(numbers, where, "--label-type objects")
            slices.append(numbers)
        return np.stack(slices)

    def labels(self, block: ZBlock, stack: Stack) -> Labels:
        """Labels (z, y, x) of a block as they are stored: uint8 of a mask, uint32 of objects."""
        numbers = self.of_file(block, stack)
        return (numbers != 0).astype(np.uint8) if self.is_mask else self.renumbering.of(numbers)


def detect_label_type(
    found: Source, blocks: Sequence[ZBlock], settings: ImportSettings, quiet: bool
) -> LabelInterpretation:
    """How labels of every slice are to be understood: one number is a mask, several are objects, unless settings say which.

    Numbers that may be beyond 32 bits are all read for that, a block at a time.

    Raises:
        InputError: these are no labels.
    """
    unread = LabelInterpretation(
        settings.label_type == "mask",
        None,
        settings.background,
        settings.label_type is None,
        identity_renumbering(),
        found.title,
    )
    is_wide = found.stack.dtype.itemsize >= WIDE_BYTES and settings.label_type != "mask"
    if settings.label_type is not None and not is_wide:
        return unread
    numbers: set[int] = set()
    for block in blocks:
        numbers |= distinct_numbers(unread.of_file(block, found.stack)) - {0}
        if len(numbers) > 1 and not is_wide:
            break
    is_mask = settings.label_type is None and len(numbers) <= 1
    value = max(numbers, default=None) if is_mask else None
    _report(found.title, is_mask, value, quiet)
    renumbering = identity_renumbering() if is_mask else make_renumbering(numbers)
    return LabelInterpretation(
        is_mask, value, settings.background, unread.may_be_smeared, renumbering, found.title
    )


def _report(title: str, is_mask: bool, value: int | None, quiet: bool) -> None:
    """Report a mask that may be meant otherwise."""
    if is_mask and value is None:
        tell(f"Note: {title} holds no labels, every voxel is 0.", quiet)
    elif is_mask and value not in USUAL_MASK:
        tell(
            f"Note: all labels of {title} have the number {value}: read as a mask. --label-type objects makes it one object.",
            quiet,
        )


def labels_block(
    block: ZBlock, stack: Stack, path: str, reading: LabelInterpretation
) -> BlockResult:
    """A block of labels for the volume at ``path``."""
    return {path: reading.labels(block, stack)}, {}


def write_renumbering_table(sample: Sample, table: str, renumbering: Renumbering) -> None:
    """Write the table of stored numbers and those of the file; remove it where they are the same."""
    if renumbering.is_identity:
        sample.remove_table(table)
    else:
        sample.write_table(table, renumbering.table())
