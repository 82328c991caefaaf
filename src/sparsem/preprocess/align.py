"""The stage ``align``: bring every slice onto its neighbors (paper 3.2), with a single resampling.

The motion of every slice is stored, so that annotations follow and results can be carried back.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.annotation.corrections import corrections_made_on
from sparsem.annotation.labeled_slices import annotations_drawn_on
from sparsem.errors import InputError
from sparsem.geometry import ZBlock
from sparsem.preprocess.common_rectangle import common_rectangle
from sparsem.preprocess.pair_registration import register_across_gaps, register_neighbors
from sparsem.preprocess.settings import AlignSettings, RegisterSettings
from sparsem.preprocess.slice_positions import (
    RegisteredPair,
    SlicePositions,
    pairs_across_gaps,
    reliable_pairs,
    solve_slice_positions,
)
from sparsem.settings import Interpolation, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.transforms import Motion, compose, invert, round_motion, warp
from sparsem.store.volume import Kind, Volume, VolumeSpec, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

MIN_EDGE_PX = 32  # of an image that can be registered
CLOSE_PX = 1.0  # steps between the slices of an aligned stack are shorter
MIN_COMMON_FRACTION = 0.25  # of a slice's area that all slices must have in common
JUMP_FACTOR = 10  # steps of so many median steps, and of so many pixels, are reported as jumps

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Alignment(StageResult):
    """The result of the alignment of a stack.

    Attributes:
        image: name of the aligned image.
        motions: (n, 2, 3), from pixels of that image to those of the image that was aligned.
        similarity: (n,) of each slice to the one before it; NaN for the first slice, and where both
            were not compared.
        jumps: slices that lay far from the one before them; they were moved back.
        bad: slices that are similar to none of their neighbors; they keep the position of their
            neighbors.
        breaks: slices from which on nothing connects the stack with the slices before; it continues
            as if there were no drift.
        hardly_drifts: slices are as close to each other as those of an aligned stack, see
            ``hardly_drifts``.
    """

    image: str
    motions: Motion
    similarity: Floats
    jumps: tuple[int, ...]
    bad: tuple[int, ...]
    breaks: tuple[int, ...]
    hardly_drifts: bool


def align(
    sample: Sample, settings: AlignSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> Alignment:
    """Write ``images/OUT``, the aligned image, and ``tables/alignment_OUT``, a row for each slice.

    Every slice is registered to the ``reference_slices`` before it; one graph of all pairs gives
    their positions. Each slice is resampled once. Annotations and ground truth made on the image
    move along when they are read, and results can be carried back (see ``store.transforms``).

    Args:
        sample: its image is read block by block.
        settings: the motion, the number of reference slices, which registrations are rejected.
        on: how the work is distributed.
        **changes: fields of the settings to replace.

    Raises:
        InputError: slices are too small, no two slices are similar, slices have no area in common,
            or labels were drawn on the image to be replaced.
        ResumeError: the image was aligned with other settings, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(AlignSettings, settings, changes)
    name = sample.image_for(settings.out, settings.image or _unaligned_image(sample, settings.out))
    image = sample.image(name)
    _check_image(image, settings)
    positions, similarity = _find_positions(sample, image, name, settings, on)
    motions, shape = _canvas(positions, image.shape, settings.canvas)
    spec = _aligned_spec(image, name, settings.out, motions, shape)
    _write_aligned_image(sample, image, name, settings, spec, motions, on)
    jumps = _find_jumps(positions, image, settings)
    is_aligned = not jumps and hardly_drifts(slice_steps(positions, image.shape))
    alignment = Alignment(
        settings.out,
        motions,
        similarity,
        jumps,
        positions.bad,
        positions.breaks,
        is_aligned,
        sample=sample,
        written=(f"images/{settings.out}", f"tables/alignment_{settings.out}"),
    )
    repeated = sample.image("raw").repeated
    table = alignment_table(alignment, positions, image.shape, repeated)
    sample.write_table(f"alignment_{settings.out}", table)
    return alignment


def _unaligned_image(sample: Sample, out: str) -> str | None:
    """Return the newest image of which no slice was moved; None if ``out`` was aligned before."""
    if out in sample.names("images"):
        return None
    line = sample.lineage(sample.newest_image)
    return next(name for name in line if sample.transform_of(sample.image(name)).to_raw is None)


