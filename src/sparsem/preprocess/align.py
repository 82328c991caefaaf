"""Alignment: every slice put over its neighbors (paper 3.2), with one resampling, and the way back kept."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparsem.annotation.labeled_slices import annotations_drawn_on
from sparsem.errors import InputError
from sparsem.geometry import ZBlock, z_blocks
from sparsem.preprocess.drift import Drift, Link, believed, common_rectangle, drift, gaps
from sparsem.preprocess.registration import WORKING_MPX, Detail, Kind, detail, register
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.transforms import Interpolation, Motion, inverse, joined, moved, rounded
from sparsem.store.volume import Kind as VolumeKind
from sparsem.store.volume import Volume, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

LEAST_EDGE_PX = 32  # of an image that registration can work with
CLOSE_PX = 1.0  # steps between the slices of an aligned stack are shorter
LEAST_COMMON = 0.25  # of a slice's area that all slices must share


class RegisterSettings(Settings):
    """How pairs of slices are registered."""

    motion: Kind = Field(
        "translation",
        description="what a slice may do: translation, rigid (it turns too), affine (it shears too)",
    )
    reference_slices: int = Field(
        2,
        ge=1,
        le=16,
        description="slices before this one that it is registered to; what contradicts the rest loses",
    )
    working_mpx: float = Field(
        WORKING_MPX,
        gt=0.01,
        description="slices of more megapixels are registered on a smaller picture of them",
    )
    image: str | None = Field(
        None, description="image to align; the newest one in which nothing was moved if not given"
    )


class AlignSettings(RegisterSettings):
    """How a stack is aligned."""

    max_shift_nm: float | None = Field(
        None,
        gt=0,
        description="a pair that lies further apart is not believed; no limit if not given",
    )
    min_similarity: float = Field(
        0.4,
        ge=0,
        le=1,
        description="a slice less like its neighbors than this part of what is usual is bad",
    )
    report_jump_nm: float | None = Field(
        None,
        gt=0,
        description="a step of more is reported; ten usual steps, at least 10 px, if not given",
    )
    canvas: Literal["common", "whole"] = Field(
        "common", description="common: cut to what all slices show; whole: black around every slice"
    )
    interpolation: Interpolation = Field(
        "cubic", description="cubic, linear, or nearest: whole pixels, no gray level is changed"
    )
    out: str = Field("aligned", description="name of the aligned image")


@dataclass(frozen=True)
class Alignment:
    """What alignment did.

    Attributes:
        image: name of the image made.
        motions: (n, 2, 3), from pixels of that image to those of the one that was aligned.
        likeness: (n,) of each slice with the one before it; NaN for the first and where they were not compared.
        jumps: slices that lie far from the one before them; they are put right.
        bad: slices that look like none of their neighbors; they were left where their neighbors are.
        breaks: slices from which on nothing connects the stack with what is before; it goes on as if there were no drift.
        hardly_drifts: slices follow each other as closely as those of an aligned stack do, see ``hardly_drifts``.
    """

    image: str
    motions: Motion
    likeness: NDArray[np.float64]
    jumps: tuple[int, ...]
    bad: tuple[int, ...]
    breaks: tuple[int, ...]
    hardly_drifts: bool


def align(
    sample: Sample, settings: AlignSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> Alignment:
    """Write ``images/OUT``: the image with every slice where it belongs, and ``tables/alignment_OUT``, one row a slice.

    Every slice is registered to the ``neighbors`` before it; one graph of all pairs gives their places. Each slice is resampled once.
    Annotations and truth made on the image move along when they are read, and results can be carried back (see ``store.frame``).

    Args:
        sample: its image is read block by block.
        settings: what motion, how many neighbors, what is believed.
        on: how the work is spread.

    Raises:
        InputError: slices too small, nothing alike, no common area, or labels were drawn on the image to be replaced.
        ResumeError: the image was aligned otherwise, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(AlignSettings, settings, changes)
    name = sample.image_for(settings.out, settings.image or _unmoved(sample, settings.out))
    image = sample.image(name)
    if min(image.shape[1:]) < LEAST_EDGE_PX:
        raise InputError(
            f"Slices of {image.shape[1:]} px are too small to be aligned; expected at least {LEAST_EDGE_PX} px."
        )
    if settings.motion == "rigid" and max(image.voxel_size[1:]) > 1.001 * min(image.voxel_size[1:]):
        y, x = image.voxel_size[1:]
        raise InputError(
            f"--motion rigid takes square pixels; those of {image.directory.name} are {y:g} x {x:g} nm: use --motion affine."
        )
    links = _links(sample, image, name, settings, on)
    found, likeness = _settled(sample, image, links, settings, on)
    motions, shape = _canvas(found, image.shape, settings.canvas)
    spec = volume_spec(
        f"images/{settings.out}",
        (image.shape[0], *shape),
        image.dtype,
        VolumeKind.IMAGE,
        image.voxel_size,
        image.block_depth,
        made_on=(name, image.fingerprint),
        motions=motions,
    )
    inputs = {
        "image": image.fingerprint,
        "registration": fingerprint_of({"motions": motions.tolist()}),
    }
    plane = (
        image.shape[1] * image.shape[2] + 2 * shape[0] * shape[1]
    ) * image.dtype.itemsize  # what is read, written, and its pyramid
    smaller = "use --canvas common, fewer --workers, or import with a smaller --block-depth"
    needs = Needs(plane * (image.block_depth + 2), spec.nbytes, smaller)
    moving = changed(
        settings, {"report_jump_nm": None, "image": name}
    )  # what is only told makes no other image
    with Stage(sample, f"align-{settings.out}", moving, inputs, [spec], on, needs) as stage:
        if not stage.finished:
            _refuse_to_strand(sample, settings.out)
        stage.map(
            _move_block,
            image.blocks(),
            image,
            spec.path,
            shape,
            settings.interpolation,
            of_block=lambda block: motions[block.own],
        )
    jumps = _jumps(found, image, settings)
    is_aligned = not jumps and hardly_drifts(steps(found, image.shape))
    alignment = Alignment(
        settings.out, motions, likeness, jumps, found.bad, found.breaks, is_aligned
    )
    sample.write_table(
        f"alignment_{settings.out}",
        alignment_table(alignment, found, image.shape, sample.image("raw").repeated),
    )
    return alignment


