"""COCO JSON files: images, annotations and categories, joined by their ids.

A box is x, y, width, height in px.
"""

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
    MAX_EXACT_FLOAT,
    is_missing,
    parse_id,
    parse_json_integer,
    parse_json_number,
)
from sparsem.boxes.table_files import read_records, read_text, rows_of_json_table
from sparsem.errors import InputError

LISTS = ("images", "annotations", "categories")
UNLISTED = "annotations of an image that is not listed"
NO_BOX = "annotations without four numbers as bbox"
NO_IMAGE_NAME = "images without id or file_name"
MIN_ORDERED = 3  # from so many boxes on that could all be x0 y0 x1 y1 a note is printed
MIN_POLYGON_POINTS = 3
AREA_TOLERANCE = 0.01  # largest relative difference of two areas of one box, as they are rounded
HULL_TOLERANCE_PX = 1.5  # largest distance of a box from the one around its polygons
MAX_SHOWN = 40  # characters of a value in a message

Id = int | str
Object = Mapping[str, Any]


def read_box_json(path: Path) -> BoxFile:
    """Read a COCO file, or a table of boxes in JSON as pandas writes it.

    Raises:
        InputError: the file is neither.
    """
    try:
        content = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path.name} is not valid JSON ({error}); is it complete?") from None
    if isinstance(content, dict) and set(LISTS) & set(content):
        file = _read_coco(path, content)
        if file is not None:
            return file
    else:
        records = rows_of_json_table(content)
        if records and all(isinstance(record, dict) for record in records):
            return read_records(path, records)
    raise InputError(
        f"{path.name} is not a COCO file: expected an object with the lists 'images', "
        "'annotations' and 'categories'."
    )


def _read_coco(path: Path, content: Object) -> BoxFile | None:
    """Return the boxes of a COCO file; None if one of its lists is missing."""
    images, annotations, categories = (rows_of_json_table(content.get(key)) for key in LISTS)
    if images is None or annotations is None or categories is None:
        return None
    return _CocoReader(BoxFile(path)).read(images, annotations, categories)


