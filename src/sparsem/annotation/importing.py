"""Bringing labels in: hand-made ones of a few slices, as masks or from a labeled volume; and those of every slice, made elsewhere."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from sparsem.annotation.file_labels import (
    FileLabels,
    read_file_labels,
    read_slice,
    report_unexpected_numbers,
    slice_origins,
)
from sparsem.annotation.label_volumes import (
    detect_label_type,
    labels_block,
    write_renumbering_table,
)
from sparsem.annotation.labeled_slices import (
    LabeledSlices,
    Origin,
    annotated_structures,
    read_annotation,
    read_renumbering,
    record_origin,
    restore_annotation,
    stored_labels,
    write_annotation,
)
from sparsem.annotation.renumbering import Labels
from sparsem.annotation.slice_numbers import match_planes_to_slices, slice_numbering
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.geometry import axes_hint, z_blocks
from sparsem.io.ingest import ImportSettings, open_import_source, report_reading, stated_voxel_size
from sparsem.io.readers.open import open_source
from sparsem.io.readers.placement import uncrop_segmentation
from sparsem.io.readers.source import MinIsWhite, Source
from sparsem.progress import tell
from sparsem.settings import Settings, SliceChoice, changed, resolve_settings
from sparsem.store.names import checked_name
from sparsem.store.sample import Sample
from sparsem.store.snapshot import read_attributes
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import Stage

ORIGINS: dict[str, Origin] = {"manual": "manual", "corrected-prediction": "corrected prediction"}


class AnnotationSettings(Settings):
    """How a file of labels is to be understood."""

    dataset: str | None = Field(
        None,
        description="key of the labels inside a Zarr group, an HDF5 or a MATLAB file; number of the image in a TIFF with several",
    )
    slices: SliceChoice | None = Field(
        None,
        description="labeled slices: 0,13,26 or 10-20, 'all', or 'non-empty' (those that hold a "
        "label); not needed where file names carry the number",
    )
    first_slice_number: int | None = Field(
        None,
        ge=0,
        description="the number in a file's name that is the first slice; if not given, that of the stack's own files, or 0",
    )
    classes: dict[str, tuple[int, ...]] = Field(
        {},
        description="what a number means, as nucleus=1,2; repeat it for each; without it, all but 0 is NAME",
    )
    ignore: int | None = Field(
        None, description="the number of pixels that are not labeled, such as 255 or -1"
    )
    background: int | None = Field(
        None, description="a number that means 'outside of all', for labels whose 0 is ignored"
    )
    min_is_white: MinIsWhite | None = Field(
        None,
        description="which numbers of a 'min is white' TIFF count: stored (as napari and scikit-image read) or displayed (as in Fiji)",
    )
    origin: Literal["manual", "corrected-prediction"] | None = Field(
        None,
        description="how the labels came about; if not given, manual, unless they share their boundary with a prediction of the sample",
    )
    image: str | None = Field(
        None,
        description="the image that the labels were drawn on; the newest with slices of that size if not given",
    )
    add: bool = Field(
        False,
        description="add these slices to those of that name; --overwrite also replaces slices that differ",
    )

    @field_validator("slices", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return (
            ",".join(str(number) for number in value) if isinstance(value, list | tuple) else value
        )

    @field_validator("classes", mode="before")
    @classmethod
    def _as_tuples(cls, value: object) -> object:
        if isinstance(value, list | tuple):  # as on the command line: nucleus=1,2
            named: dict[str, tuple[str, ...]] = {}
            for name, _, ids in (str(part).partition("=") for part in value):
                named[name] = (*named.get(name, ()), *filter(None, ids.split(",")))
            value = named
        if not isinstance(value, Mapping):
            return value
        classes = {name: (ids,) if isinstance(ids, int) else ids for name, ids in value.items()}
        without = [name for name, ids in classes.items() if not ids]
        if without:
            raise ValueError(f"a class needs its numbers, such as {without[0]}=1,2")
        return classes

    @model_validator(mode="after")
    def _known_is_not_ignored(self) -> "AnnotationSettings":
        if self.background == 0:
            raise ValueError(
                "0 is background already; give --background another number, or leave it out"
            )
        for name, ids in self.classes.items():
            if min(ids) < 1:
                raise ValueError(
                    f"{name} was given the number {min(ids)}; the numbers of a class are 1 or more, 0 is background"
                )
            if self.background in ids:
                raise ValueError(f"{self.background} cannot be both background and {name}")
            if self.ignore in ids:
                raise ValueError(f"{self.ignore} cannot be both ignored and {name}")
        if self.background is not None and self.background == self.ignore:
            raise ValueError(f"{self.ignore} cannot be both ignored and background")
        return self


def import_annotation(
    sample: Sample,
    name: str,
    source: str | Path,
    settings: AnnotationSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> LabeledSlices | None:
    """Bring hand-made labels into a sample.

    Numbers beyond 32 bits are renumbered; ``tables/annotation_ids_NAME`` then holds both.

    Args:
        sample: the sample.
        name: of the structure, or of the set of structures that ``settings.classes`` names.
        source: a folder of masks with the slice number in each file's name, or a labeled volume (TIFF, OME-Zarr) that has
            either as many slices as the image or one for each annotated slice.
        settings: which slices, which ids, what is not known.
        on: ``on.overwrite`` replaces labels of that name that differ; ``on.quiet`` reports no notes.

    Returns:
        The labeled slices; None where several classes were named.

    Raises:
        InputError: shapes or slice numbers do not fit the image, labels are not integers.
        ResumeError: other labels of that name are there, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(AnnotationSettings, settings, changes)
    restore_annotation(sample, name)
    found = open_source(
        source, settings.dataset, labels=True, any_order=True, min_is_white=settings.min_is_white
    )
    settings = _as_named(settings, name, found)
    there = (
        read_attributes(sample.path / "annotations" / name)["sparsem"]
        if name in sample.names("annotations")
        else None
    )
    adding = there if settings.add else None
    found = uncrop_segmentation(
        found, _shapes(sample, settings.image or (adding["image"] if adding else None))
    )
    image = settings.image or (
        adding["image"]
        if adding
        else _drawn_on(sample, found.stack.shape[1:]) or sample.newest_image
    )
    z, planes = match_planes_to_slices(
        found,
        sample.image(image).shape,
        settings.slices,
        slice_numbering(sample, settings.first_slice_number),
        str(source),
    )
    if adding:
        _refuse_other_meaning(sample, name, adding, settings, image)
    meaning = _meaning_of(adding) if adding else _meaning(settings)
    drawing = read_file_labels(
        sample,
        name,
        found.stack,
        dict(zip(z, planes, strict=True)),
        meaning,
        bool(adding),
        str(source),
        image,
    )
    report_unexpected_numbers(drawing, on.quiet)
    said = ORIGINS[settings.origin] if settings.origin else None
    if there and not adding and not on.overwrite and _holds(sample, name, drawing, there):
        if said:
            record_origin(sample, name, dict.fromkeys(z, said))
    else:
        origin, sentences = slice_origins(sample, name, drawing, there, said)
        if adding:
            _add(sample, name, drawing, adding, on.overwrite, origin)
        else:
            _write(sample, name, drawing, on.overwrite, origin)
        for sentence in sentences:
            tell(f"Note: {sentence}", on.quiet)
    write_renumbering_table(sample, f"annotation_ids_{name}", read_renumbering(sample, name))
    return read_annotation(sample, name) if name in annotated_structures(sample) else None


