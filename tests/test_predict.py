"""Prediction: without seams, independent of blocks and batches, scaled, and resumable."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, ResourceError, ResumeError
from sparsem.models.checkpoint import Recipe, load_checkpoint, save_checkpoint
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.segment.inference import (
    average_over_flips,
    make_forward,
    plan_tiles,
    predict_slices,
    quantize_enlarged,
    quantize_probability,
    slice_windows,
)
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict, predict_slice
from sparsem.segment.settings import PredictSettings
from sparsem.segment.tiles import Probability, TileGrid, enlarge, scaled_shape, shrink, tile_starts
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import HERE, Execution
from tests.conftest import (
    QUICK,
    TISSUE,
    copy_of,
    files_in,
    kill_ten_times,
    random_model,
    truth_of,
    voxels,
)

pytestmark = pytest.mark.xdist_group("predict")  # one process trains the network

SETTINGS = PredictSettings()


@pytest.fixture(scope="module")
def model(tissue: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that is trained a little on nuclei and nucleoli."""
    out = tmp_path_factory.mktemp("model") / "m.safetensors"
    changes = {
        "structures": ("nucleus", "nucleolus"),
        "width": 8,
        "context_px": 64,
        "input_px": 64,
        "updates": 50,
        "batch": 4,
        "learning_rate": 3e-3,
        "ema": 0.9,
    }
    train_network([tissue], out, changed(QUICK, changes))
    return out


def plain_prediction(volume: Volume, model: Path, overlap: float) -> NDArray[np.float32]:
    """One slice after the other, one tile after the other."""
    network, recipe = load_checkpoint(model)
    factors = recipe.factors(volume.voxel_size)
    slices = []
    for image in volume.read(slice(None)):
        small = (shrink(image, factors) - np.float32(recipe.mean)) / np.float32(recipe.std)
        grid = TileGrid(
            scaled_shape((image.shape[0], image.shape[1]), factors),
            recipe.input_px,
            round(overlap * recipe.input_px),
        )
        with torch.inference_mode():
            outputs = [
                network(torch.from_numpy(tile[None, None].copy())).sigmoid().numpy()[0]
                for tile in grid.cut(small)
            ]
        slices.append(enlarge(grid.blend(np.stack(outputs)), (image.shape[0], image.shape[1])))
    return np.stack(slices, axis=1)


def test_it_equals_a_plain_prediction_and_finds_the_structures(
    own_tissue: Sample, model: Path
) -> None:
    exact = changed(SETTINGS, {"precision": "float32", "z_smoothing_nm": 0})
    assert list(predict(own_tissue, model, exact).written) == [
        f"{kind}/{name}"
        for name in ("nucleus", "nucleolus")
        for kind in ("probabilities", "labels")
    ]
    plain = plain_prediction(own_tissue.image(), model, exact.overlap)
    for channel, name in enumerate(("nucleus", "nucleolus")):
        probability = own_tissue.volume("probabilities", name).read(slice(None))
        difference = np.abs(
            probability.astype(int) - quantize_probability(plain[channel]).astype(int)
        )
        assert (
            difference.max() <= 1
        )  # float sums in another order may fall on the other side of a rounding edge
        assert (difference > 0).mean() < 1e-3
        assert np.array_equal(
            own_tissue.computed(name).read(slice(None)),
            (probability >= 128).astype(np.uint8),
        )
    truth = own_tissue.volume("truth", "nucleolus").read(slice(None)) > 0
    predicted_mask = own_tissue.computed("nucleolus").read(slice(None)) > 0
    assert (
        2 * (truth & predicted_mask).sum() / (truth.sum() + predicted_mask.sum()) > 0.5
    )  # all foreground would reach 0.1