@dataclass
class _CocoReader:
    """A COCO file while it is read.

    Attributes:
        file: the content that was read so far.
        classes: name of each class by its id; empty if two classes have the id.
        images: index of each image by its id.
        refused: ids of images that have a fault themselves.
        annotations: annotations by their ids.
        annotated: indices of the images that annotations refer to.
        may_be_corners: for every box, True if it could as well be x0 y0 x1 y1.
    """

    file: BoxFile
    classes: dict[Id, str] = field(default_factory=dict)
    images: dict[Id, int] = field(default_factory=dict)
    refused: set[Id] = field(default_factory=set)
    annotations: dict[Id, Object] = field(default_factory=dict)
    annotated: set[int] = field(default_factory=set)
    may_be_corners: list[bool] = field(default_factory=list)

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
        if UNLISTED in self.file.faults:
            # These annotations may belong to listed images whose ids are written differently.
            without_annotation = set(range(len(self.file.images))) - self.annotated
            self.file.lost |= {LostBox(image, None) for image in without_annotation}
        self._note_possible_corners()
        return self.file

    def _note_possible_corners(self) -> None:
        """Add a note if every box could as well be x0 y0 x1 y1."""
        if len(self.may_be_corners) >= MIN_ORDERED and all(self.may_be_corners):
            self.file.notes.append(
                f"all {len(self.may_be_corners)} boxes of {self.file.name} could be x0, y0, x1, "
                "y1; COCO's bbox is x, y, width, height, and they are read as such."
            )

    def _read_class(self, category: Object, number: int) -> None:
        """Add a class, or its fault."""
        class_id = parse_id(category.get("id"))
        name = category.get("name")
        if class_id is None or not isinstance(name, str) or not name.strip():
            self.file.add_fault("classes without id or name", f"category number {number}")
        elif class_id in self.classes or name in self.file.class_names:
            position = f"category {class_id} '{name}'"
            self.file.add_fault("classes of the same id or name", position)
            if class_id in self.classes and self.classes[class_id] != name:
                # Which of the two classes an annotation means cannot be known.
                self.classes[class_id] = ""
        else:
            self.classes[class_id] = name
            self.file.class_names.append(name)

    def _read_image(self, image: Object, number: int) -> None:
        """Add an image with its size and slice number, or its fault."""
        image_id = parse_id(image.get("id"))
        name = image.get("file_name")
        if not isinstance(name, str) or not name.strip():
            if image_id is not None:
                self.refused.add(image_id)
            self.file.add_lost_box(NO_IMAGE_NAME, f"image number {number}", NOT_LISTED, None)
            return
        index = len(self.file.images)
        position = f"image {image_id} '{name}'"
        self.file.images.append(image_stem(name))
        self._read_size(image, position, index)
        z = parse_json_integer(image.get("z"))
        if z is not None and z >= 0:
            self.file.numbers[index] = z
        if image_id is None:
            position = f"image number {number}: id {_shown_id(image.get('id'))}"
            self.file.add_lost_box(NO_IMAGE_NAME, position, index, None)
        else:
            self._add_image_id(image_id, index, position)

    def _add_image_id(self, image_id: Id, index: int, position: str) -> None:
        """Record the id of an image; two images of one id are refused both."""
        if image_id not in self.images and image_id not in self.refused:
            self.images[image_id] = index
            return
        self.file.add_lost_box("images of the same id", position, index, None)
        if image_id in self.images:
            self.file.lost.add(LostBox(self.images.pop(image_id), None))
        self.refused.add(image_id)

    def _read_size(self, image: Object, position: str, index: int) -> None:
        """Record the size that the file states for an image, or its fault."""
        stated_height = image.get("height")
        stated_width = image.get("width")
        if is_missing(stated_height) or is_missing(stated_width):
            return  # the size of the image itself counts
        height = parse_json_integer(stated_height)
        width = parse_json_integer(stated_width)
        if height is None or width is None or min(height, width) <= 0:
            size = f"{_shown(stated_width)} x {_shown(stated_height)} px"
            self.file.add_lost_box("images without a size", f"{position}: {size}", index, None)
        else:
            self.file.shapes[index] = (height, width)

    def _read_annotation(self, annotation: Object, number: int) -> None:
        """Add the box of an annotation, or its fault."""
        if not annotation:
            self.file.add_lost_box(NO_BOX, f"annotation number {number}", None, None)
            return
        annotation_id = parse_id(annotation.get("id"))
        position = f"annotation {annotation_id}"
        if annotation_id is None:
            position = f"annotation number {number}"
        name = self._class_of(annotation)
        image = self._image_of(annotation, position, name)
        if image is None:
            return
        self.annotated.add(image)
        first = annotation
        if annotation_id is not None:
            first = self.annotations.setdefault(annotation_id, annotation)
        corners, are_corners = self._corners(annotation)
        if first is not annotation:
            self._read_copy(annotation, first, position, image)
            return
        fault = _fault_of(annotation, corners, are_corners)
        if not name:
            position = f"{position}: category_id {_shown(annotation.get('category_id'))}"
            self.file.add_lost_box("annotations of an unknown class", position, image, None)
        elif fault:
            self.file.add_lost_box(fault, position, image, name)
        elif corners is not None:
            self.file.boxes.append(FileBox(image, name, corners, position))

    def _class_of(self, annotation: Object) -> str:
        """Return the class of an annotation; empty if it is not known."""
        class_id = parse_id(annotation.get("category_id"))
        return "" if class_id is None else self.classes.get(class_id, "")

    def _image_of(self, annotation: Object, position: str, name: str) -> int | None:
        """Return the index of the image of an annotation; record a fault if it is not known."""
        image_id = parse_id(annotation.get("image_id"))
        if image_id is None:
            position = f"{position}: image_id {_shown_id(annotation.get('image_id'))}"
            kind = "annotations without the id of an image"
            self.file.add_lost_box(kind, position, None, name or None)
            return None
        is_listed = image_id in self.images or image_id in self.refused
        if not is_listed:  # a refused image has its own fault
            position = f"{position}: image_id {image_id}"
            self.file.add_lost_box(UNLISTED, position, NOT_LISTED, name or None)
        return self.images.get(image_id)

    def _read_copy(
        self, annotation: Object, first: Object, position: str, image: int | None
    ) -> None:
        """Record an annotation whose id is used already.

        It may hide another object, unless it is the same box.
        """
        self.file.add_fault("annotations of the same id", position)
        keys = ("image_id", "category_id", "bbox", "segmentation")
        if any(annotation.get(key) != first.get(key) for key in keys):
            self.file.lost.add(LostBox(image, None))

    def _corners(self, annotation: Object) -> tuple[BoxCorners | None, bool]:
        """Return the corners of an annotation, of its bbox or around its polygons.

        The corners are None if the annotation has neither. The second value is True if its bbox
        holds corners instead of x, y, width, height.
        """
        box = annotation.get("bbox")
        if is_missing(box) or box == []:
            return _around_polygons(annotation.get("segmentation")), False
        numbers = _numbers(box)
        if numbers is None or len(numbers) != 4:
            return None, False
        x, y, width, height = numbers
        corners = (x, y, x + width, y + height)
        has_area = _has_area(annotation, width, height)
        is_extent = has_area or _fits_polygons(corners, annotation)
        if x or y or is_extent:  # a box that begins at 0, 0 is the same in both forms
            self.may_be_corners.append(width > x and height > y and not is_extent)
        are_corners = not is_extent and _fits_polygons((x, y, width, height), annotation)
        return corners, are_corners


