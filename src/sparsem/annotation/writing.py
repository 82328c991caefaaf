"""Annotations on disk: writing, replacing and restoring ``annotations/NAME`` of a sample.

An annotation is written to ``.sparsem/work`` and renamed into place at the end, so that a killed
run leaves the old labels or the new ones.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from sparsem.annotation.label_numbers import UNLABELED, Labels, SpecialNumbers
from sparsem.annotation.labeled_slices import (
    Attributes,
    Origin,
    refuse_second_annotation,
    structure_mask,
)
from sparsem.annotation.renumbering import Renumbering, identity_renumbering
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.store.names import checked_structure
from sparsem.store.patches import link_tree
from sparsem.store.sample import Sample, now
from sparsem.store.snapshot import read_attributes
from sparsem.store.volume import put_in_place, write_group

CHUNK_PX = 2048
BACKGROUND_BESIDE_0 = UNLABELED - 1  # number of background where 0 is unlabeled


def write_annotation(
    sample: Sample,
    name: str,
    z: Sequence[int],
    slices: Iterable[Labels],
    classes: Mapping[str, Sequence[int]] | None = None,
    ignore: int | None = None,
    image: str = "raw",
    overwrite: bool = False,
    background: int | None = None,
    added: Sequence[int] = (),
    renumbering: Renumbering | None = None,
    origin: Mapping[int, Origin] | None = None,
) -> None:
    """Write labels as ``annotations/NAME``, slice by slice, and rename them into place at the end.

    Args:
        sample: sample to write to.
        name: name of the structure, or of the set of structures in ``classes``.
        z: slice numbers.
        slices: labels (y, x) of each slice, as they are stored.
        classes: structure -> its numbers in the file that the labels came from.
        ignore: number of unlabeled pixels in that file.
        image: name of the image that the labels were drawn on.
        overwrite: replace other labels of that name.
        background: number of background pixels in that file, in addition to 0.
        added: slices that were added to an existing annotation.
        renumbering: mapping from the numbers of the file to the labels; the identity if not given.
        origin: how the labels of a slice came about; manual where it is not given.

    Raises:
        InputError: a name cannot be that of a folder, or another annotation holds a structure.
        ResumeError: the sample has other labels of that name, and ``overwrite`` is not set.
    """
    class_names = list(classes or {})
    for checked in (name, *class_names):
        checked_structure(checked)
    refuse_second_annotation(sample, name, class_names or [name])
    numbers_of_classes = {key: list(numbers) for key, numbers in (classes or {}).items()}
    renumbering = renumbering or identity_renumbering(SpecialNumbers(ignore, background))
    meaning = _stored_meaning(numbers_of_classes, renumbering)
    with sample.locked():
        unfinished = _empty_work_folder(sample, name)
        drawn_on = sample.image(image)
        summary = _write_slices(unfinished / "labels", name, z, slices, drawn_on.shape, meaning)
        attributes = _attributes(z, meaning, (image, drawn_on.fingerprint), added, summary)
        attributes["origin"] = _origins_by_slice(z, origin or {})
        _write_file_numbers(unfinished / "file_ids", renumbering)
        write_group(unfinished, {"sparsem": attributes})
        _refuse_other_labels(sample, name, unfinished, attributes, overwrite)
        _publish(sample, name, unfinished, attributes)


def write_slice(
    sample: Sample, name: str, z: int, labels: Labels, image: str, origin: Origin = "manual"
) -> str:
    """Write or replace one labeled slice of ``annotations/NAME``; all others are hard links.

    A new annotation has the structure of its name, and ``UNLABELED`` marks unlabeled pixels.

    Args:
        sample: sample to write to.
        name: name of the annotation.
        z: slice number.
        labels: (y, x) uint32 as they are stored; ``UNLABELED`` where nothing is known.
        image: name of the image that the labels are drawn on.
        origin: how the labels came about; a slice that is annotated already keeps its own, unless
            a prediction was copied into it.

    Returns:
        The hash of the labels as they are stored.

    Raises:
        InputError: a new annotation has a name that cannot be that of a structure, or another
            annotation holds the structure; the labels have another shape than the image.
        SampleError: the annotation was drawn on another image, or another run writes to the sample.
    """
    shape = sample.image(image).shape[1:]
    if labels.shape != shape:
        raise InputError(
            f"The labels have {labels.shape} px (y, x), and the image '{image}' has {shape}."
        )
    with sample.locked():
        unfinished = _empty_work_folder(sample, name)
        previous = _previous_attributes(sample, name)
        if previous:
            refuse_other_image(sample, name, previous, image)
        else:
            checked_structure(name)
            refuse_second_annotation(sample, name, [name])
        previous = _with_background_number(previous)
        stored = _with_stored_numbers(labels, previous)
        numbers = sorted({*previous.get("z", ()), z})
        _create_array(unfinished / "labels", (len(numbers), *stored.shape))
        _link_planes(sample, name, unfinished, previous, numbers, z)
        array = zarr.open_array(store=unfinished / "labels", mode="r+")
        array.with_config({"write_empty_chunks": True})[numbers.index(z)] = stored
        attributes = _attributes_with_slice(sample, name, previous, numbers, z, stored, image)
        origins = {str(n): o for n, o in previous.get("origin", {}).items()}
        if origin != "manual":
            origins[str(z)] = origin
        attributes["origin"] = {str(n): origins.get(str(n), origin) for n in numbers}
        write_group(unfinished, {"sparsem": attributes})
        _publish(sample, name, unfinished, attributes, painted=True)
        return str(attributes["slices"][str(z)])


def _previous_attributes(sample: Sample, name: str) -> Attributes:
    """Return the attributes of ``annotations/NAME``; empty if there is none."""
    directory = sample.path / "annotations" / name
    if not (directory / "zarr.json").exists():
        return {}
    attributes: Attributes = read_attributes(directory)["sparsem"]
    return attributes


def refuse_other_image(sample: Sample, name: str, previous: Attributes, image: str) -> None:
    """Refuse to draw on an image if ``annotations/NAME`` was drawn on another one.

    Raises:
        SampleError: it was, or that image was replaced since.
    """
    drawn_on = (previous["image"], previous["image_fingerprint"])
    if drawn_on != (image, sample.image(image).fingerprint):
        raise SampleError(
            f"annotations/{name} of {sample.path.name} was drawn on the image "
            f"'{previous['image']}' as it was then, not on '{image}' as it is now; draw on that "
            "image, or remove the annotation."
        )


def _with_background_number(previous: Attributes) -> Attributes:
    """Return attributes in which background has a number if 0 marks unlabeled pixels."""
    if previous.get("ignore") != 0 or previous.get("background") is not None:
        return previous
    return {**previous, "background": BACKGROUND_BESIDE_0}


def _with_stored_numbers(labels: Labels, previous: Attributes) -> Labels:
    """Return labels in which unlabeled pixels and background have the annotation's numbers."""
    ignore = previous.get("ignore")
    stored = np.asarray(labels, np.uint32)
    if ignore in (None, UNLABELED):
        return stored
    if ignore == 0:
        stored = np.where(stored == 0, np.uint32(previous["background"]), stored)
    return np.where(stored == UNLABELED, np.uint32(ignore), stored)


