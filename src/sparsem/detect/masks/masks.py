"""The stage ``detect masks``: the objects in boxes, pixel by pixel -> ``labels/NAME``, which measure, constrain and report work on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import load_file, save_file

from sparsem.boxes.geometry import Corners, box_sizes
from sparsem.boxes.tables import detected_box_structures, read_detected_boxes
from sparsem.detect.inference import GrayStatistics, sample_gray_statistics
from sparsem.detect.masks.outline import Mask, box_pixels, mask_in_box
from sparsem.detect.masks.sam import Embedding, Sam, load_sam
from sparsem.errors import SampleError, SettingsError
from sparsem.geometry import ZBlock
from sparsem.models.device import choose_device, free_memory
from sparsem.segment.predict import file_hash
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

LEAST_PART, MOST_PART = (
    1 / 16,
    1 / 2,
)  # of a tile that the longer edge of an object takes, for a model to see it well and whole
FINEST = -2  # tiles are at most four times as large to the model as they are in the picture
RANGE = 3.0  # standard deviations on either side of the mean gray that become black and white
WITH_SAM = 6_000_000_000  # bytes of the largest SAM at work on a tile

Placed = tuple[Mask, tuple[int, int]]


class MasksSettings(Settings):
    """How boxes become masks."""

    structure: tuple[str, ...] = Field(
        (), description="whose boxes; repeat it; all that a detector found if not given"
    )
    sam: str | None = Field(
        None,
        description="a folder with SAM, SAM-HQ, SAM 2 or SAM 3, or its name on the hub, as facebook/sam-vit-base; outlines without",
    )
    connectivity: Literal["2d", "3d"] = Field(
        "2d",
        description="2d: every box is an object; 3d: slices of a stack, where masks that touch are one object",
    )
    keep_embeddings: bool = Field(
        False,
        description="keep what the model makes of each tile, for masks of other boxes later; takes disk",
    )
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")


@dataclass(frozen=True)
class MaskSummary:
    """What ``box_masks`` wrote.

    Attributes:
        volumes: paths in the sample.
        boxes: how many boxes of each structure are taken for objects.
        visible: of how many of them a pixel is to be seen; the others lie under surer ones.
    """

    volumes: list[str]
    boxes: dict[str, int]
    visible: dict[str, int]


def box_masks(
    sample: Sample, settings: MasksSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> MaskSummary:
    """Write ``labels/NAME``: the mask of every box that is taken for an object, with the number of its box (1 is the first that counts).

    With a SAM its masks; without one the outline of ``outline.mask_in_box``, which needs no learning. Where masks of a structure overlap
    the surer box has the pixel. A box in which the model sees nothing gets an outline.

    Args:
        sample: with boxes.
        settings: whose, and by which model.
        on: how the work is spread.

    Raises:
        SampleError: there are no boxes, or not all were found on one image.
        SettingsError: the model cannot be had; slices are to be joined that are pictures of their own.
        ResumeError: there are such labels that were made otherwise, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(MasksSettings, settings, changes)
    names = settings.structure or tuple(detected_box_structures(sample))
    if not names:
        raise SampleError(
            f"{sample.path.name} has no boxes; find some with 'sparsem detect predict {sample.path.name} MODEL'."
        )
    kept = {name: read_detected_boxes(sample, name) for name in names}
    images = sorted({one.image for one in kept.values()})
    if len(images) > 1:
        raise SampleError(
            f"Boxes in {sample.path.name} were found on {' and '.join(images)}; make masks of one --structure after the other."
        )
    image = sample.image(images[0])
    if settings.connectivity == "3d" and image.sizes:
        raise SettingsError(
            f"The slices of {sample.path.name} are pictures of their own, which nothing connects; leave out --connectivity 3d."
        )
    dtype = np.uint32 if settings.connectivity == "2d" else np.uint8
    outputs = [
        image.like(f"labels/{name}", dtype, Kind.LABELS, (images[0], image.fingerprint))
        for name in names
    ]
    boxes = {name: one.counted() for name, one in kept.items()}
    inputs = {"image": image.fingerprint} | {
        f"boxes {name}": one.fingerprint for name, one in boxes.items()
    }
    model = _resolved(settings.sam)
    inputs |= {"model": _identity(model)} if model else {}
    lasting = changed(
        settings,
        {
            "sam": None,
            "keep_embeddings": False,
            "device": choose_device(settings.device).type,
        },
    )
    needs = _needs(image, len(names), dtype().itemsize, settings)
    with Stage(sample, f"masks-{'-'.join(names)}", lasting, inputs, outputs, on, needs) as stage:
        job = None
        if not stage.finished:
            if model:
                _loaded(
                    model, settings.device
                )  # what is wrong with it is told before any work begins
            levels = sample_gray_statistics(image)
            seen = fingerprint_of(
                {"model": inputs.get("model"), "image": image.fingerprint, "levels": list(levels)}
            )
            folder = (
                sample.path / ".sparsem" / "embeddings" / seen
                if model and settings.keep_embeddings
                else None
            )
            job = _Job(image, tuple(names), dtype, model, settings.device, levels, folder)
        columns = {name: (one.z, one.corners, one.score) for name, one in boxes.items()}
        visible = stage.map(
            _masks_block, image.blocks(), job, of_block=lambda block: _in_block(columns, block)
        )
    counts = {name: len(one) for name, one in boxes.items()}
    return MaskSummary(
        [one.path for one in outputs],
        counts,
        {name: sum(block[name] for block in visible) for name in names},
    )


