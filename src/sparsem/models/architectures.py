"""The network architectures by name.

To add one: write a file with the class, add a line here, and its parameter count to the tests. A
class states ``tile_multiple`` and ``width_multiple``, of which the edge of a tile and the width
must be multiples; ``default_width``; ``default_learning_rate``, at which it trains well; and
``trains_with_muon`` if it trains better with Muon than with Adam. Its module is imported when the
network is built, since some import libraries that take seconds to load.
"""

import inspect
from importlib import import_module
from typing import Any

from torch import nn

from sparsem.errors import SettingsError
from sparsem.extras import require
from sparsem.settings import Optimizer, nearest

ARCHITECTURES = {
    "resunet": "resunet.ResUNet",
    "unet": "unet.UNet",
    "unet++": "unetplusplus.UNetPlusPlus",
    "unet++-averaged": "unetplusplus.AveragedUNetPlusPlus",
    "unet++-shallow": "unetplusplus.ShallowUNetPlusPlus",
    "fractalresnet": "fractalresnet.FracTALResNet",
    "ceecnet": "ceecnet.CEECNet",
    "senformer": "senformer.SenFormer",
    "transunet": "transunet.TransUNet",
    "setr-naive": "setr.SetrNaive",
    "setr-pup": "setr.SetrPup",
    "setr-mla": "setr.SetrMla",
}

# Architectures of convolutions alone: a pixel depends on what is near it, whatever the tile.
LOCAL_ARCHITECTURES = ("resunet", "unet", "unet++", "unet++-averaged", "unet++-shallow")

# Architectures with weights that were trained on ImageNet.
ZOO_LIBRARIES = ("segmentation_models_pytorch", "timm")  # of the extra "zoo"

PRETRAINED = (
    "unet++",
    "unet++-averaged",
    "unet++-shallow",
    "senformer",
    "setr-naive",
    "setr-pup",
    "setr-mla",
)


def architecture_class(name: str) -> Any:
    """Return the class of an architecture.

    Raises:
        SettingsError: there is no architecture of this name; the nearest name is suggested.
    """
    if name not in ARCHITECTURES:
        raise SettingsError(f"There is no model '{name}'{nearest(name, ARCHITECTURES)}")
    module, _, class_name = ARCHITECTURES[name].partition(".")
    try:
        return getattr(import_module(f"sparsem.models.{module}"), class_name)
    except ModuleNotFoundError as error:
        if error.name in ZOO_LIBRARIES:
            require("zoo")
        raise


def build_network(name: str, width: int, outputs: int, tile: int, inputs: int = 1) -> nn.Module:
    """Build a network with random weights.

    Args:
        name: name of the architecture.
        width: feature maps of its first level.
        outputs: number of structures.
        tile: edge of the tiles, px.
        inputs: number of input channels: a slice and its adjacent slices.

    Returns:
        A network: (B, inputs, tile, tile) -> logits (B, outputs, tile, tile).

    Raises:
        SettingsError: there is no such architecture, or it does not accept the width or tile.
    """
    network_class = architecture_class(name)
    tile_multiple: int = network_class.tile_multiple
    if tile % tile_multiple or tile < 2 * tile_multiple:
        raise SettingsError(
            f"'{name}' takes tiles whose edge is a multiple of {tile_multiple} and at least "
            f"{2 * tile_multiple}; got {tile}."
        )
    if width % network_class.width_multiple:
        raise SettingsError(
            f"'{name}' takes widths that are a multiple of {network_class.width_multiple}; "
            f"got {width}, the default is {network_class.default_width}."
        )
    options: dict[str, Any] = {"width": width, "inputs": inputs, "outputs": outputs}
    if "tile" in inspect.signature(network_class).parameters:
        options["tile"] = tile
    network: nn.Module = network_class(**options)
    return network


def load_pretrained_weights(network: nn.Module, name: str) -> None:
    """Load ImageNet weights into the encoder of a network.

    Raises:
        SettingsError: there are no such weights, or they cannot be downloaded.
    """
    if not hasattr(network, "load_pretrained"):
        raise SettingsError(
            f"There are no pretrained weights of '{name}'; there are some of "
            f"{', '.join(PRETRAINED)}. Leave out --pretrained."
        )
    load: Any = network.load_pretrained
    try:
        load()
    except OSError as error:  # every error of the hub is one
        raise SettingsError(
            f"The pretrained weights of '{name}' could not be downloaded from the Hugging Face "
            f"hub ({str(error).splitlines()[0]}). Download them once with a connection, or copy "
            "the hub cache of another computer and point HF_HOME to it; or leave out --pretrained."
        ) from None


def default_width(name: str) -> int:
    """Return the width of an architecture if none is set."""
    return int(architecture_class(name).default_width)


def default_learning_rate(name: str) -> float:
    """Return the maximum learning rate of an architecture if none is set."""
    return float(architecture_class(name).default_learning_rate)


def default_optimizer(name: str) -> Optimizer:
    """Return the optimizer of an architecture if none is set."""
    return "muon" if getattr(architecture_class(name), "trains_with_muon", False) else "adam"


def count_parameters(network: nn.Module) -> int:
    """Count the trainable parameters of a network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


__all__ = [
    "ARCHITECTURES",
    "LOCAL_ARCHITECTURES",
    "PRETRAINED",
    "architecture_class",
    "build_network",
    "count_parameters",
    "default_learning_rate",
    "default_optimizer",
    "default_width",
    "load_pretrained_weights",
]
