"""COCO JSON files: images, annotations and categories, joined by their ids. A box is x, y, width, height in px."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsem.boxes.box_file import (
    NOT_LISTED,
    BoxCorners,
    BoxFile,
    FileBox,
    LostBox,
    bounding_box,
    image_stem,
)
from sparsem.boxes.numbers import (
    LARGEST_EXACT_FLOAT,
    is_missing,
    parse_id,
    parse_json_integer,
    parse_json_number,
)
from sparsem.boxes.table_files import read_records, read_text, rows_of_json_table
from sparsem.errors import InputError

LISTS = ("images", "annotations", "categories")
UNLISTED = "annotations of an image that is not listed"
MIN_ORDERED = 3  # boxes that could all be x0 y0 x1 y1, from which on this is a doubt
MIN_POINTS = 3  # of a polygon
SAME_AREA = 0.01  # fraction by which areas of one box differ at most, as they are rounded
SAME_PX = 1.5  # px by which a box and the one around its polygons differ at most

Id = int | str
Object = Mapping[str, Any]


def read_json(path: Path) -> BoxFile:
    """Read a COCO file, or a table of boxes in JSON as pandas writes it.

    Raises:
        InputError: it is none of them.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is no JSON ({error}); is it complete?") from None
    is_coco = isinstance(content, dict) and bool(set(LISTS) & set(content))
    lists = [rows_of_json_table(content.get(key)) for key in LISTS] if is_coco else []
    if lists and all(one is not None for one in lists):
        images, annotations, categories = (one or [] for one in lists)
        return _Coco(BoxFile(path)).read(images, annotations, categories)
    records = None if is_coco else rows_of_json_table(content)
    if not records or not all(isinstance(record, dict) for record in records):
        raise InputError(
            f"{path.name} is no COCO file: expected an object with the lists 'images', 'annotations' and 'categories'."
        )
    return read_records(path, records)


