"""Workers in the jobs of a batch system: SLURM, PBS, SGE or LSF, through dask-jobqueue.

Jobs are submitted when there is work for them and cancelled when there is none. A worker stops
before the wall time of its job, and a new job takes over; a job that is cancelled loses the block
that it was computing, which another one computes again.
"""

import asyncio
import logging
import math
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from sparsem.errors import SettingsError
from sparsem.extras import require
from sparsem.progress import print_note
from sparsem.workflow.settings import ClusterSettings

if TYPE_CHECKING:
    from distributed import Client

# Batch system -> class of its jobs in dask-jobqueue, and the name there of the account.
JOBS = {
    "slurm": ("SLURMJob", "account"),
    "pbs": ("PBSJob", "account"),
    "sge": ("SGEJob", "project"),
    "lsf": ("LSFJob", "project"),
}
GPU_OPTIONS = {"slurm": "--gres=gpu:1", "sge": "-l gpu=1", "lsf": '-gpu "num=1"'}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# A worker stops before its job is ended: 10 % of the wall time, at most 5 minutes.
MARGIN_FRACTION = 0.1
MAX_MARGIN_S = 300
STAGGER_FRACTION = 0.5  # of the margin, so that workers do not stop all at once
DEATH_TIMEOUT_S = 60  # a worker without a scheduler ends, and with it its job
CHECK_EVERY_S = 1.0  # whether jobs are missing or idle
IDLE_CHECKS = 60  # an idle job is kept for a minute, for the next stage
BLOCK_GUESS = "100ms"  # all jobs are wanted, even while no block has shown how long it takes
SUBMIT_AGAIN_S = 60.0  # a job that was refused
FIRST_NOTE_S = 5.0  # of waiting for the first job
ALLOWED_DEATHS = 20  # of the workers of one block: jobs are cancelled, and reach their wall time
CANCEL_TIMEOUT_S = 2.0


