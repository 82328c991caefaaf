"""Import of labels of every slice that another program made, as a mask or as numbered objects."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparsem.annotation.annotated_image import candidate_shapes, find_annotated_image
from sparsem.annotation.label_numbers import (
    Labels,
    Numbers,
    SpecialNumbers,
    distinct_numbers,
    integer_labels,
    refuse_interpolated_mask,
)
from sparsem.annotation.precedence import apply_precedence
from sparsem.annotation.renumbering import (
    Renumbering,
    identity_renumbering,
    make_renumbering,
    write_renumbering_table,
)
from sparsem.errors import InputError
from sparsem.geometry import VoxelSize, ZBlock, axes_hint, z_blocks
from sparsem.io.ingest import open_import_source, report_reading, stated_voxel_size
from sparsem.io.readers.placement import uncrop_segmentation
from sparsem.io.readers.source import Source, Stack
from sparsem.io.settings import ImportSettings
from sparsem.progress import print_note
from sparsem.settings import resolve_settings
from sparsem.store.names import checked_structure
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, VolumeSpec, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

WIDE_BYTES = 8  # numbers of this width may exceed 32 bits
USUAL_MASK_NUMBERS = (1, 255)  # numbers of the structure in most masks


def import_labels(
    path: str | Path,
    name: str,
    source: str | Path,
    settings: ImportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Sample:
    """Write ``labels/NAME`` from labels of every slice that another program made.

    A mask is stored as a mask, numbered objects keep their numbers (see ``renumbering`` for numbers
    beyond 32 bits). The labels belong to the newest image of their shape.

    Args:
        path: a sample, or a new one, which then holds labels and no image.
        name: name of the structure.
        source: file, folder or glob; see ``open_source``.
        settings: voxel size where neither sample nor format states one, block depth.
        on: how the work is distributed.
        changes: fields of the settings, by name.

    Raises:
        InputError: the source cannot be read, has another shape than the sample, or no voxel size
            is known.
        ResumeError: the sample has other labels of that name, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(ImportSettings, settings, changes)
    checked_structure(name)
    labels = open_import_source(source, settings, labels=True)
    sample = Sample.create(path)
    labels = uncrop_segmentation(labels, candidate_shapes(sample) if sample.has_image else [])
    target = _target_of(sample, name, labels, settings, str(source), on.quiet)
    blocks = z_blocks(target.shape[0], target.depth)
    report_reading(labels, settings, on.quiet)
    interpretation = detect_label_type(labels, blocks, settings, on.quiet)
    output = target.spec(interpretation)
    needs = _needs(labels, target, output)
    inputs = _stage_inputs(labels, target, interpretation, settings)
    with Stage(sample, f"import-{name}", settings, inputs, [output], on, needs) as stage:
        stage.map(_labels_block, blocks, labels.stack, output.path, interpretation)
    apply_precedence(sample, name, on.quiet)
    write_renumbering_table(sample, f"label_ids_{name}", interpretation.renumbering)
    return sample


@dataclass(frozen=True, eq=False)
class LabelInterpretation:
    """Interpretation of the numbers in a label volume.

    Attributes:
        is_mask: every number except 0 is the structure; if False, every number is an object.
        value: the only number except 0 in a mask; None if it was not determined, or if there is
            none.
        background: number that is background in addition to 0.
        check_interpolation: nothing states what the numbers mean, so gray levels between two
            numbers of an interpolated mask would be taken for labels.
        renumbering: mapping from the numbers of the file to the stored ones.
        title: the file, for messages.
    """

    is_mask: bool
    value: int | None
    background: int | None
    check_interpolation: bool
    renumbering: Renumbering
    title: str

    def __str__(self) -> str:
        if self.is_mask:
            return "a mask" if self.value is None else f"a mask (value {self.value})"
        if self.renumbering.is_identity:
            return "objects by number"
        return "objects by number, renumbered from 1"

    def file_numbers(self, block: ZBlock, stack: Stack) -> Numbers:
        """Return the numbers (z, y, x) of a block as they are in the file, 0 for background.

        Raises:
            InputError: a slice does not hold labels; it is named.
        """
        special = SpecialNumbers(background=self.background, option="--background")
        slices = []
        slices_in_file = np.asarray(stack[block.own])
        for z, slice_in_file in zip(range(block.start, block.stop), slices_in_file, strict=True):
            where = f"slice {z} of {self.title}"
            numbers = integer_labels(slice_in_file, where, special)
            if self.background is not None:
                numbers = np.where(numbers == self.background, 0, numbers).astype(numbers.dtype)
            if self.check_interpolation:
                refuse_interpolated_mask(numbers, where, "--label-type objects")
            slices.append(numbers)
        return np.stack(slices)

    def labels(self, block: ZBlock, stack: Stack) -> Labels:
        """Return the stored labels (z, y, x) of a block: uint8 for a mask, uint32 for objects."""
        numbers = self.file_numbers(block, stack)
        return (numbers != 0).astype(np.uint8) if self.is_mask else self.renumbering.apply(numbers)


