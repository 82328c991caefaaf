"""Networks: their parameter counts, what they take, and checkpoints that describe themselves."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparsem.annotations import UNKNOWN
from sparsem.errors import InputError, SettingsError
from sparsem.learn.losses import cross_entropy_loss, dice_loss
from sparsem.models import MODELS, build, count_parameters, multiple_of
from sparsem.models.checkpoint import Recipe, load_checkpoint, read_recipe, save_checkpoint, save_tensors
from sparsem.models.device import autocast, choose_device

RECIPE = Recipe("resunet", 4, ("nucleus", "nucleolus"), 32, (8.0, 8.0), 120.0, 40.0, 0, {"record": {"seed": 1}})


@pytest.mark.parametrize(
    ("name", "width", "parameters"), [("resunet", 64, 32_443_777), ("resunet", 32, 8_117_953), ("unet", 64, 4_283_201)]
)
def test_parameter_counts_are_the_papers(name: str, width: int, parameters: int) -> None:
    assert count_parameters(build(name, width, 1, 512)) == parameters


@pytest.mark.parametrize("name", MODELS)
def test_a_network_keeps_the_size_and_learns_everywhere(name: str) -> None:
    network = build(name, 4, 3, 64)
    logits = network(torch.randn(2, 1, 64, 64))
    assert logits.shape == (2, 3, 64, 64)
    logits.sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.abs().sum() >= 0) for parameter in network.parameters())


def test_what_cannot_be_built_says_why() -> None:
    with pytest.raises(SettingsError, match="no model 'resnet'; did you mean 'resunet'"):
        build("resnet", 4, 1, 64)
    with pytest.raises(SettingsError, match="'resunet' takes tiles whose edge is a multiple of 16 and at least 32; got 100"):
        build("resunet", 4, 1, 100)
    assert {name: multiple_of(name) for name in MODELS} == {"resunet": 16, "unet": 8}
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


def test_what_is_no_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match=r"There is no model file .*; 'sparsem train' makes one"):
        load_checkpoint(path)
    path.write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"m.safetensors is not a sparsem model, or is damaged"):
        load_checkpoint(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="is not a sparsem model"):
        load_checkpoint(path)
    save_checkpoint(path, build("resunet", 8, 2, 32), RECIPE)  # weights of another width than the recipe says
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
        {"model": "resunet9"},
        {"training": 5},
        {"extra": 1},
    ],
    ids=str,
)
def test_a_recipe_that_makes_no_sense_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "m.safetensors"
    about = {**asdict(RECIPE), **change}
    save_tensors(path, RECIPE.build().state_dict(), about)
    with pytest.raises(InputError, match=r"m.safetensors is damaged"):
        load_checkpoint(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    network = RECIPE.build()
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    save_checkpoint(tmp_path / "m.safetensors", network, RECIPE)
    with pytest.raises(InputError, match=r"m.safetensors is damaged: it holds weights that are not numbers"):
        load_checkpoint(tmp_path / "m.safetensors")


def plain_dice_loss(probability: np.ndarray, target: np.ndarray, squared: bool) -> float:
    losses = []
    for structure in range(target.shape[1]):
        known = target[:, structure] != UNKNOWN
        if known.any():
            p, g = probability[:, structure][known], (target[:, structure][known] == 1).astype(float)
            bottom = (p**2).sum() + (g**2).sum() if squared else p.sum() + g.sum()
            losses.append(1 - (2 * (p * g).sum() + 1) / (bottom + 1))
    return float(np.mean(losses)) if losses else 1.0


@pytest.mark.parametrize("squared", [True, False])
def test_dice_loss_is_the_papers_formula_on_known_pixels(squared: bool) -> None:
    random = np.random.default_rng(0)
    probability = random.random((2, 3, 8, 8))
    target = random.choice([0, 1, UNKNOWN], (2, 3, 8, 8)).astype(np.uint8)
    target[:, 2] = UNKNOWN  # a structure that nobody annotated in this batch
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
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[known], target[known].float())
    assert float(cross_entropy_loss(logits, target)) == pytest.approx(float(expected), abs=1e-6)


def test_precision_is_chosen_by_the_device() -> None:
    network, image = build("unet", 4, 1, 16), torch.randn(1, 1, 16, 16)
    with autocast(torch.device("cpu"), "bfloat16"):
        assert network(image).dtype == torch.bfloat16
    with autocast(torch.device("cpu"), "float32"):
        assert network(image).dtype == torch.float32
