"""One process writes at a time, on file systems with locks and without."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from sparsem.errors import ResumeError, SampleError
from sparsem.store.locks import acquired
from sparsem.store.sample import Sample

REFUSAL = SampleError("Another run is writing to s.zarr; wait for it to end, or work on a copy.")


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_held_lock_is_refused_and_goes_with_its_holder(tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / "lock"),
        pytest.raises(SampleError, match="wait for it to end, or work on a copy"),
    ):
        acquired(tmp_path / "lock", REFUSAL)
    acquired(tmp_path / "lock", REFUSAL).release()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_file_stands_for_one(tmp_path: Path) -> None:
    lock = acquired(tmp_path / "lock", REFUSAL)
    assert (tmp_path / "lock.held").exists()
    with pytest.raises(
        SampleError,
        match=rf"is held by process {os.getpid()} on .*if that process has ended, remove this file",
    ):
        acquired(tmp_path / "lock", REFUSAL)
    lock.release()
    assert not (tmp_path / "lock.held").exists()
    acquired(tmp_path / "lock", REFUSAL).release()


@pytest.mark.usefixtures("no_locks")
def test_a_process_that_ended_holds_nothing_here_and_is_named_elsewhere(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "lock.held").write_text(f"{ended.pid}\n{socket.gethostname()}\n", encoding="utf-8")
    acquired(tmp_path / "lock", REFUSAL).release()
    (tmp_path / "lock.held").write_text("4711\nnode7\n", encoding="utf-8")
    with pytest.raises(ResumeError, match=r"Busy\. .*lock\.held is held by process 4711 on node7"):
        acquired(tmp_path / "lock", ResumeError("Busy."))
    (tmp_path / "lock.held").write_text("", encoding="utf-8")
    with pytest.raises(
        SampleError, match="a process without a name; if that process has ended, remove this file"
    ):
        acquired(tmp_path / "lock", REFUSAL)


def test_other_faults_of_the_file_system_are_not_taken_for_missing_locks(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        acquired(tmp_path, REFUSAL)


def test_files_that_a_kill_left_half_written_go_with_the_next_run(tmp_path: Path) -> None:
    sample = Sample.create(tmp_path / "s.zarr")
    left = [
        sample.path / ".sparsem" / "zarr.json.4711.partial",
        sample.path / "zarr.json.4711.partial",
    ]
    for path in left:
        path.write_text("{", encoding="utf-8")
    with sample.locked():
        assert not any(path.exists() for path in left)