class _Job(NamedTuple):
    """What all blocks have in common."""

    image: Volume
    names: tuple[str, ...]
    dtype: Any
    model: str | None
    device: str
    levels: GrayStatistics
    embeddings: Path | None


class _Few(NamedTuple):
    """Boxes of some slices: ``number`` (n,) of each, ``z`` (n,), ``corners`` (n, 4), ``score`` (n,)."""

    number: NDArray[np.int64]
    z: NDArray[np.int32]
    corners: Corners
    score: NDArray[np.float32]


def _in_block(columns: dict[str, Any], block: ZBlock) -> dict[str, _Few]:
    out = {}
    for name, (z, corners, score) in columns.items():
        own = slice(*np.searchsorted(z, (block.start, block.stop)))
        out[name] = _Few(np.arange(own.start, own.stop) + 1, z[own], corners[own], score[own])
    return out


def _resolved(model: str | None) -> str | None:
    """A folder by its whole path, for workers elsewhere; a name on the hub as it is."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else model


def _identity(model: str) -> str:
    """Of the weights in a folder; of a model on the hub its name."""
    files = sorted(Path(model).glob("*.safetensors")) if Path(model).is_dir() else []
    return fingerprint_of({"model": [file_hash(file) for file in files] or model})


def _needs(image: Volume, structures: int, itemsize: int, settings: MasksSettings) -> Needs:
    plane = image.shape[1] * image.shape[2]
    ram = plane * image.block_depth * (image.dtype.itemsize + 3 * itemsize * structures)
    disk = structures * plane * image.shape[0] * itemsize // 16
    smaller = "import with a smaller --block-depth, or use fewer --workers"
    device = choose_device(settings.device)
    if settings.sam and device.type == "cuda":
        return Needs(ram, disk, smaller, gpu=WITH_SAM, gpu_free=free_memory(device))
    return Needs(ram + (WITH_SAM if settings.sam else 0), disk, smaller)


def _masks_block(block: ZBlock, job: _Job, boxes: dict[str, _Few]) -> BlockResult:
    voxels = job.image.read(block.own)
    made = {name: np.zeros(voxels.shape, job.dtype) for name in job.names}
    visible = dict.fromkeys(job.names, 0)
    sam = _loaded(job.model, job.device) if job.model else None
    for z, whole in enumerate(voxels, block.start):
        height, width = job.image.size_of(z)
        plane = whole[:height, :width]
        every = [(name, few) for name in job.names for few in (boxes[name],)]
        own = [np.flatnonzero(few.z == z) for _, few in every]
        corners = np.concatenate(
            [few.corners[places] for (_, few), places in zip(every, own, strict=True)]
        )
        found = (
            _by_sam(plane, z, corners, sam, job)
            if sam
            else [mask_in_box(plane, one.tolist()) for one in corners]
        )
        first = 0
        for (name, few), places in zip(every, own, strict=True):
            labels = made[name][z - block.start]
            visible[name] += paint_masks(
                labels, found[first : first + len(places)], few.number[places], few.score[places]
            )
            first += len(places)
    return {f"labels/{name}": one for name, one in made.items()}, visible


def paint_masks(
    labels: NDArray[Any],
    found: Sequence[Placed],
    numbers: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> int:
    """Put masks into a picture of labels (y, x), the surest on top; in a picture of bytes each is 1. Returns how many are to be seen."""
    visible = 0
    for place in np.argsort(scores, kind="stable")[
        ::-1
    ]:  # the surest first: nothing is put over it
        mask, (top, left) = found[place]
        area = labels[top : top + mask.shape[0], left : left + mask.shape[1]]
        free = mask & (area == 0)
        area[free] = 1 if labels.dtype == np.uint8 else numbers[place]
        visible += bool(free.any())
    return visible


@dataclass(frozen=True)
class SamTile:
    """A tile that a model sees: its upper left corner in the picture, and its edge there, px."""

    top: int
    left: int
    edge: int


def sam_tiles(corners: Corners, shape: tuple[int, int], edge: int) -> list[SamTile]:
    """The tile in which each box is to be seen: as large as it may be, so that few are looked at, and so that every box is whole in it.

    Args:
        corners: (n, 4) px of a picture.
        shape: (y, x) of it.
        edge: of the model's tiles, px.
    """
    out = []
    for (x0, y0, x1, y1), extent in zip(
        corners.tolist(), box_sizes(corners).max(axis=1).tolist(), strict=True
    ):
        length = max(extent, 1.0)
        power = max(FINEST, int(np.floor(np.log2(length / LEAST_PART / edge))))
        while power > FINEST and edge * 2.0 ** (power - 1) >= max(length / MOST_PART, max(shape)):
            power -= 1  # no larger than the picture
        own = int(edge * 2.0**power)
        step = (
            own // 2
        )  # tiles overlap by half, so a box of up to half a tile is whole in the one that its center is nearest to
        top, left = (
            max(0, round(((low + high) / 2 - step) / step)) * step
            for low, high in ((y0, y1), (x0, x1))
        )
        out.append(
            SamTile(min(top, max(0, shape[0] - own)), min(left, max(0, shape[1] - own)), own)
        )
    return out


def _by_sam(plane: NDArray[Any], z: int, corners: Corners, sam: Sam, job: _Job) -> list[Placed]:
    """What the model sees in every box of a picture; each tile is looked at once."""
    shape = (plane.shape[0], plane.shape[1])
    seen_in: dict[SamTile, list[int]] = {}
    for place, view in enumerate(sam_tiles(corners, shape, sam.edge)):
        seen_in.setdefault(view, []).append(place)
    out: dict[int, Placed] = {}
    for view, places in seen_in.items():
        embedding = _kept_embedding(plane, z, view, sam, job)
        scale = sam.edge / view.edge
        inside = (corners[places] - np.array([view.left, view.top] * 2, np.float32)) * np.float32(
            scale
        )
        for place, logits in zip(places, sam.masks(embedding, inside), strict=True):
            out[place] = _cut(logits, corners[place].tolist(), view, scale, plane)
    return [out[place] for place in range(len(corners))]


def _cut(
    logits: NDArray[np.float32],
    corners: Sequence[float],
    view: SamTile,
    scale: float,
    plane: NDArray[Any],
) -> Placed:
    """The mask within its box, of which the largest connected part counts; an outline where there is none."""
    rows, columns = box_pixels(corners, (plane.shape[0], plane.shape[1]))
    top, left, shape = (
        rows.start,
        columns.start,
        (rows.stop - rows.start, columns.stop - columns.start),
    )
    if min(shape) <= 0:
        return np.zeros((max(0, shape[0]), max(0, shape[1])), bool), (top, left)
    # From the center of a pixel of the box to that of the model's.
    shift = [
        (one + 0.5 - first) * scale - 0.5 for one, first in ((left, view.left), (top, view.top))
    ]
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64)
    own = cv2.warpAffine(
        logits, matrix, shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderValue=-1.0
    )
    count, parts = cv2.connectedComponents((own > 0).astype(np.uint8))
    if count < 2:
        return mask_in_box(plane, corners)
    return parts == 1 + np.bincount(parts.reshape(-1))[1:].argmax(), (top, left)


def _kept_embedding(plane: NDArray[Any], z: int, view: SamTile, sam: Sam, job: _Job) -> Embedding:
    """What the model makes of a tile, from the disk if it was kept there."""
    file = (
        job.embeddings / f"z{z:06d}-{view.top}-{view.left}-{view.edge}.safetensors"
        if job.embeddings
        else None
    )
    if file and file.exists():
        kept: Embedding = {}
        for name, one in sorted(load_file(file).items()):
            kept.setdefault(name.partition(".")[0], []).append(one.to(sam.device, torch.float32))
        return kept
    embedding = sam.embedding(_tile(plane, view, sam.edge, job.levels))
    if file:
        parts = {
            f"{name}.{place:02d}": one
            for name, own in embedding.items()
            for place, one in enumerate(own)
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".partial")
        save_file({name: one.half().cpu().contiguous() for name, one in parts.items()}, unfinished)
        unfinished.replace(file)
        return _kept_embedding(plane, z, view, sam, job)  # of half precision, as it will be read
    return embedding


def _tile(
    plane: NDArray[Any], view: SamTile, edge: int, levels: GrayStatistics
) -> NDArray[np.float32]:
    """A tile in 0..1, (edge, edge); what lies beyond the picture is of the mean gray."""
    gray = plane[view.top : view.top + view.edge, view.left : view.left + view.edge]
    method = cv2.INTER_AREA if view.edge >= edge else cv2.INTER_LINEAR
    height, width = (max(1, round(length * edge / view.edge)) for length in gray.shape)
    small = cv2.resize(
        gray, (width, height), interpolation=method
    )  # of its own numbers: a large tile is never held as others
    tile = np.full((edge, edge), 0.5, np.float32)
    tile[:height, :width] = np.clip(levels.standardized(small) / (2 * RANGE) + 0.5, 0, 1)
    return tile


@lru_cache(maxsize=1)
def _loaded(model: str, device: str) -> Sam:
    """The model of this process; blocks that follow find it loaded."""
    return load_sam(model, choose_device(device))
