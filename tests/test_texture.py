"""Texture compared with definitions, scikit-image and results of pyradiomics 3.0.1."""

import math
from collections.abc import Sequence
from typing import Any

import cc3d
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.ndimage import label as components
from skimage.feature import graycomatrix, graycoprops
from skimage.morphology import closing, footprint_rectangle, opening

from sparsem.measure.features.glcm import (
    DIRECTIONS,
    co_occurrence_features,
    co_occurrence_matrix,
    pair_offsets,
)
from sparsem.measure.features.pattern_spectrum import (
    Growth,
    element_growth,
    pattern_spectrum,
    spectrum_moments,
)
from sparsem.measure.features.size_zones import size_zone_features, zones
from sparsem.measure.features.texture import (
    TEXTURE_COLUMNS,
    GrayScale,
    TextureScale,
    quantize_gray,
    texture_features,
)
from tests.conftest import drawn

ISOTROPIC = (1.0, 1.0, 1.0)


def region() -> NDArray[np.uint8]:
    """Draw 8 gray levels in an ellipsoid, of which pyradiomics computed the features."""
    random = np.random.default_rng(7)
    gray = random.integers(1, 9, (6, 9, 8))
    gray = np.maximum(gray, np.roll(gray, 1, 2))
    z, y, x = np.mgrid[:6, :9, :8]
    inside = (z - 2.5) ** 2 / 9 + (y - 4) ** 2 / 20 + (x - 3.5) ** 2 / 16 < 1
    return np.where(inside, gray, 0).astype(np.uint8)


def test_features_equal_pyradiomics() -> None:
    """Compare with ``RadiomicsGLCM`` and ``RadiomicsGLSZM``.

    The options are ``binWidth=1, weightingNorm='no_weighting'``; the features of the first are Idm,
    Correlation, SumSquares and Contrast.
    """
    gray = region()
    near = co_occurrence_features(co_occurrence_matrix(gray, 8, pair_offsets(1, ISOTROPIC)))
    assert tuple(near) == pytest.approx(
        (0.3885064621284053, 0.054753914874164394, 3.421418451654533, 6.468164794007491), rel=1e-6
    )
    sizes = size_zone_features(*zones(gray))
    assert sizes[:2] == pytest.approx((0.17982456140350878, 11.081384829947476), rel=1e-6)


def test_co_occurrence_in_a_plane_equals_scikit_image() -> None:
    gray = np.random.default_rng(1).integers(1, 7, (1, 20, 30)).astype(np.uint8)
    in_plane = np.array([direction for direction in DIRECTIONS if direction[0] == 0])
    ours = co_occurrence_matrix(gray, 6, in_plane)
    # scikit-image steps (sin a, cos a) in (row, column): 0, 45, 90, 135 degrees are the same four
    # directions, both ways.
    theirs = graycomatrix(
        gray[0] - 1, [1], [0, math.pi / 4, math.pi / 2, 3 * math.pi / 4], levels=6, symmetric=True
    ).sum(axis=(2, 3))
    np.testing.assert_array_equal(ours, theirs)
    normed = theirs[:, :, None, None] / theirs.sum()
    features = co_occurrence_features(ours)
    for name in ("homogeneity", "correlation", "contrast"):
        expected = graycoprops(normed, name)[0, 0]
        assert getattr(features, name) == pytest.approx(expected, rel=1e-9)


def plain_matrix(gray: NDArray[Any], levels: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    counts = np.zeros((levels + 1, levels + 1), np.int64)
    for voxel in np.ndindex(*gray.shape):
        for offset in np.concatenate([offsets, -offsets]):
            neighbor = tuple(int(a + b) for a, b in zip(voxel, offset, strict=True))
            if all(0 <= a < n for a, n in zip(neighbor, gray.shape, strict=True)):
                counts[gray[voxel], gray[neighbor]] += 1
    return counts[1:, 1:]


@settings(max_examples=40)
@given(
    hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.integers(0, 4)
    ),
    st.sampled_from(
        [(1.0, ISOTROPIC), (2.0, ISOTROPIC), (10.0, (10.0, 5.0, 4.0)), (1.0, (5.0, 1.0, 1.0))]
    ),
)
def test_pairs_equal_a_count_voxel_by_voxel(
    gray: NDArray[np.uint8], scale: tuple[float, tuple[float, float, float]]
) -> None:
    offsets = pair_offsets(*scale)
    np.testing.assert_array_equal(
        co_occurrence_matrix(gray, 4, offsets), plain_matrix(gray, 4, offsets)
    )


def test_offsets_have_the_same_length_along_all_axes() -> None:
    steps = np.abs(pair_offsets(50, (50, 5, 4))).max(axis=0)
    assert steps.tolist() == [1, 10, 12]
    assert len(pair_offsets(1, ISOTROPIC)) == 13
    assert np.abs(pair_offsets(1, (5, 1, 1))).max(axis=0).tolist() == [1, 1, 1]


