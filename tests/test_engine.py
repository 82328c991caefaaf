"""Networks compiled by OpenVINO: equal to torch, chosen on evidence, and without telemetry."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparsem.errors import SettingsError
from sparsem.models import engine as engine_module
from sparsem.models.architectures import build_network
from sparsem.models.checkpoint import Recipe, load_checkpoint, save_checkpoint
from sparsem.models.engine import (
    COMPILED_ARCHITECTURES,
    MAX_DIFFERENCE,
    Probabilities,
    compile_network,
)
from sparsem.segment import ensemble as ensemble_module
from sparsem.segment.inference import make_forward, predict_slices
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, voxels
from tests.test_models import SMALL

CPU = torch.device("cpu")

pytest.importorskip("openvino")

NAMES = ("nucleus", "nucleolus")
QUIET = Execution(quiet=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, whose probabilities lie around a half."""
    torch.manual_seed(5)
    file = tmp_path_factory.mktemp("engine") / "m.safetensors"
    recipe = Recipe("resunet", 4, NAMES, 32, (16.0, 16.0), 0.5, 0.2)
    save_checkpoint(file, recipe.build(), recipe)
    return file


def probabilities_of(sample: Sample) -> NDArray[np.uint8]:
    return np.stack([voxels(sample.volume("probabilities", name)) for name in NAMES])


@pytest.mark.parametrize("name", COMPILED_ARCHITECTURES)
def test_compiled_networks_equal_torch(name: str) -> None:
    torch.manual_seed(1)
    network = build_network(name, SMALL[name], 2, 64, inputs=1).eval()
    tiles = np.random.default_rng(2).normal(size=(3, 1, 64, 64)).astype(np.float32)
    forward = compile_network(network, (3, 1, 64, 64), "float32")
    with torch.inference_mode():
        expected = Probabilities(network)(torch.from_numpy(tiles)).numpy()
    np.testing.assert_allclose(forward(tiles), expected, atol=MAX_DIFFERENCE, rtol=0)


def test_bfloat16_is_close_to_float32(model: Path) -> None:
    network, _ = load_checkpoint(model)
    tiles = np.random.default_rng(2).normal(size=(2, 1, 32, 32)).astype(np.float32)
    exact, fast = (
        compile_network(network, tiles.shape, precision)(tiles)
        for precision in ("float32", "bfloat16")
    )
    np.testing.assert_allclose(fast, exact, atol=0.03)