def _link_planes(
    sample: Sample,
    name: str,
    unfinished: Path,
    previous: Attributes,
    numbers: Sequence[int],
    written: int,
) -> None:
    """Link the slices of an annotation but for the one that is written anew."""
    directory = sample.path / "annotations" / name
    if (directory / "file_ids").exists():
        link_tree(directory / "file_ids", unfinished / "file_ids")
    for index, z in enumerate(previous.get("z", ())):
        if z != written:
            plane = directory / "labels" / "c" / str(index)
            link_tree(plane, unfinished / "labels" / "c" / str(numbers.index(z)))


def _attributes_with_slice(
    sample: Sample,
    name: str,
    previous: Attributes,
    numbers: Sequence[int],
    z: int,
    stored: Labels,
    image: str,
) -> Attributes:
    """Return the attributes of an annotation in which one slice was written."""
    ignore = previous.get("ignore")
    if ignore is None and (stored == UNLABELED).any():
        ignore = UNLABELED
    meaning: dict[str, Any] = {
        "classes": previous.get("classes", {}),
        "ignore": ignore,
        "background": previous.get("background"),
    }
    if "file" in previous:
        meaning["file"] = previous["file"]
    summary = _WriteSummary(
        slice_fingerprints=dict(previous.get("slices", {})),
        empty={key: list(slices) for key, slices in previous.get("empty", {}).items()},
        unknown=[n for n in previous.get("unknown", ()) if n != z],
    )
    for structure in meaning["classes"] or [name]:
        without = [n for n in summary.empty.get(structure, ()) if n != z]
        summary.empty[structure] = without
    summary.add(z, stored, meaning)
    summary.slice_fingerprints = {str(n): summary.slice_fingerprints[str(n)] for n in numbers}
    drawn_on = (image, sample.image(image).fingerprint)
    return _attributes(numbers, meaning, drawn_on, previous.get("added", ()), summary)


def _origins_by_slice(z: Sequence[int], origin: Mapping[int, Origin]) -> dict[str, Origin]:
    """Return how the labels of every slice came about; manual where it is not known."""
    return {str(number): origin.get(number, "manual") for number in z}


