"""The networks by name. To add one: a file with the class, a line here, its parameter count in the tests.

A class says ``tile_multiple``, the number that tile edges must be a multiple of, ``default_width``, ``width_multiple``, the number that widths must
be a multiple of, and ``default_learning_rate``, the learning rate at which it learns well. Its module is loaded when it is built: some load
libraries that take seconds.
"""

import inspect
from importlib import import_module
from typing import Any

from torch import nn

from sparsem.errors import SettingsError
from sparsem.settings import nearest

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
    """The class of a network.

    Raises:
        SettingsError: there is none of that name; the nearest is named.
    """
    if name not in ARCHITECTURES:
        raise SettingsError(f"There is no model '{name}'{nearest(name, ARCHITECTURES)}")
    module, _, found = ARCHITECTURES[name].partition(".")
    return getattr(import_module(f"sparsem.models.{module}"), found)


def build_network(name: str, width: int, outputs: int, tile: int, inputs: int = 1) -> nn.Module:
    """A network with random weights: (B, inputs, tile, tile) -> logits (B, outputs, tile, tile).

    Raises:
        SettingsError: no network of that name, or it cannot take that width or tiles of that size.
    """
    kind = architecture_class(name)
    multiple: int = kind.tile_multiple
    if tile % multiple or tile < 2 * multiple:
        raise SettingsError(
            f"'{name}' takes tiles whose edge is a multiple of {multiple} and at least {2 * multiple}; got {tile}."
        )
    if width % kind.width_multiple:
        raise SettingsError(
            f"'{name}' takes widths that are a multiple of {kind.width_multiple}; got {width}, usual is {kind.default_width}."
        )
    positions = {"tile": tile} if "tile" in inspect.signature(kind).parameters else {}
    network: nn.Module = kind(width=width, inputs=inputs, outputs=outputs, **positions)
    return network


def load_pretrained_weights(network: nn.Module, name: str) -> None:
    """Let the part of a network that looks at images begin with what its library has of it, learnt on ImageNet.

    Raises:
        SettingsError: there is nothing of that kind, or it cannot be fetched.
    """
    if not hasattr(network, "load_pretrained"):
        raise SettingsError(
            f"There are no pretrained weights of '{name}'; there are of {', '.join(PRETRAINED)}. Leave out --pretrained."
        )
    load: Any = network.load_pretrained
    try:
        load()
    except OSError as error:  # what the hub raises, in all its kinds
        raise SettingsError(
            f"The pretrained weights of '{name}' could not be fetched from the Hugging Face hub ({str(error).splitlines()[0]}) Fetch them "
            "once with a connection, or copy a machine's hub cache here and point HF_HOME to it; or leave out --pretrained."
        ) from None


def default_width(name: str) -> int:
    """The width that a network has if nobody says one."""
    return int(architecture_class(name).default_width)


def default_learning_rate(name: str) -> float:
    """The highest learning rate that a network has if nobody says one."""
    return float(architecture_class(name).default_learning_rate)


def count_parameters(network: nn.Module) -> int:
    """Trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


__all__ = [
    "ARCHITECTURES",
    "PRETRAINED",
    "architecture_class",
    "build_network",
    "count_parameters",
    "default_learning_rate",
    "default_width",
    "load_pretrained_weights",
]