def test_adjacent_slices_are_read_across_blocks_and_repeated_at_the_ends(
    tmp_path: Path,
) -> None:
    """Equal to a plain prediction, slice by slice, and independent of the block depth."""
    exact = PredictSettings(precision="float32", z_smoothing_nm=0)
    torch.manual_seed(3)
    recipe = Recipe("resunet", 4, ("cell",), 64, (20.0, 20.0), 0.5, 0.2, adjacent_slices=2)
    save_checkpoint(tmp_path / "m.safetensors", recipe.build(), recipe)
    network, _ = load_checkpoint(tmp_path / "m.safetensors")
    forward = make_forward(network, torch.device("cpu"), "float32")
    for depth in (1, 7, 16):
        sample = phantom(tmp_path / f"{depth}.zarr", changed(TISSUE, {"block_depth": depth}))
        predict(sample, tmp_path / "m.safetensors", exact)
        probabilities = sample.volume("probabilities", "cell").read(slice(None))
        stack = sample.image().read(slice(None))
        grid = TileGrid((stack.shape[1], stack.shape[2]), 64, 16)
        for z in (0, 1, 6, 7, 18):
            around = stack[np.clip(range(z - 2, z + 3), 0, len(stack) - 1)].astype(
                np.float32
            ) * np.float32(1 / 255)
            tiles = grid.cut((around - np.float32(0.5)) / np.float32(0.2))  # (N, 5, 64, 64)
            plain = grid.blend(list(np.concatenate([forward(tile[None]) for tile in tiles])))
            assert (
                np.abs(
                    probabilities[z].astype(int) - quantize_probability(plain)[0].astype(int)
                ).max()
                <= 1
            )
    assert list(slice_windows("abc", 1)) == [["a", "a", "b"], ["a", "b", "c"], ["b", "c", "c"]]
    assert list(slice_windows("a", 2)) == [["a"] * 5]
    assert list(slice_windows("", 2)) == []


def test_models_of_different_scales_and_orders_predict_together(
    tmp_path: Path,
) -> None:
    torch.manual_seed(4)
    recipes = (
        Recipe("resunet", 4, ("cell", "nucleus"), 64, (20.0, 20.0), 0.5, 0.2, adjacent_slices=1),
        Recipe("unet", 4, ("nucleus", "cell"), 32, (40.0, 40.0), 0.4, 0.1),
    )
    models = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for file, recipe in zip(models, recipes, strict=True):
        save_checkpoint(file, recipe.build(), recipe)
    exact, kinds = (
        PredictSettings(precision="float32", z_smoothing_nm=0),
        ("probabilities/cell", "labels/cell", "probabilities/cell-uncertainty"),
    )
    samples = [
        phantom(tmp_path / f"{depth}.zarr", changed(TISSUE, {"block_depth": depth}))
        for depth in (1, 7)
    ]
    for sample in samples:
        predict(sample, models, exact)
    for kind in kinds:
        first, second = (voxels(sample.volume(*kind.split("/"))) for sample in samples)
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)), kind
    names, answer = predict_slice(samples[0].image(), 0, models, exact)
    assert names == ("cell", "nucleus")
    alone = [
        predict_slice(samples[0].image(), 0, [model], exact, names)[1].mean for model in models
    ]
    assert answer.mean == pytest.approx(np.mean(alone, axis=0), abs=1e-6)
    assert np.array_equal(
        samples[0].volume("probabilities", "cell").read(slice(0, 1))[0],
        quantize_probability(answer.mean[0]),
    )
    assert answer.uncertainty is not None
    assert answer.uncertainty.max() > 0.02  # random weights contradict each other
    assert np.array_equal(
        samples[0].volume("probabilities", "cell-uncertainty").read(slice(0, 1))[0],
        quantize_probability(answer.uncertainty[0]),
    )
    nucleus_model = random_model(tmp_path / "other.safetensors")
    with pytest.raises(
        InputError,
        match=r"other.safetensors has the structures nucleus, but a.safetensors has cell, nucleus",
    ):
        predict(samples[0], [*models, nucleus_model], exact)
    with pytest.raises(InputError, match="a model was named twice"):
        predict(samples[0], [nucleus_model, nucleus_model], exact)


