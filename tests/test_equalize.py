"""Equalization: curves compared with scikit-image, flicker, black areas, and the stage."""

from typing import Any, get_args

import cv2
import numpy as np
import pytest
import skimage.exposure
from numpy.typing import NDArray

from sparsem.errors import InputError, ResumeError
from sparsem.image.running_median import running_median
from sparsem.preprocess.clahe import equalize_locally
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.gray_curves import (
    apply_curve,
    build_equalization_curve,
    build_matching_curve,
    gray_histogram,
    gray_quantiles,
)
from sparsem.preprocess.settings import EqualizeMethod, EqualizeSettings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, kill_ten_times, put, voxels

METHODS: tuple[EqualizeMethod, ...] = get_args(EqualizeMethod)


def gray(seed: int, dtype: Any = np.uint8, low: float = 60, spread: float = 20) -> NDArray[Any]:
    grain = np.random.default_rng(seed).normal(low, spread, (64, 96))
    scale = 1 if dtype == np.uint8 else 200
    return np.clip(grain * scale, 1, np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_equalization_curve_is_the_cumulative_histogram(dtype: Any) -> None:
    image = gray(1, dtype)
    result = apply_curve(image, build_equalization_curve(gray_histogram(image), image.dtype))
    top = np.iinfo(dtype).max
    expected = skimage.exposure.equalize_hist(image, nbins=top + 1) * (top - 1) + 1
    assert np.abs(result - expected).max() <= (
        2.5 if dtype == np.uint8 else 600
    )  # scikit-image spreads its bins over the range of the image
    assert result.min() >= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_matching_brings_a_slice_to_the_levels_of_another(dtype: Any) -> None:
    image, reference = gray(1, dtype), gray(2, dtype, 110, 35)
    curve = build_matching_curve(
        gray_quantiles(gray_histogram(image)),
        gray_quantiles(gray_histogram(reference)),
        image.dtype,
    )
    result = apply_curve(image, curve).astype(float)
    expected = skimage.exposure.match_histograms(image, reference).astype(float)
    inner = (expected > np.percentile(expected, 1)) & (expected < np.percentile(expected, 99))
    assert np.abs(result - expected)[inner].max() <= 0.012 * np.iinfo(dtype).max
    assert np.all(np.diff(curve.astype(int)) >= 0)


def shaded(dtype: Any = np.uint8) -> NDArray[Any]:
    """Grain with a gradient of brightness."""
    grain = np.random.default_rng(2).normal(0, 12, (240, 320)) + np.linspace(60, 180, 320)
    return np.clip(grain * (1 if dtype == np.uint8 else 257), 1, np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("clip", [1.0, 2.0, 4.0])
def test_clahe_agrees_with_opencv(clip: float) -> None:
    image = shaded()
    result = equalize_locally(image, clip, (80, 80)).astype(float)
    expected = cv2.createCLAHE(clip, (4, 3)).apply(image).astype(float)
    assert np.abs(result - expected).mean() < 3
    assert np.abs(result - expected).max() < 16  # OpenCV clips whole pixels, and pads its tiles


def test_clahe_of_16_bit_agrees_with_8_bit_and_the_clip_limit_has_an_effect() -> None:
    fine, coarse = (
        equalize_locally(shaded(dtype), 2, (80, 80)).astype(float)
        for dtype in (np.uint16, np.uint8)
    )
    assert np.abs(fine / 257 - coarse).mean() < 1
    weak, strong = (equalize_locally(shaded(np.uint16), clip, (80, 80)) for clip in (1, 8))
    assert strong[:, :80].std() > 1.3 * weak[:, :80].std()
    assert (
        len(np.unique(equalize_locally(shaded(np.uint16), 2, (80, 80)))) > 2000
    )  # no gray levels are lost


def test_clahe_leaves_out_black() -> None:
    image = shaded()
    rim = image.copy()
    rim[:80], rim[:, :10] = 0, 0
    seen = equalize_locally(rim, 2, (80, 80))
    assert np.array_equal(seen == 0, rim == 0)
    alone = np.ascontiguousarray(rim[80:])
    assert (
        np.abs(seen[80:, 10:].astype(int) - equalize_locally(alone, 2, (80, 80))[:, 10:]).max() <= 1
    )
    assert not equalize_locally(np.zeros_like(image), 2, (80, 80)).any()


def test_curves_leave_out_black() -> None:
    image = gray(3)
    rim = image.copy()
    rim[:20] = 0
    assert np.array_equal(gray_histogram(rim)[1:], gray_histogram(rim[20:])[1:])
    for curve in (
        build_equalization_curve(gray_histogram(rim), rim.dtype),
        build_matching_curve(
            gray_quantiles(gray_histogram(rim)), gray_quantiles(gray_histogram(image)), rim.dtype
        ),
    ):
        seen = apply_curve(rim, curve)
        assert not seen[:20].any()
        assert seen[20:].all()
    black = np.zeros_like(image)
    assert np.isnan(gray_quantiles(gray_histogram(black))).all()
    assert not apply_curve(
        black,
        build_matching_curve(
            gray_quantiles(gray_histogram(black)),
            gray_quantiles(gray_histogram(image)),
            black.dtype,
        ),
    ).any()


def test_running_median_leaves_out_black_slices() -> None:
    rows = np.array([[1.0, 10], [2, 20], [np.nan, np.nan], [90, 30], [5, 50]])
    assert running_median(rows, 3) == pytest.approx(
        np.array([[1.5, 15], [1.5, 15], [46, 25], [47.5, 40], [47.5, 40]])
    )


def flickering(sample: Sample, dtype: Any = np.uint8) -> NDArray[Any]:
    """The image of the tissue, in which every slice has another brightness and contrast."""
    clean = sample.image("raw").read(slice(None)).astype(float)
    random = np.random.default_rng(5)
    gain, offset = np.exp(random.normal(0, 0.12, len(clean))), random.normal(0, 14, len(clean))
    levels = (clean - 128) * gain[:, None, None] + 128 + offset[:, None, None]
    scale = 1 if dtype == np.uint8 else 256
    return np.clip(levels * scale, 1, np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_flicker_is_removed(own_tissue: Sample, dtype: Any) -> None:
    put(own_tissue, "", flickering(own_tissue, dtype), 7)
    assert equalize(own_tissue).image == "equalized"
    before, after = (own_tissue.image(name).read(slice(None)) for name in ("raw", "equalized"))
    spread = [np.median(stack, axis=(1, 2)).std() for stack in (before, after)]
    assert spread[1] < 0.3 * spread[0]
    assert after.dtype == dtype
    assert own_tissue.newest_image == "equalized"
    assert own_tissue.transform_of(own_tissue.image()).is_same(
        own_tissue.transform_of(own_tissue.image("raw"))
    )


@pytest.mark.parametrize("method", METHODS)
def test_block_depth_and_workers_change_nothing(
    own_tissue: Sample, tmp_path: Any, method: EqualizeMethod
) -> None:
    stack = own_tissue.image("raw").read(slice(None))
    images = []
    for depth in (1, 4, 19):
        sample = copy_of(own_tissue, tmp_path / f"{depth}.zarr")
        put(sample, "", stack, depth)
        equalize(
            sample,
            EqualizeSettings(method=method),
            on=Execution(workers=2 if depth == 4 and method == "flicker" else 0, quiet=True),
        )
        images.append(sample.image("equalized").read(slice(None)))
    assert all(np.array_equal(image, images[0]) for image in images)
    assert not np.array_equal(images[0], stack)


def test_a_killed_run_ends_in_the_same_bytes(own_tissue: Sample, tmp_path: Any) -> None:
    resumed = copy_of(own_tissue, tmp_path / "other.zarr")
    equalize(own_tissue)
    assert (
        kill_ten_times("equalize", {"sample": str(resumed.path), "settings": {}, "seconds": 0.6})
        > 0
    )
    assert all(
        np.array_equal(*pair)
        for pair in zip(voxels(own_tissue.image()), voxels(resumed.image()), strict=True)
    )


def test_a_second_run_reads_the_same_image_and_refuses_another_method(own_tissue: Sample) -> None:
    equalize(own_tissue)
    first = own_tissue.image("equalized").fingerprint
    equalize(own_tissue)
    assert own_tissue.image("equalized").fingerprint == first
    with pytest.raises(ResumeError, match="method: flicker -> clahe"):
        equalize(own_tissue, EqualizeSettings(method="clahe"))
    equalize(own_tissue, EqualizeSettings(method="clahe"), on=Execution(overwrite=True, quiet=True))
    assert own_tissue.image("equalized").made_on == ("raw", own_tissue.image("raw").fingerprint)
    with pytest.raises(InputError, match="There is no slice 19 to match"):
        equalize(own_tissue, EqualizeSettings(method="reference", reference=19, out="matched"))
    with pytest.raises(InputError, match="from itself"):
        equalize(own_tissue, EqualizeSettings(image="equalized"))