def _empty_work_folder(sample: Sample, name: str) -> Path:
    """Return the folder in which an annotation is prepared; a killed run leaves nothing in it."""
    unfinished = sample.path / ".sparsem" / "work" / f"annotation-{name}"
    _restore(sample, name)
    shutil.rmtree(unfinished, ignore_errors=True)
    return unfinished


@dataclass
class _WriteSummary:
    """Facts that are collected while slices are written.

    Attributes:
        slice_fingerprints: slice number -> hash of its labels.
        empty: structure -> slices on which it is absent.
        unknown: slices without a labeled pixel.
    """

    slice_fingerprints: dict[str, str]
    empty: dict[str, list[int]]
    unknown: list[int]

    def add(self, slice_number: int, labels: Labels, meaning: Mapping[str, Any]) -> None:
        """Add the stored labels (y, x) of a slice; ``meaning`` is that of the stored numbers."""
        self.slice_fingerprints[str(slice_number)] = _fingerprint_of_slice(labels)
        for structure, empty_slices in self.empty.items():
            if _is_absent(structure, labels, meaning):
                empty_slices.append(slice_number)
        ignore = meaning["ignore"]
        if ignore is not None and (labels == ignore).all():
            self.unknown.append(slice_number)


def _fingerprint_of_slice(labels: Labels) -> str:
    """Return a hash of the labels (y, x) of a slice."""
    stored = np.ascontiguousarray(labels, np.uint32)
    return hashlib.blake2b(stored.data, digest_size=16).hexdigest()


def _is_absent(structure: str, labels: Labels, meaning: Mapping[str, Any]) -> bool:
    """Return True if a slice has labeled pixels, and none of them is of a structure."""
    ids = meaning["classes"].get(structure, ())
    inside, known = structure_mask(labels, ids, meaning["ignore"], meaning["background"])
    return bool(known.any() and not inside.any())


def _write_slices(
    store: Path,
    name: str,
    z: Sequence[int],
    slices: Iterable[Labels],
    shape: tuple[int, int, int],
    meaning: Mapping[str, Any],
) -> _WriteSummary:
    """Write slices one at a time; ``meaning`` is that of the stored numbers."""
    summary = _WriteSummary(
        slice_fingerprints={},
        empty={structure: [] for structure in meaning["classes"] or [name]},
        unknown=[],
    )
    array = None
    for index, (slice_number, labels) in enumerate(zip(z, slices, strict=True)):
        if array is None:
            array = _create_array(store, (len(z), *shape[1:]))
        array[index] = labels
        summary.add(slice_number, labels, meaning)
    return summary


def _create_array(store: Path, shape: tuple[int, int, int]) -> "zarr.Array[Any]":
    return zarr.create_array(
        store=store,
        shape=shape,
        chunks=(1, min(shape[1], CHUNK_PX), min(shape[2], CHUNK_PX)),
        dtype=np.uint32,
        dimension_names=("slice", "y", "x"),
        config={"write_empty_chunks": True},  # a missing chunk shows a loss of data
    )


def _attributes(
    z: Sequence[int],
    meaning: Mapping[str, Any],
    image: tuple[str, str],
    added: Sequence[int],
    summary: _WriteSummary,
) -> Attributes:
    """Return the attributes of an annotation.

    ``image`` is the name and the fingerprint of the image that it was drawn on. The fingerprint of
    the annotation is a hash of those of all slices, and of all attributes before it, in this order.
    """
    attributes: Attributes = {
        "z": list(z),
        "classes": meaning["classes"],
        "ignore": meaning["ignore"],
        "background": meaning["background"],
        "image": image[0],
        "image_fingerprint": image[1],
    }
    if added:
        attributes["added"] = list(added)
    if "file" in meaning:
        attributes["file"] = meaning["file"]
    text = repr([attributes, summary.slice_fingerprints])
    attributes["fingerprint"] = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    attributes["slices"] = summary.slice_fingerprints
    attributes["empty"] = summary.empty
    attributes["unknown"] = summary.unknown
    return attributes


def _stored_meaning(classes: dict[str, list[int]], renumbering: Renumbering) -> dict[str, Any]:
    """Return classes, ignored and background number as they are stored.

    Where the numbers of the file differ, they are added under ``file``.
    """
    special = renumbering.special
    in_file = {"classes": classes, "ignore": special.ignore, "background": special.background}
    stored_classes = {
        name: [renumbering.stored_number(number) for number in numbers]
        for name, numbers in classes.items()
    }
    stored = {
        "classes": stored_classes,
        "ignore": _stored_special(special.ignore, renumbering),
        "background": _stored_special(special.background, renumbering),
    }
    return stored if in_file == stored else {**stored, "file": in_file}


