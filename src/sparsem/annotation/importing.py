"""Import of hand-labeled slices, as masks or from a labeled volume."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sparsem.annotation.annotated_image import candidate_shapes, find_annotated_image
from sparsem.annotation.corrected_predictions import slice_origins
from sparsem.annotation.file_labels import (
    FileLabels,
    StoredAnnotation,
    read_file_labels,
    read_stored_annotation,
    report_unexpected_numbers,
)
from sparsem.annotation.label_numbers import UNLABELED, LabelMeaning, Labels, SpecialNumbers
from sparsem.annotation.labeled_region import crop_to_box, mask_labels, slices_of_box
from sparsem.annotation.labeled_slices import (
    Origin,
    annotated_structures,
    annotation_names,
    read_renumbering,
)
from sparsem.annotation.precedence import apply_annotation
from sparsem.annotation.renumbering import write_renumbering_table
from sparsem.annotation.settings import AnnotationSettings
from sparsem.annotation.slice_numbers import match_planes_to_slices, slice_numbering
from sparsem.annotation.writing import record_origin, restore_annotation, write_annotation
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.io.readers.open import open_source
from sparsem.io.readers.placement import uncrop_segmentation
from sparsem.io.readers.source import Source
from sparsem.progress import print_note
from sparsem.settings import changed, resolve_settings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult

ORIGINS: dict[str, Origin] = {"manual": "manual", "corrected-prediction": "corrected prediction"}


@dataclass(frozen=True)
class AnnotationResult(StageResult):
    """The result of ``import_annotation``.

    Attributes:
        structures: names of the annotated structures: that of the annotation, or those of its
            classes.
        slices: numbers of the labeled slices.
    """

    structures: tuple[str, ...]
    slices: tuple[int, ...]


def import_annotation(
    sample: Sample,
    name: str,
    source: str | Path,
    settings: AnnotationSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> AnnotationResult:
    """Import hand-made labels into a sample.

    Numbers beyond 32 bits are renumbered; ``tables/annotation_ids_NAME`` then holds both. Labels
    that were predicted before take the labeled slices over (see ``precedence``).

    Args:
        sample: the sample.
        name: name of the structure, or of the set of structures that ``settings.classes`` names.
        source: a folder of masks with the slice number in each file's name, or a labeled volume
            (TIFF, OME-Zarr) that has either as many slices as the image or one for each annotated
            slice.
        settings: labeled slices, meaning of the numbers, unlabeled pixels.
        on: ``on.overwrite`` replaces labels of that name that differ; ``on.quiet`` reports no
            notes.
        changes: fields of the settings, by name.

    Returns:
        The annotation, and the slices that are now labeled.

    Raises:
        InputError: shapes or slice numbers do not fit the image, or labels are not integers.
        ResumeError: the sample has other labels of that name, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(AnnotationSettings, settings, changes)
    restore_annotation(sample, name)
    planes_in_file = open_source(
        source, settings.dataset, labels=True, any_order=True, min_is_white=settings.min_is_white
    )
    settings = _with_classes_of_file(settings, name, planes_in_file)
    previous = read_stored_annotation(sample, name)
    extended = previous if settings.add else None
    labels = _read_labels(sample, name, str(source), planes_in_file, settings, extended)
    report_unexpected_numbers(labels, on.quiet)
    stated_origin = ORIGINS[settings.origin] if settings.origin else None
    may_be_same = extended is None and not on.overwrite
    if previous and may_be_same and _is_same_annotation(sample, labels, previous):
        if stated_origin:
            record_origin(sample, name, dict.fromkeys(labels.z, stated_origin))
    else:
        origins, notes = slice_origins(sample, name, labels, previous, stated_origin)
        if extended:
            _add(sample, name, labels, extended, on.overwrite, origins, settings.is_partial)
        else:
            _write(sample, name, labels, on.overwrite, origins)
        for note in notes:
            print_note(f"Note: {note}", on.quiet)
    write_renumbering_table(sample, f"annotation_ids_{name}", read_renumbering(sample, name))
    apply_annotation(sample, name, on.quiet)
    return _result(sample, name)


