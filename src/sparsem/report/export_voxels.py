"""Voxels of a sample for export: a volume, several masks together, or some slices.

A volume can be moved onto the pixels of another image of the sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.corrections import UNCORRECTED, read_corrections
from sparsem.annotation.labeled_slices import annotation_names, read_annotation, stored_labels
from sparsem.errors import InputError, SampleError
from sparsem.io.writers import ExportVolume, combine_masks
from sparsem.labels.results import object_labels, result_labels
from sparsem.progress import print_note
from sparsem.settings import nearest
from sparsem.store.sample import Sample
from sparsem.store.summary import list_first
from sparsem.store.transforms import WarpedStack, contains_pixels
from sparsem.store.volume import Volume

EXPECTED = (
    "expected a structure, labels/NAME, annotations/NAME, corrections/NAME, images/NAME, "
    "probabilities/NAME, truth/NAME or raw"
)
FOLDERS = ("", "labels", "probabilities", "images", "truth")


@dataclass(frozen=True)
class SliceSelection:
    """Selected slices of a stack, as a stack.

    Attributes:
        stack: (z, y, x), indexed by a slice along z.
        slices: numbers of the slices, in the order of the result.
    """

    stack: Any
    slices: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (number of slices, y, x)."""
        return (len(self.slices), *self.stack.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels of the stack."""
        dtype: np.dtype[Any] = np.dtype(self.stack.dtype)
        return dtype

    def __getitem__(self, index: slice) -> NDArray[Any]:
        slices = self.slices[index]
        if not slices:
            return np.zeros((0, *self.shape[1:]), self.dtype)
        return np.concatenate([np.asarray(self.stack[z : z + 1]) for z in slices])


@dataclass(frozen=True)
class MaskStack:
    """Numbered objects as a mask: 0 and 1, uint8.

    Attributes:
        stack: (z, y, x) numbers, indexed by a slice along z.
    """

    stack: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (z, y, x)."""
        return tuple(self.stack.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the voxels of a mask."""
        return np.dtype(np.uint8)

    def __getitem__(self, index: slice) -> NDArray[np.uint8]:
        return (np.asarray(self.stack[index]) > 0).astype(np.uint8)


def voxels_to_export(
    sample: Sample, names: Sequence[str], onto: str | None, slices: Sequence[int], quiet: bool
) -> ExportVolume:
    """Return the voxels that ``names`` stand for: a volume, an annotation, or several masks.

    Args:
        sample: the sample to read.
        names: structures (constrained labels, if there are any), ``folder/NAME`` or ``raw``.
        onto: name of the image onto whose pixels voxels are moved; if None they stay where they
            are, with a note if alignment has moved them.
        slices: numbers of the slices; if empty, all slices, or the annotated ones of an
            annotation.
        quiet: no notes.

    Raises:
        InputError: the names cannot be exported together, or there are no such slices.
        SampleError: the sample does not contain them.
    """
    if not names:
        raise InputError(f"No name was given; {EXPECTED}.")
    if any(name.startswith("annotations/") for name in names):
        return _annotated_slices(sample, names, onto, slices, quiet)
    if any(name.startswith("corrections/") for name in names):
        return _corrected_slices(sample, names, onto, slices, quiet)
    piece, first = _stack_of(sample, names)
    if onto is None:
        _note_moved_pixels(sample, names, first, quiet)
    else:
        piece = _move_onto(sample, names, piece, first, onto, quiet)
    return _select_slices(piece, names, slices) if slices else piece


def _select_slices(
    piece: ExportVolume, names: Sequence[str], slices: Sequence[int]
) -> ExportVolume:
    """Return some slices of the voxels; refuse slices beyond the last one."""
    depth = piece.stack.shape[0]
    beyond = [z for z in slices if z >= depth]
    if beyond:
        raise InputError(
            f"There is no slice {beyond[0]}: the last slice of {', '.join(names)} is {depth - 1}. "
            "Choose other slices with --slices."
        )
    return replace(piece, stack=SliceSelection(piece.stack, tuple(slices)))


def exportable_names(sample: Sample) -> list[str]:
    """Return all names that ``voxels_to_export`` accepts for a sample."""
    folders = ("annotations", "corrections", "images", "probabilities", "truth")
    in_folders = [f"{folder}/{name}" for folder in folders for name in sample.names(folder)]
    raw = ["raw"] if sample.has_image else []
    return [*sample.names("labels"), *in_folders, *raw]


def _stack_of(sample: Sample, names: Sequence[str]) -> tuple[ExportVolume, Volume]:
    """Return all slices of the named volumes, and the first volume."""
    plain_names = [name.rpartition("/")[2] for name in names]
    has_duplicates = len(set(plain_names)) < len(plain_names)
    # The objects of a measured structure are those of its table; "labels/NAME" is everything
    # that was predicted.
    measured = {name: object_labels(sample, name) for name in names if "/" not in name}
    volumes: dict[str, Volume] = {}
    for name, plain_name in zip(names, plain_names, strict=True):
        volume = measured.get(name) or _read_volume(sample, name)
        volumes[name if has_duplicates else plain_name] = volume
    first = next(iter(volumes.values()))
    if len(volumes) > 1:
        _check_masks(volumes)
        return combine_masks(volumes), first
    is_measured = measured.get(names[0]) is not None
    return _single_volume(next(iter(volumes)), first, is_measured), first


def _single_volume(label: str, volume: Volume, is_measured: bool) -> ExportVolume:
    """Return a volume that is written alone: a mask if it is predicted, or holds objects."""
    is_predicted_mask = volume.dtype == np.uint8 and volume.directory.parent.name == "labels"
    piece = ExportVolume.from_volume(volume, {label: 1} if is_measured or is_predicted_mask else {})
    if is_measured:
        return replace(piece, stack=MaskStack(piece.stack))
    return piece


def _check_masks(volumes: dict[str, Volume]) -> None:
    """Raise an InputError if one of several volumes is no mask."""
    for name, volume in volumes.items():
        if volume.directory.parent.name not in ("labels", "truth"):
            raise InputError(
                "Only masks can be written together into one file, the first as 1, the second as "
                f"2; '{name}' is not a mask. Write it alone."
            )


def _read_volume(sample: Sample, name: str) -> Volume:
    """Return the volume that a name stands for."""
    folder, _, plain_name = name.rpartition("/")
    if folder not in FOLDERS:
        raise InputError(f"'{name}' is not part of a sample; {EXPECTED}.")
    if folder:
        return sample.volume(folder, plain_name)
    return sample.image("raw") if plain_name == "raw" else result_labels(sample, plain_name)


def _move_onto(
    sample: Sample,
    names: Sequence[str],
    piece: ExportVolume,
    volume: Volume,
    onto: str,
    quiet: bool,
) -> ExportVolume:
    """Return the voxels on the pixels of the image ``onto``."""
    source, target = sample.transform_of(volume), sample.transform_of(sample.image(onto))
    motions = source.motions_from(target)
    if not contains_pixels(source.shape, target.shape, motions):
        text = (
            f"Note: '{onto}' shows places outside the image of {', '.join(names)}; voxels there "
            "are 0."
        )
        print_note(text, quiet)
    return replace(piece, stack=WarpedStack(piece.stack, motions, target.shape))


def _note_moved_pixels(sample: Sample, names: Sequence[str], volume: Volume, quiet: bool) -> None:
    """Print a note if voxels do not lie over those of the raw stack."""
    if quiet or not sample.has_image:
        return
    raw = sample.image("raw")
    try:
        is_same = sample.transform_of(volume).is_same(sample.transform_of(raw))
    except SampleError:  # its image was replaced, so its position is not known
        return
    if is_same:
        return
    size = " x ".join(map(str, volume.shape[1:]))
    raw_size = " x ".join(map(str, raw.shape[1:]))
    image = volume.made_on[0] if volume.made_on else sample.name
    text = (
        f"Note: {', '.join(names)} lies on the pixels of '{image}' ({size}), which alignment "
        f"moved, not on those of the raw stack ({raw_size}); --onto raw moves it there."
    )
    print_note(text, quiet)


def _annotated_slices(
    sample: Sample, names: Sequence[str], onto: str | None, slices: Sequence[int], quiet: bool
) -> ExportVolume:
    """Return annotated slices only: no number can stand for the unknown labels of the others."""
    _refuse_company(names, onto)
    name = names[0].removeprefix("annotations/")
    drawn = read_annotation(sample, _annotated_structure(sample, name))
    missing = [z for z in slices if z not in drawn.z]
    if missing:
        raise InputError(
            f"Slice {missing[0]} of annotations/{name} is not annotated; annotated slices are "
            f"{', '.join(map(str, drawn.z))}."
        )
    selected = tuple(slices) or drawn.z
    ignored = "" if drawn.ignore is None else f" --ignore {drawn.ignore}"
    listed = ",".join(map(str, selected))
    text = (
        f"Note: the file contains slices {listed}; import it with 'annotate import --slices "
        f"{listed}{ignored}'."
    )
    print_note(text, quiet)
    positions = tuple(drawn.z.index(z) for z in selected)
    stack = SliceSelection(stored_labels(sample, name), positions)
    return ExportVolume(stack, sample.image(drawn.image).voxel_size, 1)


def _refuse_company(names: Sequence[str], onto: str | None) -> None:
    """Refuse to write what a person drew together with something else, or on other pixels."""
    if len(names) > 1:
        raise InputError(
            f"Annotations and corrections are written into a file each; got {len(names)} names."
        )
    if onto is not None:
        raise InputError(
            "Annotations and corrections are written on the pixels of the image that they were "
            "drawn on; leave --onto out."
        )


def _corrected_slices(
    sample: Sample, names: Sequence[str], onto: str | None, slices: Sequence[int], quiet: bool
) -> ExportVolume:
    """Return the slices with corrections; all other voxels have a number that marks them."""
    _refuse_company(names, onto)
    name = names[0].removeprefix("corrections/")
    corrections = read_corrections(sample, name)
    if corrections is None or not corrections.n_voxels:
        hint = nearest(name, sample.names("corrections"))
        raise SampleError(f"{sample.path.name} has no corrections/{name}{hint}")
    corrected = corrections.corrected_slices()
    missing = [z for z in slices if z not in corrected]
    if missing:
        raise InputError(
            f"Slice {missing[0]} of corrections/{name} holds no correction; corrected slices are "
            f"{list_first(corrected)}."
        )
    selected = tuple(slices) or tuple(corrected)
    listed = ",".join(map(str, selected))
    text = (
        f"Note: the file contains slices {listed}; voxels of {UNCORRECTED} are not corrected. "
        f"Import it with 'correct --slices {listed} --ignore {UNCORRECTED}'."
    )
    print_note(text, quiet)
    voxel_size = sample.volume("labels", name).voxel_size
    return ExportVolume(SliceSelection(corrections, selected), voxel_size, 1)


def _annotated_structure(sample: Sample, name: str) -> str:
    """Return the structure of ``annotations/NAME``; refuse a name that the sample does not have."""
    if name not in sample.names("annotations"):
        hint = nearest(name, sample.names("annotations"))
        raise SampleError(f"{sample.path.name} has no annotations/{name}{hint}")
    return next(
        structure
        for structure, annotation in annotation_names(sample).items()
        if annotation == name
    )
