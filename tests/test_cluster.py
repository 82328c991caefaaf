"""Workers in the jobs of a batch system, with SLURM's own daemons where they are installed."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from distributed import Client

from sparsem.errors import ResourceError, SettingsError
from sparsem.measure.measure import measure
from sparsem.models.architectures import build_network
from sparsem.models.checkpoint import Recipe, save_checkpoint
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.preprocess.equalize import equalize
from sparsem.segment.predict import predict
from sparsem.store.sample import Sample
from sparsem.workflow import cluster, execution
from sparsem.workflow.cluster import job_options, wall_time_in_words
from sparsem.workflow.execution import Execution, _close_kept_jobs, workers_of
from sparsem.workflow.settings import ClusterSettings, read_cluster
from tests.conftest import copy_of, files_in
from tests.slurm import is_slurm_installed, running_slurm

FILE = """
system = "slurm"
queue = "normal"
jobs = 4
cores = 1
memory_gb = 3
wall_time_h = 1
"""
SMALL = ClusterSettings(system="slurm", jobs=2, memory_gb=4, wall_time_h=0.5)


def script_of(settings: ClusterSettings) -> str:
    """Return the script of a job, as dask-jobqueue writes it."""
    from dask_jobqueue.lsf import LSFJob
    from dask_jobqueue.pbs import PBSJob
    from dask_jobqueue.sge import SGEJob
    from dask_jobqueue.slurm import SLURMJob

    jobs = {"slurm": SLURMJob, "pbs": PBSJob, "sge": SGEJob, "lsf": LSFJob}
    extra = {"lsf_units": "mb"} if settings.system == "lsf" else {}
    job = jobs[settings.system](
        "tcp://10.0.0.1:8786",
        name="w",
        **job_options(settings, Path("/data/my stack"), Path(settings.log_folder)),
        **extra,
    )
    return str(job.job_script())


@pytest.mark.parametrize(
    ("system", "lines"),
    [
        (
            "slurm",
            [
                "#SBATCH -p long",
                "#SBATCH -A lab",
                "#SBATCH --cpus-per-task=4",
                "#SBATCH --mem=15G",
                "#SBATCH -t 02:30:00",
                "#SBATCH --gres=gpu:1",
                "#SBATCH --constraint=new",
            ],
        ),
        (
            "pbs",
            [
                "#PBS -q long",
                "#PBS -A lab",
                "#PBS -l select=1:ncpus=4:ngpus=1:mem=16000mb",
                "#PBS -l walltime=02:30:00",
            ],
        ),
        (
            "sge",
            [
                "#$ -q long",
                "#$ -P lab",
                "#$ -l h_rt=02:30:00",
                "#$ -l gpu=1",
                "#$ -pe smp 4",
                "#$ -S /bin/bash",
            ],
        ),
        (
            "lsf",
            [
                "#BSUB -q long",
                '#BSUB -P "lab"',
                "#BSUB -n 4",
                "#BSUB -M 16000",
                "#BSUB -W 02:30",
                '#BSUB -gpu "num=1"',
            ],
        ),
    ],
)
def test_a_job_says_what_it_needs(system: str, lines: list[str], tmp_path: Path) -> None:
    settings = ClusterSettings(
        system=system,
        jobs=3,
        cores=4,
        processes=1,
        memory_gb=16,
        wall_time_h=2.5,
        gpus=1,
        queue="long",
        account="lab",
        options=("-pe smp 4",) if system == "sge" else ("--constraint=new",),
        setup=("module load cuda",),
        python="/opt/python",
        interface="lo",
        log_folder=str(tmp_path / "logs"),
    )
    script = script_of(settings).splitlines()
    assert set(lines) <= set(script)
    assert script.index("cd '/data/my stack'") < script.index("module load cuda")
    assert "export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__OMP_NUM_THREADS=4" in script
    worker = script[-1].split()
    assert worker[:4] == ["/opt/python", "-m", "distributed.cli.dask_worker", "tcp://10.0.0.1:8786"]
    last = dict(pairwise(worker))  # of an option that is repeated, the last one counts
    assert last["--nthreads"] == "1"
    assert last["--memory-limit"] == "0"
    assert last["--lifetime"] == "8700s"  # 2.5 h less 5 minutes
    assert last["--interface"] == "lo"


def test_wall_times_are_written_as_batch_systems_read_them() -> None:
    assert wall_time_in_words(3600 * 30 + 61, "slurm") == "30:01:01"
    assert wall_time_in_words(3600 * 30 + 61, "lsf") == "30:01"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("sytem = 'slurm'", "unknown key 'sytem'; did you mean 'system'"),
        ("system = 'slrm'", "system"),
        ("jobs = 0", "jobs"),
        ("processes = 3", "3 processes cannot share 1 cores"),
        ("cores = 2\ngpus = 1", "processes = 1"),
        ("memory_gb = 'much'", "memory_gb"),
        ("system = 'sge'\ncores = 4", r'options = \["-pe smp 4"\]'),
    ],
)
def test_a_wrong_file_is_one_sentence(change: str, sentence: str, tmp_path: Path) -> None:
    keys = [line.split(" = ")[0] for line in change.splitlines()]
    rows = [row for row in FILE.splitlines() if row.split(" = ")[0] not in keys]
    (tmp_path / "c.toml").write_text("\n".join([*rows, change]), encoding="utf-8")
    with pytest.raises(SettingsError, match=sentence):
        read_cluster(tmp_path / "c.toml")


def test_the_memory_of_a_process_is_checked() -> None:
    settings = ClusterSettings(system="slurm", jobs=1, cores=4, memory_gb=8, wall_time_h=1)
    settings.check_memory(1_400_000_000)
    with pytest.raises(ResourceError, match=r"needs 2\.1 GB .* has 2\.0 GB; increase memory_gb"):
        settings.check_memory(1_500_000_000)


def test_one_kind_of_workers_is_requested() -> None:
    with pytest.raises(SettingsError, match="one of --workers, --scheduler and --cluster"):
        Execution(workers=2, cluster="c.toml")


@pytest.fixture
def cluster_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a cluster, in the folder where the program runs."""
    file = tmp_path / "cluster.toml"
    file.write_text(FILE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield file
    _close_kept_jobs()


def test_without_the_batch_system_it_is_one_sentence(
    own_tissue: Sample, cluster_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SettingsError, match="needs the command sbatch, which this machine does"):
        equalize(own_tissue, on=Execution(cluster=cluster_file, quiet=True))


@pytest.fixture
def write_programs(
    cluster_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], None]:
    """Write ``sbatch`` and ``squeue`` as shell scripts; ``scancel`` does nothing."""
    folder = cluster_file.parent / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(sbatch: str, squeue: str) -> None:
        for name, text in (("sbatch", sbatch), ("squeue", squeue), ("scancel", "true")):
            (folder / name).write_text(f"#!/bin/sh\ncd {folder}\n{text}\n", encoding="utf-8")
            (folder / name).chmod(0o755)

    return write


