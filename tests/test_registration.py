"""Registration of pairs: known motions, both kernels, an independent library.

Positions of a stack.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from sparsem.preprocess.common_rectangle import common_rectangle
from sparsem.preprocess.detail import extract_detail
from sparsem.preprocess.registration import (
    coarse_shift,
    nearest_rotation,
    register,
    shift_correlations,
)
from sparsem.preprocess.settings import MotionKind
from sparsem.preprocess.slice_positions import (
    RegisteredPair,
    connected_groups,
    pairs_across_gaps,
    reliable_pairs,
    solve_slice_positions,
)
from sparsem.preprocess.tile_sums import tile_sums
from sparsem.store.transforms import UNMOVED, Motion, compose, invert, warp

SHAPE = (200, 260)


def texture(seed: int, shape: tuple[int, int] = (420, 480)) -> NDArray[np.uint8]:
    """Grain of several sizes, as in cytoplasm."""
    random = np.random.default_rng(seed)
    layers = [
        cv2.GaussianBlur(random.standard_normal(shape), (0, 0), size) * size for size in (1.5, 3, 6)
    ]
    return np.clip(128 + 25 * sum(layers), 0, 255).astype(np.uint8)


def view_of(image: NDArray[np.uint8], motion: Motion, seed: int) -> NDArray[np.uint8]:
    """A view of an image at the position to which ``motion`` leads, with noise."""
    view = warp(image, motion, SHAPE, "cubic").astype(np.float64)
    return np.clip(view + np.random.default_rng(seed).normal(0, 6, SHAPE), 0, 255).astype(np.uint8)


def view_motion(y: float, x: float, linear: NDArray[np.float64] | None = None) -> Motion:
    """The motion to a view of ``SHAPE`` whose center is offset by (y, x) from that of the image."""
    linear = np.eye(2) if linear is None else linear
    center = (np.array(SHAPE) - 1) / 2
    middle = np.array([209.5 + y, 239.5 + x])
    return np.concatenate([linear, (middle - linear @ center)[:, None]], axis=1)


@pytest.mark.parametrize(
    ("y", "x"), [(0, 0), (0.5, -0.25), (3.4, -2.7), (-40.3, 55.8), (80.0, -90.5)]
)
def test_a_shift_of_any_size_is_found(y: float, x: float) -> None:
    image = texture(1)
    first, second = view_of(image, view_motion(0, 0), 2), view_of(image, view_motion(y, x), 3)
    result = register(extract_detail(first), extract_detail(second))
    assert result.motion[:, 2] == pytest.approx(
        [-y, -x], abs=0.1
    )  # content moves in the opposite direction
    assert np.array_equal(result.motion[:, :2], np.eye(2))
    assert result.similarity > 0.6
    assert result.overlap == pytest.approx((1 - abs(y) / 200) * (1 - abs(x) / 260), abs=0.03)


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_turns_and_shears_are_found(kind: MotionKind) -> None:
    turn = np.radians(1.5)
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = linear if kind == "rigid" else linear @ np.array([[1.01, 0.004], [0.0, 0.99]])
    image = texture(4)
    first, second = (
        view_of(image, view_motion(0, 0), 5),
        view_of(image, view_motion(4.3, -7.6, linear), 6),
    )
    true = compose(invert(view_motion(4.3, -7.6, linear)), view_motion(0, 0))
    motion = register(extract_detail(first), extract_detail(second), kind).motion
    corners = np.array([[0, 0, 199, 199], [0, 259, 0, 259], [1, 1, 1, 1]])
    assert np.abs(motion @ corners - true @ corners).max() < 0.25
    if kind == "rigid":
        assert np.allclose(motion[:, :2] @ motion[:, :2].T, np.eye(2))


def test_a_large_slice_is_shrunk_for_registration() -> None:
    image = texture(7, (900, 1100))
    views = [
        warp(image, np.array([[1, 0, 20 + y], [0, 1, 30 + x]], float), (800, 1000), "cubic")
        for y, x in ((0, 0), (5.3, -8.6))
    ]
    details = [extract_detail(view, working_mpx=0.3) for view in views]
    assert details[0].factor == 2
    assert register(details[0], details[1]).motion[:, 2] == pytest.approx([-5.3, 8.6], abs=0.1)


def test_unrelated_slices_have_no_similarity() -> None:
    first, second = (
        view_of(texture(1), view_motion(0, 0), 2),
        view_of(texture(2), view_motion(0, 0), 3),
    )
    assert abs(register(extract_detail(first), extract_detail(second)).similarity) < 0.1
    black = np.zeros(SHAPE, np.uint8)
    assert register(extract_detail(black), extract_detail(black)).similarity == 0


def plain_sums(
    fixed: NDArray[np.float32], moving: NDArray[np.float32], motion: Motion
) -> tuple[NDArray[np.float64], ...]:
    """The definition of the sums, pixel by pixel."""
    across = -(-fixed.shape[1] // 16)
    tiles = across * -(-fixed.shape[0] // 16)
    hessian, gradient, sums, count = (
        np.zeros((tiles, 2, 2)),
        np.zeros((tiles, 2)),
        np.zeros((tiles, 3)),
        np.zeros(tiles),
    )
    for i in range(1, fixed.shape[0] - 1):
        for j in range(1, fixed.shape[1] - 1):
            y, x = motion @ [i, j, 1]
            p, q = int(np.floor(y)), int(np.floor(x))
            if not (0 <= p < moving.shape[0] - 1 and 0 <= q < moving.shape[1] - 1):
                continue
            square = moving[p : p + 2, q : q + 2].astype(float)
            moving_value = np.array([1 - (y - p), y - p]) @ square @ np.array([1 - (x - q), x - q])
            fixed_value = float(fixed[i, j])
            slope = (
                np.array(
                    [fixed[i + 1, j] - fixed[i - 1, j], fixed[i, j + 1] - fixed[i, j - 1]], float
                )
                / 2
            )
            tile = i // 16 * across + j // 16
            hessian[tile] += np.outer(slope, slope)
            gradient[tile] += slope * (moving_value - fixed_value)
            sums[tile] += [fixed_value * moving_value, fixed_value**2, moving_value**2]
            count[tile] += 1
    return hessian, gradient, sums, count


@pytest.mark.parametrize(
    "motion",
    [
        UNMOVED,
        np.array([[1, 0, 3.25], [0, 1, -6.5]]),
        np.array([[1, 1e-12, -2.75], [0, 1, 40.0]]),
        np.array([[0.99, 0.05, 2], [-0.04, 1.02, 1.5]]),
    ],
)
def test_both_kernels_follow_the_definition(motion: Motion) -> None:
    random = np.random.default_rng(8)
    fixed, moving = (random.standard_normal((37, 52)).astype(np.float32) for _ in range(2))
    for sums, expected in zip(
        tile_sums(fixed, moving, motion), plain_sums(fixed, moving, motion), strict=True
    ):
        assert sums == pytest.approx(expected, rel=2e-4, abs=2e-4)


def test_compiled_and_cached_kernels_give_the_same_digits(tmp_path: Path) -> None:
    """A killed run resumes in a process that loads the kernel from the cache."""
    command = (
        "import numpy as np; from sparsem.preprocess.tile_sums import tile_sums\n"
        "random = np.random.default_rng(8); a, b = (random.standard_normal((61, "
        "83)).astype(np.float32) for _ in range(2))\n"
        "for motion in ([[1, 0, 3.25], [0, 1, -6.5]], [[0.99, 0.05, 2], [-0.04, 1.02, 1.5]]):\n"
        "    print([part.tobytes().hex() for part in tile_sums(a, b, np.array(motion, float))])"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run(
            [sys.executable, "-c", command],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    ]
    assert len(runs[0].stdout) > 5_000
    assert runs[0].stdout == runs[1].stdout


def test_correlations_are_those_of_the_overlap() -> None:
    random = np.random.default_rng(2)
    fixed, moving = (random.standard_normal((7, 9)).astype(np.float32) + 40 for _ in range(2))
    similarity, overlap = shift_correlations(fixed, moving)
    for y, x in ((0, 0), (2, -3), (-4, 5), (3, 4)):
        fixed_part = fixed[max(0, -y) : 7 - max(0, y), max(0, -x) : 9 - max(0, x)]
        moving_part = moving[max(0, y) : 7 + min(0, y), max(0, x) : 9 + min(0, x)]
        assert overlap[6 + y, 8 + x] == pytest.approx(fixed_part.size / 63)
        assert similarity[6 + y, 8 + x] == pytest.approx(
            np.corrcoef(fixed_part.ravel(), moving_part.ravel())[0, 1], abs=1e-5
        )
    wide = texture(3, (60, 90)).astype(np.float32)
    assert coarse_shift(wide[10:50, 20:80], wide[18:58, 4:64]) == (-8, 16)
    flat = np.zeros((20, 30), np.float32)
    assert np.isfinite(shift_correlations(flat, flat)[0]).all()


def test_opencv_finds_the_same_shift() -> None:
    image = texture(9)
    pair = [
        extract_detail(view_of(image, view_motion(0, 0), 1)),
        extract_detail(view_of(image, view_motion(1.7, -2.3), 2)),
    ]
    shift = register(pair[0], pair[1]).motion[:, 2]
    start = np.array([[1, 0, 2], [0, 1, -2]], np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-7)
    _, opencv_motion = cv2.findTransformECC(
        pair[0].levels[0],
        pair[1].levels[0],
        start,
        cv2.MOTION_TRANSLATION,
        stop,
        np.ones(SHAPE, np.uint8),
        1,
    )
    assert shift == pytest.approx(opencv_motion[::-1, 2], abs=0.05)


@pytest.mark.parametrize(
    ("first", "second", "shift"),
    [
        ("S000_000_000", "S001_000_001", (-92, -37)),
        ("S000_001_000", "S001_001_001", (-98, -113)),
        ("S000_001_001", "S001_001_001", (-62, 637)),
    ],
)
def test_serial_sections_that_share_no_fine_detail(
    real_data: Callable[[str], Path], first: str, second: str, shift: tuple[float, float]
) -> None:
    """Two real sections with the grid of the camera on them, checked by eye.

    The last pair overlaps by a fifth.
    """
    sections = [
        extract_detail(tifffile.imread(real_data(f"sem_tiles_unaligned/{name}_raw.tif")))
        for name in (first, second)
    ]
    result = register(sections[0], sections[1], "rigid")
    assert result.motion[:, 2] == pytest.approx(shift, abs=8)
    assert result.similarity > 0.15
    unrelated = extract_detail(
        tifffile.imread(real_data("sem_tiles_unaligned/S000_000_001_raw.tif"))
    )
    assert (
        register(sections[0], unrelated, "rigid").overlap < 0.3
        or register(sections[0], unrelated, "rigid").similarity < 0.15
    )


# Positions of a whole stack, from registered pairs alone.


def true_motions(count: int, kind: MotionKind) -> Motion:
    random = np.random.default_rng(0)
    motions = np.repeat(UNMOVED[None], count, axis=0)
    if kind != "translation":
        motions[:, :, :2] += random.normal(0, 0.01, (count, 2, 2))
    if kind == "rigid":
        motions[:, :, :2] = nearest_rotation(motions[:, :, :2])
    motions[:, :, 2] = np.cumsum(random.normal(0, 3, (count, 2)), axis=0)
    motions[count // 2 :, :, 2] += 300
    return compose(np.repeat(invert(motions[0])[None], count, axis=0), motions)


def pairs_of(motions: Motion, neighbors: int, bad: tuple[int, ...] = ()) -> list[RegisteredPair]:
    pairs = [(z, z + k) for k in range(1, neighbors + 1) for z in range(len(motions) - k)]
    return [
        RegisteredPair(i, j, compose(invert(motions[j]), motions[i]), 0.7)
        for i, j in pairs
        if i not in bad and j not in bad
    ]


@pytest.mark.parametrize("kind", ["translation", "rigid", "affine"])
def test_positions_follow_from_pairs_and_a_wrong_pair_is_outvoted(kind: MotionKind) -> None:
    true = true_motions(40, kind)
    pairs = pairs_of(true, 2)
    wrong = [
        RegisteredPair(
            pair.fixed, pair.moving, pair.motion + np.array([[0, 0, 50], [0, 0, -9]]), 0.9
        )
        if (pair.fixed, pair.moving) == (30, 31)
        else pair
        for pair in pairs
    ]
    positions = solve_slice_positions(40, wrong, kind, (300, 400))
    assert (
        np.abs(
            compose(
                np.repeat(invert(positions.to_common[0])[None], 40, axis=0), positions.to_common
            )
            - true
        ).max()
        < 1e-3
    )
    assert positions.bad == positions.breaks == ()


def test_bad_slices_lie_between_their_neighbors_and_gaps_are_bridged() -> None:
    true = true_motions(40, "translation")
    pairs = pairs_of(true, 2, bad=(7, 8))
    assert [group.tolist() for group in connected_groups(40, pairs)][1:3] == [[7], [8]]
    assert pairs_across_gaps(40, pairs) == [(6, 9), (5, 9), (6, 10)]
    broken = solve_slice_positions(40, pairs, "translation", (300, 400))
    assert broken.bad == (7, 8)
    assert broken.breaks == (9,)
    bridged = [
        *pairs,
        *(
            RegisteredPair(i, j, compose(invert(true[j]), true[i]), 0.5)
            for i, j in pairs_across_gaps(40, pairs)
        ),
    ]
    whole = solve_slice_positions(40, bridged, "translation", (300, 400))
    assert whole.breaks == ()
    good = [z for z in range(40) if z not in (7, 8)]
    assert np.abs(whole.to_common - true)[good].max() < 1e-3
    between = true[6, :, 2] + (true[9, :, 2] - true[6, :, 2]) * np.array([[1], [2]]) / 3
    assert whole.to_common[[7, 8], :, 2] == pytest.approx(between, abs=1e-3)


def test_a_few_similar_bad_slices_do_not_break_the_stack() -> None:
    true = true_motions(40, "translation")
    pairs = [*pairs_of(true, 2, bad=(7, 8)), RegisteredPair(7, 8, UNMOVED, 0.9)]
    assert (6, 9) in pairs_across_gaps(40, pairs)
    bridged = [*pairs, RegisteredPair(6, 9, compose(invert(true[9]), true[6]), 0.5)]
    positions = solve_slice_positions(40, bridged, "translation", (300, 400))
    assert (positions.bad, positions.breaks) == ((7, 8), ())
    good = [z for z in range(40) if z not in (7, 8)]
    assert np.abs(positions.to_common - true)[good].max() < 1e-3


def test_the_common_frame_is_that_of_most_slices() -> None:
    true = true_motions(15, "translation")
    turned = view_motion(0, 0)
    turned[:, :2] = [[0.9, -0.4359], [0.4359, 0.9]]
    true[0] = compose(true[0], turned)  # the first slice alone was mounted askew
    positions = solve_slice_positions(15, pairs_of(true, 2), "rigid", (300, 400))
    assert np.abs(positions.to_common[1:, :, :2] - np.eye(2)).max() < 1e-3
    assert np.abs(positions.to_common[0, :, :2] - true[0, :, :2]).max() < 1e-3


def quad(
    height: float, width: float, degrees: float, y: float = 0, x: float = 0
) -> NDArray[np.float64]:
    a = np.radians(degrees)
    corners = np.array([[-1, -1], [-1, 1], [1, 1], [1, -1]]) * [height / 2, width / 2]
    return np.asarray(
        corners @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) + [y, x]
    )


def test_the_largest_common_rectangle_of_rotated_slices() -> None:
    low, high = common_rectangle(np.stack([quad(100, 60, 0), quad(100, 60, 0, 7, -5)]))
    assert low == pytest.approx([-43, -30], abs=0.1)
    assert high == pytest.approx([50, 25], abs=0.1)
    low, high = common_rectangle(quad(100, 100, 45)[None])
    assert high - low == pytest.approx(
        [100 / np.sqrt(2)] * 2, rel=2e-3
    )  # a square in a square on its corner
    two = np.stack([quad(4000, 6000, 0), quad(4000, 6000, 25)])
    low, high = common_rectangle(two[:, ::-1])  # in either orientation
    inside = [(outline(corners, low, high) >= -1e-3).all() for corners in two]
    assert all(inside)
    assert np.prod(high - low) > 0.42 * 4000 * 6000
    low, high = common_rectangle(np.stack([quad(10, 10, 3), quad(10, 10, 0, 50, 0)]))
    assert (high <= low).any()


def outline(
    corners: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Distances by which the corners of a rectangle lie within each edge of an area."""
    rectangle = np.array([[y, x] for y in (low[0], high[0]) for x in (low[1], high[1])])
    ahead = np.roll(corners, -1, axis=0) - corners
    inward = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1)
    inward *= np.sign(((corners.mean(axis=0) - corners) * inward).sum(axis=1))[:, None]
    return np.asarray(
        ((rectangle[:, None] - corners) * inward / np.linalg.norm(inward, axis=1)[:, None]).sum(
            axis=2
        )
    )


def test_only_similar_and_near_pairs_are_reliable() -> None:
    pairs = [RegisteredPair(z, z + 1, UNMOVED, 0.8) for z in range(9)] + [
        RegisteredPair(z, z + 2, UNMOVED, 0.5) for z in range(8)
    ]
    pairs += [
        RegisteredPair(9, 10, UNMOVED, 0.3),
        RegisteredPair(8, 10, UNMOVED, 0.3),
        RegisteredPair(10, 11, view_motion(0, 0), 0.8),
        RegisteredPair(11, 12, UNMOVED, 0.05),
    ]
    reliable = {(pair.fixed, pair.moving) for pair in reliable_pairs(pairs, 0.4, 100, (20, 30))}
    assert (9, 10) not in reliable  # 0.3 of 0.8
    assert (8, 10) in reliable  # 0.3 of 0.5
    assert (10, 11) not in reliable  # it lies 330 px away
    assert (11, 12) not in reliable
    assert solve_slice_positions(1, [], "rigid", (20, 30)).to_common == pytest.approx(UNMOVED[None])
