"""Ground truth of a structure, on the slices and parts of slices where it is labeled, laid over an image or over labels.

What is not labeled is not background: it is not known, and counts nowhere. Ground truth is read as (z, y, x) uint32, in which
``UNLABELED`` marks pixels of which nothing is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sparsem.annotation.label_volumes import WIDE_BYTES
from sparsem.annotation.renumbering import (
    EXTRA_BACKGROUND,
    UNLABELED,
    Numbers,
    Renumbering,
    SpecialNumbers,
    distinct_numbers,
    identity_renumbering,
    integer_labels,
    is_any_of,
    make_renumbering,
    refuse_interpolated_mask,
)
from sparsem.annotation.slice_numbers import match_planes_to_slices, slice_numbering
from sparsem.errors import InputError
from sparsem.geometry import axes_hint
from sparsem.io.readers.file_names import Number
from sparsem.io.readers.open import open_source
from sparsem.io.readers.placement import uncrop_segmentation
from sparsem.io.readers.series import SLICE_FILE_ENDINGS
from sparsem.io.readers.source import MinIsWhite, Source, Stack
from sparsem.settings import Settings, SliceChoice
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume

Shape = tuple[int, int, int]
Box = tuple[slice, slice, slice]

MAX_LISTED = 6
WHOLE: Box = (slice(None), slice(None), slice(None))
BOX_EXAMPLE = "0:24,100:400,200:600 (z, y, x; the end is exclusive; an empty part is all)"


class GroundTruthSettings(Settings):
    """Which slices, and which parts of them, a file of ground truth labels."""

    dataset: str | None = Field(
        None,
        description="key of the ground truth inside a Zarr group, an HDF5 or a MATLAB file; number of the image in a TIFF with several",
    )
    slices: SliceChoice | None = Field(
        None,
        description="the slices that the ground truth labels: 3,10,17 or 10-20, or 'non-empty', or 'all' "
        "(slices without a label are background); not needed where file names carry the number, "
        "or every slice holds a label",
    )
    first_slice_number: int | None = Field(
        None,
        ge=0,
        description="the number in a file's name that is the first slice; if not given, that of the stack's own files, or 0",
    )
    box: str | None = Field(
        None,
        description=f"the part of the stack that the ground truth labels, as {BOX_EXAMPLE}; the file holds that part, or the whole stack",
    )
    ids: tuple[int, ...] = Field(
        (),
        description="numbers in the ground truth that mean the structure; all but 0 if not given",
    )
    ignore: int | None = Field(
        None,
        description="number in the ground truth of pixels that are not labeled, such as 255 or -1",
    )
    min_is_white: MinIsWhite | None = Field(
        None,
        description="which numbers of a 'min is white' ground truth count: stored (as napari and scikit-image read) "
        "or displayed (as in Fiji)",
    )

    @field_validator("slices", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else value

    @field_validator("box")
    @classmethod
    def _is_a_box(cls, value: str | None) -> str | None:
        if value is not None:
            parse_box(value)
        return value


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth.

    Attributes:
        stack: (z, y, x) uint32, read when it is sliced; ``UNLABELED`` where nothing is known.
        identity: a short hash; another ground truth has another.
        z: numbers of the slices that are labeled, in whole or in part.
        renumbering: from the numbers of the file to those of the stack.
    """

    stack: Stack
    identity: str
    z: tuple[int, ...]
    renumbering: Renumbering


