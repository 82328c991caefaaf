"""Bringing boxes in: drawn by somebody, from a file; or around the objects of labels, so that what was segmented teaches detectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sparsem.annotation.labeled_slices import annotated_structures, read_annotation
from sparsem.boxes.box_file import NOT_LISTED, BoxFile
from sparsem.boxes.geometry import Boxes, box_sizes, boxes_of_labels, concatenate_boxes
from sparsem.boxes.image_slices import SliceOfImage, match_images_to_slices
from sparsem.boxes.read import read_boxes
from sparsem.boxes.tables import (
    annotated_box_structures,
    check_annotated_boxes,
    detected_box_structures,
    image_names,
    read_annotated_boxes,
    read_detected_boxes,
    write_annotated_boxes,
)
from sparsem.boxes.write import write_boxes
from sparsem.errors import InputError, SampleError
from sparsem.labels.results import result_labels
from sparsem.progress import Meter, tell
from sparsem.settings import Settings, named_values, nearest, resolve_settings
from sparsem.store.names import checked_name
from sparsem.store.sample import Sample
from sparsem.workflow.execution import HERE, Execution

MANY_SMALL = 0.1  # of the boxes: more are no slips of the hand
MOST_TOLD = 200  # faults that are listed one by one


class BoxesSettings(Settings):
    """What boxes mean, and which are taken."""

    source: str | None = Field(
        None, description="boxes that somebody drew: COCO .json, .csv, or a folder of YOLO labels"
    )
    from_labels: tuple[str, ...] = Field(
        (),
        description="or boxes around objects: NAME of an annotation, of labels, or of a truth; repeat it",
    )
    classes: dict[str, str] = Field(
        {},
        description="FOUND=NAME, what a class of the file is called here, as 0=mitochondrion; repeat it",
    )
    min_px: float = Field(
        20,
        ge=0,
        description="boxes less wide or high than this are dropped: slips of the hand, as the thesis has it",
    )
    on_invalid: Literal["refuse", "skip", "clip"] = Field(
        "refuse",
        description="skip: continue without boxes that are wrong, and without their images, which are then not completely annotated; "
        "clip: the same, but cut boxes at the border of their image",
    )
    unlisted_images: Literal["unknown", "empty"] = Field(
        "unknown", description="images that the file does not list: unknown, or annotated and empty"
    )
    image: str | None = Field(
        None, description="the image that boxes were drawn on; the raw one if not given"
    )

    @field_validator("classes", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return named_values(value, "0=mitochondrion")


class ImportSummary(NamedTuple):
    """What was brought in.

    Attributes:
        boxes: number of each structure.
        pictures: number of images that are completely annotated with a structure at least.
        small: number of boxes that were dropped because they are small.
        left_out: faults, a line each.
        incomplete: number of images, by structure, that are not completely annotated because boxes of them were left out.
    """

    boxes: dict[str, int]
    pictures: int
    small: int
    left_out: list[str]
    incomplete: dict[str, int]


def import_boxes(
    samples: Sequence[Sample],
    settings: BoxesSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ImportSummary:
    """Write ``tables/annotated_boxes_NAME`` of every structure into every sample that the boxes speak of.

    A picture of a file is the slice whose name is the same, or goes on after it; where no name is known, of a single sample, the slice of
    its number.

    Args:
        samples: that hold the pictures.
        settings: where boxes come from, and which are taken.
        on: ``overwrite`` replaces other boxes; ``quiet`` shows no progress.

    Raises:
        InputError: the file is none of boxes, or something in it is wrong, which is told all at once.
        ResumeError: other boxes of that name are there.
    """
    settings = resolve_settings(BoxesSettings, settings, changes)
    if bool(settings.source) == bool(settings.from_labels):
        raise InputError(
            "Boxes come from a file, --source, or are put around objects, --from-labels; give one of them."
        )
    left_out: list[str] = []
    incomplete: dict[str, int] = {}
    if settings.from_labels:
        drawn = [one for sample in samples for one in _around_labels(sample, settings, on)]
    else:
        drawn, left_out, incomplete = _from_file(
            samples, read_boxes(str(settings.source)), settings, on
        )
    for one in drawn:  # all of it, before any is written
        check_annotated_boxes(one.sample, one.boxes, one.pictures, one.image, on.overwrite)
    for one in drawn:
        write_annotated_boxes(one.sample, one.boxes, one.pictures, one.image, on.overwrite)
    names = dict.fromkeys(one.boxes.names[0] for one in drawn)
    boxes = {
        name: sum(len(one.boxes) for one in drawn if one.boxes.names == (name,)) for name in names
    }
    pictures = {(one.sample.path, z) for one in drawn for z in one.pictures}
    small = sum(one.small for one in drawn)
    if small > MANY_SMALL * (small + sum(boxes.values())):
        tell(
            f"Note: {small} of {small + sum(boxes.values())} boxes are less than {settings.min_px:g} px wide or high and were dropped; "
            "if these are objects, and no slips of the hand, bring the boxes in again with a smaller --min-px and --overwrite.",
            on.quiet,
        )
    for name in names:
        if name.isdigit():
            tell(
                f"Note: boxes of a structure called '{name}' are there now; --classes {name}=NAME gives it a name.",
                on.quiet,
            )
    return ImportSummary(boxes, len(pictures), small, left_out, incomplete)


class _Drawn(NamedTuple):
    """Boxes of one structure in one sample, and how many were dropped because they are small."""

    sample: Sample
    boxes: Boxes
    pictures: list[int]
    image: str
    small: int


def _from_file(
    samples: Sequence[Sample], found: BoxFile, settings: BoxesSettings, on: Execution
) -> tuple[list[_Drawn], list[str], dict[str, int]]:
    """Boxes by sample and structure, the faults that were left out, and the number of incomplete images by structure."""
    unknown = [name for name in settings.classes if name not in found.names]
    if unknown:
        raise InputError(
            f"{found.called} has no class '{unknown[0]}'{nearest(unknown[0], found.names)}"
        )
    names = _own_names(found, settings)
    slices, ambiguous = match_images_to_slices(samples, found)
    images = [sample.image(settings.image or "raw") for sample in samples]
    shapes = {index: images[own.sample].size_of(own.z) for index, own in slices.items()}
    for index, shape in found.shapes.items():
        if index in shapes and shapes[index] != shape:
            both = " and ".join(f"{x} x {y} px" for y, x in (shape, shapes[index]))
            found.lose(
                "images of another size than the file says",
                f"{found.images[index]}: {both}",
                index,
                None,
            )
            del shapes[index]  # its boxes were drawn on another one
    found.check(shapes, settings.on_invalid == "clip")
    for note in found.notes:
        tell(f"Note: {note}", on.quiet)
    _tell_faults(found, settings.on_invalid == "refuse", on.quiet)
    if not slices:
        raise InputError(
            f"{found.called} lists no image of {', '.join(sample.path.name for sample in samples)}."
        )
    if not names:
        raise InputError(f"{found.called} holds no class of objects; expected one at least.")
    out, incomplete = _complete(samples, found, names, slices, ambiguous, settings)
    for name, count in incomplete.items():
        which = "1 image is" if count == 1 else f"{count} images are"
        tell(
            f"Note: {which} not completely annotated with {name}: boxes were left out. Training and scores leave out such images.",
            on.quiet,
        )
    if not out:
        raise InputError(
            f"{found.called}: no image is completely annotated, because boxes of all of them were left out; correct the file."
        )
    return out, found.listing(), incomplete


def _complete(
    samples: Sequence[Sample],
    found: BoxFile,
    names: dict[str, str],
    slices: dict[int, SliceOfImage],
    ambiguous: set[SliceOfImage],
    settings: BoxesSettings,
) -> tuple[list[_Drawn], dict[str, int]]:
    """Boxes by structure and sample, of the images that are completely annotated with it; and the number of others by structure."""
    out: list[_Drawn] = []
    incomplete: dict[str, int] = {}
    for structure in dict.fromkeys(names.values()):
        classes = {name for name, own in names.items() if own == structure}
        lacking = {
            own
            for index, own in slices.items()
            if any(found.may_lack(index, name) for name in classes)
        }
        if lacking:
            incomplete[structure] = len(lacking)
        are_others_empty = settings.unlisted_images == "empty" and not any(
            found.may_lack(NOT_LISTED, name) for name in classes
        )
        for number, sample in enumerate(samples):
            listed = {own for own in slices.values() if own.sample == number}
            if listed and are_others_empty:
                listed = {SliceOfImage(number, z) for z in range(sample.image("raw").shape[0])}
            pictures = sorted(own.z for own in listed - lacking - ambiguous)
            if pictures:
                boxes = _boxes_of(found, structure, classes, slices, number)
                complete = boxes[np.isin(boxes.z, pictures)]
                out.append(
                    _large(sample, complete, pictures, settings.image or "raw", settings.min_px)
                )
    return out, incomplete


def _boxes_of(
    found: BoxFile, structure: str, classes: set[str], slices: dict[int, SliceOfImage], sample: int
) -> Boxes:
    chosen = [
        box for box in found.boxes if box.name in classes and slices[box.image].sample == sample
    ]
    return Boxes.from_arrays(
        [structure], [slices[box.image].z for box in chosen], 0, [box.corners for box in chosen]
    )


def _own_names(found: BoxFile, settings: BoxesSettings) -> dict[str, str]:
    """Names of structures by the classes of a file; a class that cannot have its name becomes a fault, and is left out as a whole."""
    names = {name: settings.classes.get(name, name) for name in found.names}
    for name, own in list(names.items()):
        try:
            checked_name(own)
        except InputError:
            kind = "classes that cannot be called so (letters, digits, '_', '-' and '.'; not 'raw'); give them names with --classes"
            found.fault(kind, f"'{own}', as --classes '{name}=NAME'")
            found.boxes = [box for box in found.boxes if box.name != name]
            del names[name]
    return names


def _tell_faults(found: BoxFile, refuse: bool, quiet: bool) -> None:
    listing = found.listing()
    for line in listing[:MOST_TOLD]:
        tell(line if refuse else f"Left out: {line}", quiet)
    if len(listing) > MOST_TOLD:
        tell(f"and {len(listing) - MOST_TOLD} more", quiet)
    if listing and refuse:
        raise InputError(
            f"{found.called}: {found.summary()}. Correct them, name the samples that hold such images, or use --on-invalid skip to "
            "continue without them and their images."
        )


def _around_labels(sample: Sample, settings: BoxesSettings, on: Execution) -> list[_Drawn]:
    """Boxes around the connected objects of every slice that is labeled as a whole."""
    out: list[_Drawn] = []
    for name in settings.from_labels:
        source, pictures, image = _labels_of(sample, name)
        z, corners, known = [np.empty(0, int)], [np.empty((0, 4), np.float32)], []
        with Meter(f"boxes around {name}", len(pictures), quiet=on.quiet) as meter:
            for place, picture in enumerate(pictures):
                labels, is_known = source(place)
                meter.step()
                if not is_known:
                    continue
                known.append(picture)
                _, own = boxes_of_labels(_objects(labels))
                z.append(np.full(len(own), picture))
                corners.append(own)
        if lost := len(pictures) - len(known):
            tell(
                f"Note: {lost} slices of {name} are not labeled as a whole (pixels of them are ignored), and are left out.",
                on.quiet,
            )
        if not known:
            raise InputError(
                f"No slice of {name} in {sample.path.name} is labeled as a whole: what is ignored may hold anything."
            )
        boxes = Boxes.from_arrays(
            (name.rpartition("/")[2],), np.concatenate(z), 0, np.concatenate(corners)
        )
        out.append(_large(sample, boxes, known, image, settings.min_px))
    return out


def _labels_of(sample: Sample, name: str) -> tuple[Any, list[int], str]:
    """What reads the n-th labeled slice (y, x) and whether all of it is known, the numbers of these slices, and their image."""
    folder, _, plain = name.rpartition("/")
    places = {
        "annotations": annotated_structures(sample),
        "labels": sample.names("labels"),
        "truth": sample.names("truth"),
    }
    where = next(
        (place for place, there in places.items() if plain in there and folder in ("", place)), None
    )
    if where is None:
        known = [f"{place}/{one}" for place, there in places.items() for one in there]
        raise SampleError(
            f"{sample.path.name} has no annotation, labels or truth '{name}'{nearest(name, known)}"
        )
    if where == "annotations":
        drawn = read_annotation(sample, plain)

        def labeled(place: int) -> tuple[NDArray[Any], bool]:
            labels, known = drawn.objects(place)
            return labels, bool(known.all())

        return labeled, list(drawn.z), drawn.image
    volume = result_labels(sample, plain) if where == "labels" else sample.volume("truth", plain)
    return (
        lambda z: (volume.read(slice(z, z + 1))[0], True),
        list(range(volume.shape[0])),
        sample.name_of_image(volume),
    )


def _objects(labels: NDArray[Any]) -> NDArray[Any]:
    """Connected parts of every label in a slice: what is one object in 3D may be several here, and a mask has no numbers."""
    return np.asarray(
        cc3d.connected_components(np.ascontiguousarray(labels, np.uint32), connectivity=8)
    )


def _large(
    sample: Sample, boxes: Boxes, pictures: Sequence[int], image: str, least_px: float
) -> _Drawn:
    """The boxes of one structure that are large enough."""
    large = (box_sizes(boxes.corners) >= least_px).all(axis=1)
    return _Drawn(sample, boxes[large], sorted(pictures), image, int((~large).sum()))


def export_boxes(
    sample: Sample, out: str | Path, drawn: bool = False, overwrite: bool = False
) -> int:
    """Write the boxes of a sample, found or drawn by somebody, as COCO JSON, CSV or YOLO; returns how many.

    Raises:
        SampleError: there are none, or they lie on images with other pixels.
        InputError: it is a file of another kind, or exists and is not to be replaced.
    """
    names = annotated_box_structures(sample) if drawn else detected_box_structures(sample)
    if not names:
        what = "annotated boxes" if drawn else "boxes that a detector found"
        raise SampleError(
            f"{sample.path.name} has no {what}; bring some in, or find some, with 'sparsem detect'."
        )
    kept = [
        read_annotated_boxes(sample, name) if drawn else read_detected_boxes(sample, name)
        for name in names
    ]
    if len({sample.drawn_on(one.image) for one in kept}) > 1:
        raise SampleError(
            f"Boxes in {sample.path.name} lie on images whose pixels differ; remove those of one, or find them on one --image."
        )
    boxes, pictures = (
        concatenate_boxes([one.counted() for one in kept]),
        sorted({z for one in kept for z in one.pictures}),
    )
    image = sample.image(kept[0].image)
    write_boxes(out, boxes, image_names(sample), {z: image.size_of(z) for z in pictures}, overwrite)
    return len(boxes)
