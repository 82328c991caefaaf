"""Where and how precisely a network computes."""

import contextlib
import ctypes
import sys
import time
from collections.abc import Iterator
from functools import cache
from typing import Literal

import psutil
import torch
from torch import Tensor, nn

from sparsem.errors import SettingsError

Precision = Literal["auto", "float32", "bfloat16"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT, ALONE = (
    2**30,
    2**26,
)  # bytes: free memory that is kept, and arrays so large that they are returned all the same

TRIAL_ROUNDS = 5
TRIAL_GAIN = (
    1.15  # measured: 1.7 to 2 with instructions for bfloat16, 0.1 to 0.5 where it is emulated
)


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes a CUDA GPU, else an Apple GPU, else the CPU.

    Raises:
        SettingsError: the named device is not there.
    """
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("not a kind of device that networks run on here")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        others = "".join(f" or {kind}" for kind, there in here.items() if there)
        raise SettingsError(
            f"--device {name} cannot be used here ({str(error).splitlines()[0][:120]}); use cpu{others}."
        ) from None
    return device


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Mixed precision for the forward pass: bfloat16 where it is fast, by default; it needs no loss scaling."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=resolve_precision(device, precision) == "bfloat16"
    )


def resolve_precision(
    device: torch.device, precision: Precision, earlier: Precision | None = None
) -> Precision:
    """Return ``float32`` or ``bfloat16``: what ``auto`` means on a device.

    Args:
        device: where the network runs.
        precision: what was asked for.
        earlier: the precision of an earlier run of the same work, which ``auto`` keeps: another machine, or a busy one, must neither
            refuse to continue that run nor end in other bytes.
    """
    if precision != "auto":
        return precision
    if earlier is not None:
        return earlier
    return "bfloat16" if _is_faster_in_bfloat16(device.type, device.index) else "float32"


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
    return (
        int(torch.cuda.mem_get_info(device)[0])
        if device.type == "cuda"
        else int(psutil.virtual_memory().available)
    )


@cache
def _is_faster_in_bfloat16(kind: str, index: int | None) -> bool:
    if kind == "cuda":
        return torch.cuda.get_device_capability(index) >= (
            8,
            0,
        )  # Ampere and later; before it is emulated
    return kind == "cpu" and _cpu_gain_of_bfloat16() >= TRIAL_GAIN


def _cpu_gain_of_bfloat16() -> float:
    """Time of float32 over that of bfloat16, of a small network forward and backward on the CPU; takes about 0.2 s.

    Names of instruction sets do not tell: AVX512_BF16, AMX and those to come are fast, and all others emulate it. One thread and its own
    clock make the trial independent of what else the machine computes.
    """
    with (
        _one_thread(),
        torch.random.fork_rng(devices=[]),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        layers = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 16, 3, padding=1)
        )
        network = layers.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.randn(2, 16, 64, 64).contiguous(memory_format=torch.channels_last)
        (
            _timed_update(network, images, False),
            _timed_update(network, images, True),
        )  # kernels are compiled at the first call
        rounds = [
            (_timed_update(network, images, False), _timed_update(network, images, True))
            for _ in range(TRIAL_ROUNDS)
        ]
    float32_s = min(seconds for seconds, _ in rounds)
    bfloat16_s = min(seconds for _, seconds in rounds)
    return float32_s / bfloat16_s


def _timed_update(network: nn.Module, images: Tensor, in_bfloat16: bool) -> float:
    """Seconds of this thread for a forward and a backward pass."""
    started = time.thread_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
        answer = network(images)
    answer.float().sum().backward()
    return time.thread_time() - started


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
