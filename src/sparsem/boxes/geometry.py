"""Boxes around objects in images, and the arithmetic of boxes.

An image is a slice of a sample: a slice of a stack, or one of the images of a montage.

Corners are (N, 4) float32 ``x0 y0 x1 y1`` in pixels of the image, in the order that all file
formats and detection libraries use: x to the right, y down, measured from the upper left corner of
the first pixel, so that the box of a single first pixel is 0 0 1 1.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

# Boxes in a strip of the image that are compared at once with all boxes that may touch the strip.
STRIP_BOXES = 64

Ints = NDArray[np.int64]
Corners = NDArray[np.float32]
BoxPairs = tuple[Ints, Ints, NDArray[np.float64]]


@dataclass(frozen=True)
class Boxes:
    """Boxes in the images of one sample, sorted by image.

    Attributes:
        names: structures that the boxes may be around.
        z: (N,) int32, slice index of the image of each box.
        kind: (N,) int16, index of the structure of each box in ``names``.
        corners: (N, 4) float32, see the module.
        score: (N,) float32 in 0..1; 1 for boxes drawn by hand.
    """

    names: tuple[str, ...]
    z: NDArray[np.int32]
    kind: NDArray[np.int16]
    corners: Corners
    score: NDArray[np.float32]

    @classmethod
    def from_arrays(
        cls, names: Sequence[str], z: Any, kind: Any, corners: Any, score: Any = None
    ) -> Self:
        """Return boxes sorted by image; boxes of one image keep their order.

        Args:
            names: structures.
            z: (N,) slice indices.
            kind: (N,) indices of structures, or one index for all boxes.
            corners: (N, 4) px.
            score: (N,) in 0..1, or one score for all boxes; 1 if None.
        """
        z = np.asarray(z, np.int32).reshape(-1)
        corners = np.asarray(corners, np.float32).reshape(-1, 4)
        kind = np.broadcast_to(np.asarray(kind, np.int16), z.shape)
        score = np.broadcast_to(np.asarray(1 if score is None else score, np.float32), z.shape)
        order = np.argsort(z, kind="stable")
        return cls(tuple(names), z[order], kind[order], corners[order], score[order])

    def __len__(self) -> int:
        return len(self.z)

    @property
    def fingerprint(self) -> str:
        """Hash of the structures, positions and scores of the boxes."""
        content = hashlib.blake2b(repr(self.names).encode(), digest_size=16)
        for column in (self.z, self.kind, self.corners, self.score):
            content.update(np.ascontiguousarray(column).tobytes())
        return content.hexdigest()

    def __getitem__(self, which: Any) -> "Boxes":
        """Return the boxes that a mask, an array of indices or a slice selects."""
        return Boxes(
            self.names, self.z[which], self.kind[which], self.corners[which], self.score[which]
        )

    def of_image(self, z: int) -> "Boxes":
        """Return the boxes of the image with slice index ``z``."""
        first, stop = np.searchsorted(self.z, (z, z + 1))
        return self[first:stop]

    def of_structure(self, name: str) -> "Boxes":
        """Return the boxes around one structure, which becomes the only name."""
        boxes = self[self.kind == self.names.index(name)]
        kind = np.zeros(len(boxes), np.int16)
        return Boxes((name,), boxes.z, kind, boxes.corners, boxes.score)


def concatenate_boxes(parts: Sequence[Boxes]) -> Boxes:
    """Return the boxes of several structures as one; names keep their order of appearance."""
    if not parts:
        return Boxes.from_arrays((), [], [], [], [])
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    kinds = []
    for part in parts:
        index_of_kind = np.array([names.index(name) for name in part.names], np.int16)
        kinds.append(index_of_kind[part.kind])
    return Boxes.from_arrays(
        names,
        np.concatenate([part.z for part in parts]),
        np.concatenate(kinds),
        np.concatenate([part.corners for part in parts]),
        np.concatenate([part.score for part in parts]),
    )


def box_sizes(corners: Corners) -> NDArray[np.float32]:
    """Return width and height of boxes, (N, 2) px; 0 for empty boxes."""
    return np.asarray(np.maximum(corners[..., 2:] - corners[..., :2], 0))


def box_areas(corners: Corners) -> NDArray[np.float64]:
    """Return the areas of boxes, (N,) px²."""
    return np.asarray(box_sizes(corners).astype(np.float64).prod(axis=-1))


def clip_boxes(corners: Corners, window: Sequence[float]) -> Corners:
    """Return the parts of boxes within a window ``x0 y0 x1 y1``; a box outside gets area 0."""
    x0, y0, x1, y1 = window
    low = np.array([x0, y0, x0, y0], np.float32)
    high = np.array([x1, y1, x1, y1], np.float32)
    return np.clip(corners, low, high)


def intersection_areas(first: Corners, second: Corners) -> NDArray[np.float64]:
    """Return the area that each box of one set shares with each box of another, (N, M) px²."""
    extents = []
    for axis in (0, 1):
        low = np.maximum(first[:, None, axis], second[None, :, axis])
        high = np.minimum(first[:, None, axis + 2], second[None, :, axis + 2])
        extents.append(np.maximum(high - low, 0))
    return np.asarray(np.multiply(*extents, dtype=np.float64))


def intersection_over_union(first: Corners, second: Corners) -> NDArray[np.float64]:
    """Return the intersection over union of each box of one set with each of another, (N, M)."""
    intersection = intersection_areas(first, second)
    union = box_areas(first)[:, None] + box_areas(second)[None] - intersection
    iou = np.zeros_like(intersection)
    return np.asarray(np.divide(intersection, union, out=iou, where=union > 0))


def overlapping_pairs(first: Corners, second: Corners, min_iou: float) -> BoxPairs:
    """Return the pairs of boxes, one of each set, with an intersection over union of ``min_iou``.

    Each box is compared only with the boxes near it. Five thousand boxes against as many take
    neither the time nor the memory of all pairs.

    Args:
        first: (N, 4) px.
        second: (M, 4) px.
        min_iou: minimum intersection over union, more than 0.

    Returns:
        Indices into either set and the intersection over union, (n,) each, sorted by the first
        index and then by the second.
    """
    axis = _strip_axis(first)
    order = np.argsort(first[:, axis], kind="stable")
    rows = [np.empty(0, np.int64)]
    columns = [np.empty(0, np.int64)]
    values = [np.empty(0)]
    for start in range(0, len(order), STRIP_BOXES):
        strip = order[start : start + STRIP_BOXES]
        near = _boxes_near(first[strip], second, axis)
        iou = intersection_over_union(first[strip], second[near])
        row, column = np.nonzero(iou >= min_iou)
        rows.append(strip[row])
        columns.append(near[column])
        values.append(iou[row, column])
    return _sorted_pairs(rows, columns, values)


def _strip_axis(corners: Corners) -> int:
    """Return the axis that strips run across: the one along which the boxes are spread further."""
    return int(len(corners) > 0 and np.ptp(corners[:, 1]) > np.ptp(corners[:, 0]))


def _sorted_pairs(
    rows: Sequence[Ints], columns: Sequence[Ints], values: Sequence[NDArray[np.float64]]
) -> BoxPairs:
    """Return the pairs of all strips, sorted by the first index and then by the second."""
    first_index = np.concatenate(rows)
    second_index = np.concatenate(columns)
    order = np.lexsort((second_index, first_index))
    return first_index[order], second_index[order], np.concatenate(values)[order]


def _boxes_near(strip: Corners, boxes: Corners, axis: int) -> NDArray[np.int64]:
    """Return the indices of the boxes that overlap a strip of boxes along an axis."""
    ends_behind_start = boxes[:, axis + 2] > strip[:, axis].min()
    starts_before_end = boxes[:, axis] < strip[:, axis + 2].max()
    return np.flatnonzero(ends_behind_start & starts_before_end)


def boxes_of_labels(labels: NDArray[Any]) -> tuple[NDArray[np.int64], Corners]:
    """Return the box of every object in an image of labels (y, x).

    The work is done on runs of equal pixels along rows instead of pixels: a hundred times fewer.

    Returns:
        Labels (N,), ascending, without 0, and corners (N, 4).
    """
    is_start = np.ones(labels.shape, bool)
    is_start[:, 1:] = labels[:, 1:] != labels[:, :-1]
    starts = np.flatnonzero(is_start)
    lengths = np.diff(starts, append=labels.size)
    values = labels.reshape(-1)[starts]
    is_object = values != 0
    y, x = np.divmod(starts[is_object], labels.shape[1])
    numbers, index = np.unique(values[is_object], return_inverse=True)
    corners = _boxes_around_runs(len(numbers), index, y, x, lengths[is_object])
    return numbers.astype(np.int64), corners


def _boxes_around_runs(n_boxes: int, index: Ints, y: Ints, x: Ints, lengths: Ints) -> Corners:
    """Return the boxes around runs of pixels that begin at (y, x); ``index`` is that of the box."""
    corners = np.empty((n_boxes, 4), np.float32)
    corners[:, :2] = np.inf
    corners[:, 2:] = -np.inf
    x1 = x + lengths
    y1 = y + 1
    np.minimum.at(corners[:, 0], index, x.astype(np.float32))
    np.minimum.at(corners[:, 1], index, y.astype(np.float32))
    np.maximum.at(corners[:, 2], index, x1.astype(np.float32))
    np.maximum.at(corners[:, 3], index, y1.astype(np.float32))
    return corners
