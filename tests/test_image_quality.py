"""Quality of single images: metrics compared with other implementations.

Tiles, resin, invalid input.
"""

import json
import math
import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import piq
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.models import vgg16

from sparsem.cli.app import run_command_line
from sparsem.errors import InputError, SettingsError
from sparsem.phantom.phantom import phantom_slice
from sparsem.phantom.settings import PhantomSettings
from sparsem.quality.full_reference import (
    as_tensor,
    full_reference_metrics,
    mean_squared_error,
    psnr_from_error,
)
from sparsem.quality.image_metrics import METRICS, MeasuredImage, measure_metrics, quality_tables
from sparsem.quality.images import measure_image_quality as measure_image_quality_stage
from sparsem.quality.images import write_quality_tables
from sparsem.quality.learned_metrics import brisque, dists, find_weight_files
from sparsem.quality.resin import Resin, propose_resin
from sparsem.quality.settings import ImagesSettings
from sparsem.settings import changed, parse
from sparsem.workflow.execution import Execution

pytestmark = pytest.mark.xdist_group("images")  # one process writes the weights of a large network

QUIET = Execution(quiet=True)
Image = NDArray[Any]


def measure_image_quality(*arguments: Any, **options: Any) -> tuple[MeasuredImage, ...]:
    return measure_image_quality_stage(*arguments, **options).images


def gray(image: NDArray[Any], dtype: Any = np.uint8) -> Image:
    top = np.iinfo(dtype).max
    return np.clip(np.round(image), 0, top).astype(dtype)


@pytest.fixture(scope="module")
def clean() -> Image:
    settings = PhantomSettings(
        shape=(8, 400, 360), flicker=0, drift_nm=0, noise=0, curtaining=0, seed=0
    )
    return gray(phantom_slice(settings, 4).image)


def noisy(image: Image, noise: float, seed: int = 0) -> Image:
    return gray(image + np.random.default_rng(seed).normal(0, noise, image.shape))


@pytest.mark.parametrize("scale", [1, 257])
def test_psnr_and_ssim_are_those_of_scikit_image(clean: Image, scale: int) -> None:
    """The factor 257 turns 8 into 16 bit: the same image, the same numbers."""
    kind = np.uint8 if scale == 1 else np.uint16
    image, reference = (
        gray(each.astype(float) * scale, kind) for each in (noisy(clean, 12), clean)
    )
    metrics, top = full_reference_metrics(image, reference), np.iinfo(kind).max
    assert metrics["psnr_db"] == pytest.approx(
        peak_signal_noise_ratio(reference, image, data_range=top), abs=1e-6
    )
    expected = structural_similarity(
        image,
        reference,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=top,
    )
    assert metrics["ssim"] == pytest.approx(expected, abs=1e-3)


