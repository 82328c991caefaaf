"""Ranges of the values within a network, by which its convolutions are computed in 8 bits.

Kernels are divided into 255 steps between their largest values of each output, and the inputs of a
convolution into 256 steps of the range that they have on labeled slices; larger values are clipped.
Products are summed in 32 bits (Jacob et al. 2018).
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Smallest and largest input of each convolution, by its name in the network.
Ranges = dict[str, tuple[float, float]]

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
# Convolutions with fewer inputs or outputs, the first and the last of a network, take little time,
# and their rounding changes the most labels. Those in groups are not rounded either.
MIN_CHANNELS = 8
NEGATIVE_STEPS, POSITIVE_STEPS = 128, 127


def measure_ranges(network: nn.Module, batches: Iterable[Tensor]) -> Ranges:
    """Return the ranges of the inputs of all convolutions that are computed in 8 bits.

    Args:
        network: network in evaluation mode.
        batches: images (B, K, S, S) that resemble those that it will predict.
    """
    ranges: Ranges = {}

    def watch(name: str) -> Any:
        def extend(_module: nn.Module, inputs: tuple[Tensor]) -> None:
            smallest, largest = ranges.get(name, (0.0, 0.0))
            low, high = torch.aminmax(inputs[0])
            ranges[name] = (min(smallest, float(low)), max(largest, float(high)))

        return extend

    hooks = [
        module.register_forward_pre_hook(watch(name))
        for name, module in network.named_modules()
        if _is_rounded(module)
    ]
    try:
        with torch.inference_mode():
            for images in batches:
                network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return ranges


def _is_rounded(module: nn.Module) -> bool:
    """Return whether a layer is a convolution that is computed in 8 bits."""
    if not isinstance(module, CONVOLUTIONS) or module.groups > 1:
        return False
    return min(module.in_channels, module.out_channels) >= MIN_CHANNELS


def integer_limits(smallest: float, largest: float) -> tuple[float, float]:
    """Return the values that the smallest and the largest integer of 8 bits stand for.

    0 is one of the integers. They are unsigned if no value is negative.
    """
    if smallest >= 0:
        return 0.0, largest
    step = max(-smallest / NEGATIVE_STEPS, largest / POSITIVE_STEPS)
    return -NEGATIVE_STEPS * step, POSITIVE_STEPS * step
