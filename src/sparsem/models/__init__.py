"""The networks by name. To add one: a file with the class, a line here, its parameter count in the tests."""

from torch import nn

from sparsem.errors import SettingsError
from sparsem.models.resunet import ResUNet
from sparsem.models.unet import UNet
from sparsem.settings import nearest

MODELS: dict[str, type[ResUNet] | type[UNet]] = {"resunet": ResUNet, "unet": UNet}


def build(name: str, width: int, outputs: int, tile: int, inputs: int = 1) -> nn.Module:
    """A network with random weights: (B, inputs, tile, tile) -> logits (B, outputs, tile, tile).

    Raises:
        SettingsError: no network of that name, or it cannot take tiles of that size.
    """
    if name not in MODELS:
        raise SettingsError(f"There is no model '{name}'{nearest(name, MODELS)}")
    multiple = multiple_of(name)
    if tile % multiple or tile < 2 * multiple:
        raise SettingsError(f"'{name}' takes tiles whose edge is a multiple of {multiple} and at least {2 * multiple}; got {tile}.")
    return MODELS[name](width=width, inputs=inputs, outputs=outputs)


def multiple_of(name: str) -> int:
    """The number that tile edges of a network must be a multiple of."""
    return MODELS[name].multiple_of


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


__all__ = ["MODELS", "build", "count_parameters", "multiple_of"]