def _stored_special(number: int | None, renumbering: Renumbering) -> int | None:
    return None if number is None else renumbering.stored_number(number)


def _write_file_numbers(store: Path, renumbering: Renumbering) -> None:
    """Write numbers of the file and stored ones as (n, 2) uint64; no array where they are equal."""
    if not renumbering.is_identity:
        pairs = np.stack([renumbering.file, renumbering.stored.astype(np.uint64)], axis=1)
        zarr.create_array(store=store, data=pairs, dimension_names=("id", "file_and_stored"))


def _refuse_other_labels(
    sample: Sample, name: str, unfinished: Path, attributes: Attributes, overwrite: bool
) -> None:
    """Remove the unfinished labels and refuse to replace labels that differ from them."""
    final = sample.path / "annotations" / name
    if not final.exists():
        return
    previous = read_attributes(final)["sparsem"]
    if previous["fingerprint"] != attributes["fingerprint"] and not overwrite:
        shutil.rmtree(unfinished)
        raise ResumeError(
            f"{sample.path.name} has other labels of '{name}' already; use --overwrite to replace "
            f"them, or another name{_list_changes(previous, attributes)}."
        )


def _list_changes(previous: Mapping[str, Any], attributes: Mapping[str, Any]) -> str:
    """Return the slices that two annotations label differently, in parentheses.

    Empty where the labels of each slice were not recorded, or where only their meaning differs.
    """
    old = previous.get("slices", {})
    new = attributes["slices"]
    if not old:
        return ""
    groups = {
        "differ": [z for z in new if z in old and old[z] != new[z]],
        "now missing": [z for z in old if z not in new],
        "new": [z for z in new if z not in old],
    }
    listed = [f"{', '.join(slices)} {change}" for change, slices in groups.items() if slices]
    return f" (slices: {'; '.join(listed)})" if listed else ""


def _publish(
    sample: Sample, name: str, unfinished: Path, attributes: Attributes, painted: bool = False
) -> None:
    """Rename a complete annotation into place, and record it in the history of the sample.

    Of the strokes that were ``painted``, only the last one is recorded.
    """
    replaced = _replaced_folder(sample, name)
    shutil.rmtree(replaced, ignore_errors=True)
    put_in_place(unfinished, sample.path / "annotations" / name, replaced)
    shutil.rmtree(replaced, ignore_errors=True)
    sample.publish_names()
    sample.remember(
        {
            "stage": f"annotate-{name}",
            "fingerprint": attributes["fingerprint"],
            "settings": attributes,
            "outputs": [f"annotations/{name}"],
            "finished": now(),
            **({"painted": True} if painted else {}),
        }
    )


def record_origin(sample: Sample, name: str, origin: Mapping[int, Origin]) -> None:
    """Record how labels of ``annotations/NAME`` came about; slices not given keep their origin."""
    with sample.locked():
        directory = sample.path / "annotations" / name
        group_attributes = read_attributes(directory)
        attributes = group_attributes["sparsem"]
        known = attributes.get("origin", {})
        attributes["origin"] = {
            str(z): origin.get(z, known.get(str(z), "unknown")) for z in attributes["z"]
        }
        write_group(directory, group_attributes)


def restore_annotation(sample: Sample, name: str) -> None:
    """Restore the previous labels if a replacement was killed between its two renames.

    Raises:
        SampleError: another run writes to the sample.
    """
    with sample.locked():
        _restore(sample, name)


def restore_annotations(sample: Sample) -> None:
    """Restore all annotations of which a replacement was killed between its two renames.

    Raises:
        SampleError: another run writes to the sample.
    """
    prefix, suffix = _replaced_folder(sample, "*").name.split("*")
    for folder in (sample.path / ".sparsem" / "work").glob(f"{prefix}*{suffix}"):
        restore_annotation(sample, folder.name.removeprefix(prefix).removesuffix(suffix))


def remove_replaced_annotation(sample: Sample, name: str) -> None:
    """Remove the previous labels that a killed replacement left, so that they are never restored.

    The caller holds the lock of the sample.
    """
    shutil.rmtree(_replaced_folder(sample, name), ignore_errors=True)


def is_being_replaced(sample: Sample, name: str) -> bool:
    """Return True between the two renames of a replacement, and after it was killed there."""
    return _replaced_folder(sample, name).exists()


def _restore(sample: Sample, name: str) -> None:
    """Restore the previous labels; the caller holds the lock of the sample."""
    final = sample.path / "annotations" / name
    replaced = _replaced_folder(sample, name)
    if replaced.exists() and not final.exists():
        os.replace(replaced, final)


def _replaced_folder(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "work" / f"annotation-{name}-replaced"
