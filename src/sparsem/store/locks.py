"""Locks that one process holds at a time, also on file systems that have none of their own."""

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from sparsem.errors import SparsemError

# NFS without its lock service, Lustre without "-o flock", some FUSE; 524 is Linux's ENOTSUPP, which NFS lets through.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, 524)


def acquired(file: Path, refusal: SparsemError) -> BaseFileLock:
    """Return the lock ``file``, held by this process until it is released or the process ends.

    Where the file system has no locks a file beside it, which names its process, stands for one. If such a process ended without
    removing it, a later one on the same computer does.

    Args:
        file: made if it does not exist.
        refusal: raised if another process holds the lock; where it may have ended, with what to do.
    """
    try:
        lock: BaseFileLock = FileLock(file, timeout=0, fallback_to_soft=False)
        lock.acquire()
    except Timeout:
        raise refusal from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return _acquired_by_name(file.with_name(f"{file.name}.held"), refusal)
    return lock


def _acquired_by_name(file: Path, refusal: SparsemError) -> BaseFileLock:
    lock = SoftFileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        process, _, computer = (
            file.read_text(encoding="utf-8", errors="replace").strip().partition("\n")
        )
        holder = (
            f"process {process} on {computer.splitlines()[0]}"
            if process.isdigit() and computer
            else "a process without a name"
        )
        raise type(refusal)(
            f"{refusal} {file} is held by {holder}; if that process has ended, remove this file."
        ) from None
    return lock
