"""How work is spread over processes or a cluster, and whether there is room for it."""

import atexit
import ctypes
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sparsem.errors import ResourceError, SettingsError
from sparsem.workflow.interruption import Stopped, blocked_here

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

SCHEDULER_TIMEOUT_S = 30
CLOSING_S = 5  # of a connection to workers that are gone


@dataclass(frozen=True)
class Execution:
    """How work is spread and shown.

    Attributes:
        workers: 0 runs in this process; more starts that many local processes.
        scheduler: address of a Dask scheduler that exists (a SLURM cluster through dask-jobqueue).
        overwrite: replace a result that was made with other settings; the old one stays until the new one is complete.
        quiet: no progress on standard error.
    """

    workers: int = 0
    scheduler: str | None = None
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise SettingsError(
                f"--workers takes 0 (this process) or a number of processes; got {self.workers}."
            )


HERE = Execution(quiet=True)


@dataclass(frozen=True)
class Needs:
    """What a stage will take, in bytes, and which setting takes less.

    Attributes:
        ram: of one process, at its peak.
        disk: for everything it writes.
        smaller: the setting that makes it fit, for the message.
        gpu: memory of the GPU that it uses.
        gpu_free: how much of that is free.
    """

    ram: int = 0
    disk: int = 0
    smaller: str = ""
    gpu: int = 0
    gpu_free: int = 0

    def check(self, directory: Path, processes: int = 1) -> None:
        """Refuse what cannot fit.

        Raises:
            ResourceError: with both numbers and what to change.
        """
        free_ram, free_disk = psutil.virtual_memory().available, shutil.disk_usage(directory).free
        memory = (
            ("memory", self.ram * processes, free_ram),
            ("GPU memory", self.gpu * processes, self.gpu_free),
        )
        for what, wanted, free in (*memory, (f"disk at {directory}", self.disk, free_disk)):
            if wanted > free:
                advice = f"; {self.smaller}" if self.smaller and "memory" in what else ""
                raise ResourceError(
                    f"This needs {wanted / 1e9:.1f} GB of {what}, and {free / 1e9:.1f} GB are free{advice}."
                )

    def __str__(self) -> str:
        gpu = f", {_size(self.gpu)} of GPU memory" if self.gpu else ""
        return f"needs up to {_size(self.ram)} of memory a process{gpu}" + (
            f" and {_size(self.disk)} of disk" if self.disk else ""
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 10**9 else f"{max(1, round(count / 1e6))} MB"


@contextmanager
def client_of(on: Execution) -> "Iterator[Client | None]":
    """The Dask client to work with; None means in this process.

    Raises:
        SettingsError: no scheduler answers at the address.
    """
    if not on.workers and not on.scheduler:
        yield None
        return
    from distributed import Client

    if on.scheduler:
        try:
            client = Client(on.scheduler, timeout=SCHEDULER_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"No Dask scheduler answers at {on.scheduler} ({error}); start one, or use --workers N."
            ) from None
        with client:
            yield client
        return
    client = Client(_local_cluster(on.workers), set_as_default=False)
    try:
        yield client
        client.run(_give_memory_back, on_error="ignore")
    except Stopped:
        raise  # the program ends now, and its processes with it
    except BaseException:
        _kill_kept()  # blocks in flight may not go on once the stage is given up
        client.close(timeout=CLOSING_S)
        raise
    client.close()


_kept: "list[LocalCluster]" = []  # one at most


def _local_cluster(workers: int) -> "LocalCluster":
    """Worker processes, kept for the next stage of this process: until they have imported everything they take ten seconds."""
    from distributed import LocalCluster, Status
    from distributed.utils import LoopRunner

    if _kept and not (_kept[0].status is Status.running and len(_kept[0].worker_spec) == workers):
        _close_kept()
    if not _kept:
        _start_resource_tracker()
        with blocked_here():
            runner = LoopRunner(asynchronous=False)
            runner.start()  # the thread that starts the workers
        options = {
            "threads_per_worker": 1,
            "dashboard_address": ":0",
            "memory_limit": 0,
        }  # the preflight has checked the memory
        _kept.append(
            LocalCluster(n_workers=workers, loop=runner.loop, silence_logs=logging.ERROR, **options)
        )
    return _kept[0]


def _start_resource_tracker() -> None:
    """Start what removes semaphores after workers, before the thread that starts them: it would unblock that thread's signals.

    It warns of the semaphores of a program that was stopped, which it removes; the warning is no news.
    """
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        resource_tracker.ensure_running()
    finally:
        del os.environ["PYTHONWARNINGS"]
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


@atexit.register
def _close_kept() -> None:
    while _kept:
        _kept.pop().close()


def _kill_kept() -> None:
    """End the workers without waiting for what they do: nothing half-written counts."""
    for cluster in _kept:
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
            with suppress(AttributeError, psutil.Error):  # one that is starting has no process yet
                psutil.Process(nanny.pid).kill()
    _close_kept()


def _give_memory_back() -> None:
    """What a stage freed is there for the next one's preflight."""
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def spread(
    client: "Client", calls: Iterable[tuple[Callable[..., None], tuple[Any, ...]]]
) -> Iterator[None]:
    """Run calls on workers, one yield a finished one; every worker is kept two ahead, so a million are never submitted at once.

    Raises:
        ResourceError: a worker died several times at one call.
    """
    from distributed import KilledWorker, as_completed

    waiting = iter(calls)
    ahead = 2 * max(1, sum(client.nthreads().values()))
    first = [client.submit(call, *given, pure=False) for call, given in islice(waiting, ahead)]
    running = as_completed(first, loop=client.loop)
    for future in running:
        try:
            future.result()
        except KilledWorker as error:
            raise ResourceError(
                f"Workers died while they ran one block ({error}); see their memory, use fewer, and run it again."
            ) from None
        yield
        for call, given in islice(waiting, 1):
            running.add(client.submit(call, *given, pure=False))