class BatchCluster:
    """A scheduler in this process, and jobs of a batch system that work for it.

    Attributes:
        settings: what a job gets.
        n_most: the maximum number of worker processes.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        require("cluster")
        job_class = _reporting_job(settings.system)
        self.settings = settings
        self.n_most = settings.jobs * settings.n_processes
        self._errors: list[str] = job_class.errors
        self._job_ids: list[str] = job_class.job_ids
        self._cancel_command: str = job_class.cancel_command
        self._idle_since_s = math.inf
        self._has_note = False
        _require_command(job_class.submit_command, settings)
        from dask_jobqueue.core import JobQueueCluster

        _allow_deaths()
        self.cluster = JobQueueCluster(
            job_cls=job_class,
            scheduler_options={"dashboard_address": ":0"},
            silence_logs=logging.CRITICAL,
            **job_options(settings),
        )
        self.cluster.adapt(
            minimum_jobs=0,
            maximum_jobs=settings.jobs,
            interval=f"{CHECK_EVERY_S}s",
            wait_count=IDLE_CHECKS,
            target_duration=BLOCK_GUESS,
        )

    @property
    def is_running(self) -> bool:
        """True until the cluster was closed."""
        return bool(self.cluster.status.name == "running")

    def check(self, client: "Client", quiet: bool) -> None:
        """Say once that no job has started; refuse to wait for jobs that will never start.

        Raises:
            SettingsError: the batch system refuses jobs, and none is running.
        """
        if client.nthreads():
            self._idle_since_s = math.inf
            return
        if self._errors:
            raise SettingsError(
                f"{self.settings.system} refuses a job: {self._errors[-1]}. Change the settings in "
                "the file of the cluster."
            )
        now_s = time.monotonic()
        if self._idle_since_s == math.inf:
            self._idle_since_s = now_s
        if now_s - self._idle_since_s > FIRST_NOTE_S and not self._has_note:
            self._has_note = True
            text = f"{len(self._job_ids)} jobs are submitted, and none has connected yet; what they"
            print_note(f"{text} print is in {self.settings.log_folder}", quiet)

    def cancel(self) -> None:
        """Cancel all jobs at once, without waiting for their blocks."""
        if not self._job_ids:
            return
        command = [*shlex.split(self._cancel_command), *self._job_ids]
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, capture_output=True, timeout=CANCEL_TIMEOUT_S, check=False)

    def close(self) -> None:
        """End the scheduler, and cancel the jobs."""
        self.cancel()
        self.cluster.close()


def _reporting_job(system: str) -> Any:
    """Return the class of the jobs of a batch system, which lists errors and numbers of jobs.

    A job that is refused, as by a limit of jobs for each user, is submitted again after a while.
    """
    class_name, _ = JOBS[system]
    from distributed.deploy.spec import ProcessInterface

    job_class: Any = getattr(import_module(f"dask_jobqueue.{system}"), class_name)

    class ReportingJob(job_class):  # type: ignore[misc]
        errors: ClassVar[list[str]] = []
        job_ids: ClassVar[list[str]] = []

        async def start(self) -> None:
            try:
                await super().start()
            except (RuntimeError, OSError, ValueError) as error:
                self.errors.append(_what_was_said(error))
                await ProcessInterface.start(self)
                asyncio.get_running_loop().call_later(SUBMIT_AGAIN_S, self._forget)
            else:
                self.job_ids.append(self.job_id)
                self.errors.clear()

        async def close(self) -> None:
            await super().close()
            await ProcessInterface.close(self)  # which dask-jobqueue leaves out

        def _forget(self) -> None:
            """Let the cluster miss this job."""
            cluster = self._cluster() if self._cluster else None
            if cluster is not None:
                cluster.workers.pop(self.name, None)

    return ReportingJob


def _what_was_said(error: Exception) -> str:
    """Return the error output of a command of the batch system, on one line."""
    _, _, output = str(error).partition("stderr:\n")
    return " ".join((output or str(error)).split())


def _require_command(command: str, settings: ClusterSettings) -> None:
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        raise SettingsError(
            f"The batch system {settings.system} needs the command {program}, which this machine "
            "does not have; run sparsem on a machine from which jobs are submitted."
        )


def _allow_deaths() -> None:
    """Let a block be computed again as often as jobs end."""
    import dask

    dask.config.set({"distributed.scheduler.allowed-failures": ALLOWED_DEATHS})


def job_options(settings: ClusterSettings) -> dict[str, Any]:
    """Return the options of a job as dask-jobqueue names them."""
    _, account = JOBS[settings.system]
    wall_time_s = round(settings.wall_time_h * 3600)
    options: dict[str, Any] = {
        "cores": settings.cores,
        "processes": settings.n_processes,
        "memory": f"{settings.memory_gb:g}GB",
        "walltime": wall_time_in_words(wall_time_s, settings.system),
        "job_name": "sparsem",
        "queue": settings.queue,
        account: settings.account,
        "job_extra_directives": list(settings.options),
        "job_script_prologue": [*settings.setup, *_thread_lines(settings)],
        "worker_extra_args": _worker_options(wall_time_s),
        "python": settings.python or sys.executable,
        "interface": settings.interface,
        "log_directory": settings.log_folder,
        "death_timeout": DEATH_TIMEOUT_S,
    }
    if settings.gpus and settings.system == "pbs":
        megabytes = math.ceil(settings.memory_gb * 1000)
        options["resource_spec"] = f"select=1:ncpus={settings.cores}:ngpus=1:mem={megabytes}mb"
    elif settings.gpus:
        options["job_extra_directives"].append(GPU_OPTIONS[settings.system])
    return options


def wall_time_in_words(seconds: int, system: str) -> str:
    """Return a wall time as a batch system reads it: HH:MM:SS, or HH:MM for LSF."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    if system == "lsf":
        return f"{hours:02}:{minutes:02}"
    return f"{hours:02}:{minutes:02}:{rest:02}"


def _worker_options(wall_time_s: int) -> list[str]:
    """Return options of a worker: it computes one block at a time, and stops before its job."""
    margin_s = min(MAX_MARGIN_S, math.ceil(MARGIN_FRACTION * wall_time_s))
    options = ["--nthreads", "1", "--memory-limit", "0"]  # the batch system limits the memory
    options += ["--lifetime", f"{max(1, wall_time_s - margin_s)}s"]
    return [*options, "--lifetime-stagger", f"{max(1, round(STAGGER_FRACTION * margin_s))}s"]


def _thread_lines(settings: ClusterSettings) -> list[str]:
    """Return shell commands that share the cores of a job among its worker processes."""
    threads = max(1, settings.cores // settings.n_processes)
    prefix = "DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__"
    return [f"export {prefix}{name}={threads}" for name in THREAD_VARIABLES]