def _refuse_to_strand(sample: Sample, out: str) -> None:
    """Labels that were drawn on the image that is to be replaced would have no image any more."""
    drawn = annotations_drawn_on(sample, out) if out in sample.names("images") else []
    if drawn:
        raise InputError(
            f"{', '.join(drawn)} of {sample.path.name} {'was' if len(drawn) == 1 else 'were'} annotated on images/{out} and cannot follow "
            f"another alignment; give it another name with --out, or remove {sample.path.name}/annotations/{drawn[0]}."
        )


def _unmoved(sample: Sample, out: str) -> str | None:
    """The newest image of which nothing was moved; None where the image was aligned before."""
    if out in sample.names("images"):
        return None
    return next(
        name
        for name in sample.line_of(sample.newest_image)
        if sample.frame(sample.image(name)).to_raw is None
    )


def _links(
    sample: Sample, image: Volume, name: str, settings: AlignSettings, on: Execution
) -> list[Link]:
    """Registrations of every slice to those before it: a stage of its own, since the shape of the result follows from it."""
    chosen = _registering(settings)
    needs = _registration_needs(image, settings, image.block_depth + settings.reference_slices)
    with Stage(
        sample,
        f"register-{settings.out}",
        chosen,
        {"image": image.fingerprint, "name": name},
        [],
        on,
        needs,
    ) as stage:
        blocks = stage.map(
            _register_block, image.blocks(halo=settings.reference_slices), image, chosen
        )
    return [
        Link(int(i), int(j), np.array(motion), float(likeness))
        for block in blocks
        for i, j, motion, likeness in block["links"]
    ]


def _register_block(block: ZBlock, image: Volume, settings: RegisterSettings) -> BlockResult:
    """Links of the block's own slices to those before them."""
    details: dict[int, Detail] = {}
    links = []
    for z, voxels in enumerate(image.read(slice(block.read_start, block.stop)), block.read_start):
        details[z] = detail(voxels, settings.working_mpx)
        for before in range(
            max(block.read_start, z - settings.reference_slices), z if z >= block.start else 0
        ):
            found = register(details[before], details[z], settings.motion)
            links.append([before, z, found.motion.tolist(), found.likeness])
        details.pop(z - settings.reference_slices, None)
    return {}, {"links": links}


