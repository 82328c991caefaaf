"""Three views: slices across y and x, predicted by the network of slices across z."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import convolve1d

from sparsem.errors import SampleError
from sparsem.geometry import VoxelSize
from sparsem.models.checkpoint import Recipe, load_checkpoint, save_checkpoint
from sparsem.segment import views as views_module
from sparsem.segment.inference import make_forward, predict_slices, quantize_probability
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.segment.views import combine_views, side_strips
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import files_in, kill_ten_times, put, random_model

EXACT: dict[str, Any] = {"views": 3, "precision": "float32"}
NAMES = ("mitochondrion", "mitochondrion-boundary")
SHAPE = (21, 50, 45)


def stack(shape: tuple[int, int, int] = SHAPE, seed: int = 1) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, shape, np.uint8)


def sample_of(path: Path, depth: int, voxel: VoxelSize = VoxelSize(16, 16, 16)) -> Sample:
    sample = Sample.create(path)
    put(sample, "", stack(), depth, voxel)
    return sample


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that sees one slice on either side, of two structures."""
    torch.manual_seed(4)
    file = tmp_path_factory.mktemp("model") / "m.safetensors"
    recipe = Recipe("resunet", 4, NAMES, 32, (16.0, 16.0), 0.5, 0.2, adjacent_slices=1)
    save_checkpoint(file, recipe.build(), recipe)
    return file


def plain_view(volume: NDArray[np.uint8], model: Path, voxel_nm: float = 16) -> NDArray[np.uint8]:
    """Return the probabilities (C, slice, z, other) of slices (slice, z, other), slab by slab.

    A slab is 24 slices: the middle of a tile of 32 with a quarter of overlap.
    """
    network, recipe = load_checkpoint(model)
    forward = make_forward(network, torch.device("cpu"), "float32")
    depth = volume.shape[1]
    padded = np.pad(volume, ((0, 0), (4, 32), (0, 0)), mode="reflect")
    slabs = []
    for start in range(0, depth, 24):
        tile = padded[:, start : start + 32]
        factors = recipe.factors(VoxelSize(voxel_nm, voxel_nm, voxel_nm))
        slices = [view.copy() for view in predict_slices(tile, forward, recipe, factors, 0.25, 16)]
        slabs.append(np.stack(slices, axis=1)[:, :, 4:28])
    view = quantize_probability(np.concatenate(slabs, axis=2)[:, :, :depth])
    smooth = convolve1d(
        view.astype(float), [1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16], axis=1, mode="nearest"
    )
    return np.asarray(np.floor(smooth + 0.5), np.uint8)


def test_three_views_equal_plain_predictions_of_turned_volumes(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views_module, "STRIP", 20)
    sample, once = sample_of(tmp_path / "three.zarr", 7), sample_of(tmp_path / "one.zarr", 7)
    predict(sample, model, **EXACT)
    predict(once, model, precision="float32", z_smoothing_nm=0)
    volume = stack()
    across_y = plain_view(volume.transpose(1, 0, 2), model).transpose(0, 2, 1, 3)
    across_x = plain_view(volume.transpose(2, 0, 1), model).transpose(0, 2, 3, 1)
    for channel, name in enumerate(NAMES):
        across_z = once.volume("probabilities", name).read(slice(None))
        views = np.stack([across_z, across_y[channel], across_x[channel]]).astype(int)
        expected = views.max(axis=0) if channel else (views.sum(axis=0) + 1) // 3
        probability = sample.volume("probabilities", name).read(slice(None)).astype(int)
        # Sums of floats in another order may fall on the other side of a rounding edge.
        assert np.abs(probability - expected).max() <= 1
        assert (probability != expected).mean() < 1e-3
        labels = sample.computed(name).read(slice(None))
        np.testing.assert_array_equal(labels, probability >= 128)


