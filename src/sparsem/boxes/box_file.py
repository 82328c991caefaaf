"""The content of a file of boxes in one form, whatever its format, with the faults in it.

Corners are ``x0 y0 x1 y1`` px (see ``sparsem.boxes.geometry``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sparsem.errors import InputError

BoxCorners = tuple[float, float, float, float]

# px that a box may reach beyond its image: outlines are drawn through the centers of pixels, or
# around the pixels.
MAX_OVERHANG_PX = 1.0
MAX_FRACTION = 1.001  # fractions of an image are up to 1, and rounded
NOT_LISTED = -1  # index that stands for all images that a file does not list
IMAGE_ENDINGS = ("tif", "tiff", "png", "jpg", "jpeg", "bmp", "btf")


class FileBox(NamedTuple):
    """One box of a file.

    Attributes:
        image: index of its image.
        class_name: class of the object in the box.
        corners: px; in a file of fractions, fractions of the image until ``BoxFile.check``.
        position: position in the file, for messages.
    """

    image: int
    class_name: str
    corners: BoxCorners
    position: str


class LostBox(NamedTuple):
    """A box that could not be read: an object of unknown position.

    Attributes:
        image: index of the image that the object may lie in; None if it may lie in any image;
            ``NOT_LISTED`` for all images that the file does not list.
        class_name: class of the object; None if it may be of any class.
    """

    image: int | None
    class_name: str | None


@dataclass
class BoxFile:
    """Content of a file of boxes.

    Attributes:
        path: the file.
        images: name of each image, without ending; empty where only a slice number is stated.
        numbers: slice numbers that the file states, by image index.
        shapes: (y, x) that the file states, by image index.
        class_names: all classes, in the order of the file.
        boxes: the boxes that could be read.
        faults: positions of the faults in the file, by kind of fault.
        lost: boxes that could not be read; their images are not completely annotated.
        notes: sentences about content that may not be what its author meant.
        in_fractions: corners are fractions of the image.
    """

    path: Path
    images: list[str] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)
    boxes: list[FileBox] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    lost: set[LostBox] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    in_fractions: bool = False

    @property
    def name(self) -> str:
        """Name of the file, as messages state it."""
        return self.path.resolve().name

    def add_fault(self, kind: str, position: str) -> None:
        """Record a fault that hides no object."""
        self.faults.setdefault(kind, []).append(position)

    def add_lost_box(
        self, kind: str, position: str, image: int | None, class_name: str | None
    ) -> None:
        """Record a fault that hides an object; see ``LostBox`` for image and class."""
        self.add_fault(kind, position)
        self.lost.add(LostBox(image, class_name))

    def may_miss_box(self, image: int, class_name: str) -> bool:
        """Return True if an object of a class in an image may be among the lost boxes."""
        candidates = {
            LostBox(image, class_name),
            LostBox(image, None),
            LostBox(None, class_name),
            LostBox(None, None),
        }
        return not candidates.isdisjoint(self.lost)

    def check(self, shapes: Mapping[int, tuple[int, int]], clip: bool = False) -> None:
        """Convert all boxes to pixels, and record those that are invalid in their image as faults.

        Args:
            shapes: (y, x) of the known images, by index. Boxes of other images are removed without
                a fault: their image has one already.
            clip: cut boxes that reach beyond their image at its border instead of recording them.

        Raises:
            InputError: all corners are fractions where pixels are expected.
        """
        self._refuse_fractions()
        valid: list[FileBox] = []
        known: set[tuple[int, str, BoxCorners]] = set()
        for box in self.boxes:
            if box.image not in shapes:
                continue
            height, width = shapes[box.image]
            corners = self._in_pixels(box.corners, height, width)
            box = box._replace(corners=corners)
            if not self._is_valid(box, height, width, clip):
                continue
            key = (box.image, box.class_name, corners)
            if key in known:
                self.add_fault("boxes that are listed twice", _described(box))
                continue
            known.add(key)
            clipped = _clip_to_image(corners, height, width)
            valid.append(box._replace(corners=clipped))
        self.boxes = valid

    def _is_valid(self, box: FileBox, height: int, width: int, clip: bool) -> bool:
        """Return True for a box with an area in its image; record a fault for any other."""
        position = _described(box)
        fault = _fault_of_corners(box.corners)
        if fault:
            self.add_lost_box(fault, position, box.image, box.class_name)
            return False
        is_outside = _is_empty(_clip_to_image(box.corners, height, width))
        if not is_outside and (clip or _is_within(box.corners, height, width)):
            return True
        kind = "boxes outside of their image"
        position = f"{position}, of {width} x {height} px"
        if clip and is_outside:  # the image shows no part of the object
            self.add_fault(kind, position)
        else:
            self.add_lost_box(kind, position, box.image, box.class_name)
        return False

    def _in_pixels(self, corners: BoxCorners, height: int, width: int) -> BoxCorners:
        if not self.in_fractions:
            return corners
        x0, y0, x1, y1 = corners
        return x0 * width, y0 * height, x1 * width, y1 * height

    def _refuse_fractions(self) -> None:
        if self.in_fractions:
            return
        numbers = [number for box in self.boxes for number in box.corners if math.isfinite(number)]
        if not numbers or max(numbers) > MAX_FRACTION:
            return
        if not all(number.is_integer() for number in numbers):
            raise InputError(
                f"{self.name} holds corners from {min(numbers):g} to {max(numbers):g}; expected "
                "pixels, not fractions."
            )

    def fault_lines(self) -> list[str]:
        """Return every fault, a line each."""
        lines = []
        for kind, positions in self.faults.items():
            lines += [f"{kind}: {position}" for position in positions]
        return lines

    def fault_summary(self) -> str:
        """Return the number and the first position of each kind of fault, in one sentence."""
        parts = []
        for kind, positions in self.faults.items():
            more = ", ..." if len(positions) > 1 else ""
            parts.append(f"{len(positions)} {kind} ({positions[0]}{more})")
        return "; ".join(parts)


def _described(box: FileBox) -> str:
    """Return position and corners of a box, for messages."""
    x0, y0, x1, y1 = box.corners
    return f"{box.position}: {x0:g} {y0:g} {x1:g} {y1:g}"


def _fault_of_corners(corners: BoxCorners) -> str:
    """Return why corners are those of no box; empty if they are."""
    if not all(map(math.isfinite, corners)):
        return "boxes with corners that are not numbers"
    if _is_empty(corners):
        return "boxes without area"
    return ""


def _is_empty(corners: BoxCorners) -> bool:
    """Return True if a box has no area."""
    x0, y0, x1, y1 = corners
    return x1 <= x0 or y1 <= y0


def _clip_to_image(corners: BoxCorners, height: int, width: int) -> BoxCorners:
    x0, y0, x1, y1 = corners
    return max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)


def _is_within(corners: BoxCorners, height: int, width: int) -> bool:
    """Return True if a box reaches beyond an image by no more than ``MAX_OVERHANG_PX``."""
    x0, y0, x1, y1 = corners
    return (
        x0 >= -MAX_OVERHANG_PX
        and y0 >= -MAX_OVERHANG_PX
        and x1 <= width + MAX_OVERHANG_PX
        and y1 <= height + MAX_OVERHANG_PX
    )


def image_stem(name: str) -> str:
    """Return the name of an image without folder and ending; only endings of images are removed."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem, _, ending = last.rpartition(".")
    return stem if stem and ending.lower() in IMAGE_ENDINGS else last


def bounding_box(points: Sequence[float]) -> BoxCorners:
    """Return the box around points ``x y x y ...``."""
    x = points[::2]
    y = points[1::2]
    return min(x), min(y), max(x), max(y)
