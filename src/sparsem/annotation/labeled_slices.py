"""Hand-labeled slices: which z they are, what their numbers mean, and what in them is not known.

Labels are (n, y, x) unsigned integers with the slice number of each. A slice that is not in the list is not background: it is
not known. Inside a labeled slice, pixels of the ``ignore`` value are not known either. Masks made from them are uint8 with
0 background, 1 structure, 255 (``UNKNOWN``) not known.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.annotation.renumbering import (
    UNLABELED,
    Labels,
    Renumbering,
    SpecialNumbers,
    identity_renumbering,
)
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.settings import nearest
from sparsem.store.lazy import LazyArray
from sparsem.store.names import checked_name
from sparsem.store.sample import Sample, now
from sparsem.store.snapshot import read_attributes
from sparsem.store.transforms import MovedStack
from sparsem.store.volume import Volume, put_in_place, write_group

UNKNOWN = 255
OUTSIDE_IMAGE = UNLABELED  # label of what lies outside of the image that was annotated, as another image sees it

Mask = NDArray[np.uint8]
Origin = Literal[
    "manual", "corrected prediction", "unknown"
]  # how the labels of a slice came about


@dataclass(frozen=True)
class LabeledSlices:
    """The annotated slices of one structure.

    Attributes:
        z: slice numbers, ascending.
        labels: (n, y, x); anything that gives labels[i:j], read slice by slice.
        ids: labels that mean the structure; empty: all that is not 0.
        ignore: label of pixels that are not known.
        background: label of pixels outside of all, beside 0.
        image: name of the image whose pixels the labels have.
        image_fingerprint: of the image that they were drawn on, as it was then.
        fingerprint: of numbers, labels and meaning.
        prints: of the labels of each slice, in the order of ``z``: to name the slices that differ; empty if they were not recorded.
    """

    z: tuple[int, ...]
    labels: Any
    ids: tuple[int, ...]
    ignore: int | None
    image: str
    image_fingerprint: str
    fingerprint: str
    background: int | None = None
    prints: tuple[str, ...] = ()

    def mask(self, index: int) -> Mask:
        """The ``index``-th labeled slice as (y, x) uint8: 0, 1 or UNKNOWN."""
        objects, known = self.objects(index)
        return np.where(known, objects > 0, UNKNOWN).astype(np.uint8)

    def objects(self, index: int) -> tuple[Labels, NDArray[np.bool_]]:
        """The ids (y, x) of the ``index``-th labeled slice, 0 outside of the structure, and where they are known."""
        labels = np.asarray(self.labels[index : index + 1])[0]
        inside, known = structure_mask(labels, self.ids, self.ignore, self.background)
        return np.where(inside, labels, 0).astype(labels.dtype), known


def structure_mask(
    labels: Labels, ids: Sequence[int], ignore: int | None, background: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where labels are of a structure, and where that is known; see ``LabeledSlices``."""
    known = np.ones(labels.shape, bool) if ignore is None else labels != ignore
    inside = known & (np.isin(labels, ids) if ids else labels > 0)
    if background is not None:
        inside &= labels != background
    return inside, known


def read_annotation(sample: Sample, structure: str, image: str | None = None) -> LabeledSlices:
    """The labeled slices of a structure: an annotation of that name, or a class of that name in one.

    Args:
        sample: with annotations.
        structure: a name.
        image: the image on whose pixels they are wanted; the one they were drawn on if not given. They move along with alignment.

    Raises:
        SampleError: no annotation speaks of the structure, and the nearest name is given; or it was drawn on an image that was replaced.
    """
    found = _by_structure(sample)
    if structure not in found:
        how = (
            ""
            if found
            else f" 'sparsem annotate import {sample.path.name} {structure} MASKS' brings one in."
        )
        raise SampleError(
            f"{sample.path.name} has no annotation of '{structure}'{nearest(structure, found)}{how}"
        )
    name, about = found[structure]
    labels = stored_labels(sample, name)
    ids = tuple(about["classes"].get(structure, ()))
    own = f"{about['fingerprint']} {structure}"
    z, prints = tuple(about["z"]), about.get("slices", {})
    drawn = LabeledSlices(
        z,
        labels,
        ids,
        about["ignore"],
        about["image"],
        about["image_fingerprint"],
        own,
        about.get("background"),
        tuple(prints[str(one)] for one in z) if prints else (),
    )
    return drawn if image is None else _seen_on(sample, structure, drawn, image)


