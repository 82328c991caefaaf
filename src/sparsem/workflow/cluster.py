"""Workers in the jobs of a batch system: SLURM, PBS, SGE or LSF, through dask-jobqueue.

Jobs are submitted when there is work for them. A worker stops before the wall time of its job, and
a new job takes over; a job that is cancelled loses the blocks that it was computing, which others
compute again. Whether a job still exists is asked of the batch system, which alone knows.
"""

import asyncio
import getpass
import logging
import math
import re
import shlex
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sparsem.errors import SettingsError
from sparsem.progress import print_note
from sparsem.workflow.settings import ClusterSettings

if TYPE_CHECKING:
    from distributed import Client


class BatchCommands(NamedTuple):
    """The words of a batch system.

    Attributes:
        job_class: class of its jobs in dask-jobqueue.
        account: option of that class for the account.
        queue: command that lists the jobs that wait and run.
        gpu: option that requests a GPU for a job; empty where it is part of another one.
    """

    job_class: str
    account: str
    queue: str
    gpu: str


COMMANDS = {
    "slurm": BatchCommands(
        "SLURMJob", "account", "squeue --noheader --format=%i --user={user}", "--gres=gpu:1"
    ),
    "pbs": BatchCommands("PBSJob", "account", "qstat -u {user}", ""),
    "sge": BatchCommands("SGEJob", "project", "qstat -u {user}", "-l gpu=1"),
    "lsf": BatchCommands("LSFJob", "project", "bjobs -noheader -o jobid", '-gpu "num=1"'),
}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# A worker stops before its job is ended: 10 % of the wall time, at most 5 minutes.
MARGIN_FRACTION = 0.1
MAX_MARGIN_S = 300
STAGGER_FRACTION = 0.5  # of the margin, so that workers do not stop all at once
DEATH_TIMEOUT_S = 60  # a worker without a scheduler ends, and with it its job
QUERY_EVERY_S = 10.0  # of the batch system, which jobs there are
LISTED_AFTER_S = 10.0  # a batch system may list a job a while after its submission
IDLE_S = 60.0  # before a job that is not needed is cancelled
SUBMIT_AGAIN_S = 60.0  # a job that was refused
MAX_REFUSALS = 10  # one after the other, while no job is left
MAX_FAILED_STARTS = 3  # jobs that end before any worker of the cluster has connected
NOTE_AFTER_S = 5.0  # of waiting for the first job
ALLOWED_DEATHS = 20  # of the workers of one block: jobs are cancelled, and reach their wall time
COMMAND_TIMEOUT_S = 20.0
CANCEL_TIMEOUT_S = 2.0
NEVER = "10000 days"