def _write(
    sample: Sample, name: str, drawing: FileLabels, overwrite: bool, origin: Mapping[int, Origin]
) -> None:
    """A new annotation, or one in place of another."""
    classes, ignore, background = drawing.meaning
    slices = map(drawing.labels, drawing.z)
    numbers = drawing.renumbering
    write_annotation(
        sample,
        name,
        drawing.z,
        slices,
        classes,
        ignore,
        drawing.image,
        overwrite,
        background,
        (),
        numbers,
        origin,
    )


def _shapes(sample: Sample, image: str | None = None) -> list[tuple[int, int, int]]:
    """(z, y, x) of the images that a segmentation may have been drawn on: the one that was named, or the raw image before others."""
    names = [image] if image else sample.images
    return [
        (sample.image("raw") if name == "raw" else sample.volume("images", name)).shape
        for name in names
    ]


def _drawn_on(sample: Sample, size: Sequence[int]) -> str | None:
    """The image that labels were drawn on, if nobody says it: the newest one of that size, (y, x) or (z, y, x); raw before others."""
    for name in (sample.newest_image, *sample.images):
        image = sample.image("raw") if name == "raw" else sample.volume("images", name)
        if image.shape[-len(size) :] == tuple(size):
            return sample.drawn_on(name)
    return None


