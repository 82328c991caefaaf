"""A cluster of one machine: SLURM's own daemons, with a configuration in a folder."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scancel", "squeue", "sinfo")
START_S = 60

# Without authentication: every program belongs to the same user of the same machine. The node has
# four cores whatever the machine has, so that four jobs run at the same time.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,batch_sched_delay=0
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName=node NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000 State=UNKNOWN
PartitionName=normal Nodes=node Default=YES MaxTime=INFINITE State=UP
"""


def is_slurm_installed() -> bool:
    """Return whether this machine has SLURM's programs and may run its daemons."""
    return all(map(shutil.which, PROGRAMS)) and os.getuid() == 0


def free_port() -> int:
    """Return a port that nobody uses at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running_slurm(folder: Path) -> Iterator[Path]:
    """Run the daemons, and yield the configuration, the value of ``SLURM_CONF``."""
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    configuration = folder / "slurm.conf"
    text = CONFIGURATION.format(
        host=socket.gethostname(),
        controller_port=free_port(),
        node_port=free_port(),
        user="root",
        folder=folder,
    )
    configuration.write_text(text, encoding="utf-8")
    environment = {**os.environ, "SLURM_CONF": str(configuration)}
    commands = (["slurmctld", "-D", "-c"], ["slurmd", "-D", "-N", "node"])
    daemons = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    try:
        _wait_for_the_node(environment, folder)
        yield configuration
    finally:
        subprocess.run(["scancel", "--user", "root"], env=environment, check=False)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)


def _wait_for_the_node(environment: dict[str, str], folder: Path) -> None:
    command = ["sinfo", "--noheader", "--format=%T"]
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.stdout.strip() == "idle":
            return
        time.sleep(0.2)
    logs = "\n".join(file.read_text() for file in folder.glob("*.log"))
    raise TimeoutError(f"SLURM's node is not idle: {run.stdout}{run.stderr}\n{logs}")