class BatchCluster:
    """A scheduler in this process, and jobs of a batch system that work for it.

    Attributes:
        settings: what a job gets.
        n_most: the maximum number of worker processes.
    """

    def __init__(self, settings: ClusterSettings) -> None:
        self._commands = COMMANDS[settings.system]
        self._log_folder = _log_folder(settings)
        job_class = _job_class(settings.system)
        _require_command(job_class.submit_command, settings)
        self.settings = settings
        self.n_most = settings.jobs * settings.n_processes
        self._cancel_command: str = job_class.cancel_command
        self._begun_s = self._queried_s = self._spare_since_s = time.monotonic()
        self._has_note = False
        self._has_connected = False
        self._n_failed_starts = 0
        from dask_jobqueue.core import JobQueueCluster

        _leave_replacement_to_us()
        self.cluster: Any = JobQueueCluster(
            job_cls=job_class,
            scheduler_options={"dashboard_address": ":0"},
            silence_logs=logging.CRITICAL,
            **job_options(settings, Path.cwd(), self._log_folder),
        )

    @property
    def is_running(self) -> bool:
        """True until the cluster was closed."""
        return bool(self.cluster.status.name == "running")

    @property
    def _jobs(self) -> list[Any]:
        """The jobs that were submitted, or should have been, and did not end."""
        return list(self.cluster.workers.values())

    def supervise(self, client: "Client", n_blocks: int, quiet: bool) -> None:
        """Submit jobs for ``n_blocks`` blocks, replace those that ended, and say what is wrong.

        Jobs that are idle for a while are released.

        Raises:
            SettingsError: the batch system refuses jobs, or jobs end before they connect.
        """
        now_s = time.monotonic()
        self._has_connected = self._has_connected or bool(client.nthreads())
        if now_s - self._queried_s > QUERY_EVERY_S:
            self._queried_s = now_s
            self._forget_ended_jobs()
        n_wanted = min(self.settings.jobs, math.ceil(n_blocks / self.settings.n_processes))
        n_planned = len(self.cluster.worker_spec)
        if n_wanted > n_planned or len(self._jobs) < n_planned:
            self.cluster.scale(jobs=max(n_wanted, n_planned))
        self._release_idle_jobs(client, n_planned - n_wanted)
        self._refuse_to_wait()
        if not self._has_connected and now_s - self._begun_s > NOTE_AFTER_S:
            self._say_once_that_jobs_wait(quiet)

    def _say_once_that_jobs_wait(self, quiet: bool) -> None:
        if self._has_note:
            return
        self._has_note = True
        n_jobs = sum(bool(job.job_id) for job in self._jobs)
        text = f"{n_jobs} jobs are submitted, and none has connected yet"
        print_note(f"{text}; what they print is in {self._log_folder}", quiet)

    def _release_idle_jobs(self, client: "Client", n_spare: int) -> None:
        """Cancel jobs that compute nothing, if for a while more than needed were there."""
        now_s = time.monotonic()
        if n_spare <= 0:
            self._spare_since_s = now_s
        if now_s - self._spare_since_s < IDLE_S:
            return
        self._spare_since_s = now_s
        idle = self._idle_jobs(client)
        if idle:
            self.cluster.sync(self.cluster.scale_down, set(idle[:n_spare]))

    def _idle_jobs(self, client: "Client") -> list[str]:
        """Return the names of the jobs whose workers are connected and compute nothing."""
        blocks_of = client.processing()
        busy: dict[str, bool] = {}
        for address, worker in list(self.cluster.scheduler_info["workers"].items()):
            busy[worker["name"]] = bool(blocks_of.get(address))
        idle = []
        for job, spec in list(self.cluster.worker_spec.items()):
            processes = [f"{job}{process}" for process in spec.get("group", ("",))]
            if not any(busy.get(process, True) for process in processes):
                idle.append(job)
        return idle

    def _forget_ended_jobs(self) -> None:
        """Forget jobs that the batch system does not list any more, so that others replace them."""
        listed = self._listed_jobs()
        now_s = time.monotonic()
        ended = []
        for name, job in list(self.cluster.workers.items()):
            age_s = now_s - job.submitted_s
            is_refused = job.refusal and age_s > SUBMIT_AGAIN_S
            is_gone = job.job_id and listed is not None and _number_of(job.job_id) not in listed
            if is_refused or (is_gone and age_s > LISTED_AFTER_S):
                ended.append(name)
        if not self._has_connected:
            self._n_failed_starts += sum(bool(self.cluster.workers[name].job_id) for name in ended)
        if ended:
            self.cluster.sync(self._forget, ended)

    async def _forget(self, names: list[str]) -> None:
        for name in names:
            job = self.cluster.workers.pop(name, None)
            if job is not None:
                await job.close()

    def _listed_jobs(self) -> set[str] | None:
        """Return the numbers of the user's jobs; None if the batch system does not answer."""
        try:
            run = subprocess.run(
                shlex.split(self._commands.queue.format(user=getpass.getuser())),
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return set(re.findall(r"^\s*(\d+)", run.stdout, re.MULTILINE))

    def _refuse_to_wait(self) -> None:
        """Raise an error if no job can be expected.

        Raises:
            SettingsError: see ``supervise``.
        """
        if self._n_failed_starts >= MAX_FAILED_STARTS:
            raise SettingsError(
                f"{self._n_failed_starts} jobs ended before they connected{self._last_words()}. "
                f"Look into {self._log_folder}, and change the settings in the file of the cluster."
            )
        jobs = self._jobs
        refusals = [job.refusal for job in jobs if job.refusal]
        are_all_refused = bool(refusals) and len(refusals) == len(jobs)
        counts = type(jobs[0]).counts if jobs else {}
        is_hopeless = not counts.get("accepted") or counts["refused"] >= MAX_REFUSALS
        if are_all_refused and is_hopeless:
            raise SettingsError(
                f"{self.settings.system} refuses a job: {refusals[-1]}. Change the settings in the "
                "file of the cluster."
            )

    def _last_words(self) -> str:
        """Return the last line that a job printed, as a part of a sentence."""
        logs = sorted(self._log_folder.glob("*"), key=lambda file: file.stat().st_mtime)
        lines = [line for log in logs[-1:] for line in log.read_text(errors="replace").splitlines()]
        return f" ({lines[-1].strip()[:200]})" if lines else ""

    def cancel(self) -> None:
        """Cancel all jobs at once, without waiting for their blocks."""
        job_ids = [str(job.job_id) for job in self._jobs if job.job_id]
        if not job_ids:
            return
        command = [*shlex.split(self._cancel_command), *job_ids]
        with suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, capture_output=True, timeout=CANCEL_TIMEOUT_S, check=False)

    def close(self) -> None:
        """End the scheduler, and cancel the jobs."""
        self.cancel()
        self.cluster.close()


