"""Labels of slices between two labeled ones, and of the next slice, by optical flow.

Labels are carried along the composed flow from both sides. Between them, the outline of every
object changes gradually: its signed distances in the two carried labels are weighted by how near
either side is (shape-based interpolation, Raya and Udupa 1990, after compensation of motion).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from sparsem.cells.flow import (
    ComposedFlow,
    FlowSettings,
    Labels,
    compose_flow,
    flow_between,
    identity_flow,
    reduce_to_grid,
    warp_labels,
)

Images = Sequence[NDArray[np.uint8]]
MARGIN_PX = 2  # around the pixels of an object in which distances are computed


def carry_labels(
    labels: Labels,
    images: Sequence[NDArray[Any]],
    settings: FlowSettings = FlowSettings(),
    window: tuple[float, float] | None = None,
) -> list[Labels]:
    """Carry the labels of a slice to the slices after it.

    Args:
        labels: (y, x) of the first slice; any unsigned integers.
        images: (y, x) gray slices, the first one and those after it.
        settings: how the flow is computed.
        window: gray levels that become 0 and 255; needed for more than 8 bit.

    Returns:
        The labels of all slices but the first, in the order of the images.
    """
    height, width = labels.shape
    grid = settings.grid_shape((height, width))
    small = [reduce_to_grid(np.asarray(image), grid, window) for image in images]
    composed: ComposedFlow = identity_flow(grid)
    carried = []
    for before, after in pairwise(small):
        to_before = flow_between(after, before, settings)
        to_after = flow_between(before, after, settings)
        composed = compose_flow(to_before, to_after, composed)
        carried.append(warp_labels(labels, composed.flow))
    return carried


def fill_between(
    first: Labels,
    last: Labels,
    images: Sequence[NDArray[Any]],
    settings: FlowSettings = FlowSettings(),
    window: tuple[float, float] | None = None,
) -> list[Labels]:
    """Return the labels of the slices between two labeled ones.

    Args:
        first: (y, x) labels of the first slice.
        last: (y, x) labels of the last slice, with the same ids.
        images: (y, x) gray slices from the first to the last one.
        settings: how the flow is computed.
        window: gray levels that become 0 and 255; needed for more than 8 bit.

    Raises:
        ValueError: there are fewer than two images.
    """
    if len(images) < 2:
        raise ValueError(f"two labeled slices have an image each; got {len(images)}")
    from_first = carry_labels(first, images[:-1], settings, window)
    from_last = carry_labels(last, list(images)[:0:-1], settings, window)[::-1]
    steps = len(images) - 1
    return [
        blend_labels(below, above, number / steps)
        for number, (below, above) in enumerate(zip(from_first, from_last, strict=True), 1)
    ]


def blend_labels(below: Labels, above: Labels, position: float) -> Labels:
    """Return labels whose outlines lie between those of two slices.

    Args:
        below: (y, x) labels.
        above: (y, x) labels with the same ids.
        position: 0 at ``below``, 1 at ``above``.
    """
    ids = np.union1d(np.unique(below), np.unique(above))
    best = np.zeros(below.shape, np.float32)
    blended = np.zeros_like(below)
    for object_id in ids[ids > 0]:
        masks = below == object_id, above == object_id
        rows, columns = _pixels_of(masks[0] | masks[1])
        distance = (1 - position) * _signed_distance(masks[0][rows, columns])
        distance += position * _signed_distance(masks[1][rows, columns])
        part = best[rows, columns]
        is_better = distance > part
        part[is_better] = distance[is_better]
        blended[rows, columns][is_better] = object_id
    return blended


def _pixels_of(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return rows and columns of a mask, with a margin."""
    parts = []
    for axis in (1, 0):
        positions = np.flatnonzero(mask.any(axis=axis))
        start, stop = int(positions[0]) - MARGIN_PX, int(positions[-1]) + 1 + MARGIN_PX
        parts.append(slice(max(0, start), stop))
    return parts[0], parts[1]


def _signed_distance(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the distance to the outline of a mask: positive inside, negative outside.

    Without a pixel inside, every pixel lies one pixel outside.
    """
    if not mask.any():
        return np.full(mask.shape, -1.0, np.float32)
    inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    outside = distance_transform_edt(~mask)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)
