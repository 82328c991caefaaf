"""The stage ``detect masks``: the objects in boxes, pixel by pixel.

It writes ``labels/NAME``, which can be measured, constrained and reported like all labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, Corners
from sparsem.boxes.tables import StoredBoxes, detected_box_structures, read_detected_boxes
from sparsem.detect.inference import GrayStatistics, sample_gray_statistics
from sparsem.detect.masks.outline import PlacedMask, mask_in_box
from sparsem.detect.masks.sam import Sam, load_sam
from sparsem.detect.masks.sam_masks import sam_masks
from sparsem.detect.settings import MasksSettings
from sparsem.errors import SampleError, SettingsError
from sparsem.geometry import ZBlock
from sparsem.models.checkpoint import file_digest
from sparsem.models.device import choose_device, free_memory, gpus_of, settle_device
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of

SAM_BYTES = 6_000_000_000  # memory of the largest SAM with a tile


@dataclass(frozen=True)
class MaskSummary(StageResult):
    """Summary of the masks that ``box_masks`` wrote.

    Attributes:
        volumes: paths of the label volumes in the sample.
        boxes: number of boxes of each structure that count as objects.
        visible: number of these that have a pixel; the others are covered by boxes of higher
            scores.
    """

    volumes: list[str]
    boxes: dict[str, int]
    visible: dict[str, int]


def box_masks(
    sample: Sample, settings: MasksSettings | None = None, *, on: Execution = HERE, **changes: Any
) -> MaskSummary:
    """Write ``labels/NAME``: masks of all boxes that count as objects, numbered from 1.

    Masks are made by a Segment Anything Model or, without one, by ``outline.mask_in_box``, which
    needs no training. Where masks of a structure overlap, the box with the higher score gets the
    pixel. A box in which the model finds no object gets an outline.

    Args:
        sample: sample with boxes.
        settings: structures and model.
        on: how the work is distributed.

    Raises:
        SampleError: there are no boxes, or they were found on several images.
        SettingsError: the model cannot be loaded, or slices are to be connected that are images of
            their own.
        ResumeError: such labels were made with other settings, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(MasksSettings, settings, changes)
    stored = _boxes_to_mask(sample, settings)
    boxes = {name: structure_boxes.counted() for name, structure_boxes in stored.items()}
    image_name = next(iter(stored.values())).image
    image = sample.image(image_name)
    _refuse_separate_images(sample, image, settings)
    dtype = np.uint32 if settings.connectivity == "2d" else np.uint8
    source = (image_name, image.fingerprint)
    outputs = [image.like(f"labels/{name}", dtype, Kind.LABELS, source) for name in boxes]
    inputs = _inputs_of(image, boxes, _absolute_path(settings.sam))
    settings, device = settle_device(settings, on)
    needs = _needs(image, len(boxes), dtype().itemsize, settings, device)
    stage_name = f"masks-{'-'.join(boxes)}"
    with Stage(sample, stage_name, _lasting(settings, device), inputs, outputs, on, needs) as stage:
        job = None
        if not stage.finished:
            job = _mask_job(sample, image, tuple(boxes), dtype, inputs, settings)
        visible = stage.map(
            _block_masks, image.blocks(), job, of_block=lambda block: _boxes_in_block(boxes, block)
        )
    paths = [output.path for output in outputs]
    return MaskSummary(
        volumes=paths,
        boxes={name: len(part) for name, part in boxes.items()},
        visible={name: sum(block[name] for block in visible) for name in boxes},
        sample=sample,
        written=tuple(paths),
    )


def _refuse_separate_images(sample: Sample, image: Volume, settings: MasksSettings) -> None:
    """Raise a SettingsError if slices are to be connected that are images of their own."""
    if settings.connectivity == "3d" and image.sizes:
        raise SettingsError(
            f"The slices of {sample.path.name} are separate images, and objects are not connected "
            "across them; leave out --connectivity 3d."
        )