def _job_class(system: str) -> Any:
    """Return the class of the jobs of a batch system, which remembers when it was refused.

    Otherwise a refusal would only be logged, and the program would wait.
    """
    from distributed.deploy.spec import ProcessInterface

    base: Any = getattr(import_module(f"dask_jobqueue.{system}"), COMMANDS[system].job_class)

    class WatchedJob(base):  # type: ignore[misc]
        counts = {"accepted": 0, "refused": 0}  # noqa: RUF012  (of all jobs; refused in a row)
        refusal = ""
        submitted_s = math.inf

        async def start(self) -> None:
            self.submitted_s = time.monotonic()
            try:
                await super().start()
            except (RuntimeError, OSError, ValueError) as error:
                self.refusal = _what_was_said(error)
                self.counts["refused"] += 1
                await ProcessInterface.start(self)
            else:
                self.counts["accepted"] += 1
                self.counts["refused"] = 0

        async def _submit_job(self, script_filename: str) -> Any:
            if system == "lsf":  # dask-jobqueue hides what it says
                return await self._call([f"bsub < {shlex.quote(script_filename)}"], shell=True)
            return await super()._submit_job(script_filename)

        async def close(self) -> None:
            with suppress(asyncio.TimeoutError):
                await super().close()
            await ProcessInterface.close(self)  # which dask-jobqueue leaves out

    return WatchedJob


def _number_of(job_id: str) -> str:
    """Return the number of a job, such as 17 of 17.server."""
    return re.split(r"\D", str(job_id), maxsplit=1)[0]


def _what_was_said(error: Exception) -> str:
    """Return the error output of a command of the batch system, on one line."""
    _, _, output = str(error).partition("stderr:\n")
    return " ".join((output.strip() or str(error)).split())


def _require_command(command: str, settings: ClusterSettings) -> None:
    program = shlex.split(command)[0]
    if shutil.which(program) is None:
        raise SettingsError(
            f"The batch system {settings.system} needs the command {program}, which this machine "
            "does not have; run sparsem on a machine from which jobs are submitted."
        )


def _log_folder(settings: ClusterSettings) -> Path:
    """Return the folder of what jobs print.

    Raises:
        SettingsError: batch systems would not understand its name.
    """
    folder = (Path.cwd() / settings.log_folder).resolve()
    if re.search(r"\s", str(folder)):
        raise SettingsError(
            f"Batch systems cannot write into '{folder}', since its name has a space; give the "
            "cluster another log_folder."
        )
    return folder


def _leave_replacement_to_us() -> None:
    """Let a block be computed again as often as jobs end, and keep dask from closing lost jobs."""
    import dask

    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": ALLOWED_DEATHS,
            "distributed.deploy.lost-worker-timeout": NEVER,
        }
    )


def job_options(settings: ClusterSettings, folder: Path, log_folder: Path) -> dict[str, Any]:
    """Return the options of a job as dask-jobqueue names them; it works in a folder."""
    commands = COMMANDS[settings.system]
    wall_time_s = round(settings.wall_time_h * 3600)
    options: dict[str, Any] = {
        "cores": settings.cores,
        "processes": settings.n_processes,
        "memory": f"{settings.memory_gb:g}GB",
        "walltime": wall_time_in_words(wall_time_s, settings.system),
        "job_name": "sparsem",
        "queue": settings.queue,
        commands.account: settings.account,
        "job_extra_directives": _directives(settings),
        "job_script_prologue": [
            f"cd {shlex.quote(str(folder))}",
            *settings.setup,
            *_thread_lines(settings),
        ],
        "worker_extra_args": _worker_options(wall_time_s),
        "python": shlex.quote(settings.python or sys.executable),
        "interface": settings.interface,
        "log_directory": str(log_folder),
        "death_timeout": DEATH_TIMEOUT_S,
    }
    if settings.gpus and settings.system == "pbs":
        megabytes = math.ceil(settings.memory_gb * 1000)
        options["resource_spec"] = f"select=1:ncpus={settings.cores}:ngpus=1:mem={megabytes}mb"
    return options


def _directives(settings: ClusterSettings) -> list[str]:
    """Return the options of a job that dask-jobqueue does not know."""
    directives = list(settings.options)
    if settings.system == "sge":
        directives.append("-S /bin/bash")  # it may start another shell
    if settings.gpus and COMMANDS[settings.system].gpu:
        directives.append(COMMANDS[settings.system].gpu)
    return directives


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