WritePrograms = Callable[[str, str], None]


def test_a_refused_job_is_one_sentence(
    own_tissue: Sample, cluster_file: Path, write_programs: WritePrograms
) -> None:
    write_programs("echo invalid partition specified: normal >&2; exit 1", "true")
    begun = time.monotonic()
    with pytest.raises(SettingsError, match="slurm refuses a job: invalid partition specified"):
        equalize(own_tissue, on=Execution(cluster=cluster_file, quiet=True))
    assert time.monotonic() - begun < 30


def test_jobs_that_end_before_they_connect_are_one_sentence(
    own_tissue: Sample,
    cluster_file: Path,
    write_programs: WritePrograms,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with a Python that the machines of the jobs do not have; the log says why."""
    monkeypatch.setattr(cluster, "QUERY_EVERY_S", 0.2)
    monkeypatch.setattr(cluster, "LISTED_AFTER_S", 0.2)
    logs = cluster_file.parent / "sparsem-jobs"
    submit = f"""
    echo x >> count; number=$(wc -l < count)
    mkdir -p {logs}; echo /opt/python: not found > {logs}/sparsem-$number.err
    echo Submitted batch job $number
    """
    write_programs(submit, "true")
    sentence = r"jobs ended before they connected \(/opt/python: not found\)"
    with pytest.raises(SettingsError, match=sentence):
        equalize(own_tissue, on=Execution(cluster=cluster_file, quiet=True))


def test_a_limit_of_jobs_ends_nothing(
    cluster_file: Path, write_programs: WritePrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs wait, and the others are refused and submitted again."""
    monkeypatch.setattr(cluster, "QUERY_EVERY_S", 0.2)
    monkeypatch.setattr(cluster, "SUBMIT_AGAIN_S", 0.5)
    submit = """
    if mkdir 1 2> /dev/null; then echo Submitted batch job 1
    elif mkdir 2 2> /dev/null; then echo Submitted batch job 2
    else echo x >> refused; echo submission limit reached >&2; exit 1
    fi
    """
    write_programs(submit, "echo 1; echo 2")
    batch = cluster.BatchCluster(read_cluster(cluster_file))
    with Client(batch.cluster, set_as_default=False) as client:
        for _ in range(20):
            batch.supervise(client, 100, quiet=True)
            time.sleep(0.2)
        jobs = batch._jobs
        assert len(jobs) == 4
        assert sorted(str(job.job_id) for job in jobs if job.job_id) == ["1", "2"]
    batch.close()
    refused = (cluster_file.parent / "bin" / "refused").read_text(encoding="utf-8")
    assert len(refused.splitlines()) > 2, "refused jobs were submitted once only"


def running_jobs() -> list[str]:
    """Return the numbers of the jobs that run, the oldest first."""
    words = ["squeue", "--noheader", "--states=RUNNING", "--format=%i", "--sort=i"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """SLURM's own daemons; the value of ``SLURM_CONF``."""
    if not is_slurm_installed():
        pytest.skip("SLURM's daemons are not installed")
    with running_slurm(tmp_path_factory.mktemp("slurm") / "slurm") as configuration:
        yield configuration


N_SLICES = 32


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sample and a network, and with another sample that it predicted."""
    folder = tmp_path_factory.mktemp("inputs")
    settings = PhantomSettings(
        shape=(N_SLICES, 192, 256), voxel_nm=(20, 20, 20), cells=4, seed=3, block_depth=1
    )
    alone = phantom(folder / "alone.zarr", settings)
    copy_of(alone, folder / "jobs.zarr")
    torch.manual_seed(0)
    network = build_network("resunet", 16, 1, 64)
    recipe = Recipe("resunet", 16, ("nucleus",), 64, (20.0, 20.0), mean=0.5, std=0.2)
    save_checkpoint(folder / "m.safetensors", network, recipe)
    predict(alone, folder / "m.safetensors", flips=True, on=Execution(quiet=True))
    return folder


@pytest.fixture
def predicted(inputs: Path, cluster_file: Path) -> tuple[Sample, Sample, Path]:
    """A predicted sample, the same one without the prediction, and the network."""
    folder = cluster_file.parent
    alone, by_jobs = (
        copy_of(Sample.open(inputs / name), folder / name) for name in ("alone.zarr", "jobs.zarr")
    )
    shutil.copy(inputs / "m.safetensors", folder)
    return alone, by_jobs, folder / "m.safetensors"


PREDICT = ("predict", "jobs.zarr", "m.safetensors", "--flips")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "sparsem", *words, "--cluster", "cluster.toml", "--quiet"]


def blocks_done(sample: Sample) -> int:
    return len(list((sample.path / ".sparsem" / "work").glob("*/*/done/*.json")))


def wait_for_the_end_of_jobs() -> None:
    for _ in range(100):
        if not running_jobs():
            return
        time.sleep(0.2)
    raise AssertionError("jobs outlive their program")


def test_jobs_of_slurm_give_the_same_bytes_though_one_is_cancelled(
    predicted: tuple[Sample, Sample, Path], slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    alone, by_jobs, model = predicted
    measure(alone, structures=("nucleus",), on=Execution(quiet=True))
    run = subprocess.Popen(command(*PREDICT), cwd=model.parent)
    while run.poll() is None and (len(running_jobs()) < 4 or not blocks_done(by_jobs)):
        time.sleep(0.05)
    assert run.poll() is None, "the prediction ended before four jobs worked for it"
    cancelled, n_done = running_jobs()[0], blocks_done(by_jobs)
    subprocess.run(["scancel", cancelled], check=True)
    assert run.wait(300) == 0
    assert n_done < N_SLICES
    text = FILE.replace("jobs = 4\ncores = 1", "jobs = 2\ncores = 2").replace("= 3", "= 6")
    (model.parent / "cluster.toml").write_text(text, encoding="utf-8")
    words = command("measure", "jobs.zarr", "--structure", "nucleus")
    subprocess.run(words, cwd=model.parent, check=True, timeout=300)
    wait_for_the_end_of_jobs()
    assert files_in(alone.path) == files_in(by_jobs.path)


def test_a_job_takes_over_from_one_that_reaches_its_wall_time(
    predicted: tuple[Sample, Sample, Path], slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    alone, by_jobs, model = predicted
    seconds = 14.4  # of which a worker needs a few to start
    text = FILE.replace("jobs = 4", "jobs = 1").replace("wall_time_h = 1", "wall_time_h = 0.004")
    (model.parent / "cluster.toml").write_text(text, encoding="utf-8")
    begun = time.monotonic()
    run = subprocess.Popen(command(*PREDICT), cwd=model.parent)
    assert run.wait(400) == 0
    assert time.monotonic() - begun > seconds
    logs = list((model.parent / "sparsem-jobs").glob("*.err"))
    assert len(logs) > 1, "one job did all the work"
    wait_for_the_end_of_jobs()
    assert files_in(alone.path) == files_in(by_jobs.path)


def test_jobs_end_a_while_after_the_last_stage(
    cluster_file: Path, write_programs: WritePrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stage that ends within another one ends no jobs."""
    write_programs("echo Submitted batch job 1", "echo 1")
    monkeypatch.setattr(execution, "IDLE_S", 0.5)
    on = Execution(cluster=cluster_file, quiet=True)
    with workers_of(on) as outer:
        assert outer is not None
        with workers_of(on):
            (kept,) = execution._kept_jobs
        time.sleep(1.5)
        assert execution._kept_jobs == [kept]
        assert kept.is_running
    time.sleep(3)
    assert execution._kept_jobs == []
    assert not kept.is_running
