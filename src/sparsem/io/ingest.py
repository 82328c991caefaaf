"""Import: a stack in any format that has a reader -> the raw image of a sample."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsem.errors import InputError
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.io.gray_levels import GrayMapping, gray_mapping, refuse_non_finite
from sparsem.io.readers.gaps import missing_numbers
from sparsem.io.readers.open import open_montage, open_source
from sparsem.io.readers.series import repeat_missing_slices
from sparsem.io.readers.source import Source, Stack
from sparsem.io.settings import ImportSettings
from sparsem.progress import print_note
from sparsem.settings import resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, VolumeSpec, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

SQUARE_TOLERANCE = 0.05  # fraction by which y and x of square pixels may differ
SAME_TOLERANCE = 0.02  # fraction by which two equal voxel lengths may differ
PLAUSIBLE_NM = (0.5, 1000)  # usual edges of a voxel in electron microscopy
MAX_LISTED_SLICES = 6  # missing slices that a message names


def import_stack(
    source: str | Path,
    path: str | Path,
    settings: ImportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Sample:
    """Copy a stack into ``path`` as the raw image of a sample, block by block.

    The source is not changed.

    Args:
        source: file, folder or glob; see ``open_source``.
        path: the sample to create, by convention called NAME.zarr.
        settings: voxel size where the format has none, block depth.
        on: how the work is spread.
        changes: single fields of the settings.

    Returns:
        The sample. Its raw image is (z, y, x), uint8 or uint16. Other numbers are mapped to gray
        levels (see ``gray_mapping``), and the history records how.

    Raises:
        InputError: the source cannot be read, lacks slices, has names that give no order, holds
            values that are not numbers, or states no voxel size and none was given; the given
            pixels are not square.
        ResumeError: the sample holds another import.
    """
    settings = resolve_settings(ImportSettings, settings, changes)
    _refuse_label_options(settings)
    opened = open_import_source(source, settings)
    voxel = stated_voxel_size(opened, settings, str(source), on.quiet)
    report_reading(opened, settings, on.quiet)
    depth = 1 if settings.montage else min(settings.block_depth, opened.stack.shape[0])
    gray = gray_mapping(opened, settings.intensity_range, settings.bits)
    output = _raw_image_spec(opened, gray, voxel, depth)
    if not gray.unchanged:
        print_note(f"Gray levels of {source}: {gray}.", on.quiet)
    inputs = _recorded_inputs(opened, gray)
    needs = _import_needs(opened.stack, output)
    sample = Sample.create(path)
    with Stage(sample, "import", settings, inputs, [output], on, needs) as stage:
        blocks = z_blocks(output.shape[0], depth)
        stage.map(_import_block, blocks, opened.stack, gray, opened.files[0].name)
    return sample


def _refuse_label_options(settings: ImportSettings) -> None:
    """Refuse options that only labels have."""
    for name in ("label_type", "background"):
        if getattr(settings, name) is not None:
            raise InputError(
                f"--{name.replace('_', '-')} is for labels; "
                "give the name of their structure as --as-labels NAME, or leave it out."
            )


def _raw_image_spec(source: Source, gray: GrayMapping, voxel: VoxelSize, depth: int) -> VolumeSpec:
    """Return the description of the raw image that the import writes."""
    z, y, x = source.stack.shape
    spec = volume_spec("", (z, y, x), gray.dtype, Kind.IMAGE, voxel, depth)
    names: tuple[str, ...] = ()
    if len(source.files) == z:
        names = tuple(file.stem for file in source.files)
    return replace(
        spec, numbers=source.numbers, repeated=source.repeated, names=names, sizes=source.sizes
    )


def _recorded_inputs(source: Source, gray: GrayMapping) -> dict[str, str]:
    """Return what the history records about the source."""
    inputs = {"source": source.identity(), "files": source.title}
    if not gray.unchanged:
        inputs["gray levels"] = str(gray)
    if source.missing:  # otherwise it would have been refused
        inputs["filled"] = "; ".join(parts.note for parts in source.missing)
    return inputs


def _import_needs(stack: Stack, output: VolumeSpec) -> Needs:
    """Return the memory and disk that the import takes, in bytes."""
    depth = output.block_depth
    _, y, x = output.shape
    # Per voxel: the numbers that are read, those that are written, their pyramid and their chunks.
    bytes_per_voxel = stack.dtype.itemsize + 3 * output.dtype.itemsize
    return Needs(
        ram=y * x * (depth * bytes_per_voxel + 24),
        disk=output.nbytes,
        smaller="a smaller --block-depth needs less",
    )


def _import_block(block: ZBlock, stack: Stack, gray: GrayMapping, name: str) -> BlockResult:
    voxels = np.asarray(stack[block.own])
    refuse_non_finite(voxels, name, block.start)
    return {"": gray.apply(voxels)}, {}


def open_import_source(
    source: str | Path, settings: ImportSettings, labels: bool = False
) -> Source:
    """Open the stack, of an image or of labels, that the settings select.

    Missing slices of a series are repeated or left out as the settings say.

    Raises:
        InputError: as ``open_source``, and for missing slices if the settings do not handle them.
    """
    if settings.montage:
        _refuse_stack_options(settings)
        return open_montage(source, settings.min_is_white)
    opened = open_source(
        source,
        settings.dataset,
        settings.channel,
        settings.time,
        labels,
        min_is_white=settings.min_is_white,
        mrc_bytes=settings.mrc_bytes,
        fill_missing=settings.missing == "fill",
    )
    missing = missing_numbers(opened.numbers)
    if not missing or settings.missing == "join":
        return opened
    if settings.missing == "repeat":
        return repeat_missing_slices(opened)
    raise InputError(_missing_slices_error(str(source), missing))


def _refuse_stack_options(settings: ImportSettings) -> None:
    """Refuse options of a montage that only stacks have."""
    names = ("dataset", "channel", "time", "mrc_bytes")
    given = [name for name in names if getattr(settings, name) is not None]
    if settings.missing != "refuse":
        given.append("missing")
    if given:
        option = given[0].replace("_", "-")
        raise InputError(
            f"--montage reads files as they are; leave out --{option}, which is for stacks."
        )


def _missing_slices_error(source: str, missing: Sequence[float]) -> str:
    """Return the sentence that refuses a series with gaps."""
    listed = ", ".join(map(str, missing[:MAX_LISTED_SLICES]))
    if len(missing) > MAX_LISTED_SLICES:
        listed += f" and {len(missing) - MAX_LISTED_SLICES} more"
    if len(missing) == 1:
        subject, pronoun = f"slice {listed} of the series is", "it"
    else:
        subject, pronoun = f"slices {listed} of the series are", "them"
    return (
        f"{source}: {subject} missing; put {pronoun} back, or use --missing repeat "
        "(a copy of the slice before replaces each) or --missing join "
        "(the slices around a gap become neighbors)."
    )


def report_reading(source: Source, settings: ImportSettings, quiet: bool) -> None:
    """Report how a source was read, where it can be read in another way, and what was filled."""
    for note in source.notes:
        print_note(f"Note: {note}", quiet)
    if source.order_note:
        print_note(f"Note: {source.order_note}", quiet)
    if settings.missing == "fill":
        for parts in source.missing:
            print_note(f"Note: {parts.note}.", quiet)
    if source.repeated:
        numbers = ", ".join(str(source.numbers[z]) for z in source.repeated)
        print_note(
            f"Note: missing in the series, and replaced by a copy of the slice before: {numbers}.",
            quiet,
        )


def stated_voxel_size(
    source: Source, settings: ImportSettings, title: str, quiet: bool
) -> VoxelSize:
    """Return the voxel size as the settings or the file state it, and warn of unusual ones.

    Args:
        source: the stack.
        settings: ``voxel_nm`` overrides the file.
        title: the source, for messages.
        quiet: print no notes.

    Raises:
        InputError: neither states it, or the settings give pixels that are not square without
            ``non_square_pixels``.
    """
    voxel = source.voxel_size(settings.voxel_nm)
    if not _has_square_pixels(voxel):
        if settings.voxel_nm is None:
            edges = f"y is {voxel.y:g} nm, x is {voxel.x:g} nm"
            print_note(f"Note: {title} states pixels that are not square: {edges}.", quiet)
        elif not settings.non_square_pixels and _differs_from_file(source, voxel, "yx"):
            raise InputError(_non_square_error(voxel))
    if settings.montage:
        voxel = voxel._replace(z=voxel.y)  # an image has no depth; this keeps its voxels even
    if _differs_from_file(source, voxel, "zyx", unknown_differs=False):
        stated = _format_lengths(source.voxel_nm)
        print_note(
            f"Note: {title} states a voxel of {stated} nm (z y x); the {_format_lengths(voxel)} nm "
            "that were given are used.",
            quiet,
        )
    _report_unusual_size(voxel, quiet)
    return voxel


def _report_unusual_size(voxel: VoxelSize, quiet: bool) -> None:
    """Warn of a voxel whose edges are unusual for electron microscopy."""
    if not PLAUSIBLE_NM[0] <= min(voxel) <= max(voxel) <= PLAUSIBLE_NM[1]:
        print_note(
            f"Note: a voxel of {_format_lengths(voxel)} nm (z y x) is unusual for electron "
            "microscopy; is it in nm?",
            quiet,
        )


def _has_square_pixels(voxel: VoxelSize) -> bool:
    return abs(voxel.y / voxel.x - 1) <= SQUARE_TOLERANCE


def _differs_from_file(
    source: Source, voxel: VoxelSize, axes: str, unknown_differs: bool = True
) -> bool:
    """Return whether the file states other lengths than ``voxel`` along some axes.

    Args:
        source: the stack.
        voxel: the lengths to compare with.
        axes: the axes to compare, of z, y and x.
        unknown_differs: count a length that the file does not state as a difference.
    """
    for axis in axes:
        stated = source.voxel_nm["zyx".index(axis)]
        used = voxel["zyx".index(axis)]
        if stated is None:
            if unknown_differs:
                return True
        elif abs(stated / used - 1) > SAME_TOLERANCE:
            return True
    return False


def _non_square_error(voxel: VoxelSize) -> str:
    """Return the sentence that refuses pixels that are not square, with the likely order."""
    z, y, x = voxel
    guess = "."
    for reordered in (VoxelSize(x, z, y), VoxelSize(y, z, x)):
        if _has_square_pixels(reordered):
            lengths = f"{reordered.z:g} {reordered.y:g} {reordered.x:g}"
            guess = f": did you mean --voxel-nm {lengths}?"
            break
    return (
        f"--voxel-nm {z:g} {y:g} {x:g} has pixels that are not square: "
        f"y is {y:g} nm, x is {x:g} nm. The order is z y x{guess} "
        "If the pixels are not square, add --non-square-pixels."
    )


def _format_lengths(lengths: Sequence[float | None]) -> str:
    return " x ".join("?" if length is None else f"{length:g}" for length in lengths)
