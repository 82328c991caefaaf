"""Networks: parameter counts, valid tiles and widths, losses, memory, and checkpoints."""

import copy
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

import sparsem.models.device as device_module
from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, SettingsError
from sparsem.models.architectures import (
    ARCHITECTURES,
    PRETRAINED,
    architecture_class,
    build_network,
    count_parameters,
    default_width,
    load_pretrained_weights,
)
from sparsem.models.checkpoint import (
    Recipe,
    load_checkpoint,
    read_recipe,
    save_checkpoint,
    save_tensors,
)
from sparsem.models.device import autocast, choose_device, resolve_precision
from sparsem.models.fractal import fractal_tanimoto
from sparsem.models.memory import MemoryCounter, prediction_bytes, training_bytes
from sparsem.models.resunet import ResidualBlock
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.segment.losses import cross_entropy_loss, dice_loss, tanimoto_loss
from sparsem.segment.supervised import (
    LabeledLoss,
    build_sampler,
    compute_logits,
    labeled_loss,
    start_network,
    train_step,
)
from sparsem.segment.targets import outlines_and_distances
from sparsem.segment.training_slices import read_training_slices
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from tests.conftest import truth_of

RECIPE = Recipe(
    "resunet", 4, ("nucleus", "nucleolus"), 32, (8.0, 8.0), 120.0, 40.0, 0, {"record": {"seed": 1}}
)


SMALL = {
    "resunet": 4,
    "unet": 4,
    "unet++": 2,
    "unet++-averaged": 2,
    "unet++-shallow": 2,
    "fractalresnet": 8,
    "ceecnet": 8,
}
SMALL |= {"senformer": 32, "transunet": 32, "setr-naive": 64, "setr-pup": 64, "setr-mla": 64}


@pytest.mark.parametrize(
    ("name", "width", "inputs", "parameters"),
    [
        ("resunet", 64, 1, 32_443_777),
        ("resunet", 32, 1, 8_117_953),
        ("unet", 64, 1, 4_283_201),
        ("unet++", 16, 1, 26_072_337),
        ("unet++-shallow", 16, 1, 21_954_705),
        ("fractalresnet", 32, 1, 18_199_919),
        ("ceecnet", 32, 1, 58_964_079),
        ("senformer", 96, 1, 163_100_906),
        ("transunet", 64, 1, 105_911_825),
        ("setr-naive", 1024, 3, 304_412_673),
        ("setr-pup", 1024, 3, 308_281_601),
        ("setr-mla", 1024, 3, 309_343_745),
        ("setr-naive", 768, 3, 86_632_193),
        ("setr-pup", 768, 3, 89_976_833),
        ("setr-mla", 768, 3, 91_365_121),
        ("setr-pup", 1024, 1, 308_281_601 - 524_288),
    ],
)
def test_parameter_counts_equal_the_published_ones(
    name: str, width: int, inputs: int, parameters: int
) -> None:
    with torch.device("meta"):
        assert count_parameters(build_network(name, width, 1, 512, inputs)) == parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_keeps_the_size_and_all_its_parameters_get_gradients(name: str) -> None:
    network = build_network(name, SMALL[name], 3, 64)
    logits = network(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    logits.sum().backward()
    without = {
        key
        for key, parameter in network.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.isfinite().all())
    }
    used = {
        key for key in without if not key.startswith("network.encoder")
    }  # the library keeps layers that are not used
    assert used == set()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_accepts_larger_tiles_than_it_was_built_for(name: str) -> None:
    network = build_network(name, SMALL[name], 1, 64).eval()
    with torch.inference_mode():
        assert network(torch.randn(1, 1, 96, 128)).shape == (1, 1, 96, 128)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_copy_of_a_network_is_independent(name: str) -> None:
    network = build_network(name, SMALL[name], 1, 64).eval()
    copied, image = copy.deepcopy(network), torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        before = network(image)
        for parameter in network.parameters():
            parameter.zero_()
        assert torch.equal(copied(image), before)


