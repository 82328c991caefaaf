"""Boxes in a sample: ``tables/annotated_boxes_NAME``, drawn by somebody, and ``tables/boxes_NAME``, found by a detector; a row a box.

A table tells in its metadata what no row can: which pictures were looked at, so that one without a box is known to hold nothing, and on
whose pixels the boxes lie.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, box_sizes
from sparsem.errors import ResumeError, SampleError
from sparsem.labels.inventory import BOXES
from sparsem.labels.results import CONSTRAINED
from sparsem.settings import nearest
from sparsem.store.names import checked_name
from sparsem.store.sample import Sample, now
from sparsem.store.volume import Volume
from sparsem.workflow.stage import fingerprint_of

ANNOTATED_PREFIX, DETECTED_PREFIX = BOXES
METADATA_KEY = b"sparsem"
CORNERS = ("x0_px", "y0_px", "x1_px", "y1_px")


@dataclass(frozen=True)
class StoredBoxes:
    """Boxes of one structure as a sample holds them.

    Attributes:
        boxes: of one name.
        pictures: that were looked at, ascending; any other may hold anything.
        image: on whose pixels they lie.
        about: what else the table says of itself.
        confidence: (N,) how probably a box is right; the score where nobody knows.
        counts: (N,) which are taken for objects.
    """

    boxes: Boxes
    pictures: tuple[int, ...]
    image: str
    about: Mapping[str, Any]
    confidence: NDArray[np.float32]
    counts: NDArray[np.bool_]

    @property
    def fingerprint(self) -> str:
        """Of what they were made from."""
        return str(self.about["fingerprint"])

    def counted(self) -> Boxes:
        """Those that are taken for objects."""
        return self.boxes[self.counts]


def image_names(sample: Sample) -> list[str]:
    """What every slice of a sample is called: its file, or the sample and its number."""
    raw = sample.image("raw")
    return (
        list(raw.names) if raw.names else [f"{sample.name}_z{z:04d}" for z in range(raw.shape[0])]
    )


def annotated_box_structures(sample: Sample) -> list[str]:
    """Structures that somebody drew boxes around."""
    return [
        name.removeprefix(ANNOTATED_PREFIX)
        for name in sample.tables
        if name.startswith(ANNOTATED_PREFIX)
    ]


def detected_box_structures(sample: Sample) -> list[str]:
    """Structures that a detector drew boxes around."""
    return [
        name.removeprefix(DETECTED_PREFIX)
        for name in sample.tables
        if name.startswith(DETECTED_PREFIX) and not name.endswith(CONSTRAINED)
    ]


def read_annotated_boxes(sample: Sample, name: str) -> StoredBoxes:
    """Boxes that somebody drew around a structure.

    Raises:
        SampleError: nobody did, or they were drawn on an image that was replaced since.
    """
    if name not in annotated_box_structures(sample):
        raise SampleError(
            f"{sample.path.name} has no annotated boxes of '{name}'{nearest(name, annotated_box_structures(sample))} "
            f"'sparsem detect import {sample.path.name} --source BOXES' brings some in."
        )
    return _read(sample, f"{ANNOTATED_PREFIX}{name}", name)


def read_detected_boxes(sample: Sample, name: str, as_predicted: bool = False) -> StoredBoxes:
    """Boxes that a detector found: those that biology allows where that was asked, unless they are wanted ``as_predicted``.

    Raises:
        SampleError: there are none, the image that they were found on was replaced, or they were found anew since they were constrained.
    """
    if name not in detected_box_structures(sample):
        raise SampleError(
            f"{sample.path.name} has no boxes of '{name}'{nearest(name, detected_box_structures(sample))} "
            f"'sparsem detect predict {sample.path.name} MODEL' finds some."
        )
    constrained = [
        table
        for table in sample.tables
        if table.startswith(DETECTED_PREFIX) and table.endswith(CONSTRAINED)
    ]
    abouts = {
        table.removeprefix(DETECTED_PREFIX).removesuffix(CONSTRAINED): _about(sample, table)
        for table in constrained
    }
    if as_predicted or not any(
        name in {own, *about.get("made_from", {})} for own, about in abouts.items()
    ):
        return _read(sample, f"{DETECTED_PREFIX}{name}", name)
    for own, about in abouts.items():
        of_one_run = all(
            abouts.get(one, {}).get("fingerprint") == about.get("fingerprint")
            for one in about.get("made_from", {"": ""})
        )
        changed = [
            one
            for one, fingerprint in about.get("made_from", {}).items()
            if detection_fingerprint(sample, one) != fingerprint
        ]
        if changed or not of_one_run:
            what = f"Boxes of '{changed[0]}'" if changed else f"Constrained boxes of '{own}'"
            raise SampleError(
                f"{what} in {sample.path.name} have changed since boxes were constrained, or that was interrupted; run 'sparsem detect "
                f"constrain {sample.path.name}' again."
            )
    return _read(sample, f"{DETECTED_PREFIX}{name}{CONSTRAINED}", name)


def write_annotated_boxes(
    sample: Sample, boxes: Boxes, pictures: Sequence[int], image: str, overwrite: bool
) -> None:
    """Keep what somebody drew around one structure.

    Raises:
        ResumeError: other boxes of that name are there, and ``overwrite`` is not set.
    """
    name = checked_name(boxes.names[0])
    fingerprint = _drawn(boxes, pictures, image)
    with sample.locked():
        if check_annotated_boxes(sample, boxes, pictures, image, overwrite):
            return
        about = {"pictures": list(map(int, pictures)), "fingerprint": fingerprint}
        _write(sample, f"{ANNOTATED_PREFIX}{name}", boxes, image, about, {})
        record = {
            "stage": f"annotate-boxes-{name}",
            "fingerprint": fingerprint,
            "settings": {"boxes": len(boxes), "image": image},
        }
        sample.remember({**record, "outputs": [], "finished": now()})


def _drawn(boxes: Boxes, pictures: Sequence[int], image: str) -> str:
    return fingerprint_of(
        {"boxes": boxes.fingerprint, "pictures": list(map(int, pictures)), "image": image}
    )


def check_annotated_boxes(
    sample: Sample, boxes: Boxes, pictures: Sequence[int], image: str, overwrite: bool
) -> bool:
    """Whether just these boxes, of one structure, are there already.

    Raises:
        InputError: what they are around cannot be a name.
        ResumeError: others are there, on this image or one that is gone, and are not to be replaced.
    """
    name = checked_name(boxes.names[0])
    if name not in annotated_box_structures(sample):
        return False
    about = _about(sample, f"{ANNOTATED_PREFIX}{name}")
    same = about.get("fingerprint") == _drawn(boxes, pictures, image)
    if same and about.get("image_fingerprint") == sample.image(image).fingerprint:
        return True
    if not overwrite:
        raise ResumeError(
            f"{sample.path.name} has other annotated boxes of '{name}' already; use --overwrite to replace them."
        )
    return False


def table_metadata(table: pa.Table | pa.Schema) -> dict[str, Any]:
    """What a table of boxes or of their scores says of itself; nothing if it says nothing."""
    schema = table.schema if isinstance(table, pa.Table) else table
    try:
        return dict(json.loads((schema.metadata or {})[METADATA_KEY]))
    except (KeyError, ValueError, TypeError):
        return {}


def _about(sample: Sample, table: str) -> dict[str, Any]:
    """What ``tables/TABLE`` says of itself; nothing if it is not there, or damaged."""
    try:
        return table_metadata(
            pyarrow.parquet.read_schema(sample.path / "tables" / f"{table}.parquet")
        )
    except (OSError, pa.ArrowException):
        return {}


def are_scores_outdated(sample: Sample) -> bool:
    """Whether boxes were drawn, found or constrained anew since ``tables/box_scores`` was written."""
    for key, fingerprint in _about(sample, "box_scores").get("made_from", {}).items():
        _, name, kind = key.rsplit(" ", 2)
        table = {
            "annotated": f"{ANNOTATED_PREFIX}{name}",
            "constrained": f"{DETECTED_PREFIX}{name}{CONSTRAINED}",
        }.get(kind, f"{DETECTED_PREFIX}{name}")
        if _about(sample, table).get("fingerprint") != fingerprint:
            return True
    return False


def are_masks_outdated(sample: Sample, name: str) -> bool:
    """Whether ``labels/NAME`` was made of other boxes than those that count now; labels that were not made of boxes never are."""
    made = [entry["settings"] for entry in sample.history() if f"labels/{name}" in entry["outputs"]]
    before = made[-1].get(f"input boxes {name}") if made else None
    if before is None:
        return False
    return (
        name not in detected_box_structures(sample)
        or read_detected_boxes(sample, name).counted().fingerprint != before
    )


def detection_fingerprint(sample: Sample, name: str) -> str:
    """Fingerprint of the run that found the boxes of a structure; empty if there are none."""
    return (
        str(_about(sample, f"{DETECTED_PREFIX}{name}").get("fingerprint", ""))
        if name in detected_box_structures(sample)
        else ""
    )


def write_detected_boxes(sample: Sample, table: str, kept: StoredBoxes) -> None:
    """Keep boxes of one structure that a detector found, as ``tables/TABLE``."""
    about = {**kept.about, "pictures": list(kept.pictures)}
    numbers = np.where(kept.counts, np.cumsum(kept.counts), 0)  # of the objects, as masks have them
    columns = {
        "score": kept.boxes.score,
        "confidence": kept.confidence,
        "counts": kept.counts,
        "object": numbers,
    }
    _write(sample, table, kept.boxes, kept.image, about, columns)


def _write(
    sample: Sample,
    table: str,
    boxes: Boxes,
    image: str,
    about: Mapping[str, Any],
    more: Mapping[str, NDArray[Any]],
) -> None:
    volume = sample.image(image)
    names = image_names(sample)
    micrometers = (
        box_sizes(boxes.corners)
        * np.array([volume.voxel_size.x, volume.voxel_size.y], np.float32)
        / 1000
    )
    columns: dict[str, Any] = {"z": boxes.z, "picture": [names[z] for z in boxes.z.tolist()]}
    columns |= dict(zip(CORNERS, boxes.corners.T, strict=True))
    columns |= {"width_um": micrometers[:, 0], "height_um": micrometers[:, 1], **more}
    metadata = {**about, "image": image, "image_fingerprint": volume.fingerprint}
    sample.write_table(
        table,
        pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode()}),
    )


def _read(sample: Sample, table: str, name: str) -> StoredBoxes:
    found = sample.read_table(table)
    try:
        about = json.loads((found.schema.metadata or {})[METADATA_KEY])
        corners = np.column_stack([found[column].to_numpy() for column in CORNERS])
        score = found["score"].to_numpy() if "score" in found.column_names else None
        boxes = Boxes.from_arrays((name,), found["z"].to_numpy(), 0, corners, score)
        pictures, image, made_on = (
            tuple(about["pictures"]),
            str(about["image"]),
            about["image_fingerprint"],
        )
    except (KeyError, ValueError, TypeError):
        raise SampleError(
            f"tables/{table} of {sample.path.name} was not written by sparsem, or is damaged; make it again."
        ) from None
    volume: Volume = sample.image(image)
    if volume.fingerprint != made_on:
        raise SampleError(
            f"tables/{table} of {sample.path.name} speaks of the image '{image}', which was replaced since; make it again."
        )
    confidence = (
        found["confidence"].to_numpy() if "confidence" in found.column_names else boxes.score
    )
    counts = (
        found["counts"].to_numpy(zero_copy_only=False)
        if "counts" in found.column_names
        else np.ones(len(boxes), bool)
    )
    return StoredBoxes(
        boxes, pictures, image, about, np.asarray(confidence, np.float32), np.asarray(counts, bool)
    )
