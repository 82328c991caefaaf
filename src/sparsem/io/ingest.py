"""Import: a stack in any format that has a reader -> the raw image of a sample."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparsem.errors import InputError
from sparsem.geometry import VoxelSize, ZBlock, evenly_spaced, z_blocks
from sparsem.io.readers.gaps import missing_numbers
from sparsem.io.readers.open import open_montage, open_source
from sparsem.io.readers.series import repeat_missing_slices
from sparsem.io.readers.source import MinIsWhite, MrcBytes, Source, Stack
from sparsem.progress import tell
from sparsem.settings import Settings, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage

SAMPLED = 16  # slices from which the range of gray levels is taken
SQUARE = 0.05  # by which part y and x of square pixels may differ
SAME = 0.02  # by which part two voxel sizes may differ and be the same
PLAUSIBLE_NM = (0.5, 1000)  # edges of a voxel
OUTSIDE = 0.1  # percent of their pixels that lie beyond it, on either side


class ImportSettings(Settings):
    """How a stack becomes a sample."""

    voxel_nm: tuple[float, float, float] | None = Field(
        None,
        description="voxel size z y x in nm, such as 50 4 4; required where the file does not state it",
    )
    non_square_pixels: bool = Field(
        False, description="accept a voxel size whose y and x differ; the order is z y x"
    )
    dataset: str | None = Field(
        None,
        description="key of the array inside a Zarr group, an HDF5 or a MATLAB file; number of the image in a TIFF with several",
    )
    channel: int | None = Field(None, ge=0, description="of a stack with several channels")
    time: int | None = Field(None, ge=0, description="of a series of stacks")
    missing: Literal["refuse", "repeat", "join", "fill"] = Field(
        "refuse",
        description="slices that a series of files lacks: repeat puts the one before in their place, join closes the gap; "
        "chunks, pages or files that a stack lacks: fill takes them as their fill value, mostly black",
    )
    mrc_bytes: MrcBytes | None = Field(
        None,
        description="whether the bytes of an MRC file (mode 0) are signed; only where its header does not state it",
    )
    montage: bool = Field(
        False,
        description="the files are pictures of their own, of any size, and no stack: a montage, whose tiles detect looks at",
    )
    intensity_range: tuple[float, float] | None = Field(
        None,
        description="what becomes black and white; not needed for 8 and 16 bit unsigned; else 0.1 % of the pixels lie beyond either",
    )
    min_is_white: MinIsWhite | None = Field(
        None,
        description="which numbers of a 'min is white' TIFF count: stored (as napari reads them) or displayed (as in Fiji); "
        "images are taken as displayed if not given",
    )
    label_type: Literal["mask", "objects"] | None = Field(
        None,
        description="with --as-labels: mask, all but 0 is the structure, or objects, each number is one; if not given, one number is a mask",
    )
    background: int | None = Field(
        None,
        description="with --as-labels: a number that is background in addition to 0, such as -1",
    )
    bits: Literal[8, 16] | None = Field(
        None, description="8 or 16 a voxel; 8 for one byte, else 16, if not given"
    )
    block_depth: int = Field(
        16,
        ge=1,
        description="slices a z-block: the unit of work, of resuming, and of the chunks on disk",
    )


def import_stack(
    source: str | Path,
    path: str | Path,
    settings: ImportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Sample:
    """Copy a stack into ``path`` as the raw image of a sample, block by block; the source stays as it is.

    Args:
        source: file, folder or glob; see ``open_source``.
        path: the sample to make, by custom called NAME.zarr.
        settings: voxel size where the format has none, block depth.
        on: how the work is spread.

    Returns:
        The sample; its raw image is (z, y, x), uint8 or uint16; other numbers are mapped to gray levels (see ``gray_mapping``), and the history
        says how.

    Raises:
        InputError: the source cannot be read, lacks slices, has names that give no order, holds values that are not
            numbers, or states no voxel size and none was given; pixels were given that are not square.
        ResumeError: the sample holds another import.
    """
    settings = resolve_settings(ImportSettings, settings, changes)
    idle = [name for name in ("label_type", "background") if getattr(settings, name) is not None]
    if idle:
        raise InputError(
            f"--{idle[0].replace('_', '-')} is for labels; give the name of their structure as --as-labels NAME, or leave it out."
        )
    found = open_import_source(source, settings)
    voxel = stated_voxel_size(found, settings, str(source), on.quiet)
    report_reading(found, settings, on.quiet)
    z, y, x = found.stack.shape
    depth = 1 if settings.montage else min(settings.block_depth, z)
    gray = gray_mapping(found, settings)
    output = volume_spec(
        "", (z, y, x), np.uint8 if gray.top == 255 else np.uint16, Kind.IMAGE, voxel, depth
    )
    names = tuple(file.stem for file in found.files) if len(found.files) == z else ()
    output = replace(
        output, numbers=found.numbers, repeated=found.repeated, names=names, sizes=found.sizes
    )
    inputs = {"source": found.identity(), "files": found.title} | (
        {} if gray.unchanged else {"gray levels": str(gray)}
    )
    if found.missing:  # else it would have been refused
        inputs["filled"] = "; ".join(one.note for one in found.missing)
    if not gray.unchanged:
        tell(f"Gray levels of {source}: {gray}.", on.quiet)
    sizes = (
        found.stack.dtype.itemsize + 3 * output.dtype.itemsize
    )  # what is read, written, its pyramid and its chunks
    needs = Needs(
        ram=y * x * (depth * sizes + 24),
        disk=output.nbytes,
        smaller="a smaller --block-depth needs less",
    )
    sample = Sample.create(path)
    with Stage(sample, "import", settings, inputs, [output], on, needs) as stage:
        stage.map(_import_block, z_blocks(z, depth), found.stack, gray, found.files[0].name)
    return sample


def report_reading(found: Source, settings: ImportSettings, quiet: bool) -> None:
    """Report how a source was read, where another reading is possible, what was filled, and which slices are copies."""
    for note in (*found.notes, *([found.order_note] if found.order_note else [])):
        tell(f"Note: {note}", quiet)
    for missing in found.missing if settings.missing == "fill" else ():
        tell(f"Note: {missing.note}.", quiet)
    if found.repeated:
        lost = ", ".join(str(found.numbers[z]) for z in found.repeated)
        tell(
            f"Note: missing in the series, and replaced by a copy of the slice before: {lost}.",
            quiet,
        )


def stated_voxel_size(
    found: Source, settings: ImportSettings, source: str, quiet: bool
) -> VoxelSize:
    """Return the voxel size of a source, as the user or the file states it, and warn of odd ones.

    Raises:
        InputError: neither states it, or the user gave pixels that are not square without saying
            that they are so.
    """
    voxel = found.voxel_size(settings.voxel_nm)
    if not _has_square_pixels(voxel):
        if settings.voxel_nm is None:
            edges = f"y is {voxel.y:g} nm, x is {voxel.x:g} nm"
            tell(f"Note: {source} states pixels that are not square: {edges}.", quiet)
        elif not settings.non_square_pixels and _differs(found, voxel, "yx"):
            raise InputError(_non_square_sentence(voxel))
    if settings.montage:
        voxel = voxel._replace(
            z=voxel.y
        )  # a picture has no depth, so its pixels are even if they are square
    taken = _in_words(voxel)
    if _differs(found, voxel, "zyx", unknown_differs=False):
        stated = _in_words(found.voxel_nm)
        tell(
            f"Note: {source} states a voxel of {stated} nm (z y x); {taken} nm is taken, as was asked.",
            quiet,
        )
    if not PLAUSIBLE_NM[0] <= min(voxel) <= max(voxel) <= PLAUSIBLE_NM[1]:
        tell(
            f"Note: a voxel of {taken} nm (z y x) is unusual for electron microscopy; is it in nm?",
            quiet,
        )
    return voxel


def _has_square_pixels(voxel: VoxelSize) -> bool:
    return abs(voxel.y / voxel.x - 1) <= SQUARE


def _differs(found: Source, voxel: VoxelSize, axes: str, unknown_differs: bool = True) -> bool:
    """Whether the file states other lengths along some axes."""
    for axis in axes:
        stated, taken = found.voxel_nm["zyx".index(axis)], voxel["zyx".index(axis)]
        if stated is None:
            if unknown_differs:
                return True
        elif abs(stated / taken - 1) > SAME:
            return True
    return False


def _non_square_sentence(voxel: VoxelSize) -> str:
    z, y, x = voxel
    swapped = (VoxelSize(x, z, y), VoxelSize(y, z, x))
    meant = next((one for one in swapped if _has_square_pixels(one)), None)
    guess = f": did you mean --voxel-nm {meant.z:g} {meant.y:g} {meant.x:g}?" if meant else "."
    return (
        f"--voxel-nm {z:g} {y:g} {x:g} has pixels that are not square: y is {y:g} nm, x is {x:g} nm. "
        f"The order is z y x{guess} If the pixels are not square, add --non-square-pixels."
    )


def _in_words(lengths: Sequence[float | None]) -> str:
    return " x ".join("?" if length is None else f"{length:g}" for length in lengths)


def open_import_source(
    source: str | Path, settings: ImportSettings, labels: bool = False
) -> Source:
    """The stack, of an image or of labels, that settings pick of a source; in a series none is missing, or settings say what to do.

    Raises:
        InputError: as ``open_source``, and for missing slices.
    """
    if settings.montage:
        idle = [
            name
            for name in ("dataset", "channel", "time", "mrc_bytes")
            if getattr(settings, name) is not None
        ]
        if idle or settings.missing != "refuse":
            option = (idle or ["missing"])[0].replace("_", "-")
            raise InputError(
                f"--montage takes files as they are; leave out --{option}, which is for stacks."
            )
        return open_montage(source, settings.min_is_white)
    found = open_source(
        source,
        settings.dataset,
        settings.channel,
        settings.time,
        labels,
        min_is_white=settings.min_is_white,
        mrc_bytes=settings.mrc_bytes,
        fill_missing=settings.missing == "fill",
    )
    lost = missing_numbers(found.numbers)
    if not lost or settings.missing == "join":
        return found
    if settings.missing == "repeat":
        return repeat_missing_slices(found)
    listed = ", ".join(map(str, lost[:6])) + (f" and {len(lost) - 6} more" if len(lost) > 6 else "")
    which, them = (
        (f"slice {listed} of the series is", "it")
        if len(lost) == 1
        else (f"slices {listed} of the series are", "them")
    )
    raise InputError(
        f"{source}: {which} missing; put {them} back, or use --missing repeat (the slice before stands in for each) or --missing join "
        "(as if nothing were lost)."
    )


class GrayMapping(NamedTuple):
    """How numbers become gray levels: ``low`` becomes 0 and ``high`` the top one, in a straight line.

    Attributes:
        low: what becomes black.
        high: what becomes white.
        top: 255 or 65535.
        unchanged: nothing is done.
    """

    low: float
    high: float
    top: int
    unchanged: bool

    def __str__(self) -> str:
        return f"{self.low:.9g} to {self.high:.9g} become 0 to {self.top}"

    def apply(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """The gray levels of numbers (z, y, x) of any type, rounded half up; what lies beyond the range is black or white."""
        kind = np.uint8 if self.top == 255 else np.uint16
        if self.unchanged:
            return np.ascontiguousarray(voxels, kind)
        out = np.empty(voxels.shape, kind)
        for plane, gray in zip(
            voxels, out, strict=True
        ):  # a plane at a time: in between they are eight bytes a voxel
            scaled = (plane.astype(np.float64) - self.low) * (self.top / (self.high - self.low))
            gray[...] = np.floor(np.clip(scaled, 0, self.top) + 0.5)
        return out


def gray_mapping(found: Source, settings: ImportSettings) -> GrayMapping:
    """How the numbers of a source become gray levels.

    Bytes keep their whole range, so nothing is lost of signed ones; other numbers than unsigned ones take the range in which all but
    0.2 % of the pixels of 16 evenly spaced slices lie.

    Raises:
        InputError: all of them are equal, or the range is none.
    """
    kind = found.stack.dtype
    bits = settings.bits or (8 if kind.itemsize == 1 else 16)
    top = 2**bits - 1
    if settings.intensity_range is not None:
        low, high = settings.intensity_range
        if not low < high:
            raise InputError(
                f"--intensity-range takes what becomes black and what becomes white, such as 0 4095; got {low:g} {high:g}."
            )
        return GrayMapping(low, high, top, False)
    if kind in (np.uint8, np.uint16) and kind.itemsize * 8 == bits:
        return GrayMapping(0, top, top, True)
    if kind.itemsize == 1:
        limits = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
        return GrayMapping(float(limits[0]), float(limits[1]), top, False)
    name, count = found.files[0].name, found.stack.shape[0]
    ends = []
    for z in evenly_spaced(count, min(SAMPLED, count)):
        voxels = np.asarray(found.stack[z : z + 1])
        refuse_non_finite(voxels, name, z)
        ends.append(np.percentile(voxels, (OUTSIDE, 100 - OUTSIDE)))
    low, high = (float(one) for one in np.median(ends, axis=0))
    if not low < high:
        raise InputError(
            f"{name} holds the same number, {low:g}, almost everywhere; say what is black and white with --intensity-range."
        )
    return GrayMapping(low, high, top, False)


def refuse_non_finite(voxels: NDArray[Any], name: str, first: int) -> None:
    """Numbers that are none cannot become gray levels.

    Raises:
        InputError: the slice is named.
    """
    if np.issubdtype(voxels.dtype, np.floating) and not np.isfinite(voxels).all():
        z = first + int(np.nonzero(~np.isfinite(voxels).all(axis=(1, 2)))[0][0])
        raise InputError(
            f"Slice {z} of {name} holds values that are not numbers (NaN or infinite); replace them before importing."
        )


def _import_block(block: ZBlock, stack: Stack, gray: GrayMapping, name: str) -> BlockResult:
    voxels = np.asarray(stack[block.own])
    refuse_non_finite(voxels, name, block.start)
    return {"": gray.apply(voxels)}, {}