def test_every_class_states_valid_widths_and_tiles() -> None:
    for name in ARCHITECTURES:
        kind = architecture_class(name)
        assert default_width(name) % kind.width_multiple == 0
        assert 64 % kind.tile_multiple == 0


def test_invalid_networks_and_devices_are_refused() -> None:
    with pytest.raises(SettingsError, match="no model 'resnet'; did you mean 'resunet'"):
        build_network("resnet", 4, 1, 64)
    with pytest.raises(
        SettingsError,
        match="'resunet' takes tiles whose edge is a multiple of 16 and at least 32; got 100",
    ):
        build_network("resunet", 4, 1, 100)
    with pytest.raises(
        SettingsError,
        match="'senformer' takes widths that are a multiple of 32; got 16, the default is 96",
    ):
        build_network("senformer", 16, 1, 64)
    for device in ("tpu9", "meta"):
        with pytest.raises(SettingsError, match=f"--device {device} cannot be used"):
            choose_device(device)


def test_a_checkpoint_carries_weights_and_recipe(tmp_path: Path) -> None:
    network = RECIPE.build().eval()
    save_checkpoint(tmp_path / "m.safetensors", network, RECIPE)
    loaded, recipe = load_checkpoint(tmp_path / "m.safetensors")
    assert recipe == RECIPE == read_recipe(tmp_path / "m.safetensors")
    image = torch.randn(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded(image), network(image))
    first = (tmp_path / "m.safetensors").read_bytes()
    save_checkpoint(tmp_path / "m.safetensors", network, RECIPE)
    assert (tmp_path / "m.safetensors").read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match=r"There is no model file .*; 'sparsem train' and"):
        load_checkpoint(path)
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"m.safetensors is not a sparsem model, or is damaged"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is not a sparsem model"):
        load_checkpoint(path)
    save_checkpoint(
        path, build_network("resunet", 8, 2, 32), RECIPE
    )  # weights of another width than the recipe says
    with pytest.raises(InputError, match=r"m.safetensors is damaged"):
        load_checkpoint(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        {"structures": ["../../evil"]},
        {"structures": [3]},
        {"structures": []},
        {"pixel_nm": [0, 8]},
        {"pixel_nm": [float("nan"), 8]},
        {"pixel_nm": [8]},
        {"std": 0},
        {"mean": "x"},
        {"width": -4},
        {"architecture": "resunet9"},
        {"training": 5},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_recipe_with_invalid_values_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "m.safetensors"
    about = {**asdict(RECIPE), **change}
    save_tensors(path, RECIPE.build().state_dict(), about)
    with pytest.raises(InputError, match=r"m.safetensors is damaged"):
        load_checkpoint(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    network = RECIPE.build()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_checkpoint(tmp_path / "m.safetensors", network, RECIPE)
    with pytest.raises(
        InputError, match=r"m.safetensors is damaged: it holds weights that are not numbers"
    ):
        load_checkpoint(tmp_path / "m.safetensors")


def plain_dice_loss(probability: np.ndarray, target: np.ndarray, squared: bool) -> float:
    losses = []
    for structure in range(target.shape[1]):
        known = target[:, structure] != UNKNOWN
        if known.any():
            p, g = (
                probability[:, structure][known],
                (target[:, structure][known] == 1).astype(float),
            )
            bottom = (p**2).sum() + (g**2).sum() if squared else p.sum() + g.sum()
            losses.append(1 - (2 * (p * g).sum() + 1) / (bottom + 1))
    return float(np.mean(losses)) if losses else 1.0


@pytest.mark.parametrize("squared", [True, False])
def test_dice_loss_equals_the_formula_of_the_paper_on_known_pixels(squared: bool) -> None:
    random = np.random.default_rng(0)
    probability = random.random((2, 3, 8, 8))
    target = random.choice([0, 1, UNKNOWN], (2, 3, 8, 8)).astype(np.uint8)
    target[:, 2] = UNKNOWN  # a structure that is not annotated in this batch
    loss = dice_loss(torch.from_numpy(probability), torch.from_numpy(target), squared)
    assert float(loss) == pytest.approx(plain_dice_loss(probability, target, squared), abs=1e-6)


def test_unknown_pixels_send_no_gradient() -> None:
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    target = torch.zeros(1, 1, 4, 4, dtype=torch.uint8)
    target[..., :2] = UNKNOWN
    (dice_loss(logits.sigmoid(), target) + cross_entropy_loss(logits, target)).backward()
    assert logits.grad is not None
    assert not logits.grad[..., :2].any()
    assert logits.grad[..., 2:].abs().min() > 0


def test_cross_entropy_equals_torch_on_known_pixels() -> None:
    logits, target = torch.randn(2, 1, 5, 5), torch.randint(0, 2, (2, 1, 5, 5), dtype=torch.uint8)
    target[0, 0, 0] = UNKNOWN
    known = target != UNKNOWN
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[known], target[known].float()
    )
    assert float(cross_entropy_loss(logits, target)) == pytest.approx(float(expected), abs=1e-6)


def test_every_architecture_trains_at_small_odd_widths() -> None:
    """Run in a separate process: a library that writes beyond its memory ends it, or hangs."""
    script = Path(__file__).parent.parent / "benchmarks" / "small_widths.py"
    options = [
        "--trainings",
        str(len(ARCHITECTURES)),
        "--updates",
        "1",
        "--edges",
        "64",
        "--widths",
        "3",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    # Threads that wait in a loop for one that has no core take most of the time.
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    ended = subprocess.run(
        [sys.executable, str(script), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("stride", [1, 2])
def test_the_shortcut_of_a_residual_block_is_a_strided_convolution(stride: int) -> None:
    block, image = ResidualBlock(3, 5, stride).eval(), torch.randn(2, 3, 9, 12)
    convolution, norm = block.shortcut
    assert isinstance(convolution, nn.Conv2d)
    strided = nn.functional.conv2d(image, convolution.weight, convolution.bias, stride)
    torch.testing.assert_close(block(image) - block.residual(image), norm(strided))


def test_bfloat16_is_chosen_by_a_trial_and_an_earlier_choice_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for gain, expected in ((2.0, "bfloat16"), (1.0, "float32"), (0.3, "float32")):
        monkeypatch.setattr(device_module, "_cpu_gain_of_bfloat16", lambda gain=gain: gain)
        device_module._is_faster_in_bfloat16.cache_clear()
        assert resolve_precision(cpu, "auto") == expected
        assert resolve_precision(cpu, "auto", "bfloat16") == "bfloat16"
        assert resolve_precision(cpu, "float32", "bfloat16") == "float32"
    device_module._is_faster_in_bfloat16.cache_clear()


def test_the_trial_measures_without_side_effects() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with torch.inference_mode():
        gain = device_module._cpu_gain_of_bfloat16()
    assert 0 < gain < 100
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_precision_is_chosen_by_the_device() -> None:
    network, image = build_network("unet", 4, 1, 16), torch.randn(1, 1, 16, 16)
    with autocast(torch.device("cpu"), "bfloat16"):
        assert network(image).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "float32"):
        assert network(image).dtype == torch.float32


def plain_tanimoto(p: NDArray[np.float64], t: NDArray[np.float64]) -> float:
    pairs = [(p, t), (1 - p, 1 - t)]
    return float(
        np.mean([(a * b).sum() / ((a * a).sum() + (b * b).sum() - (a * b).sum()) for a, b in pairs])
    )


def test_tanimoto_loss_equals_its_formula_and_ignores_unknown_pixels() -> None:
    random = np.random.default_rng(0)
    probability, target = (
        random.random((3, 1, 8, 8)),
        random.integers(0, 2, (3, 1, 8, 8)).astype(np.uint8),
    )
    expected = 1 - np.mean(
        [plain_tanimoto(p, t) for p, t in zip(probability, target.astype(float), strict=True)]
    )
    loss = tanimoto_loss(torch.from_numpy(probability), torch.from_numpy(target))
    assert float(loss) == pytest.approx(expected, abs=1e-4)
    target[:, :, :4] = UNKNOWN
    changed_probability = probability.copy()
    changed_probability[:, :, :4] = 1 - changed_probability[:, :, :4]
    losses = [
        float(tanimoto_loss(torch.from_numpy(p), torch.from_numpy(target)))
        for p in (probability, changed_probability)
    ]
    assert losses[0] == pytest.approx(losses[1])
    blank = torch.full((2, 1, 8, 8), UNKNOWN, dtype=torch.uint8)
    assert float(tanimoto_loss(torch.rand(2, 1, 8, 8), blank)) == pytest.approx(0)
    empty = torch.zeros((2, 1, 8, 8), dtype=torch.uint8)
    assert float(tanimoto_loss(torch.zeros(2, 1, 8, 8), empty)) == pytest.approx(0)


def test_fractal_similarity_equals_its_formula() -> None:
    first, second = torch.full((1, 1, 400, 400), 0.5), torch.ones((1, 1, 400, 400))
    parts = (2 / 3 + 1 / 2 + 1 / 3 + 1 / 5 + 1 / 9) / 5  # x = 1/2, y = 5/4 a pixel
    assert float(fractal_tanimoto(first, second, (2, 3), 5)) == pytest.approx(
        parts / 2, abs=1e-3
    )  # the dual is 0
    random = torch.rand(2, 3, 9, 9)
    for depth in (1, 3, 5):
        assert torch.allclose(
            fractal_tanimoto(random, random, (1,), depth), torch.ones(2, 1, 9, 9), atol=1e-3
        )
    assert torch.allclose(
        fractal_tanimoto(random, 1 - random, (1,), 2), fractal_tanimoto(1 - random, random, (1,), 2)
    )


@pytest.mark.parametrize("name", ["fractalresnet", "ceecnet"])
def test_networks_with_heads_train_on_outlines_and_distances(name: str) -> None:
    target = np.zeros((2, 1, 64, 64), np.uint8)
    target[:, :, 10:31, 20:41] = 1
    head_targets = outlines_and_distances(target)
    assert head_targets.shape == (2, 2, 64, 64)
    assert head_targets[0, 0, 20, 19:23].tolist() == [
        1,
        1,
        1,
        0,
    ]  # three pixels, one of them outside
    assert head_targets[0, 1, 20, 30] == 1  # in the middle
    assert head_targets[0, 1, 20, 20] == pytest.approx(1 / 11)
    assert outlines_and_distances(np.ones((1, 1, 8, 8), np.uint8))[0, 1].min() == 1
    network = build_network(name, 8, 1, 64)
    settings = TrainSettings(precision="float32")
    image = torch.rand(2, 1, 64, 64).numpy()
    loss, dice = labeled_loss(network, (image, target), settings, torch.device("cpu"))
    loss.backward()
    assert 0 < loss.item() < 1
    assert 0 < dice.item() < 1
    assert not [key for key, parameter in network.named_parameters() if parameter.grad is None]
    plain, _ = labeled_loss(
        network, (image, target), changed(settings, {"loss": "dice"}), torch.device("cpu")
    )
    assert plain.item() == pytest.approx(dice.item(), abs=0.2)


@pytest.mark.parametrize("name", ["resunet", "unet++-averaged", "setr-mla"])
def test_memory_of_a_network_is_estimated_without_computing(name: str) -> None:
    recipe, cpu = (
        Recipe(name, SMALL[name], ("nucleus",), 64, (8.0, 8.0), 0.5, 0.2),
        torch.device("cpu"),
    )
    bytes_of_2, bytes_of_4 = (training_bytes([recipe], batch, cpu, "float32") for batch in (2, 4))
    weights = 4 * count_parameters(recipe.build())
    assert 7 * weights <= bytes_of_2 <= bytes_of_4 < 2.2 * bytes_of_2
    assert training_bytes([recipe], 64, cpu, "bfloat16") < 0.8 * training_bytes(
        [recipe], 64, cpu, "float32"
    )
    small = Recipe("unet", 4, ("nucleus",), 64, (8.0, 8.0), 0.5, 0.2)
    small_weights = 4 * count_parameters(small.build())
    assert (
        training_bytes([recipe, small], 2, cpu, "float32") == bytes_of_2 + 4 * small_weights
    )  # their batches do not exist at the same time
    assert weights < prediction_bytes(recipe, 2, cpu, "float32") < bytes_of_2


@pytest.mark.parametrize("name", ["senformer", "fractalresnet"])
def test_memory_of_the_slowest_networks_is_estimated(name: str) -> None:
    recipe, cpu = (
        Recipe(name, SMALL[name], ("nucleus",), 64, (8.0, 8.0), 0.5, 0.2),
        torch.device("cpu"),
    )
    weights = 4 * count_parameters(recipe.build())
    assert (
        weights
        < prediction_bytes(recipe, 2, cpu, "float32")
        < 7 * weights
        <= training_bytes([recipe], 2, cpu, "float32")
    )


def test_memory_is_that_of_all_tensors_that_exist_at_the_same_time() -> None:
    """Compared by hand for a chain of convolutions.

    A forward pass holds the input and output of one of them at a time; a training holds all maps
    for its backward pass.
    """
    plain = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)))
    maps = 2 * 8 * 32 * 32 * 4
    with torch.device("meta"), torch.no_grad(), MemoryCounter() as counter:
        plain(torch.empty(2, 8, 32, 32))
    assert counter.peak == 3 * maps  # the image, and two maps
    with torch.device("meta"), MemoryCounter() as counter:
        plain(torch.empty(2, 8, 32, 32))
    assert counter.peak == 6 * maps  # the image, and five maps
    assert counter.live == 0  # all of them are gone


