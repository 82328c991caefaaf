"""Exporting the boxes of a sample to a file."""

from pathlib import Path

from sparsem.boxes.geometry import concatenate_boxes
from sparsem.boxes.tables import (
    StoredBoxes,
    annotated_box_structures,
    detected_box_structures,
    image_names,
    read_annotated_boxes,
    read_detected_boxes,
)
from sparsem.boxes.write import write_boxes
from sparsem.errors import SampleError
from sparsem.store.sample import Sample


def export_boxes(
    sample: Sample, out: str | Path, drawn: bool = False, overwrite: bool = False
) -> int:
    """Write the boxes of a sample as COCO JSON, CSV or YOLO labels.

    Args:
        sample: sample with boxes.
        out: NAME.json, NAME.csv or a folder.
        drawn: export the annotated boxes instead of those that a detector found.
        overwrite: replace an existing file.

    Returns:
        Number of exported boxes.

    Raises:
        SampleError: the sample has no such boxes, or they lie on images with other pixels.
        InputError: the ending is unknown, or the file exists and ``overwrite`` is not set.
    """
    stored = _stored_boxes(sample, drawn)
    if len({sample.grid_image(part.image) for part in stored}) > 1:
        raise SampleError(
            f"Boxes in {sample.path.name} lie on images with different pixels; remove those of "
            "one image, or find all boxes on one --image."
        )
    boxes = concatenate_boxes([part.counted() for part in stored])
    slices = sorted({z for part in stored for z in part.slices})
    image = sample.image(stored[0].image)
    shapes = {z: image.size_of(z) for z in slices}
    write_boxes(out, boxes, image_names(sample), shapes, overwrite)
    return len(boxes)


def _stored_boxes(sample: Sample, drawn: bool) -> list[StoredBoxes]:
    if drawn:
        structures = annotated_box_structures(sample)
        what = "annotated boxes; import some with 'sparsem detect import'"
        boxes = [read_annotated_boxes(sample, name) for name in structures]
    else:
        structures = detected_box_structures(sample)
        what = "boxes that a detector found; find some with 'sparsem detect predict'"
        boxes = [read_detected_boxes(sample, name) for name in structures]
    if not boxes:
        raise SampleError(f"{sample.path.name} has no {what}.")
    return boxes