def _seen_on(sample: Sample, structure: str, drawn: LabeledSlices, name: str) -> LabeledSlices:
    """Labels as another image of the sample sees them."""
    before, image = sample.image(drawn.image), sample.image(name)
    if before.fingerprint != drawn.image_fingerprint:
        raise SampleError(
            f"The image '{drawn.image}' of {sample.path.name} was replaced after '{structure}' was annotated; "
            "import its labels again, with --overwrite."
        )
    if name == drawn.image:
        return drawn
    here, there = sample.frame(image), sample.frame(before)
    if here.is_same(there):
        return replace(drawn, image=name)
    motions = there.seen_from(here)[list(drawn.z)]
    ignore = OUTSIDE_IMAGE if drawn.ignore is None else drawn.ignore
    shape = (len(drawn.z), *image.shape[1:])
    seen = f"{drawn.fingerprint} on {image.fingerprint}"
    return replace(
        drawn,
        labels=MovedStack(drawn.labels, motions, shape, ignore),
        ignore=ignore,
        image=name,
        fingerprint=seen,
    )


def annotations_on(
    sample: Sample, structures: Sequence[str], name: str | None = None
) -> tuple[Volume, dict[str, LabeledSlices]]:
    """An image, the newest one if none is named, and the labeled slices of structures as it sees them.

    Raises:
        SampleError: a structure is not annotated, or was annotated on an image that was replaced since.
    """
    name = name or sample.newest_image
    return sample.image(name), {
        structure: read_annotation(sample, structure, name) for structure in structures
    }


def outputs_of_cells(name: str) -> tuple[str, str]:
    """What a network learns of an annotation of cells: their interior, and the boundary between them."""
    return f"{name}-interior", f"{name}-boundary"


def annotation_of_output(output: str) -> str:
    """The annotation that an output of a network was learnt from."""
    return output.removesuffix("-interior").removesuffix("-boundary")


def annotated_structures(sample: Sample) -> dict[str, tuple[int, ...]]:
    """Every structure that is annotated, with its slice numbers."""
    return {structure: tuple(about["z"]) for structure, (_, about) in _by_structure(sample).items()}


def recorded_origins(sample: Sample, structure: str) -> dict[int, Origin]:
    """Return how the labels of every annotated slice of a structure came about; empty if it is not annotated, or that was not recorded."""
    _, about = _by_structure(sample).get(structure, ("", {}))
    return {int(z): origin for z, origin in about.get("origin", {}).items()}


def corrected_slices(sample: Sample, structure: str) -> tuple[int, ...]:
    """Return the annotated slices of a structure whose labels began as a prediction, ascending."""
    return tuple(
        sorted(
            z
            for z, origin in recorded_origins(sample, structure).items()
            if origin == "corrected prediction"
        )
    )


def annotation_names(sample: Sample) -> dict[str, str]:
    """Return for every annotated structure the NAME of its ``annotations/NAME``."""
    return {structure: name for structure, (name, _) in _by_structure(sample).items()}


def annotations_drawn_on(sample: Sample, image: str) -> list[str]:
    """Annotations that were drawn on a derived image of the sample as it is now."""
    fingerprint = sample.volume("images", image).fingerprint
    found = {
        name: read_attributes(sample.path / "annotations" / name)["sparsem"]
        for name in sample.names("annotations")
    }
    return [
        name
        for name, about in found.items()
        if (about["image"], about["image_fingerprint"]) == (image, fingerprint)
    ]


