"""Quality: measures of slices with known faults; distances of removed slices; any block depth."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import scipy.fft
from numpy.typing import ArrayLike, NDArray
from scipy.stats import spearmanr

from sparsem.cli.app import run_command_line
from sparsem.errors import InputError
from sparsem.image.noise import autocorrelation, measure_signal_and_noise, sharpness
from sparsem.image.spectrum import power_spectrum
from sparsem.image.stripes import stripes_by_direction
from sparsem.labels.inventory import describe
from sparsem.phantom.phantom import phantom, phantom_slice
from sparsem.phantom.settings import PhantomSettings
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.settings import EqualizeSettings
from sparsem.quality.flags import Light, flag_slices, stack_light, unlike_neighbors
from sparsem.quality.fourier_ring import resolution_px, ring_correlation
from sparsem.quality.neighbors import charging, compare_slices, spacing, summarize_slice
from sparsem.quality.quality import Quality, quality
from sparsem.quality.resin import (
    Box,
    featureless_squares,
    mask_from_boxes,
    mask_from_polygon,
    noise_in_area,
)
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import kill_ten_times, put

SOUND = PhantomSettings(shape=(24, 320, 384), voxel_nm=(16, 16, 16), cells=2, seed=4)
Image = NDArray[np.uint8]


def gray(image: NDArray[Any]) -> Image:
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def clean() -> NDArray[np.float64]:
    """A slice without any fault."""
    settings = PhantomSettings(
        shape=(8, 512, 512), flicker=0, drift_nm=0, noise=0, curtaining=0, seed=0
    )
    return phantom_slice(settings, 4).image.astype(np.float64)


def rank(true: ArrayLike, measured: ArrayLike) -> float:
    return float(spearmanr(true, measured).statistic)


def spectra(image: NDArray[Any]) -> Any:
    spectrum = power_spectrum(gray(image))
    assert spectrum is not None
    return spectrum


def test_noise_is_what_was_added(clean: NDArray[np.float64]) -> None:
    random = np.random.default_rng(0)
    for noise in (6, 12, 24):
        measured = measure_signal_and_noise(spectra(clean + random.normal(0, noise, clean.shape)))
        assert 255 * measured.noise == pytest.approx(noise, rel=0.15)
        assert measured.snr_db == pytest.approx(20 * np.log10(measured.signal / measured.noise))
    assert 255 * measure_signal_and_noise(spectra(clean)).noise < 4
    clipped = measure_signal_and_noise(
        spectra(20 + random.normal(0, 25, (512, 512)))
    )  # many pixels are black, and all were imaged
    assert 10 < 255 * clipped.noise < 25
    assert clipped.snr_db >= -40


def test_the_spectrum_holds_the_variance_and_the_autocorrelation() -> None:
    """White noise has its variance at zero shift.

    A wave has half its squared height at its period.
    """
    random = np.random.default_rng(1)
    white = spectra(128 + random.normal(0, 20, (512, 512)))
    correlation = autocorrelation(white)
    assert correlation[0, 0] * 255**2 == pytest.approx(400, rel=0.05)
    assert abs(correlation[0, 5] / correlation[0, 0]) < 0.02
    wave = autocorrelation(
        spectra(128 + 60 * np.sin(2 * np.pi * np.arange(512) / 16)[None] * np.ones((512, 1)))
    )
    assert wave[0, 0] * 255**2 == pytest.approx(60**2 / 2, rel=0.02)
    assert wave[0, 8] / wave[0, 0] == pytest.approx(-1, abs=0.02)
    assert wave[16, 0] / wave[0, 0] == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("noise", [3, 12])
def test_blur_is_ranked_by_sharpness_and_by_resolution(
    clean: NDArray[np.float64], noise: float
) -> None:
    random = np.random.default_rng(2)
    blurs = [0.0, 0.5, 0.9, 1.3, 1.8, 2.5]
    blurred = [cv2.GaussianBlur(clean, (0, 0), blur) if blur else clean for blur in blurs]
    slices = [gray(image + random.normal(0, noise, image.shape)) for image in blurred]
    assert rank(blurs, [-sharpness(spectra(image)) for image in slices]) >= 0.9
    correlations = [ring_correlation(image) for image in slices]
    assert (
        rank(
            blurs,
            [resolution_px(correlation) for correlation in correlations if correlation is not None],
        )
        >= 0.9
    )


def test_contrast_is_ranked(clean: NDArray[np.float64]) -> None:
    random = np.random.default_rng(3)
    gains = [0.3, 0.5, 0.7, 0.85, 1.0]
    signals = [
        measure_signal_and_noise(
            spectra((clean - 128) * gain + 128 + random.normal(0, 9, clean.shape))
        ).signal
        for gain in gains
    ]
    assert rank(gains, signals) == pytest.approx(1)
    assert signals[1] / signals[-1] == pytest.approx(0.5, abs=0.03)


def test_ring_correlation_follows_the_definition() -> None:
    """Compared with explicit sums over the rings of one tile."""
    image = np.random.default_rng(4).integers(1, 255, (64, 64), dtype=np.uint8)
    correlation = ring_correlation(image)
    assert correlation is not None
    tile, half = image / 255, 32
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(half) + 0.5) / half)
    hann = np.outer(hann, hann)
    f = scipy.fft.fftfreq(half)
    sums = np.zeros((3, half // 2))
    for (top, left), (lower, right) in (((0, 0), (1, 1)), ((0, 1), (1, 0))):
        first, second = (
            scipy.fft.fft2((part - np.average(part, weights=hann)) * hann)
            for part in (tile[top::2, left::2], tile[lower::2, right::2])
        )
        back = np.exp(1j * np.pi * (f[:, None] * (lower - top) + f[None] * (right - left)))
        for y in range(half):
            for x in range(half):
                ring = int(np.hypot(f[y], f[x]) * half)
                if ring < half // 2:
                    # The highest frequency of an axis has no sign, so that its half pixel has none.
                    cross = (first[y, x] * np.conj(second[y, x]) * back[y, x]).real
                    sums[:, ring] += cross, abs(first[y, x]) ** 2, abs(second[y, x]) ** 2
    expected = sums[0] / np.sqrt(sums[1] * sums[2])
    assert np.allclose(correlation[1:], expected[1:], atol=1e-4)


def test_noise_alone_has_no_resolution() -> None:
    correlation = ring_correlation(gray(128 + np.random.default_rng(5).normal(0, 20, (512, 512))))
    assert correlation is not None
    assert np.isnan(resolution_px(correlation)) or resolution_px(correlation) > 60


def test_stripes_are_ranked_and_have_a_direction() -> None:
    strengths = [0.0, 1.5, 2.5, 4.0, 6.0, 9.0]
    base = {"shape": (8, 512, 512), "flicker": 0, "drift_nm": 0, "seed": 1}
    results = [
        stripes_by_direction(
            spectra(phantom_slice(PhantomSettings(**base, curtaining=strength), 4).image)
        )
        for strength in strengths
    ]
    assert int(np.median([stripes.score for stripes in results], axis=0).argmax()) - 90 in (
        -90,
        -89,
        89,
    )  # along y
    along = [float(np.sqrt(stripes.variance[0])) for stripes in results]
    assert rank(strengths, along) >= 0.9
    assert 255 * along[-1] == pytest.approx(9, rel=0.2)


def with_stripes(image: NDArray[np.uint8], strength: float, seed: int) -> NDArray[np.uint8]:
    """Vertical stripes of a standard deviation in gray levels, two pixels wide."""
    noise = np.random.default_rng(seed).normal(0, 1, (1, image.shape[1])).astype(np.float32)
    stripes = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.0), np.float64)
    return gray(image * 0.8 + 20 + stripes * strength / stripes.std())


@pytest.mark.parametrize("strength", [6.0, 12.0, 20.0])
def test_strength_of_stripes_is_measured(strength: float) -> None:
    image = phantom_slice(changed(SOUND, {"shape": (4, 1024, 1024)}), 2).image
    stripes = stripes_by_direction(spectra(with_stripes(image, strength, 1)))
    assert 255 * float(np.sqrt(stripes.variance[stripes.score.argmax()])) == pytest.approx(
        strength, rel=0.15
    )


def test_stripes_of_a_few_slices_are_found_in_these_alone(tmp_path: Path) -> None:
    settings = changed(SOUND, {"shape": (24, 256, 320), "curtaining": 0})
    sample = phantom(tmp_path / "s.zarr", settings)
    image = sample.image().read(slice(None))
    striped = (3, 8, 9, 15, 20)
    for z in striped:
        image[z] = with_stripes(image[z], 20, z)
    put(sample, "", image, 8, sample.voxel_size)
    result = quality(sample)
    assert tuple(np.flatnonzero(result.columns["stripes"]).tolist()) == striped
    assert result.stripes_degrees == pytest.approx(-90, abs=2)
    assert {z for z, flag in enumerate(result.flags) if "stripes" in flag.remarks} == set(striped)


def test_distances_of_lost_and_repeated_slices() -> None:
    settings = changed(SOUND, {"shape": (48, 320, 384), "voxel_nm": (8, 8, 8)})
    places = [
        *range(10),
        11,
        *range(12, 20),
        22,
        *range(23, 30),
        29,
        *range(30, 40),
        43,
        44,
        45,
        46,
    ]
    summaries = [summarize_slice(phantom_slice(settings, z).image) for z in places]
    near = np.array([np.nan, *(compare_slices(a, b).similarity for a, b in pairwise(summaries))])
    far = np.array(
        [
            np.nan,
            np.nan,
            *(
                compare_slices(a, b).similarity
                for a, b in zip(summaries, summaries[2:], strict=False)
            ),
        ]
    )
    measured, true = spacing(near, far, 25), np.diff(places, prepend=places[0] - 1)
    for distance in (1, 2, 3, 4):
        assert np.nanmedian(measured[true == distance]) == pytest.approx(distance, abs=0.4)
    assert measured[true == 0] < 0.2
    assert rank(
        [0, 1, 2, 3, 4], [float(np.nanmedian(measured[true == distance])) for distance in range(5)]
    ) == pytest.approx(1)


def test_charging_is_what_brightness_and_contrast_do_not_explain() -> None:
    cells = np.random.default_rng(6).random((20, 30)).astype(np.float32)
    assert charging(0.5 * cells + 0.1, [cells, cells]) == pytest.approx(0, abs=1e-6)
    patch = np.zeros_like(cells)
    patch[5:10, 5:15] = 1
    strengths = [0.02, 0.05, 0.1, 0.2]
    assert rank(
        strengths,
        [charging(cells + strength * patch, [cells, cells, cells]) for strength in strengths],
    ) == pytest.approx(1)
    assert np.isnan(charging(cells, []))


def columns(count: int = 40) -> dict[str, NDArray[np.float64]]:
    usual = {
        "brightness": 0.5,
        "contrast": 0.12,
        "noise": 0.03,
        "snr_db": 12.0,
        "sharpness": 0.2,
        "resolution_px": 5.0,
        "stripes": 0.0,
        "charging": 0.01,
    }
    usual |= {
        "saturated": 0.0,
        "shift_fraction": 0.001,
        "similarity": 0.8,
        "second_similarity": 0.6,
        "spacing": 1.0,
    }
    return {name: np.full(count, value) for name, value in usual.items()}


@pytest.mark.parametrize(
    ("measure", "value", "light", "remark"),
    [
        ("snr_db", 1.0, Light.AMBER, "noisy"),
        ("snr_db", -4.0, Light.RED, "noisy"),
        ("noise", 0.07, Light.RED, "noisier than the slices around"),
        ("sharpness", 0.11, Light.AMBER, "blurred"),
        ("contrast", 0.05, Light.RED, "contrast jumps"),
        ("brightness", 0.57, Light.AMBER, "brightness jumps"),
        ("stripes", 0.03, Light.AMBER, "stripes"),
        ("charging", 0.1, Light.RED, "charged"),
        ("saturated", 0.02, Light.AMBER, "saturated"),
        ("shift_fraction", 0.2, Light.RED, "shifted"),
        ("spacing", 0.1, Light.RED, "repeats the slice before"),
        ("similarity", 0.995, Light.RED, "repeats the slice before"),
        ("contrast", 0.0, Light.RED, "one gray level everywhere"),
        ("spacing", 2.0, Light.AMBER, "a slice lost before it"),
        ("spacing", 4.2, Light.RED, "about 3 slices lost before it"),
        ("spacing", 8.0, Light.RED, "about 7 slices lost before it"),
        ("brightness", np.nan, Light.RED, "black"),
    ],
)
def test_every_fault_changes_the_light(
    measure: str, value: float, light: Light, remark: str
) -> None:
    given = columns()
    given[measure][20] = value
    if (measure, value) == ("contrast", 0):
        given["noise"][20] = 0
    flags = flag_slices(given)
    assert flags[20].light is light
    assert remark in flags[20].remarks
    assert {flag.light for z, flag in enumerate(flags) if z != 20} == {Light.GREEN}
    assert stack_light(flags) is Light.AMBER
    assert stack_light(flag_slices(columns())) is Light.GREEN


def test_a_distance_of_slices_that_are_similar_by_chance_is_a_lower_bound() -> None:
    given = columns()
    given["spacing"][20], given["similarity"][20] = 8.0, 0.3 * given["similarity"][19]
    assert flag_slices(given)[20].remarks == ("at least 7 slices lost before it",)


def test_a_smooth_slice_is_blurred_only_if_the_resolution_falls_too() -> None:
    given = columns()
    given["sharpness"][20:22] = 0.14
    given["resolution_px"][21] = 6
    flags = flag_slices(given)
    assert flags[20].light is Light.GREEN
    assert flags[21].remarks == ("blurred",)


def test_a_bad_slice_is_not_taken_for_lost_slices() -> None:
    given = columns()
    given["similarity"][[20, 21]] = 0.01
    given["spacing"][[20, 21]] = 8
    assert unlike_neighbors(given["similarity"], given["second_similarity"]).nonzero()[
        0
    ].tolist() == [20]
    assert [z for z, flag in enumerate(flag_slices(given)) if flag.light is not Light.GREEN] == [20]
    given["second_similarity"][21] = (
        0.02  # its neighbors are not similar either: the stack is broken there
    )
    assert not unlike_neighbors(given["similarity"], given["second_similarity"]).any()


def test_sound_stacks_are_green_and_faults_are_found(tmp_path: Path) -> None:
    assert quality(phantom(tmp_path / "sound.zarr", SOUND)).light is Light.GREEN
    bad = changed(SOUND, {"jump_nm": 1500, "bad_slices": 2, "curtaining": 9, "seed": 5})
    sample = phantom(tmp_path / "bad.zarr", bad)
    result = quality(sample)
    truth = sample.read_table("phantom_slices")
    alone = {z for z, flag in result.slices_to_review() if "unlike its neighbors" in flag.remarks}
    assert alone == set(np.flatnonzero(truth["bad"].to_numpy()).tolist())
    assert result.stripes_degrees == pytest.approx(-90, abs=2)
    table = sample.read_table("quality_raw")
    assert table["light"].to_pylist() == [flag.light.value for flag in result.flags]
    assert {"shift_y_nm", "resolution_nm", "remarks"} <= set(table.column_names)


@pytest.mark.parametrize(("depth", "workers"), [(1, 0), (9, 2)])
def test_blocks_and_workers_do_not_matter(tmp_path: Path, depth: int, workers: int) -> None:
    small = changed(SOUND, {"shape": (20, 128, 160)})
    tables = []
    for name, settings, on in (
        ("a", small, Execution(quiet=True)),
        ("b", changed(small, {"block_depth": depth}), Execution(workers, quiet=True)),
    ):
        sample = phantom(tmp_path / f"{name}.zarr", settings)
        result: Quality = quality(sample, on=on)
        assert len(result.flags) == 20
        tables.append(Sample.open(sample.path).read_table("quality_raw"))
    first, second = (table.to_pydict() for table in tables)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_noise_is_measured_in_marked_resin() -> None:
    random = np.random.default_rng(7)
    image = 128 + 40 * cv2.GaussianBlur(random.standard_normal((400, 500)), (0, 0), 4) / 0.07
    image[40:200, 60:260] = 150
    noisy = gray(image + random.normal(0, 8, image.shape))
    area = mask_from_boxes([Box(50, 70, 190, 250)], noisy.shape)
    assert 255 * noise_in_area(noisy, area) == pytest.approx(8, rel=0.03)
    assert np.array_equal(
        mask_from_polygon([(50, 70), (50, 249), (189, 249), (189, 70)], noisy.shape), area
    )
    boxes = featureless_squares(noisy)
    assert boxes[0].top >= 36
    assert boxes[0].bottom <= 204
    assert 255 * noise_in_area(noisy, mask_from_boxes(boxes[:1], noisy.shape)) == pytest.approx(
        8, rel=0.1
    )
    covered = np.zeros(noisy.shape, int)
    for box in boxes:
        covered[box.top : box.bottom, box.left : box.right] += 1
    assert covered.max() == 1


def test_invalid_resin_is_refused() -> None:
    image = np.full((100, 100), 100, np.uint8)
    with pytest.raises(
        InputError, match=r"The mask of resin has the shape \(50, 50\), the image \(100, 100\)"
    ):
        noise_in_area(image, np.ones((50, 50), bool))
    with pytest.raises(InputError, match="0 pixels are marked as resin; expected at least 1000"):
        noise_in_area(image, np.zeros((100, 100), bool))
    with pytest.raises(
        InputError, match=r"The box 0 0 200 10 \(top left bottom right\) does not lie in an image"
    ):
        mask_from_boxes([Box(0, 0, 200, 10)], (100, 100))
    with pytest.raises(InputError, match="at least three corners; got 2"):
        mask_from_polygon([(0, 0), (1, 1)], (100, 100))
    assert featureless_squares(np.zeros((100, 100), np.uint8)) == []


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A stack in which every fifth slice is charged, and every fifth is out of focus."""
    settings = PhantomSettings(
        shape=(48, 320, 384),
        voxel_nm=(12, 12, 12),
        cells=3,
        seed=2,
        flicker=4,
        drift_nm=15,
        charging=40,
        defocus=3,
    )
    return phantom(
        tmp_path_factory.mktemp("faulty") / "faulty.zarr", settings, on=Execution(quiet=True)
    )