def _result(sample: Sample, name: str) -> AnnotationResult:
    """Return the structures of an annotation, and the slices that are labeled."""
    structures = [
        structure
        for structure, annotation in annotation_names(sample).items()
        if annotation == name
    ]
    return AnnotationResult(
        sample=sample,
        written=(f"annotations/{name}",),
        structures=tuple(structures),
        slices=annotated_structures(sample)[structures[0]],
    )


def _read_labels(
    sample: Sample,
    name: str,
    where: str,
    planes_in_file: Source,
    settings: AnnotationSettings,
    extended: StoredAnnotation | None,
) -> FileLabels:
    """Return the labels of a file, matched to the slices of an image.

    Raises:
        InputError: they do not fit the image, or an annotation that they extend has another
            meaning.
        SampleError: the annotation that they extend was drawn on another image.
    """
    image = settings.image or (extended.image[0] if extended else None)
    planes_in_file = uncrop_segmentation(planes_in_file, candidate_shapes(sample, image))
    if image is None:
        size = planes_in_file.stack.shape[1:]
        image = find_annotated_image(sample, size) or sample.newest_image
    shape = sample.image(image).shape
    meaning = _meaning(settings, extended)
    outside = UNLABELED if meaning.ignore is None else meaning.ignore
    if settings.box is not None:
        planes_in_file = crop_to_box(planes_in_file, settings.box, shape[1:], outside, where)
    slices, planes = match_planes_to_slices(
        planes_in_file,
        shape,
        settings.slices or slices_of_box(settings.box),
        slice_numbering(sample, settings.first_slice_number),
        where,
    )
    if extended:
        _refuse_other_meaning(sample, name, extended, settings, image)
    plane_of = dict(zip(slices, planes, strict=True))
    stack = planes_in_file.stack
    if settings.within is not None:
        stack = mask_labels(planes_in_file, settings.within, plane_of, shape[0], outside)
    if extended and meaning != extended.meaning:
        special = SpecialNumbers(meaning.ignore, meaning.background)
        extended = replace(extended, renumbering=replace(extended.renumbering, special=special))
    return read_file_labels(
        stack=stack,
        plane_of=plane_of,
        meaning=meaning,
        extended=extended,
        where=where,
        image=image,
    )


def _meaning(settings: AnnotationSettings, extended: StoredAnnotation | None) -> LabelMeaning:
    """Return the meaning of the numbers of a file.

    An annotation that is extended by a part of a slice gets a number of unlabeled pixels.
    """
    if extended is None:
        return settings.meaning
    if settings.is_partial and extended.meaning.ignore is None:
        return extended.meaning._replace(ignore=UNLABELED)
    return extended.meaning


def _with_classes_of_file(
    settings: AnnotationSettings, name: str, planes_in_file: Source
) -> AnnotationSettings:
    """Return settings with the classes that the file itself names, unless settings name some.

    If the file names a structure ``name``, it is the only class, else all of its structures are.

    Raises:
        InputError: names of structures in the file are equal or empty once they are valid names.
    """
    if settings.classes or not planes_in_file.names:
        return settings
    classes = {
        re.sub(r"[^A-Za-z0-9_.-]+", "_", structure.strip()).lstrip("_.-"): ids
        for structure, ids in planes_in_file.names.items()
    }
    if "" in classes or len(classes) < len(planes_in_file.names):
        raise InputError(
            f"{planes_in_file.files[0].name} has structures with equal or empty names; state what "
            "its numbers mean with --classes NAME=1."
        )
    if len(classes) == 1 and name not in classes:
        return changed(settings, {"classes": {}})
    if name in classes:
        classes = {name: classes[name]}
    return changed(settings, {"classes": classes})


def _is_same_annotation(sample: Sample, labels: FileLabels, previous: StoredAnnotation) -> bool:
    """Return True if all slices of the file are annotated with these labels already.

    Slices that were added later do not count, so importing the first file again does not lose them.
    """
    image = (labels.image, sample.image(labels.image).fingerprint)
    is_same_image = image == previous.image
    is_same_slices = set(previous.z) == {*labels.z, *previous.added}
    if not (is_same_image and is_same_slices and labels.meaning == previous.meaning):
        return False
    renumbering = previous.renumbering
    objects = labels.numbers - {0, *renumbering.special.numbers}
    if not renumbering.is_identity and not objects <= set(renumbering.file.tolist()):
        return False
    for z in labels.z:
        if not np.array_equal(previous.read(z), renumbering.apply(labels.file_numbers(z))):
            return False
    return True


