"""Faults during a run: kills, dead workers, full disks, read-only folders, moved samples."""

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import tifffile

from sparsem.cli.app import describe_os_error
from sparsem.errors import SampleError
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.preprocess.align import align
from sparsem.preprocess.equalize import equalize
from sparsem.store.sample import Sample
from sparsem.workflow import execution
from sparsem.workflow.execution import Execution, workers_of
from sparsem.workflow.interruption import SENTENCE
from tests.conftest import files_in, kill_ten_times

STACK = np.random.default_rng(0).integers(0, 255, (24, 300, 400), np.uint8)


def importing(folder: Path, **limits: int) -> "subprocess.Popen[str]":
    """Start the installed program, which imports block by block."""
    if not (folder / "a.tif").exists():
        tifffile.imwrite(folder / "a.tif", STACK, photometric="minisblack")
    words = ["import", "a.tif", "s.zarr", "--voxel-nm", "8", "8", "8", "--block-depth", "1"]

    def limit() -> None:
        if limits:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (limits["bytes_a_file"], limits["bytes_a_file"])
            )

    command = [sys.executable, "-m", "sparsem", *words]
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
        env=environment,
    )


def wait_for_a_block(run: "subprocess.Popen[str]", folder: Path) -> None:
    """Wait until the import has finished one block, or has ended."""
    done, deadline = folder / "s.zarr" / ".sparsem" / "work" / "import", time.monotonic() + 60
    while (
        not list(done.glob("*/done/*.json")) and time.monotonic() < deadline and run.poll() is None
    ):
        time.sleep(0.002)


def whole(folder: Path) -> dict[str, bytes]:
    sample = import_stack(
        folder / "a.tif", folder / "whole.zarr", ImportSettings(voxel_nm=(8, 8, 8), block_depth=1)
    )
    return {
        name: content
        for name, content in files_in(sample.path).items()
        if not name.startswith(".sparsem")
    }


def imported(folder: Path) -> dict[str, bytes]:
    return {
        name: content
        for name, content in files_in(folder / "s.zarr").items()
        if not name.startswith(".sparsem")
    }


def test_a_full_disk_is_one_sentence_and_the_run_resumes(tmp_path: Path) -> None:
    run = importing(tmp_path, bytes_a_file=50_000)  # a chunk has 120,000
    _, printed = run.communicate(timeout=120)
    assert run.returncode == 2
    assert "There is no space left on the disk" in printed.splitlines()[-1]
    assert "the same command then resumes where it stopped" in printed
    assert "Traceback" not in printed
    with pytest.raises(SampleError, match="its import was interrupted"):
        Sample.open(tmp_path / "s.zarr")
    again = importing(tmp_path)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert imported(tmp_path) == whole(tmp_path)


def test_an_interrupted_run_prints_how_to_resume(tmp_path: Path) -> None:
    run = importing(tmp_path)
    wait_for_a_block(run, tmp_path)
    run.send_signal(signal.SIGTERM)
    _, printed = run.communicate(timeout=120)
    if run.returncode == 0:
        pytest.skip("the run was faster than the signal")
    assert run.returncode == 130
    assert printed.splitlines()[-1] == SENTENCE


def test_a_sample_moved_during_a_run_is_reported_and_nothing_is_lost(tmp_path: Path) -> None:
    run = importing(tmp_path)
    wait_for_a_block(run, tmp_path)
    (tmp_path / "s.zarr").rename(tmp_path / "elsewhere.zarr")
    _, printed = run.communicate(timeout=120)
    if run.returncode == 0:
        pytest.skip("the run was faster than the move")
    assert run.returncode == 2
    last_line = printed.splitlines()[-1]
    assert "is missing; if the sample was moved" in last_line or "made by" in last_line
    assert "Traceback" not in printed
    if (tmp_path / "s.zarr").exists():
        assert not list(
            (tmp_path / "s.zarr").rglob("zarr.json")
        )  # nothing that could be taken for a sample
        (tmp_path / "s.zarr").rename(tmp_path / "leftover")
    (tmp_path / "elsewhere.zarr").rename(tmp_path / "s.zarr")
    again = importing(tmp_path)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert imported(tmp_path) == whole(tmp_path)


def test_two_runs_on_one_sample_are_refused_and_the_first_ends(own_tissue: Sample) -> None:
    with own_tissue.locked():
        for stage in (align, equalize):
            with pytest.raises(
                SampleError, match=r"Another run is writing to own\.zarr; wait for it to end"
            ):
                stage(own_tissue)
    equalize(own_tissue)
    assert own_tissue.newest_image == "equalized"


