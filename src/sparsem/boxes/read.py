"""Reading a file of boxes of any known format: COCO JSON, CSV, or a folder of YOLO labels."""

from pathlib import Path

from sparsem.boxes.box_file import BoxFile
from sparsem.boxes.coco import read_box_json
from sparsem.boxes.table_files import read_csv
from sparsem.boxes.yolo import read_yolo
from sparsem.errors import InputError


def read_boxes(path: str | Path) -> BoxFile:
    """Read a file of boxes: COCO JSON, CSV, or a folder of YOLO labels.

    Raises:
        InputError: the file is missing, or of another format.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"There is no file or folder {path}; expected boxes as COCO JSON, CSV, or a folder of "
            "YOLO labels."
        )
    if path.is_dir():
        return read_yolo(path)
    if path.suffix.lower() == ".json":
        return read_box_json(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return read_csv(path)
    raise InputError(
        f"{path.name} is not a known file of boxes; expected .json (COCO), .csv, or a folder of "
        "YOLO labels."
    )