@pytest.mark.parametrize(
    ("depth", "workers", "batch"),
    [(1, 0, 16), (7, 0, 1), (16, 0, 5), (7, 2, 3)],
    ids=lambda value: str(value),
)
def test_blocks_workers_and_batches_change_no_label(
    tissue: Sample, model: Path, tmp_path: Path, depth: int, workers: int, batch: int
) -> None:
    expected = predicted_once(tissue, model, tmp_path / "once.zarr")
    sample = phantom(tmp_path / "other.zarr", changed(TISSUE, {"block_depth": depth}))
    predict(
        sample,
        model,
        changed(SETTINGS, {"batch": batch}),
        on=Execution(workers=workers, quiet=True),
    )
    for kind in ("labels", "probabilities"):
        for name in ("nucleus", "nucleolus"):
            levels = voxels(sample.volume(kind, name))
            assert all(
                np.array_equal(a, b)
                for a, b in zip(levels, voxels(predicted_volume(expected, kind, name)), strict=True)
            ), kind


def predicted_volume(sample: Sample, kind: str, name: str) -> Volume:
    return sample.computed(name) if kind == "labels" else sample.volume(kind, name)


def copies(slices: Iterable[Probability]) -> list[Probability]:
    """Return slices that outlast the next one."""
    return [probability.copy() for probability in slices]


def predicted_once(tissue: Sample, model: Path, path: Path) -> Sample:
    sample = copy_of(tissue, path)
    predict(sample, model, SETTINGS)
    return sample


def jumps_at_borders(
    network: torch.nn.Module, recipe: Recipe, slices: list[NDArray[np.uint8]], overlap: float
) -> float:
    """Mean absolute jump of probability across tile borders, relative to the same columns without.

    The grid is moved over the image, so that columns with an edge of the tissue count in both.
    """
    forward = make_forward(network, torch.device("cpu"), "float32")
    length = 300
    grid, _ = plan_tiles(recipe, (length, slices[0].shape[1]), (1, 1), overlap, 16)
    edge = grid.tile
    starts = tile_starts(length, edge, grid.overlap)
    borders = np.unique(list(starts[1:]) + [start + edge for start in starts[:-1]]) - 1
    jumps, at = np.full((8, slices[0].shape[1]), np.nan), np.zeros((8, slices[0].shape[1]), bool)
    for move in range(8):
        first = move * recipe.input_px // 8
        views = [np.ascontiguousarray(image[:, first : first + length]) for image in slices]
        probability = np.stack(
            copies(predict_slices(views, forward, recipe, (1, 1), overlap, batch=16))
        )
        jumps[move, first : first + length - 1] = np.abs(np.diff(probability, axis=3)).mean(
            axis=(0, 1, 2)
        )
        at[move, first + borders] = True
    compared = at.any(axis=0)
    elsewhere = np.nanmean(np.where(at, np.nan, jumps)[:, compared], axis=0)
    return float(
        np.nansum(np.where(at, jumps, 0)[:, compared])
        / (elsewhere * at[:, compared].sum(axis=0)).sum()
    )


def test_tile_borders_are_not_visible(tmp_path: Path) -> None:
    """The mean absolute jump of probability across tile borders is no larger than elsewhere."""
    settings = PhantomSettings(shape=(9, 360, 360), voxel_nm=(20, 16, 16), cells=5, seed=9)
    sample = phantom(tmp_path / "t.zarr", settings)
    write_annotation(sample, "nucleus", (0, 8), truth_of(sample, "nucleus", (0, 8)))
    training = changed(
        QUICK,
        {
            "width": 8,
            "context_px": 64,
            "input_px": 64,
            "batch": 4,
            "updates": 60,
            "learning_rate": 3e-3,
            "optimizer": "adam",  # after so few updates, a network of Muon has fewer seams
            "ema": 0.9,
        },
    )
    train_network([sample], tmp_path / "m.safetensors", training)
    network, recipe = load_checkpoint(tmp_path / "m.safetensors")
    slices = [sample.image().read(slice(z, z + 1))[0] for z in (2, 4, 6)]
    assert jumps_at_borders(network, recipe, slices, overlap=SETTINGS.overlap) <= 1.0
    assert (
        jumps_at_borders(network, recipe, slices, overlap=0.0) > 1.5
    )  # without blending the measure shows a seam


