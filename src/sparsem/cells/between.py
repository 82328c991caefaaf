"""Labels of slices between two labeled ones, and of the next slice, by optical flow.

Labels are carried along the composed flow from both sides. Between them, the outline of every
object changes gradually: its signed distances in the two carried labels are weighted by how near
either side is (shape-based interpolation, Raya and Udupa 1990, after compensation of motion).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.cells.warp import Labels, warp_labels
from sparsem.image.flow import ComposedFlow, PairFlow, compose_flow, flows_between, identity_flow
from sparsem.image.settings import FlowSettings
from sparsem.labels.overlaps import label_sizes

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
    return list(_carry(labels, flows_between(images, settings, window)))


def _carry(labels: Labels, flows: Sequence[PairFlow]) -> Iterator[Labels]:
    """Yield the labels of a slice in the slices after it, along the composed flow."""
    composed: ComposedFlow | None = None
    for flow in flows:
        if composed is None:
            height, width, _ = flow.to_before.shape
            composed = identity_flow((height, width))
        composed = compose_flow(flow.to_before, flow.to_after, composed)
        yield warp_labels(labels, composed.flow)


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
    flows = flows_between(images, settings, window)
    upward = [PairFlow(flow.to_after, flow.to_before) for flow in flows[::-1]]
    from_first = _carry(first, flows[:-1])
    from_last = list(_carry(last, upward[:-1]))[::-1]
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
    ids = np.union1d(label_sizes(below)[0], label_sizes(above)[0])
    best = np.zeros(below.shape, np.float32)
    blended = np.zeros_like(below)
    for object_id in ids:
        is_below, is_above = below == object_id, above == object_id
        rows, columns = _pixels_of(is_below | is_above)
        distance = (1 - position) * _signed_distance(is_below[rows, columns])
        distance += position * _signed_distance(is_above[rows, columns])
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
    pixels = mask.view(np.uint8)
    inside = cv2.distanceTransform(
        np.pad(pixels, 1), cv2.DIST_L2, cv2.DIST_MASK_PRECISE, dstType=cv2.CV_32F
    )[1:-1, 1:-1]
    outside = cv2.distanceTransform(1 - pixels, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.where(mask, inside - 0.5, 0.5 - outside), np.float32)
