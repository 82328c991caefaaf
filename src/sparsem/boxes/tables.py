"""Tables of boxes in a sample: ``tables/annotated_boxes_NAME`` and ``tables/boxes_NAME``.

Annotated boxes were drawn by hand or around labels; the others were found by a detector. A row is
a box. The metadata of a table holds what no row can: the slices that were annotated or searched,
so that a slice without a box is known to be empty, and the image that the boxes lie on.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, Corners, box_sizes
from sparsem.errors import ResumeError, SampleError
from sparsem.labels.inventory import BOXES
from sparsem.settings import nearest
from sparsem.store.names import CONSTRAINED, checked_name, checked_structure
from sparsem.store.sample import Sample, now
from sparsem.store.volume import Volume
from sparsem.workflow.stage import fingerprint_of

ANNOTATED_PREFIX, DETECTED_PREFIX = BOXES
METADATA_KEY = b"sparsem"
CORNER_COLUMNS = ("x0_px", "y0_px", "x1_px", "y1_px")


@dataclass(frozen=True)
class StoredBoxes:
    """Boxes of one structure as a sample holds them.

    Attributes:
        boxes: (N) boxes of one name.
        slices: indices of the slices that were annotated or searched, ascending; nothing is known
            of any other slice.
        image: name of the image that the boxes lie on.
        metadata: the metadata of the table.
        confidence: (N,) probability that a box is right; the score where that is not known.
        counts: (N,) bool, boxes that count as objects.
    """

    boxes: Boxes
    slices: tuple[int, ...]
    image: str
    metadata: Mapping[str, Any]
    confidence: NDArray[np.float32]
    counts: NDArray[np.bool_]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the run or annotation that made the boxes."""
        return str(self.metadata["fingerprint"])

    def counted(self) -> Boxes:
        """Return the boxes that count as objects."""
        return self.boxes[self.counts]


def image_names(sample: Sample) -> list[str]:
    """Return the name of every slice: that of its file, or the sample and the slice number."""
    raw = sample.image("raw")
    if raw.names:
        return list(raw.names)
    return [f"{sample.name}_z{z:04d}" for z in range(raw.shape[0])]


def annotated_box_structures(sample: Sample) -> list[str]:
    """Return the structures with annotated boxes."""
    tables = [table for table in sample.tables if table.startswith(ANNOTATED_PREFIX)]
    return [table.removeprefix(ANNOTATED_PREFIX) for table in tables]


def detected_box_structures(sample: Sample) -> list[str]:
    """Return the structures with boxes that a detector found."""
    tables = [table for table in sample.tables if table.startswith(DETECTED_PREFIX)]
    predicted = [table for table in tables if not table.endswith(CONSTRAINED)]
    return [table.removeprefix(DETECTED_PREFIX) for table in predicted]


def constrained_box_tables(sample: Sample) -> list[str]:
    """Return the names of the tables with constrained boxes."""
    tables = [table for table in sample.tables if table.startswith(DETECTED_PREFIX)]
    return [table for table in tables if table.endswith(CONSTRAINED)]


def read_annotated_boxes(sample: Sample, name: str) -> StoredBoxes:
    """Return the annotated boxes of a structure.

    Raises:
        SampleError: there are none, or the image that they were drawn on was replaced since.
    """
    known = annotated_box_structures(sample)
    if name not in known:
        raise SampleError(
            f"{sample.path.name} has no annotated boxes of '{name}'{nearest(name, known)} "
            f"'sparsem detect import {sample.path.name} --source BOXES' imports some."
        )
    return _read_table(sample, f"{ANNOTATED_PREFIX}{name}", name)


def read_detected_boxes(sample: Sample, name: str, as_predicted: bool = False) -> StoredBoxes:
    """Return the boxes of a structure that a detector found.

    Args:
        sample: sample with boxes.
        name: structure.
        as_predicted: return all of them, and not those that biological constraints allow, if there
            are constrained boxes.

    Raises:
        SampleError: there are none, the image that they were found on was replaced, or boxes have
            changed since they were constrained.
    """
    known = detected_box_structures(sample)
    if name not in known:
        raise SampleError(
            f"{sample.path.name} has no boxes of '{name}'{nearest(name, known)} "
            f"'sparsem detect predict {sample.path.name} MODEL' finds some."
        )
    constrained = _constrained_metadata(sample)
    is_constrained = any(
        name in {structure, *metadata.get("made_from", {})}
        for structure, metadata in constrained.items()
    )
    if as_predicted or not is_constrained:
        return _read_table(sample, f"{DETECTED_PREFIX}{name}", name)
    _refuse_outdated_constraints(sample, constrained)
    return _read_table(sample, f"{DETECTED_PREFIX}{name}{CONSTRAINED}", name)


def _constrained_metadata(sample: Sample) -> dict[str, dict[str, Any]]:
    """Return the metadata of all constrained tables, by structure."""
    constrained = {}
    for table in constrained_box_tables(sample):
        structure = table.removeprefix(DETECTED_PREFIX).removesuffix(CONSTRAINED)
        constrained[structure] = _stored_metadata(sample, table)
    return constrained


