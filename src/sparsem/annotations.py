"""Hand-labelled slices: which z they are, what their numbers mean, and what in them is not known.

Labels are (n, y, x) unsigned integers with the slice number of each. A slice that is not in the list is not background: it is
not known. Inside a labelled slice, pixels of the ``ignore`` value are not known either. Masks made from them are uint8 with
0 background, 1 structure, 255 (``UNKNOWN``) not known.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.settings import Settings, nearest
from sparsem.store.readers import Source, open_source
from sparsem.store.sample import Sample, checked_name, now
from sparsem.store.volume import Volume, put_in_place, read_attributes, write_group

UNKNOWN = 255

Mask = NDArray[np.uint8]
Labels = NDArray[np.unsignedinteger[Any]]


class AnnotationSettings(Settings):
    """How a file of labels is to be understood."""

    dataset: str | None = Field(None, description="key of the labels inside a Zarr group")
    slices: str | None = Field(
        None, description="which slices are annotated: 0,13,26 or 'all' or 'non-empty'; not needed where file names carry the number"
    )
    first_number: int = Field(0, ge=0, description="the number in a file's name that stands for the first slice of the stack")
    classes: dict[str, tuple[int, ...]] = Field(
        {}, description="what a number means, as nucleus=1,2; repeat it for each; without it, all but 0 is NAME"
    )
    ignore: int | None = Field(None, ge=0, description="the value of pixels that nobody decided on")
    background: int | None = Field(None, ge=1, description="a number that means 'outside of all', for labels whose 0 is ignored")
    image: str | None = Field(None, description="the image that the labels were drawn on; the newest one if not given")
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


@dataclass(frozen=True)
class LabelledSlices:
    """The annotated slices of one structure.

    Attributes:
        z: slice numbers, ascending.
        labels: (n, y, x); an array, or a Zarr array that is read slice by slice.
        ids: labels that mean the structure; empty: all that is not 0.
        ignore: label of pixels that are not known.
        background: label of pixels outside of all, beside 0.
        image: name of the image that they were drawn on.
        image_fingerprint: of that image, as it was then.
        fingerprint: of numbers, labels and meaning.
    """

    z: tuple[int, ...]
    labels: Any
    ids: tuple[int, ...]
    ignore: int | None
    image: str
    image_fingerprint: str
    fingerprint: str
    background: int | None = None

    def mask(self, index: int) -> Mask:
        """The ``index``-th labelled slice as (y, x) uint8: 0, 1 or UNKNOWN."""
        objects, known = self.objects(index)
        return np.where(known, objects > 0, UNKNOWN).astype(np.uint8)

    def objects(self, index: int) -> tuple[Labels, NDArray[np.bool_]]:
        """The ids (y, x) of the ``index``-th labelled slice, 0 outside of the structure, and where they are known."""
        labels = np.asarray(self.labels[index])
        known = np.ones(labels.shape, bool) if self.ignore is None else labels != self.ignore
        inside = known & (np.isin(labels, self.ids) if self.ids else labels > 0)
        if self.background is not None:
            inside &= labels != self.background
        return np.where(inside, labels, 0).astype(labels.dtype), known


def read_annotation(sample: Sample, structure: str) -> LabelledSlices:
    """The labelled slices of a structure: an annotation of that name, or a class of that name in one.

    Raises:
        SampleError: no annotation speaks of the structure; the nearest name is given.
    """
    found = _by_structure(sample)
    if structure not in found:
        raise SampleError(f"{sample.path.name} has no annotation of '{structure}'{nearest(structure, found)}")
    name, about = found[structure]
    labels = zarr.open_array(store=sample.path / "annotations" / name / "labels", mode="r")
    ids = tuple(about["classes"].get(structure, ()))
    own = f"{about['fingerprint']} {structure}"
    return LabelledSlices(
        tuple(about["z"]), labels, ids, about["ignore"], about["image"], about["image_fingerprint"], own, about.get("background")
    )


def annotated_image(sample: Sample, annotations: Mapping[str, LabelledSlices], name: str | None) -> Volume:
    """The image that all of these structures were annotated on, unchanged since.

    Raises:
        SampleError: one was annotated on another image than ``name``, or than the others, or the image was replaced.
    """
    name = name or next(iter(annotations.values())).image
    image = sample.image(name)
    for structure, one in annotations.items():
        if one.image != name:
            raise SampleError(f"'{structure}' of {sample.path.name} was annotated on the image '{one.image}', not on '{name}'.")
        if one.image_fingerprint != image.fingerprint:
            raise SampleError(f"The image '{name}' of {sample.path.name} was replaced after '{structure}' was annotated; annotate it anew.")
    return image


def annotated_structures(sample: Sample) -> dict[str, tuple[int, ...]]:
    """Every structure that is annotated, with its slice numbers."""
    return {structure: tuple(about["z"]) for structure, (_, about) in _by_structure(sample).items()}


def _by_structure(sample: Sample) -> dict[str, tuple[str, dict[str, Any]]]:
    """Structure -> the annotation that holds it, and what that says of itself."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in sample.names("annotations"):
        about = read_attributes(sample.path / "annotations" / name)["sparsem"]
        found |= dict.fromkeys(about["classes"] or [name], (name, about))
    return found


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
    found = open_source(source, settings.dataset)
    image = settings.image or sample.newest_image
    z, planes = _choose(found, sample.image(image).shape, settings, str(source))
    slices = (
        _as_labels(np.asarray(found.stack[plane : plane + 1])[0], f"slice {number} of {source}")
        for number, plane in zip(z, planes, strict=True)
    )
    if settings.add and name in sample.names("annotations"):
        _add(sample, name, dict(zip(z, slices, strict=True)), overwrite)
    else:
        write_annotation(sample, name, z, slices, settings.classes, settings.ignore, image, overwrite, settings.background)
    return None if settings.classes else read_annotation(sample, name)