def test_a_large_stack_is_predicted_by_the_compiled_network(
    tissue: Sample, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_torch = copy_of(tissue, tmp_path / "torch.zarr")
    predict(by_torch, model, PredictSettings(engine="torch", precision="float32"), on=QUIET)
    small = copy_of(tissue, tmp_path / "small.zarr")
    predict(small, model, PredictSettings(precision="float32"), on=QUIET)
    stage = "predict-nucleus-nucleolus"
    assert small.last_settings(stage)["engine"] == "torch"
    np.testing.assert_array_equal(probabilities_of(small), probabilities_of(by_torch))
    monkeypatch.setattr(ensemble_module, "MIN_COMPILED_TILES", 10)
    large = copy_of(tissue, tmp_path / "large.zarr")
    predict(large, model, PredictSettings(precision="float32"), on=QUIET)
    assert large.last_settings(stage)["engine"] == "openvino"
    expected = probabilities_of(by_torch).astype(int)
    assert np.abs(probabilities_of(large) - expected).max() <= 1
    with_workers = copy_of(tissue, tmp_path / "workers.zarr")
    settings = PredictSettings(engine="openvino", precision="float32")
    predict(with_workers, model, settings, on=Execution(workers=2, quiet=True))
    np.testing.assert_array_equal(probabilities_of(with_workers), probabilities_of(large))


def test_auto_keeps_the_engine_of_an_earlier_run(
    tissue: Sample, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, settings = tissue.image(), PredictSettings(precision="float32")
    assert ensemble_module.choose_engine([model], image, settings, CPU) == "torch"  # a small stack
    assert ensemble_module.choose_engine([model], image, settings, CPU, "openvino") == "openvino"
    assert ensemble_module.choose_engine([model], image, settings, CPU, "torch") == "torch"
    # A finished run needs no engine.
    monkeypatch.setattr(engine_module, "find_spec", lambda name: None)
    assert ensemble_module.choose_engine([model], image, settings, CPU, "openvino") == "openvino"


def test_what_openvino_cannot_do_is_one_sentence(
    tissue: Sample, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tissue.image()
    requested = PredictSettings(engine="openvino", precision="float32")
    monkeypatch.setattr(ensemble_module, "MIN_COMPILED_TILES", 1)
    monkeypatch.setattr(engine_module, "MAX_DIFFERENCE", -1.0)
    ensemble_module._load_cached.cache_clear()
    with pytest.raises(SettingsError, match="differ by"):
        ensemble_module.choose_engine([model], image, requested, CPU)
    assert ensemble_module.choose_engine([model], image, PredictSettings(), CPU) == "torch"
    monkeypatch.setattr(engine_module, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="pip install openvino"):
        ensemble_module.choose_engine([model], image, requested, CPU)
    assert ensemble_module.choose_engine([model], image, PredictSettings(), CPU) == "torch"
    with pytest.raises(SettingsError, match="--device cpu"):
        ensemble_module.choose_engine([model], image, requested, torch.device("cuda"))


def test_other_architectures_are_predicted_by_torch(tissue: Sample, tmp_path: Path) -> None:
    recipe = Recipe("ceecnet", 8, NAMES, 64, (16.0, 16.0), 0.5, 0.2)
    file = tmp_path / "m.safetensors"
    save_checkpoint(file, recipe.build(), recipe)
    assert ensemble_module.choose_engine([file], tissue.image(), PredictSettings(), CPU) == "torch"
    requested = PredictSettings(engine="openvino")
    with pytest.raises(SettingsError, match="not ceecnet"):
        ensemble_module.choose_engine([file], tissue.image(), requested, CPU)


def test_openvino_reports_nothing_to_its_maker(model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; "
        "from sparsem.models.checkpoint import load_checkpoint; "
        "from sparsem.models.engine import compile_network; "
        f"network, _ = load_checkpoint(Path({str(model)!r})); "
        "compile_network(network, (1, 1, 32, 32), 'float32'); "
        "print([name for name in sys.modules if name.startswith('openvino_telemetry.')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


SIGNAL_AFTER_PREDICTION = """
import gc, signal, sys
from pathlib import Path
from sparsem.models.checkpoint import load_checkpoint
from sparsem.models.engine import compile_network

network, _ = load_checkpoint(Path(sys.argv[1]))
for precision in ("bfloat16", "float32", "bfloat16"):
    forward = compile_network(network, (2, 1, 32, 32), precision)
    del forward
    gc.collect()
    handled = []
    signal.signal(signal.SIGINT, lambda *_: handled.append(precision))
    signal.raise_signal(signal.SIGINT)
    print(*handled)
"""


def test_signals_are_handled_after_prediction(model: Path) -> None:
    """OpenVINO exchanges the stack of signal handlers."""
    command = [sys.executable, "-c", SIGNAL_AFTER_PREDICTION, str(model)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.split() == ["bfloat16", "float32", "bfloat16"], run.stderr


def test_tiles_without_content_are_computed_once(model: Path) -> None:
    network, recipe = load_checkpoint(model)
    forward = make_forward(network, torch.device("cpu"), "float32")
    computed = []

    def counting(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        computed.append(len(tiles))
        return forward(tiles)

    random = np.random.default_rng(0)
    slices = [np.full((96, 160), value, np.uint8) for value in (0, 0, 0, 200)]
    for image in slices[1:3]:
        image[40:90, 20:60] = random.integers(0, 255, (50, 40))
    plain = [image.copy() for image in slices]
    skipped = [
        view.copy() for view in predict_slices(slices, counting, recipe, (1, 1), 0.25, batch=1)
    ]
    n_tiles = len(plain) * 4 * 7
    assert sum(computed) < n_tiles / 2
    for image, view in zip(plain, skipped, strict=True):
        (alone,) = predict_slices([image], forward, recipe, (1, 1), 0.25, batch=1)
        np.testing.assert_array_equal(view, alone)