def test_faults_of_a_stack_are_ranked_as_their_true_strength(faulty: Sample) -> None:
    result, truth = quality(faulty, on=Execution(quiet=True)), faulty.read_table("phantom_slices")
    charge, blur, offset = (
        truth[name].to_numpy() for name in ("charge_gray", "blur_px", "offset_gray")
    )
    measured, calm = result.columns, charge == 0
    charged = ~calm & np.isfinite(
        measured["charging"]
    )  # the first and the last slice have no value
    assert np.count_nonzero(~np.isfinite(measured["charging"])) == 2
    assert rank(charge[charged], measured["charging"][charged]) >= 0.9
    assert rank(blur[blur > 0], -measured["sharpness"][blur > 0]) >= 0.9
    assert rank(blur[blur > 0], measured["resolution_px"][blur > 0]) >= 0.9
    assert rank(offset[calm], measured["brightness"][calm]) >= 0.9
    for axis in "yx":
        steps, shifts = (
            -np.diff(truth[f"drift_{axis}_nm"].to_numpy()) / 12,
            measured[f"shift_{axis}_px"][1:],
        )
        known = np.isfinite(shifts)  # a charged and blurred slice is not similar to any
        assert known.sum() >= 44
        assert rank(steps[known], shifts[known]) >= 0.9
    for fault, strong, remark in ((charge, 25, "charged"), (blur, 2, "blurred")):
        remarked = {z for z, flag in enumerate(result.flags) if remark in flag.remarks}
        assert set(np.flatnonzero(fault[:-1] > strong).tolist()) <= remarked
        assert len(remarked - set(np.flatnonzero(fault > 0).tolist())) <= 2


