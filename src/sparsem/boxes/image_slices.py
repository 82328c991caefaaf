"""Which slice of which sample an image of a file of boxes is: by its name or, in a single sample, by its number."""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import unquote

from sparsem.boxes.box_file import BoxFile, LostBox
from sparsem.boxes.tables import image_names
from sparsem.errors import InputError
from sparsem.store.sample import Sample

AFTER_NAME = "_-. "  # what may follow an image's name in that of its file: cell_7 is cell_7_raw.tif, and not cell_70.tif


class SliceOfImage(NamedTuple):
    """Index of a ``sample`` and of its slice ``z``."""

    sample: int
    z: int


def match_images_to_slices(
    samples: Sequence[Sample], found: BoxFile
) -> tuple[dict[int, SliceOfImage], set[SliceOfImage]]:
    """Return the slice of every image of a file, by the index of the image; images without one become faults.

    Returns:
        The slices, and all slices that an image may be which fits several.

    Raises:
        InputError: slices are counted from 1.
    """
    candidates = _by_name(samples, found)
    if len(samples) == 1 and not any(
        candidates
    ):  # numbers count only where no name is known: those of another sample are others
        candidates = _by_number(samples[0], found)
    slices: dict[int, SliceOfImage] = {}
    taken: dict[SliceOfImage, int] = {}
    ambiguous: set[SliceOfImage] = set()
    for index, (called, own) in enumerate(zip(found.images, candidates, strict=True)):
        shown = called or f"slice {found.numbers.get(index)}"
        if not own:
            found.fault("images that are in none of the samples", shown)
        elif len(own) > 1:
            found.fault("images that are in several samples or slices", shown)
            ambiguous.update(own)
        elif own[0] in taken:
            found.fault("images that are listed twice", shown)
            found.lost.add(LostBox(taken[own[0]], None))  # its boxes are listed in two places
        else:
            slices[index] = own[0]
            taken[own[0]] = index
    return slices, ambiguous


def _by_name(samples: Sequence[Sample], found: BoxFile) -> list[list[SliceOfImage]]:
    """Slices that each image may be: those of just its name or, if there are none, those whose names continue it."""
    exact: dict[str, list[SliceOfImage]] = {}
    longer: dict[str, list[SliceOfImage]] = {}
    for sample, names in enumerate(map(image_names, samples)):
        for z, name in enumerate(map(_composed, names)):
            exact.setdefault(name, []).append(SliceOfImage(sample, z))
            for end, mark in enumerate(name):
                if mark in AFTER_NAME:
                    longer.setdefault(name[:end], []).append(SliceOfImage(sample, z))
    candidates = []
    for written in found.images:
        called = _composed(written)
        plain = unquote(called)  # names in addresses have %20 for a blank
        own = exact.get(called) or exact.get(plain) or longer.get(called) or longer.get(plain) or []
        candidates.append(own if called else [])
    return candidates


def _composed(name: str) -> str:
    """The name with letters such as ö as one character; macOS writes two."""
    return unicodedata.normalize("NFC", name)


def _by_number(sample: Sample, found: BoxFile) -> list[list[SliceOfImage]]:
    """The slice of each image by the number that the file states."""
    count = sample.image("raw").shape[0]
    _refuse_from_one(found.numbers, count, found, sample.path.name)
    numbers = [found.numbers.get(index, count) for index in range(len(found.images))]
    return [[SliceOfImage(0, number)] if number < count else [] for number in numbers]


def _refuse_from_one(numbers: Mapping[int, int], count: int, found: BoxFile, sample: str) -> None:
    """Refuse slices that are counted from 1: taken as they are, all boxes would lie on the next slice."""
    first, last = min(numbers.values(), default=0), max(numbers.values(), default=0)
    if first > 0 and last == count:
        raise InputError(
            f"{found.called}: z counts from 0; the file holds {first} to {last}, but {sample} has slices 0 to {count - 1}. Subtract 1 from "
            "all."
        )
    if first == 1:
        found.notes.append(
            f"z counts from 0; {found.called} holds slices from 1 to {last}, and nothing of slice 0."
        )
