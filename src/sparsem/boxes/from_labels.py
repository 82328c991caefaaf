"""Boxes around the objects of labels, so that a detector can be trained on segmented objects."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import annotated_structures, read_annotation
from sparsem.boxes.geometry import Boxes, Corners, box_sizes, boxes_of_labels
from sparsem.errors import InputError, SampleError
from sparsem.labels.results import result_labels
from sparsem.progress import Meter, print_note
from sparsem.settings import nearest
from sparsem.store.sample import Sample

LabelReader = Callable[[int], tuple[NDArray[Any], bool]]


class ImportedBoxes(NamedTuple):
    """Boxes of one structure in one sample, before they are written.

    Attributes:
        sample: the sample that they lie in.
        boxes: boxes of one name.
        slices: indices of the completely annotated slices, ascending.
        image: name of the image that they lie on.
        n_small: number of boxes that were dropped because they are small.
    """

    sample: Sample
    boxes: Boxes
    slices: list[int]
    image: str
    n_small: int


class _LabeledSlices(NamedTuple):
    """Slices with labels.

    Attributes:
        read: returns the labels (y, x) of the n-th of these slices, and True if no pixel of it is
            ignored.
        slices: their indices in the stack.
        image: name of the image that the labels belong to.
    """

    read: LabelReader
    slices: list[int]
    image: str


def boxes_around_labels(
    sample: Sample, name: str, min_px: float, quiet: bool = False
) -> ImportedBoxes:
    """Return boxes around the connected objects of all completely labeled slices.

    Args:
        sample: sample with the labels.
        name: NAME, annotations/NAME, labels/NAME or truth/NAME.
        min_px: minimum width and height of a box.
        quiet: show no progress.

    Raises:
        SampleError: there are no such labels.
        InputError: no slice is completely labeled.
    """
    labeled = _labeled_slices(sample, name)
    structure = name.rpartition("/")[2]
    boxes, complete = _boxes_of_complete_slices(labeled, name, structure, quiet)
    n_incomplete = len(labeled.slices) - len(complete)
    if n_incomplete:
        print_note(
            f"Note: {n_incomplete} slices of {name} are left out, because some of their pixels are "
            "ignored.",
            quiet,
        )
    if not complete:
        raise InputError(
            f"Expected a slice of {name} in {sample.path.name} without ignored pixels, which may "
            "belong to any object; found none."
        )
    return drop_small_boxes(sample, boxes, complete, labeled.image, min_px)


def _boxes_of_complete_slices(
    labeled: _LabeledSlices, name: str, structure: str, quiet: bool
) -> tuple[Boxes, list[int]]:
    """Return boxes around the objects of all slices without ignored pixels, and these slices."""
    corners_of_slice: dict[int, Corners] = {}
    with Meter(f"boxes around {name}", len(labeled.slices), quiet=quiet) as meter:
        for index, slice_index in enumerate(labeled.slices):
            labels, is_complete = labeled.read(index)
            meter.step()
            if is_complete:
                _, corners = boxes_of_labels(_connected_objects(labels))
                corners_of_slice[slice_index] = corners
    return _boxes_of_slices(structure, corners_of_slice), list(corners_of_slice)


def _boxes_of_slices(structure: str, corners_of_slice: Mapping[int, Corners]) -> Boxes:
    """Return the boxes of a structure in several slices as one."""
    z = [np.empty(0, int)]
    all_corners = [np.empty((0, 4), np.float32)]
    for slice_index, corners in corners_of_slice.items():
        z.append(np.full(len(corners), slice_index))
        all_corners.append(corners)
    return Boxes.from_arrays((structure,), np.concatenate(z), 0, np.concatenate(all_corners))


def drop_small_boxes(
    sample: Sample, boxes: Boxes, slices: Sequence[int], image: str, min_px: float
) -> ImportedBoxes:
    """Return the boxes of one structure whose width and height are at least ``min_px``."""
    is_large = (box_sizes(boxes.corners) >= min_px).all(axis=1)
    n_small = int((~is_large).sum())
    return ImportedBoxes(sample, boxes[is_large], sorted(slices), image, n_small)


def _labeled_slices(sample: Sample, name: str) -> _LabeledSlices:
    folder, _, structure = name.rpartition("/")
    names_in = {
        "annotations": annotated_structures(sample),
        "labels": sample.names("labels"),
        "truth": sample.names("truth"),
    }
    for source, names in names_in.items():
        if structure not in names or folder not in ("", source):
            continue
        if source == "annotations":
            return _slices_of_annotation(sample, structure)
        return _slices_of_volume(sample, source, structure)
    known = [f"{source}/{known}" for source, names in names_in.items() for known in names]
    raise SampleError(
        f"{sample.path.name} has no annotation, labels or ground truth '{name}'"
        f"{nearest(name, known)}"
    )


def _slices_of_annotation(sample: Sample, structure: str) -> _LabeledSlices:
    annotation = read_annotation(sample, structure)

    def read(index: int) -> tuple[NDArray[Any], bool]:
        labels, known = annotation.objects(index)
        return labels, bool(known.all())

    return _LabeledSlices(read, list(annotation.z), annotation.image)


def _slices_of_volume(sample: Sample, source: str, structure: str) -> _LabeledSlices:
    if source == "labels":
        volume = result_labels(sample, structure)
    else:
        volume = sample.volume("truth", structure)

    def read(index: int) -> tuple[NDArray[Any], bool]:
        return volume.read(slice(index, index + 1))[0], True

    return _LabeledSlices(read, list(range(volume.shape[0])), sample.name_of_image(volume))


def _connected_objects(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the connected components of every label in a slice (y, x).

    One object in 3D may have several cross-sections in a slice, and a mask has no numbers.
    """
    values = np.ascontiguousarray(labels, np.uint32)
    return np.asarray(cc3d.connected_components(values, connectivity=8))
