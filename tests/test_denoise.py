"""Denoising: noise is removed, tissue and black areas stay.

Noise2Void in tiles and in parts; the stage.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio as psnr

from sparsem.errors import InputError, ResumeError, SettingsError
from sparsem.image.black_areas import black_areas
from sparsem.phantom.phantom import phantom_slice
from sparsem.phantom.settings import PhantomSettings
from sparsem.preprocess import denoise as stage
from sparsem.preprocess import noise2void
from sparsem.preprocess.denoise import denoise
from sparsem.preprocess.noise2void import (
    DenoiserTraining,
    denoise_slice,
    load_network,
    new_network,
    patch_sampler,
    train_part,
)
from sparsem.preprocess.nonlocal_means import denoise_nonlocal_means
from sparsem.preprocess.settings import DenoiseSettings
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, kill_ten_times, put, voxels

QUIET = Execution(quiet=True)
CPU = torch.device("cpu")
SHORT = DenoiseSettings(updates=6, batch=2, device="cpu")
TRAINING = DenoiserTraining(4, 2, 1e-3, 3, CPU)

careamics = pytest.mark.skipif(
    importlib.util.find_spec("careamics") is None, reason="CAREamics is not installed"
)
# One process loads CAREamics, which takes seconds.
together = pytest.mark.xdist_group("careamics")


@pytest.fixture(scope="module")
def pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Stacks of the shape (6, 160, 168) without and with noise."""
    settings = PhantomSettings(
        shape=(8, 160, 168),
        voxel_nm=(16, 16, 16),
        flicker=0,
        drift_nm=0,
        noise=0,
        curtaining=0,
        seed=0,
    )
    clean = np.stack([phantom_slice(settings, z).image for z in range(6)]).astype(np.float64)
    noisy = clean + np.random.default_rng(0).normal(0, 20, clean.shape)
    images = [np.clip(np.round(image), 1, 255).astype(np.uint8) for image in (clean, noisy)]
    return images[0], images[1]


@pytest.fixture
def sample(own_tissue: Sample, pair: tuple[Any, Any]) -> Sample:
    put(own_tissue, "", pair[1], 6)
    return own_tissue


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nonlocal_means_removes_noise(pair: tuple[Any, Any], dtype: Any) -> None:
    scale = 1 if dtype == np.uint8 else 257
    clean, noisy = (stack[0].astype(dtype) * dtype(scale) for stack in pair)
    result = denoise_nonlocal_means(noisy, 0.7)
    assert result.dtype == dtype
    assert psnr(clean, result) > psnr(clean, noisy) + 5
    assert (
        psnr(clean, denoise_nonlocal_means(clean, 0.7)) > 30
    )  # without noise the image hardly changes


def test_black_areas_stay_and_black_pixels_do_not(pair: tuple[Any, Any]) -> None:
    image = pair[1][0].copy()
    image[:12], image[:, -9:] = 0, 0
    image[50:150:10, 40] = 0
    area = black_areas(image)
    assert area[:12].all()
    assert area[:, -9:].all()
    assert not area[12:, :-9].any()
    for width in (1, 2, 3, 6):
        rim = np.ones((60, 80), np.uint8)
        rim[:, :width], rim[-width:] = 0, 0
        assert np.array_equal(black_areas(rim), rim == 0)
    wedge = (np.arange(80)[None] >= np.arange(60)[:, None] / 6).astype(np.uint8)
    assert np.array_equal(black_areas(wedge), wedge == 0)
    for result in (
        denoise_nonlocal_means(image, 0.7),
        denoise_slice(image, Identity(), (100.0, 30.0), CPU),
    ):
        assert np.array_equal(result == 0, area)
    assert not denoise_nonlocal_means(np.zeros((64, 64), np.uint8), 0.7).any()
    assert np.array_equal(
        denoise_nonlocal_means(image[:20, :20], 0.7), image[:20, :20]
    )  # too small to measure noise


