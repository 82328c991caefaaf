"""Stopping by Ctrl+C or SIGTERM, within seconds and with one sentence.

Work whose half-done step would be lost stops after the step.

This module imports the standard library only, so that a program can be stopped while the rest of it
still loads.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

EXIT_CODE = 130  # the exit code of a program that Ctrl+C ended
GRACE_S = (
    3.0  # time to remove temporary files; an exception may get lost in a library, or wait for it
)
GRACE_OF_STEP_S = 20.0  # SLURM kills 30 s after SIGTERM
REPEATED_S = 1.0  # a signal to a process and to its group arrives twice
SENTENCE = "Stopped. Run the same command again to continue."
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"

_holds_back = threading.Event()


class Stopped(BaseException):
    """The program was asked to end.

    It is no ``Exception``, and no ``KeyboardInterrupt``, which libraries of command lines handle.
    """


def listen() -> None:
    """Make Ctrl+C and SIGTERM raise ``Stopped`` in the main thread.

    A program that does not end soon after is ended.

    A second signal ends the program at once.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    # Python's own handlers wait for the main thread, which may be in a library's code for minutes.
    # The thread does not wait.
    signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(
        target=_end_after_grace, args=(receiver, sender), daemon=True, name="sparsem-interruption"
    )
    thread.start()
    first_s = 0.0

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal first_s
        now_s = time.monotonic()
        if not first_s:
            first_s = now_s
            raise Stopped
        if now_s - first_s > REPEATED_S:
            end()

    for number in SIGNALS:
        # A shell lets programs in the background ignore Ctrl+C; that stays.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, stop)


def _end_after_grace(receiver: socket.socket, _sender: socket.socket) -> None:
    while receiver.recv(1)[0] not in SIGNALS:
        pass
    logging.disable(logging.CRITICAL)  # libraries log every connection that ends with the workers
    time.sleep(GRACE_OF_STEP_S if _holds_back.is_set() else GRACE_S)
    end()


def end() -> None:
    """End this program and the processes that it started, at once."""
    for number in SIGNALS:
        with suppress(ValueError):  # not in the main thread
            signal.signal(number, signal.SIG_IGN)
    _kill_children()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
    with suppress(OSError, ValueError):
        if sys.stderr.isatty():
            sys.stderr.write(SHOW_CURSOR)  # a progress bar hides it
        sys.stderr.write(f"{SENTENCE}\n")
        sys.stderr.flush()
    os._exit(EXIT_CODE)  # exit handlers of libraries would wait for workers that are gone


def _kill_children() -> None:
    import psutil

    with suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                # The resource tracker removes what the others leave behind, and ends itself.
                is_tracker = any("resource_tracker" in word for word in child.cmdline())
                if not is_tracker:
                    child.kill()


@contextmanager
def stops_after_steps() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl+C and SIGTERM, and yield a function that returns True once a signal came.

    The block should then be left.

    At the end of the block the signal takes its effect; if that does not end the program,
    ``KeyboardInterrupt`` ends the block, which is incomplete. A second signal takes its effect at
    once. Signals that the program ignores stay ignored. Outside of the main thread, where Python
    allows no handlers, nothing is held back.

    Raises:
        KeyboardInterrupt: the block was left, and the program's own handler returned.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[tuple[int, float]] = []  # number and time of each signal
    handlers: dict[int, Any] = {}
    for listened in SIGNALS:
        handler = signal.getsignal(listened)
        if handler is not signal.SIG_IGN:
            handlers[listened] = handler

    def hold(number: int, _frame: FrameType | None) -> None:
        if received and time.monotonic() - received[0][1] > REPEATED_S:
            _restore(handlers)
            signal.raise_signal(number)
        received.append((number, time.monotonic()))

    for number in handlers:
        signal.signal(number, hold)
    _holds_back.set()
    try:
        yield lambda: bool(received)
    finally:
        _holds_back.clear()
        _restore(handlers)
    if received:
        signal.raise_signal(received[0][0])
        raise KeyboardInterrupt


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def blocked_here() -> Iterator[None]:
    """Keep Ctrl+C from threads that start within the block, and from their processes.

    The program ends them itself.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