def _add(sample: Sample, name: str, slices: Mapping[int, Labels], overwrite: bool) -> None:
    """More labelled slices for an annotation, understood as its others are; those that are labelled otherwise are not lost unasked."""
    about = read_attributes(sample.path / "annotations" / name)["sparsem"]
    kept = zarr.open_array(store=sample.path / "annotations" / name / "labels", mode="r")
    before = {z: np.asarray(kept[index]) for index, z in enumerate(about["z"])}
    differ = [z for z in slices if z in before and not np.array_equal(before[z], slices[z])]
    if differ and not overwrite:
        listed = ", ".join(map(str, differ))
        raise ResumeError(f"Slices {listed} of '{name}' are labelled otherwise already; use --overwrite to replace them by these.")
    after = {**before, **slices}
    meaning = (about["classes"], about["ignore"], about["image"], True, about.get("background"))
    write_annotation(sample, name, sorted(after), (after[z] for z in sorted(after)), *meaning)


def write_annotation(
    sample: Sample,
    name: str,
    z: Sequence[int],
    slices: Iterable[Labels],
    classes: Mapping[str, tuple[int, ...]] | None = None,
    ignore: int | None = None,
    image: str = "raw",
    overwrite: bool = False,
    background: int | None = None,
) -> None:
    """Write labels of the slices ``z`` (each (y, x)) as ``annotations/NAME``, one at a time, renamed into place at the end.

    Raises:
        InputError: a name that cannot be a folder, or a structure that another annotation holds.
        ResumeError: other labels of that name are there, and ``overwrite`` is not set.
    """
    structures = [checked_name(one) for one in (name, *(classes or {}))]
    for structure, (holder, _) in _by_structure(sample).items():
        if holder != name and structure in (structures[1:] or structures):
            raise InputError(f"'{structure}' is annotated already, in annotations/{holder}; a structure has one set of labelled slices.")
    with sample.locked():
        unfinished, final = sample.path / ".sparsem" / "work" / f"annotation-{name}", sample.path / "annotations" / name
        shutil.rmtree(unfinished, ignore_errors=True)
        _, y, x = sample.image(image).shape
        content = hashlib.blake2b(digest_size=16)
        array = None
        for index, labels in enumerate(slices):
            if array is None:
                array = zarr.create_array(
                    store=unfinished / "labels",
                    shape=(len(z), y, x),
                    chunks=(1, min(y, 2048), min(x, 2048)),
                    dtype=np.uint32,
                    dimension_names=("slice", "y", "x"),
                )
            array[index] = labels
            content.update(np.ascontiguousarray(labels, np.uint32).tobytes())
        about: dict[str, Any] = {
            "z": list(z),
            "classes": {key: list(ids) for key, ids in (classes or {}).items()},
            "ignore": ignore,
            "background": background,
            "image": image,
            "image_fingerprint": sample.image(image).fingerprint,
        }
        content.update(repr(about).encode())
        about["fingerprint"] = content.hexdigest()
        write_group(unfinished, {"sparsem": about})
        if final.exists() and read_attributes(final)["sparsem"]["fingerprint"] != about["fingerprint"] and not overwrite:
            shutil.rmtree(unfinished)
            raise ResumeError(f"{sample.path.name} has other labels of '{name}' already; use --overwrite to replace them, or another name.")
        replaced = unfinished.with_name(f"{unfinished.name}-replaced")
        shutil.rmtree(replaced, ignore_errors=True)
        put_in_place(unfinished, final, replaced)
        shutil.rmtree(replaced, ignore_errors=True)
        sample.publish_names()
        record = {"stage": f"annotate-{name}", "fingerprint": about["fingerprint"], "settings": about}
        sample.remember({**record, "outputs": [f"annotations/{name}"], "finished": now()})


