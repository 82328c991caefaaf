"""Bringing labels in: hand-made ones of a few slices, as masks or from a labelled volume; and those of every slice, made elsewhere."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator, model_validator

from sparsem.annotations import (
    LabelledSlices,
    Labels,
    annotated_structures,
    as_labels,
    kept_labels,
    read_annotation,
    refuse_smeared,
    restore_annotation,
    write_annotation,
)
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.execution import HERE, Execution, Needs
from sparsem.geometry import ZBlock, z_blocks
from sparsem.ingest import ImportSettings, opened, tell_reading, voxel_of
from sparsem.numbering import numbering_of, slices_of
from sparsem.settings import Settings
from sparsem.stage import BlockResult, Stage
from sparsem.store.kept import Kept
from sparsem.store.readers import open_source
from sparsem.store.readers.placement import placed
from sparsem.store.readers.source import Source, Stack
from sparsem.store.sample import Sample, checked_name
from sparsem.store.volume import Kind, read_attributes, volume_spec

LabelsOf = Callable[[int], Labels]


class AnnotationSettings(Settings):
    """How a file of labels is to be understood."""

    dataset: str | None = Field(
        None, description="key of the labels inside a Zarr group, an HDF5 or a MATLAB file; number of the image in a TIFF with several"
    )
    slices: str | None = Field(
        None,
        description="labeled slices: 0,13,26 or 10-20, 'all', or 'non-empty' (those that hold a "
        "label); not needed where file names carry the number",
    )
    first_number: int | None = Field(
        None,
        ge=0,
        description="the number in a file's name that is the first slice; if not given, that of the stack's own files, or 0",
    )
    classes: dict[str, tuple[int, ...]] = Field(
        {}, description="what a number means, as nucleus=1,2; repeat it for each; without it, all but 0 is NAME"
    )
    ignore: int | None = Field(None, ge=0, description="the value of pixels that nobody decided on")
    background: int | None = Field(None, ge=1, description="a number that means 'outside of all', for labels whose 0 is ignored")
    image: str | None = Field(None, description="the image that the labels were drawn on; the newest with slices of that size if not given")
    add: bool = Field(False, description="add these slices to those of that name; --overwrite also replaces slices that differ")

    @field_validator("slices", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return ",".join(str(number) for number in value) if isinstance(value, list | tuple) else value

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
        for name, ids in self.classes.items():
            if self.background in ids:
                raise ValueError(f"{self.background} cannot be both background and {name}")
            if self.ignore in ids:
                raise ValueError(f"{self.ignore} cannot be both ignored and {name}")
        if self.background is not None and self.background == self.ignore:
            raise ValueError(f"{self.ignore} cannot be both ignored and background")
        return self


def import_annotation(
    sample: Sample, name: str, source: str | Path, settings: AnnotationSettings = AnnotationSettings(), overwrite: bool = False
) -> LabelledSlices | None:
    """Bring hand-made labels into a sample.

    Args:
        sample: the sample.
        name: of the structure, or of the set of structures that ``settings.classes`` names.
        source: a folder of masks with the slice number in each file's name, or a labelled volume (TIFF, OME-Zarr) that has
            either as many slices as the image or one for each annotated slice.
        settings: which slices, which ids, what is not known.
        overwrite: replace labels of that name that differ.

    Returns:
        The labelled slices; None where several classes were named.

    Raises:
        InputError: shapes or slice numbers do not fit the image, labels are not integers.
        ResumeError: other labels of that name are there, and ``overwrite`` is not set.
    """
    restore_annotation(sample, name)
    found = open_source(source, settings.dataset, labels=True, any_order=True)
    settings = _as_named(settings, name, found)
    there = read_attributes(sample.path / "annotations" / name)["sparsem"] if name in sample.names("annotations") else None
    adding = there if settings.add else None
    found = placed(found, _shapes(sample, settings.image or (adding["image"] if adding else None)))
    image = settings.image or (adding["image"] if adding else _drawn_on(sample, found.stack.shape[1:]) or sample.newest_image)
    z, planes = slices_of(found, sample.image(image).shape, settings.slices, numbering_of(sample, settings.first_number), str(source))
    plane_of = dict(zip(z, planes, strict=True))
    classes, ignore, _ = _meaning_of(adding) if adding else _meaning(settings)
    is_mask = found.stack.dtype.itemsize == 1 and not classes and ignore is None

    def labels_of(number: int) -> Labels:
        plane, where = plane_of[number], f"slice {number} of {source}"
        labels = as_labels(np.asarray(found.stack[plane : plane + 1])[0], where)
        if is_mask:
            refuse_smeared(labels, where)
        return labels

    if adding:
        _add(sample, name, z, labels_of, adding, settings, image, overwrite)
    elif overwrite or not there or not _holds(sample, name, z, labels_of, there, settings, image):
        meaning = (settings.classes, settings.ignore, image, overwrite, settings.background)
        write_annotation(sample, name, z, map(labels_of, z), *meaning)
    return read_annotation(sample, name) if name in annotated_structures(sample) else None


def _shapes(sample: Sample, image: str | None = None) -> list[tuple[int, int, int]]:
    """(z, y, x) of the images that a segmentation may have been drawn on: the one that was named, or the raw image before others."""
    names = [image] if image else sample.images
    return [(sample.image("raw") if name == "raw" else sample.volume("images", name)).shape for name in names]


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
    named = {re.sub(r"[^A-Za-z0-9_.-]+", "_", structure.strip()).lstrip("_.-"): ids for structure, ids in found.names.items()}
    nameless = [structure for structure in named if not structure]
    if nameless or len(named) < len(found.names):
        raise InputError(
            f"{found.files[0].name} has structures whose names are alike or empty; say what numbers mean with --classes NAME=1."
        )
    if len(named) == 1 and name not in named:
        return settings.model_copy(update={"classes": {}})
    classes = {name: named[name]} if name in named else named
    return settings.model_copy(update={"classes": classes})


def _holds(
    sample: Sample, name: str, z: Sequence[int], labels_of: LabelsOf, there: Mapping[str, Any], settings: AnnotationSettings, image: str
) -> bool:
    """Whether all of these slices are labelled so already, and more besides: slices that were added later are not lost."""
    if (
        (image, sample.image(image).fingerprint) != (there["image"], there["image_fingerprint"])
        or set(there["z"]) != {*z, *there.get("added", ())}
        or _meaning(settings) != _meaning_of(there)
    ):
        return False
    kept = kept_labels(sample, name)
    return all(np.array_equal(_slice(kept, there["z"].index(number)), labels_of(number)) for number in z)


def _add(
    sample: Sample,
    name: str,
    z: Sequence[int],
    labels_of: LabelsOf,
    there: Mapping[str, Any],
    settings: AnnotationSettings,
    image: str,
    overwrite: bool,
) -> None:
    """More labelled slices for an annotation, understood as its others are; those that are labelled otherwise are not lost unasked."""
    if any(_meaning(settings)) and _meaning(settings) != _meaning_of(there):
        raise InputError(f"'{name}' has other classes, ignored or background numbers; --add takes labels that mean what those there do.")
    if image != there["image"] or sample.image(image).fingerprint != there["image_fingerprint"]:
        raise SampleError(f"'{name}' was annotated on another image than '{image}' is now; annotate all of its slices anew.")
    kept = kept_labels(sample, name)
    place = {number: index for index, number in enumerate(there["z"])}
    differ = [number for number in z if number in place and not np.array_equal(_slice(kept, place[number]), labels_of(number))]
    if differ and not overwrite:
        listed = ", ".join(map(str, differ))
        raise ResumeError(f"Slices {listed} of '{name}' are labelled otherwise already; use --overwrite to replace them by these.")
    after = sorted({*place, *z})
    slices = (labels_of(number) if number in set(z) else _slice(kept, place[number]) for number in after)
    added = sorted({*there.get("added", ()), *z})
    write_annotation(sample, name, after, slices, there["classes"], there["ignore"], image, True, there.get("background"), added)


def _slice(labels: Kept, index: int) -> Labels:
    return np.asarray(labels[index : index + 1][0])


def _meaning(settings: AnnotationSettings) -> tuple[Any, ...]:
    """What numbers mean, as settings say it."""
    return {name: list(ids) for name, ids in settings.classes.items()}, settings.ignore, settings.background


def _meaning_of(there: Mapping[str, Any]) -> tuple[Any, ...]:
    """What numbers mean in an annotation that is there."""
    return there["classes"], there["ignore"], there.get("background")


def import_labels(
    path: str | Path, name: str, source: str | Path, settings: ImportSettings = ImportSettings(), on: Execution = HERE
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
    checked_name(name)
    found = opened(source, settings, labels=True)
    sample = Sample.create(path)
    found = placed(found, _shapes(sample) if sample.has_image else [])
    z, y, x = found.stack.shape
    drawn_on = _drawn_on(sample, (z, y, x)) if sample.has_image else None
    if sample.has_image and drawn_on is None:
        raise InputError(f"{source} has the shape {(z, y, x)}, but the image of {sample.path.name} has {sample.image().shape}.")
    image = sample.image(drawn_on) if drawn_on else None
    made_on = (drawn_on, image.fingerprint) if image and drawn_on and drawn_on != "raw" else None
    voxel = image.voxel_size if image else voxel_of(found, settings, str(source), on.quiet)
    depth = image.block_depth if image else min(settings.block_depth, z)
    blocks = z_blocks(z, depth)
    numbers = _is_numbered(found.stack, blocks)
    output = volume_spec(f"labels/{name}", (z, y, x), np.uint32 if numbers else np.uint8, Kind.LABELS, voxel, depth, made_on)
    needs = Needs(depth * y * x * 14, output.nbytes // 8, "a smaller --block-depth needs less")
    inputs = {"source": found.identity(), "files": found.title} | ({"image": made_on[1]} if made_on else {})
    if settings.missing == "fill" and found.missing:
        inputs["filled"] = "; ".join(one.note for one in found.missing)
    tell_reading(found, settings, on.quiet)
    with Stage(sample, f"import-{name}", settings, inputs, [output], on, needs) as stage:
        stage.map(_labels_block, blocks, found.stack, output.path, numbers)
    return sample


def _is_numbered(stack: Stack, blocks: Sequence[ZBlock]) -> bool:
    """Whether labels hold other values than 0 and 1, or 0 and 255."""
    first = 0
    for block in blocks:
        where = f"slices {block.start} to {block.stop - 1}"
        labels = as_labels(np.asarray(stack[block.own]), where)
        if stack.dtype.itemsize == 1:
            refuse_smeared(labels, where)
        inside = labels[labels > 0]
        first = first or int(inside.max(initial=0))
        if (inside != first).any():
            return True
    return first not in (0, 1, 255)


def _labels_block(block: ZBlock, stack: Stack, path: str, numbers: bool) -> BlockResult:
    labels = as_labels(np.asarray(stack[block.own]), f"slices {block.start} to {block.stop - 1}")
    return {path: labels if numbers else (labels > 0).astype(np.uint8)}, {}
