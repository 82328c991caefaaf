"""Hand-labeled slices of a structure: their numbers, their labels, and where these are known.

Labels are (n, y, x) unsigned integers, with the slice number of each of the n slices. Slices that
are not listed are unlabeled, not background. In a labeled slice, pixels with the ``ignore`` number
are unlabeled as well. Masks made from labels are uint8: 0 background, 1 structure, 255
(``UNKNOWN``) unlabeled.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import cc3d
import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.annotation.label_numbers import UNLABELED, LabelMeaning, Labels, SpecialNumbers
from sparsem.annotation.renumbering import Renumbering, identity_renumbering
from sparsem.errors import InputError, SampleError
from sparsem.settings import nearest
from sparsem.store.lazy import LazyArray
from sparsem.store.names import BOUNDARY, INTERIOR
from sparsem.store.sample import Sample
from sparsem.store.snapshot import read_attributes
from sparsem.store.transforms import WarpedStack
from sparsem.store.volume import Volume

UNKNOWN = 255
# Label of pixels outside the annotated image, where the labels are transformed to another image.
OUTSIDE_IMAGE = UNLABELED

Mask = NDArray[np.uint8]
# How the labels of a slice came about.
Origin = Literal["manual", "corrected prediction", "unknown"]
Attributes = dict[str, Any]


@dataclass(frozen=True)
class LabeledSlices:
    """The annotated slices of one structure.

    Attributes:
        z: slice numbers, ascending.
        labels: (n, y, x); anything that supports labels[i:j], read slice by slice.
        ids: labels of the structure; empty: every label except 0.
        ignore: label of unlabeled pixels.
        image: name of the image on whose pixel grid the labels are.
        image_fingerprint: fingerprint of the image that the labels were drawn on, at that time.
        fingerprint: fingerprint of slice numbers, labels and their meaning.
        background: label of background pixels in addition to 0.
        slice_fingerprints: fingerprints of the labels of each slice, in the order of ``z``, which
            show the slices that differ; empty if they were not recorded.
    """

    z: tuple[int, ...]
    labels: Any
    ids: tuple[int, ...]
    ignore: int | None
    image: str
    image_fingerprint: str
    fingerprint: str
    background: int | None = None
    slice_fingerprints: tuple[str, ...] = ()

    def mask(self, index: int) -> Mask:
        """Return the mask (y, x) uint8 of the ``index``-th labeled slice: 0, 1 or UNKNOWN."""
        objects, known = self.objects(index)
        return np.where(known, objects > 0, UNKNOWN).astype(np.uint8)

    def objects(self, index: int) -> tuple[Labels, NDArray[np.bool_]]:
        """Return the labels (y, x) of the ``index``-th labeled slice, and where they are known.

        Labels are 0 outside the structure.
        """
        labels = np.asarray(self.labels[index : index + 1])[0]
        inside, known = structure_mask(labels, self.ids, self.ignore, self.background)
        return np.where(inside, labels, 0).astype(labels.dtype), known

    @cached_property
    def is_numbered(self) -> bool:
        """True if the labels number objects; a mask has one number for the whole structure."""
        numbers: set[int] = set()
        for index in range(len(self.z)):
            objects, _ = self.objects(index)
            numbers |= set(np.unique(objects[objects > 0]).tolist())
            if len(numbers) > 1:
                return True
        return False

    def separate_objects(self, index: int) -> tuple[Labels, NDArray[np.bool_]]:
        """Return the numbered objects (y, x) of the ``index``-th slice, and where they are known.

        Objects of a mask are its connected parts; a line of one pixel separates two of them.
        """
        objects, known = self.objects(index)
        if self.is_numbered:
            return objects, known
        # Pixels that share only a corner do not connect: a line is drawn across corners too.
        parts = cc3d.connected_components((objects > 0).view(np.uint8), connectivity=4)
        return np.asarray(parts, np.uint32), known


def structure_mask(
    labels: Labels, ids: Sequence[int], ignore: int | None, background: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return where labels are those of a structure, and where they are known.

    The arguments are those of ``LabeledSlices``.
    """
    known = np.ones(labels.shape, bool) if ignore is None else labels != ignore
    inside = known & (np.isin(labels, ids) if ids else labels > 0)
    if background is not None:
        inside &= labels != background
    return inside, known


