"""A file of boxes in one form, whatever format it was read from: images, classes, boxes, and the faults that were found in it.

Corners are ``x0 y0 x1 y1`` px (see ``sparsem.boxes.geometry``).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from sparsem.errors import InputError

BoxCorners = tuple[float, float, float, float]

MAX_OVERHANG_PX = 1.0  # px that a box may reach beyond its image: outlines are drawn through the centers of pixels, or around them
MAX_FRACTION = 1.001  # fractions of an image are up to 1, and rounded
NOT_LISTED = -1  # index of all images that a file does not list
IMAGE_ENDINGS = ("tif", "tiff", "png", "jpg", "jpeg", "bmp", "btf")


class FileBox(NamedTuple):
    """One box of a file.

    Attributes:
        image: index of its image.
        name: class of the object in it.
        corners: four numbers, px; fractions of the image if the file holds fractions, until ``check``.
        where: position in the file, for messages.
    """

    image: int
    name: str
    corners: BoxCorners
    where: str


class LostBox(NamedTuple):
    """A box that could not be read, and so an object that may lie in ``image``; None: in any image, or of any class.

    The image ``NOT_LISTED`` stands for all that the file does not list.
    """

    image: int | None
    name: str | None


@dataclass
class BoxFile:
    """Content of a file of boxes.

    Attributes:
        path: the file.
        images: name of each, without ending; empty where only the number of a slice is stated.
        numbers: slices that the file states, by image.
        shapes: (y, x) that the file states, by image.
        names: of all classes, in its order.
        boxes: all that can be understood.
        faults: what cannot, by kind, each with its position.
        lost: boxes that cannot be understood; their images are not completely annotated.
        notes: doubts about what can be understood, a sentence each.
        in_fractions: corners are fractions of the image.
    """

    path: Path
    images: list[str] = field(default_factory=list)
    numbers: dict[int, int] = field(default_factory=dict)
    shapes: dict[int, tuple[int, int]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    boxes: list[FileBox] = field(default_factory=list)
    faults: dict[str, list[str]] = field(default_factory=dict)
    lost: set[LostBox] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    in_fractions: bool = False

    @property
    def called(self) -> str:
        """The file, as messages name it."""
        return self.path.resolve().name

    def fault(self, kind: str, where: str) -> None:
        """Record a fault that hides no object."""
        self.faults.setdefault(kind, []).append(where)

    def lose(self, kind: str, where: str, image: int | None, name: str | None) -> None:
        """Record a fault of a box: an object of a class, None if unknown, lies in an image, None if unknown."""
        self.fault(kind, where)
        self.lost.add(LostBox(image, name))

    def may_lack(self, image: int, name: str) -> bool:
        """Return True if an object of a class in an image may be among the boxes that could not be read."""
        candidates = {
            LostBox(image, name),
            LostBox(image, None),
            LostBox(None, name),
            LostBox(None, None),
        }
        return not candidates.isdisjoint(self.lost)

    def check(self, shapes: Mapping[int, tuple[int, int]], clip: bool = False) -> None:
        """Remove boxes that are no boxes of their image, as faults; boxes become pixels.

        Args:
            shapes: (y, x) of the images that are known; boxes of others are removed without a fault, which their image has.
            clip: cut boxes that reach beyond their image at its border; else they are faults.

        Raises:
            InputError: all corners are fractions where pixels are expected.
        """
        self._refuse_fractions()
        kept, known = [], set[tuple[int, str, BoxCorners]]()
        for box in self.boxes:
            if box.image not in shapes:
                continue
            height, width = shapes[box.image]
            x0, y0, x1, y1 = corners = self._in_pixels(box.corners, height, width)
            where = f"{box.where}: {x0:g} {y0:g} {x1:g} {y1:g}"
            inside = (max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1))
            is_outside = inside[2] <= inside[0] or inside[3] <= inside[1]
            if not all(map(math.isfinite, corners)):
                self.lose("boxes with corners that are not numbers", where, box.image, box.name)
            elif x1 <= x0 or y1 <= y0:
                self.lose("boxes without area", where, box.image, box.name)
            elif (
                clip and is_outside
            ):  # nothing of it is left at the border, and nothing of the object is in the image
                self.fault("boxes outside of their image", f"{where}, of {width} x {height} px")
            elif is_outside or not (clip or _is_within(corners, height, width)):
                self.lose(
                    "boxes outside of their image",
                    f"{where}, of {width} x {height} px",
                    box.image,
                    box.name,
                )
            elif (box.image, box.name, corners) in known:
                self.fault("boxes that are there twice", where)
            else:
                known.add((box.image, box.name, corners))
                kept.append(box._replace(corners=inside))
        self.boxes = kept

    def _in_pixels(self, corners: BoxCorners, height: int, width: int) -> BoxCorners:
        if not self.in_fractions:
            return corners
        x0, y0, x1, y1 = corners
        return x0 * width, y0 * height, x1 * width, y1 * height

    def _refuse_fractions(self) -> None:
        if self.in_fractions:
            return
        numbers = [number for box in self.boxes for number in box.corners if math.isfinite(number)]
        if (
            numbers
            and max(numbers) <= MAX_FRACTION
            and not all(number.is_integer() for number in numbers)
        ):
            raise InputError(
                f"{self.called} holds corners from {min(numbers):g} to {max(numbers):g}; expected pixels, not fractions."
            )

    def listing(self) -> list[str]:
        """Every fault, a line each."""
        return [f"{kind}: {one}" for kind, found in self.faults.items() for one in found]

    def summary(self) -> str:
        """All faults in a sentence, with the first of each kind."""
        return "; ".join(
            f"{len(found)} {kind} ({found[0]}{', ...' if len(found) > 1 else ''})"
            for kind, found in self.faults.items()
        )


def _is_within(corners: BoxCorners, height: int, width: int) -> bool:
    x0, y0, x1, y1 = corners
    return (
        x0 >= -MAX_OVERHANG_PX
        and y0 >= -MAX_OVERHANG_PX
        and x1 <= width + MAX_OVERHANG_PX
        and y1 <= height + MAX_OVERHANG_PX
    )


def image_stem(name: str) -> str:
    """Return the name of an image without folder and ending; an ending that no image has stays."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    stem, _, ending = last.rpartition(".")
    return stem if stem and ending.lower() in IMAGE_ENDINGS else last


def bounding_box(points: Sequence[float]) -> BoxCorners:
    """Return the box around points ``x y x y ...``."""
    x, y = points[::2], points[1::2]
    return min(x), min(y), max(x), max(y)
