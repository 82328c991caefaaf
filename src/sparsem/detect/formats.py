"""Files of boxes: COCO JSON, CSV and YOLO, read into one form with everything that is wrong in them told at once.

Corners are ``x0 y0 x1 y1`` px (see ``sparsem.boxes``). COCO has x, y, width, height; YOLO centre, width and height as parts of the picture.
"""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sparsem.errors import InputError

Numbers = tuple[float, float, float, float]

PICTURE_KEYS = ("image", "picture", "file", "file_name", "filename", "image_id")
SLICE_KEYS = ("z", "slice")
CLASS_KEYS = ("class", "label", "structure", "name", "category")
CORNER_KEYS = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("x0_px", "y0_px", "x1_px", "y1_px"))
EXTENT_KEYS = (("x", "y", "width", "height"), ("x", "y", "w", "h"))


class Drawn(NamedTuple):
    """One box of a file.

    Attributes:
        picture: place of its picture.
        name: what it is around.
        corners: four numbers; of YOLO parts of the picture until ``scaled``.
        where: in the file, for messages.
    """

    picture: int
    name: str
    corners: Numbers
    where: str


@dataclass
class BoxFile:
    """What a file of boxes says.

    Attributes:
        path: the file.
        pictures: name of each, without ending; empty where only the number of a slice is stated.
        numbers: slices that the file states, by picture.
        shapes: (y, x) that the file states, by picture.
        names: of all classes, in its order.
        boxes: all that can be understood.
        faults: what cannot, by kind, each with where it is.
        in_parts: corners are parts of the picture.
    """

    path: Path
    pictures: list[str] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    boxes: list[Drawn] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    in_parts: bool = False

    @property
    def called(self) -> str:
        """The file, as messages name it."""
        return self.path.resolve().name

    def fault(self, kind: str, where: str) -> None:
        """Note something that is wrong."""
        self.faults.setdefault(kind, []).append(where)

    def check(self, shapes: Mapping[int, tuple[int, int]], clip: bool = False) -> None:
        """Leave out boxes of pictures whose (y, x) is not known, and, as faults, what is no box of its picture, or is there twice.

        Args:
            shapes: of the pictures that are known.
            clip: cut boxes that reach beyond their picture at its border; else they are faults.
        """
        kept, there = [], set[tuple[int, str, Numbers]]()
        for box in self.boxes:
            if box.picture not in shapes:
                continue  # of a picture that is nowhere, which is told of the picture
            height, width = shapes[box.picture]
            factors = (width, height, width, height) if self.in_parts else (1, 1, 1, 1)
            x0, y0, x1, y1 = corners = _four([part * factor for part, factor in zip(box.corners, factors, strict=True)])
            told = f"{box.where}: {x0:g} {y0:g} {x1:g} {y1:g}"
            if not all(map(math.isfinite, corners)):
                self.fault("boxes of what is no number", told)
            elif x1 <= x0 or y1 <= y0:
                self.fault("boxes without area", told)
            elif (
                min(x1, width) <= max(x0, 0)
                or min(y1, height) <= max(y0, 0)
                or not (clip or (x0 >= -BEYOND and y0 >= -BEYOND and x1 <= width + BEYOND and y1 <= height + BEYOND))
            ):
                self.fault("boxes outside of their picture", f"{told}, of {width} x {height} px")
            elif (box.picture, box.name, corners) in there:
                self.fault("boxes that are there twice", told)
            else:
                there.add((box.picture, box.name, corners))
                inside = (max(0, x0), max(0, y0), min(width, x1), min(height, y1))
                kept.append(box._replace(corners=inside))
        self.boxes = kept

    def listing(self) -> list[str]:
        """Every fault, a line each."""
        return [f"{kind}: {one}" for kind, found in self.faults.items() for one in found]

    def summary(self) -> str:
        """All faults in a sentence, with the first of each kind."""
        return "; ".join(f"{len(found)} {kind} ({found[0]}{', ...' if len(found) > 1 else ''})" for kind, found in self.faults.items())


BEYOND = 1.0  # px that a box may reach beyond its picture: outlines are drawn through the centres of pixels, or around them