@dataclass
class _Coco:
    """A COCO file while it is read.

    Attributes:
        out: what was read.
        classes: name of each class by its id.
        images: index of each image by its id.
        refused: ids of images that have a fault themselves.
        annotations: by their ids.
        annotated: images that annotations refer to.
        ordered: of every box, True if it could as well be x0 y0 x1 y1.
    """

    out: BoxFile
    classes: dict[Id, str] = field(default_factory=dict)
    images: dict[Id, int] = field(default_factory=dict)
    refused: set[Id] = field(default_factory=set)
    annotations: dict[Id, Object] = field(default_factory=dict)
    annotated: set[int] = field(default_factory=set)
    ordered: list[bool] = field(default_factory=list)

    def read(
        self, images: Sequence[Any], annotations: Sequence[Any], categories: Sequence[Any]
    ) -> BoxFile:
        """Return the content of the three lists."""
        for number, category in enumerate(categories, 1):
            self._read_class(_as_object(category), number)
        for number, image in enumerate(images, 1):
            self._read_image(_as_object(image), number)
        for number, annotation in enumerate(annotations, 1):
            self._read_annotation(_as_object(annotation), number)
        if UNLISTED in self.out.faults:
            # These annotations may be of listed images, whose ids are written in another manner.
            without = set(range(len(self.out.images))) - self.annotated
            self.out.lost |= {LostBox(image, None) for image in without}
        if len(self.ordered) >= MIN_ORDERED and all(self.ordered):
            self.out.notes.append(
                f"all {len(self.ordered)} boxes of {self.out.called} could be x0, y0, x1, y1; COCO's bbox is x, y, width, height, and is "
                "read as such."
            )
        return self.out

    def _read_class(self, category: Object, number: int) -> None:
        own_id, name = parse_id(category.get("id")), category.get("name")
        if own_id is None or not isinstance(name, str) or not name.strip():
            self.out.fault("classes without id or name", f"category number {number}")
        elif own_id in self.classes or name in self.out.names:
            self.out.fault("classes of the same id or name", f"category {own_id} '{name}'")
            if own_id in self.classes and self.classes[own_id] != name:
                self.classes[own_id] = ""  # which of the two an annotation means, cannot be known
        else:
            self.classes[own_id] = name
            self.out.names.append(name)

    def _read_image(self, image: Object, number: int) -> None:
        own_id, name = parse_id(image.get("id")), image.get("file_name")
        has_name = isinstance(name, str) and bool(name.strip())
        if not has_name:
            if own_id is not None:
                self.refused.add(own_id)
            self.out.lose(
                "images without id or file_name", f"image number {number}", NOT_LISTED, None
            )
            return
        index, where = len(self.out.images), f"image {own_id} '{name}'"
        self.out.images.append(image_stem(str(name)))
        self._read_size(image, where, index)
        z = parse_json_integer(image.get("z"))
        if z is not None and z >= 0:
            self.out.numbers[index] = z
        if own_id is None:
            self.out.lose(
                "images without id or file_name",
                f"image number {number}: id {_shown_id(image.get('id'))}",
                index,
                None,
            )
        elif own_id in self.images or own_id in self.refused:
            self.out.lose("images of the same id", where, index, None)
            if own_id in self.images:
                self.out.lost.add(LostBox(self.images.pop(own_id), None))
            self.refused.add(own_id)
        else:
            self.images[own_id] = index

    def _read_size(self, image: Object, where: str, index: int) -> None:
        stated = [image.get(key) for key in ("height", "width")]
        if any(map(is_missing, stated)):
            return  # the image itself has a size
        height, width = map(parse_json_integer, stated)
        if height is None or width is None or min(height, width) <= 0:
            self.out.lose(
                "images without a size",
                f"{where}: {_short(stated[1])} x {_short(stated[0])} px",
                index,
                None,
            )
        else:
            self.out.shapes[index] = (height, width)

    def _read_annotation(self, annotation: Object, number: int) -> None:
        if not annotation:
            self.out.lose(
                "annotations without four numbers as bbox",
                f"annotation number {number}",
                None,
                None,
            )
            return
        own_id, class_id = parse_id(annotation.get("id")), parse_id(annotation.get("category_id"))
        where = f"annotation number {number}" if own_id is None else f"annotation {own_id}"
        name = self.classes.get(class_id, "") if class_id is not None else ""
        image = self._image_of(annotation, where, name)
        if image is None:
            return
        self.annotated.add(image)
        first = (
            self.annotations.setdefault(own_id, annotation) if own_id is not None else annotation
        )
        corners, are_corners = self._corners(annotation)
        if first is not annotation:
            self._read_copy(annotation, first, where, image)
        elif not name:
            self.out.lose(
                "annotations of an unknown class",
                f"{where}: category_id {_short(annotation.get('category_id'))}",
                image,
                None,
            )
        elif _is_true(annotation.get("iscrowd")):
            self.out.lose("boxes around a crowd, and not around one object", where, image, name)
        elif corners is None:
            only_mask = (
                ": masks (RLE) only" if isinstance(annotation.get("segmentation"), dict) else ""
            )
            self.out.lose(
                f"annotations without four numbers as bbox{only_mask}", where, image, name
            )
        elif are_corners:
            self.out.lose(
                "bbox of x0, y0, x1, y1, where COCO has x, y, width, height", where, image, name
            )
        else:
            self.out.boxes.append(FileBox(image, name, corners, where))

    def _image_of(self, annotation: Object, where: str, name: str) -> int | None:
        """Index of the image of an annotation; None, with the fault, if it is not known."""
        image_id = parse_id(annotation.get("image_id"))
        if image_id is None:
            shown = f"{where}: image_id {_shown_id(annotation.get('image_id'))}"
            self.out.lose("annotations without the id of an image", shown, None, name or None)
        elif (
            image_id not in self.images and image_id not in self.refused
        ):  # a refused one has its own fault
            self.out.lose(UNLISTED, f"{where}: image_id {image_id}", NOT_LISTED, name or None)
        return None if image_id is None else self.images.get(image_id)

    def _read_copy(self, annotation: Object, first: Object, where: str, image: int | None) -> None:
        """Record an annotation whose id is there already; another object hides behind it, unless it is the same box."""
        self.out.fault("annotations of the same id", where)
        if any(
            annotation.get(key) != first.get(key)
            for key in ("image_id", "category_id", "bbox", "segmentation")
        ):
            self.out.lost.add(LostBox(image, None))

    def _corners(self, annotation: Object) -> tuple[BoxCorners | None, bool]:
        """Corners of an annotation, of its bbox or around its polygons, None of what has neither; True if its bbox holds corners."""
        box = annotation.get("bbox")
        if is_missing(box) or box == []:
            return _around_polygons(annotation.get("segmentation")), False
        numbers = _numbers(box)
        if numbers is None or len(numbers) != 4:
            return None, False
        x, y, width, height = numbers
        corners = (x, y, x + width, y + height)
        area = parse_json_number(annotation.get("area"))
        has_area = area is not None and abs(area - width * height) <= SAME_AREA * width * height
        is_extent = has_area or _is_around(corners, annotation)
        if x or y or is_extent:  # from 0, 0 on, both are one
            self.ordered.append(width > x and height > y and not is_extent)
        return corners, not is_extent and _is_around((x, y, width, height), annotation)


def _is_around(corners: BoxCorners, annotation: Object) -> bool:
    """Return True if a box is that around the polygons of its annotation."""
    hull = _around_polygons(annotation.get("segmentation"))
    return hull is not None and all(
        abs(one - other) <= SAME_PX for one, other in zip(hull, corners, strict=True)
    )


def _is_true(value: Any) -> bool:
    return value is True or (not is_missing(value) and parse_json_number(value) not in (0, None))


def _around_polygons(polygons: Any) -> BoxCorners | None:
    points: list[float] = []
    for polygon in _as_list(polygons):
        numbers = _numbers(polygon)
        if numbers is None or len(numbers) % 2 or len(numbers) < 2 * MIN_POINTS:
            return None
        points += numbers
    return bounding_box(points) if points else None


def _numbers(values: Any) -> list[float] | None:
    """The numbers of a list; None if one is none."""
    numbers = [parse_json_number(value) for value in _as_list(values)]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else None


def _as_list(value: Any) -> list[Any]:
    """The values of a list, also of one that is written as text, as tables write it; empty for anything else."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []


def _as_object(value: Any) -> Object:
    return value if isinstance(value, dict) else {}


def _shown_id(value: Any) -> str:
    is_rounded = isinstance(value, float) and abs(value) >= LARGEST_EXACT_FLOAT
    return _short(value) + (", rounded as a float" if is_rounded else "")


def _short(value: Any) -> str:
    return str(value)[:40]