def _aligned_spec(
    image: Volume, image_name: str, out: str, motions: Motion, shape: tuple[int, int]
) -> VolumeSpec:
    """Return what is known of the aligned image before it is written."""
    return volume_spec(
        f"images/{out}",
        (image.shape[0], *shape),
        image.dtype,
        Kind.IMAGE,
        image.voxel_size,
        image.block_depth,
        made_on=(image_name, image.fingerprint),
        motions=motions,
    )


def _check_image(image: Volume, settings: AlignSettings) -> None:
    """Check that an image can be aligned.

    Raises:
        InputError: slices are too small, or pixels are not square for a rigid motion.
    """
    name = image.directory.name
    height, width = image.shape[1:]
    if min(height, width) < MIN_EDGE_PX:
        raise InputError(
            f"Slices of {height} x {width} px are too small to be aligned; "
            f"expected at least {MIN_EDGE_PX} px."
        )
    _, y, x = image.voxel_size
    if settings.motion == "rigid" and max(y, x) > 1.001 * min(y, x):
        raise InputError(
            f"--motion rigid requires square pixels; those of {name} are {y:g} x {x:g} nm: "
            "use --motion affine."
        )


def _find_positions(
    sample: Sample, image: Volume, image_name: str, settings: AlignSettings, on: Execution
) -> tuple[SlicePositions, Floats]:
    """Register the slices and solve for their positions.

    Groups of slices that bad slices separate are registered across these.

    Returns:
        Positions, and (n,) similarity of each slice to the one before it.

    Raises:
        InputError: no two slices are similar.
    """
    count = image.shape[0]
    shape, pixel_edges = image.shape[1:], image.voxel_size[1:]
    registering = _registration_settings(settings)
    pairs = register_neighbors(sample, image, image_name, registering, settings.out, on)
    max_shift = settings.max_shift_nm or float("inf")
    reliable = reliable_pairs(pairs, settings.min_similarity, max_shift, shape, pixel_edges)
    if count > 1 and not reliable:
        raise InputError(
            f"No two neighboring slices of {image.directory.name} are similar: they are not "
            "consecutive slices of a stack, or their order is wrong."
        )
    gaps = pairs_across_gaps(count, reliable)
    across = register_across_gaps(sample, image, gaps, registering, settings.out, on)
    across = reliable_pairs(across, 0, max_shift, shape, pixel_edges)
    reliable += _similar_across_gaps(across, reliable, settings.min_similarity)
    positions = solve_slice_positions(count, reliable, settings.motion, shape)
    return positions, _neighbor_similarity(count, pairs)


def _similar_across_gaps(
    across: Sequence[RegisteredPair], reliable: Sequence[RegisteredPair], min_similarity: float
) -> list[RegisteredPair]:
    """Return the pairs across gaps whose slices are similar.

    Slices farther apart are less similar: they are compared with the weakest reliable pair.
    """
    weakest = min((pair.similarity for pair in reliable), default=0.0)
    return [pair for pair in across if pair.similarity >= min_similarity * weakest]


def _registration_settings(settings: AlignSettings) -> RegisterSettings:
    """Return the settings on which the registrations depend."""
    fields = {key: getattr(settings, key) for key in RegisterSettings.model_fields}
    return RegisterSettings(**fields)


def _neighbor_similarity(count: int, pairs: Sequence[RegisteredPair]) -> Floats:
    """Return (n,) the similarity of each slice to the one before it; NaN where it is not known."""
    similarity = np.full(count, np.nan)
    for pair in pairs:
        if pair.moving - pair.fixed == 1:
            similarity[pair.moving] = pair.similarity
    return similarity


def _canvas(
    positions: SlicePositions, shape: Sequence[int], canvas: str
) -> tuple[Motion, tuple[int, int]]:
    """Return the motions from pixels of the aligned image to those of the image, and its (y, x).

    Raises:
        InputError: the slices have too small an area in common.
    """
    count, height, width = shape
    low, high = _canvas_limits(positions, shape, canvas)
    size = (high - low + 1).astype(int)
    _check_common_area(size, height, width)
    corner = np.array([[1, 0, low[0]], [0, 1, low[1]]], float)
    motions = compose(invert(positions.to_common), np.repeat(corner[None], count, axis=0))
    return round_motion(motions), (int(size[0]), int(size[1]))