def test_the_network_sees_the_scale_that_it_was_trained_at(
    tissue: Sample, model: Path, tmp_path: Path
) -> None:
    _, recipe = load_checkpoint(model)
    assert recipe.factors(tissue.voxel_size) == (1, 1)
    coarse = phantom(
        tmp_path / "coarse.zarr",
        PhantomSettings(shape=(2, 48, 64), voxel_nm=(40, 40, 40), cells=3, seed=5),
    )
    assert recipe.factors(coarse.voxel_size) == (0.5, 0.5)
    predict(coarse, model, SETTINGS)
    assert coarse.volume("labels", "nucleus").shape == (2, 48, 64)


def test_a_slice_smaller_than_a_tile_and_a_single_row_of_tiles(model: Path) -> None:
    network, recipe = load_checkpoint(model)
    forward = make_forward(network, torch.device("cpu"), "float32")
    for shape in ((20, 30), (64, 300), (33, 65)):
        (probability,) = predict_slices(
            [np.full(shape, 120, np.uint8)], forward, recipe, (2, 2), 0.25, 4
        )
        assert probability.shape == (2, *shape)
        assert np.isfinite(probability).all()
    assert list(predict_slices([], forward, recipe, (2, 2), 0.25, 4)) == []


def test_large_slices_are_computed_in_larger_tiles(model: Path) -> None:
    network, recipe = load_checkpoint(model)  # of 64 px
    grid, batch = plan_tiles(recipe, (200, 300), (1, 1), 0.25, 16)
    assert (grid.tile, grid.overlap, batch) == (128, 16, 4)
    for shape in ((127, 300), (200, 20)):
        grid, batch = plan_tiles(recipe, shape, (1, 1), 0.25, 16)
        assert (grid.tile, grid.overlap, batch) == (64, 16, 16)
    with_attention = replace(recipe, architecture="setr-naive")
    assert plan_tiles(with_attention, (200, 300), (1, 1), 0.25, 16)[0].tile == 64
    image = np.random.default_rng(0).integers(0, 256, (200, 300)).astype(np.uint8)
    forward = make_forward(network, torch.device("cpu"), "float32")
    (probability,) = predict_slices([image], forward, recipe, (1, 1), 0.25, 16)
    grid = TileGrid((200, 300), 128, 16)
    small = (shrink(image, (1, 1)) - np.float32(recipe.mean)) / np.float32(recipe.std)
    tiles = [forward(tile[None, None])[0] for tile in grid.cut(small)]
    np.testing.assert_allclose(probability, grid.blend(tiles), atol=1e-5)


def test_threads_change_nothing(tissue: Sample, model: Path) -> None:
    network, recipe = load_checkpoint(model)
    slices = tissue.image().read(slice(0, 5))
    forward = make_forward(network, torch.device("cpu"), "float32")
    plain, threaded = (
        np.stack(copies(predict_slices(slices, forward, recipe, (1, 1), 0.25, 3, prefetch)))
        for prefetch in (0, 2)
    )
    assert np.array_equal(plain, threaded)


def test_half_is_foreground() -> None:
    assert quantize_probability(np.array([0, 0.4979, 0.498, 0.5, 1], np.float32)).tolist() == [
        0,
        127,
        127,
        128,
        255,
    ]


def test_another_model_or_setting_is_refused(
    own_tissue: Sample, tissue: Sample, model: Path, tmp_path: Path
) -> None:
    predict(own_tissue, model, SETTINGS)
    predict(own_tissue, model, changed(SETTINGS, {"batch": 3}))  # results do not depend on it
    with pytest.raises(ResumeError, match=r"overlap: 0.25 -> 0.5"):
        predict(own_tissue, model, changed(SETTINGS, {"overlap": 0.5}))
    train_network(
        [tissue],
        tmp_path / "n.safetensors",
        changed(QUICK, {"structures": ("nucleus",), "updates": 1}),
    )
    with pytest.raises(
        ResumeError, match="already has probabilities/nucleus, made by another command"
    ):
        predict(own_tissue, tmp_path / "n.safetensors", SETTINGS)
    predict(own_tissue, tmp_path / "n.safetensors", SETTINGS, on=replace(HERE, overwrite=True))
    with pytest.raises(
        ResumeError, match="already has probabilities/nucleus, made by another command"
    ):
        predict(
            own_tissue, model, SETTINGS
        )  # the first model is not used again without a request either
    with pytest.raises(InputError, match="There is no model file"):
        predict(own_tissue, tmp_path / "none.safetensors")


