"""What a reader of the numbers should know before trusting them, each in a sentence."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import corrected_slices
from sparsem.boxes.tables import DETECTED_PREFIX, are_masks_outdated
from sparsem.labels.results import CONSTRAINED, is_outdated
from sparsem.measure.object_checks import object_warnings
from sparsem.store.sample import Sample

LOW_DICE = 0.8
MANY_CUT = 0.5
MANY_OUTSIDE = 0.1
MOST_LISTED = 8
MANY_BROKEN = 0.02  # of a structure's voxels


class Notice(NamedTuple):
    """A sentence, and whether it is a warning or only worth knowing."""

    text: str
    warning: bool


def notices(sample: Sample, structures: list[str], cells: str) -> list[Notice]:
    """Everything that can be said of a sample from its tables and its history, warnings first."""
    found = [
        *_lost(sample),
        *_aligned(sample),
        *_quality(sample),
        *_unchecked(sample, structures, cells),
        *_corrected(sample, structures),
        *_of_other_boxes(sample, structures),
        *_measured(sample, structures, cells),
        *_unassigned(sample, cells),
        *_constrained(sample),
        *_to_look_at(sample, cells),
    ]
    return sorted(found, key=lambda one: not one.warning)


def _lost(sample: Sample) -> Iterator[Notice]:
    """Slices that stand in for lost ones."""
    copies = list(map(str, sample.image("raw").repeated)) if sample.has_image else []
    if copies:
        yield Notice(
            f"Lost, and replaced by a copy of the slice before (the first is 0): {_listed(copies)}.",
            True,
        )


def _quality(sample: Sample) -> Iterator[Notice]:
    """The light of every image that was looked at, and the slices to look at, the red ones first."""
    for name in sample.images:
        if f"quality_{name}" not in sample.tables or is_outdated(sample, name, "quality"):
            continue
        rows = sample.read_table(f"quality_{name}").select(["z", "light", "remarks"]).to_pylist()
        for light in ("red", "amber"):
            slices = [f"{row['z']} ({row['remarks']})" for row in rows if row["light"] == light]
            if slices:
                yield Notice(
                    f"Image quality of {name}: {len(slices)} of {len(rows)} slices are {light}: {_listed(slices)}.",
                    light == "red",
                )
        if all(row["light"] == "green" for row in rows):
            yield Notice(f"Image quality of {name}: all {len(rows)} slices are green.", False)


def _aligned(sample: Sample) -> Iterator[Notice]:
    """Slices that alignment could not place, or which lie far from the one before."""
    sentences = {
        "bad": ("look like none of their neighbors; what was found there means little", True),
        "break": (
            "are connected with nothing before: objects that cross there may be cut in two",
            True,
        ),
        "jump": ("lay far from the slice before and were put right", False),
    }
    for image in sample.names("images"):
        if f"alignment_{image}" not in sample.tables:
            continue
        if sample.table_notes(f"alignment_{image}").get("hardly_drifts"):
            yield Notice(
                f"{image}: slices follow each other within a pixel, as those of an aligned stack do. If the stack was aligned before, "
                "oblique tissue passed for drift; work on the raw image then.",
                True,
            )
        table = sample.read_table(f"alignment_{image}").select(["z", "remark"]).to_pylist()
        for remark, (sentence, warning) in sentences.items():
            slices = [str(row["z"]) for row in table if remark in row["remark"].split()]
            if slices:
                yield Notice(f"{image}: slices {_listed(slices)} {sentence}.", warning)


def _listed(slices: Sequence[str]) -> str:
    return ", ".join(slices[:MOST_LISTED]) + (
        f" and {len(slices) - MOST_LISTED} more" if len(slices) > MOST_LISTED else ""
    )


def _unchecked(sample: Sample, structures: list[str], cells: str) -> Iterator[Notice]:
    """What nobody compared with a truth, and what compares badly."""
    for name in structures:
        if f"scores_{name}" not in sample.tables:
            known = f"{DETECTED_PREFIX}{name}" in sample.tables and "box_scores" in sample.tables
            what, but = (
                ("the masks of ", "; of its boxes it is (box_scores)") if known else ("", "")
            )
            yield Notice(
                f"Nobody compared {what}{name} with a truth: how good they are, is not known{but}.",
                not known,
            )
            continue
        if is_outdated(sample, name, "score"):
            yield Notice(
                f"The scores of {name} are of other labels than those that count now; run 'sparsem score' again.",
                True,
            )
            continue
        scores = sample.read_table(f"scores_{name}")
        use = scores["use"].to_numpy(zero_copy_only=False)
        unseen = use == "unseen"
        if (use == "unknown").any():
            yield Notice(
                f"Which slices {name} was trained on is not known, so its score may be too high; "
                "run 'sparsem score' with --trained-slices.",
                True,
            )
        elif not unseen.any():
            yield Notice(
                f"{name} was only compared on slices that training used; how good it is on others is not known.",
                True,
            )
        elif name != cells and (dice := dice_of(scores, unseen)) < LOW_DICE:
            yield Notice(
                f"{name}: Dice {dice:.3f} on {unseen.sum()} unseen slices; label more slices before you count.",
                True,
            )


def dice_of(scores: pa.Table, chosen: NDArray[np.bool_]) -> float:
    """3D Dice of the chosen slices (n,) of a table of scores; NaN with nothing to find and nothing found."""
    both, predicted, true = (
        int(scores[column].to_numpy()[chosen].sum())
        for column in ("both_px", "predicted_px", "true_px")
    )
    return 2 * both / (predicted + true) if predicted + true else float("nan")


def _corrected(sample: Sample, structures: list[str]) -> Iterator[Notice]:
    """Annotations that began as predictions: what is measured against them is too good."""
    for name in structures:
        slices = list(map(str, corrected_slices(sample, name)))
        if slices:
            text = f"{name}: the annotation of slices {_listed(slices)} began as a prediction; Dice on them is too high, held out or not."
            yield Notice(text, True)


def _of_other_boxes(sample: Sample, structures: list[str]) -> Iterator[Notice]:
    for name in structures:
        if are_masks_outdated(sample, name):
            yield Notice(
                f"The masks of {name} were made of other boxes than those that count now; run 'sparsem detect masks' again.",
                True,
            )


def _measured(sample: Sample, structures: list[str], cells: str) -> Iterator[Notice]:
    if "measured" not in sample.tables:
        yield Notice("Nothing was measured yet; run 'sparsem measure'.", True)
        return
    table = sample.read_table("measured").to_pylist()
    for row in table:
        yield from _of_structure(row)
        yield from _of_objects(sample, row["structure"], cells)
        if is_outdated(sample, row["structure"], "measure"):
            yield Notice(
                f"{row['structure']} has changed since it was measured; run 'sparsem measure --overwrite'.",
                True,
            )
    for name in sorted(set(structures) - {row["structure"] for row in table}):
        yield Notice(f"{name} was not measured.", True)


def _unassigned(sample: Sample, cells: str) -> Iterator[Notice]:
    """Cells that were not annotated: whole ones, or fragments."""
    if (
        cells not in sample.tables
        or "annotated" not in (table := sample.read_table(cells)).column_names
    ):
        return
    is_other = ~table["annotated"].to_numpy()
    if is_other.any():
        volumes = table["volume_um3"].to_numpy()[is_other]
        yield Notice(
            f"{cells}: {is_other.sum()} of {table.num_rows} meet no annotated cell ({volumes.sum():.3g} µm³, the largest "
            f"{volumes.max():.3g} µm³): fragments, or cells that were not annotated. They are in the table, as annotated = false.",
            True,
        )
    if f"tracks_{cells}" in sample.tables:
        notes = sample.table_notes(f"tracks_{cells}")
        if notes.get("left_out"):
            count, volume = notes["left_out"], notes["left_out_um3"]
            yield Notice(
                f"{cells}: {count} smaller objects that meet no annotated cell ({volume:.3g} µm³ together) were left out.",
                False,
            )


def _of_objects(sample: Sample, name: str, cells: str) -> Iterator[Notice]:
    """Specks among the objects, and lost slices that they cross."""
    if name in sample.tables:
        for line in object_warnings(sample, name, cells):
            yield Notice(f"{line.replace(' um3', ' µm³')}.", True)


def _of_structure(row: dict[str, object]) -> Iterator[Notice]:
    name, objects, cut, outside = (
        row[key] for key in ("structure", "objects", "cut_by_edge", "in_no_cell")
    )
    count = int(str(objects))
    if not count:
        yield Notice(f"{name}: no object was found.", True)
        return
    if int(str(cut)) > MANY_CUT * count:
        yield Notice(
            f"{name}: {cut} of {count} objects are cut by the border; their sizes and shapes are of the part that is seen.",
            True,
        )
    if outside is not None and int(str(outside)) > MANY_OUTSIDE * count:
        yield Notice(
            f"{name}: {outside} of {count} objects lie in no cell; they are in its table, and in no cell's numbers.",
            True,
        )
    if int(str(row["small_components"])):
        size = (
            f"{row['small_components_volume_um3']:.2g} µm³"
            if "small_components_volume_um3" in row
            else f"{row['small_components_area_um2']:.2g} µm²"
        )
        yield Notice(
            f"{name}: {row['small_components']} specks ({size} together) were too small to be measured.",
            False,
        )
    if row["texture_level"]:
        finer = (
            "its largest object did not fit the budget at full resolution (measure --max-mvoxels)"
        )
        yield Notice(
            f"{name}: texture was measured at level {row['texture_level']} of the pyramid, a coarser picture: {finer}.",
            False,
        )


def _constrained(sample: Sample) -> Iterator[Notice]:
    if (
        not any(name.endswith(CONSTRAINED) for name in sample.names("labels"))
        or "constrained" not in sample.tables
    ):
        return
    for row in sample.read_table("constrained").to_pylist():
        part = row["removed_um3"] / row["before_um3"] if row["before_um3"] else 0.0
        if part > MANY_BROKEN:
            yield Notice(
                f"{part:.1%} of {row['structure']} was taken away by constraints ({row['reason']}).",
                True,
            )


def _to_look_at(sample: Sample, cells: str) -> Iterator[Notice]:
    if f"review_{cells}" in sample.tables:
        look = sample.read_table(f"review_{cells}")
        sizes = np.asarray(look["area_um2"].to_numpy())
        if look.num_rows:
            first = look.slice(0, 1).to_pylist()[0]
            yield Notice(
                f"{cells}: {look.num_rows} places to review (tables/review_{cells}.csv); the largest, {sizes[0]:.2g} µm², is in slice "
                f"{first['z']} at y {first['y']}, x {first['x']}.",
                False,
            )