def detect_label_type(
    labels: Source, blocks: Sequence[ZBlock], settings: ImportSettings, quiet: bool
) -> LabelInterpretation:
    """Return whether labels of every slice are a mask (one number) or objects (several numbers).

    Settings take precedence. If numbers may exceed 32 bits, all of them are read, block by block.

    Raises:
        InputError: the source does not hold labels.
    """
    stated = LabelInterpretation(
        is_mask=settings.label_type == "mask",
        value=None,
        background=settings.background,
        check_interpolation=settings.label_type is None,
        renumbering=identity_renumbering(),
        title=labels.title,
    )
    is_wide = labels.stack.dtype.itemsize >= WIDE_BYTES and settings.label_type != "mask"
    if settings.label_type is not None and not is_wide:
        return stated
    numbers = _object_numbers(labels.stack, blocks, stated, is_wide)
    is_mask = settings.label_type is None and len(numbers) <= 1
    if not is_mask:
        return replace(stated, is_mask=False, renumbering=make_renumbering(numbers))
    value = max(numbers, default=None)
    _report_unusual_mask(labels.title, value, quiet)
    return replace(stated, is_mask=True, value=value)


def _object_numbers(
    stack: Stack, blocks: Sequence[ZBlock], stated: LabelInterpretation, is_complete: bool
) -> set[int]:
    """Return the numbers of objects; if not all of them are needed, at least two of several."""
    numbers: set[int] = set()
    for block in blocks:
        numbers |= distinct_numbers(stated.file_numbers(block, stack)) - {0}
        if len(numbers) > 1 and not is_complete:
            break
    return numbers


def _report_unusual_mask(title: str, value: int | None, quiet: bool) -> None:
    """Report a mask that may have another meaning."""
    if value is None:
        print_note(f"Note: {title} holds no labels, every voxel is 0.", quiet)
    elif value not in USUAL_MASK_NUMBERS:
        print_note(
            f"Note: all labels of {title} have the number {value} and were read as a mask. With "
            "--label-type objects they are one object.",
            quiet,
        )


class _Target(NamedTuple):
    """The volume that labels are written to.

    Attributes:
        path: its path in the sample.
        shape: (z, y, x).
        voxel: voxel size.
        depth: slices of a block.
        made_on: name and fingerprint of the derived image to which the labels belong; None if they
            belong to the raw image, or if the sample has none.
        sizes: (y, x) of each image of a montage.
    """

    path: str
    shape: tuple[int, int, int]
    voxel: VoxelSize
    depth: int
    made_on: tuple[str, str] | None
    sizes: tuple[tuple[int, int], ...] = ()

    def spec(self, interpretation: LabelInterpretation) -> VolumeSpec:
        """Return the volume, with the type that the labels need."""
        dtype = np.uint8 if interpretation.is_mask else np.uint32
        spec = volume_spec(
            self.path, self.shape, dtype, Kind.LABELS, self.voxel, self.depth, self.made_on
        )
        return replace(spec, sizes=self.sizes)


def _needs(labels: Source, target: _Target, output: VolumeSpec) -> Needs:
    """Return what it takes to import labels."""
    _, y, x = target.shape
    return Needs(
        target.depth * y * x * (labels.stack.dtype.itemsize + 14) + y * x * 32,
        output.nbytes // 8,
        "a smaller --block-depth needs less",
    )


def _target_of(
    sample: Sample, name: str, labels: Source, settings: ImportSettings, where: str, quiet: bool
) -> _Target:
    """Return the volume for labels.

    Raises:
        InputError: no image of the sample has their shape, or no voxel size is known.
    """
    z, y, x = labels.stack.shape
    path = f"labels/{name}"
    if not sample.has_image:
        voxel = stated_voxel_size(labels, settings, where, quiet)
        return _Target(path, (z, y, x), voxel, min(settings.block_depth, z), None)
    image_name = find_annotated_image(sample, (z, y, x))
    if image_name is None:
        raise InputError(_other_shape_message((z, y, x), sample, where))
    image = sample.image(image_name)
    made_on = (image_name, image.fingerprint) if image_name != "raw" else None
    return _Target(path, (z, y, x), image.voxel_size, image.block_depth, made_on, image.sizes)


def _other_shape_message(shape: tuple[int, int, int], sample: Sample, where: str) -> str:
    """Return an error message that compares a shape with that of the image."""
    image_shape = sample.image().shape
    hint = axes_hint(shape, image_shape)
    return (
        f"{where} has the shape {shape}, but the image of {sample.path.name} has "
        f"{image_shape}{hint}."
    )


def _stage_inputs(
    labels: Source, target: _Target, interpretation: LabelInterpretation, settings: ImportSettings
) -> dict[str, str]:
    """Return what the stored labels depend on, for the history."""
    inputs = {
        "source": labels.identity(),
        "files": labels.title,
        "reading": str(interpretation),
    }
    if target.made_on:
        inputs["image"] = target.made_on[1]
    if settings.missing == "fill" and labels.missing:
        inputs["filled"] = "; ".join(missing.note for missing in labels.missing)
    return inputs


def _labels_block(
    block: ZBlock, stack: Stack, path: str, interpretation: LabelInterpretation
) -> BlockResult:
    """Return a block of labels for the volume at ``path``."""
    return {path: interpretation.labels(block, stack)}, {}