def test_a_flat_region_is_homogeneous_and_a_single_voxel_has_no_features() -> None:
    flat = co_occurrence_features(
        co_occurrence_matrix(np.full((3, 3, 3), 5, np.uint8), 8, pair_offsets(1, ISOTROPIC))
    )
    assert flat == (1.0, 1.0, 0.0, 0.0)
    single = np.zeros((3, 3, 3), np.uint8)
    single[1, 1, 1] = 2
    assert all(
        map(
            math.isnan,
            co_occurrence_features(co_occurrence_matrix(single, 8, pair_offsets(1, ISOTROPIC))),
        )
    )


@settings(max_examples=60)
@given(
    hnp.arrays(
        np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3)
    )
)
def test_zones_are_the_components_of_every_level(gray: NDArray[np.uint8]) -> None:
    expected = []
    for level in (1, 2, 3):
        labels, count = components(gray == level, np.ones((3, 3, 3)))
        expected += [(level, int((labels == number).sum())) for number in range(1, count + 1)]
    levels, sizes = zones(gray)
    assert sorted(zip(levels.tolist(), sizes.tolist(), strict=True)) == sorted(expected)


def test_features_of_a_drawn_matrix_of_zones() -> None:
    gray = drawn("11.2", "1..2", "..3.")[None]
    features = size_zone_features(*zones(gray))
    assert features.zone_percentage == 3 / 6
    assert features.small_zone_high_gray == pytest.approx((1 / 9 + 4 / 4 + 9 / 1) / 3)
    assert (features.mean_level, features.mean_size) == (2.0, 2.0)
    assert all(map(math.isnan, size_zone_features(*zones(np.zeros((2, 2, 2), np.uint8)))))
    assert cc3d.connected_components(gray, connectivity=26).max() == 3


def grain(shape: tuple[int, int, int], width: float = 1.2) -> NDArray[np.uint8]:
    noise = gaussian_filter(np.random.default_rng(0).normal(size=shape), width)
    return np.asarray(np.clip(128 + 60 * noise / noise.std(), 0, 255), np.uint8)


def test_pattern_spectrum_equals_openings_of_scikit_image() -> None:
    image = grain((18, 22, 25))
    ours = pattern_spectrum(
        image, np.ones(image.shape, bool), element_growth(4, 1.0, ISOTROPIC, "box")
    )
    footprints = [footprint_rectangle((2 * n + 1,) * 3) for n in range(5)]
    opened = [opening(image, footprint).sum(dtype=float) for footprint in footprints]
    closed = [closing(image, footprint).sum(dtype=float) for footprint in footprints]
    theirs = np.concatenate([np.diff(closed)[::-1], -np.diff(opened)]) / image.sum()
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_pattern_spectrum_of_anisotropic_voxels_equals_openings_of_the_same_length() -> None:
    image = grain((10, 24, 26))
    ours = pattern_spectrum(
        image, np.ones(image.shape, bool), element_growth(3, 2.0, (4.0, 2.0, 1.0), "box")
    )
    lengths = [(0, 0, 0), (0, 1, 2), (1, 2, 4), (2, 3, 6)]  # n * 2 / edge, to the nearest even half
    opened = [
        opening(image, footprint_rectangle([2 * length + 1 for length in half])).sum(dtype=float)
        for half in lengths
    ]
    np.testing.assert_allclose(ours[3:], -np.diff(opened) / image.sum(), rtol=1e-12)


@pytest.mark.parametrize("element", ["box", "ball"])
def test_no_term_is_negative_and_terms_add_up_in_any_region(element: Any) -> None:
    image = grain((16, 20, 22))
    mask = grain((16, 20, 22), 3) > 128
    steps = element_growth(6, 1.5, (3.0, 1.0, 1.5), element)
    spectrum = pattern_spectrum(image, mask, steps)
    assert spectrum.min() >= 0
    assert spectrum[:6].sum() > 0 < spectrum[6:].sum()
    outside = np.where(mask, image, 255 - image)
    # Gray levels outside the mask do not count.
    np.testing.assert_array_equal(pattern_spectrum(outside, mask, steps), spectrum)