def read_annotation(sample: Sample, structure: str, image: str | None = None) -> LabeledSlices:
    """Return the labeled slices of a structure: an annotation of that name, or a class of one.

    Args:
        sample: sample with annotations.
        structure: name of the structure.
        image: image to whose pixel grid the labels are transformed; if not given, they stay on the
            image that they were drawn on.

    Raises:
        SampleError: the structure is not annotated (the nearest name is given), or the image that
            it was drawn on was replaced.
    """
    annotations = _annotations_by_structure(sample)
    if structure not in annotations:
        raise SampleError(_missing_annotation(sample, structure, annotations))
    name, attributes = annotations[structure]
    labeled = LabeledSlices(
        z=tuple(attributes["z"]),
        labels=stored_labels(sample, name),
        ids=tuple(attributes["classes"].get(structure, ())),
        ignore=attributes["ignore"],
        image=attributes["image"],
        image_fingerprint=attributes["image_fingerprint"],
        fingerprint=f"{attributes['fingerprint']} {structure}",
        background=attributes.get("background"),
        slice_fingerprints=_slice_fingerprints(attributes),
    )
    return labeled if image is None else _transform_to_image(sample, structure, labeled, image)


def _slice_fingerprints(attributes: Attributes) -> tuple[str, ...]:
    """Return the fingerprint of every labeled slice; empty if they were not recorded."""
    fingerprints = attributes.get("slices", {})
    return tuple(fingerprints[str(z)] for z in attributes["z"]) if fingerprints else ()


def _missing_annotation(sample: Sample, structure: str, annotated: Mapping[str, Any]) -> str:
    message = (
        f"{sample.path.name} has no annotation of '{structure}'{nearest(structure, annotated)}"
    )
    if annotated:
        return message
    command = f"sparsem annotate import {sample.path.name} {structure} MASKS"
    return f"{message} Import one with '{command}'."


def _transform_to_image(
    sample: Sample, structure: str, labeled: LabeledSlices, image_name: str
) -> LabeledSlices:
    """Return labels on the pixel grid of another image of the sample."""
    annotated_image = sample.image(labeled.image)
    image = sample.image(image_name)
    if annotated_image.fingerprint != labeled.image_fingerprint:
        raise SampleError(
            f"The image '{labeled.image}' of {sample.path.name} was replaced after '{structure}' "
            "was annotated; import its labels again, with --overwrite."
        )
    if image_name == labeled.image:
        return labeled
    target_grid = sample.transform_of(image)
    annotated_grid = sample.transform_of(annotated_image)
    if target_grid.is_same(annotated_grid):
        return replace(labeled, image=image_name)
    motions = annotated_grid.motions_from(target_grid)[list(labeled.z)]
    return _warp(labeled, motions, image, image_name)


def _warp(
    labeled: LabeledSlices, motions: NDArray[np.float64], image: Volume, image_name: str
) -> LabeledSlices:
    """Return labels that are moved to the pixel grid of another image."""
    ignore = OUTSIDE_IMAGE if labeled.ignore is None else labeled.ignore
    shape = (len(labeled.z), *image.shape[1:])
    return replace(
        labeled,
        labels=WarpedStack(labeled.labels, motions, shape, ignore),
        ignore=ignore,
        image=image_name,
        fingerprint=f"{labeled.fingerprint} on {image.fingerprint}",
    )


def annotations_on(
    sample: Sample, structures: Sequence[str], name: str | None = None
) -> tuple[Volume, dict[str, LabeledSlices]]:
    """Return an image, and the labeled slices of structures on its pixel grid.

    Args:
        sample: sample with annotations.
        structures: names of the structures.
        name: name of the image; the newest one if not given.

    Raises:
        SampleError: a structure is not annotated, or the image that it was annotated on was
            replaced.
    """
    name = name or sample.newest_image
    image = sample.image(name)
    return image, {structure: read_annotation(sample, structure, name) for structure in structures}


def outputs_of_cells(name: str) -> tuple[str, str]:
    """Return the two outputs of a network that is trained on an annotation of cells.

    These are the interior of cells, and the boundary between them.
    """
    return f"{name}{INTERIOR}", f"{name}{BOUNDARY}"


def boundary_of_objects(name: str) -> str:
    """Return the output of a network for the boundary between the objects of a structure."""
    return f"{name}{BOUNDARY}"