def _refuse_outdated_constraints(
    sample: Sample, constrained: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise a SampleError if constrained boxes are of several runs, or of boxes that changed.

    Args:
        sample: sample with constrained boxes.
        constrained: metadata of all constrained tables, by structure.
    """
    for structure, metadata in constrained.items():
        made_from = metadata.get("made_from", {})
        changed = [
            name
            for name, fingerprint in made_from.items()
            if detection_fingerprint(sample, name) != fingerprint
        ]
        # Metadata without "made_from" is damaged: the empty name makes it count as another run.
        is_of_one_run = all(
            constrained.get(name, {}).get("fingerprint") == metadata.get("fingerprint")
            for name in metadata.get("made_from", {"": ""})
        )
        if is_of_one_run and not changed:
            continue
        subject = f"Constrained boxes of '{structure}'"
        if changed:
            subject = f"Boxes of '{changed[0]}'"
        raise SampleError(
            f"{subject} in {sample.path.name} have changed since boxes were constrained, or "
            f"constraining them was interrupted; run 'sparsem detect constrain {sample.path.name}' "
            "again."
        )


def write_annotated_boxes(
    sample: Sample, boxes: Boxes, slices: Sequence[int], image: str, overwrite: bool
) -> None:
    """Write the annotated boxes of one structure to its table.

    Args:
        sample: sample to write to.
        boxes: boxes of one name.
        slices: indices of the annotated slices, ascending.
        image: name of the image that the boxes were drawn on.
        overwrite: replace other boxes of this name.

    Raises:
        ResumeError: there are other boxes of this name, and ``overwrite`` is not set.
    """
    name = checked_structure(boxes.names[0])
    fingerprint = _annotation_fingerprint(boxes, slices, image)
    with sample.locked():
        if check_annotated_boxes(sample, boxes, slices, image, overwrite):
            return
        metadata = {"slices": list(map(int, slices)), "fingerprint": fingerprint}
        _write_table(sample, f"{ANNOTATED_PREFIX}{name}", boxes, image, metadata, {})
        record = {
            "stage": f"annotate-boxes-{name}",
            "fingerprint": fingerprint,
            "settings": {"boxes": len(boxes), "image": image},
        }
        sample.remember({**record, "outputs": [], "finished": now()})


def _annotation_fingerprint(boxes: Boxes, slices: Sequence[int], image: str) -> str:
    return fingerprint_of(
        {"boxes": boxes.fingerprint, "slices": list(map(int, slices)), "image": image}
    )


def check_annotated_boxes(
    sample: Sample, boxes: Boxes, slices: Sequence[int], image: str, overwrite: bool
) -> bool:
    """Return True if exactly these annotated boxes of one structure are stored already.

    Raises:
        InputError: the structure cannot be a name.
        ResumeError: other boxes are stored, of this image or of one that was replaced, and
            ``overwrite`` is not set.
    """
    name = checked_name(boxes.names[0])
    if name not in annotated_box_structures(sample):
        return False
    stored = _stored_metadata(sample, f"{ANNOTATED_PREFIX}{name}")
    has_same_boxes = stored.get("fingerprint") == _annotation_fingerprint(boxes, slices, image)
    if has_same_boxes and stored.get("image_fingerprint") == sample.image(image).fingerprint:
        return True
    if not overwrite:
        raise ResumeError(
            f"{sample.path.name} has other annotated boxes of '{name}' already; use --overwrite to "
            "replace them."
        )
    return False


def table_metadata(table: pa.Table | pa.Schema) -> dict[str, Any]:
    """Return the metadata of a table of boxes or of their scores; empty if there is none."""
    schema = table.schema if isinstance(table, pa.Table) else table
    try:
        return dict(json.loads((schema.metadata or {})[METADATA_KEY]))
    except (KeyError, ValueError, TypeError):
        return {}


def _stored_metadata(sample: Sample, table: str) -> dict[str, Any]:
    """Return the metadata of ``tables/TABLE``; empty if the table is missing or damaged."""
    path = sample.path / "tables" / f"{table}.parquet"
    try:
        return table_metadata(pyarrow.parquet.read_schema(path))
    except (OSError, pa.ArrowException):
        return {}


def are_scores_outdated(sample: Sample) -> bool:
    """Return True if boxes have changed since ``tables/box_scores`` was written."""
    made_from = _stored_metadata(sample, "box_scores").get("made_from", {})
    for key, fingerprint in made_from.items():
        _, name, kind = key.rsplit(" ", 2)
        table = f"{DETECTED_PREFIX}{name}"
        if kind == "annotated":
            table = f"{ANNOTATED_PREFIX}{name}"
        elif kind == "constrained":
            table = f"{DETECTED_PREFIX}{name}{CONSTRAINED}"
        if _stored_metadata(sample, table).get("fingerprint") != fingerprint:
            return True
    return False


def are_masks_outdated(sample: Sample, name: str) -> bool:
    """Return True if ``labels/NAME`` was made from other boxes than those that count now.

    Labels that were not made from boxes are never outdated.
    """
    path = f"labels/{name}"
    settings = [entry["settings"] for entry in sample.history() if path in entry["outputs"]]
    fingerprint = settings[-1].get(f"input boxes {name}") if settings else None
    if fingerprint is None:
        return False
    if name not in detected_box_structures(sample):
        return True
    counted = read_detected_boxes(sample, name).counted()
    return bool(counted.fingerprint != fingerprint)


def detection_fingerprint(sample: Sample, name: str) -> str:
    """Return the fingerprint of the run that found the boxes of a structure; empty if none did."""
    if name not in detected_box_structures(sample):
        return ""
    return str(_stored_metadata(sample, f"{DETECTED_PREFIX}{name}").get("fingerprint", ""))


def write_detected_boxes(sample: Sample, table: str, stored: StoredBoxes) -> None:
    """Write boxes of one structure that a detector found to ``tables/TABLE``."""
    metadata = {**stored.metadata, "slices": list(stored.slices)}
    # Numbers of the objects, as their masks have them; 0 for boxes that do not count.
    numbers = np.where(stored.counts, np.cumsum(stored.counts), 0)
    columns = {
        "score": stored.boxes.score,
        "confidence": stored.confidence,
        "counts": stored.counts,
        "object": numbers,
    }
    _write_table(sample, table, stored.boxes, stored.image, metadata, columns)


def _write_table(
    sample: Sample,
    table: str,
    boxes: Boxes,
    image: str,
    metadata: Mapping[str, Any],
    columns: Mapping[str, NDArray[Any]],
) -> None:
    """Write boxes with their names and sizes, further columns, and metadata."""
    volume = sample.image(image)
    names = image_names(sample)
    box_columns = _box_columns(boxes, [names[z] for z in boxes.z.tolist()], volume)
    rows = pa.table({**box_columns, **columns})
    content = {**metadata, "image": image, "image_fingerprint": volume.fingerprint}
    encoded = json.dumps(content).encode()
    sample.write_table(table, rows.replace_schema_metadata({METADATA_KEY: encoded}))


def _box_columns(boxes: Boxes, names: list[str], image: Volume) -> dict[str, Any]:
    """Return slice, name of the image, corners and size of boxes."""
    columns: dict[str, Any] = {"z": boxes.z, "image": names}
    columns |= dict(zip(CORNER_COLUMNS, boxes.corners.T, strict=True))
    size_um = _sizes_um(boxes, image)
    return {**columns, "width_um": size_um[:, 0], "height_um": size_um[:, 1]}


def _sizes_um(boxes: Boxes, image: Volume) -> NDArray[np.float32]:
    """Return width and height of boxes in an image, (N, 2) µm."""
    pixel_nm = np.array([image.voxel_size.x, image.voxel_size.y], np.float32)
    return np.asarray(box_sizes(boxes.corners) * pixel_nm / 1000)


def _read_table(sample: Sample, table: str, name: str) -> StoredBoxes:
    """Return the boxes of a table; refuse one that is damaged, or whose image was replaced."""
    rows = sample.read_table(table)
    try:
        metadata = json.loads((rows.schema.metadata or {})[METADATA_KEY])
        slices = tuple(metadata["slices"])
        image = str(metadata["image"])
        image_fingerprint = metadata["image_fingerprint"]
        boxes = _boxes_of_rows(rows, name)
    except (KeyError, ValueError, TypeError):
        raise SampleError(
            f"tables/{table} of {sample.path.name} was not written by sparsem, or is damaged; make "
            "it again."
        ) from None
    _refuse_replaced_image(sample, table, image, image_fingerprint)
    confidence, counts = _confidence_and_counts(rows, boxes)
    return StoredBoxes(boxes, slices, image, metadata, confidence, counts)


def _refuse_replaced_image(sample: Sample, table: str, image: str, fingerprint: str) -> None:
    """Raise a SampleError if the image of a table has another fingerprint now."""
    if sample.image(image).fingerprint != fingerprint:
        raise SampleError(
            f"tables/{table} of {sample.path.name} belongs to the image '{image}', which was "
            "replaced since; make it again."
        )


def _confidence_and_counts(
    rows: pa.Table, boxes: Boxes
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the confidence of boxes, and which count; annotated boxes are certain, and all do."""
    confidence: Any = boxes.score
    counts: Any = np.ones(len(boxes), bool)
    if "confidence" in rows.column_names:
        confidence = rows["confidence"].to_numpy()
    if "counts" in rows.column_names:
        counts = rows["counts"].to_numpy(zero_copy_only=False)
    return np.asarray(confidence, np.float32), np.asarray(counts, bool)


def _boxes_of_rows(rows: pa.Table, name: str) -> Boxes:
    """Return the boxes in the rows of a table; annotated boxes have no score."""
    corners: Corners = np.column_stack([rows[column].to_numpy() for column in CORNER_COLUMNS])
    score = rows["score"].to_numpy() if "score" in rows.column_names else None
    return Boxes.from_arrays((name,), rows["z"].to_numpy(), 0, corners, score)