def _by_structure(sample: Sample) -> dict[str, tuple[str, dict[str, Any]]]:
    """Structure -> the annotation that holds it, and what that says of itself."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in sample.names("annotations"):
        about = read_attributes(sample.path / "annotations" / name)["sparsem"]
        found |= dict.fromkeys(about["classes"] or [name], (name, about))
    return found


@dataclass
class _Written:
    """What is noted while slices are written.

    Attributes:
        content: running hash of all labels.
        prints: hash of the labels of each slice.
        empty: structure -> slices on which nothing of it is drawn.
        unknown: slices without a labeled pixel.
    """

    content: "hashlib.blake2b"
    prints: dict[str, str]
    empty: dict[str, list[int]]
    unknown: list[int]


def _write_slices(
    store: Path,
    name: str,
    z: Sequence[int],
    slices: Iterable[Labels],
    shape: tuple[int, int, int],
    meaning: Mapping[str, Any],
) -> _Written:
    """Write slices one at a time; ``meaning`` is that of the stored numbers."""
    structures: Mapping[str, Sequence[int]] = meaning["classes"] or {name: ()}
    ignore, background = meaning["ignore"], meaning["background"]
    written = _Written(hashlib.blake2b(digest_size=16), {}, {name: [] for name in structures}, [])
    array = None
    for index, (number, labels) in enumerate(zip(z, slices, strict=True)):
        if array is None:
            array = zarr.create_array(
                store=store,
                shape=(len(z), *shape[1:]),
                chunks=(1, min(shape[1], 2048), min(shape[2], 2048)),
                dtype=np.uint32,
                dimension_names=("slice", "y", "x"),
                config={"write_empty_chunks": True},  # a chunk that is not there is lost
            )
        array[index] = labels
        stored = np.ascontiguousarray(labels, np.uint32).tobytes()
        written.content.update(stored)
        written.prints[str(number)] = hashlib.blake2b(stored, digest_size=8).hexdigest()
        for name, ids in structures.items():
            inside, known = structure_mask(labels, ids, ignore, background)
            if known.any() and not inside.any():
                written.empty[name].append(number)
        if ignore is not None and (labels == ignore).all():
            written.unknown.append(number)
    return written


def stored_labels(sample: Sample, name: str) -> LazyArray:
    """The labels (n, y, x) of ``annotations/NAME``."""
    return LazyArray(sample.path / "annotations" / name / "labels")


def _aside(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "work" / f"annotation-{name}-replaced"


def remove_replaced_annotation(sample: Sample, name: str) -> None:
    """What a replacement left aside never comes back; for whoever holds the sample's lock."""
    shutil.rmtree(_aside(sample, name), ignore_errors=True)


def restore_annotation(sample: Sample, name: str) -> None:
    """Take back what a killed replacement left aside.

    Raises:
        SampleError: another run writes to the sample.
    """
    with sample.locked():
        _restore(sample, name)


def _restore(sample: Sample, name: str) -> None:
    """Labels that a kill left aside, between the two renames of a replacement, come back."""
    final = sample.path / "annotations" / name
    if _aside(sample, name).exists() and not final.exists():
        os.replace(_aside(sample, name), final)


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
    added: Sequence[int] = (),
    renumbering: Renumbering | None = None,
    origin: Mapping[int, Origin] | None = None,
) -> None:
    """Write labels of the slices ``z`` (each (y, x)) as ``annotations/NAME``, one at a time, renamed into place at the end.

    Classes, ``ignore`` and ``background`` are numbers of the file that the labels came from; ``renumbering`` leads from these to
    the labels. A slice that ``origin`` does not name was drawn by hand.

    Raises:
        InputError: a name that cannot be a folder, or a structure that another annotation holds.
        ResumeError: other labels of that name are there, and ``overwrite`` is not set.
    """
    structures = [checked_name(one) for one in (name, *(classes or {}))]
    for structure, (holder, _) in _by_structure(sample).items():
        if holder != name and structure in (structures[1:] or structures):
            raise InputError(
                f"'{structure}' is annotated already, in annotations/{holder}; a structure has one set of labeled slices."
            )
    numbers = renumbering or identity_renumbering(SpecialNumbers(ignore, background))
    meaning = _stored_meaning({key: list(ids) for key, ids in (classes or {}).items()}, numbers)
    with sample.locked():
        unfinished, final = (
            sample.path / ".sparsem" / "work" / f"annotation-{name}",
            sample.path / "annotations" / name,
        )
        _restore(sample, name)
        shutil.rmtree(unfinished, ignore_errors=True)
        drawn_on = sample.image(image)
        written = _write_slices(unfinished / "labels", name, z, slices, drawn_on.shape, meaning)
        about = _attributes(z, meaning, (image, drawn_on.fingerprint), added, written)
        about["origin"] = {str(one): (origin or {}).get(one, "manual") for one in z}
        _write_file_ids(unfinished / "file_ids", numbers)
        write_group(unfinished, {"sparsem": about})
        before = read_attributes(final)["sparsem"] if final.exists() else about
        if before["fingerprint"] != about["fingerprint"] and not overwrite:
            shutil.rmtree(unfinished)
            raise ResumeError(
                f"{sample.path.name} has other labels of '{name}' already; use --overwrite to replace them, or another "
                f"name{_changes(before, about)}."
            )
        shutil.rmtree(_aside(sample, name), ignore_errors=True)
        put_in_place(unfinished, final, _aside(sample, name))
        shutil.rmtree(_aside(sample, name), ignore_errors=True)
        sample.publish_names()
        record = {
            "stage": f"annotate-{name}",
            "fingerprint": about["fingerprint"],
            "settings": about,
        }
        sample.remember({**record, "outputs": [f"annotations/{name}"], "finished": now()})


