"""Tiles: they cover a slice, are blended without a seam, and are drawn by the papers' rule."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.segment import tiles as tiles_module
from sparsem.segment.sampling import Sampling, TileSampler, tile_counts
from sparsem.segment.tiles import (
    TileGrid,
    enlarge,
    pad_by_reflection,
    scaled_shape,
    shrink,
    shrink_mask,
    taper,
    tile_starts,
)
from sparsem.training.augment import flip_and_rotate, vary_intensity
from tests.conftest import drawn


@given(length=st.integers(1, 400), tile=st.integers(8, 64), share=st.floats(0, 0.5))
def test_tiles_cover_and_overlap_enough(length: int, tile: int, share: float) -> None:
    overlap = round(share * tile)
    starts = tile_starts(length, tile, overlap)
    covered = np.zeros(max(length, tile), int)
    for start in starts:
        covered[start : start + tile] += 1
    assert covered.min() >= 1
    assert starts[0] == 0
    assert starts[-1] + tile == max(length, tile)
    assert all(first + tile - second >= overlap for first, second in pairwise(starts))


@given(shape=st.tuples(st.integers(1, 90), st.integers(1, 90)), overlap=st.integers(0, 16))
def test_cutting_and_blending_returns_the_slice(shape: tuple[int, int], overlap: int) -> None:
    image = np.random.default_rng(0).random(shape, np.float32)
    grid = TileGrid(shape, 32, overlap)
    tiles = grid.cut(image)
    assert tiles.shape == (len(grid.corners), 32, 32)
    blended = grid.blend(tiles[:, None])
    assert blended.shape == (1, *shape)
    assert np.isfinite(blended).all()
    np.testing.assert_allclose(blended[0], image, atol=1e-6)


def test_the_window_is_a_tapered_cosine_without_a_zero() -> None:
    window = taper(64, 16)
    assert window.min() > 0
    assert np.allclose(window[:16] + window[-16:], 1)  # complementary where two tiles overlap
    assert (window[16:48] == 1).all()
    assert np.array_equal(window, window[::-1])


def test_blending_leaves_no_seam() -> None:
    """Tiles whose outputs differ by a constant, as tiles of a network do, join without a step."""
    grid = TileGrid((64, 400), 64, 16)
    outputs = np.stack(
        [np.full((1, 64, 64), 0.3 + 0.4 * (i % 2), np.float32) for i in range(len(grid.corners))]
    )
    jumps = np.abs(np.diff(grid.blend(outputs)[0], axis=1))
    assert jumps.max() < 0.4 / 6
    hard = TileGrid((64, 384), 64, 0).blend(outputs[:6])[0]
    assert np.abs(np.diff(hard, axis=1)).max() == pytest.approx(0.4)


@pytest.mark.parametrize("read", [512, 1024, 2048, 3072, 700])
def test_a_large_area_is_shrunk_and_enlarged_again(read: int) -> None:
    factors = (read / 512, read / 512)
    y, x = np.mgrid[:600, :900].astype(np.float32)
    image = np.sin(y / 90) + np.cos(x / 110)
    small = shrink(image, factors)
    assert (
        shrink(np.full((8, 8), 65535, np.uint16), (2, 2)).max()
        == shrink(np.full((8, 8), 255, np.uint8), (2, 2)).max()
        == 1
    )
    assert small.shape == scaled_shape((600, 900), factors)
    assert small.mean() == pytest.approx(image.mean(), abs=5e-3)
    np.testing.assert_allclose(enlarge(small[None], (600, 900))[0], image, atol=0.06)


@pytest.mark.parametrize("shape", [(64, 48), (63, 47), (60, 50), (8, 8)])
@pytest.mark.parametrize(
    "factors", [(2, 2), (4, 3), (3, 1.7), (1, 2), (1, 0.5), (0.5, 0.5), (9, 9)]
)
def test_stripes_change_nothing(
    shape: tuple[int, int], factors: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.random.default_rng(1).integers(0, 65536, shape, dtype=np.uint16)
    whole = shrink(image, factors)
    monkeypatch.setattr(tiles_module, "STRIPE_ROWS", 5)
    np.testing.assert_array_equal(shrink(image, factors), whole)


def test_shrunk_masks_follow_the_majority_of_what_is_known() -> None:
    mask = drawn("1100", "1000") * 1
    mask = np.where(drawn("0000", "0011") > 0, UNKNOWN, mask).astype(np.uint8)
    assert shrink_mask(mask, (2, 2), UNKNOWN).tolist() == [[1, 0]]
    mask[:, 2:] = UNKNOWN
    assert shrink_mask(mask, (2, 2), UNKNOWN).tolist() == [[1, UNKNOWN]]
    assert np.array_equal(shrink_mask(mask, (1, 1), UNKNOWN), mask)


def test_a_small_slice_is_padded_by_reflection() -> None:
    image = np.arange(6, dtype=np.float32).reshape(2, 3)
    padded = pad_by_reflection(image, 7)
    assert padded.shape == (7, 7)
    assert padded[0].tolist() == [0, 1, 2, 1, 0, 1, 2]
    assert pad_by_reflection(np.zeros((5, 1, 1)), 4).shape == (5, 4, 4)


@given(seed=st.integers(0, 50), tile=st.integers(3, 9), step=st.integers(1, 5))
def test_counts_of_tiles_equal_plain_sums(seed: int, tile: int, step: int) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < 0.3
    counts = tile_counts(mask, tile, step)
    for i, j in np.ndindex(*counts.shape):
        assert counts[i, j] == mask[i * step : i * step + tile, j * step : j * step + tile].sum()


def labeled(seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three slices in which two structures are rare: a square of 12 px in one slice each."""
    random = np.random.default_rng(seed)
    images = [random.standard_normal((1, 150, 200), np.float32) for _ in range(3)]
    targets = [np.zeros((2, 150, 200), np.uint8) for _ in range(3)]
    targets[0][0, 30:42, 50:62] = 1
    targets[2][1, 90:102, 150:162] = 1
    return images, targets