def _inputs_of(image: Volume, boxes: Mapping[str, Boxes], model: str | None) -> dict[str, str]:
    """Return the fingerprints of image, boxes and model."""
    inputs = {"image": image.fingerprint}
    inputs |= {f"boxes {name}": part.fingerprint for name, part in boxes.items()}
    if model:
        inputs["model"] = _model_fingerprint(model)
    return inputs


def _lasting(settings: MasksSettings, device: torch.device) -> MasksSettings:
    """Return the settings that change a result, with the device that is used."""
    return changed(settings, {"sam": None, "keep_embeddings": False, "device": device.type})


def _boxes_to_mask(sample: Sample, settings: MasksSettings) -> dict[str, StoredBoxes]:
    """Return the boxes of all structures; they lie on one image."""
    names = settings.structures or tuple(detected_box_structures(sample))
    if not names:
        raise SampleError(
            f"{sample.path.name} has no boxes; find some with 'sparsem detect predict "
            f"{sample.path.name} MODEL'."
        )
    stored = {name: read_detected_boxes(sample, name) for name in names}
    images = sorted({boxes.image for boxes in stored.values()})
    if len(images) > 1:
        raise SampleError(
            f"Boxes in {sample.path.name} were found on {' and '.join(images)}; make masks of one "
            "--structure at a time."
        )
    return stored


def _embeddings_folder(
    sample: Sample, image: Volume, model_fingerprint: str, levels: GrayStatistics
) -> Path:
    """Return the folder that keeps the embeddings of one model and image."""
    content = {"model": model_fingerprint, "image": image.fingerprint, "levels": list(levels)}
    return sample.path / ".sparsem" / "embeddings" / fingerprint_of(content)


class _MaskJob(NamedTuple):
    """The arguments that all blocks share.

    Attributes:
        image: image of the boxes.
        names: structures.
        dtype: type of the labels; each mask is 1 in labels of bytes.
        model: folder or name of a Segment Anything Model.
        device: name of its device.
        levels: gray levels of the sample.
        embeddings: folder that keeps embeddings, if they are kept.
    """

    image: Volume
    names: tuple[str, ...]
    dtype: Any
    model: str | None
    device: str
    levels: GrayStatistics
    embeddings: Path | None


def _mask_job(
    sample: Sample,
    image: Volume,
    names: tuple[str, ...],
    dtype: Any,
    inputs: Mapping[str, str],
    settings: MasksSettings,
) -> _MaskJob:
    """Return the arguments of all blocks; a faulty model is reported before any work."""
    model = _absolute_path(settings.sam)
    if model:
        _load_once(model, settings.device)
    levels = sample_gray_statistics(image)
    folder = None
    if model and settings.keep_embeddings:
        folder = _embeddings_folder(sample, image, inputs["model"], levels)
    return _MaskJob(image, names, dtype, model, settings.device, levels, folder)


class _BlockBoxes(NamedTuple):
    """Boxes of one structure in some slices.

    Attributes:
        number: (n,) number of each object.
        z: (n,) slice indices.
        corners: (n, 4) px.
        score: (n,) in 0..1.
    """

    number: NDArray[np.int64]
    z: NDArray[np.int32]
    corners: Corners
    score: NDArray[np.float32]

    def of_slice(self, z: int) -> "_BlockBoxes":
        """Return the boxes of one slice."""
        indices = np.flatnonzero(self.z == z)
        return _BlockBoxes(
            self.number[indices], self.z[indices], self.corners[indices], self.score[indices]
        )


def _boxes_in_block(boxes: Mapping[str, Boxes], block: ZBlock) -> dict[str, _BlockBoxes]:
    """Return the boxes of each structure in a block, with their numbers."""
    in_block = {}
    for name, part in boxes.items():
        first, stop = np.searchsorted(part.z, (block.start, block.stop))
        number = np.arange(first, stop) + 1
        selection = slice(first, stop)
        in_block[name] = _BlockBoxes(
            number, part.z[selection], part.corners[selection], part.score[selection]
        )
    return in_block


