"""Ground truth of a structure on its labeled slices, on the pixel grid of an image or of labels.

Pixels that are not labeled are not background: they are unknown and do not count. Ground truth is
read as (z, y, x) uint32, in which ``UNLABELED`` marks unknown pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsem.annotation.label_numbers import UNLABELED
from sparsem.annotation.label_volumes import WIDE_BYTES
from sparsem.annotation.renumbering import Renumbering, identity_renumbering
from sparsem.annotation.settings import GroundTruthSettings, parse_box
from sparsem.annotation.slice_numbers import match_planes_to_slices, slice_numbering
from sparsem.annotation.sparse_stack import WHOLE, Shape, SparseStack
from sparsem.errors import InputError
from sparsem.geometry import Box, axes_hint
from sparsem.io.readers.file_names import Number
from sparsem.io.readers.open import open_source
from sparsem.io.readers.placement import uncrop_segmentation
from sparsem.io.readers.series import SLICE_FILE_ENDINGS
from sparsem.io.readers.source import Source, Stack
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume

MAX_LISTED = 6  # slices in a message


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of a structure.

    Attributes:
        stack: (z, y, x) uint32, read when it is sliced; ``UNLABELED`` where nothing is known.
        identity: a short hash, which differs for another ground truth.
        z: numbers of the slices that are labeled, in whole or in part.
        renumbering: mapping from the numbers of the file to those of the stack.
    """

    stack: Stack
    identity: str
    z: tuple[int, ...]
    renumbering: Renumbering


def read_ground_truth(
    sample: Sample,
    name: str,
    target: Volume | None,
    source: str | Path | None = None,
    settings: GroundTruthSettings = GroundTruthSettings(),
    objects: bool = False,
    has_target_pixels: bool = False,
) -> GroundTruth:
    """Return the ground truth of a structure.

    Args:
        sample: sample that it belongs to.
        name: name of the structure.
        target: an image, or labels made on one: ground truth on the pixel grid of the raw image is
            moved as alignment moved it. If None, the ground truth stays as it is.
        source: a labeled volume, a folder of masks, or a single slice; the sample's own
            ``truth/NAME`` if not given.
        settings: labeled slices and parts.
        objects: keep the numbers of objects; if they may exceed 32 bits, all of them are read. If
            False, ground truth with such numbers becomes a mask.
        has_target_pixels: the ground truth has the pixels of the target, and is not moved.

    Raises:
        SampleError: the sample has no ground truth of that name, and none is given.
        InputError: it cannot be read, has another shape, or does not show which of its slices are
            labeled.
    """
    own_volume = sample.volume("truth", name) if source is None else None
    where = str(own_volume.directory if own_volume else source)
    planes_in_file = open_source(
        where, settings.dataset, labels=True, any_order=True, min_is_white=settings.min_is_white
    )
    shapes = _possible_shapes(sample, target)
    if has_target_pixels and target is not None:
        shapes = [target.shape]
    if shapes:
        planes_in_file = uncrop_segmentation(planes_in_file, shapes)
    # A volume of the sample itself reports chunks that are missing.
    planes: Any = own_volume.lazy() if own_volume else planes_in_file.stack
    shape, box = _match_shape(tuple(planes_in_file.stack.shape), shapes, settings.box, where)
    extent = _extent(box, shape)
    if own_volume and settings.slices is None:
        plane_of = {z: z for z in range(shape[0])}  # made with the sample, and complete
    else:
        plane_of = _labeled_planes(sample, planes_in_file, shape, extent, settings, where)
    plane_of = _planes_within(plane_of, extent[0])
    stack = SparseStack(planes, plane_of, shape, where, extent, settings.ids, settings.ignore)
    stack = _with_renumbering(stack, objects)
    is_moved = target is not None and not has_target_pixels
    return GroundTruth(
        _move_to_target(sample, stack, target) if target and is_moved else stack,
        planes_in_file.identity(),
        tuple(plane_of),
        stack.renumbering or identity_renumbering(),
    )


def _possible_shapes(sample: Sample, target: Volume | None) -> list[Shape]:
    """Return the shapes of the stacks that ground truth may belong to."""
    shapes = []
    if sample.has_image:
        shapes.append(sample.image("raw").shape)
    if target is not None:
        shapes.append(target.shape)
    return shapes


def _planes_within(plane_of: Mapping[int, int], extent: slice) -> dict[int, int]:
    """Return the planes of the slices within an extent along z."""
    return {z: plane for z, plane in plane_of.items() if extent.start <= z < extent.stop}


def _with_renumbering(stack: SparseStack, objects: bool) -> SparseStack:
    """Return the stack with numbers of 32 bits, if its numbers fit or objects are kept."""
    is_wide = np.dtype(stack.planes.dtype).itemsize >= WIDE_BYTES
    if not is_wide:
        return replace(stack, renumbering=identity_renumbering())
    if objects:
        return replace(stack, renumbering=stack.object_renumbering())
    return stack


def _move_to_target(sample: Sample, stack: SparseStack, target: Volume) -> Stack:
    """Return ground truth on the pixel grid of an image, or of labels made on one.

    Raises:
        InputError: its shape is neither that of the target nor that of the raw image.
    """
    moved: Stack = sample.resample_to(target, stack, UNLABELED)
    shape = tuple(moved.shape)
    if shape != target.shape:
        if target.directory == sample.path:
            target_name = "the image"
        else:
            target_name = target.directory.relative_to(sample.path).as_posix()
        raise InputError(
            f"The ground truth {stack.where} has the shape {shape}, but {target_name} has "
            f"{target.shape}{axes_hint(shape, target.shape)}."
        )
    return moved


