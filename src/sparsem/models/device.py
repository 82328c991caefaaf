"""Where and how precisely a network computes."""

import contextlib
from typing import Literal

import torch

from sparsem.errors import SettingsError

Precision = Literal["auto", "float32", "bfloat16"]


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes a CUDA GPU, else an Apple GPU, else the CPU.

    Raises:
        SettingsError: the named device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingsError(f"--device {name} cannot be used ({str(error).splitlines()[0]}); try cpu, cuda or mps.") from None
    return device


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Mixed precision for the forward pass: bfloat16 where it is fast, by default; it needs no loss scaling."""
    if precision == "auto":
        precision = "bfloat16" if _is_fast_in_bfloat16(device) else "float32"
    enabled = precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def _is_fast_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later; before it is emulated
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
