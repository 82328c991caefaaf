"""Matching the images of a file of boxes to slices of samples.

An image is matched by its name or, in a single sample, by its slice number.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import unquote

from sparsem.boxes.box_file import BoxFile, LostBox
from sparsem.boxes.tables import image_names
from sparsem.errors import InputError
from sparsem.store.sample import Sample

# Characters that may follow the name of an image in the name of its file: cell_7 is
# cell_7_raw.tif, and not cell_70.tif.
AFTER_NAME = "_-. "


class SliceOfImage(NamedTuple):
    """Index of a ``sample`` and index ``z`` of one of its slices."""

    sample: int
    z: int


SlicesByName = dict[str, list[SliceOfImage]]


def match_images_to_slices(
    samples: Sequence[Sample], file: BoxFile
) -> tuple[dict[int, SliceOfImage], set[SliceOfImage]]:
    """Return the slice of every image of a file; images without one become faults of the file.

    Returns:
        Slices by the index of the image, and all slices that an ambiguous image may be.

    Raises:
        InputError: the file counts slices from 1.
    """
    slices: dict[int, SliceOfImage] = {}
    image_of_slice: dict[SliceOfImage, int] = {}
    ambiguous: set[SliceOfImage] = set()
    for index, matches in enumerate(_candidates(samples, file)):
        shown = file.images[index] or f"slice {file.numbers.get(index)}"
        if not matches:
            file.add_fault("images that are in none of the samples", shown)
        elif len(matches) > 1:
            file.add_fault("images that are in several samples or slices", shown)
            ambiguous.update(matches)
        elif matches[0] in image_of_slice:
            file.add_fault("images that are listed twice", shown)
            # The boxes of this image are spread over both entries.
            file.lost.add(LostBox(image_of_slice[matches[0]], None))
        else:
            slices[index] = matches[0]
            image_of_slice[matches[0]] = index
    return slices, ambiguous


def _candidates(samples: Sequence[Sample], file: BoxFile) -> list[list[SliceOfImage]]:
    """Return the slices that each image may be, by its name or by its slice number."""
    candidates = _candidates_by_name(samples, file)
    # Slice numbers count only where no name is known: with names, they may be those of other
    # samples.
    if len(samples) == 1 and not any(candidates):
        return _candidates_by_number(samples[0], file)
    return candidates


def _candidates_by_name(samples: Sequence[Sample], file: BoxFile) -> list[list[SliceOfImage]]:
    """Return the slices that each image may be.

    These are the slices of exactly its name or, if there are none, those whose names continue it.
    """
    exact, longer = _slices_by_name(samples)
    candidates = []
    for written in file.images:
        name = _normalize(written)
        plain = unquote(name)  # names in addresses have %20 for a blank
        matches = exact.get(name) or exact.get(plain) or longer.get(name) or longer.get(plain)
        candidates.append(matches if name and matches else [])
    return candidates


def _slices_by_name(samples: Sequence[Sample]) -> tuple[SlicesByName, SlicesByName]:
    """Return the slices of each name, and the slices whose names continue a shorter one."""
    exact: SlicesByName = {}
    longer: SlicesByName = {}
    for sample_index, sample in enumerate(samples):
        for z, name in enumerate(map(_normalize, image_names(sample))):
            position = SliceOfImage(sample_index, z)
            exact.setdefault(name, []).append(position)
            for end, character in enumerate(name):
                if character in AFTER_NAME:
                    longer.setdefault(name[:end], []).append(position)
    return exact, longer


def _normalize(name: str) -> str:
    """Return a name in which letters such as ö are one character; macOS writes two."""
    return unicodedata.normalize("NFC", name)


def _candidates_by_number(sample: Sample, file: BoxFile) -> list[list[SliceOfImage]]:
    """Return the slice of each image by the slice number that the file states."""
    n_slices = sample.image("raw").shape[0]
    _refuse_from_one(file, n_slices, sample.path.name)
    candidates = []
    for index in range(len(file.images)):
        z = file.numbers.get(index, n_slices)
        candidates.append([SliceOfImage(0, z)] if z < n_slices else [])
    return candidates


def _refuse_from_one(file: BoxFile, n_slices: int, sample_name: str) -> None:
    """Refuse slices that are counted from 1: all boxes would lie on the next slice."""
    first = min(file.numbers.values(), default=0)
    last = max(file.numbers.values(), default=0)
    if first > 0 and last == n_slices:
        raise InputError(
            f"{file.name}: z counts from 0; the file holds {first} to {last}, but {sample_name} "
            f"has slices 0 to {n_slices - 1}. Subtract 1 from all."
        )
    if first == 1:
        file.notes.append(
            f"z counts from 0; {file.name} holds slices 1 to {last}, and no box of slice 0."
        )