def _match_shape(
    file_shape: tuple[int, ...], shapes: Sequence[Shape], box: str | None, where: str
) -> tuple[Shape, Box]:
    """Return the shape of the stack that ground truth belongs to, and the labeled part of it.

    Of several stacks (the raw image, the labels) the first that fits counts.

    Raises:
        InputError: the box exceeds the stack, or the ground truth has another size.
    """
    part = parse_box(box) if box else WHOLE
    plane_size = file_shape[1:]
    for shape in shapes or [(file_shape[0], file_shape[1], file_shape[2])]:
        if plane_size == shape[1:]:
            return shape, part
        if box:
            _, y, x = _extent(part, shape)
            if plane_size == (y.stop - y.start, x.stop - x.start):
                return shape, part
    raise InputError(_misfit_message(file_shape, shapes, box, where))


def _misfit_message(
    file_shape: tuple[int, ...], shapes: Sequence[Shape], box: str | None, where: str
) -> str:
    """Return an error message that states which size of slices was expected."""
    sizes = " or ".join(dict.fromkeys(f"{shape[1:]}" for shape in shapes))
    hint = axes_hint(file_shape, shapes[0]) if shapes else ""
    if not hint and not box:
        hint = "; if it labels a part of the stack, state which with --box"
    return (
        f"{where} has slices of {file_shape[1:]} px, but expected {sizes} px (y, x), as the stack "
        f"has{hint}."
    )


def _extent(box: Box, shape: Sequence[int]) -> Box:
    """Return a box with both ends.

    Raises:
        InputError: it exceeds the stack, or is empty.
    """
    ranges = []
    for part, length, axis in zip(box, shape, "zyx", strict=True):
        first = part.start or 0
        stop = length if part.stop is None else part.stop
        if not 0 <= first < stop <= length:
            raise InputError(
                f"--box is {first}:{stop} along {axis}, but the stack has 0:{length} there."
            )
        ranges.append(slice(first, stop))
    z, y, x = ranges
    return z, y, x


def _labeled_planes(
    sample: Sample,
    planes_in_file: Source,
    shape: Shape,
    extent: Box,
    settings: GroundTruthSettings,
    where: str,
) -> dict[int, int]:
    """Return the plane of every labeled slice.

    Raises:
        InputError: the source does not show which of its slices are labeled.
    """
    n_slices = shape[0]
    n_planes = planes_in_file.stack.shape[0]
    plane_size = (planes_in_file.stack.shape[1], planes_in_file.stack.shape[2])
    first, depth = extent[0].start, extent[0].stop - extent[0].start
    choice = settings.slices
    is_by_name = choice is None and n_slices > 1 and _is_series(planes_in_file)
    is_part = not is_by_name and choice in (None, "all", "non-empty")
    is_part = is_part and n_planes == depth != n_slices
    if choice is None and not is_by_name:
        _refuse_other_depth(n_planes, n_slices, depth, where)
        _refuse_empty_slices(planes_in_file, extent[1:] if plane_size == shape[1:] else (), where)
        choice = "all"
    numbering = _numbering_of(sample, n_slices, settings)
    # The size of the planes was compared with the box before, so it is not compared again here.
    expected_shape = (depth if is_part else n_slices, *plane_size)
    slices, planes = match_planes_to_slices(
        planes_in_file, expected_shape, choice, numbering, where
    )
    offset = first if is_part else 0
    return {z + offset: plane for z, plane in zip(slices, planes, strict=True)}


def _numbering_of(sample: Sample, n_slices: int, settings: GroundTruthSettings) -> Sequence[Number]:
    """Return the number of every slice in file names; from 0 on if there is no image."""
    if sample.has_image:
        return slice_numbering(sample, settings.first_slice_number)
    return range(n_slices)


def _refuse_other_depth(n_planes: int, n_slices: int, depth: int, where: str) -> None:
    """Raise an InputError if there are neither as many planes as slices, nor as in the part."""
    if n_planes not in (n_slices, depth):
        raise InputError(
            f"Which {n_planes} of the {n_slices} slices does {where} label? Give their numbers "
            "with --slices, or the part of the stack with --box."
        )


def _is_series(planes_in_file: Source) -> bool:
    """Return True if every plane is a file of its own."""
    files = planes_in_file.files
    is_file_a_plane = len(files) == planes_in_file.stack.shape[0]
    return is_file_a_plane and all(file.suffix.lower() in SLICE_FILE_ENDINGS for file in files)


def _refuse_empty_slices(planes_in_file: Source, part: tuple[slice, ...], where: str) -> None:
    """Refuse a volume in which some slices hold no label, because they may be unlabeled.

    Raises:
        InputError: the first of these slices are named.
    """
    stack = planes_in_file.stack
    n_planes = stack.shape[0]
    empty = [
        plane
        for plane in range(n_planes)
        if not np.any(np.asarray(stack[plane : plane + 1])[0][part])
    ]
    if not empty:
        return
    more = " ..." if len(empty) > MAX_LISTED else ""
    listed = ", ".join(map(str, empty[:MAX_LISTED])) + more
    raise InputError(
        f"{len(empty)} of the {n_planes} slices of {where} hold no label ({listed}): are they "
        "background, or unlabeled? Give --slices all if every slice is labeled, --slices "
        "non-empty if only the others are, or the numbers of the labeled slices."
    )
