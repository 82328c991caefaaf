"""The stage ``detect predict``: boxes of a detector in every image of a sample.

It writes ``tables/boxes_NAME`` for each of the detector's structures.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from sparsem.boxes.geometry import Boxes
from sparsem.boxes.tables import (
    DETECTED_PREFIX,
    StoredBoxes,
    detection_fingerprint,
    read_detected_boxes,
    write_detected_boxes,
)
from sparsem.detect.inference import (
    MAX_PLANE_PX,
    GrayStatistics,
    detect_in_tiles,
    merge_tiles_of_image,
    sample_gray_statistics,
    tiling_of,
    window_reader,
)
from sparsem.detect.models.detector import Detector
from sparsem.detect.models.networks import detector_class
from sparsem.detect.settings import DetectSettings
from sparsem.detect.tiling import TileDetections, Tiling, concatenate_detections
from sparsem.detect.training.recipe import DetectorRecipe, load_detector, read_detector
from sparsem.errors import ResumeError
from sparsem.models.checkpoint import file_digest
from sparsem.models.device import choose_device, free_memory, gpus_of, settle_device
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.result import StageResult
from sparsem.workflow.stage import Arrays, Stage, forget, link_arrays

GROUP_TILES = 64  # tiles of an image in a group, the unit of work and of resuming
LIBRARY_BYTES = 1_200_000_000  # memory of torch and the detector
INPUT_BYTES = 8  # memory for each pixel of a tile before it is resized


class TileGroup(NamedTuple):
    """Tiles of an image that are searched together: those from ``first`` to before ``stop``."""

    z: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"z{self.z:06d}-{self.first:06d}"


@dataclass(frozen=True)
class DetectResult(StageResult):
    """The result of ``detect``.

    Attributes:
        boxes: the detected boxes of each structure.
    """

    boxes: dict[str, StoredBoxes]


def detect(
    sample: Sample,
    model: str | Path,
    settings: DetectSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> DetectResult:
    """Write ``tables/boxes_NAME`` for every structure of a detector: a row for each box.

    The detector sees the nm per pixel that it was trained at, whatever the voxel size of the
    sample, and searches images of any size tile by tile. An interrupted run resumes with the tiles
    that are left.

    Args:
        sample: sample whose slices are searched.
        model: checkpoint that ``train_detector`` wrote.
        settings: overlap of tiles, batch, device, image.
        on: how the work is distributed.

    Returns:
        The boxes of each structure.

    Raises:
        InputError: the model is missing, damaged, or no detector.
        ResumeError: the sample has boxes of another detector or other settings, and
            ``on.overwrite`` is not set.
        ResourceError: a batch of tiles does not fit into memory.
    """
    settings = resolve_settings(DetectSettings, settings, changes)
    settings, device = settle_device(settings, on)
    file = Path(model).resolve()
    recipe = read_detector(file)
    image_name = settings.image or sample.newest_image
    image = sample.image(image_name)
    tiling_of_slice = partial(_tiling_of_slice, image, recipe, settings.overlap)
    groups = _tile_groups(image, tiling_of_slice)
    stage = Stage(
        sample,
        f"detect-{'-'.join(recipe.structures)}",
        _lasting_settings(changed(settings, {"image": image_name}), device),
        {"image": image.fingerprint, "model": file_digest(file)},
        [],
        on,
        partial(_needs, image, recipe, settings, device),
    )
    stage.refuse_other()
    _forget_replaced_boxes(sample, stage, recipe.structures)
    with stage:
        if not stage.finished:
            levels = sample_gray_statistics(image)
            chains = {group.name: [group] for group in groups}
            folder = stage.chain(stage.name, _search_group, chains, image, file, levels, settings)
            boxes = _merged_boxes(folder, groups, tiling_of_slice, recipe)
            stage.forget()
            _write_boxes(sample, boxes, image, image_name, recipe, stage.fingerprint)
    return _stored_result(sample, recipe.structures)


def _write_boxes(
    sample: Sample,
    boxes: Boxes,
    image: Volume,
    image_name: str,
    recipe: DetectorRecipe,
    fingerprint: str,
) -> None:
    """Write the boxes of all structures of a detector to their tables."""
    for structure in recipe.structures:
        of_structure = boxes.of_structure(structure)
        stored = _boxes_to_store(of_structure, image, image_name, recipe, fingerprint)
        write_detected_boxes(sample, f"{DETECTED_PREFIX}{structure}", stored)


def _stored_result(sample: Sample, structures: Sequence[str]) -> DetectResult:
    """Return the result of a detector, from the tables of its structures."""
    boxes = {
        structure: read_detected_boxes(sample, structure, as_predicted=True)
        for structure in structures
    }
    written = tuple(f"tables/{DETECTED_PREFIX}{structure}" for structure in structures)
    return DetectResult(boxes, sample=sample, written=written)


def _tile_groups(image: Volume, tiling_of_slice: Callable[[int], Tiling]) -> list[TileGroup]:
    """Return the groups of tiles of all slices, in order."""
    groups = []
    for z in range(image.shape[0]):
        n_tiles = len(tiling_of_slice(z).windows)
        groups += [
            TileGroup(z, first, min(first + GROUP_TILES, n_tiles))
            for first in range(0, n_tiles, GROUP_TILES)
        ]
    return groups


def _forget_replaced_boxes(sample: Sample, stage: Stage, structures: Sequence[str]) -> None:
    """Forget an earlier run if a table was removed, or replaced by another detector, since.

    Raises:
        ResumeError: other boxes are there, and may not be replaced.
    """
    fingerprints = {structure: detection_fingerprint(sample, structure) for structure in structures}
    if any(fingerprint != stage.fingerprint for fingerprint in fingerprints.values()):
        _refuse_other_boxes(sample, stage, fingerprints)
        forget(sample, stage.name)


def _refuse_other_boxes(sample: Sample, stage: Stage, fingerprints: Mapping[str, str]) -> None:
    """Raise a ResumeError if another detector found boxes that may not be replaced."""
    history = sample.history()
    own_runs = {entry["fingerprint"] for entry in history if entry["stage"] == stage.name}
    own_runs.add(stage.fingerprint)
    others = [
        name
        for name, fingerprint in fingerprints.items()
        if fingerprint and fingerprint not in own_runs
    ]
    if others and not (stage.on.overwrite or stage.is_resumed):
        raise ResumeError(
            f"{sample.path.name} has boxes of '{others[0]}' that another detector found; use "
            "--overwrite to replace them, or the same detector to keep them."
        )


def _lasting_settings(settings: DetectSettings, device: torch.device) -> Settings:
    """Return the settings that change a result, with the device that is used.

    The batch changes only the speed.
    """
    return changed(settings, {"batch": 1, "device": device.type})


def _tiling_of_slice(image: Volume, recipe: DetectorRecipe, overlap: float, z: int) -> Tiling:
    """Return the tiles of a slice."""
    return tiling_of(image.size_of(z), recipe, image.voxel_size, overlap)


def _needs(
    image: Volume, recipe: DetectorRecipe, settings: DetectSettings, device: torch.device
) -> Needs:
    """Return the memory of a group of tiles."""
    tile_px = math.prod(recipe.tile_shape(image.voxel_size))
    read = _bytes_read_at_once(image, tile_px * settings.batch)
    network_bytes = detector_class(recipe.detector).inference_bytes * recipe.input_px**2
    batch = settings.batch * (network_bytes + INPUT_BYTES * tile_px)
    fixed = LIBRARY_BYTES + batch
    smaller = "use a smaller --batch, or fewer --workers"
    if device.type == "cuda":
        n_gpus = gpus_of(settings.device)
        return Needs(fixed + 2 * read, 0, smaller, fixed, free_memory(device), n_gpus)
    return Needs(fixed + 2 * read * min(image.block_depth, 2), 0, smaller)


def _bytes_read_at_once(image: Volume, batch_px: int) -> int:
    """Return the bytes of an image that are read at once: a slice, or a batch of a huge one."""
    plane_px = image.shape[1] * image.shape[2]
    read_px = plane_px if plane_px <= MAX_PLANE_PX else batch_px
    return read_px * image.dtype.itemsize


def _search_group(
    group: TileGroup,
    before: Any,
    image: Volume,
    file: Path,
    levels: GrayStatistics,
    settings: DetectSettings,
) -> Arrays:
    """Return the boxes in a group of tiles as arrays; ``before`` is not used."""
    network, recipe, device = _load_once(file, file.stat().st_mtime_ns, settings.device)
    tiling = _tiling_of_slice(image, recipe, settings.overlap, group.z)
    windows = tiling.windows[group.first : group.stop]
    rows = slice(int(windows[:, 1].min()), int(windows[:, 3].max()))
    detections = detect_in_tiles(
        window_reader(image, group.z, rows),
        tiling,
        range(group.first, group.stop),
        network,
        recipe,
        levels,
        settings.batch,
        device,
    )
    return detections._asdict()


@lru_cache(maxsize=1)
def _load_once(
    file: Path, changed: int, device: str
) -> tuple[Detector, DetectorRecipe, torch.device]:
    """Return the detector of this process; it is loaded for the first group only.

    Args:
        file: checkpoint.
        changed: time of its last change, ns: a changed checkpoint is loaded again.
        device: name of the device.
    """
    network, recipe = load_detector(file)
    torch_device = choose_device(device)
    return network.to(torch_device), recipe, torch_device


def _merged_boxes(
    folder: Path,
    groups: Sequence[TileGroup],
    tiling_of_slice: Callable[[int], Tiling],
    recipe: DetectorRecipe,
) -> Boxes:
    """Return one box for each object in all images."""
    z = [np.empty(0, np.int64)]
    merged = []
    for slice_index, slice_groups in groupby(groups, key=lambda group: group.z):
        parts = [_read_group(folder, group) for group in slice_groups]
        detections = merge_tiles_of_image(
            concatenate_detections(parts), tiling_of_slice(slice_index), recipe.input_px
        )
        merged.append(detections)
        z.append(np.full(len(detections.kind), slice_index))
    objects = concatenate_detections(merged)
    return Boxes.from_arrays(
        recipe.structures, np.concatenate(z), objects.kind, objects.corners, objects.score
    )


def _read_group(folder: Path, group: TileGroup) -> TileDetections:
    """Return the boxes of a group of tiles from its files."""
    arrays = link_arrays(folder, group.name, 0)
    columns = [np.asarray(arrays[field][...]) for field in TileDetections._fields]
    return TileDetections(*columns)


def _boxes_to_store(
    boxes: Boxes, image: Volume, image_name: str, recipe: DetectorRecipe, fingerprint: str
) -> StoredBoxes:
    """Return the boxes of one structure with their confidence and metadata."""
    structure = boxes.names[0]
    threshold = recipe.threshold(structure)
    metadata = {
        "fingerprint": fingerprint,
        "used_slices": recipe.training.get("used_slices"),
        "detector": recipe.detector,
        "counts_from": threshold,
    }
    return StoredBoxes(
        boxes,
        tuple(range(image.shape[0])),
        image_name,
        metadata,
        recipe.confidence_of(structure, boxes.score),
        boxes.score >= threshold,
    )