def _choose(found: Source, shape: tuple[int, int, int], settings: AnnotationSettings, where: str) -> tuple[list[int], list[int]]:
    """Slice numbers, and which plane of the source holds each."""
    n_slices, n_planes = shape[0], found.stack.shape[0]
    if tuple(found.stack.shape[1:]) != tuple(shape[1:]):
        raise InputError(
            f"{where} has slices of {tuple(found.stack.shape[1:])} px, but the image has {shape[1:]}; labels must cover the whole slice."
        )
    if settings.slices is None:
        numbers = _numbers_in_names(found, settings.first_number, n_slices, where)
        planes = list(range(n_planes))
    elif settings.slices in ("all", "non-empty"):
        if n_planes != n_slices:
            raise InputError(f"{where} has {n_planes} slices and the image {n_slices}; name the annotated ones with --slices.")
        keep_all = settings.slices == "all"
        planes = [plane for plane in range(n_planes) if keep_all or np.any(found.stack[plane : plane + 1])]
        numbers = planes
    else:
        numbers = _parse_numbers(settings.slices)
        if n_planes not in (n_slices, len(numbers)):
            raise InputError(
                f"{where} has {n_planes} slices; expected {n_slices} as the image, or {len(numbers)}, one for each of --slices."
            )
        planes = numbers if n_planes == n_slices else list(range(n_planes))
    outside = [number for number in numbers if not 0 <= number < n_slices]
    if outside or len(set(numbers)) != len(numbers) or not numbers:
        fault = f"{outside[0]} is outside 0 to {n_slices - 1}" if outside else "a number appears twice" if numbers else "there are none"
        raise InputError(f"The annotated slices of {where} do not fit the image: {fault}.")
    order = np.argsort(numbers)
    return [numbers[i] for i in order], [planes[i] for i in order]


def _numbers_in_names(found: Source, first: int, n_slices: int, where: str) -> list[int]:
    told = found.numbers or _number_of_one(found)
    if not told:
        raise InputError(
            f"Which slices of {where} are annotated? Give --slices 0,13,26 (or 'all'): a slice that nobody labelled is not background."
        )
    numbers = [number - first for number in told]
    if any(not 0 <= number < n_slices for number in numbers):
        hint = "; if the first slice is numbered 1, give --first-number 1" if first == 0 and max(numbers) == n_slices else ""
        raise InputError(
            f"The file names in {where} carry the numbers {min(told)} to {max(told)}, but the image has {n_slices} slices{hint}."
        )
    return numbers


def _number_of_one(found: Source) -> tuple[int, ...]:
    """Of a single picture the last number in its name, as in cells_0137.tif."""
    numbers = re.findall(r"\d+", found.files[0].stem) if len(found.files) == found.stack.shape[0] == 1 else []
    return (int(numbers[-1]),) if numbers else ()


def _parse_numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.replace(" ", ",").split(",") if part]
    except ValueError:
        raise InputError(f"--slices takes numbers such as 0,13,26, or 'all', or 'non-empty'; got '{text}'.") from None


def _as_labels(labels: NDArray[Any], where: str) -> Labels:
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        whole = labels.astype(np.int64)
        if not np.array_equal(whole, labels):
            raise InputError(f"Labels are whole numbers, but {where} holds {labels.dtype} such as {labels[whole != labels][0]:.3g}.")
        labels = whole
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < 2**32:
        raise InputError(f"Labels are from 0 to 4294967295, but {where} holds {int(labels.min())} to {int(labels.max())}.")
    return labels.astype(np.uint32)
