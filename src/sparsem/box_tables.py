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
from numpy.typing import NDArray

from sparsem.boxes import Boxes, sizes, together
from sparsem.contents import CONSTRAINED
from sparsem.errors import ResumeError, SampleError
from sparsem.settings import nearest
from sparsem.stage import fingerprint_of
from sparsem.store.sample import Sample, checked_name, now
from sparsem.store.volume import Volume

ANNOTATED, FOUND = "annotated_boxes_", "boxes_"
KEY = b"sparsem"
CORNERS = ("x0_px", "y0_px", "x1_px", "y1_px")


@dataclass(frozen=True)
class Kept:
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


def picture_names(sample: Sample) -> list[str]:
    """What every slice of a sample is called: its file, or the sample and its number."""
    raw = sample.image("raw")
    return list(raw.names) if raw.names else [f"{sample.name}_z{z:04d}" for z in range(raw.shape[0])]


def annotated_names(sample: Sample) -> list[str]:
    """Structures that somebody drew boxes around."""
    return [name.removeprefix(ANNOTATED) for name in sample.tables if name.startswith(ANNOTATED)]


def found_names(sample: Sample) -> list[str]:
    """Structures that a detector drew boxes around."""
    return [name.removeprefix(FOUND) for name in sample.tables if name.startswith(FOUND) and not name.endswith(CONSTRAINED)]


def read_annotated(sample: Sample, name: str) -> Kept:
    """Boxes that somebody drew around a structure.

    Raises:
        SampleError: nobody did, or they were drawn on an image that was replaced since.
    """
    if name not in annotated_names(sample):
        raise SampleError(
            f"{sample.path.name} has no annotated boxes of '{name}'{nearest(name, annotated_names(sample))} "
            f"'sparsem detect import {sample.path.name} --source BOXES' brings some in."
        )
    return _read(sample, f"{ANNOTATED}{name}", name)


def read_found(sample: Sample, name: str, as_predicted: bool = False) -> Kept:
    """Boxes that a detector found: those that biology allows where that was asked, unless they are wanted ``as_predicted``.

    Raises:
        SampleError: there are none, the image that they were found on was replaced, or they were found anew since they were constrained.
    """
    if name not in found_names(sample):
        raise SampleError(
            f"{sample.path.name} has no boxes of '{name}'{nearest(name, found_names(sample))} "
            f"'sparsem detect predict {sample.path.name} MODEL' finds some."
        )
    found = _read(sample, f"{FOUND}{name}", name)
    if as_predicted or f"{FOUND}{name}{CONSTRAINED}" not in sample.tables:
        return found
    allowed = _read(sample, f"{FOUND}{name}{CONSTRAINED}", name)
    for one, fingerprint in dict(allowed.about["made_from"]).items():
        if one not in found_names(sample) or _read(sample, f"{FOUND}{one}", one).fingerprint != fingerprint:
            raise SampleError(
                f"Boxes of '{one}' in {sample.path.name} have changed since those of '{name}' were constrained; run 'sparsem detect "
                f"constrain {sample.path.name}' again."
            )
    return allowed


def found_together(sample: Sample, names: Sequence[str], z: int | None = None) -> Boxes:
    """The boxes of several structures that are taken for objects, in all pictures or in one."""
    every = together([read_found(sample, name).counted() for name in names])
    return every if z is None else every.of_picture(z)


def write_annotated(sample: Sample, boxes: Boxes, pictures: Sequence[int], image: str, overwrite: bool) -> None:
    """Keep what somebody drew around one structure.

    Raises:
        ResumeError: other boxes of that name are there, and ``overwrite`` is not set.
    """
    name = checked_name(boxes.names[0])
    fingerprint = fingerprint_of({"boxes": boxes.fingerprint, "pictures": list(map(int, pictures)), "image": image})
    with sample.locked():
        if name in annotated_names(sample) and not overwrite and _read(sample, f"{ANNOTATED}{name}", name).fingerprint != fingerprint:
            raise ResumeError(f"{sample.path.name} has other annotated boxes of '{name}' already; use --overwrite to replace them.")
        about = {"pictures": list(map(int, pictures)), "fingerprint": fingerprint}
        _write(sample, f"{ANNOTATED}{name}", boxes, image, about, {})
        record = {"stage": f"annotate-boxes-{name}", "fingerprint": fingerprint, "settings": {"boxes": len(boxes), "image": image}}
        sample.remember({**record, "outputs": [], "finished": now()})


def write_found(sample: Sample, table: str, kept: Kept) -> None:
    """Keep boxes of one structure that a detector found, as ``tables/TABLE``."""
    about = {**kept.about, "pictures": list(kept.pictures)}
    numbers = np.where(kept.counts, np.cumsum(kept.counts), 0)  # of the objects, as masks have them
    columns = {"score": kept.boxes.score, "confidence": kept.confidence, "counts": kept.counts, "object": numbers}
    _write(sample, table, kept.boxes, kept.image, about, columns)


def _write(sample: Sample, table: str, boxes: Boxes, image: str, about: Mapping[str, Any], more: Mapping[str, NDArray[Any]]) -> None:
    volume = sample.image(image)
    names = picture_names(sample)
    micrometres = sizes(boxes.corners) * np.array([volume.voxel_size.x, volume.voxel_size.y], np.float32) / 1000
    columns: dict[str, Any] = {"z": boxes.z, "picture": [names[z] for z in boxes.z.tolist()]}
    columns |= dict(zip(CORNERS, boxes.corners.T, strict=True))
    columns |= {"width_um": micrometres[:, 0], "height_um": micrometres[:, 1], **more}
    metadata = {**about, "image": image, "image_fingerprint": volume.fingerprint}
    sample.write_table(table, pa.table(columns).replace_schema_metadata({KEY: json.dumps(metadata).encode()}))


def _read(sample: Sample, table: str, name: str) -> Kept:
    found = sample.read_table(table)
    try:
        about = json.loads((found.schema.metadata or {})[KEY])
        corners = np.column_stack([found[column].to_numpy() for column in CORNERS])
        score = found["score"].to_numpy() if "score" in found.column_names else None
        boxes = Boxes.of((name,), found["z"].to_numpy(), 0, corners, score)
        pictures, image, made_on = tuple(about["pictures"]), str(about["image"]), about["image_fingerprint"]
    except (KeyError, ValueError, TypeError):
        raise SampleError(f"tables/{table} of {sample.path.name} was not written by sparsem, or is damaged; make it again.") from None
    volume: Volume = sample.image(image)
    if volume.fingerprint != made_on:
        raise SampleError(f"tables/{table} of {sample.path.name} speaks of the image '{image}', which was replaced since; make it again.")
    confidence = found["confidence"].to_numpy() if "confidence" in found.column_names else boxes.score
    counts = found["counts"].to_numpy(zero_copy_only=False) if "counts" in found.column_names else np.ones(len(boxes), bool)
    return Kept(boxes, pictures, image, about, np.asarray(confidence, np.float32), np.asarray(counts, bool))