def test_too_little_memory_is_refused(
    own_tissue: Sample, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 10**5

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    with pytest.raises(
        ResourceError, match=r"import with a smaller --block-depth, or use fewer --workers"
    ):
        predict(own_tissue, model, SETTINGS)
    assert own_tissue.names("labels") == []


def test_killed_at_ten_random_moments_the_bytes_are_the_same(
    own_tissue: Sample, tissue: Sample, model: Path, tmp_path: Path
) -> None:
    started = time.monotonic()
    whole = predicted_once(tissue, model, tmp_path / "whole.zarr")
    seconds = 0.5 * (time.monotonic() - started)
    given: dict[str, Any] = {
        "sample": str(own_tissue.path),
        "model": str(model),
        "settings": {},
        "seconds": seconds,
    }
    assert kill_ten_times("predict", given) >= 3
    resumed_files, whole_files = files_in(own_tissue.path), files_in(whole.path)
    assert list(resumed_files) == list(whole_files)
    assert [name for name in resumed_files if resumed_files[name] != whole_files[name]] == []


def test_flips_are_the_mean_of_four_predictions(
    own_tissue: Sample, model: Path, tmp_path: Path
) -> None:
    image = own_tissue.image().read(slice(0, 3))
    settings = PredictSettings(precision="float32")
    network, recipe = load_checkpoint(model)
    forward = make_forward(network, torch.device("cpu"), "float32")
    tiles = (
        np.random.default_rng(0)
        .standard_normal((3, 1, recipe.input_px, recipe.input_px))
        .astype(np.float32)
    )
    averaged = average_over_flips(forward)(tiles)
    assert averaged.dtype == np.float32
    expected = np.mean(
        [np.flip(forward(np.flip(tiles, axes).copy()), axes) for axes in ((), (2,), (3,), (2, 3))],
        axis=0,
    )
    assert averaged == pytest.approx(expected, abs=1e-6)
    assert np.abs(averaged - forward(tiles)).max() > 1e-4  # a network is not the same in a mirror
    assert average_over_flips(forward)(np.flip(tiles, 3).copy()) == pytest.approx(
        np.flip(averaged, 3), abs=1e-5
    )  # the mean is
    plain, flipped = (
        predict_slice(own_tissue.image(), 1, [model], how)[1].mean
        for how in (settings, changed(settings, {"flips": True}))
    )
    assert plain.shape == flipped.shape == (len(recipe.structures), *image.shape[1:])
    assert not np.array_equal(plain, flipped)
    predict(own_tissue, model, settings)
    with pytest.raises(ResumeError, match="flips: false -> true"):
        predict(own_tissue, model, changed(settings, {"flips": True}))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((40, 50), (79, 101)),
        ((40, 50), (160, 50)),
        ((3, 1), (64, 7)),
        ((40, 50), (40, 50)),
        ((40, 50), (21, 26)),
    ],
    ids=["twice", "one axis", "a column", "equal", "smaller"],
)
def test_enlarging_and_quantizing_at_once_differs_by_roundings(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    random = np.random.default_rng(0)
    probability = random.random((3, *old), np.float32)
    probability[0] = np.round(probability[0])  # 0 and 1 stay 0 and 255
    quantized = np.full((3, 2, *new), 77, np.uint8)
    quantize_enlarged(probability, quantized[:, 1])
    plain = quantize_probability(enlarge(probability, new))
    difference = np.abs(quantized[:, 1].astype(int) - plain)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert (quantized[:, 0] == 77).all()