@pytest.mark.parametrize(("depth", "workers"), [(5, 0), (21, 0), (8, 2)])
def test_blocks_strips_and_workers_change_no_voxel(
    tmp_path: Path, model: Path, depth: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = sample_of(tmp_path / "a.zarr", 7)
    predict(expected, model, **EXACT)
    if not workers:
        monkeypatch.setattr(views_module, "STRIP", 16)
    sample = sample_of(tmp_path / "b.zarr", depth)
    predict(sample, model, on=Execution(workers=workers, quiet=True), **EXACT)
    for name in NAMES:
        np.testing.assert_array_equal(
            sample.volume("probabilities", name).read(slice(None)),
            expected.volume("probabilities", name).read(slice(None)),
        )


def test_a_boundary_parallel_to_the_slices_is_found_from_the_side() -> None:
    """The boundary between objects or cells is where any view shows it; other probabilities are averaged."""
    shape = (2, 2, 2, 2)
    across_z, across_y, across_x = (np.full(shape, value, np.uint8) for value in (10, 200, 31))
    combined = combine_views(NAMES, [across_z, across_y, across_x])
    assert (combined[0] == (10 + 200 + 31 + 1) // 3).all()
    assert (combined[1] == 200).all()
    cells = combine_views(("cells-interior", "cells-boundary"), [across_z, across_y, across_x])
    np.testing.assert_array_equal(cells, combined)


def test_strips_cover_every_voxel_once(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", np.zeros((70, 300, 40), np.uint8), 16, VoxelSize(8, 16, 16))
    recipe = Recipe("resunet", 2, ("m",), 32, (16.0, 16.0), 0.5, 0.2)
    for overlap in (0.0, 0.25, 0.5):
        settings = PredictSettings(views=3, overlap=overlap)
        strips = side_strips(sample.image(), [recipe], settings)
        covered = {axis: np.zeros((70, length), int) for axis, length in (("y", 300), ("x", 40))}
        for strip in strips:
            slab = strip.slab
            assert slab.read_stop - slab.read_start == 64  # 32 network pixels of 16 nm
            assert slab.read_start <= slab.start < slab.stop <= slab.read_stop
            covered[strip.axis][slab.own, strip.start : strip.stop] += 1
        assert all((counts == 1).all() for counts in covered.values())


def test_models_of_other_scales_and_slices_fewer_than_a_tile(tmp_path: Path) -> None:
    """The network sees the nm per pixel that it was trained at, along z as well."""
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", stack((1, 40, 30)), 1, VoxelSize(10, 10, 10))
    models = [
        random_model(tmp_path / f"{nm}.safetensors", ("m",), see=32, pixel_nm=nm)
        for nm in (14.0, 23.0)
    ]
    predict(sample, models, **EXACT)
    probability = sample.volume("probabilities", "m").read(slice(None))
    assert probability.shape == (1, 40, 30)
    assert probability.std() > 0
    assert sample.volume("probabilities", "m-uncertainty").shape == (1, 40, 30)


def test_compiled_networks_predict_views_with_tiles_of_another_size(
    tmp_path: Path, model: Path
) -> None:
    """Slices across z are large enough for larger tiles, and slices across y and x are not."""
    pytest.importorskip("openvino")
    probabilities = []
    for engine in ("torch", "openvino"):
        sample = Sample.create(tmp_path / f"{engine}.zarr")
        put(sample, "", stack((10, 140, 150)), 4, VoxelSize(16, 16, 16))
        predict(sample, model, **EXACT, engine=engine)
        probabilities.append(sample.volume("probabilities", NAMES[0]).read(slice(None)).astype(int))
    assert np.abs(probabilities[0] - probabilities[1]).max() <= 1


def test_what_has_no_side_views_is_refused(tmp_path: Path, model: Path) -> None:
    thick = sample_of(tmp_path / "thick.zarr", 7, VoxelSize(50, 5, 5))
    with pytest.raises(SampleError, match=r"about as long as wide.* are 50 x 5 x 5 nm \(z y x\)"):
        predict(thick, model, **EXACT)
    assert not thick.names("labels")
    predict(sample_of(tmp_path / "nearly.zarr", 7, VoxelSize(30, 16, 16)), model, **EXACT)


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
