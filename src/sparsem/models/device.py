"""Where and how precisely a network computes."""

import contextlib
import ctypes
import sys
from functools import cache
from typing import Literal

import psutil
import torch

from sparsem.errors import SettingsError

Precision = Literal["auto", "float32", "bfloat16"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT, ALONE = 2**30, 2**26  # bytes: free memory that is kept, and arrays so large that they are returned all the same


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes a CUDA GPU, else an Apple GPU, else the CPU.

    Raises:
        SettingsError: the named device is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("not a kind of device that networks run on here")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        others = "".join(f" or {kind}" for kind, there in here.items() if there)
        raise SettingsError(f"--device {name} cannot be used here ({str(error).splitlines()[0][:120]}); use cpu{others}.") from None
    return device


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Mixed precision for the forward pass: bfloat16 where it is fast, by default; it needs no loss scaling."""
    return torch.autocast(device.type, torch.bfloat16, enabled=resolved(device, precision) == "bfloat16")


def resolved(device: torch.device, precision: Precision) -> Precision:
    """What ``auto`` means on a device."""
    if precision != "auto":
        return precision
    return "bfloat16" if _is_fast_in_bfloat16(device) else "float32"


@cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory of this process for the next tensors; does nothing without glibc.

    By default every large tensor is given back to the system and its successor is faulted in anew, page by page: a network on
    the CPU takes a third longer by it (measured).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, ALONE)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def free_memory(device: torch.device) -> int:
    """Bytes that are free for a network: on a CUDA device its own, elsewhere those of the machine."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else int(psutil.virtual_memory().available)


def _is_fast_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere and later; before it is emulated
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())