def _attributes(
    z: Sequence[int],
    meaning: Mapping[str, Any],
    image: tuple[str, str],
    added: Sequence[int],
    written: _Written,
) -> dict[str, Any]:
    """What an annotation says of itself; ``image`` is name and fingerprint of the one that it was drawn on."""
    about: dict[str, Any] = {
        "z": list(z),
        **{key: meaning[key] for key in ("classes", "ignore", "background")},
        "image": image[0],
        "image_fingerprint": image[1],
        **({"added": list(added)} if added else {}),  # slices that were not there at first
        **{key: meaning[key] for key in meaning if key == "file"},
    }
    written.content.update(repr(about).encode())
    about["fingerprint"] = written.content.hexdigest()
    return {**about, "slices": written.prints, "empty": written.empty, "unknown": written.unknown}


def _stored_meaning(classes: dict[str, list[int]], numbers: Renumbering) -> dict[str, Any]:
    """Classes, ignored and background number as they are stored, and under ``file`` those of the file where they differ."""
    special = numbers.special
    of_file = {"classes": classes, "ignore": special.ignore, "background": special.background}
    stored = {
        "classes": {name: [numbers.number(one) for one in ids] for name, ids in classes.items()},
        "ignore": None if special.ignore is None else numbers.number(special.ignore),
        "background": None if special.background is None else numbers.number(special.background),
    }
    return stored if of_file == stored else {**stored, "file": of_file}


def _write_file_ids(store: Path, numbers: Renumbering) -> None:
    """Numbers of the file and stored ones, (n, 2) uint64; nothing where they are the same."""
    if not numbers.is_identity:
        pairs = np.stack([numbers.file, numbers.stored.astype(np.uint64)], axis=1)
        zarr.create_array(store=store, data=pairs, dimension_names=("id", "file_and_stored"))


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Which slices two annotations label differently, in parentheses; empty where that was not recorded or only the meaning differs."""
    old, new = before.get("slices", {}), after["slices"]
    differ = [z for z in new if z in old and old[z] != new[z]]
    lost, fresh = ([z for z in one if z not in other] for one, other in ((old, new), (new, old)))
    listed = [
        f"{', '.join(z)} {what}"
        for what, z in (("differ", differ), ("now missing", lost), ("new", fresh))
        if z and old
    ]
    return f" (slices: {'; '.join(listed)})" if listed else ""


def read_renumbering(sample: Sample, name: str) -> Renumbering:
    """How the numbers of ``annotations/NAME`` follow from those of the file."""
    about = read_attributes(sample.path / "annotations" / name)["sparsem"]
    of_file = about.get("file", about)
    special = SpecialNumbers(of_file["ignore"], of_file.get("background"))
    stored = sample.path / "annotations" / name / "file_ids"
    if not stored.exists():
        return identity_renumbering(special)
    pairs = np.asarray(zarr.open_array(store=stored, mode="r")[...], np.uint64)
    return Renumbering(pairs[:, 0], pairs[:, 1].astype(np.uint32), special)


def record_origin(sample: Sample, name: str, origin: Mapping[int, Origin]) -> None:
    """Record how the labels of some slices of ``annotations/NAME`` came about."""
    with sample.locked():
        directory = sample.path / "annotations" / name
        attributes = read_attributes(directory)
        about = attributes["sparsem"]
        known = about.get("origin", {})
        about["origin"] = {str(z): origin.get(z, known.get(str(z), "unknown")) for z in about["z"]}
        write_group(directory, attributes)