def _check_common_area(size: NDArray[np.int64], height: int, width: int) -> None:
    """Check that slices of (height, width) have an area (y, x) in common that is large enough.

    Raises:
        InputError: it is too small.
    """
    is_narrow = min(size) < MIN_EDGE_PX
    if is_narrow or size[0] * size[1] < MIN_COMMON_FRACTION * height * width:
        raise InputError(
            f"All slices have only {max(0, size[0])} x {max(0, size[1])} of {height} x {width} px "
            "in common; use --canvas whole to keep all of each slice, or --max-shift-nm to reject "
            "large shifts."
        )


def _canvas_limits(
    positions: SlicePositions, shape: Sequence[int], canvas: str
) -> tuple[Floats, Floats]:
    """Return the lowest and the highest pixel (y, x) of the aligned image in the common frame."""
    y, x = _corner_positions(positions, shape)
    if canvas == "whole":
        return np.floor([y.min(), x.min()]), np.ceil([y.max(), x.max()])
    if _are_shifted_only(positions):
        lowest, highest = _common_area_of_shifted(y, x)
    else:
        outlines = np.stack([y, x], axis=-1)[:, [0, 1, 3, 2]]
        lowest, highest = common_rectangle(outlines)
    return np.ceil(lowest - 1e-6), np.floor(highest + 1e-6)


def _corner_positions(positions: SlicePositions, shape: Sequence[int]) -> tuple[Floats, Floats]:
    """Return (n, 4) y and x of the corners of all slices that are not bad, in the common frame.

    Their order is top left, top right, bottom left, bottom right.
    """
    bottom, right = shape[1] - 1, shape[2] - 1
    corners = np.array([[0, 0, bottom, bottom], [0, right, 0, right], [1, 1, 1, 1]], float)
    good = [z for z in range(shape[0]) if z not in positions.bad]
    y, x = np.moveaxis(positions.to_common[good] @ corners, 1, 0)
    return y, x


def _are_shifted_only(positions: SlicePositions) -> bool:
    """Return whether no slice is rotated, sheared or scaled."""
    linear = positions.to_common[:, :, :2]
    return np.array_equal(linear, np.repeat(np.eye(2)[None], len(linear), axis=0))