@pytest.mark.parametrize("name", ["unet++-averaged", "senformer"])
def test_combined_outputs_have_a_loss_each(name: str) -> None:
    torch.manual_seed(1)
    network = build_network(name, SMALL[name], 1, 64)
    random = np.random.default_rng(0)
    image, target = (
        random.random((2, 1, 64, 64), np.float32),
        random.integers(0, 2, (2, 1, 64, 64)).astype(np.uint8),
    )
    settings = TrainSettings(precision="float32")
    seen, truth = torch.from_numpy(image), torch.from_numpy(target)
    with torch.no_grad():
        each = network.eval().each(seen)  # type: ignore[operator]
    assert each.shape == (4, 2, 1, 64, 64)
    assert each.std(dim=0).max() > 1e-4  # they differ
    loss, dice = labeled_loss(network, (image, target), settings, torch.device("cpu"))
    assert loss.item() == pytest.approx(
        np.mean([dice_loss(logits.sigmoid(), truth).item() for logits in each]), abs=1e-5
    )
    mean = each.mean(0).sigmoid() if name == "unet++-averaged" else each.sigmoid().mean(0)
    assert torch.allclose(network(seen).sigmoid(), mean, atol=1e-4)
    assert dice.item() == pytest.approx(dice_loss(mean, truth).item(), abs=1e-4)