class Amplified(torch.nn.Module):
    """A network with random weights, whose nearly constant output is amplified."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.network(x)
        return 1000 * (output + 0.1325)


class Identity(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@careamics
@together
@pytest.mark.parametrize("shape", [(160, 168), (97, 131), (64, 70)])
def test_tiles_give_the_same_numbers_as_the_whole_slice(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    network = Amplified(new_network()).eval()
    image = np.random.default_rng(0).integers(1, 65535, shape).astype(np.uint16)
    whole = denoise_slice(image, network, (30_000.0, 20_000.0), CPU, "float32")
    rough = denoise_slice(image, network, (30_000.0, 20_000.0), CPU, "bfloat16")
    monkeypatch.setattr(noise2void, "TILE_PX", 48)
    tiles = denoise_slice(image, network, (30_000.0, 20_000.0), CPU, "float32")
    assert np.abs(whole.astype(int) - tiles.astype(int)).max() <= 1
    assert len(np.unique(whole)) > 100
    assert len(np.unique(rough)) > 0.8 * len(
        np.unique(whole)
    )  # half precision does not round the result


@careamics
@together
def test_a_pixel_depends_on_no_pixel_beyond_the_halo() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    output = new_network().eval()(x)
    for pixel in ((64, 64), (65, 66), (67, 65)):
        (slope,) = torch.autograd.grad(output[0, 0, pixel[0], pixel[1]], x, retain_graph=True)
        reach = (torch.nonzero(slope[0, 0]) - torch.tensor(pixel)).abs().max()
        assert 8 < reach <= noise2void.HALO_PX


@careamics
@together
def test_noise2void_removes_noise_without_a_clean_image(
    pair: tuple[Any, Any],
) -> None:
    clean, noisy = pair
    state = None
    for first in range(0, 60, 30):
        state, loss = train_part(
            patch_sampler([noisy]),
            state,
            range(first, first + 30),
            DenoiserTraining(60, 8, 2e-3, 0, CPU),
        )
    assert state is not None
    network, levels = load_network(state["network"], CPU)
    assert levels == pytest.approx((noisy.mean(), noisy.std()), rel=0.1)
    result = denoise_slice(noisy[2], network, levels, CPU)
    assert psnr(clean[2], result) > psnr(clean[2], noisy[2]) + 1.5
    assert loss < 1


@careamics
@together
def test_a_training_continues_as_if_it_had_not_stopped(pair: tuple[Any, Any]) -> None:
    """The results are identical to the bit.

    The state holds the network, the moments of Adam and the gray levels.
    """

    def after(pieces: list[range]) -> dict[str, NDArray[np.uint8]]:
        state = None
        for updates in pieces:
            state, _ = train_part(patch_sampler([pair[1]]), state, updates, TRAINING)
            state = {name: value.copy() for name, value in state.items()}
        assert state is not None
        return state

    first, second = after([range(2), range(2, 4)]), after([range(2), range(2, 4)])
    assert {name: value.tobytes() for name, value in first.items()} == {
        name: value.tobytes() for name, value in second.items()
    }
    assert after([range(2)])["network"].tobytes() != first["network"].tobytes()
    half = after([range(2)])
    patches = patch_sampler([pair[1]])
    for lost in half:  # both parts of the state have an effect
        empty = {
            name: noise2void.train_part(patches, None, range(1), TRAINING)[0][name] for name in half
        }
        without, _ = train_part(patches, {**half, lost: empty[lost]}, range(2, 4), TRAINING)
        assert without["network"].tobytes() != first["network"].tobytes(), lost


def test_patches_are_drawn_where_the_slice_was_imaged() -> None:
    box = np.zeros((2, 200, 200), np.uint8)
    box[:, :, 100:] = 1 + np.arange(100, dtype=np.uint8)
    patches = patch_sampler([box])(np.random.default_rng(0), 40)
    assert patches.shape == (40, 64, 64)
    assert np.mean(patches > 0) > 0.85
    with pytest.raises(
        InputError,
        match="is trained on patches of 64 px, but slices have 200 x 40 px; use --method nlm",
    ):
        patch_sampler([box[:, :, :40]])


@careamics
@together
def test_an_interrupted_training_ends_in_the_same_bytes(
    sample: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "UPDATES_PER_PART", 2)
    interrupted = copy_of(sample, tmp_path / "other.zarr")
    assert denoise(sample, SHORT, on=QUIET).image == "denoised"
    calls: list[range] = []

    def stopped(patches: Any, before: Any, updates: range, *rest: Any) -> Any:
        calls.append(updates)
        if len(calls) in (1, 3):
            raise KeyboardInterrupt
        return train_part(patches, before, updates, *rest)

    monkeypatch.setattr(noise2void, "train_part", stopped)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            denoise(interrupted, SHORT, on=QUIET)
    denoise(interrupted, SHORT, on=QUIET)
    assert calls == [
        range(2),
        range(2),
        range(2, 4),
        range(2, 4),
        range(4, 6),
    ]  # finished parts are not computed again
    assert all(
        np.array_equal(*both)
        for both in zip(voxels(sample.image()), voxels(interrupted.image()), strict=True)
    )


@careamics
@together
def test_block_depth_changes_nothing_that_noise2void_does(sample: Sample, tmp_path: Path) -> None:
    stack = sample.image("raw").read(slice(None))
    results = []
    for depth in (1, 4):
        sample_copy = copy_of(sample, tmp_path / f"{depth}.zarr")
        put(sample_copy, "", stack, depth)
        denoise(sample_copy, SHORT, on=QUIET)
        results.append(sample_copy.image("denoised").read(slice(None)))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], stack)


def test_block_depth_and_workers_change_nothing(sample: Sample, tmp_path: Path) -> None:
    stack = sample.image("raw").read(slice(None))
    results = []
    for depth in (1, 4, 6):
        sample_copy = copy_of(sample, tmp_path / f"{depth}.zarr")
        put(sample_copy, "", stack, depth)
        denoise(
            sample_copy,
            DenoiseSettings(method="nlm"),
            on=Execution(workers=2 if depth == 4 else 0, quiet=True),
        )
        results.append(sample_copy.image("denoised").read(slice(None)))
    assert all(np.array_equal(result, results[0]) for result in results)
    assert sample.image("raw").made_on is None


def test_a_killed_run_ends_in_the_same_bytes(sample: Sample, tmp_path: Path) -> None:
    put(sample, "", sample.image("raw").read(slice(None)), 1)
    killed = copy_of(sample, tmp_path / "other.zarr")
    denoise(sample, DenoiseSettings(method="nlm"), on=QUIET)
    assert (
        kill_ten_times(
            "denoise", {"sample": str(killed.path), "settings": {"method": "nlm"}, "seconds": 0.6}
        )
        > 0
    )
    assert all(
        np.array_equal(*both)
        for both in zip(voxels(sample.image()), voxels(killed.image()), strict=True)
    )


def test_a_second_run_refuses_other_settings_and_reads_the_named_image(sample: Sample) -> None:
    plain = DenoiseSettings(method="nlm")
    denoise(sample, plain, on=QUIET)
    first = sample.image("denoised").fingerprint
    denoise(
        sample, changed(plain, {"updates": 7, "device": "cuda:7"}), on=QUIET
    )  # settings of the other method
    assert sample.image("denoised").fingerprint == first
    assert sample.newest_image == "denoised"
    assert sample.image("denoised").made_on == ("raw", sample.image("raw").fingerprint)
    with pytest.raises(ResumeError, match=r"strength: 0.7 -> 0.9"):
        denoise(sample, changed(plain, {"strength": 0.9}), on=QUIET)
    denoise(sample, changed(plain, {"image": "denoised", "out": "twice"}), on=QUIET)
    assert sample.image("twice").made_on == ("denoised", first)


def test_invalid_requests_are_refused(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(
            InputError,
            match=r'Noise2Void needs CAREamics, which is not installed: pip install "sparsem\[denoise\]"',
        ):
            denoise(sample, SHORT, on=QUIET)
    monkeypatch.setattr(noise2void, "require_careamics", lambda: None)
    with pytest.raises(SettingsError, match="--device cuda:7 cannot be used"):
        denoise(sample, changed(SHORT, {"device": "cuda:7"}), on=QUIET)
    put(sample, "", np.ones((2, 40, 200), np.uint8), 2)
    with pytest.raises(InputError, match="but slices have 40 x 200 px"):
        denoise(sample, SHORT, on=QUIET)
    assert "denoised" not in sample.names("images")