def _settled(
    sample: Sample, image: Volume, links: Sequence[Link], settings: AlignSettings, on: Execution
) -> tuple[Drift, NDArray[np.float64]]:
    """Places of all slices; groups that bad slices hold apart are registered across them."""
    count, shape = image.shape[0], image.shape[1:]
    furthest, edges = settings.max_shift_nm or float("inf"), image.voxel_size[1:]
    kept = believed(links, settings.min_similarity, furthest, shape, edges)
    if count > 1 and not kept:
        raise InputError(
            f"No two neighboring slices of {image.directory.name} look alike: this is no stack, or its slices are mixed up."
        )
    bridges = _bridges(sample, image, gaps(count, kept), settings, on)
    weakest = min(
        (link.likeness for link in kept), default=0.0
    )  # further apart, slices are less like
    kept += [
        link
        for link in believed(bridges, 0, furthest, shape, edges)
        if link.likeness >= settings.min_similarity * weakest
    ]
    likeness = np.full(count, np.nan)
    for link in links:
        if link.moving - link.fixed == 1:
            likeness[link.moving] = link.likeness
    return drift(count, kept, settings.motion, shape), likeness


def _bridges(
    sample: Sample,
    image: Volume,
    pairs: Sequence[tuple[int, int]],
    settings: AlignSettings,
    on: Execution,
) -> list[Link]:
    """Registrations across bad slices."""
    if not pairs:
        return []
    chosen, again = (
        _registering(settings),
        replace(on, overwrite=True),
    )  # which pairs they are follows from what is believed
    inputs = {"image": image.fingerprint, "pairs": str(pairs)}
    with Stage(
        sample,
        f"bridge-{settings.out}",
        chosen,
        inputs,
        [],
        again,
        _registration_needs(image, settings, 1),
    ) as stage:
        blocks = stage.map(
            _bridge,
            z_blocks(len(pairs), 1),
            image,
            chosen,
            of_block=lambda block: pairs[block.start],
        )
    return [
        Link(int(i), int(j), np.array(motion), float(likeness))
        for i, j, motion, likeness in (block["link"] for block in blocks)
    ]


def _bridge(
    _: ZBlock, image: Volume, settings: RegisterSettings, pair: tuple[int, int]
) -> BlockResult:
    fixed, moving = (detail(image.read(slice(z, z + 1))[0], settings.working_mpx) for z in pair)
    found = register(fixed, moving, settings.motion)
    return {}, {"link": [*pair, found.motion.tolist(), found.likeness]}


def _registering(settings: AlignSettings) -> RegisterSettings:
    return RegisterSettings(
        **{key: getattr(settings, key) for key in RegisterSettings.model_fields}
    )


def _registration_needs(image: Volume, settings: AlignSettings, slices: int) -> Needs:
    """Memory for so many slices at once, their details, and what a registration takes besides."""
    _, y, x = image.shape
    working = min(y * x, settings.working_mpx * 1e6) * 4
    ram = int(
        slices * y * x * image.dtype.itemsize
        + (settings.reference_slices + 1) * working * 2
        + y * x * 8
        + working * 12
    )
    return Needs(ram=ram, smaller="a smaller --working-mpx, or fewer --workers, need less")


