"""Voxels of a sample as other programs are given them: a volume, several masks together, or some slices, on any image's pixels."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import annotation_names, read_annotation, stored_labels
from sparsem.errors import InputError, SampleError
from sparsem.io.writers import ExportVolume, combine_masks
from sparsem.labels.results import object_labels, result_labels
from sparsem.progress import tell
from sparsem.settings import nearest
from sparsem.store.sample import Sample
from sparsem.store.transforms import MovedStack, covers
from sparsem.store.volume import Volume

EXPECTED = "expected a structure, labels/NAME, annotations/NAME, images/NAME, probabilities/NAME, truth/NAME or raw"
FOLDERS = ("", "labels", "probabilities", "images", "truth")


@dataclass(frozen=True)
class ChosenSlices:
    """Some slices of a stack, one after the other.

    Attributes:
        stack: (z, y, x), sliced along z.
        planes: of the stack, in the order in which they are wanted.
    """

    stack: Any
    planes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """(planes, y, x)."""
        return (len(self.planes), *self.stack.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stack."""
        dtype: np.dtype[Any] = np.dtype(self.stack.dtype)
        return dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        planes = self.planes[slices]
        if not planes:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        return np.concatenate([np.asarray(self.stack[plane : plane + 1]) for plane in planes])


@dataclass(frozen=True)
class AsMask:
    """Numbered objects as a mask.

    Attributes:
        stack: (z, y, x) numbers, sliced along z.
    """

    stack: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """(z, y, x)."""
        return tuple(self.stack.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a mask."""
        return np.dtype(np.uint8)

    def __getitem__(self, slices: slice) -> NDArray[np.uint8]:
        return (np.asarray(self.stack[slices]) > 0).astype(np.uint8)


def named_piece(
    sample: Sample, names: Sequence[str], onto: str | None, slices: Sequence[int], quiet: bool
) -> ExportVolume:
    """Return what ``names`` call: one volume or annotation, or several masks together.

    Args:
        sample: as it is.
        names: structures (constrained, if they were), ``folder/NAME`` or ``raw``.
        onto: the image on whose pixels it is wanted; its own if None, with a note if alignment moved them.
        slices: the slices that are wanted; all, or of an annotation those that are annotated, if empty.
        quiet: no notes.

    Raises:
        InputError: what is named cannot be one piece, or has no such slices.
        SampleError: there is no such piece.
    """
    if not names:
        raise InputError(f"Nothing was named; {EXPECTED}.")
    if any(name.startswith("annotations/") for name in names):
        return _annotated(sample, names, onto, slices, quiet)
    piece = _whole(sample, names, onto, quiet)
    if not slices:
        return piece
    depth = piece.stack.shape[0]
    beyond = [z for z in slices if z >= depth]
    if beyond:
        raise InputError(
            f"Slice {beyond[0]} is beyond the last one of {', '.join(names)}, {depth - 1}; choose others with --slices."
        )
    return replace(piece, stack=ChosenSlices(piece.stack, tuple(slices)))


def _whole(sample: Sample, names: Sequence[str], onto: str | None, quiet: bool) -> ExportVolume:
    plains = [name.rpartition("/")[2] for name in names]
    alike = len(set(plains)) < len(plains)
    # Of a structure that was measured the same objects are written as are in its table; "labels/NAME" is all that was predicted.
    counted = {name: object_labels(sample, name) for name in names if "/" not in name}
    whole = {name: counted.get(name) or _volume(sample, name) for name in names}
    volumes = {
        name if alike else plain: whole[name] for name, plain in zip(names, plains, strict=True)
    }
    no_mask = [
        name for name, volume in volumes.items() if len(volumes) > 1 and not _is_labels(volume)
    ]
    if no_mask:
        raise InputError(
            f"Several pieces in one file are masks, the first of them 1, the second 2; '{no_mask[0]}' is none: write it alone."
        )
    plain, first = next(iter(volumes.items()))
    is_counted = counted.get(names[0]) is not None
    of_mask = is_counted or (first.dtype == np.uint8 and first.directory.parent.name == "labels")
    piece = (
        combine_masks(volumes)
        if len(volumes) > 1
        else ExportVolume.from_volume(first, {plain: 1} if of_mask else {})
    )
    if is_counted and len(volumes) == 1:
        piece = replace(piece, stack=AsMask(piece.stack))
    if onto is None:
        tell(*_frame_note(sample, names, first, quiet))
        return piece
    here, there = sample.frame(first), sample.frame(sample.image(onto))
    motions = here.seen_from(there)
    if not covers(here.shape, there.shape, motions):
        tell(
            f"Note: '{onto}' shows places that {', '.join(names)} was not made on; they are 0.",
            quiet,
        )
    return replace(piece, stack=MovedStack(piece.stack, motions, there.shape))


def _frame_note(
    sample: Sample, names: Sequence[str], volume: Volume, quiet: bool
) -> tuple[str, bool]:
    """Return what is reported of voxels that do not lie over those of the stack as it came, and whether to keep quiet."""
    if not sample.has_image:
        return "", True
    raw = sample.image("raw")
    try:
        is_same = sample.frame(volume).is_same(sample.frame(raw))
    except SampleError:  # its image was replaced, so where it lies is not known
        return "", True
    sizes = " x ".join(map(str, volume.shape[1:])), " x ".join(map(str, raw.shape[1:]))
    image = volume.made_on[0] if volume.made_on else sample.name
    note = (
        f"Note: {', '.join(names)} lies on the pixels of '{image}' ({sizes[0]}), which alignment moved, not on those of the raw stack "
        f"({sizes[1]}); --onto raw carries it there."
    )
    return note, quiet or is_same


def _annotated(
    sample: Sample, names: Sequence[str], onto: str | None, slices: Sequence[int], quiet: bool
) -> ExportVolume:
    """The annotated slices of an annotation: others are not known, and no number can stand for them."""
    if len(names) > 1:
        raise InputError("An annotation is written alone; name one.")
    if onto is not None:
        raise InputError(
            "An annotation is written on the pixels of the image that it was drawn on; leave --onto away."
        )
    name = names[0].removeprefix("annotations/")
    if name not in sample.names("annotations"):
        raise SampleError(
            f"{sample.path.name} has no annotations/{name}{nearest(name, sample.names('annotations'))}"
        )
    drawn = read_annotation(
        sample,
        next(structure for structure, own in annotation_names(sample).items() if own == name),
    )
    missing = [z for z in slices if z not in drawn.z]
    if missing:
        known = ", ".join(map(str, drawn.z))
        raise InputError(
            f"Slice {missing[0]} of annotations/{name} is not annotated; annotated are {known}."
        )
    wanted = tuple(slices) or drawn.z
    image = sample.image(drawn.image)
    ignored = "" if drawn.ignore is None else f" --ignore {drawn.ignore}"
    listed = ",".join(map(str, wanted))
    tell(
        f"Note: the slices are {listed}; 'annotate import' takes them with --slices {listed}{ignored}.",
        quiet,
    )
    planes = tuple(drawn.z.index(z) for z in wanted)
    return ExportVolume(ChosenSlices(stored_labels(sample, name), planes), image.voxel_size, 1)


def pieces_of(sample: Sample) -> list[str]:
    """Return what may be named."""
    folders = ("annotations", "images", "probabilities", "truth")
    named = [f"{folder}/{name}" for folder in folders for name in sample.names(folder)]
    return [*sample.names("labels"), *named, *(["raw"] if sample.has_image else [])]


def _is_labels(volume: Volume) -> bool:
    return volume.directory.parent.name in ("labels", "truth")


def _volume(sample: Sample, name: str) -> Volume:
    folder, _, plain = name.rpartition("/")
    if folder not in FOLDERS:
        raise InputError(f"'{name}' is not part of a sample; {EXPECTED}.")
    return (
        sample.volume(folder, plain)
        if folder
        else sample.image("raw")
        if plain == "raw"
        else result_labels(sample, plain)
    )
