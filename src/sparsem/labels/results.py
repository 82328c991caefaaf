"""What a sample holds, at a glance; which labels count; what has to be made again; and taking a piece of a sample away."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

from sparsem.annotation.labeled_slices import annotated_structures, annotation_names
from sparsem.annotation.writing import remove_replaced_annotation
from sparsem.errors import InputError, SampleError
from sparsem.settings import nearest
from sparsem.store.sample import Sample, now
from sparsem.store.snapshot import read_attributes
from sparsem.store.volume import Volume
from sparsem.workflow.stage import forget

CONSTRAINED = (
    "-constrained"  # ending of the labels that biology allows, which count where there are any
)
REMOVABLE = ("images", "annotations", "probabilities", "labels", "truth")
FILE_IDS = {
    "annotations": "annotation_ids_",
    "labels": "label_ids_",
}  # folder -> how the table of its files' numbers begins
BOXES = ("annotated_boxes_", "boxes_")  # how tables of boxes begin, which can be removed too


def describe(sample: Sample) -> dict[str, Any]:
    """What a sample holds and what was done to it: shape, voxel size, images, structures by folder, tables, history.

    ``stale`` names what was made on an image that was replaced since, ``is_outdated`` the tables of labels that were,
    ``older`` labels that were made before their annotation got its newest slices.
    """
    names = sample.names("labels")
    image = sample.image("raw") if sample.has_image else sample.volume("labels", names[0])
    return {
        "sample": sample.path,
        "shape": image.shape,
        "dtype": str(image.dtype),
        "voxel_nm": list(image.voxel_size),
        "size_um": [
            round(n * nm / 1000, 2) for n, nm in zip(image.shape, image.voxel_size, strict=True)
        ],
        "levels": image.levels,
        "annotations": annotated_structures(sample),
        "images": {name: _image(sample, name) for name in sample.names("images")},
        "newest_image": sample.newest_image if sample.has_image else None,
        **{folder: sample.names(folder) for folder in ("probabilities", "labels", "truth")},
        "numbers": list(image.numbers),
        "pictures": [
            {"name": name, "size": size}
            for name, size in zip(image.names, image.sizes, strict=True)
        ]
        if image.sizes
        else [],
        "repeated": list(image.repeated),
        "stale": [
            f"{folder}/{name}"
            for folder in ("images", "probabilities", "labels")
            for name in sample.names(folder)
            if _is_stale(sample, folder, name)
        ],
        "older": older_than_annotation(sample),
        "outdated": [
            f"tables/{table}"
            for name in names
            for table, made_by in ((f"scores_{name}", "score"), (name, "measure"))
            if table in sample.tables and is_outdated(sample, name, made_by)
        ]
        + [
            f"tables/quality_{name}"
            for name in sample.images
            if is_outdated(sample, name, "quality")
        ],
        "tables": sample.tables,
        "history": sample.history(),
    }


def _image(sample: Sample, name: str) -> dict[str, Any]:
    volume = sample.volume("images", name)
    return {"shape": volume.shape, "made_from": volume.made_on[0] if volume.made_on else None}


def _is_stale(sample: Sample, folder: str, name: str) -> bool:
    """Whether it was made on an image that was replaced since, or is gone."""
    try:
        sample.frame(sample.volume(folder, name))
    except SampleError:
        return True
    return False


def older_than_annotation(sample: Sample) -> list[str]:
    """Return the ``labels/NAME`` that were made before the annotation of their structure was last written."""
    last: dict[str, int] = {}  # the entry of the history that wrote a piece last
    for number, entry in enumerate(sample.history()):
        last.update(dict.fromkeys(entry.get("outputs", ()), number))
    annotation_of = annotation_names(sample)
    older = []
    for name in sample.names("labels"):
        structure = name.removesuffix(CONSTRAINED).removesuffix("-objects")
        drawn = last.get(f"annotations/{annotation_of.get(structure, structure)}", -1)
        if drawn > last.get(f"labels/{name}", drawn):
            older.append(f"labels/{name}")
    return older


def result_labels(sample: Sample, name: str) -> Volume:
    """The labels of a structure that count: the constrained ones where there are any, else ``labels/NAME``.

    Raises:
        SampleError: there are none, the image that they were made on was replaced, or they were since they were constrained.
    """
    labels = sample.volume("labels", name)
    sample.frame(labels)
    if f"{name}{CONSTRAINED}" not in sample.names("labels"):
        return labels
    read = "input labels/"
    inputs = {
        key.removeprefix(read): value
        for key, value in sample.last_settings("constrain").items()
        if key.startswith(read)
    }
    there = sample.names("labels")
    changed = [
        one
        for one, value in inputs.items()
        if one not in there or sample.volume("labels", one).fingerprint != value
    ]
    if changed or name not in inputs:
        what = changed[0] if changed else name
        raise SampleError(
            f"labels/{what} of {sample.path.name} has changed since labels/{name} was constrained; run 'sparsem constrain "
            f"{sample.path.name} --overwrite', or the same with --undo."
        )
    return sample.volume("labels", f"{name}{CONSTRAINED}")


def object_labels(sample: Sample, name: str) -> Volume | None:
    """Return ``labels/NAME-objects``, the objects of a mask that ``measure`` counts, if they are of the labels that count.

    Raises:
        SampleError: as of ``result_labels``.
    """
    if f"{name}-objects" not in sample.names("labels"):
        return None
    made_from = sample.last_settings(f"objects-{name}").get("input mask")
    return (
        sample.volume("labels", f"{name}-objects")
        if made_from == result_labels(sample, name).fingerprint
        else None
    )


def is_outdated(sample: Sample, name: str, table: str) -> bool:
    """Whether a table is of something else than what is there now.

    That is ``tables/scores_NAME`` or ``tables/NAME`` and the labels of the structure that count, or ``tables/quality_NAME`` and the image.

    Args:
        sample: that holds it.
        name: of the structure or image.
        table: ``score``, ``measure`` or ``quality``, what it was made by.
    """
    if table == "measure":
        before = _measured_labels(sample, name)
    else:
        stage, read = {
            "score": (f"score-{name}", "labels"),
            "quality": (f"quality-{name}", "image"),
        }[table]
        before = sample.last_settings(stage).get(f"input {read}")
    try:
        present = sample.image(name) if table == "quality" else result_labels(sample, name)
        return before is not None and before != present.fingerprint
    except SampleError:
        return before is not None


def _measured_labels(sample: Sample, name: str) -> str | None:
    """Return the fingerprint of the labels that ``tables/NAME`` was measured from; None if there is no such table."""
    fingerprint: str | None = (
        sample.table_notes(name).get("labels") if name in sample.tables else None
    )
    return fingerprint


def remove_pieces(sample: Sample, pieces: Sequence[str]) -> None:
    """Take pieces of a sample away, for good: ``labels/NAME``, ``annotations/NAME``, ``images/NAME`` and so on.

    Raises:
        InputError: a piece is the raw image, a table other than of boxes, or none; something else was made or drawn on it; or nothing
            would be left.
        SampleError: another run writes to the sample.
    """
    with sample.locked():
        there = [f"{folder}/{name}" for folder in REMOVABLE for name in sample.names(folder)]
        there += [f"tables/{name}" for name in sample.tables if name.startswith(BOXES)]
        _refuse_to_remove(sample, list(pieces), there)
        work = sample.path / ".sparsem" / "work"
        work.mkdir(exist_ok=True)
        stages = {path: entry["stage"] for entry in sample.history() for path in entry["outputs"]}
        for number, piece in enumerate(dict.fromkeys(pieces)):
            if piece.startswith("tables/"):
                sample.remove_table(piece.removeprefix("tables/"))
                continue
            forget(sample, stages.get(piece, "none"))
            folder, _, name = piece.partition("/")
            if folder in FILE_IDS:
                sample.remove_table(f"{FILE_IDS[folder]}{name}")
            if piece.startswith("annotations/"):
                remove_replaced_annotation(sample, piece.removeprefix("annotations/"))
            aside = work / f"removed-{number}"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(sample.path / piece, aside)  # gone in one step, whatever comes between
            shutil.rmtree(aside)
        sample.publish_names()
        what = {
            "stage": "remove",
            "fingerprint": f"{', '.join(pieces)} {now()}",
            "settings": {"removed": list(pieces)},
        }
        sample.remember({**what, "outputs": [], "finished": now()})


def _refuse_to_remove(sample: Sample, pieces: Sequence[str], there: Sequence[str]) -> None:
    for piece in pieces:
        if piece not in there:
            raise InputError(
                f"{sample.path.name} has no {piece} that can be removed{nearest(piece, there)}"
            )
    for other in there:
        base = f"images/{_stands_on(sample, other)}"
        if base in pieces and other not in pieces:
            raise InputError(
                f"{other} of {sample.path.name} was made on {base}; remove it too, or keep both."
            )
    if not sample.has_image and not {f"labels/{name}" for name in sample.names("labels")} - set(
        pieces
    ):
        raise InputError(f"{sample.path.name} holds nothing else; remove its whole folder.")


def _stands_on(sample: Sample, piece: str) -> str:
    """The image that a piece was made or drawn on; boxes stay when it goes, and tell that it did."""
    folder, name = piece.split("/")
    if folder == "tables":
        return ""
    if folder == "annotations":
        return str(read_attributes(sample.path / piece)["sparsem"]["image"])
    return sample.name_of_image(sample.volume(folder, name))