def _fault_of(annotation: Object, corners: BoxCorners | None, are_corners: bool) -> str:
    """Return why an annotation is no box around one object; empty if it is one.

    Args:
        annotation: annotation of a known image and class.
        corners: its corners, if it has any.
        are_corners: its bbox holds corners instead of x, y, width, height.
    """
    if _is_true(annotation.get("iscrowd")):
        return "boxes around a crowd, and not around one object"
    if corners is None:
        is_mask = isinstance(annotation.get("segmentation"), dict)
        return f"{NO_BOX}: masks (RLE) only" if is_mask else NO_BOX
    if are_corners:
        return "bbox of x0, y0, x1, y1, where COCO has x, y, width, height"
    return ""


def _has_area(annotation: Object, width: float, height: float) -> bool:
    """Return True if the area that an annotation states is about that of width and height."""
    area = parse_json_number(annotation.get("area"))
    tolerance = AREA_TOLERANCE * width * height
    return area is not None and abs(area - width * height) <= tolerance


def _fits_polygons(corners: BoxCorners, annotation: Object) -> bool:
    """Return True if a box is the one around the polygons of its annotation."""
    hull = _around_polygons(annotation.get("segmentation"))
    if hull is None:
        return False
    pairs = zip(hull, corners, strict=True)
    return all(abs(expected - corner) <= HULL_TOLERANCE_PX for expected, corner in pairs)


def _is_true(value: Any) -> bool:
    return value is True or (not is_missing(value) and parse_json_number(value) not in (0, None))


def _around_polygons(polygons: Any) -> BoxCorners | None:
    points: list[float] = []
    for polygon in _as_list(polygons):
        numbers = _numbers(polygon)
        if numbers is None or len(numbers) % 2 or len(numbers) < 2 * MIN_POLYGON_POINTS:
            return None
        points += numbers
    return bounding_box(points) if points else None


def _numbers(values: Any) -> list[float] | None:
    """Return the numbers of a list; None if a value is no number."""
    numbers = [parse_json_number(value) for value in _as_list(values)]
    known = [number for number in numbers if number is not None]
    return known if len(known) == len(numbers) else None


def _as_list(value: Any) -> list[Any]:
    """Return the values of a list, also of one in text, as tables hold it; else an empty list."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    return value if isinstance(value, list) else []


def _as_object(value: Any) -> Object:
    return value if isinstance(value, dict) else {}


def _shown_id(value: Any) -> str:
    is_rounded = isinstance(value, float) and abs(value) >= MAX_EXACT_FLOAT
    return _shown(value) + (", rounded as a float" if is_rounded else "")


def _shown(value: Any) -> str:
    return str(value)[:MAX_SHOWN]
