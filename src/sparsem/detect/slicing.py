"""Sliced inference (Akyon et al. 2022; thesis 4.3.6): a picture cut into overlapping tiles, and what was found in them made one.

Two tiles see the same thing in what they share, so two boxes are one object if they are similar *there*, whatever each tile saw
beyond, and if their scores are similar: a box that is hardly an object does not enlarge a certain one, and does not connect two of
them. _Objects of any size are joined in this manner, from as many tiles as it takes, and two objects that one tile separates stay two.
A box that ends at a cut, where another tile saw all of it and more, is dropped. All work is between neighboring tiles: time is linear
in pixels.

Windows and corners are ``x0 y0 x1 y1`` in pixels of the picture (see ``sparsem.boxes.geometry``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Corners, clip_boxes, overlapping_pairs

MIN_SHARED_IOU = (
    0.5  # intersection over union, in what two tiles share, from which on two boxes are one object
)
# Minimum fraction of an object's highest score that each of its boxes has. Of six images of axons, 0.1 to 0.4 give the same mAP within
# 0.001; above, parts of real objects stay apart.
MIN_SCORE_RATIO = 0.25

Ints = NDArray[np.int64]


class TileDetections(NamedTuple):
    """Boxes found in tiles.

    Attributes:
        tile: (N,) int64, the tile of each, ascending.
        kind: (N,) int16, what it is around.
        corners: (N, 4) float32, in pixels of the picture, in whole hundredths (DECIMALS): they are compared as such.
        score: (N,) float32 in 0..1.
    """

    tile: Ints
    kind: NDArray[np.int16]
    corners: Corners
    score: NDArray[np.float32]

    def taken(self, which: NDArray[np.bool_] | Ints) -> "TileDetections":
        """Those of a mask, or of places."""
        return TileDetections(
            self.tile[which], self.kind[which], self.corners[which], self.score[which]
        )


DECIMALS = 2  # of a pixel, to which corners are rounded; beyond that numbers depend on the batch that a tile was in
NO_DETECTIONS = TileDetections(
    np.empty(0, np.int64),
    np.empty(0, np.int16),
    np.empty((0, 4), np.float32),
    np.empty(0, np.float32),
)


def exact_corners(corners: Corners) -> NDArray[np.float64]:
    """Corners as they were rounded: single precision keeps them less well the further from the corner of a picture they lie."""
    return np.asarray(np.round(corners.astype(np.float64), DECIMALS), np.float64)


def tile_offsets(length: int, edge: int, overlap: int) -> list[int]:
    """Where tiles of ``edge`` px begin: one every ``edge - overlap`` px from 0 on, and a last one that ends with the picture.

    Where a tile begins does not depend on how long the picture is, but for the last one: a part of a picture is cut as the whole.
    """
    step = edge - overlap
    inner = list(range(0, max(1, length - edge + 1), step))
    return inner if inner[-1] + edge >= length else [*inner, length - edge]


@dataclass(frozen=True)
class Tiling:
    """How a picture is cut into tiles of one size.

    Attributes:
        shape: (y, x) of the picture.
        edge: (y, x) of a tile, px of the picture.
        overlap: (y, x) of neighboring tiles, px; less than half a tile.
    """

    shape: tuple[int, int]
    edge: tuple[int, int]
    overlap: tuple[int, int]

    @cached_property
    def begins(self) -> tuple[list[int], list[int]]:
        """Where the rows and the columns of tiles begin."""
        rows, columns = (
            tile_offsets(*each) for each in zip(self.shape, self.edge, self.overlap, strict=True)
        )
        return rows, columns

    @cached_property
    def windows(self) -> NDArray[np.int64]:
        """(T, 4) of all tiles, row by row; beyond a picture that is smaller than a tile there is nothing."""
        height, width = self.shape
        corners = [
            (x, y, min(x + self.edge[1], width), min(y + self.edge[0], height))
            for y, x in product(*self.begins)
        ]
        return np.array(corners, np.int64)

    @cached_property
    def neighbors(self) -> list[tuple[int, int]]:
        """Pairs of tiles that share pixels."""
        down, across = (
            list(_near(begins, edge)) for begins, edge in zip(self.begins, self.edge, strict=True)
        )
        count, found = len(self.begins[1]), []
        for (upper, lower), (left, right) in product(down, across):
            found.append((upper * count + left, lower * count + right))
            if upper != lower and left != right:
                found.append((upper * count + right, lower * count + left))
        return sorted(pair for pair in found if pair[0] < pair[1])

    def is_cut(self, found: TileDetections, margin: float) -> NDArray[np.bool_]:
        """(N,) whether a box ends within ``margin`` px of an edge of its tile that is none of the picture."""
        windows = self.windows[found.tile]
        height, width = self.shape
        inner = np.column_stack([windows[:, :2] > 0, windows[:, 2:] < [width, height]])
        within = (exact_corners(found.corners) - windows) * [
            1,
            1,
            -1,
            -1,
        ]  # px from the edges of the tile
        near = within <= margin + 1e-6
        return np.asarray((inner & near).any(axis=1))


def _near(begins: list[int], edge: int) -> Iterator[tuple[int, int]]:
    """Places of tiles along an axis that share pixels, each with itself too."""
    for first, begin in enumerate(begins):
        for second in range(first, len(begins)):
            if begins[second] >= begin + edge:
                break
            yield first, second


class _Pair(NamedTuple):
    """Boxes ``one`` and ``other`` of two tiles, and how ``similar`` they are in what both tiles see, 0..1."""

    one: int
    other: int
    similar: float


class _Objects(NamedTuple):
    """Which boxes are one object.

    Attributes:
        number: (N,) int64, the object of each box.
        dropped: (N,) bool, boxes of an object that is part of a far more certain one.
        seen_once: (N,) bool, boxes to which no other tile has a similar one.
    """

    number: Ints
    dropped: NDArray[np.bool_]
    seen_once: NDArray[np.bool_]


def merge_detections(found: TileDetections, slicing: Tiling, margin: float) -> TileDetections:
    """Return one box an object, from the boxes of all tiles of an image; the most certain first.

    Of boxes that are one object, the most certain that is not cut counts; if all are cut, what they cover together.

    Args:
        found: in the tiles of ``slicing``, sorted by tile.
        slicing: how the image was cut.
        margin: px from the edge of its tile within which a box is cut.
    """
    cut = slicing.is_cut(found, margin)
    ends = np.searchsorted(found.tile, np.arange(len(slicing.windows) + 1))
    of_tile = [np.arange(first, stop) for first, stop in pairwise(ends.tolist())]
    pairs: list[_Pair] = []
    seen_whole = np.zeros(len(cut), bool)
    for one, other in slicing.neighbors:
        if len(of_tile[one]) and len(of_tile[other]):
            pairs += _pairs(
                found, of_tile[one], of_tile[other], _shared_window(slicing, one, other)
            )
        _mark_seen_whole(seen_whole, found, cut, of_tile, slicing, (one, other), margin)
    objects = _objects(found, pairs)
    kept = ~objects.dropped & ~(objects.seen_once & cut & seen_whole)
    return _one_each(found.taken(kept), objects.number[kept], cut[kept])


class _Groups:
    """Boxes that are joined to objects step by step; the leader of an object is one of its boxes.

    Attributes:
        best: the highest score of the object that a box leads.
    """

    def __init__(self, found: TileDetections) -> None:
        """Make every box an object of its own."""
        self._leader = list(range(len(found.tile)))
        self._tiles = [{tile} for tile in found.tile.tolist()]
        self.best: list[float] = found.score.tolist()

    def leader(self, box: int) -> int:
        """Return the box that stands for the object of a box."""
        while self._leader[box] != box:
            self._leader[box] = self._leader[self._leader[box]]
            box = self._leader[box]
        return box

    def are_separate(self, first: int, second: int) -> bool:
        """Return True if one tile holds boxes of the objects of both leaders, and so separates them."""
        return bool(self._tiles[first] & self._tiles[second])

    def join(self, first: int, second: int) -> None:
        """Make one object of those of two leaders."""
        self._leader[second] = first
        self._tiles[first] |= self._tiles[second]
        self.best[first] = max(self.best[first], self.best[second])


def _objects(found: TileDetections, pairs: Sequence[_Pair]) -> _Objects:
    """Join pairs of similar scores to objects, and drop objects that are similar to a far more certain one."""
    groups = _joined(found, pairs)
    leaders = np.array([groups.leader(box) for box in range(len(found.tile))], np.int64)
    seen_once = np.bincount(leaders, minlength=len(leaders)) == 1
    dropped = np.zeros(len(leaders), bool)
    for pair in pairs:
        first, second = int(leaders[pair.one]), int(leaders[pair.other])
        weak, certain = sorted((first, second), key=lambda leader: groups.best[leader])
        is_far_weaker = groups.best[weak] < MIN_SCORE_RATIO * groups.best[certain]
        if is_far_weaker and not groups.are_separate(first, second):
            dropped[weak] = True
            seen_once[certain] = False
    return _Objects(leaders, dropped[leaders], seen_once[leaders])


def _joined(found: TileDetections, pairs: Sequence[_Pair]) -> _Groups:
    """Join pairs to objects, the most certain pairs first.

    The lower score of a pair that is joined is at least ``MIN_SCORE_RATIO`` of the highest score of the object that it makes. Pairs of
    higher scores were joined before, so this holds for every box of an object.
    """
    groups, score = _Groups(found), found.score.tolist()
    lower_score = [min(score[pair.one], score[pair.other]) for pair in pairs]
    ranks = [
        (-lower, -pair.similar, pair.one, pair.other)
        for lower, pair in zip(lower_score, pairs, strict=True)
    ]
    for lower, _, one, other in sorted(ranks):
        first, second = groups.leader(one), groups.leader(other)
        highest = max(groups.best[first], groups.best[second])
        if (
            first != second
            and -lower >= MIN_SCORE_RATIO * highest
            and not groups.are_separate(first, second)
        ):
            groups.join(first, second)
    return groups


def _shared_window(slicing: Tiling, one: int, other: int) -> Ints:
    first, second = slicing.windows[one], slicing.windows[other]
    return np.concatenate([np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])])


def _pairs(found: TileDetections, one: Ints, other: Ints, window: Ints) -> list[_Pair]:
    """Boxes of two tiles that are similar in what both see, a box in one pair at most.

    Those that are most similar in place and score are matched first, so that no weak box takes the place of a certain one.
    """
    # From the corner of what both see, so that it does not matter where in an image that lies.
    origin, size = np.tile(window[:2], 2), (window[2:] - window[:2]).tolist()
    own = [
        (exact_corners(found.corners[places]) - origin).astype(np.float32)
        for places in (one, other)
    ]
    parts = [clip_boxes(corners, (0, 0, *size)) for corners in own]
    there = [(part[:, 2:] > part[:, :2]).all(axis=1) for part in parts]
    one, other = one[there[0]], other[there[1]]
    rows, columns, overlap = overlapping_pairs(
        parts[0][there[0]], parts[1][there[1]], MIN_SHARED_IOU
    )
    same_kind = found.kind[one[rows]] == found.kind[other[columns]]
    rows, columns, overlap = rows[same_kind], columns[same_kind], overlap[same_kind]
    scores = np.stack([found.score[one[rows]], found.score[other[columns]]]).astype(np.float64)
    match = overlap * scores.min(axis=0) / scores.max(axis=0)
    taken_rows, taken_columns, pairs = set(), set(), []
    for place in np.lexsort((columns, rows, -match)).tolist():
        row, column = int(rows[place]), int(columns[place])
        if row not in taken_rows and column not in taken_columns:
            taken_rows.add(row)
            taken_columns.add(column)
            pairs.append(_Pair(int(one[row]), int(other[column]), float(overlap[place])))
    return pairs


def _mark_seen_whole(
    seen: NDArray[np.bool_],
    found: TileDetections,
    cut: NDArray[np.bool_],
    of_tile: list[Ints],
    slicing: Tiling,
    pair: tuple[int, int],
    margin: float,
) -> None:
    """Mark cut boxes of either tile that the other one sees whole, with room around them where the picture goes on."""
    for own, other in (pair, pair[::-1]):
        places = of_tile[own][cut[of_tile[own]]]
        if not len(places):
            continue
        as_seen = TileDetections(
            np.full(len(places), other),
            found.kind[places],
            found.corners[places],
            found.score[places],
        )
        window = slicing.windows[other]
        inside = (as_seen.corners[:, :2] >= window[:2]).all(axis=1) & (
            as_seen.corners[:, 2:] <= window[2:]
        ).all(axis=1)
        seen[places] |= inside & ~slicing.is_cut(as_seen, margin)


def _one_each(found: TileDetections, group: Ints, cut: NDArray[np.bool_]) -> TileDetections:
    """One box a group, the surest first."""
    if not len(group):
        return NO_DETECTIONS
    # In every group the whole ones come first, and of these the surest.
    order = np.lexsort((-found.score, cut, group))
    found, group, cut = found.taken(order), group[order], cut[order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    best = found.taken(first)
    lower, upper = (
        extreme.reduceat(found.corners, first, axis=0) for extreme in (np.minimum, np.maximum)
    )
    hull = np.column_stack([lower[:, :2], upper[:, 2:]])
    surest = np.maximum.reduceat(found.score, first)
    all_cut = cut[first]
    corners = np.where(all_cut[:, None], hull, best.corners)
    score = np.where(all_cut, surest, best.score)
    joined = TileDetections(best.tile, best.kind, corners, score)
    return joined.taken(np.lexsort((*corners.T[::-1], -score)))