def _refuse_other_meaning(
    sample: Sample,
    name: str,
    extended: StoredAnnotation,
    settings: AnnotationSettings,
    image: str,
) -> None:
    """Refuse to add labels with another meaning, or labels that were drawn on another image."""
    stated = changed(settings, {"within": None, "box": None}).meaning
    if any(stated) and stated != extended.meaning:
        raise InputError(
            f"The annotation '{name}' has other classes, ignored or background numbers; --add "
            "takes labels whose numbers have the same meaning."
        )
    if (image, sample.image(image).fingerprint) != extended.image:
        raise SampleError(
            f"'{name}' was annotated on another image than '{image}' is now; import all of its "
            "slices again."
        )


def _write(
    sample: Sample,
    name: str,
    labels: FileLabels,
    overwrite: bool,
    origins: Mapping[int, Origin],
) -> None:
    """Write a new annotation, or replace one."""
    write_annotation(
        sample,
        name,
        labels.z,
        map(labels.labels, labels.z),
        labels.meaning.classes,
        labels.meaning.ignore,
        labels.image,
        overwrite,
        labels.meaning.background,
        renumbering=labels.renumbering,
        origin=origins,
    )


def _add(
    sample: Sample,
    name: str,
    labels: FileLabels,
    extended: StoredAnnotation,
    overwrite: bool,
    origins: Mapping[int, Origin],
    is_partial: bool,
) -> None:
    """Add labeled slices to an annotation; its slices with other labels need ``overwrite``.

    Of slices that are labeled in part, the other pixels keep the labels that they had.
    """
    joined = _JoinedLabels(labels, extended, is_partial)
    differing = joined.differing_slices()
    if differing and not overwrite:
        listed = ", ".join(map(str, differing))
        raise ResumeError(
            f"Slices {listed} of '{name}' have other labels already; use --overwrite to replace "
            "them."
        )
    all_slices = sorted({*extended.z, *labels.z})
    all_labels = map(joined.labels, all_slices)
    write_annotation(
        sample,
        name,
        all_slices,
        all_labels,
        labels.meaning.classes,
        labels.meaning.ignore,
        labels.image,
        overwrite=True,
        background=labels.meaning.background,
        added=sorted({*extended.added, *labels.z}),
        renumbering=labels.renumbering,
        origin={**extended.origins, **origins},
    )


@dataclass(frozen=True)
class _JoinedLabels:
    """The labels of a file together with those of the annotation that they extend.

    Attributes:
        new: labels of the file.
        stored: annotation that they extend.
        is_partial: unlabeled pixels of the file keep the labels that the annotation has there.
    """

    new: FileLabels
    stored: StoredAnnotation
    is_partial: bool

    def labels(self, z: int) -> Labels:
        """Return the labels (y, x) of a slice as they are stored."""
        if z not in self.new.plane_of:
            return self.stored.converted(z, self.new.renumbering)
        labels = self.new.labels(z)
        if not self.is_partial or z not in self.stored.z:
            return labels
        earlier = self.stored.converted(z, self.new.renumbering)
        return np.where(labels == self._unlabeled, earlier, labels)

    @property
    def _unlabeled(self) -> int:
        """Stored number of unlabeled pixels."""
        ignore = self.new.meaning.ignore
        return UNLABELED if ignore is None else self.new.renumbering.stored_number(ignore)

    def differing_slices(self) -> list[int]:
        """Return the slices of the file that the annotation holds with other labels."""
        differing = []
        for z in self.new.z:
            if z not in self.stored.z:
                continue
            earlier = self.stored.converted(z, self.new.renumbering)
            differs = earlier != self.labels(z)
            if self.is_partial:
                differs &= earlier != self._unlabeled
            if differs.any():
                differing.append(z)
        return differing
