"""Settings of a cluster: the jobs that a batch system starts."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from sparsem.errors import ResourceError
from sparsem.settings import Settings, parse, read_toml

BatchSystem = Literal["slurm", "pbs", "sge", "lsf"]
PROGRAM_BYTES = 600_000_000  # of a worker process and of the one that watches it


class ClusterSettings(Settings):
    """The jobs of a batch system: how many, what each one gets, and how long it may run."""

    system: BatchSystem = Field(description="batch system: slurm, pbs, sge or lsf")
    jobs: int = Field(ge=1, description="maximum number of jobs at the same time")
    cores: int = Field(1, ge=1, description="cores of a job")
    memory_gb: float = Field(gt=0, description="memory of a job, in GB")
    wall_time_h: float = Field(
        gt=0, description="time after which the batch system ends a job, in hours"
    )
    processes: int | None = Field(
        None,
        ge=1,
        description="worker processes of a job, which share its cores and its memory; one for "
        "each core if not given",
    )
    gpus: Literal[0, 1] = Field(0, description="GPUs of a job; more GPUs are more jobs")
    queue: str | None = Field(None, description="queue, or partition, of the jobs")
    account: str | None = Field(None, description="account, or project, that pays for the jobs")
    options: tuple[str, ...] = Field(
        (), description="further options of the batch system, such as --constraint=haswell"
    )
    setup: tuple[str, ...] = Field(
        (), description="shell commands at the beginning of a job, such as module load cuda"
    )
    python: str | None = Field(
        None, description="Python on the machines of the jobs; the one that runs here if not given"
    )
    interface: str | None = Field(
        None, description="network interface by which jobs connect, such as ib0"
    )
    log_folder: str = Field("sparsem-jobs", description="folder of what the jobs print")

    @model_validator(mode="after")
    def _has_a_core_and_a_gpu_a_process(self) -> "ClusterSettings":
        if self.n_processes > self.cores:
            raise ValueError(
                f"{self.processes} processes cannot share {self.cores} cores; give a job more "
                "cores, or fewer processes"
            )
        has_slots = any(option.split()[:1] == ["-pe"] for option in self.options)
        if self.system == "sge" and self.cores > 1 and not has_slots:
            raise ValueError(
                "SGE needs the name of its parallel environment for several cores, such as "
                f'options = ["-pe smp {self.cores}"]'
            )
        if self.gpus and self.n_processes > 1:
            raise ValueError("a job with a GPU has one process: set processes = 1")
        return self

    @property
    def n_processes(self) -> int:
        """Worker processes of a job."""
        return self.processes or self.cores

    @property
    def process_bytes(self) -> int:
        """Memory of one worker process, in bytes."""
        return int(self.memory_gb * 1e9 / self.n_processes)

    def check_memory(self, needed: int) -> None:
        """Check that ``needed`` bytes fit into the memory of a worker process.

        Raises:
            ResourceError: they do not.
        """
        needed += PROGRAM_BYTES
        if needed > self.process_bytes:
            raise ResourceError(
                f"A worker process needs {needed / 1e9:.1f} GB of memory with the program itself, "
                f"and each of the cluster's has {self.process_bytes / 1e9:.1f} GB; increase "
                "memory_gb, or set fewer processes for a job."
            )


def read_cluster(path: str | Path) -> ClusterSettings:
    """Read the settings of a cluster from a TOML file.

    Raises:
        SettingsError: the file is missing, is not TOML, or its settings are wrong.
    """
    return parse(ClusterSettings, read_toml(Path(path)), str(path))