def _common_area_of_shifted(y: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return the lowest and the highest corner of what slices have in common that are shifted.

    Args:
        y: (n, 4) of the corners of every slice (see ``_corner_positions``).
        x: (n, 4) the same along x.
    """
    lowest = np.array([y[:, :2].max(), x[:, ::2].max()])
    highest = np.array([y[:, 2:].min(), x[:, 1::2].min()])
    return lowest, highest


def _write_aligned_image(
    sample: Sample,
    image: Volume,
    image_name: str,
    settings: AlignSettings,
    spec: VolumeSpec,
    motions: Motion,
    on: Execution,
) -> None:
    """Resample every slice, block by block.

    Raises:
        InputError: labels were drawn on the image to be replaced.
    """
    inputs = {
        "image": image.fingerprint,
        "registration": fingerprint_of({"motions": motions.tolist()}),
    }
    # What is only reported does not change the image.
    recorded = changed(settings, {"report_jump_nm": None, "image": image_name})
    needs = _resampling_needs(image, spec)
    with Stage(sample, f"align-{settings.out}", recorded, inputs, [spec], on, needs) as stage:
        if not stage.finished:
            _refuse_to_strand_labels(sample, settings.out)
        stage.map(
            _move_block,
            image.blocks(),
            image,
            spec.path,
            (spec.shape[1], spec.shape[2]),
            settings.interpolation,
            of_block=lambda block: motions[block.own],
        )


def _resampling_needs(image: Volume, spec: VolumeSpec) -> Needs:
    """Return memory and disk for a slice that is read, one that is written, and its pyramid."""
    _, height, width = image.shape
    _, new_height, new_width = spec.shape
    plane = (height * width + 2 * new_height * new_width) * image.dtype.itemsize
    smaller = "use --canvas common, fewer --workers, or import with a smaller --block-depth"
    return Needs(plane * (image.block_depth + 2), spec.nbytes, smaller)


def _refuse_to_strand_labels(sample: Sample, out: str) -> None:
    """Refuse to replace an image on which labels were drawn: these would have no image any more.

    Raises:
        InputError: labels were drawn on it.
    """
    if out not in sample.names("images"):
        return
    drawn = [f"annotations/{name}" for name in annotations_drawn_on(sample, out)]
    drawn += [f"corrections/{name}" for name in corrections_made_on(sample, out)]
    if drawn:
        verb = "was" if len(drawn) == 1 else "were"
        raise InputError(
            f"{', '.join(drawn)} of {sample.path.name} {verb} drawn on images/{out} and cannot "
            "follow another alignment; give the new image another name with --out, or remove "
            f"{drawn[0]} with 'sparsem remove {sample.path.name} {drawn[0]}'."
        )


def _move_block(
    block: ZBlock,
    image: Volume,
    path: str,
    shape: tuple[int, int],
    interpolation: Interpolation,
    motions: Motion,
) -> BlockResult:
    """Resample the slices of a block."""
    aligned = np.empty((block.stop - block.start, *shape), image.dtype)
    for index, voxels in enumerate(image.read(block.own)):
        aligned[index] = warp(voxels, motions[index], shape, interpolation)
    return {path: aligned}, {}


def slice_steps(positions: SlicePositions, shape: Sequence[int]) -> Floats:
    """Return by how far the center of each slice lies from that of the slice before it.

    Bad slices are skipped.

    Args:
        positions: of all slices.
        shape: (z, y, x) of the image.

    Returns:
        (n, 2) y and x in pixels; 0 for the first slice and for bad ones.
    """
    centers = positions.to_common @ _slice_center(shape)
    steps = np.zeros((len(centers), 2))
    previous = 0
    for z in range(1, len(centers)):
        if z not in positions.bad:
            steps[z] = centers[z] - centers[previous]
            previous = z
    return steps


def _slice_center(shape: Sequence[int]) -> Floats:
    """Return (y, x, 1) of the center of a slice."""
    return np.append((np.array(shape[1:]) - 1) / 2, 1.0)


def hardly_drifts(steps: Floats) -> bool:
    """Return whether nearly all steps between slices are below one pixel.

    Stacks that were aligned before have such steps, of tissue that runs obliquely: on two open
    FIB-SEM stacks 0.4 and 0.5 px in the median, 0.8 and 0.7 px in the 95th percentile, which add up
    to 20 px in 80 and 103 px in 250 slices (measured).

    Args:
        steps: (n, 2) from each slice to the one before, px; the first slice has none.
    """
    if len(steps) <= 1:
        return False
    lengths = np.linalg.norm(steps[1:], axis=1)
    return bool(np.quantile(lengths, 0.95) < CLOSE_PX)


def _find_jumps(
    positions: SlicePositions, image: Volume, settings: AlignSettings
) -> tuple[int, ...]:
    """Return the slices that lie unusually far from the one before."""
    pixel_edges = image.voxel_size[1:]
    lengths = np.linalg.norm(slice_steps(positions, image.shape) * pixel_edges, axis=1)
    limit: float = JUMP_FACTOR * min(pixel_edges)
    if len(lengths) > 1:
        limit = max(limit, JUMP_FACTOR * float(np.median(lengths[1:])))
    jumps = np.nonzero(lengths > (settings.report_jump_nm or limit))[0]
    return tuple(int(z) for z in jumps)


def alignment_table(
    alignment: Alignment,
    positions: SlicePositions,
    shape: Sequence[int],
    repeated: Sequence[int] = (),
) -> pa.Table:
    """Return one row for each slice: shift of its center, rotation, similarity, remark.

    Args:
        alignment: the result.
        positions: of all slices.
        shape: (z, y, x) of the image that was aligned.
        repeated: slices that stand in for lost ones.
    """
    center = _slice_center(shape)
    y, x = (positions.to_common @ center - center[:2]).T
    columns: dict[str, Any] = {
        "z": np.arange(len(y)),
        "shift_y_px": y,
        "shift_x_px": x,
        "rotation_deg": _rotation_degrees(positions.to_common),
        "similarity": alignment.similarity,
        "remark": _remarks(len(y), alignment, repeated),
    }
    notes = json.dumps({"hardly_drifts": alignment.hardly_drifts})
    return pa.table(columns, metadata={"sparsem": notes})


def _rotation_degrees(motions: Motion) -> Floats:
    """Return (n,) by how many degrees each motion rotates."""
    return np.degrees(np.arctan2(motions[:, 1, 0], motions[:, 0, 0]))


def _remarks(count: int, alignment: Alignment, repeated: Sequence[int]) -> list[str]:
    """Return the remark on every slice; empty for most."""
    slices_by_remark = {
        "bad": alignment.bad,
        "break": alignment.breaks,
        "jump": alignment.jumps,
        "repeated": repeated,
    }
    remarks: list[list[str]] = [[] for _ in range(count)]
    for remark, slices in slices_by_remark.items():
        for z in slices:
            remarks[z].append(remark)
    return [" ".join(words) for words in remarks]