def drifting_grain(folder: Path, slices: int = 30) -> Path:
    """A TIFF of slices that drift, large enough for a run of some seconds."""
    random = np.random.default_rng(4)
    grain = sum(
        cv2.GaussianBlur(random.standard_normal((500, 500)), (0, 0), size) * size
        for size in (1.5, 3, 6)
    )
    plane = np.clip(128 + 25 * grain, 0, 255).astype(np.uint8)
    image = np.stack([plane[z : z + 440, 2 * z : 2 * z + 440] for z in range(slices)])
    tifffile.imwrite(folder / "grain.tif", image, photometric="minisblack")
    return folder / "grain.tif"


@pytest.mark.parametrize(("what", "workers", "kills"), [("import", 0, 10), ("equalize", 2, 2)])
def test_a_killed_run_ends_in_the_same_bytes(
    tmp_path: Path, what: str, workers: int, kills: int
) -> None:
    settings = ImportSettings(voxel_nm=(8, 8, 8), block_depth=1)
    source = drifting_grain(tmp_path)
    whole, killed = (
        import_stack(source, tmp_path / f"{name}.zarr", settings) for name in ("whole", "other")
    )
    given = {"sample": str(killed.path), "source": str(source), "workers": workers}
    given |= {
        "settings": settings.model_dump(mode="json") if what == "import" else {},
        "seconds": 4.0 if workers else 0.5,
    }
    if what == "import":
        killed.path.rename(tmp_path / "put-by.zarr")
    else:
        equalize(whole)
    assert kill_ten_times(what, given, kills=kills) > 0
    killed_files, whole_files = files_in(killed.path), files_in(whole.path)
    assert list(killed_files) == list(whole_files)
    assert [name for name in killed_files if killed_files[name] != whole_files[name]] == []


def test_a_worker_that_is_killed_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    settings = ImportSettings(voxel_nm=(8, 8, 8), block_depth=1)
    source = drifting_grain(tmp_path)
    whole, killed = (
        import_stack(source, tmp_path / f"{name}.zarr", settings) for name in ("whole", "other")
    )
    align(whole, on=Execution(quiet=True))  # links of a chain and then blocks
    on = Execution(workers=2, quiet=True)
    left: list[int] = []

    def kill_one(process: int) -> None:
        markers = killed.path / ".sparsem" / "work"
        while not (done := list(markers.glob("*/*/done/*.json"))):
            time.sleep(0.001)
        os.kill(process, signal.SIGKILL)
        left.append(30 - len(done))

    with workers_of(on) as workers:
        assert workers is not None
        client = workers.client
        before = set(client.run(os.getpid).values())
        killer = threading.Thread(target=kill_one, args=(min(before),), daemon=True)
        killer.start()
        align(killed, on=on)
        killer.join(10)
        assert left[0] > 0
        assert min(before) not in client.run(os.getpid).values()
    killed_files, whole_files = files_in(killed.path), files_in(whole.path)
    assert list(killed_files) == list(whole_files)
    assert [name for name in killed_files if killed_files[name] != whole_files[name]] == []


def test_giving_up_a_stage_ends_its_workers_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that is starting or has ended has no process; psutil takes None for this one."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    workers = [SimpleNamespace(pid=pid, auto_restart=True) for pid in (None, process.pid)]
    cluster = SimpleNamespace(workers=dict(enumerate(workers)), close=lambda: None)
    monkeypatch.setattr(execution, "_kept_cluster", [cluster])
    execution._kill_kept_workers()
    assert process.wait(60) == -signal.SIGKILL
    assert not any(worker.auto_restart for worker in workers)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "There is no space left on the disk at /data/s.zarr; free some"),
        (errno.EDQUOT, "There is no space left on the disk"),
        (errno.EROFS, "Permission denied for /data/s.zarr; choose another folder"),
        (errno.EACCES, "Permission denied for /data/s.zarr"),
        (errno.ENOENT, "/data/s.zarr is missing; if the sample was moved"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_file_system_errors_become_sentences(number: int, sentence: str) -> None:
    assert sentence in describe_os_error(OSError(number, os.strerror(number), "/data/s.zarr"))


def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    tifffile.imwrite(tmp_path / "a.tif", STACK[:2], photometric="minisblack")
    command = [
        sys.executable,
        "-m",
        "sparsem",
        "import",
        "a.tif",
        "closed/s.zarr",
        "--voxel-nm",
        "8",
        "8",
        "8",
    ]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 2
    assert "is not allowed here" in result.stderr
