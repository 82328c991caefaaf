"""Boxes around objects in pictures. A picture is a slice of a sample: of a stack, or one of the pictures that a montage is made of.

Corners are (N, 4) float32 ``x0 y0 x1 y1`` in pixels of the picture, in the order of all file formats and libraries of detection: x to the
right, y down, from the upper left corner of the first pixel, so that the box of a single first pixel is 0 0 1 1.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

STRIP_BOXES = 64  # boxes in a row that are compared at once with those that may touch any of them

Corners = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Boxes:
    """Boxes in the pictures of one sample.

    Attributes:
        names: what may be in a box.
        z: (N,) int32, the picture of each box.
        kind: (N,) int16, its place in ``names``.
        corners: (N, 4) float32, see above.
        score: (N,) float32 in 0..1; 1 where somebody drew it.
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
        """Boxes of columns of any numbers, sorted by picture; the order within a picture stays."""
        z = np.asarray(z, np.int32).reshape(-1)
        order = np.argsort(z, kind="stable")
        kind = np.broadcast_to(np.asarray(kind, np.int16), z.shape)[order]
        score = np.broadcast_to(np.asarray(1 if score is None else score, np.float32), z.shape)[
            order
        ]
        return cls(
            tuple(names),
            z[order],
            kind,
            np.asarray(corners, np.float32).reshape(-1, 4)[order],
            score,
        )

    def __len__(self) -> int:
        return len(self.z)

    @property
    def fingerprint(self) -> str:
        """Of what they are and where."""
        content = hashlib.blake2b(repr(self.names).encode(), digest_size=16)
        for column in (self.z, self.kind, self.corners, self.score):
            content.update(np.ascontiguousarray(column).tobytes())
        return content.hexdigest()

    def __getitem__(self, which: Any) -> "Boxes":
        """Those of a mask, of places, or of a slice."""
        return Boxes(
            self.names, self.z[which], self.kind[which], self.corners[which], self.score[which]
        )

    def of_image(self, z: int) -> "Boxes":
        """Those of one picture."""
        first, stop = np.searchsorted(self.z, (z, z + 1))
        return self[first:stop]

    def of_structure(self, name: str) -> "Boxes":
        """Those around one structure, which is then the only name."""
        own = self[self.kind == self.names.index(name)]
        return Boxes((name,), own.z, np.zeros(len(own), np.int16), own.corners, own.score)


def concatenate_boxes(parts: Sequence[Boxes]) -> Boxes:
    """Boxes of several structures as one; the names in the order in which they come."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    kinds = [
        np.array([names.index(name) for name in part.names], np.int16)[part.kind] for part in parts
    ]
    columns = (
        [part.z for part in parts],
        kinds,
        [part.corners for part in parts],
        [part.score for part in parts],
    )
    return Boxes.from_arrays(
        names, *(np.concatenate(column) if column else [] for column in columns)
    )


def box_sizes(corners: Corners) -> NDArray[np.float32]:
    """Width and height of boxes, (N, 2); 0 where there is nothing."""
    return np.asarray(np.maximum(corners[..., 2:] - corners[..., :2], 0))


def box_areas(corners: Corners) -> NDArray[np.float64]:
    """(N,) of boxes."""
    return np.asarray(box_sizes(corners).astype(np.float64).prod(axis=-1))


def clip_boxes(corners: Corners, window: Sequence[float]) -> Corners:
    """What of boxes lies in a window ``x0 y0 x1 y1``; nothing has an area of 0."""
    x0, y0, x1, y1 = window
    return np.clip(
        corners, np.array([x0, y0, x0, y0], np.float32), np.array([x1, y1, x1, y1], np.float32)
    )


def intersection_areas(one: Corners, other: Corners) -> NDArray[np.float64]:
    """Area that every box of one set shares with every box of another, (N, M)."""
    extents = [
        np.maximum(
            np.minimum(one[:, None, axis + 2], other[None, :, axis + 2])
            - np.maximum(one[:, None, axis], other[None, :, axis]),
            0,
        )
        for axis in (0, 1)
    ]
    return np.asarray(np.multiply(*extents, dtype=np.float64))


def intersection_over_union(one: Corners, other: Corners) -> NDArray[np.float64]:
    """Intersection over union of every box of one set with every box of another, (N, M)."""
    both = intersection_areas(one, other)
    union = box_areas(one)[:, None] + box_areas(other)[None] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


def overlapping_pairs(
    one: Corners, other: Corners, least: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of boxes, one of each set, whose intersection over union is ``least`` (more than 0) or more.

    Boxes are compared with those beside them: five thousand with as many take neither the time nor the memory of all pairs.

    Returns:
        Places in either set and their overlap, (n,) each, ascending by the first and then by the second.
    """
    axis = int(
        len(one) > 0 and np.ptp(one[:, 1]) > np.ptp(one[:, 0])
    )  # along which they lie further apart
    order = np.argsort(one[:, axis], kind="stable")
    rows, columns, values = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for first in range(0, len(order), STRIP_BOXES):
        own = order[first : first + STRIP_BOXES]
        near = np.flatnonzero(
            (other[:, axis + 2] > one[own, axis].min())
            & (other[:, axis] < one[own, axis + 2].max())
        )
        alike = intersection_over_union(one[own], other[near])
        row, column = np.nonzero(alike >= least)
        rows.append(own[row])
        columns.append(near[column])
        values.append(alike[row, column])
    first_of, second_of = np.concatenate(rows), np.concatenate(columns)
    sorted_pairs = np.lexsort((second_of, first_of))
    return first_of[sorted_pairs], second_of[sorted_pairs], np.concatenate(values)[sorted_pairs]


def boxes_of_labels(labels: NDArray[Any]) -> tuple[NDArray[np.int64], Corners]:
    """The box of every object in a picture of numbered objects (y, x): their numbers (N,) ascending, and corners (N, 4).

    Runs of equal pixels along rows are looked at, and not pixels: a hundred times fewer.
    """
    new = np.ones(labels.shape, bool)
    new[:, 1:] = labels[:, 1:] != labels[:, :-1]
    starts = np.flatnonzero(new)
    lengths, values = np.diff(starts, append=labels.size), labels.reshape(-1)[starts]
    inside = values != 0
    y, x = np.divmod(starts[inside], labels.shape[1])
    numbers, place = np.unique(values[inside], return_inverse=True)
    corners = np.empty((len(numbers), 4), np.float32)
    corners[:, :2], corners[:, 2:] = np.inf, -np.inf
    for column, extreme, ends in (
        (0, np.minimum, x),
        (1, np.minimum, y),
        (2, np.maximum, x + lengths[inside]),
        (3, np.maximum, y + 1),
    ):
        extreme.at(corners[:, column], place, ends.astype(np.float32))
    return numbers.astype(np.int64), corners
