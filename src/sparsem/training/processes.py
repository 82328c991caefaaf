"""One training in several processes, one for each GPU, as ``torchrun`` starts them.

    torchrun --nproc-per-node 4 -m sparsem train liver.zarr --out liver.safetensors --batch 20

Every process draws the whole batch and computes its part; gradients are averaged. The first
process holds the lock, validates, and writes all files.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from sparsem.errors import SettingsError
from sparsem.workflow.interruption import stops_after_steps


@dataclass(frozen=True)
class Processes:
    """The processes that train one network together.

    Attributes:
        rank: number of this process, from 0.
        count: number of processes.
        of_machine: how many of them this machine has.
    """

    rank: int = 0
    count: int = 1
    of_machine: int = 1

    @property
    def is_first(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0


def training_processes() -> Processes:
    """Return the processes of this training, from the environment that ``torchrun`` sets."""
    with suppress(KeyError, ValueError):
        return Processes(
            int(os.environ["RANK"]),
            int(os.environ["WORLD_SIZE"]),
            int(os.environ["LOCAL_WORLD_SIZE"]),
        )
    return Processes()


def connect(device: torch.device, batch: int) -> Processes:
    """Connect the processes of this training with each other, if there are several.

    Args:
        device: device of this process.
        batch: tiles in a batch, which the processes share.

    Raises:
        SettingsError: the batch cannot be divided among them.
    """
    processes = training_processes()
    if processes.count == 1:
        return processes
    if batch % processes.count:
        larger = processes.count * -(-batch // processes.count)
        raise SettingsError(
            f"A batch of {batch} tiles cannot be divided among {processes.count} processes; use "
            f"--batch {larger}."
        )
    if not distributed.is_initialized():
        is_gpu = device.type == "cuda"
        if is_gpu:
            torch.cuda.set_device(device)
        distributed.init_process_group("cpu:gloo,cuda:nccl" if is_gpu else "gloo")
    return processes


def with_mean_gradients(module: nn.Module) -> nn.Module:
    """Return a module whose gradients are averaged over all processes."""
    if training_processes().count == 1:
        return module
    # Heads of a network may take no part in the loss of the settings, always the same ones.
    return nn.parallel.DistributedDataParallel(module, static_graph=True)


def own_part(count: int) -> slice:
    """Return which of ``count`` tiles of a batch this process computes."""
    processes = training_processes()
    return slice(processes.rank, count, processes.count)


def mean_of_all(values: Sequence[float]) -> tuple[float, ...]:
    """Return the mean of each value over all processes."""
    count = training_processes().count
    if count == 1:
        return tuple(values)
    total = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(total)
    return tuple((total / count).tolist())


def is_any(flag: bool) -> bool:
    """Return whether the flag is set in any of the processes."""
    return any(mean_of_all([float(flag)]))


def as_in_first(value: Any) -> Any:
    """Return the value that the first process gives."""
    if training_processes().count == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, src=0)
    return values[0]


def run_along(updates: Iterable[Any]) -> None:
    """Run the updates of a process that writes nothing, until all processes are to stop."""
    with stops_after_steps() as is_to_stop:
        for _ in updates:
            if is_any(is_to_stop()):
                break
