"""Locks that one process holds at a time, also on file systems that have no locks of their own."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from sparsem.errors import SparsemError

# NFS without its lock service, Lustre without "-o flock", some FUSE; 524 is Linux's ENOTSUPP, which
# NFS lets through.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, 524)

REMOVABLE_WHILE_HELD = os.name == "posix"  # Windows refuses to remove an open file


@contextmanager
def acquire(
    file: Path, refusal: SparsemError, remove_after: bool = False, wait_s: float = 0.0
) -> Iterator[None]:
    """Hold the lock ``file`` until the block or the process ends.

    Where the file system has no locks, a file next to it stands for the lock and names the process
    that holds it. If such a process ended without removing the file, a later one on the same
    computer removes it.

    Args:
        file: created if it does not exist.
        refusal: raised if another process holds the lock; with advice where that process may have
            ended.
        remove_after: remove the file at the end, where it lies among the user's files.
        wait_s: seconds to wait for another process.
    """
    lock = _acquired(file, refusal, wait_s)
    try:
        yield
    finally:
        _release(lock, file, remove_after)


def _release(lock: BaseFileLock, file: Path, remove: bool) -> None:
    """Release a lock, and remove its file without a moment in which two processes can hold it.

    On POSIX the file is removed while it is held: a process that waits with the old file open sees
    that it was removed. Windows refuses that, and refuses to remove a file that another process has
    opened since, which is left to that process.
    """
    if remove and REMOVABLE_WHILE_HELD:
        file.unlink(missing_ok=True)
    lock.release()
    if remove and not REMOVABLE_WHILE_HELD:
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _acquired(file: Path, refusal: SparsemError, wait_s: float) -> BaseFileLock:
    try:
        lock: BaseFileLock = FileLock(file, timeout=wait_s, fallback_to_soft=False)
        lock.acquire()
    except Timeout:
        raise refusal from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return _acquired_by_name(file.with_name(f"{file.name}.held"), refusal, wait_s)
    return lock


def _acquired_by_name(file: Path, refusal: SparsemError, wait_s: float) -> BaseFileLock:
    lock = SoftFileLock(file, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        holder = _holder(file)
        raise type(refusal)(
            f"{refusal} {file} is held by {holder}; if that process has ended, remove this file."
        ) from None
    return lock


def _holder(file: Path) -> str:
    """Return the process that a lock file names."""
    content = file.read_text(encoding="utf-8", errors="replace").strip()
    process, _, computer = content.partition("\n")
    if process.isdigit() and computer:
        return f"process {process} on {computer.splitlines()[0]}"
    return "an unnamed process"
