"""Networks in 8-bit integers: ranges, the compiled network against a plain one, and messages."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsem.errors import InputError, SettingsError
from sparsem.models.architectures import build_network
from sparsem.models.checkpoint import Recipe, load_checkpoint, read_recipe, save_checkpoint
from sparsem.models.engine import COMPILED_ARCHITECTURES, Probabilities, compile_network
from sparsem.models.quantization import Ranges, integer_limits, measure_ranges
from sparsem.segment.ensemble import settle_precision
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, voxels
from tests.test_models import SMALL

pytest.importorskip("openvino")

CPU = torch.device("cpu")
QUIET = Execution(quiet=True)
INT8 = PredictSettings(precision="int8")


def random_tiles(count: int, edge: int = 64) -> Tensor:
    return torch.randn(count, 1, edge, edge, generator=torch.Generator().manual_seed(3))


def test_zero_is_an_integer_and_no_value_is_clipped() -> None:
    assert integer_limits(0.0, 5.1) == (0.0, 5.1)
    for smallest, largest in ((-1.0, 3.0), (-3.0, 1.0), (-2.0, 0.0)):
        low, high = integer_limits(smallest, largest)
        step = (high - low) / 255
        assert low <= smallest + 1e-12
        assert high >= largest - 1e-12
        assert low / step == pytest.approx(-128)
        assert step == pytest.approx(max(-smallest / 128, largest / 127))


def test_ranges_are_those_of_all_batches() -> None:
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1)]
    network = nn.Sequential(*layers).eval()
    tiles = random_tiles(6, edge=16)
    ranges = measure_ranges(network, tiles.split(2))
    with torch.inference_mode():
        inputs = network[1](network[0](tiles))
    # The first convolution has one input and the last one two outputs: they are not rounded.
    assert ranges == {"2": (0.0, float(inputs.max()))}
    assert not any(module._forward_pre_hooks for module in network.modules())


def rounded(network: nn.Module, ranges: Ranges) -> nn.Module:
    """Return a network whose convolutions round inputs and kernels in floating point."""
    for name, module in network.named_modules():
        if name in ranges:
            axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            weight = module.weight.data
            largest = weight.abs().amax(tuple({0, 1, 2, 3} - {axis}), keepdim=True)
            module.weight.data = (weight / largest * 127).round() / 127 * largest
            low, high = integer_limits(*ranges[name])
            step = (high - low) / 255
            module.register_forward_pre_hook(
                lambda _module, inputs, low=low, high=high, step=step: (
                    (inputs[0].clamp(low, high) / step).round() * step
                )
            )
    return network


@pytest.mark.parametrize(
    "middle", [nn.Conv2d(16, 24, 3, stride=2), nn.ConvTranspose2d(16, 24, 2, 2)]
)
@pytest.mark.parametrize("is_rectified", [False, True])
def test_integers_equal_rounded_numbers(middle: nn.Module, is_rectified: bool) -> None:
    torch.manual_seed(1)
    activation = nn.ReLU() if is_rectified else nn.Identity()
    network = nn.Sequential(nn.Conv2d(1, 16, 3), activation, middle, nn.Conv2d(24, 2, 1)).eval()
    tiles = random_tiles(4)
    ranges = measure_ranges(network, [tiles])
    assert list(ranges) == ["2"]
    assert (ranges["2"][0] == 0) == is_rectified
    compiled = compile_network(network, (4, 1, 64, 64), "int8", ranges)(tiles.numpy())
    with torch.inference_mode():
        exact = Probabilities(network)(tiles).numpy()
        expected = Probabilities(rounded(copy.deepcopy(network), ranges))(tiles).numpy()
    bfloat16 = 2**-8  # in which the layers around the convolution are computed
    np.testing.assert_allclose(compiled, expected, atol=bfloat16)
    assert np.abs(expected - exact).max() > 0


@pytest.mark.parametrize("name", COMPILED_ARCHITECTURES)
def test_networks_in_integers_are_close(name: str) -> None:
    torch.manual_seed(1)
    network = build_network(name, SMALL[name], 2, 64, inputs=1).eval()
    tiles = random_tiles(2)
    ranges = measure_ranges(network, [tiles])
    assert ranges
    compiled = compile_network(network, (2, 1, 64, 64), "int8", ranges)(tiles.numpy())
    with torch.inference_mode():
        exact = Probabilities(network)(tiles).numpy()
    difference = np.abs(compiled - exact)
    assert 0 < difference.mean() < 0.02


@pytest.fixture(scope="module")
def trained(tissue: Sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("int8") / "m.safetensors"
    settings = TrainSettings(
        structures=("nucleus",), width=8, context_px=64, input_px=32, updates=60, seed=2
    )
    train_network([tissue], model, settings, on=QUIET)
    return model


def test_a_training_measures_the_ranges(trained: Path) -> None:
    network, recipe = load_checkpoint(trained)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert len(recipe.ranges) == len(convolutions) - 3  # the first, its shortcut, and the last
    assert all(low <= 0 < high for low, high in recipe.ranges.values())


def test_integers_predict_almost_the_same(tissue: Sample, trained: Path, tmp_path: Path) -> None:
    exact = copy_of(tissue, tmp_path / "exact.zarr")
    predict(exact, trained, PredictSettings(engine="openvino", precision="float32"), on=QUIET)
    fast = copy_of(tissue, tmp_path / "fast.zarr")
    predict(fast, trained, INT8, on=QUIET)
    record = fast.last_settings("predict-nucleus")
    assert (record["precision"], record["engine"]) == ("int8", "openvino")
    probabilities = [
        voxels(sample.volume("probabilities", "nucleus"))[0].astype(int) for sample in (exact, fast)
    ]
    difference = np.abs(probabilities[0] - probabilities[1])
    assert 0 < difference.mean() < 1.5  # of 255
    # auto keeps the precision, and workers compute the same.
    again = copy_of(tissue, tmp_path / "again.zarr")
    predict(again, trained, INT8, on=Execution(workers=2, quiet=True))
    np.testing.assert_array_equal(
        voxels(again.volume("probabilities", "nucleus"))[0], probabilities[1]
    )
    predict(fast, trained, on=QUIET)
    assert fast.last_settings("predict-nucleus")["precision"] == "int8"


def test_what_integers_cannot_do_is_one_sentence(
    tissue: Sample, trained: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="--device cpu"):
        settle_precision([trained], INT8, torch.device("cuda"))
    with pytest.raises(SettingsError, match="without --engine torch"):
        predict(tissue, trained, precision="int8", engine="torch", on=QUIET)
    network, recipe = load_checkpoint(trained)
    without = tmp_path / "without.safetensors"
    save_checkpoint(without, network, replace(recipe, ranges={}))
    with pytest.raises(SettingsError, match="train it again"):
        predict(tissue, without, precision="int8", on=QUIET)
    ranges = {**recipe.ranges, "unknown": (0.0, 1.0)}
    with pytest.raises(SettingsError, match="use --precision auto"):
        compile_network(network, (1, 1, 32, 32), "int8", ranges)


DAMAGED_RANGES: tuple[object, ...] = (
    {"encoder.0.residual.0": [0.0]},
    {"encoder.0.residual.0": [0.0, float("inf")]},
    {"encoder.0.residual.0": ["low", "high"]},
    [1, 2],
)


@pytest.mark.parametrize("ranges", DAMAGED_RANGES)
def test_damaged_ranges_are_refused(trained: Path, tmp_path: Path, ranges: object) -> None:
    network, recipe = load_checkpoint(trained)
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, network, replace(recipe, ranges=ranges))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="is damaged"):
        read_recipe(file)


def test_checkpoints_without_ranges_are_read(tmp_path: Path) -> None:
    recipe = Recipe("resunet", 4, ("nucleus",), 32, (16.0, 16.0), 0.5, 0.2)
    save_checkpoint(tmp_path / "m.safetensors", recipe.build(), recipe)
    assert read_recipe(tmp_path / "m.safetensors").ranges == {}
