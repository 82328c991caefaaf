"""One process writes at a time, on file systems with locks and without."""

import errno
import fcntl
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from sparsem.errors import ResumeError, SampleError
from sparsem.store.locks import acquire

REFUSAL = SampleError("Another run is writing to s.zarr; wait for it to end, or work on a copy.")


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


def is_free(file: Path) -> bool:
    with acquire(file, REFUSAL):
        return True


def refused(file: Path) -> str:
    with pytest.raises(SampleError) as caught, acquire(file, REFUSAL):
        pass
    return str(caught.value)


def test_a_held_lock_is_refused_and_ends_with_its_holder(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        assert "wait for it to end, or work on a copy" in refused(tmp_path / "lock")
    assert is_free(tmp_path / "lock")


def test_the_file_of_a_lock_is_removed_on_request(tmp_path: Path) -> None:
    with acquire(tmp_path / "lock", REFUSAL, remove_after=True):
        assert "wait for it" in refused(tmp_path / "lock")
    assert not (tmp_path / "lock").exists()
    assert is_free(tmp_path / "lock")
    assert (tmp_path / "lock").exists()


def test_a_lock_is_released_before_its_file_is_removed_on_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsem.store.locks.REMOVABLE_WHILE_HELD", False)
    removed_while_held = []
    unlink = Path.unlink

    def unlink_as_windows(path: Path, missing_ok: bool = False) -> None:
        descriptor = os.open(path, os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            removed_while_held.append(path)
        finally:
            os.close(descriptor)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_as_windows)
    with acquire(tmp_path / "lock", REFUSAL, remove_after=True):
        pass
    assert not removed_while_held
    assert not (tmp_path / "lock").exists()


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_file_stands_for_one(tmp_path: Path) -> None:
    with acquire(tmp_path / "lock", REFUSAL):
        assert (tmp_path / "lock.held").exists()
        message = refused(tmp_path / "lock")
    assert re.search(rf"is held by process {os.getpid()} on .*if that process has ended", message)
    assert not (tmp_path / "lock.held").exists()
    assert is_free(tmp_path / "lock")


@pytest.mark.usefixtures("no_locks")
def test_a_process_that_ended_holds_nothing_here_and_is_named_elsewhere(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "lock.held").write_text(f"{ended.pid}\n{socket.gethostname()}\n", encoding="utf-8")
    assert is_free(tmp_path / "lock")
    (tmp_path / "lock.held").write_text("4711\nnode7\n", encoding="utf-8")
    busy = ResumeError("Busy.")
    with (
        pytest.raises(ResumeError, match=r"Busy\. .*lock\.held is held by process 4711 on node7"),
        acquire(tmp_path / "lock", busy),
    ):
        pass
    (tmp_path / "lock.held").write_text("", encoding="utf-8")
    message = refused(tmp_path / "lock")
    assert "an unnamed process; if that process has ended, remove this file" in message


def test_other_faults_of_the_file_system_are_not_taken_for_missing_locks(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), acquire(tmp_path, REFUSAL):
        pass
