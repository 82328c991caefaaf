"""Boxes on the page: drawn over slices, found ones and those that somebody drew, and what tables of their scores show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes
from sparsem.boxes.tables import (
    annotated_box_structures,
    detected_box_structures,
    read_annotated_boxes,
    read_detected_boxes,
    table_metadata,
)
from sparsem.errors import SparsemError
from sparsem.report.plots.figures import COLORS, color_of
from sparsem.report.plots.plots import counted_and_annotated, precision_and_recall
from sparsem.report.view import Plot, View
from sparsem.store.sample import Sample

Color = tuple[int, int, int]


@dataclass(frozen=True)
class BoxLayer:
    """Boxes around a structure.

    Attributes:
        structure: its name.
        found: those that are taken for objects, if a detector looked.
        truth: those that somebody drew, if anybody did.
        color: red, green, blue.
    """

    structure: str
    found: Boxes | None
    truth: Boxes | None
    color: Color

    @property
    def name(self) -> str:
        """On the page."""
        return f"{self.structure}, boxes"


def box_layers_of(
    sample: Sample, image: str, structures: Sequence[str], others: Sequence[str]
) -> tuple[list[BoxLayer], list[str]]:
    """Boxes that lie on the pixels of an image, and a sentence on everything that cannot be shown.

    Args:
        sample: as it is.
        image: name of the image below.
        structures: which; all if none is named.
        others: structures without a color of the papers, in the order of their colors.
    """
    made, problems = [], []
    names = dict.fromkeys([*detected_box_structures(sample), *annotated_box_structures(sample)])
    strangers = list(dict.fromkeys([*others, *(name for name in names if name not in COLORS)]))
    for name in [name for name in names if not structures or name in structures]:
        own: dict[str, Boxes] = {}
        for what, there, read in (
            ("found", detected_box_structures, read_detected_boxes),
            ("truth", annotated_box_structures, read_annotated_boxes),
        ):
            try:
                kept = read(sample, name) if name in there(sample) else None
            except SparsemError as error:
                problems.append(str(error))
                continue
            if not kept:
                continue
            if sample.drawn_on(kept.image) == sample.drawn_on(image):
                own[what] = kept.counted()
            else:
                problems.append(
                    f"Boxes of {name} lie on images/{kept.image}, whose pixels images/{image} has not; they are not shown."
                )
        if own:
            place = strangers.index(name) if name in strangers else 0
            made.append(BoxLayer(name, own.get("found"), own.get("truth"), color_of(name, place)))
    return made, problems


def legend_of_boxes(layers: Sequence[BoxLayer]) -> dict[str, str]:
    """CSS color of every layer of boxes."""
    return {one.name: "#{:02x}{:02x}{:02x}".format(*one.color) for one in layers}


def edges_of(boxes: Boxes, z: int, factor: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The edges of the boxes of a slice, as a mask (y, x) of a picture ``factor`` times smaller."""
    mask = np.zeros(shape, np.uint8)
    thick = max(1, round(max(shape) / 350))  # a page shows it at half its size
    for x0, y0, x1, y1 in (boxes.of_image(z).corners / factor).tolist():
        cv2.rectangle(
            mask,
            (round(x0), round(y0)),
            (max(round(x0), round(x1) - 1), max(round(y0), round(y1) - 1)),
            1,
            thick,
        )
    return mask.astype(bool)


def box_plots(view: View) -> Iterator[Plot]:
    """Precision and recall, and how many objects were counted, from ``tables/box_*``."""
    scores, curves, numbers = (
        view.tables.get(f"box_{name}") for name in ("scores", "curves", "counts")
    )
    if scores is None or curves is None or numbers is None:
        return
    rows = scores.to_pylist()
    lines = [_line(one) for one in rows]
    seen = (
        "of which it learnt from some"
        if table_metadata(scores).get("pictures") == "all"
        else "that the detector did not learn from"
    )
    drawn = {
        (one["structure"], one["boxes"]): _columns(curves, one["structure"], one["boxes"])
        for one in rows
    }
    about = (
        "Of the boxes from each score on: how many are right (precision), and how many of the objects are among them (recall), on pictures "
        f"{seen}. A box is right that overlaps an annotated one by half."
    )
    yield Plot(
        f"Boxes: {view.name}",
        about,
        precision_and_recall(drawn, view.colors),
        f"box_curves_{view.name}.csv",
        curves,
        lines,
    )
    counts_of = dict.fromkeys(one["structure"] for one in rows)
    each = {
        name: [
            (one["annotated"], one["counted"])
            for one in numbers.to_pylist()
            if (one["structure"], one["boxes"]) == (name, "predicted")
        ]
        for name in counts_of
    }
    about = "A mark a picture: how many objects were annotated, and how many were counted. On the line they are as many."
    yield Plot(
        f"Counts: {view.name}",
        about,
        counted_and_annotated(each, view.colors),
        f"box_counts_{view.name}.csv",
        numbers,
    )


def _line(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the thesis' table 5, and how many there are."""
    numbers = {
        told: f"{row[key]:.3f}" for told, key in (("mAP", "map"), ("AR", "ar"), ("AP50", "ap50"))
    }
    return {
        "structure": row["structure"],
        "boxes": row["boxes"],
        **numbers,
        "annotated": str(row["annotated"]),
        "counted": str(row["counted"]),
    }


def _columns(
    curves: pa.Table, structure: str, kind: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    own = [
        one for one in curves.to_pylist() if (one["structure"], one["boxes"]) == (structure, kind)
    ]
    recall, precision = (
        np.array([one[key] for one in own], np.float64) for key in ("recall", "precision")
    )
    return recall, precision
