"""Muon (Jordan et al. 2024): an optimizer for the kernels of convolutions.

The update of a kernel is its momentum with all singular values brought near 1, so that no direction
dominates. A kernel (outputs, inputs, y, x) is the matrix (outputs, inputs * y * x) for that.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
# Of a polynomial of odd degree, which brings singular values of 0.01 to 1 within 0.7 to 1.2 when
# applied five times (Jordan et al. 2024).
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
STEPS = 5
# A larger matrix is divided: its parts take less time together, and the networks are as good.
MAX_ROWS = 128
# Root mean square of an update, relative to the learning rate. That of Adam is 0.2 to 0.4 (Liu et
# al. 2025, section 2.2), and larger at first. After 1,000 updates, 0.2 to 1 are equally good; in
# trainings of 60 updates, 0.2 is too slow.
UPDATE_RMS = 0.5
# The first and the last convolution of a network have fewer channels on one side; Adam trains them.
MIN_CHANNELS = 8


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum.

    Args:
        kernels: parameters of four axes, those of convolutions.
        learning_rate: as for Adam.
    """

    def __init__(self, kernels: Iterable[nn.Parameter], learning_rate: float) -> None:
        super().__init__(kernels, {"lr": learning_rate})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every kernel that has a gradient."""
        for group in self.param_groups:
            for kernel in group["params"]:
                if kernel.grad is not None:
                    self._update(kernel, kernel.grad, group["lr"])

    def _update(self, kernel: nn.Parameter, gradient: Tensor, learning_rate: float) -> None:
        state = self.state[kernel]
        if not state:
            state["momentum"] = torch.zeros_like(kernel)
        momentum = state["momentum"]
        momentum.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)
        matrix = ahead.reshape(len(kernel), -1)
        direction = orthogonalize_parts(matrix)
        size = UPDATE_RMS * max(matrix.shape) ** 0.5
        kernel.add_(direction.reshape(kernel.shape), alpha=-learning_rate * size)


def kernels_of(network: nn.Module) -> list[nn.Parameter]:
    """Return the kernels of convolutions between maps of features: those that Muon trains."""
    return [
        parameter
        for parameter in network.parameters()
        if parameter.ndim == 4 and min(parameter.shape[:2]) >= MIN_CHANNELS
    ]


def orthogonalize_parts(matrix: Tensor) -> Tensor:
    """Return a matrix (n, m) whose parts are orthogonalized.

    Parts have up to ``MAX_ROWS`` rows, or columns if there are fewer columns than rows.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonalize_parts(matrix.T).T
    return torch.cat([orthogonalize(part) for part in matrix.split(MAX_ROWS)])


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return a matrix (n, m) with its singular vectors, and singular values of 0.7 to 1.2.

    The polynomial of Newton and Schulz is applied to the matrix of the products of rows (n, n)
    alone, which takes a third of the time for kernels; in 32 bits, singular values below a
    thousandth of the largest one stay small.
    """
    products = matrix @ matrix.T
    squared_norm = products.trace().clamp(min=torch.finfo(matrix.dtype).tiny)
    products = products / squared_norm
    total = _polynomial(products)
    polynomial = total
    for _ in range(STEPS - 1):
        products = polynomial @ products @ polynomial
        polynomial = _polynomial(products)
        total = polynomial @ total
    return total @ (matrix * squared_norm.rsqrt())


def _polynomial(products: Tensor) -> Tensor:
    """Return the polynomial of a matrix (n, n) by which a step multiplies."""
    polynomial = CUBIC * products + QUINTIC * (products @ products)
    polynomial.diagonal().add_(LINEAR)
    return polynomial
