"""Execution of work: in this process, on local workers or on a cluster.

And whether it fits into memory and onto the disk.
"""

import atexit
import ctypes
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from sparsem.errors import ResourceError, SettingsError
from sparsem.extras import require
from sparsem.progress import in_notebook
from sparsem.workflow.interruption import Stopped, blocked_here
from sparsem.workflow.settings import ClusterSettings, read_cluster

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

    from sparsem.workflow.cluster import BatchCluster

SCHEDULER_TIMEOUT_S = 30
CLOSING_S = 5  # of a connection to workers that are gone
LOOK_EVERY_S = 0.02  # at the blocks that jobs of a cluster have finished
SUPERVISE_EVERY_S = 1.0  # the jobs of a cluster
IDLE_S = 60.0  # jobs without a stage are ended


@dataclass(frozen=True)
class Execution:
    """Settings of the execution and of its display.

    Attributes:
        workers: number of local processes; 0 runs in this process.
        scheduler: address of a running Dask scheduler.
        cluster: file of a batch system's settings (see ``ClusterSettings``), which starts workers.
        overwrite: replace a result that was computed with other settings; the old one stays until
            the new one is complete.
        quiet: show no progress on standard error.

    Raises:
        SettingsError: ``workers`` is negative, or more than one of ``workers``, ``scheduler`` and
            ``cluster`` is set.
    """

    workers: int = 0
    scheduler: str | None = None
    cluster: str | Path | None = None
    overwrite: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise SettingsError(
                f"--workers takes 0 (this process) or a number of processes; got {self.workers}."
            )
        if sum(map(bool, (self.workers, self.scheduler, self.cluster))) > 1:
            raise SettingsError("Expected one of --workers, --scheduler and --cluster, got more.")

    @property
    def is_remote(self) -> bool:
        """True if workers may run on other machines, whose memory is not this one's."""
        return bool(self.scheduler or self.cluster)


HERE = Execution(
    quiet=not in_notebook()
)  # in this process; progress is shown where a person watches


@dataclass(frozen=True)
class Needs:
    """Bytes that a stage needs, and the setting that needs less.

    Attributes:
        ram: peak memory of one process.
        disk: bytes that the stage writes.
        smaller: the setting that makes it fit, for the message.
        gpu: memory of the GPU.
        gpu_free: how much of that is free.
        n_gpus: number of GPUs, among which the processes are divided.
    """

    ram: int = 0
    disk: int = 0
    smaller: str = ""
    gpu: int = 0
    gpu_free: int = 0
    n_gpus: int = 1

    def check(self, directory: Path, processes: int = 1) -> None:
        """Check that memory and disk suffice.

        Args:
            directory: where the stage writes.
            processes: number of processes that compute at the same time.

        Raises:
            ResourceError: they do not; the message has both numbers and what to change.
        """
        free_ram = psutil.virtual_memory().available
        free_disk = shutil.disk_usage(directory).free
        advice = f"; {self.smaller}" if self.smaller else ""
        _refuse_more("memory", self.ram * processes, free_ram, advice)
        processes_of_a_gpu = -(-processes // self.n_gpus)
        _refuse_more("GPU memory", self.gpu * processes_of_a_gpu, self.gpu_free, advice)
        _refuse_more(f"disk at {directory}", self.disk, free_disk)

    def __str__(self) -> str:
        gpu = f", {_in_words(self.gpu)} of GPU memory" if self.gpu else ""
        disk = f" and {_in_words(self.disk)} of disk" if self.disk else ""
        return f"needs up to {_in_words(self.ram)} of memory per process{gpu}{disk}"


def _refuse_more(resource: str, needed: int, free: int, advice: str = "") -> None:
    if needed > free:
        raise ResourceError(
            f"This needs {needed / 1e9:.1f} GB of {resource}, and {free / 1e9:.1f} GB are "
            f"free{advice}."
        )


def _in_words(count: int) -> str:
    if count >= 10**9:
        return f"{count / 1e9:.1f} GB"
    megabytes = max(1, round(count / 1e6))
    return f"{megabytes} MB"


Call = tuple[Callable[..., None], tuple[Any, ...]]  # a function and its arguments


class Workers(NamedTuple):
    """Processes that compute blocks.

    Attributes:
        client: the connection to them.
        n_most: their maximum number; those of a cluster start when there is work for them.
        supervise: starts those that are missing for a number of blocks, and raises an error if
            they cannot start; None if they are running.
    """

    client: "Client"
    n_most: int
    supervise: Callable[[int], None] | None = None


@contextmanager
def workers_of(on: Execution) -> "Iterator[Workers | None]":
    """Yield the processes to work with; None means this one.

    Raises:
        SettingsError: no scheduler answers at the address, or the settings of the cluster are
            wrong.
    """
    if not (on.workers or on.is_remote):
        yield None
        return
    require("cluster")
    if on.cluster:
        source = _jobs_of(on)
    elif on.scheduler:
        source = _scheduled(on.scheduler)
    else:
        source = _local_workers(on.workers)
    with source as workers:
        yield workers


@contextmanager
def _scheduled(address: str) -> Iterator[Workers]:
    from distributed import Client

    try:
        client = Client(address, timeout=SCHEDULER_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"No Dask scheduler answers at {address} ({error}); start one, or use --workers N."
        ) from None
    with client:
        yield Workers(client, 1)


@contextmanager
def _local_workers(n_workers: int) -> Iterator[Workers]:
    from distributed import Client

    client = Client(_local_cluster(n_workers), set_as_default=False)
    try:
        yield Workers(client, n_workers)
        client.run(_release_memory, on_error="ignore")
    except Stopped:
        raise  # the program ends now, and its processes with it
    except BaseException:
        _kill_kept_workers()  # blocks in flight must not continue once the stage is given up
        client.close(timeout=CLOSING_S)
        raise
    client.close()


@contextmanager
def _jobs_of(on: Execution) -> Iterator[Workers]:
    """Yield workers in jobs, which stay for the next stage."""
    from distributed import Client

    _stop_idle_timer()
    batch = _batch_cluster(read_cluster(str(on.cluster)))
    client = Client(batch.cluster, set_as_default=False)
    _stages_with_jobs.append(batch)
    try:
        yield Workers(client, batch.n_most, partial(batch.supervise, client, quiet=on.quiet))
    except Stopped:
        batch.cancel()
        raise
    except BaseException:
        client.close(timeout=CLOSING_S)
        _close_kept_jobs()
        raise
    finally:
        _stages_with_jobs.pop()
    client.close()
    if not _stages_with_jobs:
        _start_idle_timer()


_stages_with_jobs: "list[BatchCluster]" = []  # a stage may run within another one
_idle_timers: list[threading.Timer] = []  # at most one


def _start_idle_timer() -> None:
    """End the jobs after a while without a stage: others of the cluster wait for them."""
    timer = threading.Timer(IDLE_S, _close_kept_jobs)
    timer.daemon = True
    timer.start()
    _idle_timers.append(timer)


def _stop_idle_timer() -> None:
    while _idle_timers:
        _idle_timers.pop().cancel()


_kept_jobs: "list[BatchCluster]" = []  # at most one


def _batch_cluster(settings: ClusterSettings) -> "BatchCluster":
    """Return the jobs of a cluster, which stay for the next stage."""
    from sparsem.workflow.cluster import BatchCluster

    if _kept_jobs and not (_kept_jobs[0].is_running and _kept_jobs[0].settings == settings):
        _close_kept_jobs()
    if not _kept_jobs:
        _kept_jobs.append(BatchCluster(settings))
    return _kept_jobs[0]


@atexit.register
def _close_kept_jobs() -> None:
    while _kept_jobs:
        _kept_jobs.pop().close()


_kept_cluster: "list[LocalCluster]" = []  # at most one


def _local_cluster(workers: int) -> "LocalCluster":
    """Return worker processes, which stay for the next stage.

    To start them, and to import everything, takes ten seconds.
    """
    from distributed import LocalCluster, Status
    from distributed.utils import LoopRunner

    if _kept_cluster:
        cluster = _kept_cluster[0]
        is_running = cluster.status is Status.running
        if not is_running or len(cluster.worker_spec) != workers:
            _close_kept_workers()
    if not _kept_cluster:
        _start_resource_tracker()
        with blocked_here():
            runner = LoopRunner(asynchronous=False)
            runner.start()  # the thread that starts the workers
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # the preflight has checked the memory
            dashboard_address=":0",
            loop=runner.loop,
            silence_logs=logging.ERROR,
        )
        _kept_cluster.append(cluster)
    return _kept_cluster[0]