def test_command_reports_slices_to_review(
    faulty: Sample, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The subcommand may be omitted; the report ignores the table of an image that was replaced."""

    def run(*words: str) -> str:
        monkeypatch.setattr("sys.argv", ["sparsem", *words, "--quiet"])
        with pytest.raises(SystemExit) as ended:
            run_command_line()
        assert ended.value.code == 0
        return capsys.readouterr().out

    path = str(faulty.path)
    assert run("quality", path) == run("quality", "sample", path)
    lines = run("quality", path).splitlines()
    assert lines[0].startswith("raw: ")
    assert "Median of the slices: noise" in lines[1]
    assert any("charged" in line for line in lines)
    data = json.loads(run("quality", path, "--json"))
    assert data["light"] in ("amber", "red")
    assert {"z", "light", "remarks"} == set(data["review"][0])
    page = faulty.path.parent / "page.html"
    run("report", path, "-o", str(page))
    text = page.read_text(encoding="utf-8")
    assert "Image quality: faulty, raw" in text
    assert "slices are red" in text
    equalize(faulty, EqualizeSettings(out="even"), on=Execution(quiet=True))
    run("quality", path, "--image", "even")
    assert describe(faulty)["outdated"] == []
    equalize(
        faulty,
        EqualizeSettings(method="standard", out="even", image="raw"),
        on=Execution(quiet=True, overwrite=True),
    )
    assert describe(faulty)["outdated"] == ["tables/quality_even"]
    run("report", path, "-o", str(page), "--overwrite")
    assert "Image quality: faulty, even" not in page.read_text(encoding="utf-8")


def test_a_killed_run_gives_the_same_table(tmp_path: Path) -> None:
    small = changed(SOUND, {"shape": (20, 128, 160), "block_depth": 1})
    samples = [phantom(tmp_path / f"{name}.zarr", small, on=Execution(quiet=True)) for name in "ab"]
    quality(samples[0], on=Execution(quiet=True))
    assert (
        kill_ten_times("quality", {"sample": str(samples[1].path), "settings": {}, "seconds": 0.6})
        > 0
    )
    first, second = (sample.read_table("quality_raw").to_pydict() for sample in samples)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_black_and_constant_slices_are_red(tmp_path: Path) -> None:
    """Constant and black slices get a light without numbers; slices of one pixel are refused."""
    random = np.random.default_rng(0)
    stack = random.integers(1, 255, (6, 64, 64)).astype(np.uint8)
    stack[2], stack[4] = 0, 77
    sample = phantom(
        tmp_path / "s.zarr", changed(SOUND, {"shape": (6, 64, 64)}), on=Execution(quiet=True)
    )
    put(sample, "", stack)
    result = quality(sample, on=Execution(quiet=True))
    assert result.flags[2].remarks == ("black",)
    assert result.flags[4].light is Light.RED
    put(sample, "", stack[:, :60, :50])  # too small for the middle band of sharpness
    quality(sample, on=Execution(quiet=True, overwrite=True))
    assert np.isnan(sample.read_table("quality_raw")["sharpness"].to_numpy()).all()
    put(sample, "", np.full((3, 1, 1), 9, np.uint8))
    with pytest.raises(InputError, match="have 1 x 1 px; expected at least 32 x 32 px"):
        quality(sample, on=Execution(quiet=True, overwrite=True))