def plain_spectrum(
    image: NDArray[Any], mask: NDArray[np.bool_], steps: Sequence[Growth]
) -> NDArray[np.float64]:
    """Return the pattern spectrum by the definition: extremes of shifted images."""

    def shifted(gray: NDArray[Any], axis: int, by: int, neutral: int) -> NDArray[Any]:
        margin = [(max(by, 0), max(-by, 0)) if k == axis else (0, 0) for k in range(3)]
        padded = np.pad(gray, margin, constant_values=neutral)
        start = max(-by, 0)
        return np.take(padded, np.arange(start, start + gray.shape[axis]), axis)

    def filtered(gray: NDArray[Any], step: Growth, extreme: np.ufunc, neutral: int) -> NDArray[Any]:
        gray = np.where(mask, gray, neutral).astype(gray.dtype)
        of_axes = []
        for axis, length in enumerate(step.half_lengths):
            shifts = range(-length, length + 1)
            of_axes.append(extreme.reduce([shifted(gray, axis, by, neutral) for by in shifts]))
            if not step.pointed:
                gray = of_axes[-1]
        return np.asarray(extreme.reduce(of_axes) if step.pointed else gray)

    largest = int(np.iinfo(image.dtype).max)
    terms = []
    for first, second, before, after in (
        (np.maximum, np.minimum, 0, largest),
        (np.minimum, np.maximum, largest, 0),
    ):
        sums = [float(image[mask].sum())]
        for size in range(1, len(steps) + 1):
            gray = image
            for step in steps[:size]:
                gray = filtered(gray, step, first, before)
            for step in steps[:size][::-1]:
                gray = filtered(gray, step, second, after)
            sums.append(float(gray[mask].sum()))
        terms.append(np.abs(np.diff(sums)) / sums[0])
    return np.concatenate([terms[0][::-1], terms[1]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("element", ["box", "ball"])
def test_the_compiled_spectrum_equals_the_plain_one(element: Any, dtype: Any) -> None:
    random = np.random.default_rng(5)
    for _ in range(12):
        shape = random.integers(1, 10, 3)
        image = random.integers(1, int(np.iinfo(dtype).max) + 1, shape).astype(dtype)
        mask = random.random(shape) < random.choice([0.4, 0.9, 1.0])
        mask.flat[0] = True
        voxel = tuple(random.choice([1.0, 1.5, 4.0], 3))
        steps = element_growth(4, float(random.choice([1.0, 2.5])), voxel, element)
        expected = plain_spectrum(image, mask, steps)
        np.testing.assert_allclose(pattern_spectrum(image, mask, steps), expected, atol=1e-15)


def test_spots_appear_at_their_size() -> None:
    image = np.full((31, 40, 40), 50, np.uint8)
    image[14:17, 16:23, 16:23] = 90  # bright, half-length 3 in a plane, 1 across
    spectrum = pattern_spectrum(
        image, np.ones(image.shape, bool), element_growth(5, 1.0, ISOTROPIC, "box")
    )
    assert np.flatnonzero(spectrum).tolist() == [5 + 1]  # gone with the opening of size 2
    dark = pattern_spectrum(
        255 - image, np.ones(image.shape, bool), element_growth(5, 1.0, ISOTROPIC, "box")
    )
    assert np.flatnonzero(dark).tolist() == [5 - 2]
    moments = spectrum_moments(np.array([0, 0.2, 0, 0, 0.2, 0]))
    assert (moments.mean, moments.deviation, moments.skewness) == pytest.approx((-0.5, 1.5, 0.0))
    assert moments.entropy == pytest.approx(math.log(2))
    assert all(map(math.isnan, spectrum_moments(np.zeros(4))))


def test_a_ball_grows_by_octahedra_and_boxes() -> None:
    assert element_growth(2, 1.0, (2.0, 1.0, 1.0), "ball") == [
        Growth((0, 1, 1), True),
        Growth((1, 1, 1), False),
    ]
    assert element_growth(2, 1.0, (2.0, 1.0, 1.0), "box") == [
        Growth((0, 1, 1), False),
        Growth((1, 1, 1), False),
    ]


def test_gray_levels_are_equal_steps_of_the_scale() -> None:
    image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    levels = quantize_gray(image, GrayScale(0, 256, 64)).ravel()
    np.testing.assert_array_equal(levels, np.arange(256) // 4 + 1)
    deep = quantize_gray(
        np.array([[[-5.0, 100.0, 149.0, 150.0, 999.0]]]), GrayScale(100, 200, 2)
    ).ravel()
    assert deep.tolist() == [1, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="at most 255"):
        quantize_gray(image, GrayScale(0, 256, 256))


def test_texture_of_an_empty_object_is_nan() -> None:
    image = grain((4, 8, 8))
    gray, scale = GrayScale(0, 256, 64), TextureScale((8, 8, 8), 8, 3, 8, "ball")
    values, spectrum = texture_features(image, np.zeros(image.shape, bool), gray, scale)
    assert list(values) == list(TEXTURE_COLUMNS)
    assert np.isnan([*values.values(), *spectrum]).all()
    values, spectrum = texture_features(image, np.ones(image.shape, bool), gray, scale)
    assert np.isfinite([*values.values(), *spectrum]).all()
    assert values["gray_mean"] == pytest.approx(image.mean())