def _canvas(found: Drift, shape: Sequence[int], canvas: str) -> tuple[Motion, tuple[int, int]]:
    """Motions from pixels of the aligned image to those of the image, and its (y, x)."""
    rows, columns = shape[1] - 1, shape[2] - 1
    corners = np.array([[0, 0, rows, rows], [0, columns, 0, columns], [1, 1, 1, 1]], float)
    good = [z for z in range(shape[0]) if z not in set(found.bad)]
    y, x = np.moveaxis(
        found.places[good] @ corners, 1, 0
    )  # (n, 4): top left, top right, bottom left, bottom right
    if canvas == "whole":
        low, high = np.floor([y.min(), x.min()]), np.ceil([y.max(), x.max()])
    else:
        if np.array_equal(found.places[:, :, :2], np.repeat(np.eye(2)[None], shape[0], axis=0)):
            lowest, highest = (
                np.array([y[:, :2].max(), x[:, ::2].max()]),
                np.array([y[:, 2:].min(), x[:, 1::2].min()]),
            )
        else:
            lowest, highest = common_rectangle(np.stack([y, x], axis=-1)[:, [0, 1, 3, 2]])
        low, high = np.ceil(lowest - 1e-6), np.floor(highest + 1e-6)
    size = (high - low + 1).astype(int)
    if min(size) < LEAST_EDGE_PX or size[0] * size[1] < LEAST_COMMON * shape[1] * shape[2]:
        raise InputError(
            f"The slices share only {max(0, size[0])} x {max(0, size[1])} of {shape[1]} x {shape[2]} px; "
            "use --canvas whole to keep all of each slice, or --max-shift-nm to distrust large shifts."
        )
    corner = np.array([[1, 0, low[0]], [0, 1, low[1]]], float)
    motions = joined(inverse(found.places), np.repeat(corner[None], shape[0], axis=0))
    return rounded(motions), (int(size[0]), int(size[1]))


def _move_block(
    block: ZBlock,
    image: Volume,
    path: str,
    shape: tuple[int, int],
    how: Interpolation,
    motions: Motion,
) -> BlockResult:
    out = np.empty((block.stop - block.start, *shape), image.dtype)
    for index, voxels in enumerate(image.read(block.own)):
        out[index] = moved(voxels, motions[index], shape, how)
    return {path: out}, {}


def steps(found: Drift, shape: Sequence[int]) -> NDArray[np.float64]:
    """(n, 2) by how far the center of each slice lies from that of the slice before it, px; bad slices are stepped over."""
    center = np.append((np.array(shape[1:]) - 1) / 2, 1.0)
    places = found.places @ center
    out, last = np.zeros((len(places), 2)), 0
    for z in range(1, len(places)):
        if z not in found.bad:
            out[z] = places[z] - places[last]
            last = z
    return out


def hardly_drifts(moves: NDArray[np.float64]) -> bool:
    """Return whether nearly all steps between slices are below one pixel.

    Stacks that were aligned before have such steps, of tissue that runs obliquely: on two open FIB-SEM stacks 0.4 and 0.5 px in the
    median, 0.8 and 0.7 px in the 95th percentile, which add up to 20 px in 80 and 103 px in 250 slices (measured).

    Args:
        moves: (n, 2) of every slice against the one before, px; the first has none.
    """
    return len(moves) > 1 and bool(np.quantile(np.linalg.norm(moves[1:], axis=1), 0.95) < CLOSE_PX)


def _jumps(found: Drift, image: Volume, settings: AlignSettings) -> tuple[int, ...]:
    """Slices that lie unusually far from the one before."""
    length = np.linalg.norm(steps(found, image.shape) * image.voxel_size[1:], axis=1)
    least = 10 * min(image.voxel_size[1:])
    limit = settings.report_jump_nm or max(
        least, 10 * float(np.median(length[1:])) if len(length) > 1 else least
    )
    return tuple(int(z) for z in np.nonzero(length > limit)[0])


def alignment_table(
    alignment: Alignment, found: Drift, shape: Sequence[int], repeated: Sequence[int] = ()
) -> pa.Table:
    """One row a slice: where its center lies, its turn, its likeness with the slice before it, and what is wrong with it."""
    center = np.append((np.array(shape[1:]) - 1) / 2, 1.0)
    y, x = (found.places @ center - center[:2]).T
    turn = np.degrees(np.arctan2(found.places[:, 1, 0], found.places[:, 0, 0]))
    remarks: dict[int, list[str]] = {}
    for what, which in (
        ("bad", alignment.bad),
        ("break", alignment.breaks),
        ("jump", alignment.jumps),
        ("repeated", repeated),
    ):
        for z in which:
            remarks.setdefault(z, []).append(what)
    columns: dict[str, Any] = {
        "z": np.arange(len(y)),
        "shift_y_px": y,
        "shift_x_px": x,
        "turn_deg": turn,
    }
    columns |= {
        "likeness": alignment.likeness,
        "remark": [" ".join(remarks.get(z, [])) for z in range(len(y))],
    }
    return pa.table(
        columns, metadata={"sparsem": json.dumps({"hardly_drifts": alignment.hardly_drifts})}
    )
