"""The stage ``detect predict``: a detector on every picture of a sample -> ``tables/boxes_NAME`` of each of its structures."""

from collections.abc import Callable, Mapping, Sequence
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
    AT_ONCE,
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
from sparsem.detect.slicing import NO_DETECTIONS, TileDetections, Tiling
from sparsem.detect.training.recipe import DetectorRecipe, load_detector, read_detector
from sparsem.errors import ResumeError
from sparsem.models.device import choose_device, free_memory
from sparsem.segment.predict import file_hash
from sparsem.settings import Settings, changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Arrays, Stage, forget, link_arrays

PIECE = 64  # tiles of a picture that are done together, at most: the unit of work, and of resuming
LIBRARIES = 1_200_000_000  # bytes of torch and the detector


class TileGroup(NamedTuple):
    """Tiles of a picture that are done together: ``z``, and the ``first`` and beyond the last (``stop``) of them."""

    z: int
    first: int
    stop: int

    @property
    def name(self) -> str:
        """Of its chain."""
        return f"z{self.z:06d}-{self.first:06d}"


def detect(
    sample: Sample,
    model: str | Path,
    settings: DetectSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> dict[str, StoredBoxes]:
    """Write ``tables/boxes_NAME`` for every structure that the detector knows: a row a box, with its score.

    The detector sees the nm per pixel that it was trained at, whatever the voxel size of the sample, and pictures of any size, tile by
    tile. A picture that is done is not done again.

    Args:
        sample: its slices are the pictures.
        model: what ``train_detector`` wrote.
        settings: overlap of tiles, batch, device, image.
        on: how the work is spread.

    Returns:
        The boxes of each structure.

    Raises:
        InputError: the file is missing, damaged, or no detector.
        ResumeError: there are boxes of another detector or other settings, and ``on.overwrite`` is not set.
        ResourceError: a batch of tiles does not fit into memory.
    """
    settings = resolve_settings(DetectSettings, settings, changes)
    file = Path(model).resolve()
    recipe = read_detector(file)
    name = settings.image or sample.newest_image
    image = sample.image(name)
    cut = partial(_slicing, image, recipe, settings.overlap)
    counts = [len(cut(z).windows) for z in range(image.shape[0])]
    pieces = [
        TileGroup(z, first, min(first + PIECE, count))
        for z, count in enumerate(counts)
        for first in range(0, count, PIECE)
    ]
    stage_name = f"detect-{'-'.join(recipe.structures)}"
    inputs = {"image": image.fingerprint, "model": file_hash(file)}
    lasting = _lasting(changed(settings, {"image": name}))
    stage = Stage(
        sample, stage_name, lasting, inputs, [], on, partial(_needs, image, recipe, settings)
    )
    stage.refuse_other()
    made_by = {
        structure: detection_fingerprint(sample, structure) for structure in recipe.structures
    }
    if any(fingerprint != stage.fingerprint for fingerprint in made_by.values()):
        _refuse_others(sample, stage, made_by)
        forget(
            sample, stage_name
        )  # a table was taken away, or another detector found such boxes since
    with stage:
        if not stage.finished:
            levels = sample_gray_statistics(image)
            chains = {one.name: [one] for one in pieces}
            folder = stage.chain(stage.name, _find, chains, image, file, levels, settings)
            found = _all_merged(folder, pieces, cut, recipe)
            stage.forget()
            for structure in recipe.structures:
                write_detected_boxes(
                    sample,
                    f"{DETECTED_PREFIX}{structure}",
                    _kept(found.of_structure(structure), image, name, recipe, stage.fingerprint),
                )
    return {
        structure: read_detected_boxes(sample, structure, as_predicted=True)
        for structure in recipe.structures
    }


def _refuse_others(sample: Sample, stage: Stage, made_by: Mapping[str, str]) -> None:
    """Boxes that another detector found are only replaced on request."""
    own = {entry["fingerprint"] for entry in sample.history() if entry["stage"] == stage.name}
    others = [
        name
        for name, fingerprint in made_by.items()
        if fingerprint and fingerprint not in {*own, stage.fingerprint}
    ]
    if others and not (stage.on.overwrite or stage.goes_on):
        raise ResumeError(
            f"{sample.path.name} has boxes of '{others[0]}' that another detector found; use --overwrite to replace them, or the same "
            "detector to keep them."
        )


def _lasting(settings: DetectSettings) -> Settings:
    """The settings that change a result, as they turn out here; how many tiles are seen at once changes the speed alone."""
    return changed(settings, {"batch": 1, "device": choose_device(settings.device).type})


def _slicing(image: Volume, recipe: DetectorRecipe, overlap: float, z: int) -> Tiling:
    """How a picture is cut."""
    return tiling_of(image.size_of(z), recipe, image.voxel_size, overlap)


def _needs(image: Volume, recipe: DetectorRecipe, settings: DetectSettings) -> Needs:
    plane, (height, width) = image.shape[1] * image.shape[2], recipe.edge(image.voxel_size)
    read = (plane if plane <= AT_ONCE else height * width * settings.batch) * image.dtype.itemsize
    seen = settings.batch * (
        detector_class(recipe.detector).finding_bytes * recipe.see**2 + 8 * height * width
    )
    smaller = "use a smaller --batch, or fewer --workers"
    device = choose_device(settings.device)
    if device.type == "cuda":
        return Needs(
            LIBRARIES + 2 * read + seen,
            0,
            smaller,
            gpu=LIBRARIES + seen,
            gpu_free=free_memory(device),
        )
    return Needs(LIBRARIES + 2 * read * min(image.block_depth, 2) + seen, 0, smaller)


def _find(
    piece: TileGroup,
    before: Any,
    image: Volume,
    file: Path,
    levels: GrayStatistics,
    settings: DetectSettings,
) -> Arrays:
    network, recipe, device = _loaded(file, file.stat().st_mtime_ns, settings.device)
    slicing, tiles = (
        _slicing(image, recipe, settings.overlap, piece.z),
        range(piece.first, piece.stop),
    )
    rows = slicing.windows[piece.first : piece.stop]
    window = window_reader(image, piece.z, slice(int(rows[:, 1].min()), int(rows[:, 3].max())))
    found = detect_in_tiles(window, slicing, tiles, network, recipe, levels, settings.batch, device)
    return found._asdict()


@lru_cache(maxsize=1)
def _loaded(file: Path, changed: int, device: str) -> tuple[Detector, DetectorRecipe, torch.device]:
    """The detector of this process; pieces that follow find it loaded."""
    network, recipe = load_detector(file)
    chosen = choose_device(device)
    return network.to(chosen), recipe, chosen


def _all_merged(
    folder: Path, pieces: Sequence[TileGroup], cut: Callable[[int], Tiling], recipe: DetectorRecipe
) -> Boxes:
    """One box an object, in all pictures."""
    z, parts = [np.empty(0, np.int64)], [NO_DETECTIONS]
    for picture, own in groupby(pieces, key=lambda piece: piece.z):
        arrays = [link_arrays(folder, piece.name, 0) for piece in own]
        found = TileDetections(
            *(
                np.concatenate([np.asarray(one[field][...]) for one in arrays])
                for field in TileDetections._fields
            )
        )
        parts.append(merge_tiles_of_image(found, cut(picture), recipe.see))
        z.append(np.full(len(parts[-1].kind), picture))
    every = TileDetections(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return Boxes.from_arrays(
        recipe.structures, np.concatenate(z), every.kind, every.corners, every.score
    )


def _kept(
    boxes: Boxes, image: Volume, name: str, recipe: DetectorRecipe, fingerprint: str
) -> StoredBoxes:
    structure = boxes.names[0]
    confidence = recipe.confident(structure, boxes.score)
    about = {
        "fingerprint": fingerprint,
        "seen": recipe.training.get("seen"),
        "detector": recipe.detector,
    }
    about["counts_from"] = recipe.threshold(structure)
    pictures = tuple(range(image.shape[0]))
    return StoredBoxes(
        boxes, pictures, name, about, confidence, boxes.score >= recipe.threshold(structure)
    )
