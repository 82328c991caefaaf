"""Boxes around objects, drawn over the slices of the page: detected boxes and annotated ones."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes
from sparsem.boxes.tables import (
    StoredBoxes,
    annotated_box_structures,
    detected_box_structures,
    read_annotated_boxes,
    read_detected_boxes,
)
from sparsem.errors import SparsemError
from sparsem.report.plots.colors import RGB, STRUCTURE_COLORS, css_color, structure_color
from sparsem.store.sample import Sample

# Edges of boxes are as wide as the image divided by this: a page shows slices at half their size.
IMAGE_TO_EDGE_WIDTH = 350


@dataclass(frozen=True)
class BoxLayer:
    """Boxes around a structure.

    Attributes:
        structure: name of the structure.
        predicted: detected boxes that count as objects; None without detection.
        truth: annotated boxes; None without annotation.
        color: of their edges.
    """

    structure: str
    predicted: Boxes | None
    truth: Boxes | None
    color: RGB

    @property
    def name(self) -> str:
        """Name of the layer on the page."""
        return f"{self.structure}, boxes"


def read_box_layers(
    sample: Sample, image: str, structures: Sequence[str], fallback_names: Sequence[str]
) -> tuple[list[BoxLayer], list[str]]:
    """Return the boxes that lie on the pixels of an image.

    Args:
        sample: the sample to read.
        image: name of the image that is shown.
        structures: names of the structures; all if empty.
        fallback_names: structures without a color of the papers, in the order of their colors.

    Returns:
        The layers, and a sentence about everything that cannot be shown.
    """
    layers: list[BoxLayer] = []
    problems: list[str] = []
    with_boxes = [*detected_box_structures(sample), *annotated_box_structures(sample)]
    names = list(dict.fromkeys(with_boxes))
    without_color = [name for name in names if name not in STRUCTURE_COLORS]
    fallback_names = list(dict.fromkeys([*fallback_names, *without_color]))
    for name in names:
        if structures and name not in structures:
            continue
        predicted = _read_boxes(
            sample, image, name, detected_box_structures, read_detected_boxes, problems
        )
        truth = _read_boxes(
            sample, image, name, annotated_box_structures, read_annotated_boxes, problems
        )
        if predicted is None and truth is None:
            continue
        index = fallback_names.index(name) if name in fallback_names else 0
        layers.append(BoxLayer(name, predicted, truth, structure_color(name, index)))
    return layers, problems


def _read_boxes(
    sample: Sample,
    image: str,
    name: str,
    names_in: Callable[[Sample], list[str]],
    read: Callable[[Sample, str], StoredBoxes],
    problems: list[str],
) -> Boxes | None:
    """Return the boxes of a structure; None if there are none, or none that can be shown."""
    try:
        boxes = read(sample, name) if name in names_in(sample) else None
    except SparsemError as error:
        problems.append(str(error))
        return None
    if boxes is None:
        return None
    if sample.grid_image(boxes.image) != sample.grid_image(image):
        problems.append(
            f"The boxes of {name} are not shown: they were drawn on images/{boxes.image}, whose "
            f"pixels differ from those of images/{image}."
        )
        return None
    return boxes.counted()


def box_layer_colors(layers: Sequence[BoxLayer]) -> dict[str, str]:
    """Return the CSS color of every layer of boxes."""
    return {layer.name: css_color(layer.color) for layer in layers}


def box_edges(boxes: Boxes, z: int, factor: float, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the edges of the boxes of a slice as a mask.

    Args:
        boxes: in pixels of full resolution.
        z: number of the slice.
        factor: how many times the mask is smaller than the slice.
        shape: (y, x) of the mask.
    """
    mask = np.zeros(shape, np.uint8)
    thickness = max(1, round(max(shape) / IMAGE_TO_EDGE_WIDTH))
    for x0, y0, x1, y1 in (boxes.of_image(z).corners / factor).tolist():
        left, top = round(x0), round(y0)
        right = max(left, round(x1) - 1)
        bottom = max(top, round(y1) - 1)
        cv2.rectangle(mask, (left, top), (right, bottom), 1, thickness)
    return mask.astype(bool)