def read_boxes(path: str | Path) -> BoxFile:
    """Read a file of boxes: COCO JSON, CSV, or a folder of YOLO labels.

    Raises:
        InputError: it is none of them.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"There is no file or folder {path}; expected boxes as COCO JSON, CSV, or a folder of YOLO labels.")
    if path.is_dir():
        return _read_yolo(path)
    if path.suffix.lower() == ".json":
        return _read_coco(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        return _read_csv(path)
    raise InputError(f"{path.name} is no file of boxes that is read; expected .json (COCO), .csv, or a folder of YOLO labels.")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path.name} cannot be read as text ({error}); expected a file of boxes.") from None


def _read_coco(path: Path) -> BoxFile:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is no JSON ({error}); is it complete?") from None
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in ("images", "annotations", "categories")):
        raise InputError(f"{path.name} is no COCO file: expected an object with the lists 'images', 'annotations' and 'categories'.")
    out = BoxFile(path)
    categories, pictures = _coco_categories(content["categories"], out), _coco_pictures(content["images"], out)
    seen: set[Any] = set()
    for place, one in enumerate(content["annotations"]):
        where = f"annotation {one.get('id', f'number {place + 1}')}" if isinstance(one, dict) else f"annotation number {place + 1}"
        box = one.get("bbox") if isinstance(one, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(part) for part in box):
            out.fault("annotations without four numbers as bbox", where)
            continue
        number, picture, category = (_key(one.get(key)) for key in ("id", "image_id", "category_id"))
        if number is not None and number in seen:
            out.fault("annotations of the same id", where)
        elif picture not in pictures:
            out.fault("annotations of a picture that is not listed", f"{where}: image_id {picture}")
        elif category not in categories:
            out.fault("annotations of an unknown class", f"{where}: category_id {category}")
        elif one.get("iscrowd"):
            out.fault("boxes around a crowd, and not around one object", where)
        else:
            x, y, width, height = box
            out.boxes.append(Drawn(pictures[picture], categories[category], (x, y, x + width, y + height), where))
        seen.add(number)
    return out


def _coco_categories(listed: Sequence[Any], out: BoxFile) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for place, one in enumerate(listed):
        number, name = (one.get("id"), one.get("name")) if isinstance(one, dict) else (None, None)
        if number is None or not isinstance(name, str) or not name:
            out.fault("classes without id or name", f"category number {place + 1}")
        elif _key(number) in found or name in out.names:
            out.fault("classes of the same id or name", f"category {number} '{name}'")
        else:
            found[_key(number)] = name
            out.names.append(name)
    return found


def _coco_pictures(listed: Sequence[Any], out: BoxFile) -> dict[Any, int]:
    found: dict[Any, int] = {}
    for place, one in enumerate(listed):
        number, name = (one.get("id"), one.get("file_name")) if isinstance(one, dict) else (None, None)
        if number is None or not isinstance(name, str) or not name:
            out.fault("pictures without id or file_name", f"image number {place + 1}")
        elif _key(number) in found:
            out.fault("pictures of the same id", f"image {number} '{name}'")
        else:
            found[_key(number)] = len(out.pictures)
            if isinstance(one.get("z"), int) and one["z"] >= 0:
                out.numbers[len(out.pictures)] = one["z"]
            if all(isinstance(one.get(key), int) and one[key] > 0 for key in ("height", "width")):
                out.shapes[len(out.pictures)] = (one["height"], one["width"])
            elif "height" in one or "width" in one:
                out.fault("pictures without a size", f"image {number} '{name}': {one.get('width')} x {one.get('height')} px")
            out.pictures.append(_stem(name))
    return found


def dialect_of(text: str) -> Any:
    """How the values of a table are parted: by commas, semicolons or tabs."""
    try:
        return csv.Sniffer().sniff(text[:4096], ",;\t") if text.strip() else csv.excel
    except csv.Error:
        return csv.excel


def _read_csv(path: Path) -> BoxFile:
    text = _text(path)
    try:
        rows = list(csv.reader(text.splitlines(), dialect_of(text)))
    except csv.Error as error:
        raise InputError(f"{path.name} cannot be read as CSV ({error}); is a quotation mark left open?") from None
    if not rows or not any(rows[0]):
        raise InputError(f"{path.name} is empty; expected a header such as image,class,x0,y0,x1,y1 and a row a box.")
    header = [word.strip().lower() for word in rows[0]]
    picture = next((key for key in PICTURE_KEYS if key in header), None)
    number = next((key for key in SLICE_KEYS if key in header), None)
    kind = next((key for key in CLASS_KEYS if key in header and key != picture), None)
    corners = next((keys for keys in CORNER_KEYS if set(keys) <= set(header)), None)
    extent = next((keys for keys in EXTENT_KEYS if set(keys) <= set(header)), None)
    if (picture or number) is None or kind is None or not (corners or extent):
        raise InputError(
            f"{path.name} has the columns {', '.join(header)[:200]}; expected a picture (image or z), a class, and x0, y0, x1, y1 "
            "or x, y, width, height."
        )
    out, places = BoxFile(path), dict[tuple[str, int | None], int]()
    for line, row in enumerate(rows[1:], 2):
        if not any(row):
            continue
        values = dict(zip(header, (word.strip() for word in row), strict=False))
        if len(row) != len(header):
            out.fault("rows of another length than the header", f"line {line}: {len(row)} of {len(header)} values")
            continue
        where, name = f"line {line}", values[kind]
        numbers = [_number(values[key]) for key in (corners or extent or ())]
        z, called = _slice_number(values[number]) if number else None, _stem(values[picture]) if picture else ""
        if (not called and z is None) or not name:
            out.fault("rows without picture or class", where)
        elif any(one is None for one in numbers):
            out.fault("rows whose corners are no numbers", where)
        else:
            place = places.setdefault((called, z), len(out.pictures))
            out.pictures += [called] if place == len(out.pictures) else []
            out.numbers |= {} if z is None else {place: z}
            out.names += [name] if name not in out.names else []
            a, b, c, d = (float(one) for one in numbers if one is not None)
            out.boxes.append(Drawn(place, name, (a, b, c, d) if corners else (a, b, a + c, b + d), where))
    if not out.boxes and not out.faults:
        raise InputError(f"{path.name} holds no box; expected a row for each under the header {', '.join(header)[:200]}.")
    return out


def _slice_number(value: str) -> int | None:
    number = _number(value)
    return int(number) if number is not None and math.isfinite(number) and number >= 0 and number == int(number) else None


def _read_yolo(path: Path) -> BoxFile:
    """Text files of ``class x y width height``, and the names of the classes in ``classes.txt`` or a ``*.yaml``."""
    labels = next((folder for folder in (path / "labels", path) if any(folder.rglob("*.txt"))), None)
    if labels is None:
        raise InputError(f"{path} holds no YOLO labels: expected .txt files with a line 'class x y width height' for each box.")
    out = BoxFile(path, names=_yolo_names(path), in_parts=True)
    for file in sorted(one for one in labels.rglob("*.txt") if one.name != "classes.txt"):
        place = len(out.pictures)
        if file.stem in out.pictures:
            out.fault("label files of the same name", str(file.relative_to(path)))
            continue
        out.pictures.append(file.stem)
        for line, row in enumerate(_text(file).splitlines(), 1):
            where, words = f"{file.name} line {line}", [_number(word) for word in row.split()]
            if not words:
                continue
            if len(words) not in (5, 6) or any(word is None or not math.isfinite(word) for word in words):
                out.fault("lines that are not 'class x y width height'", where)
                continue
            number, x, y, width, height = (float(word) for word in words[:5] if word is not None)
            if number != int(number) or not 0 <= number < len(out.names):
                out.fault("lines of an unknown class", f"{where}: {number:g} of {len(out.names)}")
            elif max(x, y, width, height) > YOLO_MOST:
                out.fault("lines in pixels, where parts of the picture are expected", where)
            else:
                out.boxes.append(
                    Drawn(place, out.names[int(number)], (x - width / 2, y - height / 2, x + width / 2, y + height / 2), where)
                )
    return out


LARGEST = 1e300  # whole numbers beyond are none that a computer reckons with
YOLO_MOST = 1.001  # parts of a picture are up to 1, and rounded


def _yolo_names(path: Path) -> list[str]:
    for file in (*path.rglob("classes.txt"), *sorted(path.glob("*.y*ml"))):
        if file.name == "classes.txt":
            names = [line.strip() for line in _text(file).splitlines() if line.strip()]
        else:
            try:
                listed = (yaml.safe_load(_text(file)) or {}).get("names") or []
                listed = list(listed.values()) if isinstance(listed, dict) else list(listed)
            except (yaml.YAMLError, AttributeError, TypeError, RecursionError):
                raise InputError(f"{file.name} is no YAML with the names of classes; expected 'names:' and a list.") from None
            names = [str(one) for one in listed]
        if names:
            if len(set(names)) < len(names):
                raise InputError(f"{file.name} names a class twice: {', '.join(names)}.")
            return names
    raise InputError(f"{path} does not say what its classes are called; expected classes.txt, a name a line, or names in a data.yaml.")


def _stem(name: str) -> str:
    """A picture's name without folder and ending; one that is no picture's ending stays."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem, _, ending = last.rpartition(".")
    return stem if stem and ending.lower() in ("tif", "tiff", "png", "jpg", "jpeg", "bmp", "btf") else last


def _key(value: Any) -> Any:
    """An id that can be looked up; what cannot is none."""
    return value if isinstance(value, int | str) and not isinstance(value, bool) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not abs(value) >= LARGEST


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def _four(values: Sequence[float]) -> Numbers:
    a, b, c, d = (float(one) for one in values)
    return a, b, c, d
