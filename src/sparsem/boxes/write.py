"""Boxes out to files: COCO JSON, CSV, and folders of YOLO labels."""

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsem.boxes.geometry import Boxes, Corners
from sparsem.errors import InputError
from sparsem.io.writers import atomic_output


def write_boxes(
    path: str | Path,
    boxes: Boxes,
    names: Sequence[str],
    pictures: Mapping[int, tuple[int, int]],
    overwrite: bool = False,
) -> None:
    """Write boxes as COCO JSON, CSV or, to a path without ending, a folder of YOLO labels.

    Args:
        path: to write.
        boxes: of one sample.
        names: of its slices.
        pictures: slices that were looked at and their (y, x): they are listed also where they hold nothing.
        overwrite: replace what is there.

    Raises:
        InputError: the ending is of no known kind, or something is there that is not to be replaced.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        with atomic_output(path, overwrite) as unfinished:
            unfinished.write_text(json.dumps(_as_coco(boxes, names, pictures)), encoding="utf-8")
    elif path.suffix.lower() == ".csv":
        with (
            atomic_output(path, overwrite) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(["image", "z", "class", "x0", "y0", "x1", "y1", "score"])
            for z, kind, corners, score in zip(
                boxes.z.tolist(), boxes.kind, boxes.corners, boxes.score, strict=True
            ):
                writer.writerow(
                    [
                        names[z],
                        z,
                        boxes.names[kind],
                        *(f"{one:.2f}" for one in corners),
                        f"{score:.4f}",
                    ]
                )
    elif not path.suffix:
        if path.exists() and any(path.iterdir()) and not overwrite:
            raise InputError(
                f"{path} exists and holds files; use --overwrite to replace its labels, or choose another name."
            )
        shutil.rmtree(path / "labels", ignore_errors=True)
        _write_yolo(path, boxes, names, pictures)
    else:
        raise InputError(
            f"Boxes are written as .json (COCO), .csv, or to a folder (YOLO); got {path.name}."
        )


def _as_coco(
    boxes: Boxes, names: Sequence[str], pictures: Mapping[int, tuple[int, int]]
) -> dict[str, Any]:
    """Boxes as a COCO data set; pictures, boxes and classes are numbered from 1."""
    place = {z: number for number, z in enumerate(pictures, 1)}
    listed = [
        {"id": place[z], "file_name": names[z], "z": z, "height": y, "width": x}
        for z, (y, x) in pictures.items()
    ]
    annotations = [
        {"id": number, "image_id": place[z], "category_id": int(kind) + 1, "bbox": _extent(corners), "area": _area(corners), "iscrowd": 0,
         "score": round(float(score), 4)}
        for number, (z, kind, corners, score) in enumerate(
            zip(boxes.z.tolist(), boxes.kind, boxes.corners, boxes.score, strict=True), 1
        )
    ]  # fmt: skip
    return {
        "images": listed,
        "annotations": annotations,
        "categories": [{"id": n, "name": one} for n, one in enumerate(boxes.names, 1)],
    }


def _write_yolo(
    path: Path, boxes: Boxes, names: Sequence[str], pictures: Mapping[int, tuple[int, int]]
) -> None:
    (path / "labels").mkdir(parents=True, exist_ok=True)
    (path / "classes.txt").write_text("\n".join(boxes.names) + "\n", encoding="utf-8")
    for z, (height, width) in pictures.items():
        own, lines = boxes.of_image(z), []
        for kind, (x0, y0, x1, y1) in zip(
            own.kind, own.corners.astype(np.float64) / [width, height, width, height], strict=True
        ):
            lines.append(
                f"{kind} {(x0 + x1) / 2:.6f} {(y0 + y1) / 2:.6f} {x1 - x0:.6f} {y1 - y0:.6f}\n"
            )
        (path / "labels" / f"{names[z]}.txt").write_text("".join(lines), encoding="utf-8")


def _extent(corners: Corners) -> list[float]:
    x0, y0, x1, y1 = (round(float(one), 2) for one in corners)
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]


def _area(corners: Corners) -> float:
    return round(float(corners[2] - corners[0]) * float(corners[3] - corners[1]), 2)