def _as_named(settings: AnnotationSettings, name: str, found: Source) -> AnnotationSettings:
    """What the numbers mean where the file says so itself: one of its structures if that is asked for, else all of them."""
    if settings.classes or not found.names:
        return settings
    named = {
        re.sub(r"[^A-Za-z0-9_.-]+", "_", structure.strip()).lstrip("_.-"): ids
        for structure, ids in found.names.items()
    }
    nameless = [structure for structure in named if not structure]
    if nameless or len(named) < len(found.names):
        raise InputError(
            f"{found.files[0].name} has structures whose names are alike or empty; say what numbers mean with --classes NAME=1."
        )
    if len(named) == 1 and name not in named:
        return changed(settings, {"classes": {}})
    classes = {name: named[name]} if name in named else named
    return changed(settings, {"classes": classes})


def _holds(sample: Sample, name: str, drawing: FileLabels, there: Mapping[str, Any]) -> bool:
    """Whether all of these slices are labeled so already, and more besides: slices that were added later are not lost."""
    if (
        (drawing.image, sample.image(drawing.image).fingerprint)
        != (there["image"], there["image_fingerprint"])
        or set(there["z"]) != {*drawing.z, *there.get("added", ())}
        or drawing.meaning != _meaning_of(there)
    ):
        return False
    kept, before = stored_labels(sample, name), read_renumbering(sample, name)
    if (
        not drawing.numbers - {0, *before.special.numbers} <= set(before.file.tolist())
        and not before.is_identity
    ):
        return False
    return all(
        np.array_equal(
            read_slice(kept, there["z"].index(number)), before.of(drawing.of_file(number))
        )
        for number in drawing.z
    )


def _refuse_other_meaning(
    sample: Sample, name: str, there: Mapping[str, Any], settings: AnnotationSettings, image: str
) -> None:
    """Refuse to add labels to an annotation whose numbers mean something else, or that was drawn on another image."""
    if any(_meaning(settings)) and _meaning(settings) != _meaning_of(there):
        raise InputError(
            f"'{name}' has other classes, ignored or background numbers; --add takes labels that mean what those there do."
        )
    if image != there["image"] or sample.image(image).fingerprint != there["image_fingerprint"]:
        raise SampleError(
            f"'{name}' was annotated on another image than '{image}' is now; annotate all of its slices anew."
        )


