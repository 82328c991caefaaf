"""The content of a sample: description, and removal of parts."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

from sparsem.annotation.corrections import Corrections, forget_versions, read_corrections
from sparsem.annotation.labeled_slices import (
    annotated_structures,
    annotation_attributes,
    annotation_names,
)
from sparsem.annotation.precedence import apply_to_structures
from sparsem.annotation.writing import remove_replaced_annotation
from sparsem.errors import InputError
from sparsem.labels.results import is_outdated, older_than_annotation
from sparsem.settings import nearest
from sparsem.store.sample import Sample, now
from sparsem.store.volume import Volume
from sparsem.workflow.stage import forget

REMOVABLE = ("images", "annotations", "corrections", "probabilities", "labels", "truth")
# Folder -> prefix of the tables that hold the numbers of imported files.
FILE_IDS = {"annotations": "annotation_ids_", "labels": "label_ids_"}
# Prefixes of the tables of boxes, which can be removed as well.
BOXES = ("annotated_boxes_", "boxes_")


def describe(sample: Sample) -> dict[str, Any]:
    """Return what a sample holds and what was done to it.

    These are shape, voxel size, images, structures by folder, tables and history. ``stale`` names
    what was made on an image that was replaced since, ``outdated`` the tables of labels that were
    replaced, ``older`` the labels that were made before their annotation got its newest slices.
    ``montage`` names the images of a montage; empty for a stack.
    """
    names = sample.names("labels")
    image = sample.image("raw") if sample.has_image else sample.volume("labels", names[0])
    return {
        "sample": sample.path,
        **_describe_voxels(image),
        "annotations": annotated_structures(sample),
        "corrections": corrected_voxels(sample),
        "images": {name: _describe_image(sample, name) for name in sample.names("images")},
        "newest_image": sample.newest_image if sample.has_image else None,
        "probabilities": sample.names("probabilities"),
        "labels": names,
        "truth": sample.names("truth"),
        "numbers": list(image.numbers),
        "montage": _describe_montage(image),
        "repeated": list(image.repeated),
        "stale": _stale_volumes(sample),
        "older": older_than_annotation(sample),
        "outdated": _outdated_tables(sample),
        "tables": list(sample.tables),
        "history": sample.history(),
    }


def _describe_voxels(image: Volume) -> dict[str, Any]:
    """Return shape, type and size of a volume."""
    axes = zip(image.shape, image.voxel_size, strict=True)
    return {
        "shape": image.shape,
        "dtype": str(image.dtype),
        "voxel_nm": list(image.voxel_size),
        "size_um": [round(n * nm / 1000, 2) for n, nm in axes],
        "levels": image.levels,
    }


def corrected_voxels(sample: Sample) -> dict[str, int]:
    """Return the number of voxels that a person corrected, by the name of the labels."""
    counts = {}
    for name in sample.names("corrections"):
        corrections = read_corrections(sample, name)
        if corrections is not None and corrections.n_voxels:
            counts[name] = corrections.n_voxels
    return counts


def _describe_image(sample: Sample, name: str) -> dict[str, Any]:
    volume = sample.volume("images", name)
    return {"shape": volume.shape, "made_from": volume.made_on[0] if volume.made_on else None}


def _describe_montage(image: Volume) -> list[dict[str, Any]]:
    if not image.sizes:
        return []
    return [
        {"name": name, "size": size} for name, size in zip(image.names, image.sizes, strict=True)
    ]


def _stale_volumes(sample: Sample) -> list[str]:
    """Return what was made on an image that was replaced since, or is missing."""
    return [
        f"{folder}/{name}"
        for folder in ("images", "probabilities", "labels")
        for name in sample.names(folder)
        if sample.is_stale(folder, name)
    ]


def _outdated_tables(sample: Sample) -> list[str]:
    """Return the tables of labels and images that were replaced since."""
    tables = sample.tables
    outdated = []
    for name in sample.names("labels"):
        for table, stage in ((f"scores_{name}", "score"), (name, "measure")):
            if table in tables and is_outdated(sample, name, stage):
                outdated.append(f"tables/{table}")
    outdated += [
        f"tables/quality_{name}" for name in sample.images if is_outdated(sample, name, "quality")
    ]
    return outdated


def remove_pieces(sample: Sample, pieces: Sequence[str]) -> None:
    """Remove parts of a sample permanently: ``labels/NAME``, ``annotations/NAME``, ``images/NAME``.

    Raises:
        InputError: a part is the raw image, a table other than of boxes, or does not exist; another
            part was made or drawn on it; or the sample would be empty.
        SampleError: another run writes to the sample.
    """
    structures = _structures_of(sample, pieces)
    with sample.locked():
        _refuse_to_remove(sample, list(pieces), _removable_pieces(sample))
        (sample.path / ".sparsem" / "work").mkdir(exist_ok=True)
        stages = {path: entry["stage"] for entry in sample.history() for path in entry["outputs"]}
        for number, piece in enumerate(dict.fromkeys(pieces)):
            if piece.startswith("tables/"):
                sample.remove_table(piece.removeprefix("tables/"))
            else:
                _remove_volume(sample, piece, stages.get(piece, "none"), number)
        sample.publish_names()
        _remember_removal(sample, pieces)
    apply_to_structures(sample, structures, quiet=True)


def _structures_of(sample: Sample, pieces: Sequence[str]) -> list[str]:
    """Return the structures that a person drew in annotations and corrections."""
    annotation_of = annotation_names(sample)
    structures = [name for name in annotation_of if f"annotations/{annotation_of[name]}" in pieces]
    structures += [piece.partition("/")[2] for piece in pieces if piece.startswith("corrections/")]
    return list(dict.fromkeys(structures))


def _removable_pieces(sample: Sample) -> list[str]:
    """Return the paths of all volumes and tables of boxes."""
    volumes = [f"{folder}/{name}" for folder in REMOVABLE for name in sample.names(folder)]
    tables = [f"tables/{name}" for name in sample.tables if name.startswith(BOXES)]
    return volumes + tables


def _remember_removal(sample: Sample, pieces: Sequence[str]) -> None:
    """Add the removal to the history of the sample."""
    entry = {
        "stage": "remove",
        "fingerprint": f"{', '.join(pieces)} {now()}",
        "settings": {"removed": list(pieces)},
        "outputs": [],
        "finished": now(),
    }
    sample.remember(entry)


def _remove_volume(sample: Sample, piece: str, stage: str, number: int) -> None:
    """Remove a volume or an annotation, the table of its numbers, and the progress of its stage.

    It is renamed first, so that it is removed in one step even if the run is killed.
    """
    forget(sample, stage)
    folder, _, name = piece.partition("/")
    if folder in FILE_IDS:
        sample.remove_table(f"{FILE_IDS[folder]}{name}")
    if folder == "annotations":
        remove_replaced_annotation(sample, name)
    if folder == "corrections":
        forget_versions(sample, name)
    if folder == "labels":
        shutil.rmtree(sample.computed_folder(name), ignore_errors=True)
    removed = sample.path / ".sparsem" / "work" / f"removed-{number}"
    shutil.rmtree(removed, ignore_errors=True)
    os.replace(sample.path / piece, removed)
    shutil.rmtree(removed)


def _refuse_to_remove(sample: Sample, pieces: Sequence[str], removable: Sequence[str]) -> None:
    for piece in pieces:
        if piece not in removable:
            raise InputError(
                f"{sample.path.name} has no {piece} that can be removed{nearest(piece, removable)}"
            )
    for piece in removable:
        image = f"images/{_image_of(sample, piece)}"
        if image in pieces and piece not in pieces:
            raise InputError(
                f"{piece} of {sample.path.name} was made on {image}; remove it too, or keep both."
            )
    remaining = {f"labels/{name}" for name in sample.names("labels")} - set(pieces)
    if not sample.has_image and not remaining:
        raise InputError(f"{sample.path.name} holds nothing else; remove its whole folder.")


def _image_of(sample: Sample, piece: str) -> str:
    """Return the image that a part was made or drawn on.

    Empty for boxes, which stay when their image is removed, and report that it is missing.
    """
    folder, name = piece.split("/")
    if folder == "tables":
        return ""
    if folder == "annotations":
        return str(annotation_attributes(sample, name)["image"])
    if folder == "corrections":
        return Corrections(sample.path / piece).image[0]
    return sample.name_of_image(sample.volume(folder, name))