def test_four_of_five_tiles_contain_a_sparse_structure() -> None:
    images, targets = labeled()
    sampler = TileSampler(
        images,
        targets,
        Sampling(
            tile=32,
            batch=5,
            foreground_fraction=0.8,
            min_foreground_px=100,
            intensity_augmentation=0,
            seed=1,
        ),
    )
    for update in range(25):
        _, target = sampler.batch(update)
        counts = (target == 1).sum(axis=(2, 3))  # (batch, structures)
        assert (counts.max(axis=1) >= 100).sum() >= 4
        assert (counts[:4] >= 100).any(axis=0).all()  # both structures take turns
    free = TileSampler(
        images,
        targets,
        Sampling(
            32, 5, foreground_fraction=0, min_foreground_px=100, intensity_augmentation=0, seed=1
        ),
    )
    assert (
        np.mean([(free.batch(update)[1] == 1).any(axis=(1, 2, 3)).mean() for update in range(40)])
        < 0.3
    )


@pytest.mark.parametrize("structures", range(1, 7))
@pytest.mark.parametrize(("batch", "holding"), [(5, 4), (4, 4), (2, 2)])
def test_any_number_of_structures_takes_turns(structures: int, batch: int, holding: int) -> None:
    target = np.zeros((structures, 64, 64), np.uint8)
    for structure in range(structures):
        target[structure, 10 * structure : 10 * structure + 4, 30:34] = 1
    sampler = TileSampler(
        [np.zeros((1, 64, 64), np.float32)],
        [target],
        Sampling(32, batch, 0.8, min_foreground_px=16, intensity_augmentation=0, seed=0),
    )
    met = np.zeros(structures)
    for update in range(40):
        counts = (sampler.batch(update)[1] == 1).sum(axis=(2, 3)) >= 16
        assert counts.any(axis=1).sum() >= holding
        met += counts.any(axis=0)
    assert met.min() >= 0.9 * min(40, 40 * holding // structures)


def test_a_batch_is_a_function_of_seed_and_number() -> None:
    images, targets = labeled()
    sampler, other_sampler = (
        TileSampler(images, targets, Sampling(32, 5, 0.8, 100, 0.25, seed)) for seed in (1, 2)
    )
    (images_a, targets_a), (images_b, targets_b) = sampler.batch(7), sampler.batch(7)
    assert np.array_equal(images_a, images_b)
    assert np.array_equal(targets_a, targets_b)
    assert sampler.batch(7)[0].shape == (5, 1, 32, 32)
    assert sampler.batch(7)[0].dtype == np.float32
    assert not np.array_equal(sampler.batch(7)[0], sampler.batch(8)[0])
    assert not np.array_equal(sampler.batch(7)[0], other_sampler.batch(7)[0])


def test_unknown_slices_and_small_slices_can_be_drawn() -> None:
    images = [np.zeros((1, 20, 50), np.float32)]
    targets = [np.full((1, 20, 50), UNKNOWN, np.uint8)]
    _, target = TileSampler(images, targets, Sampling(32, 3, 0.8, 100, 0.25, 0)).batch(0)
    assert target.shape == (3, 1, 32, 32)
    assert (target == UNKNOWN).all()


def test_all_eight_flips_and_turns_apply_to_image_and_target() -> None:
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4)
    target = (image > 7).astype(np.uint8)
    seen = set()
    for seed in range(60):
        moved, mask = flip_and_rotate((image, target), np.random.default_rng(seed))
        assert np.array_equal(mask, (moved > 7).astype(np.uint8))
        seen.add(moved.tobytes())
    assert len(seen) == 8


def test_adjacent_slices_are_transformed_and_may_be_swapped() -> None:
    image = np.arange(48, dtype=np.float32).reshape(3, 4, 4)
    order = set()
    for seed in range(30):
        moved, mask = flip_and_rotate(
            (image, image[1:2].astype(np.uint8)), np.random.default_rng(seed)
        )
        assert np.array_equal(mask[0], moved[1])
        assert np.array_equal(
            np.sort(moved[0] - moved[1], axis=None), np.full(16, moved[0, 0, 0] - moved[1, 0, 0])
        )
        order.add(moved[0, 0, 0] < moved[2, 0, 0])
    assert order == {True, False}


def test_gray_levels_vary_by_the_strength() -> None:
    image = np.zeros((1, 64, 64), np.float32)
    shifts = [vary_intensity(image, np.random.default_rng(seed), 0.3).mean() for seed in range(200)]
    assert max(np.abs(shifts)) < 0.32
    assert np.std(shifts) == pytest.approx(0.3 / np.sqrt(3), rel=0.15)
    assert np.array_equal(vary_intensity(image, np.random.default_rng(0), 0.0), image)
