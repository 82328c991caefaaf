"""Tiling: positions of tiles, and merging of their boxes to one box for each object of any size."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.boxes.geometry import box_sizes, clip_boxes, intersection_over_union
from sparsem.detect.tiling import (
    CORNER_DECIMALS,
    MIN_SCORE_RATIO,
    MIN_SHARED_IOU,
    NO_DETECTIONS,
    TileDetections,
    Tiling,
    merge_detections,
    tile_offsets,
)

SEEN = 4.0  # px of an object that a detector needs to see it


def test_offsets_of_tiles_do_not_depend_on_the_size_of_the_image() -> None:
    assert tile_offsets(100, 40, 10) == [0, 30, 60]
    assert tile_offsets(101, 40, 10) == [0, 30, 60, 61]
    assert tile_offsets(40, 40, 10) == [0]
    assert tile_offsets(7, 40, 10) == [0]


@given(st.integers(1, 300), st.integers(1, 80), st.data())
def test_tiles_cover_every_pixel(length: int, edge: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, max(0, (edge - 1) // 2)))
    covered = np.zeros(max(length, edge), bool)
    for begin in tile_offsets(length, edge, overlap):
        covered[begin : begin + edge] = True
    assert covered[:length].all()


def test_neighbors_are_all_tiles_that_share_pixels() -> None:
    slicing = Tiling((101, 75), (40, 32), (10, 8))
    windows = slicing.windows
    plain = [
        (first, second)
        for first, second in itertools.combinations(range(len(windows)), 2)
        if (
            np.minimum(windows[first][2:], windows[second][2:])
            > np.maximum(windows[first][:2], windows[second][:2])
        ).all()
    ]
    assert slicing.neighbors == plain


def oracle(
    truth: NDArray[np.float32], slicing: Tiling, jitter: float = 0, seed: int = 0
) -> TileDetections:
    """Boxes of a perfect detector: in every tile the part of every object in it.

    The scores are similar.
    """
    random, parts = np.random.default_rng(seed), []
    for tile, window in enumerate(slicing.windows):
        inside = clip_boxes(truth, window.tolist())
        visible = np.flatnonzero((box_sizes(inside) >= SEEN).all(axis=1))
        jittered = clip_boxes(
            inside[visible] + random.uniform(-jitter, jitter, (len(visible), 4)).astype(np.float32),
            window.tolist(),
        )
        kind = (visible % 2).astype(np.int16)
        parts.append(
            TileDetections(
                np.full(len(visible), tile),
                kind,
                jittered,
                random.uniform(0.3, 1, len(visible)).astype(np.float32),
            )
        )
    return TileDetections(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def apart(
    random: np.random.Generator, count: int, shape: tuple[int, int], longest: float
) -> NDArray[np.float32]:
    """Boxes that do not touch."""
    boxes: list[NDArray[np.float32]] = []
    for _ in range(count * 4):
        size = random.uniform(8, longest, 2)
        corner = random.uniform(0, np.maximum(1, np.array(shape)[::-1] - size))
        box = np.concatenate([corner, np.minimum(corner + size, np.array(shape)[::-1])]).astype(
            np.float32
        )
        if (
            not boxes
            or intersection_over_union(
                box[None] + np.array([[-3, -3, 3, 3]], np.float32), np.array(boxes)
            ).max()
            == 0
        ):
            boxes.append(box)
    return np.array(boxes[:count], np.float32).reshape(-1, 4)


@given(st.integers(0, 2**31), st.sampled_from([30.0, 90.0, 300.0]))
def test_every_object_is_found_once_and_whole(seed: int, longest: float) -> None:
    random = np.random.default_rng(seed)
    truth = apart(random, 25, (260, 330), longest)
    slicing = Tiling((260, 330), (100, 100), (30, 20))
    merged = merge_detections(oracle(truth, slicing, seed=seed), slicing, margin=2)
    assert len(merged.kind) == len(truth)
    assert sorted(map(tuple, merged.corners.tolist())) == sorted(map(tuple, truth.tolist()))


@given(st.integers(0, 2**31))
def test_boxes_that_are_a_little_off_are_still_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth = apart(random, 20, (260, 330), 60)
    slicing = Tiling((260, 330), (100, 100), (30, 30))
    merged = merge_detections(oracle(truth, slicing, jitter=1, seed=seed), slicing, margin=3)
    assert len(merged.kind) == len(truth)
    assert intersection_over_union(truth, merged.corners).max(axis=1).min() > 0.5


Rows = list[tuple[float, ...]]


def plain_pairs(
    detections: TileDetections, windows: NDArray[np.int64], similar_from: float
) -> Rows:
    """Similar boxes of two tiles, each at most once.

    A row is minus the lower score, minus the similarity, and the two boxes.
    """
    pairs: Rows = []
    for first, second in itertools.combinations(range(len(windows)), 2):
        area = [
            *np.maximum(windows[first][:2], windows[second][:2]),
            *np.minimum(windows[first][2:], windows[second][2:]),
        ]
        if area[0] >= area[2] or area[1] >= area[3]:
            continue
        candidates = []
        for a, b in itertools.product(
            *(np.flatnonzero(detections.tile == tile).tolist() for tile in (first, second))
        ):
            parts = [clip_boxes(detections.corners[n : n + 1], area) for n in (a, b)]
            value = (
                intersection_over_union(*parts).item()
                if all((box_sizes(part) > 0).all() for part in parts)
                else 0.0
            )
            low, high = sorted([float(detections.score[a]), float(detections.score[b])])
            if detections.kind[a] == detections.kind[b] and value >= similar_from:
                candidates.append((-value * low / high, -low, -value, a, b))
        taken: set[int] = set()
        for _, low, value, a, b in sorted(candidates):
            if not {a, b} & taken:
                taken |= {a, b}
                pairs.append((low, value, a, b))
    return sorted(pairs)


def plain_merged(
    detections: TileDetections, slicing: Tiling, margin: float, similar_from: float = MIN_SHARED_IOU
) -> Rows:
    """The same rules over all pairs of boxes, one by one."""
    windows, count = slicing.windows, len(detections.kind)
    cut = slicing.is_cut(detections, margin)
    group = list(range(count))
    score = detections.score.astype(float)
    pairs = [
        (-low, int(a), int(b)) for low, _, a, b in plain_pairs(detections, windows, similar_from)
    ]

    def boxes_of(box: int) -> list[int]:
        return [n for n in range(count) if group[n] == group[box]]

    def are_separate(a: int, b: int) -> bool:
        return bool(
            {*detections.tile[boxes_of(a)].tolist()} & {*detections.tile[boxes_of(b)].tolist()}
        )

    for low, a, b in pairs:
        both = [*boxes_of(a), *boxes_of(b)]
        if low >= MIN_SCORE_RATIO * score[both].max() and not are_separate(a, b):
            for n in boxes_of(b):
                group[n] = group[a]
    dropped, seen_twice = set(), {group[n] for n in range(count) if len(boxes_of(n)) > 1}
    for _, a, b in pairs:
        weak, certain = sorted((a, b), key=lambda n: score[boxes_of(n)].max())
        if score[boxes_of(weak)].max() < MIN_SCORE_RATIO * score[
            boxes_of(certain)
        ].max() and not are_separate(a, b):
            dropped.add(group[weak])
            seen_twice.add(group[certain])
    out = []
    for name in {*group} - dropped:
        members = [n for n in range(count) if group[n] == name]
        whole = [n for n in members if not cut[n]]
        if whole:
            best = max(whole, key=lambda n: score[n])
            out.append((*detections.corners[best].tolist(), score[best]))
            continue
        box = detections.corners[members]
        hull = [*box[:, :2].min(axis=0).tolist(), *box[:, 2:].max(axis=0).tolist()]
        elsewhere = False
        for tile in range(len(windows)):
            alone = TileDetections(
                np.array([tile]),
                detections.kind[members[:1]],
                box[:1],
                detections.score[members[:1]],
            )
            inside = (box[0, :2] >= windows[tile][:2]).all() and (
                box[0, 2:] <= windows[tile][2:]
            ).all()
            elsewhere |= bool(
                tile != detections.tile[members[0]]
                and inside
                and not slicing.is_cut(alone, margin)[0]
            )
        if name in seen_twice or not elsewhere:
            out.append((*hull, score[members].max()))
    return sorted(out)


@given(st.integers(0, 2**31))
def test_merging_equals_the_plain_version(seed: int) -> None:
    random = np.random.default_rng(seed)
    slicing = Tiling((150, 190), (70, 80), (20, 25))
    count = int(random.integers(0, 60))
    tile = np.sort(random.integers(0, len(slicing.windows), count))
    windows = slicing.windows[tile].astype(np.float32)
    low = windows[:, :2] + random.uniform(0, 60, (count, 2)) * (random.random((count, 2)) < 0.8)
    high = np.minimum(low + random.uniform(3, 50, (count, 2)), windows[:, 2:])
    corners = np.round(np.column_stack([low, high]), CORNER_DECIMALS).astype(np.float32)
    kind = random.integers(0, 2, count).astype(np.int16)
    score = random.permutation(np.geomspace(0.05, 0.95, count)).astype(np.float32)
    detections = TileDetections(tile, kind, corners, score)
    plain, nudged = (
        plain_merged(detections, slicing, 3, MIN_SHARED_IOU + nudge) for nudge in (-1e-5, 1e-5)
    )
    assume(
        plain == nudged
    )  # boxes that overlap by exactly a half are one or two, as numbers are rounded
    fast = merge_detections(detections, slicing, 3)
    rows = [
        (*corner, score)
        for corner, score in zip(fast.corners.tolist(), fast.score.tolist(), strict=True)
    ]
    np.testing.assert_allclose(
        np.array(sorted(rows)).reshape(-1, 5), np.array(plain).reshape(-1, 5), atol=1e-6
    )
    assert (np.diff(fast.score) <= 0).all()


CERTAIN = [155.0, 50.0, 215.0, 110.0]  # 60 px, and ends at the cut of the first tile
WEAK = {
    "ends at the cut of its tile": (1, [172.0, 40.0, 300.0, 115.0]),
    "is seen whole": (1, [180.0, 45.0, 250.0, 112.0]),
    "fills its tile": (1, [172.0, 30.0, 387.0, 130.0]),
}


def boxes_in(tiles: list[int], corners: list[list[float]], scores: list[float]) -> TileDetections:
    order = np.argsort(tiles, kind="stable")
    kind = np.zeros(len(tiles), np.int16)
    detections = TileDetections(
        np.array(tiles, np.int64), kind, np.array(corners, np.float32), np.array(scores, np.float32)
    )
    return detections.select(order)


@pytest.mark.parametrize("score", [0.05, 0.1, 0.2])
@pytest.mark.parametrize(
    "kind", [(name,) for name in WEAK] + [("ends at the cut of its tile", "is seen whole")]
)
def test_weak_boxes_do_not_extend_a_certain_one(kind: tuple[str, ...], score: float) -> None:
    slicing = Tiling((215, 560), (215, 215), (43, 43))
    tiles, corners = [0, 2], [CERTAIN, [344.0, 30.0, 500.0, 130.0]]
    for name in kind:
        tiles.append(WEAK[name][0])
        corners.append(WEAK[name][1])
    merged = merge_detections(
        boxes_in(tiles, corners, [0.9, score, *[score] * len(kind)]), slicing, 2.2
    )
    assert merged.corners[0].tolist() == CERTAIN
    assert merged.score[0] == np.float32(0.9)
    assert (merged.score[1:] < 0.25).all()  # what is left of the weak ones stays weak


def test_parts_of_similar_scores_are_one_object() -> None:
    slicing = Tiling((215, 560), (215, 215), (43, 43))
    parts = [CERTAIN, [172.0, 52.0, 240.0, 108.0]]
    merged = merge_detections(boxes_in([0, 1], parts, [0.9, 0.3]), slicing, 2.2)
    assert merged.corners.tolist() == [[155, 50, 240, 110]]
    assert merged.score[0] == np.float32(0.9)


def test_a_weak_box_does_not_connect_two_certain_ones() -> None:
    """Two neighbors that end at the cuts of their tiles, and a weak box between them."""
    slicing = Tiling((215, 560), (215, 215), (43, 43))
    certain = [[150.0, 50.0, 215.0, 110.0], [344.0, 50.0, 400.0, 110.0]]
    merged = merge_detections(
        boxes_in([0, 2, 1], [*certain, [172.0, 45.0, 387.0, 115.0]], [0.9, 0.8, 0.1]), slicing, 2.2
    )
    assert merged.corners.tolist() == certain


def test_a_certain_box_is_matched_with_a_certain_one_first() -> None:
    """Where both tiles see the first box, the weak box overlaps it more than the second does."""
    slicing = Tiling((215, 560), (215, 215), (43, 43))
    first, second, weak = (
        [155.0, 50.0, 215.0, 110.0],
        [180.0, 55.0, 230.0, 108.0],
        [172.0, 50.0, 300.0, 110.0],
    )
    merged = merge_detections(
        boxes_in([0, 1, 1], [first, second, weak], [0.9, 0.8, 0.06]), slicing, 2.2
    )
    assert merged.corners[0].tolist() == second  # seen whole
    assert merged.score[0] == np.float32(0.8)


def test_a_piece_at_a_cut_is_dropped_where_another_tile_saw_it_whole() -> None:
    slicing = Tiling((100, 160), (100, 100), (0, 40))
    piece = TileDetections(
        np.array([0]),
        np.zeros(1, np.int16),
        np.array([[90, 10, 100, 20]], np.float32),
        np.ones(1, np.float32),
    )
    assert (
        len(merge_detections(piece, slicing, 2).kind) == 0
    )  # tile 1, from x = 60 on, contains all of the piece, and has no box
    lone = Tiling((100, 200), (100, 100), (0, 0))
    assert len(merge_detections(piece, lone, 2).kind) == 1  # no other tile contains it


def test_no_boxes_give_no_boxes() -> None:
    assert len(merge_detections(NO_DETECTIONS, Tiling((50, 50), (20, 20), (4, 4)), 2).kind) == 0


def boxes_of_tiles(
    objects: NDArray[np.float64],
    slicing: Tiling,
    rows_and_columns: list[tuple[int, int]],
    first: int,
) -> TileDetections:
    """Boxes of objects in each tile, a little off.

    The same for tiles at the same place from column ``first`` on.
    """
    detections = []
    for row, column in rows_and_columns:
        tile, noise = (
            row * len(slicing.offsets[1]) + column,
            np.random.default_rng(1000 * row + column - first),
        )
        x0, y0, x1, y1 = window = slicing.windows[tile].tolist()
        inside = np.clip(objects, [x0, y0, x0, y0], [x1, y1, x1, y1])
        seen = inside[(inside[:, 2:] - inside[:, :2] >= 1).all(axis=1)]
        clipped = np.clip(
            seen - np.tile(window[:2], 2) + noise.normal(0, 1.5, seen.shape),
            0,
            [x1 - x0, y1 - y0] * 2,
        )
        boxes = np.round(
            clipped[(clipped[:, 2:] - clipped[:, :2] >= 1).all(axis=1)] + np.tile(window[:2], 2), 2
        )
        score = noise.random(len(boxes)).astype(np.float32)
        detections.append(
            TileDetections(
                np.full(len(boxes), tile),
                np.zeros(len(boxes), np.int16),
                boxes.astype(np.float32),
                score,
            )
        )
    return TileDetections(*(np.concatenate(values) for values in zip(*detections, strict=True)))


def test_positions_of_tiles_in_the_image_change_nothing() -> None:
    """Objects far to the right in a mosaic have the same boxes as in a part that begins there."""
    random = np.random.default_rng(0)
    whole = Tiling((400, 9000), (215, 215), (43, 43))
    rows, columns, first = len(whole.offsets[0]), len(whole.offsets[1]), 30
    shift = whole.offsets[1][first]
    part = Tiling((400, 9000 - shift), (215, 215), (43, 43))
    begin = random.uniform((shift, 0), (8970, 370), (40_000, 2))
    objects = np.column_stack([begin, begin + random.uniform(3, 25, begin.shape)])
    results = []
    for slicing, at in ((whole, 0), (part, shift)):
        skipped = 0 if at else first
        tiles = [
            (row, column + skipped) for row in range(rows) for column in range(columns - first)
        ]
        merged = merge_detections(
            boxes_of_tiles(objects - np.array([at, 0, at, 0]), slicing, tiles, skipped),
            slicing,
            1.1,
        )
        corners = np.round(merged.corners.astype(np.float64) - [shift - at, 0, shift - at, 0], 2)
        away = corners[
            corners[:, 0] > 215
        ]  # at the cut itself objects are cut, or end with their image
        results.append(away[np.lexsort(away.T)])
    assert len(results[0]) > 30_000
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