@dataclass(frozen=True)
class SparseStack:
    """Labels of some slices as a stack (z, y, x) uint32, 0 outside of the structure, and ``UNLABELED`` where nothing is known.

    Attributes:
        planes: (n, y, x) labels, read when they are sliced.
        plane_of: by the number of a labeled slice the plane that holds it.
        shape: (z, y, x) of the whole stack.
        where: the source, for messages.
        box: the part that is known; planes are as large as it, or as whole slices.
        ids: numbers of the file that mean the structure; all but 0 if there are none.
        ignore: number of the file for pixels that are not labeled.
        renumbering: from the numbers of the file to those of the stack; None if the stack is to be a mask of 0 and 1.
    """

    planes: Any
    plane_of: dict[int, int] = field(hash=False)
    shape: Shape
    where: str
    box: Box = WHOLE
    ids: tuple[int, ...] = ()
    ignore: int | None = None
    renumbering: Renumbering | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return np.dtype(np.uint32)

    def __getitem__(self, slices: slice) -> NDArray[np.uint32]:
        first, stop, _ = slices.indices(self.shape[0])
        out = np.full((max(stop - first, 0), *self.shape[1:]), UNLABELED, np.uint32)
        for z in range(first, stop):
            if z in self.plane_of:
                out[z - first][self.box[1:]] = self._labels(z)
        return out

    def numbers(self, z: int) -> Numbers:
        """Return the numbers (y, x) of the known part of a slice, as they are in the file.

        Raises:
            InputError: they are no labels.
        """
        plane, where = self.plane_of[z], f"slice {z} of {self.where}"
        stored = np.asarray(self.planes[plane : plane + 1])[0]
        if stored.shape == self.shape[1:]:
            stored = stored[self.box[1:]]
        numbers = integer_labels(stored, where, SpecialNumbers(self.ignore))
        if not self.ids and self.ignore is None:
            refuse_interpolated_mask(numbers, where, "--ids or --ignore")
        return numbers

    def inside(self, numbers: Numbers) -> NDArray[np.bool_]:
        """Return where the structure is, for numbers of the file."""
        inside = is_any_of(numbers, self.ids) if self.ids else numbers != 0
        return inside if self.ignore is None else inside & (numbers != self.ignore)

    def _labels(self, z: int) -> NDArray[np.uint32]:
        """Return the labels (y, x) of the known part of a slice."""
        numbers = self.numbers(z)
        inside = self.inside(numbers)
        if self.renumbering is None:
            labels = inside.astype(np.uint32)
        else:
            labels = self.renumbering.of(np.where(inside, numbers, 0).astype(numbers.dtype)).astype(
                np.uint32
            )
        labels[labels == UNLABELED] = (
            EXTRA_BACKGROUND  # an object that has the largest number of 32 bits
        )
        if self.ignore is not None:
            labels[numbers == self.ignore] = UNLABELED
        return labels


def read_ground_truth(
    sample: Sample,
    name: str,
    seen: Volume | None,
    source: str | Path | None = None,
    settings: GroundTruthSettings = GroundTruthSettings(),
    objects: bool = False,
) -> GroundTruth:
    """Return the ground truth of a structure.

    Args:
        sample: the sample that it belongs to.
        name: of the structure.
        seen: an image, or labels made on one: ground truth with the pixels of the raw image is moved as alignment moved them. If
            there is none, the ground truth stays as it is.
        source: a labeled volume, a folder of masks, or a single slice; the sample's own ``truth/NAME`` if not given.
        settings: what of it is labeled.
        objects: the numbers of objects are wanted: those of files whose numbers may be beyond 32 bits are then all read; else such
            a file becomes a mask.

    Raises:
        SampleError: the sample has no ground truth of that name, and none is given.
        InputError: it cannot be read, has another shape, or does not show which of its slices are labeled.
    """
    own = sample.volume("truth", name) if source is None else None
    where = str(own.directory if own else source)
    found = open_source(
        where, settings.dataset, labels=True, any_order=True, min_is_white=settings.min_is_white
    )
    shapes = [
        *([sample.image("raw").shape] if sample.has_image else []),
        *([seen.shape] if seen is not None else []),
    ]
    found = uncrop_segmentation(found, shapes) if shapes else found
    planes: Any = (
        own.kept() if own else found.stack
    )  # a volume of ours reports chunks that are lost
    shape, box = _frame_of(tuple(found.stack.shape), shapes, settings.box, where)
    extent = _extent(box, shape)
    if own and settings.slices is None:
        labeled = {
            number: number for number in range(shape[0])
        }  # made with the sample, and complete
    else:
        numbering = (
            slice_numbering(sample, settings.first_slice_number)
            if sample.has_image
            else range(shape[0])
        )
        labeled = _labeled(found, shape, extent, settings.slices, numbering, where)
    z = tuple(number for number in labeled if extent[0].start <= number < extent[0].stop)
    plane_of = {number: labeled[number] for number in z}
    sparse = SparseStack(planes, plane_of, shape, where, extent, settings.ids, settings.ignore)
    is_wide = np.dtype(planes.dtype).itemsize >= WIDE_BYTES
    if objects or not is_wide:
        sparse = replace(
            sparse, renumbering=_renumbering(sparse) if is_wide else identity_renumbering()
        )
    stack: Any = sparse
    if seen is not None:
        stack = sample.seen_by(seen, stack, UNLABELED)
        if tuple(stack.shape) != seen.shape:
            what = (
                "the image"
                if seen.directory == sample.path
                else seen.directory.relative_to(sample.path).as_posix()
            )
            shapes_differ = f"has the shape {tuple(stack.shape)}, but {what} has {seen.shape}"
            raise InputError(
                f"The ground truth {where} {shapes_differ}{axes_hint(stack.shape, seen.shape)}."
            )
    return GroundTruth(stack, found.identity(), z, sparse.renumbering or identity_renumbering())


