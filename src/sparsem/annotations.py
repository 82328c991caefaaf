"""Hand-labelled slices: which z they are, what their numbers mean, and what in them is not known.

Labels are (n, y, x) unsigned integers with the slice number of each. A slice that is not in the list is not background: it is
not known. Inside a labelled slice, pixels of the ``ignore`` value are not known either. Masks made from them are uint8 with
0 background, 1 structure, 255 (``UNKNOWN``) not known.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.settings import nearest
from sparsem.store.frame import MovedStack
from sparsem.store.kept import Kept
from sparsem.store.sample import Sample, checked_name, now
from sparsem.store.volume import Volume, put_in_place, read_attributes, write_group

UNKNOWN = 255
MOST_EDGES = 0.5  # of the pixels of labels may differ from the one beside them,
LEAST_PICTURE = 1024  # if there are so many pixels
LEAST_GREYS = 16  # and values: else it is a grey picture
SMEARED = 4  # unlike values between black and white that no mask has by intent
BEYOND = 2**32 - 1  # label of what lies outside of the image that was annotated, as another image sees it

Mask = NDArray[np.uint8]
Labels = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class LabelledSlices:
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
        labels = np.asarray(self.labels[index : index + 1])[0]
        known = np.ones(labels.shape, bool) if self.ignore is None else labels != self.ignore
        inside = known & (np.isin(labels, self.ids) if self.ids else labels > 0)
        if self.background is not None:
            inside &= labels != self.background
        return np.where(inside, labels, 0).astype(labels.dtype), known


def read_annotation(sample: Sample, structure: str, image: str | None = None) -> LabelledSlices:
    """The labelled slices of a structure: an annotation of that name, or a class of that name in one.

    Args:
        sample: with annotations.
        structure: a name.
        image: the image on whose pixels they are wanted; the one they were drawn on if not given. They move along with alignment.

    Raises:
        SampleError: no annotation speaks of the structure, and the nearest name is given; or it was drawn on an image that was replaced.
    """
    found = _by_structure(sample)
    if structure not in found:
        raise SampleError(f"{sample.path.name} has no annotation of '{structure}'{nearest(structure, found)}")
    name, about = found[structure]
    labels = kept_labels(sample, name)
    ids = tuple(about["classes"].get(structure, ()))
    own = f"{about['fingerprint']} {structure}"
    drawn = LabelledSlices(
        tuple(about["z"]), labels, ids, about["ignore"], about["image"], about["image_fingerprint"], own, about.get("background")
    )
    return drawn if image is None else _seen_on(sample, structure, drawn, image)


def _seen_on(sample: Sample, structure: str, drawn: LabelledSlices, name: str) -> LabelledSlices:
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
    ignore = BEYOND if drawn.ignore is None else drawn.ignore
    shape = (len(drawn.z), *image.shape[1:])
    seen = f"{drawn.fingerprint} on {image.fingerprint}"
    return replace(drawn, labels=MovedStack(drawn.labels, motions, shape, ignore), ignore=ignore, image=name, fingerprint=seen)


def annotations_on(sample: Sample, structures: Sequence[str], name: str | None = None) -> tuple[Volume, dict[str, LabelledSlices]]:
    """An image, the newest one if none is named, and the labelled slices of structures as it sees them.

    Raises:
        SampleError: a structure is not annotated, or was annotated on an image that was replaced since.
    """
    name = name or sample.newest_image
    return sample.image(name), {structure: read_annotation(sample, structure, name) for structure in structures}


def outputs_of_cells(name: str) -> tuple[str, str]:
    """What a network learns of an annotation of cells: their interior, and the boundary between them."""
    return f"{name}-interior", f"{name}-boundary"


def annotation_of_output(output: str) -> str:
    """The annotation that an output of a network was learnt from."""
    return output.removesuffix("-interior").removesuffix("-boundary")


def annotated_structures(sample: Sample) -> dict[str, tuple[int, ...]]:
    """Every structure that is annotated, with its slice numbers."""
    return {structure: tuple(about["z"]) for structure, (_, about) in _by_structure(sample).items()}


def drawn_on_image(sample: Sample, image: str) -> list[str]:
    """Annotations that were drawn on a derived image of the sample as it is now."""
    fingerprint = sample.volume("images", image).fingerprint
    found = {name: read_attributes(sample.path / "annotations" / name)["sparsem"] for name in sample.names("annotations")}
    return [name for name, about in found.items() if (about["image"], about["image_fingerprint"]) == (image, fingerprint)]


def _by_structure(sample: Sample) -> dict[str, tuple[str, dict[str, Any]]]:
    """Structure -> the annotation that holds it, and what that says of itself."""
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for name in sample.names("annotations"):
        about = read_attributes(sample.path / "annotations" / name)["sparsem"]
        found |= dict.fromkeys(about["classes"] or [name], (name, about))
    return found


def _written(store: Path, count: int, slices: Iterable[Labels], shape: tuple[int, int, int]) -> "hashlib.blake2b":
    """Write slices one at a time; returns the running hash of what they hold."""
    content = hashlib.blake2b(digest_size=16)
    array = None
    for index, labels in enumerate(slices):
        if array is None:
            array = zarr.create_array(
                store=store,
                shape=(count, *shape[1:]),
                chunks=(1, min(shape[1], 2048), min(shape[2], 2048)),
                dtype=np.uint32,
                dimension_names=("slice", "y", "x"),
                config={"write_empty_chunks": True},  # a chunk that is not there is lost
            )
        array[index] = labels
        content.update(np.ascontiguousarray(labels, np.uint32).tobytes())
    return content


def kept_labels(sample: Sample, name: str) -> Kept:
    """The labels (n, y, x) of ``annotations/NAME``."""
    return Kept(sample.path / "annotations" / name / "labels")


def _aside(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "work" / f"annotation-{name}-replaced"


def forget_aside(sample: Sample, name: str) -> None:
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
        _restore(sample, name)
        shutil.rmtree(unfinished, ignore_errors=True)
        content = _written(unfinished / "labels", len(z), slices, sample.image(image).shape)
        about: dict[str, Any] = {
            "z": list(z),
            "classes": {key: list(ids) for key, ids in (classes or {}).items()},
            "ignore": ignore,
            "background": background,
            "image": image,
            "image_fingerprint": sample.image(image).fingerprint,
            **({"added": list(added)} if added else {}),  # slices that were not there at first
        }
        content.update(repr(about).encode())
        about["fingerprint"] = content.hexdigest()
        write_group(unfinished, {"sparsem": about})
        if final.exists() and read_attributes(final)["sparsem"]["fingerprint"] != about["fingerprint"] and not overwrite:
            shutil.rmtree(unfinished)
            raise ResumeError(f"{sample.path.name} has other labels of '{name}' already; use --overwrite to replace them, or another name.")
        shutil.rmtree(_aside(sample, name), ignore_errors=True)
        put_in_place(unfinished, final, _aside(sample, name))
        shutil.rmtree(_aside(sample, name), ignore_errors=True)
        sample.publish_names()
        record = {"stage": f"annotate-{name}", "fingerprint": about["fingerprint"], "settings": about}
        sample.remember({**record, "outputs": [f"annotations/{name}"], "finished": now()})


def refuse_smeared(labels: Labels, where: str) -> None:
    """A mask of 0 and 255 that was saved as JPEG or resized has pixels in between, which nobody drew.

    Raises:
        InputError: it is such a mask; ``where`` names it.
    """
    between = labels[(labels > 0) & (labels < UNKNOWN)]
    if labels.max(initial=0) == UNKNOWN and 0 < between.size < np.count_nonzero(labels == UNKNOWN) and len(np.unique(between)) >= SMEARED:
        raise InputError(
            f"{where[:1].upper()}{where[1:]} is a mask of 0 and 255 with {between.size} pixels in between, as JPEG and resizing leave "
            "them; make it black and white, or say what its numbers mean with --classes or --ignore."
        )


def as_labels(labels: NDArray[Any], where: str) -> Labels:
    """Labels as uint32.

    Raises:
        InputError: they are not whole numbers, not from 0 to 2^32 - 1, or a grey picture; ``where`` names them.
    """
    if labels.dtype == bool:
        return labels.astype(np.uint8)
    if not np.issubdtype(labels.dtype, np.integer):
        whole = labels.astype(np.int64)
        if not np.array_equal(whole, labels):
            raise InputError(f"Labels are whole numbers, but {where} holds {labels.dtype} such as {labels[whole != labels][0]:.3g}.")
        labels = whole
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < 2**32:
        raise InputError(f"Labels are from 0 to 4294967295, but {where} holds {int(labels.min())} to {int(labels.max())}.")
    rough = labels.size >= LEAST_PICTURE and np.mean(labels[..., 1:] != labels[..., :-1]) > MOST_EDGES
    if rough and len(np.unique(labels)) > LEAST_GREYS:
        raise InputError(f"{where[:1].upper()}{where[1:]} changes from pixel to pixel, as a grey picture does; expected labels of areas.")
    return labels.astype(np.uint32)
