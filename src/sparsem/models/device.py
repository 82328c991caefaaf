"""Device and precision of the computation of a network."""

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from functools import cache

import psutil
import torch
from torch import Tensor, nn

from sparsem.errors import SettingsError
from sparsem.settings import Precision, S, changed
from sparsem.workflow.execution import Execution
from sparsem.workflow.settings import read_cluster

M_TRIM_THRESHOLD = -1  # of glibc's malloc.h
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
MAX_KEPT_BYTES = 2**30  # freed memory that a process keeps
MIN_RETURNED_BYTES = 2**26  # arrays of at least this size are returned to the system anyway

AMPERE = (8, 0)  # compute capability from which on a GPU has bfloat16; older ones emulate it
TRIAL_ROUNDS = 5
# Minimum gain in speed for bfloat16. Measured: 1.7 to 2 with instructions for bfloat16, 0.1 to 0.5
# where it is emulated.
TRIAL_GAIN = 1.15


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name; ``auto`` is a CUDA GPU, else an Apple GPU, else the CPU.

    Of several GPUs every local worker, and every process that ``torchrun`` starts, uses its own,
    unless the name has a number.

    Raises:
        SettingsError: the device is not available.
    """
    if name == "auto":
        name = _best_device_name()
    if name == "cuda" and count_gpus() > 1:
        name = f"cuda:{_process_number() % count_gpus()}"
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("networks run on cpu, cuda and mps only")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        available = ["cpu"]
        if torch.cuda.is_available():
            available.append("cuda")
        if torch.backends.mps.is_available():
            available.append("mps")
        raise SettingsError(
            f"--device {name} cannot be used here ({str(error).splitlines()[0][:120]}); "
            f"use {' or '.join(available)}."
        ) from None
    return device


def count_gpus() -> int:
    """Return the number of CUDA GPUs of this machine."""
    return int(torch.cuda.device_count()) if torch.cuda.is_available() else 0


def settle_device(settings: S, on: Execution) -> tuple[S, torch.device]:
    """Return settings for the processes that compute blocks, and their device.

    The device of a cluster is not looked for here: its jobs get its name.

    Raises:
        SettingsError: the device is not available.
    """
    name: str = settings.device  # type: ignore[attr-defined]
    if not on.cluster:
        return settings, choose_device(name)
    kind = "cuda" if read_cluster(on.cluster).gpus else "cpu"
    if name not in ("auto", kind):
        raise SettingsError(
            f"--device {name} does not fit the jobs of {on.cluster}, which have "
            f"{'a GPU' if kind == 'cuda' else 'no GPU (gpus = 1)'}."
        )
    return changed(settings, {"device": kind}), torch.device(kind)


def gpus_of(name: str) -> int:
    """Return the number of GPUs among which local workers with a device name are divided."""
    return count_gpus() if name in ("auto", "cuda") else 1


def _process_number() -> int:
    """Return the number of this process: of ``torchrun``, or of a local worker; else 0."""
    if os.environ.get("LOCAL_RANK", "").isdigit():
        return int(os.environ["LOCAL_RANK"])
    if "distributed" not in sys.modules:
        return 0
    try:
        return int(sys.modules["distributed"].get_worker().name)
    except (ValueError, TypeError):  # no worker, or one with a name
        return 0


def _best_device_name() -> str:
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "cpu"


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[None]:
    """Return the context of a forward pass with a precision; bfloat16 needs no loss scaling."""
    is_bfloat16 = resolve_precision(device, precision) == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16)


def resolve_precision(
    device: torch.device, precision: Precision, earlier: Precision | None = None
) -> Precision:
    """Return ``float32`` or ``bfloat16``; ``auto`` means the faster one on the device.

    Args:
        device: device of the network.
        precision: the requested precision.
        earlier: the precision of an earlier run of the same work, which ``auto`` keeps: on another
            machine, or on a busy one, that run must continue and must end in the same bytes.
    """
    if precision != "auto":
        return precision
    if earlier is not None:
        return earlier
    return "bfloat16" if _is_faster_in_bfloat16(device.type, device.index) else "float32"


@cache
def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory of this process; does nothing without glibc.

    By default the memory of every large tensor is returned to the system, and that of the next one
    is requested page by page: a network on the CPU takes a third longer (measured).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MIN_RETURNED_BYTES)
        mallopt(M_TRIM_THRESHOLD, MAX_KEPT_BYTES)


def free_memory(device: torch.device) -> int:
    """Return the free bytes for a network: of a CUDA device, or else of the machine.

    They are 0 of a GPU that this machine does not have.
    """
    if device.type == "cuda":
        if not torch.cuda.is_available():
            return 0
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


@cache
def _is_faster_in_bfloat16(kind: str, index: int | None) -> bool:
    if kind == "cuda" and not torch.cuda.is_available():
        return False  # of a cluster: it is not known how old it is
    if kind == "cuda":
        return torch.cuda.get_device_capability(index) >= AMPERE
    return kind == "cpu" and _cpu_gain_of_bfloat16() >= TRIAL_GAIN


def _cpu_gain_of_bfloat16() -> float:
    """Return the time of float32 divided by that of bfloat16, of a small network on the CPU.

    One update is timed, forward and backward; the trial takes about 0.2 s. The names of
    instruction sets do not show it: AVX512_BF16, AMX and future ones are fast, and all others
    emulate it. With one thread and its own clock, the trial is independent of what else the
    machine computes.
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
        # Kernels are compiled in the first calls, which are not timed.
        _timed_update(network, images, False)
        _timed_update(network, images, True)
        float32_s = []
        bfloat16_s = []
        for _ in range(TRIAL_ROUNDS):
            float32_s.append(_timed_update(network, images, False))
            bfloat16_s.append(_timed_update(network, images, True))
    return min(float32_s) / min(bfloat16_s)


def _timed_update(network: nn.Module, images: Tensor, in_bfloat16: bool) -> float:
    """Return the seconds of this thread for a forward and a backward pass."""
    started = time.thread_time()
    with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
        output = network(images)
    output.float().sum().backward()
    return time.thread_time() - started


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