def _renumbering(stack: SparseStack) -> Renumbering:
    """Return how the numbers of objects are stored; all labeled slices are read."""
    numbers: set[int] = set()
    for z in stack.plane_of:
        found = stack.numbers(z)
        numbers |= distinct_numbers(np.where(stack.inside(found), found, 0).astype(found.dtype))
    return make_renumbering(numbers)


def parse_box(text: str) -> Box:
    """Return a box as slices (z, y, x).

    Raises:
        ValueError: it is not ``z0:z1,y0:y1,x0:x1``.
    """
    parts = [part.strip().split(":") for part in text.split(",")]
    try:
        z, y, x = (
            slice(*(int(end) if end.strip() else None for end in part))
            for part in parts
            if len(part) == 2
        )
    except ValueError:
        raise ValueError(f"a box is given as {BOX_EXAMPLE}") from None
    return z, y, x


def _frame_of(
    found: tuple[int, ...], shapes: Sequence[Shape], box: str | None, where: str
) -> tuple[Shape, Box]:
    """Return the shape of the stack that ground truth belongs to, and the part of it that is known.

    Of several stacks (the raw image, the labels) the first that fits is taken.

    Raises:
        InputError: the box reaches beyond the stack, or the ground truth has another size than it.
    """
    part = parse_box(box) if box else WHOLE
    for shape in shapes or [(found[0], found[1], found[2])]:
        if found[1:] == shape[1:]:
            return shape, part
        if box and found[1:] == tuple(one.stop - one.start for one in _extent(part, shape)[1:]):
            return shape, part
    sizes = " or ".join(dict.fromkeys(f"{shape[1:]}" for shape in shapes))
    swapped = axes_hint(found, shapes[0]) if shapes else ""
    hint = swapped or ("" if box else "; if it labels a part of the stack, say which with --box")
    raise InputError(
        f"{where} has slices of {found[1:]} px, but expected {sizes} px (y, x), as the stack has{hint}."
    )


def _extent(box: Box, shape: Sequence[int]) -> Box:
    """Return a box with both ends.

    Raises:
        InputError: it reaches beyond the stack, or is empty.
    """
    ends = [
        (part.start or 0, length if part.stop is None else part.stop)
        for part, length in zip(box, shape, strict=True)
    ]
    for (first, stop), length, axis in zip(ends, shape, "zyx", strict=True):
        if not 0 <= first < stop <= length:
            raise InputError(
                f"--box holds {first}:{stop} along {axis}, but the stack has 0:{length} there."
            )
    z, y, x = (slice(first, stop) for first, stop in ends)
    return z, y, x


def _labeled(
    found: Source,
    shape: Shape,
    extent: Box,
    chosen: str | None,
    numbering: Sequence[Number],
    where: str,
) -> dict[int, int]:
    """Return the plane of every labeled slice.

    Raises:
        InputError: the source does not show which of its slices are labeled.
    """
    n_slices, n_planes = shape[0], found.stack.shape[0]
    is_series = len(found.files) == n_planes and all(
        file.suffix.lower() in SLICE_FILE_ENDINGS for file in found.files
    )
    by_name = chosen is None and is_series and n_slices > 1
    first, depth = extent[0].start, extent[0].stop - extent[0].start
    of_part = n_planes == depth != n_slices and not by_name and chosen in (None, "all", "non-empty")
    if chosen is None and not by_name:
        if n_planes not in (n_slices, depth):
            raise InputError(
                f"Which {n_planes} of the {n_slices} slices does {where} label? Give their numbers with --slices, or the part of the "
                "stack with --box."
            )
        _refuse_empty(found, extent[1:] if found.stack.shape[1:] == shape[1:] else (), where)
        chosen = "all"
    own_size = (found.stack.shape[1], found.stack.shape[2])  # the size was checked with the box
    numbers, planes = match_planes_to_slices(
        found, (depth if of_part else n_slices, *own_size), chosen, numbering, where
    )
    return {
        number + (first if of_part else 0): plane
        for number, plane in zip(numbers, planes, strict=True)
    }


def _refuse_empty(found: Source, part: tuple[slice, ...], where: str) -> None:
    """Refuse a volume of which some slices hold no label: they may be unlabeled.

    Raises:
        InputError: the first of them are named.
    """
    n_planes = found.stack.shape[0]
    empty = [
        plane
        for plane in range(n_planes)
        if not np.any(np.asarray(found.stack[plane : plane + 1])[0][part])
    ]
    if not empty:
        return
    listed = ", ".join(map(str, empty[:MAX_LISTED])) + (" ..." if len(empty) > MAX_LISTED else "")
    raise InputError(
        f"{len(empty)} of the {n_planes} slices of {where} hold no label ({listed}): are they background, or unlabeled? Give --slices all "
        "if every slice is labeled, --slices non-empty if only the others are, or the numbers of the labeled slices."
    )