def plain_ssim_maps(first: NDArray[np.float64], second: NDArray[np.float64]) -> tuple[float, float]:
    """Means of SSIM and of its contrast and structure alone (Wang et al. 2003).

    Only pixels whose window of 11 px lies within the image count.
    """
    line = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2

    def smooth(image: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(ndimage.correlate(image, window)[5:-5, 5:-5])

    mean, mean_second = smooth(first), smooth(second)
    variance, variance_second = (
        smooth(first * first) - mean**2,
        smooth(second * second) - mean_second**2,
    )
    together = smooth(first * second) - mean * mean_second
    contrast = (2 * together + 0.03**2) / (variance + variance_second + 0.03**2)
    light = (2 * mean * mean_second + 0.01**2) / (mean**2 + mean_second**2 + 0.01**2)
    return float((light * contrast).mean()), float(contrast.mean())


def test_multi_scale_ssim_follows_the_paper(clean: Image) -> None:
    """The value is that of Wang et al. (2003).

    Contrast and structure at five scales, light at the last, to the powers of its table.
    """
    pair = [each[:352, :352].astype(float) / 255 for each in (noisy(clean, 20), clean)]
    product = 1.0
    for scale, power in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        whole, contrast = plain_ssim_maps(pair[0], pair[1])
        product *= (whole if scale == 4 else contrast) ** power
        pair = [each[: each.shape[0] // 2 * 2, : each.shape[1] // 2 * 2] for each in pair]
        pair = [
            each.reshape(each.shape[0] // 2, 2, each.shape[1] // 2, 2).mean(axis=(1, 3))
            for each in pair
        ]
    measured = full_reference_metrics(noisy(clean, 20)[:352, :352], clean[:352, :352])["ms_ssim"]
    assert measured == pytest.approx(product, abs=1e-3)


def test_gmsd_follows_the_paper(clean: Image) -> None:
    """The value is that of Xue et al. (2014).

    Means of 2 x 2, Prewitt's gradients, the standard deviation of their similarity; T is 170 of
    255 squared.
    """
    smaller = [
        each.astype(float).reshape(200, 2, 180, 2).mean(axis=(1, 3))
        for each in (noisy(clean, 20), clean)
    ]
    prewitt = np.array([[1, 0, -1]] * 3) / 3
    size = [
        np.hypot(
            ndimage.convolve(each, prewitt, mode="constant"),
            ndimage.convolve(each, prewitt.T, mode="constant"),
        )
        for each in smaller
    ]
    similar = (2 * size[0] * size[1] + 170) / (size[0] ** 2 + size[1] ** 2 + 170)
    assert full_reference_metrics(noisy(clean, 20), clean)["gmsd"] == pytest.approx(
        float(similar.std()), abs=1e-3
    )


def test_sr_sim_follows_the_paper(clean: Image) -> None:
    """The value is that of Zhang & Li (2012).

    Similarity of spectral residual saliency and of Scharr's gradients, weighted by the larger
    saliency.
    """
    pair = [each.astype(float)[:256, :256] for each in (noisy(clean, 20), clean)]
    saliency = [plain_saliency(each) for each in pair]
    scharr = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
    slope = [
        np.hypot(
            ndimage.convolve(each, scharr, mode="constant"),
            ndimage.convolve(each, scharr.T, mode="constant"),
        )
        for each in pair
    ]
    similar = (2 * saliency[0] * saliency[1] + 0.40) / (saliency[0] ** 2 + saliency[1] ** 2 + 0.40)
    similar *= ((2 * slope[0] * slope[1] + 225) / (slope[0] ** 2 + slope[1] ** 2 + 225)) ** 0.5
    weight = np.maximum(*saliency)
    expected = float((similar * weight).sum() / weight.sum())
    assert full_reference_metrics(noisy(clean, 20)[:256, :256], clean[:256, :256])[
        "sr_sim"
    ] == pytest.approx(expected, abs=1e-3)


def plain_saliency(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spectral residual (Hou & Zhang 2007) at a quarter of the size, then enlarged.

    Both interpolations are cubic; the paper does not specify them.
    """
    small = resized(image, tuple(length // 4 for length in image.shape))
    spectrum = np.fft.fft2(small)
    height = np.log(np.abs(spectrum))
    residual = height - ndimage.uniform_filter(height, 3, mode="nearest")
    saliency = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    line = np.exp(-((np.arange(10) - 4.5) ** 2) / (2 * 3.8**2))
    window = np.outer(line, line) / line.sum() ** 2
    smooth = ndimage.correlate(
        saliency, window, mode="constant", origin=-1
    )  # the middle of an even window lies between two pixels
    return resized((smooth - smooth.min()) / (smooth.max() - smooth.min()), image.shape)


def resized(image: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The image resized by Keys' cubic kernel, as wide as an output pixel where it shrinks.

    Beyond the border lies the mirror image.
    """
    for axis, length in enumerate(shape):
        scale = length / image.shape[axis]
        width = max(1.0, 1 / scale)
        weights = np.zeros((length, image.shape[axis]))
        for out, center in enumerate((np.arange(length) + 0.5) / scale - 0.5):
            for position in range(
                math.floor(center - 2 * width), math.ceil(center + 2 * width) + 1
            ):
                x = abs(center - position) / width
                near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
                mirrored = position % (2 * image.shape[axis])
                weights[out, min(mirrored, 2 * image.shape[axis] - 1 - mirrored)] += (
                    near if x <= 1 else far if x < 2 else 0
                )
        image = np.moveaxis(
            np.tensordot(weights / weights.sum(axis=1, keepdims=True), image, axes=(1, axis)),
            0,
            axis,
        )
    return image


def test_directions(clean: Image) -> None:
    """More noise is worse by every metric, in the direction that its entry states.

    Identical images are best.
    """
    rows = [full_reference_metrics(noisy(clean, noise), clean) for noise in (4, 10, 25)]
    same = full_reference_metrics(clean, clean)
    for name, values in same.items():
        scores = [row[name] * METRICS[name].better for row in rows]
        assert scores == sorted(scores, reverse=True), name
        assert values * METRICS[name].better > scores[0], name
    assert [same["psnr_db"], same["ssim"], same["gmsd"]] == pytest.approx([100, 1, 0], abs=1e-6)
    assert psnr_from_error(0.01) == pytest.approx(20)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weight files like the downloaded ones, with random numbers."""
    folder, random = tmp_path_factory.mktemp("weights"), torch.Generator().manual_seed(0)
    torch.save(
        (torch.randn(774, 1, generator=random), torch.randn(774, 36, generator=random)),
        folder / "brisque_svm_weights.pt",
    )
    numbers = torch.rand(2, 1, 1475, 1, 1, generator=random)
    numbers /= numbers.sum()  # as those of DISTS are
    torch.save({"alpha": numbers[0], "beta": numbers[1]}, folder / "dists_weights.pt")
    torch.manual_seed(0)
    torch.save(vgg16(weights=None).state_dict(), folder / "vgg16-397923af.pth")
    return folder


def test_trained_metrics_agree_with_piq(
    weights: Path, clean: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """piq, which loads the same files by another method, gives the same numbers.

    DISTS of identical images is 0.
    """
    files = find_weight_files(weights).files
    assert not find_weight_files(weights).missing
    stored = {
        name: torch.load(weights / name, weights_only=True)
        for name in ("brisque_svm_weights.pt", "dists_weights.pt")
    }
    module = __import__("importlib").import_module("piq.brisque")
    monkeypatch.setattr(
        module,
        "load_url",
        lambda url, map_location: tuple(
            tensor.clone() for tensor in stored["brisque_svm_weights.pt"]
        ),
    )
    assert brisque(noisy(clean, 9), files["brisque"]) == pytest.approx(
        float(piq.brisque(as_tensor(noisy(clean, 9)))), abs=1e-3
    )
    network = vgg16(weights=None)
    network.load_state_dict(torch.load(weights / "vgg16-397923af.pth", weights_only=True))
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda url, progress: stored["dists_weights.pt"]
    )
    monkeypatch.setattr("piq.perceptual.vgg16", lambda pretrained, progress: network)
    image, reference = (
        as_tensor(each[:256, :256]).expand(1, 3, 256, 256) for each in (noisy(clean, 9), clean)
    )
    distance = dists(noisy(clean, 9)[:256, :256], clean[:256, :256], files["dists"])
    assert distance == pytest.approx(float(piq.DISTS()(image, reference)), abs=1e-3)
    assert dists(clean[:256, :256], clean[:256, :256], files["dists"]) == pytest.approx(0, abs=1e-5)
    assert distance > 0


def test_dists_follows_the_paper(weights: Path, clean: Image) -> None:
    """The value is that of Ding et al. (2020).

    1 minus the weighted similarity of means and of covariance in five stages of VGG16.
    """
    layers = torch.load(weights / "vgg16-397923af.pth", weights_only=True)
    factors = torch.load(weights / "dists_weights.pt", weights_only=True)
    mean, spread = (
        torch.tensor(values).reshape(1, 3, 1, 1)
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    line = torch.tensor([0.5, 1, 0.5]) / 2

    def stages(image: Image) -> list[torch.Tensor]:
        x = as_tensor(image).expand(1, 3, *image.shape)
        features, x = [x], (x - mean) / spread
        for number, layer_numbers in enumerate(
            ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
        ):
            if number:
                window = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
                x = torch.sqrt(
                    torch.nn.functional.conv2d(x**2, window, stride=2, padding=1, groups=x.shape[1])
                    + 1e-12
                )
            for layer in layer_numbers:
                weight, bias = layers[f"features.{layer}.weight"], layers[f"features.{layer}.bias"]
                x = torch.relu(torch.nn.functional.conv2d(x, weight, bias, padding=1))
            features.append(x)
        return features

    similarity, first = 0.0, 0
    for image_features, reference_features in zip(
        stages(noisy(clean, 9)[:128, :128]), stages(clean[:128, :128]), strict=True
    ):
        a, b = (each[0].flatten(1).double() for each in (image_features, reference_features))
        light = (2 * a.mean(1) * b.mean(1) + 1e-6) / (a.mean(1) ** 2 + b.mean(1) ** 2 + 1e-6)
        together = ((a - a.mean(1, keepdim=True)) * (b - b.mean(1, keepdim=True))).mean(1)
        texture = (2 * together + 1e-6) / (a.var(1, correction=0) + b.var(1, correction=0) + 1e-6)
        channels = slice(first, first + len(a))
        similarity += float(
            (
                factors["alpha"][0, channels, 0, 0] * light
                + factors["beta"][0, channels, 0, 0] * texture
            ).sum()
        )
        first += len(a)
    distance = dists(
        noisy(clean, 9)[:128, :128], clean[:128, :128], find_weight_files(weights).files["dists"]
    )
    assert distance == pytest.approx(1 - similarity, abs=1e-3)


def test_missing_weights_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    def offline(url: str, path: str, progress: bool) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    result = find_weight_files(None)
    assert not result.files
    assert (
        "BRISQUE is not measured: brisque_svm_weights.pt cannot be downloaded (https://"
        in result.missing[0]
    )
    assert "dists_weights.pt and vgg16-397923af.pth" in result.missing[1]
    sentence = f"{tmp_path} lacks brisque_svm_weights.pt; download them from https://"
    assert sentence in find_weight_files(tmp_path).missing[0]
    with pytest.raises(
        InputError,
        match=r"There is no folder .*nowhere with weights of metrics; expected brisque_svm_weights.pt",
    ):
        find_weight_files(tmp_path / "nowhere")
    (tmp_path / "brisque_svm_weights.pt").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="is damaged, or holds more than tensors"):
        brisque(
            np.arange(4096, dtype=np.uint8).reshape(64, 64), (tmp_path / "brisque_svm_weights.pt",)
        )
    torch.save((torch.zeros(3, 1), torch.zeros(3, 5)), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"expected \(n, 36\) support vectors, got \(3, 5\)"):
        brisque(np.arange(4096, dtype=np.uint8).reshape(64, 64), (tmp_path / "other.pt",))
    with pytest.raises(InputError, match="do not hold the weights of DISTS"):
        dists(
            np.zeros((64, 64), np.uint8),
            np.zeros((64, 64), np.uint8),
            (tmp_path / "other.pt", weights / "vgg16-397923af.pth"),
        )


def test_an_image_and_its_tiles(clean: Image, weights: Path) -> None:
    image, area = noisy(clean, 8), np.zeros(clean.shape, bool)
    area[10:60, 20:90] = True
    whole, tiles = measure_metrics(
        image, clean, Resin((area,), False), find_weight_files(weights).files, 180
    )
    assert {(tile.top, tile.left) for tile in tiles} == {(0, 0), (0, 180), (220, 0), (220, 180)}
    assert all(math.isfinite(whole[name]) for name in METRICS)
    assert whole["resin_noise"] == pytest.approx(image[area].std() / 255)
    assert whole["resin_noise_reference"] == pytest.approx(clean[area].std() / 255)
    assert whole["psnr_db"] == pytest.approx(psnr_from_error(mean_squared_error(image, clean)))
    assert whole["ssim"] == pytest.approx(np.mean([tile.values["ssim"] for tile in tiles]))
    assert whole["ssim"] == pytest.approx(full_reference_metrics(image, clean)["ssim"], abs=0.01)
    assert math.isnan(tiles[-1].values["resin_noise"])  # no resin is marked in that tile
    assert math.isfinite(tiles[0].values["resin_noise"])
    alone, _ = measure_metrics(image, None, None, {}, 1024)
    assert {name for name, value in alone.items() if math.isfinite(value)} == {
        "noise", "contrast", "snr_db", "sharpness", "resolution_px", "saturated"
    }  # fmt: skip


def test_resin_is_proposed_where_there_is_no_structure(clean: Image) -> None:
    image = noisy(clean, 8)
    image[100:250, 50:200] = noisy(np.full((150, 150), 190.0), 8, seed=1)
    proposal = propose_resin(image)
    assert proposal.is_proposal
    assert proposal.area[100:250, 50:200].sum() >= proposal.parts[0].sum()
    assert 255 * proposal.noise(image) == pytest.approx(8, rel=0.15)


def test_no_resin_is_proposed_in_tissue() -> None:
    grain = np.random.default_rng(0).normal(0, 1, (400, 400))
    tissue = gray(128 + 40 * ndimage.gaussian_filter(grain, 3) / 0.094)
    assert not propose_resin(tissue).parts
    assert math.isnan(propose_resin(tissue).noise(tissue))


@pytest.fixture
def folder(tmp_path: Path, clean: Image) -> Path:
    for number, noise in enumerate((4, 10, 25)):
        tifffile.imwrite(
            tmp_path / f"p{number}.tif", noisy(clean, noise, number), photometric="minisblack"
        )
    tifffile.imwrite(tmp_path / "clean.tif", clean, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "stack.tif",
        np.stack([noisy(clean, 6, z) for z in range(3)]),
        photometric="minisblack",
    )
    mask = np.zeros(clean.shape, np.uint8)
    mask[:50, :50] = 255
    tifffile.imwrite(tmp_path / "resin.tif", mask, photometric="minisblack")
    return tmp_path


def test_images_from_files(folder: Path, capsys: pytest.CaptureFixture[str], weights: Path) -> None:
    """Single images and slices of a stack; a second run measures only what changed."""
    sources = [folder / "p0.tif", folder / "p2.tif", folder / "stack.tif"]
    settings = ImagesSettings(box=(0, 0, 50, 50), slices=(0, 2), weights=str(weights))
    images = measure_image_quality(sources, folder / "out", settings, on=QUIET)
    assert [image.name for image in images] == ["p0", "p2", "stack_z0000", "stack_z0002"]
    assert all(image.resin_marked for image in images)
    assert images[1].values["noise"] > 2 * images[0].values["noise"]
    assert (folder / "out" / "resin" / "stack_z0002.png").stat().st_size > 1000
    record = folder / "out" / "measured" / "p0.json"
    before = record.stat().st_mtime_ns
    again = measure_image_quality(sources, folder / "out", settings, on=QUIET)
    assert repr(again) == repr(images)
    assert record.stat().st_mtime_ns == before
    measure_image_quality(sources, folder / "out", changed(settings, {"tile": 128}), on=QUIET)
    assert record.stat().st_mtime_ns != before
    whole, parts = quality_tables(images)
    assert whole.num_rows == 4
    assert parts.num_rows == 4
    assert all(
        file.read_text().startswith('"image"')
        for file in write_quality_tables(images, folder / "out")
    )


def test_two_files_of_one_name_are_two_images(folder: Path) -> None:
    """Files of equal size and time of change are distinct, as after unpacking an archive.

    A slice has a fixed name.
    """
    for subfolder, source in (("a", "p0.tif"), ("b", "p2.tif")):
        (folder / subfolder).mkdir()
        path = folder / subfolder / "x.tif"
        tifffile.imwrite(path, tifffile.imread(folder / source), photometric="minisblack")
        os.utime(path, ns=(10**18, 10**18))
    both = measure_image_quality(
        [folder / "a" / "x.tif", folder / "b" / "x.tif"],
        folder / "both",
        ImagesSettings(),
        on=QUIET,
    )
    assert [image.name for image in both] == ["x", "x-2"]
    first, second = (
        measure_image_quality(
            [folder / subfolder / "x.tif"], folder / "out", ImagesSettings(), on=QUIET
        )[0]
        for subfolder in "ab"
    )
    assert second.values["noise"] == both[1].values["noise"] > 2 * first.values["noise"]
    single, double = (
        measure_image_quality(
            [folder / "stack.tif"], folder / "out", ImagesSettings(slices=z), on=QUIET
        )
        for z in ((0,), (0, 1))
    )
    assert repr(single[0]) == repr(double[0])
    assert single[0].name == "stack_z0000"


def test_denoised_images_are_replaced_if_the_images_change(folder: Path) -> None:
    """Denoised images are a cache: other slices or another file replace them."""
    for settings in (
        ImagesSettings(denoise="nlm", slices=(0,)),
        ImagesSettings(denoise="nlm", slices=(0, 2)),
    ):
        before = measure_image_quality([folder / "stack.tif"], folder / "out", settings, on=QUIET)
    tifffile.imwrite(
        folder / "stack.tif",
        np.stack([tifffile.imread(folder / "p2.tif")] * 3),
        photometric="minisblack",
    )
    after = measure_image_quality([folder / "stack.tif"], folder / "out", settings, on=QUIET)
    assert after[0].values["resin_noise"] > 2 * before[0].values["resin_noise"]


def test_images_are_compared_with_references_and_denoised_versions(
    folder: Path, weights: Path
) -> None:
    given = ImagesSettings(
        reference=(str(folder / "clean.tif"),) * 2,
        resin=(str(folder / "resin.tif"),) * 2,
        weights=str(weights),
    )
    low, high = measure_image_quality(
        [folder / "p0.tif", folder / "p2.tif"], folder / "a", given, on=QUIET
    )
    assert low.values["ssim"] > high.values["ssim"]
    assert low.values["dists"] != high.values["dists"]
    itself = ImagesSettings(denoise="nlm", slices=(0, 2), weights=str(weights))
    denoised = measure_image_quality(
        [folder / "p2.tif", folder / "stack.tif"], folder / "b", itself, on=QUIET
    )
    assert [image.name for image in denoised] == ["p2", "stack_z0000", "stack_z0002"]
    assert denoised[0].values["resin_noise_reference"] < 0.5 * denoised[0].values["resin_noise"]
    assert denoised[0].values["psnr_db"] < denoised[1].values["psnr_db"]


@pytest.mark.parametrize(
    ("image", "settings", "sentence"),
    [
        (
            np.full((64, 64), 7, np.uint8),
            {},
            "bad: the image holds one gray level, 7, everywhere; there is nothing to measure",
        ),
        (np.ones((1, 1), np.uint8), {}, r"bad: the image has 1 x 1 px; expected at least 32 x 32"),
        (np.full((64, 64), np.nan, np.float32), {}, "NaN"),
        (np.zeros((64, 64, 3), np.uint8), {}, "color image"),
        (None, {"resin": ["empty.tif"]}, "0 pixels are marked as resin; expected at least 1000"),
        (None, {"resin": ["bad.tif"]}, r"bad.tif 1 x 64 x 64; expected the same"),
        (None, {"reference": ["bad.tif"]}, r"its reference bad.tif 1 x 64 x 64"),
        (
            None,
            {"reference": ["p1.tif", "p2.tif"]},
            "1 images and 2 of --reference were given; expected one for each",
        ),
        (None, {"reference": ["p1.tif"], "denoise": "nlm"}, "give one of them"),
        (
            None,
            {"resin": ["resin.tif"], "box": [0, 0, 50, 50]},
            "by a --box, or by a --polygon; give one of them",
        ),
        (None, {"box": [0, 0, 5000, 50]}, "does not lie in an image"),
        (None, {"slices": [9]}, r"stack.tif has slices 0 to 2; --slices asks for 9"),
    ],
)
def test_invalid_images_are_refused(
    folder: Path, image: Image | None, settings: dict[str, Any], sentence: str
) -> None:
    tifffile.imwrite(folder / "bad.tif", np.zeros((64, 64), np.uint8) if image is None else image)
    tifffile.imwrite(folder / "empty.tif", np.zeros((400, 360), np.uint8), photometric="minisblack")
    for name in ("resin", "reference"):
        if name in settings:
            settings = settings | {name: [str(folder / file) for file in settings[name]]}
    source = folder / (
        "bad.tif" if image is not None else "stack.tif" if "slices" in settings else "p0.tif"
    )
    with pytest.raises(InputError, match=sentence):
        measure_image_quality(
            [source], folder / "out", parse(ImagesSettings, settings, "test"), on=QUIET
        )
    assert not (folder / "out" / "images.csv").exists()


def test_a_polygon_has_three_corners() -> None:
    with pytest.raises(SettingsError, match="at least three corners"):
        parse(ImagesSettings, {"polygon": [1, 2, 3, 4]}, "test")


def test_the_command(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, weights: Path
) -> None:
    names = ["p0.tif", "p1.tif"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(
        "sys.argv",
        ["sparsem", "quality", "images", *names, "--weights", str(weights), "--json", "--quiet"],
    )
    with pytest.raises(SystemExit) as ended:
        run_command_line()
    assert ended.value.code == 0
    data = json.loads(
        capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON")
    )
    assert data["images"][0]["ssim"] is None
    assert [entry["image"] for entry in data["images"]] == ["p0", "p1"]
    assert (folder / "quality" / "tiles.csv").exists()