def annotation_of_output(output: str) -> str:
    """Return the name of the annotation on which an output of a network was trained."""
    return output.removesuffix(INTERIOR).removesuffix(BOUNDARY)


def annotated_structures(sample: Sample) -> dict[str, tuple[int, ...]]:
    """Return every annotated structure, with the numbers of the slices that have labels.

    A slice whose labels were all erased has none.
    """
    return {
        structure: tuple(z for z in attributes["z"] if z not in attributes.get("unknown", ()))
        for structure, (_, attributes) in _annotations_by_structure(sample).items()
    }


def recorded_origins(sample: Sample, structure: str) -> dict[int, Origin]:
    """Return how the labels of every annotated slice of a structure came about.

    Empty if the structure is not annotated, or if the origin was not recorded.
    """
    _, attributes = _annotations_by_structure(sample).get(structure, ("", {}))
    return {int(z): origin for z, origin in attributes.get("origin", {}).items()}


def corrected_slices(sample: Sample, structure: str) -> tuple[int, ...]:
    """Return the annotated slices of a structure whose labels began as a prediction, ascending."""
    origins = recorded_origins(sample, structure)
    return tuple(sorted(z for z, origin in origins.items() if origin == "corrected prediction"))


def annotation_names(sample: Sample) -> dict[str, str]:
    """Return for every annotated structure the NAME of its ``annotations/NAME``."""
    annotations = _annotations_by_structure(sample)
    return {structure: name for structure, (name, _) in annotations.items()}


def annotations_drawn_on(sample: Sample, image: str) -> list[str]:
    """Return the annotations that were drawn on a derived image of the sample, as it is now."""
    fingerprint = sample.volume("images", image).fingerprint
    names = []
    for name in sample.names("annotations"):
        attributes = annotation_attributes(sample, name)
        if (attributes["image"], attributes["image_fingerprint"]) == (image, fingerprint):
            names.append(name)
    return names


def annotation_attributes(sample: Sample, name: str) -> Attributes:
    """Return the attributes of ``annotations/NAME``."""
    attributes: Attributes = read_attributes(sample.path / "annotations" / name)["sparsem"]
    return attributes


def _annotations_by_structure(sample: Sample) -> dict[str, tuple[str, Attributes]]:
    """Return for every structure the name and the attributes of the annotation that holds it."""
    annotations: dict[str, tuple[str, Attributes]] = {}
    for name in sample.names("annotations"):
        attributes = annotation_attributes(sample, name)
        for structure in attributes["classes"] or [name]:
            annotations[structure] = (name, attributes)
    return annotations


def refuse_second_annotation(sample: Sample, name: str, structures: Sequence[str]) -> None:
    """Refuse structures that an annotation other than ``annotations/NAME`` holds already.

    Raises:
        InputError: the structure and its annotation are named.
    """
    for structure, (holder, _) in _annotations_by_structure(sample).items():
        if holder != name and structure in structures:
            raise InputError(
                f"'{structure}' is annotated already, in annotations/{holder}; a structure has one "
                "set of labeled slices."
            )


def stored_labels(sample: Sample, name: str) -> LazyArray:
    """Return the labels (n, y, x) of ``annotations/NAME``."""
    return LazyArray(sample.path / "annotations" / name / "labels")


def read_slice(labels: LazyArray, index: int) -> Labels:
    """Return one slice (y, x) of labels on disk."""
    return np.asarray(labels[index : index + 1][0])


def meaning_in_file(attributes: Mapping[str, Any]) -> LabelMeaning:
    """Return what the numbers meant in the file from which an annotation was imported."""
    in_file = attributes.get("file", attributes)
    return LabelMeaning(in_file["classes"], in_file["ignore"], in_file.get("background"))


def read_renumbering(sample: Sample, name: str) -> Renumbering:
    """Return how the labels of ``annotations/NAME`` follow from the numbers of their file."""
    meaning = meaning_in_file(annotation_attributes(sample, name))
    special = SpecialNumbers(meaning.ignore, meaning.background)
    table = sample.path / "annotations" / name / "file_ids"
    if not table.exists():
        return identity_renumbering(special)
    pairs = np.asarray(zarr.open_array(store=table, mode="r")[...], np.uint64)
    return Renumbering(pairs[:, 0], pairs[:, 1].astype(np.uint32), special)
