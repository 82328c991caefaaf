"""Importing annotated boxes: from a file, or around the objects of labels."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sparsem.boxes.box_file import NOT_LISTED, BoxFile
from sparsem.boxes.from_labels import ImportedBoxes, boxes_around_labels, drop_small_boxes
from sparsem.boxes.geometry import Boxes
from sparsem.boxes.image_slices import SliceOfImage, match_images_to_slices
from sparsem.boxes.read import read_boxes
from sparsem.boxes.settings import BoxesSettings
from sparsem.boxes.tables import check_annotated_boxes, write_annotated_boxes
from sparsem.errors import InputError
from sparsem.progress import print_note
from sparsem.settings import nearest, resolve_settings
from sparsem.store.names import checked_structure
from sparsem.store.sample import Sample, as_samples
from sparsem.workflow.execution import HERE, Execution
from sparsem.workflow.result import StageResult

# Fraction of small boxes above which they are reported: accidental clicks are fewer.
MANY_SMALL = 0.1
MAX_LISTED_FAULTS = 200  # faults that are printed one by one


@dataclass(frozen=True)
class ImportSummary(StageResult):
    """Counts of an import of boxes.

    Attributes:
        boxes: number of boxes of each structure.
        images: number of images that are completely annotated with at least one structure.
        small: number of boxes that were dropped because they are small.
        left_out: faults of the file, a line each.
        incomplete: number of images, by structure, that are not completely annotated because some
            of their boxes were left out.
    """

    boxes: dict[str, int]
    images: int
    small: int
    left_out: list[str]
    incomplete: dict[str, int]


def import_boxes(
    sample: Sample | Sequence[Sample],
    settings: BoxesSettings | None = None,
    *,
    on: Execution = HERE,
    **changes: Any,
) -> ImportSummary:
    """Write ``tables/annotated_boxes_NAME`` of every structure into the samples of its images.

    An image of a file is the slice whose name is the same or continues it. Where no name is known,
    in a single sample, it is the slice of its number.

    Args:
        sample: the sample that holds the images, or several.
        settings: source of the boxes, and which of them are imported.
        on: ``overwrite`` replaces other boxes; ``quiet`` shows no progress.

    Raises:
        InputError: the file is no file of boxes, or has faults; all faults are reported at once.
        ResumeError: a sample has other boxes of that structure, and ``on.overwrite`` is not set.
    """
    settings = resolve_settings(BoxesSettings, settings, changes)
    _check_source(settings)
    samples = as_samples(sample)
    left_out: list[str] = []
    incomplete: dict[str, int] = {}
    if settings.from_labels:
        imported = _boxes_around_all_labels(samples, settings, on.quiet)
    else:
        file = read_boxes(str(settings.source))
        imported, incomplete = _import_file(samples, file, settings, on.quiet)
        left_out = file.fault_lines()
    _write_imported(imported, on.overwrite)
    summary = _summary(imported, left_out, incomplete)
    _report_unusual(summary, settings.min_px, on.quiet)
    return summary


def _check_source(settings: BoxesSettings) -> None:
    """Raise an InputError unless exactly one source of boxes is given."""
    if bool(settings.source) == bool(settings.from_labels):
        raise InputError(
            "Expected either a file of boxes, --source, or labels to draw boxes around, "
            "--from-labels; give one of them."
        )


def _boxes_around_all_labels(
    samples: Sequence[Sample], settings: BoxesSettings, quiet: bool
) -> list[ImportedBoxes]:
    """Return boxes around the objects of all labels that the settings name, sample by sample."""
    imported = []
    for sample in samples:
        for name in settings.from_labels:
            imported.append(boxes_around_labels(sample, name, settings.min_px, quiet))
    return imported


def _write_imported(imported: Sequence[ImportedBoxes], overwrite: bool) -> None:
    """Write the boxes of all samples and structures, after all of them were checked."""
    for part in imported:
        check_annotated_boxes(part.sample, part.boxes, part.slices, part.image, overwrite)
    for part in imported:
        write_annotated_boxes(part.sample, part.boxes, part.slices, part.image, overwrite)


def _summary(
    imported: Sequence[ImportedBoxes], left_out: list[str], incomplete: dict[str, int]
) -> ImportSummary:
    """Return the counts of an import."""
    counts: Counter[str] = Counter()
    images = set()
    for part in imported:
        counts[part.boxes.names[0]] += len(part.boxes)
        images |= {(part.sample.path, z) for z in part.slices}
    small = sum(part.n_small for part in imported)
    return ImportSummary(dict(counts), len(images), small, left_out, incomplete)


def _report_unusual(summary: ImportSummary, min_px: float, quiet: bool) -> None:
    """Print notes on many small boxes and on structures whose names are numbers."""
    n_boxes = summary.small + sum(summary.boxes.values())
    if summary.small > MANY_SMALL * n_boxes:
        print_note(
            f"Note: {summary.small} of {n_boxes} boxes are less than {min_px:g} px wide or high "
            "and were dropped. If they are objects and not accidental clicks, import the boxes "
            "again with a smaller --min-px and --overwrite.",
            quiet,
        )
    for name in summary.boxes:
        if name.isdigit():
            print_note(
                f"Note: boxes of a structure called '{name}' were imported; "
                f"--classes {name}=NAME gives it a name.",
                quiet,
            )


def _import_file(
    samples: Sequence[Sample], file: BoxFile, settings: BoxesSettings, quiet: bool
) -> tuple[list[ImportedBoxes], dict[str, int]]:
    """Return boxes by structure and sample, and the number of incomplete images by structure.

    The faults of the file are recorded in ``file``.
    """
    structures = _structures_of_classes(file, settings)
    slices, ambiguous = match_images_to_slices(samples, file)
    shapes = _matching_shapes(samples, file, slices, settings.image or "raw")
    file.check(shapes, settings.on_invalid == "clip")
    for note in file.notes:
        print_note(f"Note: {note}", quiet)
    _report_faults(file, settings.on_invalid == "refuse", quiet)
    _refuse_without_content(file, samples, slices, structures)
    matched = _MatchedFile(file, structures, slices, ambiguous)
    imported, incomplete = _complete_images(samples, matched, settings)
    _report_incomplete(incomplete, quiet)
    if not imported:
        raise InputError(
            f"{file.name}: no image is completely annotated, because boxes of all of them were "
            "left out; correct the file."
        )
    return imported, incomplete


def _refuse_without_content(
    file: BoxFile,
    samples: Sequence[Sample],
    slices: Mapping[int, SliceOfImage],
    structures: Mapping[str, str],
) -> None:
    """Raise an InputError if a file lists no image of the samples, or no class."""
    if not slices:
        sample_names = ", ".join(sample.path.name for sample in samples)
        raise InputError(f"{file.name} lists no image of {sample_names}.")
    if not structures:
        raise InputError(f"Expected at least one class of objects in {file.name}; found none.")


def _report_incomplete(incomplete: Mapping[str, int], quiet: bool) -> None:
    """Print the number of images that are not completely annotated, structure by structure."""
    for structure, count in incomplete.items():
        images_are = "1 image is" if count == 1 else f"{count} images are"
        print_note(
            f"Note: {images_are} not completely annotated with {structure}: boxes were left out. "
            "Training and scores leave out such images.",
            quiet,
        )


def _structures_of_classes(file: BoxFile, settings: BoxesSettings) -> dict[str, str]:
    """Return the structure of each class of a file.

    A class whose structure cannot be a name becomes a fault, and its boxes are removed.

    Raises:
        InputError: the settings name a class that the file does not have.
    """
    for name in settings.classes:
        if name not in file.class_names:
            raise InputError(f"{file.name} has no class '{name}'{nearest(name, file.class_names)}")
    structures: dict[str, str] = {}
    for name in file.class_names:
        structure = settings.classes.get(name, name)
        try:
            checked_structure(structure)
        except InputError:
            file.add_fault(
                "classes that cannot be names of structures (letters, digits, '_', '-' and '.', "
                "and none that sparsem uses itself); give them names with --classes",
                f"'{structure}', as --classes '{name}=NAME'",
            )
            file.boxes = [box for box in file.boxes if box.class_name != name]
        else:
            structures[name] = structure
    return structures


def _matching_shapes(
    samples: Sequence[Sample], file: BoxFile, slices: dict[int, SliceOfImage], image_name: str
) -> dict[int, tuple[int, int]]:
    """Return the (y, x) of every image whose size is the one that the file states.

    An image of another size becomes a fault: its boxes were drawn on another image.
    """
    images = [sample.image(image_name) for sample in samples]
    shapes = {index: images[match.sample].size_of(match.z) for index, match in slices.items()}
    for index, stated in file.shapes.items():
        if index in shapes and shapes[index] != stated:
            both = f"{_size_text(stated)} and {_size_text(shapes[index])}"
            kind = "images of another size than the file says"
            file.add_lost_box(kind, f"{file.images[index]}: {both}", index, None)
            del shapes[index]
    return shapes


def _size_text(shape: tuple[int, int]) -> str:
    """Return width and height of an image for messages."""
    height, width = shape
    return f"{width} x {height} px"


def _report_faults(file: BoxFile, refuse: bool, quiet: bool) -> None:
    """Print the faults of a file.

    Raises:
        InputError: there are faults, and ``refuse`` is set.
    """
    lines = file.fault_lines()
    for line in lines[:MAX_LISTED_FAULTS]:
        print_note(line if refuse else f"Left out: {line}", quiet)
    if len(lines) > MAX_LISTED_FAULTS:
        print_note(f"and {len(lines) - MAX_LISTED_FAULTS} more", quiet)
    if lines and refuse:
        raise InputError(
            f"{file.name}: {file.fault_summary()}. Correct them, name the samples that hold such "
            "images, or use --on-invalid skip to continue without them and their images."
        )


@dataclass(frozen=True)
class _MatchedFile:
    """A checked file of boxes whose images are known slices.

    Attributes:
        file: the checked file.
        structures: structure of each class.
        slices: slice of each image of the file.
        ambiguous: slices that an image may be which matches several.
    """

    file: BoxFile
    structures: dict[str, str]
    slices: dict[int, SliceOfImage]
    ambiguous: set[SliceOfImage]

    def classes_of(self, structure: str) -> set[str]:
        """Return the classes that stand for a structure."""
        return {name for name in self.structures if self.structures[name] == structure}

    def incomplete_slices(self, classes: set[str]) -> set[SliceOfImage]:
        """Return the slices that may hold an object of some classes whose box was lost."""
        incomplete = set()
        for index, match in self.slices.items():
            if any(self.file.may_miss_box(index, name) for name in classes):
                incomplete.add(match)
        return incomplete

    def boxes_in_sample(self, structure: str, classes: set[str], sample_index: int) -> Boxes:
        """Return the boxes of some classes in one sample as boxes of a structure."""
        z = []
        corners = []
        for box in self.file.boxes:
            if box.class_name not in classes:
                continue
            match = self.slices[box.image]
            if match.sample == sample_index:
                z.append(match.z)
                corners.append(box.corners)
        return Boxes.from_arrays([structure], z, 0, corners)


def _complete_images(
    samples: Sequence[Sample], matched: _MatchedFile, settings: BoxesSettings
) -> tuple[list[ImportedBoxes], dict[str, int]]:
    """Return the boxes of all images that are completely annotated with a structure.

    Returns:
        Boxes by structure and sample, and the number of incomplete images by structure.
    """
    imported: list[ImportedBoxes] = []
    n_incomplete: dict[str, int] = {}
    for structure in dict.fromkeys(matched.structures.values()):
        classes = matched.classes_of(structure)
        incomplete = matched.incomplete_slices(classes)
        if incomplete:
            n_incomplete[structure] = len(incomplete)
        known = _slices_with_knowledge(samples, matched, classes, settings)
        complete = sorted(known - incomplete - matched.ambiguous)
        imported += _boxes_by_sample(samples, matched, structure, complete, settings)
    return imported, n_incomplete


def _boxes_by_sample(
    samples: Sequence[Sample],
    matched: _MatchedFile,
    structure: str,
    complete: Sequence[SliceOfImage],
    settings: BoxesSettings,
) -> Iterator[ImportedBoxes]:
    """Yield the boxes of a structure in each sample with completely annotated slices."""
    image_name = settings.image or "raw"
    classes = matched.classes_of(structure)
    for sample_index, sample in enumerate(samples):
        in_sample = [match.z for match in complete if match.sample == sample_index]
        if in_sample:
            boxes = matched.boxes_in_sample(structure, classes, sample_index)
            boxes = boxes[np.isin(boxes.z, in_sample)]
            yield drop_small_boxes(sample, boxes, in_sample, image_name, settings.min_px)


def _slices_with_knowledge(
    samples: Sequence[Sample], matched: _MatchedFile, classes: set[str], settings: BoxesSettings
) -> set[SliceOfImage]:
    """Return the slices that the file lists, or all of them if unlisted ones count as empty."""
    listed = set(matched.slices.values())
    may_be_unlisted = any(matched.file.may_miss_box(NOT_LISTED, name) for name in classes)
    if settings.unlisted_images == "empty" and not may_be_unlisted:
        return _all_slices(samples, listed)
    return listed


def _all_slices(samples: Sequence[Sample], known: set[SliceOfImage]) -> set[SliceOfImage]:
    """Return all slices of the samples that a file lists an image of."""
    slices = set()
    for sample_index in {match.sample for match in known}:
        n_slices = samples[sample_index].image("raw").shape[0]
        slices |= {SliceOfImage(sample_index, z) for z in range(n_slices)}
    return slices