def _start_resource_tracker() -> None:
    """Start the process that removes semaphores of workers.

    The thread that starts workers would start it with unblocked signals, so it is started before.

    It warns of the semaphores of a program that was stopped, which it removes. Users need not see
    the warning.
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
def _close_kept_workers() -> None:
    while _kept_cluster:
        _kept_cluster.pop().close()


def _kill_kept_workers() -> None:
    """End the workers without waiting for their blocks: nothing half-written counts."""
    for cluster in _kept_cluster:
        for nanny in cluster.workers.values():
            nanny.auto_restart = False
            if nanny.pid is None:  # its worker is starting, or has ended
                continue
            with suppress(psutil.Error):
                psutil.Process(nanny.pid).kill()
    _close_kept_workers()


def _release_memory() -> None:
    """Return memory that a stage freed to the system, for the preflight of the next stage."""
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        if trim is not None:
            trim(0)


def spread(workers: Workers, calls: Iterable[Call]) -> Iterator[None]:
    """Run calls on workers, and yield once for each that is finished.

    Two calls per worker are submitted ahead, never a million at once.

    Raises:
        ResourceError: workers died several times at the same call.
    """
    from distributed import KilledWorker, as_completed

    client = workers.client
    waiting = iter(calls)
    n_threads = sum(client.nthreads().values())
    n_ahead = 2 * max(workers.n_most, n_threads)
    # Nothing else keeps the results: they would be computed again when their worker is gone.
    # To wait for a result here would be to wait forever if its worker was the last: a job that has
    # reached its wall time is replaced by the supervision, so results are fetched beside it.
    submitted = _submitted(client, islice(waiting, n_ahead))
    running = as_completed(submitted, loop=client.loop, with_results=True)
    del submitted
    try:
        for _ in _watched(running, workers.supervise) if workers.supervise else running:
            yield
            for future in _submitted(client, islice(waiting, 1)):
                running.add(future)
                del future
    except KilledWorker as error:
        raise ResourceError(
            f"Workers died while they computed a block ({error}). Look at their memory, use "
            "fewer workers, and run the command again."
        ) from None


def _submitted(client: "Client", calls: Iterable[Call]) -> list[Any]:
    """Submit calls, and return their futures."""
    return [client.submit(call, *arguments, pure=False) for call, arguments in calls]


def _watched(running: Any, supervise: Callable[[int], None]) -> Iterator[Any]:
    """Yield futures and results as they arrive, and supervise the workers meanwhile."""
    supervised_s = 0.0
    while not running.is_empty():
        if time.monotonic() - supervised_s > SUPERVISE_EVERY_S:
            supervise(running.count())
            supervised_s = time.monotonic()
        if running.has_ready():
            yield next(running)
        else:
            time.sleep(LOOK_EVERY_S)
