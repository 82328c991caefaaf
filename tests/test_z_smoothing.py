"""Probabilities smoothed across slices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from sparsem.geometry import VoxelSize
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.models.checkpoint import Recipe, save_checkpoint
from sparsem.segment.predict import predict
from sparsem.segment.z_smoothing import Smoothing, smooth_slices, smoothed_structures
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import files_in, kill_ten_times, put, random_model

NAMES = ("mitochondrion", "mitochondrion-boundary")
SHAPE = (23, 40, 45)
EXACT: dict[str, Any] = {"precision": "float32", "z_smoothing_nm": 40.0}
SMOOTHING = Smoothing(40 / 16)


def stack(shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def sample_of(path: Path, depth: int, voxel: VoxelSize = VoxelSize(16, 16, 16)) -> Sample:
    sample = Sample.create(path)
    put(sample, "", stack(), depth, voxel)
    return sample


def probability_of(sample: Sample, name: str) -> NDArray[np.uint8]:
    return np.asarray(sample.volume("probabilities", name).read(slice(None)), np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees one slice on either side, of a structure and of its boundary."""
    torch.manual_seed(4)
    file = tmp_path_factory.mktemp("model") / "m.safetensors"
    recipe = Recipe("resunet", 4, NAMES, 32, (16.0, 16.0), 0.5, 0.2, adjacent_slices=1)
    save_checkpoint(file, recipe.build(), recipe)
    return file


@pytest.mark.parametrize("sigma", [0.3, 0.8, 1.0, 2.5, 6.0])
def test_slices_are_smoothed_by_a_gaussian(sigma: float) -> None:
    """It is the Gaussian of SciPy, at the ends of the stack as well."""
    slices, smoothing = stack((40, 9, 700)), Smoothing(sigma)
    smooth = smooth_slices(slices, slice(0, 40), smoothing).astype(float)
    plain = gaussian_filter1d(
        slices.astype(float), sigma, axis=0, mode="nearest", radius=smoothing.reach
    )
    # Half a step is lost by rounding, a little by weights of 16 bits.
    assert np.abs(smooth - plain).max() < 0.52


@pytest.mark.parametrize("n_slices", [1, 2, 30])
def test_what_is_equal_in_all_slices_stays(n_slices: int) -> None:
    slices = np.repeat(stack((1, 30, 200)), n_slices, axis=0)
    smooth = smooth_slices(slices, slice(0, n_slices), Smoothing(3.3))
    np.testing.assert_array_equal(smooth, slices)


def test_thick_slices_and_a_sigma_of_zero_reach_nothing() -> None:
    assert [Smoothing(sigma).reach for sigma in (0, 0.1, 0.2, 0.4, 1, 4)] == [0, 0, 0, 1, 2, 10]


def test_boundaries_and_cells_are_not_smoothed() -> None:
    names = ("nucleus", "mitochondrion", "mitochondrion-boundary", "cells-interior")
    assert smoothed_structures((*names, "cells-boundary")) == ["nucleus", "mitochondrion"]


@pytest.mark.parametrize(("depth", "workers"), [(4, 0), (23, 0), (8, 2)])
def test_predictions_are_smoothed_whatever_the_blocks_and_workers(
    tmp_path: Path, model: Path, depth: int, workers: int
) -> None:
    rough = sample_of(tmp_path / "rough.zarr", 7)
    predict(rough, model, **EXACT | {"z_smoothing_nm": 0})
    sample = sample_of(tmp_path / "smooth.zarr", depth)
    predict(sample, model, on=Execution(workers=workers, quiet=True), **EXACT)
    structure, boundary = NAMES
    expected = smooth_slices(probability_of(rough, structure), slice(0, SHAPE[0]), SMOOTHING)
    np.testing.assert_array_equal(probability_of(sample, structure), expected)
    np.testing.assert_array_equal(sample.computed(structure).read(slice(None)), expected >= 128)
    np.testing.assert_array_equal(probability_of(sample, boundary), probability_of(rough, boundary))
    assert np.abs(expected.astype(int) - probability_of(rough, structure)).max() > 20


def test_the_mean_of_models_is_smoothed_and_their_uncertainty_is_not(tmp_path: Path) -> None:
    models = [random_model(tmp_path / f"{number}.safetensors") for number in (1, 2)]
    samples = []
    for sigma in (0.0, 40.0):
        samples.append(sample_of(tmp_path / f"{sigma}.zarr", 5))
        predict(samples[-1], models, **EXACT | {"z_smoothing_nm": sigma})
    rough, smooth = (probability_of(sample, "nucleus") for sample in samples)
    expected = smooth_slices(rough, slice(0, SHAPE[0]), SMOOTHING)
    np.testing.assert_array_equal(smooth, expected)
    of_rough, of_smooth = (probability_of(sample, "nucleus-uncertainty") for sample in samples)
    np.testing.assert_array_equal(of_smooth, of_rough)


def test_separate_images_are_not_smoothed(tmp_path: Path, model: Path) -> None:
    for number, image in enumerate(stack((6, 50, 60))):
        tifffile.imwrite(tmp_path / f"{number}.tif", image)
    settings = ImportSettings(montage=True, voxel_nm=(16, 16, 16))
    probabilities = []
    for sigma in (0.0, 40.0):
        target = tmp_path / f"{sigma}.zarr"
        sample = import_stack(str(tmp_path / "*.tif"), target, settings)
        predict(sample, model, **EXACT | {"z_smoothing_nm": sigma})
        probabilities.append(probability_of(sample, NAMES[0]))
    np.testing.assert_array_equal(probabilities[0], probabilities[1])


def test_killed_at_ten_random_moments_the_bytes_are_the_same(tmp_path: Path, model: Path) -> None:
    whole = sample_of(tmp_path / "whole.zarr", 4)
    predict(whole, model, **EXACT)
    sample = sample_of(tmp_path / "killed.zarr", 4)
    given = {
        "sample": str(sample.path),
        "model": str(model),
        "settings": EXACT,
        "seconds": 0.6,
    }
    assert kill_ten_times("predict", given) >= 3
    resumed, expected = files_in(sample.path), files_in(whole.path)
    assert list(resumed) == list(expected)
    assert [name for name in resumed if resumed[name] != expected[name]] == []
