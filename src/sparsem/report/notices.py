"""Sentences that a reader of the measurements should know before trusting them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from sparsem.annotation.labeled_slices import corrected_slices
from sparsem.boxes.tables import DETECTED_PREFIX, are_masks_outdated
from sparsem.labels.results import is_outdated
from sparsem.measure.object_checks import object_warnings
from sparsem.report.dice import pooled_dice, slices_used_as
from sparsem.store.names import CONSTRAINED
from sparsem.store.sample import Sample

LOW_DICE = 0.8  # below it a warning recommends to label more slices
MAX_CUT_FRACTION = 0.5  # of the objects that the border may cut without a warning
MAX_OUTSIDE_FRACTION = 0.1  # of the objects that may lie in no cell without a warning
MAX_REMOVED_FRACTION = 0.02  # of a structure's volume that constraints may remove without a warning
MAX_LISTED = 8  # slices that a sentence lists

# Remark in a table of alignment -> sentence about these slices, and whether it is a warning.
ALIGNMENT_REMARKS = {
    "bad": ("resemble none of their neighbors; results in them are unreliable", True),
    "break": (
        "have no connection to the slices before them; objects that cross there may be cut in two",
        True,
    ),
    "jump": ("were shifted far from the slice before; alignment corrected this", False),
}


class Notice(NamedTuple):
    """A sentence for the reader.

    Attributes:
        text: the sentence.
        warning: whether it is a warning, or only information.
    """

    text: str
    warning: bool


def notices(sample: Sample, structures: list[str], cells: str) -> list[Notice]:
    """Return all notices about a sample, warnings first, from its tables and its history.

    Args:
        sample: the sample to read.
        structures: names of the structures with labels.
        cells: name of the cells.
    """
    all_notices = [
        *_missing_slices(sample),
        *_alignment(sample),
        *_image_quality(sample),
        *_scores(sample, structures, cells),
        *_corrected_annotations(sample, structures),
        *_outdated_masks(sample, structures),
        *_measurements(sample, structures, cells),
        *_unannotated_cells(sample, cells),
        *_constraints(sample),
        *_places_to_review(sample, cells),
    ]
    return sorted(all_notices, key=lambda notice: not notice.warning)


def _listed(slices: Sequence[str]) -> str:
    text = ", ".join(slices[:MAX_LISTED])
    n_more = len(slices) - MAX_LISTED
    return f"{text} and {n_more} more" if n_more > 0 else text


def _missing_slices(sample: Sample) -> Iterator[Notice]:
    copies = list(map(str, sample.image("raw").repeated)) if sample.has_image else []
    if copies:
        text = (
            f"Missing slices were replaced by copies of the slice before them "
            f"(slice numbers from 0): {_listed(copies)}."
        )
        yield Notice(text, True)


def _alignment(sample: Sample) -> Iterator[Notice]:
    for image in sample.names("images"):
        name = f"alignment_{image}"
        if name not in sample.tables:
            continue
        if sample.table_notes(name).get("hardly_drifts"):
            text = (
                f"{image}: consecutive slices are offset by less than a pixel, as in a stack that "
                "is already aligned. If it was aligned before, oblique tissue was mistaken for "
                "drift; work on the raw image then."
            )
            yield Notice(text, True)
        rows = sample.read_table(name).select(["z", "remark"]).to_pylist()
        for remark, (sentence, warning) in ALIGNMENT_REMARKS.items():
            slices = [str(row["z"]) for row in rows if remark in row["remark"].split()]
            if slices:
                yield Notice(f"{image}: slices {_listed(slices)} {sentence}.", warning)


def _image_quality(sample: Sample) -> Iterator[Notice]:
    """Yield the slices of every image that need review, the red ones first."""
    for name in sample.images:
        if f"quality_{name}" not in sample.tables or is_outdated(sample, name, "quality"):
            continue
        rows = sample.read_table(f"quality_{name}").select(["z", "light", "remarks"]).to_pylist()
        yield from _quality_of_image(name, rows)


def _quality_of_image(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Notice]:
    """Yield the red and the amber slices of an image, or that all are green."""
    for light in ("red", "amber"):
        slices = [f"{row['z']} ({row['remarks']})" for row in rows if row["light"] == light]
        if slices:
            text = (
                f"Image quality of {name}: {len(slices)} of {len(rows)} slices are {light}: "
                f"{_listed(slices)}."
            )
            yield Notice(text, light == "red")
    if all(row["light"] == "green" for row in rows):
        yield Notice(f"Image quality of {name}: all {len(rows)} slices are green.", False)


def _scores(sample: Sample, structures: list[str], cells: str) -> Iterator[Notice]:
    """Yield what was not compared with ground truth, and what agrees poorly with it."""
    for name in structures:
        if f"scores_{name}" not in sample.tables:
            yield _not_validated(sample, name)
        elif is_outdated(sample, name, "score"):
            text = (
                f"The scores of {name} belong to other labels than the current ones; "
                "run 'sparsem score' again."
            )
            yield Notice(text, True)
        else:
            yield from _score(sample, name, is_cells=name == cells)


def _not_validated(sample: Sample, name: str) -> Notice:
    has_scored_boxes = f"{DETECTED_PREFIX}{name}" in sample.tables and "box_scores" in sample.tables
    if has_scored_boxes:
        text = (
            f"The masks of {name} have not been validated against ground truth; "
            "its boxes have (tables/box_scores)."
        )
        return Notice(text, False)
    return Notice(f"{name} has not been validated against ground truth.", True)


def _score(sample: Sample, name: str, is_cells: bool) -> Iterator[Notice]:
    scores = sample.read_table(f"scores_{name}")
    is_unseen = slices_used_as(scores, "unseen")
    if slices_used_as(scores, "unknown").any():
        text = (
            f"It is not known which slices were used to train {name}, so its score may be too "
            "high; run 'sparsem score' with --trained-slices."
        )
        yield Notice(text, True)
        return
    if not is_unseen.any():
        text = (
            f"{name} was only scored on slices that training used; "
            "its quality on other slices is not known."
        )
        yield Notice(text, True)
        return
    dice = pooled_dice(scores, is_unseen)
    if not is_cells and dice < LOW_DICE:
        text = (
            f"{name}: Dice is only {dice:.3f} on {is_unseen.sum()} unseen slices; "
            "label more slices before you rely on its measurements."
        )
        yield Notice(text, True)


def _corrected_annotations(sample: Sample, structures: list[str]) -> Iterator[Notice]:
    """Yield annotations that began as predictions: scores against them are too high."""
    for name in structures:
        slices = list(map(str, corrected_slices(sample, name)))
        if slices:
            text = (
                f"{name}: the annotation of slices {_listed(slices)} began as a prediction; "
                "Dice on them is too high, whether they were held out or not."
            )
            yield Notice(text, True)


def _outdated_masks(sample: Sample, structures: list[str]) -> Iterator[Notice]:
    for name in structures:
        if are_masks_outdated(sample, name):
            text = (
                f"The masks of {name} were computed from other boxes than the current ones; "
                "run 'sparsem detect masks' again."
            )
            yield Notice(text, True)


def _measurements(sample: Sample, structures: list[str], cells: str) -> Iterator[Notice]:
    if "measured" not in sample.tables:
        yield Notice("Nothing was measured yet; run 'sparsem measure'.", True)
        return
    rows = sample.read_table("measured").to_pylist()
    for row in rows:
        name = row["structure"]
        yield from _measured_structure(row)
        if name in sample.tables:
            for line in object_warnings(sample, name, cells):
                yield Notice(f"{line.replace(' um3', ' µm³')}.", True)
        if is_outdated(sample, name, "measure"):
            text = f"{name} has changed since it was measured; run 'sparsem measure --overwrite'."
            yield Notice(text, True)
    for name in sorted(set(structures) - {row["structure"] for row in rows}):
        yield Notice(f"{name} was not measured.", True)


def _measured_structure(row: Mapping[str, Any]) -> Iterator[Notice]:
    """Yield notices about one row of ``tables/measured``."""
    name, n_objects = row["structure"], row["objects"]
    if not n_objects:
        yield Notice(f"{name}: no object was found.", True)
        return
    if row["cut_by_edge"] > MAX_CUT_FRACTION * n_objects:
        text = (
            f"{name}: {row['cut_by_edge']} of {n_objects} objects are cut by the border of the "
            "volume; their sizes and shapes describe only the part inside it."
        )
        yield Notice(text, True)
    n_outside = row["in_no_cell"]
    if n_outside is not None and n_outside > MAX_OUTSIDE_FRACTION * n_objects:
        text = (
            f"{name}: {n_outside} of {n_objects} objects lie in no cell; they are in the table "
            f"of {name}, but not in the measurements of cells."
        )
        yield Notice(text, True)
    if row["small_components"]:
        text = (
            f"{name}: {row['small_components']} small components ({_size_of_components(row)} in "
            "total) were below the minimum size and were not measured."
        )
        yield Notice(text, False)
    if row["texture_level"]:
        text = (
            f"{name}: texture was measured at level {row['texture_level']} of the pyramid, at a "
            "lower resolution, because its largest object exceeds the limit at full resolution "
            "(measure --max-mvoxels)."
        )
        yield Notice(text, False)


def _size_of_components(row: Mapping[str, Any]) -> str:
    """Return the total size of small components, a volume or an area in single images."""
    if "small_components_volume_um3" in row:
        return f"{row['small_components_volume_um3']:.2g} µm³"
    return f"{row['small_components_area_um2']:.2g} µm²"


def _unannotated_cells(sample: Sample, cells: str) -> Iterator[Notice]:
    """Yield how many cells, complete ones or fragments, were not annotated."""
    if cells not in sample.tables:
        return
    table = sample.read_table(cells)
    if "annotated" not in table.column_names:
        return
    is_unannotated = ~table["annotated"].to_numpy()
    if is_unannotated.any():
        volumes = table["volume_um3"].to_numpy()[is_unannotated]
        text = (
            f"{cells}: {is_unannotated.sum()} of {table.num_rows} contain no annotated cell "
            f"({volumes.sum():.3g} µm³ in total, the largest {volumes.max():.3g} µm³): they are "
            "fragments, or cells that were not annotated. The table marks them with "
            "annotated = false."
        )
        yield Notice(text, True)
    yield from _cells_left_out(sample, cells)


def _cells_left_out(sample: Sample, cells: str) -> Iterator[Notice]:
    """Yield how many small objects without an annotated cell were left out."""
    if f"tracks_{cells}" not in sample.tables:
        return
    notes = sample.table_notes(f"tracks_{cells}")
    if notes.get("left_out"):
        text = (
            f"{cells}: {notes['left_out']} smaller objects that contain no annotated cell "
            f"({notes['left_out_um3']:.3g} µm³ in total) were left out."
        )
        yield Notice(text, False)


def _constraints(sample: Sample) -> Iterator[Notice]:
    is_constrained = any(name.endswith(CONSTRAINED) for name in sample.names("labels"))
    if not is_constrained or "constrained" not in sample.tables:
        return
    for row in sample.read_table("constrained").to_pylist():
        removed = row["removed_um3"] / row["before_um3"] if row["before_um3"] else 0.0
        if removed > MAX_REMOVED_FRACTION:
            text = (
                f"Biological constraints removed {removed:.1%} of {row['structure']} "
                f"({row['reason']})."
            )
            yield Notice(text, True)


def _places_to_review(sample: Sample, cells: str) -> Iterator[Notice]:
    name = f"review_{cells}"
    if name not in sample.tables:
        return
    table = sample.read_table(name)
    if not table.num_rows:
        return
    largest_um2 = np.asarray(table["area_um2"].to_numpy())[0]
    first = table.slice(0, 1).to_pylist()[0]
    text = (
        f"{cells}: {table.num_rows} places to review (tables/{name}.csv); the largest, "
        f"{largest_um2:.2g} µm², is in slice {first['z']} at y {first['y']}, x {first['x']}."
    )
    yield Notice(text, False)
