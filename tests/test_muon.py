"""Muon: the matrices of its updates against a singular value decomposition, and its choices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sparsem.errors import ResumeError
from sparsem.models.checkpoint import Recipe
from sparsem.models.resunet import ResUNet
from sparsem.segment.network_training import train_network
from sparsem.segment.supervised import start_network
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.muon import (
    CUBIC,
    LINEAR,
    MAX_ROWS,
    MOMENTUM,
    QUINTIC,
    STEPS,
    UPDATE_RMS,
    Muon,
    kernels_of,
    orthogonalize,
    orthogonalize_parts,
)
from sparsem.training.settings import TrainSettings
from tests.conftest import QUICK


def _plain(matrix: torch.Tensor) -> NDArray[np.float64]:
    """Return the matrix with the polynomial applied to its singular values, in 64 bits."""
    left, values, right = np.linalg.svd(matrix.numpy().astype(np.float64), full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(STEPS):
        values = LINEAR * values + CUBIC * values**3 + QUINTIC * values**5
    return np.asarray(left * values @ right)


@pytest.mark.parametrize("shape", [(8, 8), (16, 144), (64, 30), (128, 1152)])
def test_orthogonalize_applies_the_polynomial_to_the_singular_values(
    shape: tuple[int, int],
) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    result = orthogonalize(matrix if shape[0] <= shape[1] else matrix.T)
    expected = _plain(matrix if shape[0] <= shape[1] else matrix.T)
    assert result.numpy() == pytest.approx(expected, abs=1e-4)


def test_singular_values_come_near_one() -> None:
    """From one to a hundredth of the largest one."""
    generator = torch.Generator().manual_seed(2)
    left, _ = torch.linalg.qr(torch.randn(32, 32, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(200, 32, generator=generator))
    matrix = left * torch.logspace(0, -1.5, 32) @ right.T
    values = torch.linalg.svdvals(orthogonalize(matrix))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_the_size_of_a_gradient_does_not_matter() -> None:
    matrix = torch.randn(16, 60, generator=torch.Generator().manual_seed(3))
    assert torch.allclose(orthogonalize(matrix), orthogonalize(1e-6 * matrix), atol=1e-5)
    assert not orthogonalize(torch.zeros(4, 9)).any()


def test_large_matrices_are_orthogonalized_in_parts() -> None:
    matrix = torch.randn(MAX_ROWS + 40, 500, generator=torch.Generator().manual_seed(4))
    result = orthogonalize_parts(matrix)
    assert torch.equal(result[:MAX_ROWS], orthogonalize(matrix[:MAX_ROWS]))
    assert torch.equal(result[MAX_ROWS:], orthogonalize(matrix[MAX_ROWS:]))
    assert torch.equal(orthogonalize_parts(matrix.T), result.T)


def test_a_step_moves_a_kernel_by_its_orthogonalized_momentum() -> None:
    kernel = torch.nn.Parameter(torch.zeros(8, 10, 3, 3))
    without_gradient = torch.nn.Parameter(torch.ones(8, 8, 1, 1))
    optimizer = Muon([kernel, without_gradient], 0.01)
    momentum = torch.zeros(8, 90)
    expected = torch.zeros(8, 90)
    for seed in range(3):
        gradient = torch.randn(8, 90, generator=torch.Generator().manual_seed(seed))
        kernel.grad = gradient.reshape(kernel.shape).clone()
        optimizer.step()
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        expected -= 0.01 * UPDATE_RMS * np.sqrt(90) * torch.as_tensor(_plain(ahead)).float()
    assert kernel.detach().reshape(8, 90).numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert torch.equal(without_gradient, torch.ones(8, 8, 1, 1))


def test_the_size_of_an_update_is_that_of_the_learning_rate() -> None:
    kernel = torch.nn.Parameter(torch.zeros(64, 64, 3, 3))
    kernel.grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(0))
    Muon([kernel], 0.01).step()
    size = kernel.detach().square().mean().sqrt()
    assert float(size) == pytest.approx(0.01 * UPDATE_RMS, rel=0.3)


def test_kernels_are_those_between_maps_of_features() -> None:
    """The first convolution sees one channel, and the head has one for each structure."""
    network = ResUNet(16, inputs=1, outputs=5)
    kernels = {id(parameter) for parameter in kernels_of(network)}
    left_out = [name for name, value in network.named_parameters() if id(value) not in kernels]
    assert "head.weight" in left_out
    assert "encoder.0.residual.0.weight" in left_out
    assert "encoder.0.residual.3.weight" not in left_out
    assert "enlarge.0.weight" not in left_out


@pytest.mark.parametrize(
    ("architecture", "optimizer", "expected"),
    [
        ("resunet", None, ["Adam", "Muon"]),
        ("unet", None, ["Adam", "Muon"]),
        ("resunet", "adam", ["Adam"]),
        ("unet++-shallow", None, ["Adam"]),
        ("unet++-shallow", "muon", ["Adam", "Muon"]),
    ],
)
def test_every_parameter_has_one_optimizer(
    architecture: str, optimizer: Any, expected: list[str]
) -> None:
    settings = TrainSettings(architecture=architecture, optimizer=optimizer)
    recipe = Recipe(architecture, 16, ("nucleus",), 32, (16.0, 16.0), 0.0, 1.0)
    state = start_network(recipe, settings, torch.device("cpu"))
    assert [type(member).__name__ for member in state.optimizers] == expected
    trained: list[int] = []
    for member in state.optimizers:
        trained += [id(value) for group in member.param_groups for value in group["params"]]
    assert sorted(trained) == sorted(map(id, state.network.parameters()))


def test_another_optimizer_is_another_training(tissue: Sample, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    train_network([tissue], out, QUICK)
    assert train_network([tissue], out, changed(QUICK, {"optimizer": "muon"}))  # the default
    with pytest.raises(ResumeError, match="optimizer"):
        train_network([tissue], out, changed(QUICK, {"optimizer": "adam"}))