def _add(
    sample: Sample,
    name: str,
    drawing: FileLabels,
    there: Mapping[str, Any],
    overwrite: bool,
    origin: Mapping[int, Origin],
) -> None:
    """More labeled slices for an annotation, understood as its others are; those that are labeled otherwise are not lost unasked."""
    kept, numbered = stored_labels(sample, name), read_renumbering(sample, name)
    z = drawing.z
    place = {number: index for index, number in enumerate(there["z"])}

    def before(number: int) -> Labels:
        return drawing.renumbering.carried(read_slice(kept, place[number]), numbered)

    differ = [
        number
        for number in z
        if number in place and not np.array_equal(before(number), drawing.labels(number))
    ]
    if differ and not overwrite:
        listed = ", ".join(map(str, differ))
        raise ResumeError(
            f"Slices {listed} of '{name}' are labeled otherwise already; use --overwrite to replace them by these."
        )
    recorded = there.get("origin", {})
    known: dict[int, Origin] = {number: recorded.get(str(number), "unknown") for number in place}
    origin = {**known, **origin}
    after = sorted({*place, *z})
    slices = (
        drawing.labels(number) if number in drawing.plane_of else before(number) for number in after
    )
    added = sorted({*there.get("added", ()), *z})
    classes, ignore, background = drawing.meaning
    write_annotation(
        sample,
        name,
        after,
        slices,
        classes,
        ignore,
        drawing.image,
        True,
        background,
        added,
        drawing.renumbering,
        origin,
    )


def _meaning(settings: AnnotationSettings) -> tuple[Any, ...]:
    """What numbers mean, as settings say it."""
    return (
        {name: list(ids) for name, ids in settings.classes.items()},
        settings.ignore,
        settings.background,
    )


def _meaning_of(there: Mapping[str, Any]) -> tuple[Any, ...]:
    """What the numbers of its file mean in an annotation that is there."""
    of_file = there.get("file", there)
    return of_file["classes"], of_file["ignore"], of_file.get("background")


def import_labels(
    path: str | Path,
    name: str,
    source: str | Path,
    settings: ImportSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> Sample:
    """Write ``labels/NAME`` from labels of every slice, made elsewhere; a mask stays a mask, numbers of objects stay theirs.

    They lie on the newest image of their shape.

    Args:
        path: a sample, or one to make: it then holds labels and no image.
        name: of the structure.
        source: file, folder or glob; see ``open_source``.
        settings: voxel size where neither sample nor format has one, block depth.
        on: how the work is spread.

    Raises:
        InputError: the source cannot be read, differs from the sample in shape, or no voxel size is known.
        ResumeError: there are other labels of that name, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(ImportSettings, settings, changes)
    checked_name(name)
    found = open_import_source(source, settings, labels=True)
    sample = Sample.create(path)
    found = uncrop_segmentation(found, _shapes(sample) if sample.has_image else [])
    z, y, x = found.stack.shape
    drawn_on = _drawn_on(sample, (z, y, x)) if sample.has_image else None
    if sample.has_image and drawn_on is None:
        shape = sample.image().shape
        hint = axes_hint((z, y, x), shape)
        raise InputError(
            f"{source} has the shape {(z, y, x)}, but the image of {sample.path.name} has {shape}{hint}."
        )
    image = sample.image(drawn_on) if drawn_on else None
    made_on = (drawn_on, image.fingerprint) if image and drawn_on and drawn_on != "raw" else None
    voxel = image.voxel_size if image else stated_voxel_size(found, settings, str(source), on.quiet)
    depth = image.block_depth if image else min(settings.block_depth, z)
    blocks = z_blocks(z, depth)
    report_reading(found, settings, on.quiet)
    reading = detect_label_type(found, blocks, settings, on.quiet)
    kind = np.uint8 if reading.is_mask else np.uint32
    output = volume_spec(f"labels/{name}", (z, y, x), kind, Kind.LABELS, voxel, depth, made_on)
    needs = Needs(
        depth * y * x * (found.stack.dtype.itemsize + 14) + y * x * 32,
        output.nbytes // 8,
        "a smaller --block-depth needs less",
    )
    inputs = {"source": found.identity(), "files": found.title, "reading": str(reading)}
    inputs |= {"image": made_on[1]} if made_on else {}
    if settings.missing == "fill" and found.missing:
        inputs["filled"] = "; ".join(one.note for one in found.missing)
    with Stage(sample, f"import-{name}", settings, inputs, [output], on, needs) as stage:
        stage.map(labels_block, blocks, found.stack, output.path, reading)
    write_renumbering_table(sample, f"label_ids_{name}", reading.renumbering)
    return sample
