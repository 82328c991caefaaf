"""Sliced inference (Akyon et al. 2022; thesis 4.3.6).

An image is cut into overlapping tiles, and the boxes found in the tiles are merged. Two tiles see
the same objects where they overlap. So two boxes are one object if they are similar *there*,
whatever each tile saw beyond, and if their scores are similar: an uncertain box neither extends a
certain one nor connects two of them. Objects of any size are joined in this manner, from as many
tiles as it takes, and two objects that one tile separates stay two. A box that ends at the cut of
its tile is dropped where another tile saw all of it and more. All work is between neighboring
tiles, so the time is linear in the number of pixels.

Windows and corners are ``x0 y0 x1 y1`` in pixels of the image (see ``sparsem.boxes.geometry``).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import BoxPairs, Corners, clip_boxes, overlapping_pairs

# Minimum intersection over union of two boxes of one object, in the overlap of their tiles.
MIN_SHARED_IOU = 0.5
# Minimum fraction of an object's highest score that each of its boxes has. For six images of axons,
# 0.1 to 0.4 give the same mAP within 0.001; above, parts of real objects stay apart.
MIN_SCORE_RATIO = 0.25
# Decimals of a pixel to which corners are rounded: further ones depend on the batch of a tile.
CORNER_DECIMALS = 2
ROUNDING_PX = 1e-6  # tolerance of distances of rounded corners

Ints = NDArray[np.int64]
Reals = NDArray[np.float64]
Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]


class TileDetections(NamedTuple):
    """Boxes that a detector found in the tiles of one image.

    Attributes:
        tile: (N,) int64, index of the tile of each box, ascending.
        kind: (N,) int16, index of the structure.
        corners: (N, 4) float32, px of the image, rounded to ``CORNER_DECIMALS``: they are compared
            as such.
        score: (N,) float32 in 0..1.
    """

    tile: Ints
    kind: NDArray[np.int16]
    corners: Corners
    score: NDArray[np.float32]

    def select(self, which: Mask | Ints) -> "TileDetections":
        """Return the boxes that a mask or an array of indices selects."""
        return TileDetections(
            self.tile[which], self.kind[which], self.corners[which], self.score[which]
        )


NO_DETECTIONS = TileDetections(
    np.empty(0, np.int64),
    np.empty(0, np.int16),
    np.empty((0, 4), np.float32),
    np.empty(0, np.float32),
)


def concatenate_detections(parts: Sequence[TileDetections]) -> TileDetections:
    """Return the boxes of several parts in their order."""
    if not parts:
        return NO_DETECTIONS
    return TileDetections(
        np.concatenate([part.tile for part in parts]),
        np.concatenate([part.kind for part in parts]),
        np.concatenate([part.corners for part in parts]),
        np.concatenate([part.score for part in parts]),
    )


def exact_corners(corners: Corners) -> NDArray[np.float64]:
    """Return corners (N, 4) as they were rounded.

    Single precision holds them less exactly the further they lie from the corner of an image.
    """
    return np.asarray(np.round(corners.astype(np.float64), CORNER_DECIMALS), np.float64)


def tile_offsets(length: int, edge: int, overlap: int) -> list[int]:
    """Return where tiles of ``edge`` px begin along an axis of ``length`` px.

    Tiles begin every ``edge - overlap`` px from 0 on; the last one ends with the image. Except for
    the last one, this does not depend on the length: a part of an image is cut as the whole is.
    """
    step = edge - overlap
    offsets = list(range(0, max(1, length - edge + 1), step))
    if offsets[-1] + edge < length:
        offsets.append(length - edge)
    return offsets


@dataclass(frozen=True)
class Tiling:
    """The tiles of an image, all of one size.

    Attributes:
        shape: (y, x) of the image.
        edge: (y, x) of a tile, px of the image.
        overlap: (y, x) of neighboring tiles, px; less than half a tile.
    """

    shape: tuple[int, int]
    edge: tuple[int, int]
    overlap: tuple[int, int]

    @cached_property
    def offsets(self) -> tuple[list[int], list[int]]:
        """Offsets of the rows and of the columns of tiles, px."""
        rows = tile_offsets(self.shape[0], self.edge[0], self.overlap[0])
        columns = tile_offsets(self.shape[1], self.edge[1], self.overlap[1])
        return rows, columns

    @cached_property
    def windows(self) -> NDArray[np.int64]:
        """Windows (T, 4) of all tiles, row by row, cut at the border of the image."""
        height, width = self.shape
        tile_height, tile_width = self.edge
        windows = []
        for y, x in product(*self.offsets):
            windows.append((x, y, min(x + tile_width, width), min(y + tile_height, height)))
        return np.array(windows, np.int64)

    @cached_property
    def neighbors(self) -> list[tuple[int, int]]:
        """Pairs of tiles that share pixels, sorted."""
        rows, columns = self.offsets
        row_pairs = list(_overlapping(rows, self.edge[0]))
        column_pairs = list(_overlapping(columns, self.edge[1]))
        pairs = []
        for (upper, lower), (left, right) in product(row_pairs, column_pairs):
            first_of_upper = upper * len(columns)
            first_of_lower = lower * len(columns)
            pairs.append((first_of_upper + left, first_of_lower + right))
            if upper != lower and left != right:
                pairs.append((first_of_upper + right, first_of_lower + left))
        return sorted(pair for pair in pairs if pair[0] < pair[1])

    def is_cut(self, detections: TileDetections, margin: float) -> Mask:
        """Return True for boxes (N,) that end at a cut.

        They end within ``margin`` px of an edge of their tile that is not the border of the image.
        """
        windows = self.windows[detections.tile]
        height, width = self.shape
        is_inner_edge = np.column_stack([windows[:, :2] > 0, windows[:, 2:] < [width, height]])
        # px inward from the edges of the tile
        distance = (exact_corners(detections.corners) - windows) * [1, 1, -1, -1]
        is_near = distance <= margin + ROUNDING_PX
        return np.asarray((is_inner_edge & is_near).any(axis=1))

    def overlap_window(self, first: int, second: int) -> Ints:
        """Return the window that two tiles share."""
        first_window = self.windows[first]
        second_window = self.windows[second]
        low = np.maximum(first_window[:2], second_window[:2])
        high = np.minimum(first_window[2:], second_window[2:])
        return np.concatenate([low, high])


def _overlapping(offsets: list[int], edge: int) -> Iterator[tuple[int, int]]:
    """Yield pairs of tiles along an axis that share pixels, each tile with itself too."""
    for first, offset in enumerate(offsets):
        for second in range(first, len(offsets)):
            if offsets[second] >= offset + edge:
                break
            yield first, second


class _Pair(NamedTuple):
    """Boxes ``first`` and ``second`` of two tiles, and their ``iou`` where the tiles overlap."""

    first: int
    second: int
    iou: float


class _Objects(NamedTuple):
    """Assignment of boxes to objects.

    Attributes:
        number: (N,) int64, number of the object of each box.
        dropped: (N,) bool, boxes of an object that is part of a far more certain one.
        is_single: (N,) bool, boxes to which no other tile has a similar one.
    """

    number: Ints
    dropped: Mask
    is_single: Mask


def merge_detections(detections: TileDetections, tiling: Tiling, margin: float) -> TileDetections:
    """Return one box for each object, from the boxes of all tiles, sorted by descending score.

    An object gets the corners and score of its most certain box that is not cut. If all are cut,
    it gets the box around them and their highest score.

    Args:
        detections: boxes in the tiles of ``tiling``, sorted by tile.
        tiling: how the image was cut.
        margin: px from the edge of its tile within which a box is cut.
    """
    is_cut = tiling.is_cut(detections, margin)
    boxes_of_tile = _boxes_by_tile(detections, len(tiling.windows))
    pairs: list[_Pair] = []
    seen_whole = np.zeros(len(is_cut), bool)
    for first, second in tiling.neighbors:
        first_boxes = boxes_of_tile[first]
        second_boxes = boxes_of_tile[second]
        if len(first_boxes) and len(second_boxes):
            window = tiling.overlap_window(first, second)
            pairs += _similar_pairs(detections, first_boxes, second_boxes, window)
        for boxes, other_tile in ((first_boxes, second), (second_boxes, first)):
            cut_boxes = boxes[is_cut[boxes]]
            if len(cut_boxes):
                is_seen = _is_seen_whole(detections, cut_boxes, tiling, other_tile, margin)
                seen_whole[cut_boxes] |= is_seen
    objects = _join_objects(detections, pairs)
    keep = ~objects.dropped & ~(objects.is_single & is_cut & seen_whole)
    return _box_of_each(detections.select(keep), objects.number[keep], is_cut[keep])


def _boxes_by_tile(detections: TileDetections, n_tiles: int) -> list[Ints]:
    """Return the indices of the boxes of each tile."""
    ends = np.searchsorted(detections.tile, np.arange(n_tiles + 1))
    return [np.arange(first, stop) for first, stop in pairwise(ends.tolist())]


class _Groups:
    """Boxes that are joined to objects step by step; the leader of an object is one of its boxes.

    Attributes:
        best: highest score of the object that a box leads.
    """

    def __init__(self, detections: TileDetections) -> None:
        """Make every box an object of its own."""
        self._leader = list(range(len(detections.tile)))
        self._tiles = [{tile} for tile in detections.tile.tolist()]
        self.best: list[float] = detections.score.tolist()

    def leader(self, box: int) -> int:
        """Return the box that stands for the object of a box."""
        while self._leader[box] != box:
            self._leader[box] = self._leader[self._leader[box]]
            box = self._leader[box]
        return box

    def are_separate(self, first: int, second: int) -> bool:
        """Return True if one tile holds boxes of the objects of both leaders and separates them."""
        return bool(self._tiles[first] & self._tiles[second])

    def join(self, first: int, second: int) -> None:
        """Make one object of those of two leaders."""
        self._leader[second] = first
        self._tiles[first] |= self._tiles[second]
        self.best[first] = max(self.best[first], self.best[second])


def _join_objects(detections: TileDetections, pairs: Sequence[_Pair]) -> _Objects:
    """Join pairs of similar scores to objects; drop objects similar to far more certain ones."""
    groups = _join_pairs(detections, pairs)
    leaders = np.array([groups.leader(box) for box in range(len(detections.tile))], np.int64)
    is_single = np.bincount(leaders, minlength=len(leaders)) == 1
    dropped = np.zeros(len(leaders), bool)
    for pair in pairs:
        objects = (int(leaders[pair.first]), int(leaders[pair.second]))
        weak, certain = sorted(objects, key=lambda leader: groups.best[leader])
        is_far_weaker = groups.best[weak] < MIN_SCORE_RATIO * groups.best[certain]
        if is_far_weaker and not groups.are_separate(*objects):
            dropped[weak] = True
            is_single[certain] = False
    return _Objects(leaders, dropped[leaders], is_single[leaders])


def _join_pairs(detections: TileDetections, pairs: Sequence[_Pair]) -> _Groups:
    """Join pairs to objects, the most certain pairs first.

    The lower score of a pair that is joined is at least ``MIN_SCORE_RATIO`` of the highest score of
    the object that it makes. Pairs of higher scores were joined before, so this holds for every box
    of an object.
    """
    groups = _Groups(detections)
    for lower_score, pair in _most_certain_first(detections, pairs):
        first = groups.leader(pair.first)
        second = groups.leader(pair.second)
        if first == second or groups.are_separate(first, second):
            continue
        highest = max(groups.best[first], groups.best[second])
        if lower_score >= MIN_SCORE_RATIO * highest:
            groups.join(first, second)
    return groups


def _most_certain_first(
    detections: TileDetections, pairs: Sequence[_Pair]
) -> list[tuple[float, _Pair]]:
    """Return pairs with the lower of their two scores, by descending score and overlap."""
    score = detections.score.tolist()
    scored = [(min(score[pair.first], score[pair.second]), pair) for pair in pairs]
    return sorted(scored, key=lambda item: (-item[0], -item[1].iou, item[1].first, item[1].second))


def _similar_pairs(
    detections: TileDetections, first: Ints, second: Ints, window: Ints
) -> list[_Pair]:
    """Return boxes of two tiles that are similar where both tiles see, a box in one pair at most.

    The boxes that are most similar in place and score are matched first, so that no weak box takes
    the place of a certain one.

    Args:
        detections: boxes of all tiles.
        first: indices of the boxes of one tile.
        second: indices of the boxes of the other tile.
        window: overlap of the tiles.
    """
    first, second, iou = _overlapping_boxes(detections, first, second, window)
    similarity = _similarity(iou, detections.score[first], detections.score[second])
    matched: set[int] = set()
    pairs = []
    for index in np.lexsort((second, first, -similarity)).tolist():
        boxes = (int(first[index]), int(second[index]))
        if matched.isdisjoint(boxes):
            matched.update(boxes)
            pairs.append(_Pair(*boxes, float(iou[index])))
    return pairs


def _similarity(iou: Reals, first_score: Scores, second_score: Scores) -> Reals:
    """Return the overlap of pairs of boxes (n,), less where their scores differ."""
    lower = np.minimum(first_score, second_score).astype(np.float64)
    higher = np.maximum(first_score, second_score).astype(np.float64)
    return np.asarray(iou * lower / higher)


def _overlapping_boxes(
    detections: TileDetections, first: Ints, second: Ints, window: Ints
) -> BoxPairs:
    """Return the pairs of boxes of one structure that are similar in place, with their overlap."""
    first, first_parts = _parts_in_window(detections, first, window)
    second, second_parts = _parts_in_window(detections, second, window)
    rows, columns, iou = overlapping_pairs(first_parts, second_parts, MIN_SHARED_IOU)
    is_same_kind = detections.kind[first[rows]] == detections.kind[second[columns]]
    return first[rows[is_same_kind]], second[columns[is_same_kind]], iou[is_same_kind]


def _parts_in_window(detections: TileDetections, boxes: Ints, window: Ints) -> tuple[Ints, Corners]:
    """Return the boxes that reach into a window, and their corners in it.

    Corners are relative to the window, so that its position in the image has no effect.
    """
    origin = np.tile(window[:2], 2)
    width, height = (window[2:] - window[:2]).tolist()
    corners = (exact_corners(detections.corners[boxes]) - origin).astype(np.float32)
    parts = clip_boxes(corners, (0, 0, width, height))
    is_inside = (parts[:, 2:] > parts[:, :2]).all(axis=1)
    return boxes[is_inside], parts[is_inside]


def _is_seen_whole(
    detections: TileDetections, boxes: Ints, tiling: Tiling, tile: int, margin: float
) -> Mask:
    """Return True for boxes (n,) that another tile sees whole.

    The tile sees room around the box wherever the image continues.
    """
    seen = detections.select(boxes)._replace(tile=np.full(len(boxes), tile))
    window = tiling.windows[tile]
    begins_inside = (seen.corners[:, :2] >= window[:2]).all(axis=1)
    ends_inside = (seen.corners[:, 2:] <= window[2:]).all(axis=1)
    return np.asarray(begins_inside & ends_inside & ~tiling.is_cut(seen, margin))


def _box_of_each(detections: TileDetections, number: Ints, is_cut: Mask) -> TileDetections:
    """Return one box for each object, sorted by descending score.

    Args:
        detections: boxes.
        number: (N,) number of the object of each box.
        is_cut: (N,) bool.
    """
    if not len(number):
        return NO_DETECTIONS
    # In every object the boxes that are not cut come first, and among these the most certain one.
    order = np.lexsort((-detections.score, is_cut, number))
    detections = detections.select(order)
    first = np.flatnonzero(np.diff(number[order], prepend=-1))
    best = detections.select(first)
    all_cut = is_cut[order][first]
    hull = _hulls(detections.corners, first)
    highest_score = np.maximum.reduceat(detections.score, first)
    corners = np.where(all_cut[:, None], hull, best.corners)
    score = np.where(all_cut, highest_score, best.score)
    merged = TileDetections(best.tile, best.kind, corners, score)
    return merged.select(np.lexsort((*corners.T[::-1], -score)))


def _hulls(corners: Corners, first: Ints) -> Corners:
    """Return the box around each run of boxes; ``first`` are the indices where runs begin."""
    low = np.minimum.reduceat(corners, first, axis=0)
    high = np.maximum.reduceat(corners, first, axis=0)
    return np.column_stack([low[:, :2], high[:, 2:]])
