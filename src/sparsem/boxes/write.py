"""Writing boxes to files: COCO JSON, CSV, and folders of YOLO labels."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, Corners
from sparsem.boxes.yolo import CLASSES_FILE
from sparsem.errors import InputError
from sparsem.io.writers import atomic_output
from sparsem.store.volume import write_atomically

CSV_HEADER = ("image", "z", "class", "x0", "y0", "x1", "y1", "score")
# Unfinished labels, labels, and labels that are being replaced.
YOLO_FOLDERS = (".labels.partial", "labels", ".labels.replaced")
Shapes = Mapping[int, tuple[int, int]]  # (y, x) of images, by slice index


def write_boxes(
    path: str | Path,
    boxes: Boxes,
    names: Sequence[str],
    shapes: Shapes,
    overwrite: bool = False,
) -> None:
    """Write boxes as COCO JSON, CSV or, to a path without ending, a folder of YOLO labels.

    Args:
        path: the file or folder to write.
        boxes: boxes of one sample.
        names: names of the images of the sample, by slice index.
        shapes: (y, x) of the annotated or searched images, by slice index. COCO and YOLO files
            list them also where they hold no box.
        overwrite: replace an existing file or the labels of an existing folder.

    Raises:
        InputError: the ending is unknown, or the path exists and ``overwrite`` is not set.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending == ".json":
        with atomic_output(path, overwrite) as unfinished:
            unfinished.write_text(json.dumps(_as_coco(boxes, names, shapes)), encoding="utf-8")
    elif ending == ".csv":
        with atomic_output(path, overwrite) as unfinished:
            _write_csv(unfinished, boxes, names)
    elif not path.suffix:
        _write_yolo(path, boxes, names, shapes, overwrite)
    else:
        raise InputError(
            "Expected a name that ends in .json (COCO) or .csv, or a folder (YOLO) to write boxes "
            f"to; got {path.name}."
        )


def _write_csv(path: Path, boxes: Boxes, names: Sequence[str]) -> None:
    """Write a row for each box below a header."""
    columns = zip(boxes.z.tolist(), boxes.kind, boxes.corners, boxes.score, strict=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_HEADER)
        for z, kind, corners, score in columns:
            numbers = [f"{number:.2f}" for number in corners]
            writer.writerow([names[z], z, boxes.names[kind], *numbers, f"{score:.4f}"])


def _as_coco(boxes: Boxes, names: Sequence[str], shapes: Shapes) -> dict[str, Any]:
    """Return boxes as a COCO data set; images, boxes and classes are numbered from 1."""
    image_ids = {z: number for number, z in enumerate(shapes, 1)}
    images = []
    for z, (height, width) in shapes.items():
        image = {"id": image_ids[z], "file_name": names[z], "z": z}
        images.append({**image, "height": height, "width": width})
    categories = [{"id": number, "name": name} for number, name in enumerate(boxes.names, 1)]
    annotations = _coco_annotations(boxes, image_ids)
    return {"images": images, "annotations": annotations, "categories": categories}


def _coco_annotations(boxes: Boxes, image_ids: Mapping[int, int]) -> list[dict[str, Any]]:
    """Return the annotation of every box; ``image_ids`` are by slice index."""
    annotations = []
    columns = zip(boxes.z.tolist(), boxes.kind, boxes.corners, boxes.score, strict=True)
    for number, (z, kind, corners, score) in enumerate(columns, 1):
        annotation = {
            "id": number,
            "image_id": image_ids[z],
            "category_id": int(kind) + 1,
            "bbox": _coco_box(corners),
            "area": _area(corners),
            "iscrowd": 0,
            "score": round(float(score), 4),
        }
        annotations.append(annotation)
    return annotations


def _write_yolo(
    path: Path, boxes: Boxes, names: Sequence[str], shapes: Shapes, overwrite: bool
) -> None:
    """Write ``labels/*.txt`` and ``classes.txt``, which get their names when they are complete.

    Raises:
        InputError: the path is a file, or a folder that holds files and ``overwrite`` is not set.
    """
    _refuse_path_in_use(path, overwrite)
    unfinished, labels, replaced = (path / name for name in YOLO_FOLDERS)
    _remove_folders(unfinished, replaced)
    unfinished.mkdir(parents=True)
    try:
        _write_label_files(unfinished, boxes, names, shapes)
        # Classes are numbered: old labels with new classes would be wrong, and without classes
        # they are refused. So classes.txt is removed first, and written last.
        (path / CLASSES_FILE).unlink(missing_ok=True)
        if labels.exists():
            labels.rename(replaced)
        unfinished.rename(labels)
        classes = "\n".join(boxes.names) + "\n"
        write_atomically(path / CLASSES_FILE, classes.encode())
    finally:
        _remove_folders(unfinished, replaced)


def _refuse_path_in_use(path: Path, overwrite: bool) -> None:
    """Raise an InputError if a path is a file, or a folder whose files must not be replaced."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; expected a folder to write YOLO labels to.")
    holds_files = path.exists() and any(not file.name.startswith(".") for file in path.iterdir())
    if holds_files and not overwrite:
        raise InputError(
            f"{path} exists and holds files; use --overwrite to replace its labels, or choose "
            "another name."
        )


def _remove_folders(*folders: Path) -> None:
    """Remove folders that an export leaves behind when it is stopped."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _write_label_files(folder: Path, boxes: Boxes, names: Sequence[str], shapes: Shapes) -> None:
    """Write a text file for each image, a line for each box, in fractions of the image."""
    for z, (height, width) in shapes.items():
        image_boxes = boxes.of_image(z)
        fractions = image_boxes.corners.astype(np.float64) / [width, height, width, height]
        lines = map(_yolo_line, image_boxes.kind, fractions)
        (folder / f"{names[z]}.txt").write_text("".join(lines), encoding="utf-8")


def _yolo_line(kind: int, corners: NDArray[np.float64]) -> str:
    """Return the line of a box: class, center, width and height in fractions of the image."""
    x0, y0, x1, y1 = corners
    center = f"{(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f}"
    return f"{kind} {center} {x1 - x0:.6f} {y1 - y0:.6f}\n"


def _coco_box(corners: Corners) -> list[float]:
    """Return x, y, width and height of a box, px."""
    x0, y0, x1, y1 = (round(float(number), 2) for number in corners)
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]


def _area(corners: Corners) -> float:
    return round(float(corners[2] - corners[0]) * float(corners[3] - corners[1]), 2)