def _absolute_path(model: str | None) -> str | None:
    """Return a folder by its absolute path, for workers elsewhere; a name on the hub as it is."""
    return str(Path(model).resolve()) if model and Path(model).is_dir() else model


def _model_fingerprint(model: str) -> str:
    """Return the fingerprint of the weights in a folder, or of the name of a model on the hub."""
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return fingerprint_of({"model": [file_digest(file) for file in files] or model})


def _needs(
    image: Volume, n_structures: int, itemsize: int, settings: MasksSettings, device: torch.device
) -> Needs:
    """Return memory and disk space of a block."""
    plane_px = image.shape[1] * image.shape[2]
    pixel_bytes = image.dtype.itemsize + 3 * itemsize * n_structures
    ram = plane_px * image.block_depth * pixel_bytes
    disk = n_structures * plane_px * image.shape[0] * itemsize // 16
    smaller = "import with a smaller --block-depth, or use fewer --workers"
    if settings.sam and device.type == "cuda":
        free, n_gpus = free_memory(device), gpus_of(settings.device)
        return Needs(ram, disk, smaller, gpu=SAM_BYTES, gpu_free=free, n_gpus=n_gpus)
    return Needs(ram + (SAM_BYTES if settings.sam else 0), disk, smaller)


def _block_masks(block: ZBlock, job: _MaskJob, boxes: dict[str, _BlockBoxes]) -> BlockResult:
    """Return the labels of a block, and the number of visible boxes of each structure."""
    voxels = job.image.read(block.own)
    labels = {name: np.zeros(voxels.shape, job.dtype) for name in job.names}
    visible = dict.fromkeys(job.names, 0)
    sam = _load_once(job.model, job.device) if job.model else None
    for z, padded in enumerate(voxels, block.start):
        height, width = job.image.size_of(z)
        of_slice = {name: boxes[name].of_slice(z) for name in job.names}
        corners = np.concatenate([part.corners for part in of_slice.values()])
        masks = iter(_slice_masks(padded[:height, :width], z, corners, sam, job))
        for name, part in of_slice.items():
            slice_labels = labels[name][z - block.start]
            structure_masks = list(islice(masks, len(part.number)))
            visible[name] += paint_masks(slice_labels, structure_masks, part.number, part.score)
    return {f"labels/{name}": volume for name, volume in labels.items()}, visible


def _slice_masks(
    plane: NDArray[Any], z: int, corners: Corners, sam: Sam | None, job: _MaskJob
) -> list[PlacedMask]:
    """Return the masks of all boxes (n, 4) of a slice."""
    if sam is None:
        return [mask_in_box(plane, box) for box in corners.tolist()]
    return sam_masks(plane, z, corners, sam, job.levels, job.embeddings)


def paint_masks(
    labels: NDArray[Any],
    masks: Sequence[PlacedMask],
    numbers: NDArray[np.int64],
    scores: NDArray[np.float32],
) -> int:
    """Paint masks into an image of labels, those of the highest scores on top.

    Args:
        labels: (y, x), changed in place. In labels of bytes each mask is 1.
        masks: n masks with their positions.
        numbers: (n,) label of each mask.
        scores: (n,) score of each mask.

    Returns:
        Number of masks with a pixel.
    """
    n_visible = 0
    order = np.argsort(scores, kind="stable")[::-1]
    for index in order:  # the first mask that covers a pixel keeps it
        mask, (top, left) = masks[index]
        height, width = mask.shape
        area = labels[top : top + height, left : left + width]
        is_free = mask & (area == 0)
        area[is_free] = 1 if labels.dtype == np.uint8 else numbers[index]
        n_visible += bool(is_free.any())
    return n_visible


@lru_cache(maxsize=1)
def _load_once(model: str, device: str) -> Sam:
    """Return the model of this process; it is loaded for the first block only."""
    return load_sam(model, choose_device(device))
