"""Threads of the processor: how many a training uses, and whether other programs need them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

WATCH_S = 10.0  # of the training, before it is told that the machine is busy
# Cores that threads must share before fewer are recommended. Measured on two cores with another
# busy program: an update takes 348 ms with two threads, and 168 ms with one.
MIN_SHARED_CORES = 0.5


@contextmanager
def limited_threads(count: int | None) -> Iterator[None]:
    """Let networks compute with ``count`` threads of the CPU; with torch's number if None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class OtherPrograms:
    """The cores that other programs use while a training runs."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._busy_s = _busy_seconds() - _own_seconds()
        self._is_told = False

    def note(self) -> str:
        """Return once, after a while, that fewer threads are faster; empty if they are not."""
        elapsed_s = time.monotonic() - self._begun_s
        if self._is_told or elapsed_s < WATCH_S:
            return ""
        self._is_told = True
        others_s = _busy_seconds() - _own_seconds() - self._busy_s
        cores = psutil.cpu_count() or 1
        return thread_note(torch.get_num_threads(), cores, others_s / elapsed_s)


def thread_note(threads: int, cores: int, used_by_others: float) -> str:
    """Return the advice for a number of threads, where others use some of the cores.

    Args:
        threads: threads of this training.
        cores: cores of the machine.
        used_by_others: cores that other programs use on average.
    """
    shared = threads + used_by_others - cores
    fewer = max(1, round(cores - used_by_others))
    if shared < MIN_SHARED_CORES or fewer >= threads:
        return ""
    return (
        f"Other programs use {used_by_others:.1f} of {cores} cores, and {threads} threads wait for "
        f"each other: --threads {fewer} may be faster. Stop with Ctrl+C; the same command with it "
        "continues."
    )


def _busy_seconds() -> float:
    """Return the seconds in which the cores of the machine have computed, of all together."""
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)