@pytest.mark.parametrize("inputs", [1, 3, 5])
def test_an_encoder_starts_from_pretrained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: int
) -> None:
    pretrained = smp.encoders.get_encoder(
        "resnet34", in_channels=3, depth=5, weights=None
    ).state_dict()
    save_file(pretrained, tmp_path / "model.safetensors")  # replaces the file of the hub
    monkeypatch.setattr(
        smp.encoders, "hf_hub_download", lambda *_, filename, **__: str(tmp_path / filename)
    )
    network = build_network("unet++-shallow", 2, 1, 64, inputs)
    load_pretrained_weights(network, "unet++-shallow")
    weights = network.network.encoder.state_dict()  # type: ignore[union-attr]
    assert torch.equal(weights["layer1.0.conv1.weight"], pretrained["layer1.0.conv1.weight"])
    first = pretrained["conv1.weight"]
    expected = {1: first.sum(1, keepdim=True), 3: first, 5: first[:, [0, 1, 2, 0, 1]] * 3 / 5}[
        inputs
    ]
    assert torch.allclose(weights["conv1.weight"], expected, atol=1e-6)


def test_a_transformer_starts_from_pretrained_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretrained = timm.create_model(
        "vit_base_patch16_384", pretrained=False, num_classes=7
    ).state_dict()
    monkeypatch.setattr(
        timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: dict(pretrained)
    )
    network = build_network("setr-naive", 768, 1, 64)
    load_pretrained_weights(network, "setr-naive")
    weights = network.transformer.state_dict()  # type: ignore[union-attr]
    assert torch.equal(weights["blocks.3.attn.qkv.weight"], pretrained["blocks.3.attn.qkv.weight"])
    assert torch.allclose(
        weights["patch_embed.proj.weight"],
        pretrained["patch_embed.proj.weight"].sum(1, keepdim=True),
        atol=1e-5,
    )
    assert weights["pos_embed"].shape == (1, 1 + 16, 768)  # 64 px: four patches a side
    with pytest.raises(SettingsError, match="of width 768 or 1024; got 128"):
        load_pretrained_weights(build_network("setr-naive", 128, 1, 64), "setr-naive")


def test_missing_pretrained_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("the hub cannot be reached.")

    monkeypatch.setattr(smp.encoders, "hf_hub_download", unreachable)
    with pytest.raises(
        SettingsError,
        match=r"of 'unet\+\+' could not be downloaded .*cannot be reached.* HF_HOME .*leave out --pretrained",
    ):
        load_pretrained_weights(build_network("unet++", 2, 1, 64), "unet++")
    with pytest.raises(
        SettingsError, match=r"no pretrained weights of 'resunet'; there are some of unet\+\+, "
    ):
        load_pretrained_weights(build_network("resunet", 4, 1, 64), "resunet")
    with pytest.raises(SettingsError, match="are of width 96; got 32"):
        load_pretrained_weights(build_network("senformer", 32, 1, 64), "senformer")
    assert {
        name for name in ARCHITECTURES if hasattr(architecture_class(name), "load_pretrained")
    } == set(PRETRAINED)


@pytest.fixture(scope="module")
def nucleoli(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A phantom whose nucleoli cover one pixel in a hundred."""
    settings = PhantomSettings(shape=(7, 128, 128), voxel_nm=(40, 40, 40), cells=3, seed=5)
    sample = phantom(tmp_path_factory.mktemp("rare") / "s.zarr", settings)
    write_annotation(
        sample, "nucleolus", (0, 3, 6), truth_of(sample, "nucleolus", (0, 3, 6)), image="raw"
    )
    return sample


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_network_predicts_background_only_for_a_rare_structure(
    nucleoli: Sample, name: str
) -> None:
    """Within a few updates its probability is high on the structure, and lower elsewhere.

    A network that predicts background only has a probability of a hundredth everywhere: the
    fraction of pixels in the structure.
    """
    settings = TrainSettings(
        structures=("nucleolus",),
        architecture=name,
        width=SMALL[name],
        context_px=64,
        input_px=64,
        batch=2,
        updates=400,
        warmup=5,
        min_foreground_px=10,
        foreground_fraction=1.0,
    )
    slices, recipe, _ = read_training_slices([nucleoli], ("nucleolus",), settings)
    state = start_network(recipe, settings, torch.device("cpu"))
    compute_loss = LabeledLoss(state.network, settings, torch.device("cpu"))
    batch = build_sampler(slices, settings, 10).batch(1)
    is_structure = batch[1] == 1
    assert 0.005 < is_structure.mean() < 0.015
    torch.manual_seed(0)  # dropout, which the loop of a training seeds for every update
    for update in range(40):
        train_step(state, compute_loss, batch, settings)
        if update % 5 == 4:
            with torch.no_grad():
                probability = (
                    compute_logits(state.network, torch.from_numpy(batch[0]), settings)
                    .sigmoid()
                    .numpy()
                )
            inside, outside = probability[is_structure].mean(), probability[~is_structure].mean()
            if inside > 0.4 and inside > 1.5 * outside:
                return
    pytest.fail(f"after 40 updates: {inside:.2f} on the structure and {outside:.2f} elsewhere")
