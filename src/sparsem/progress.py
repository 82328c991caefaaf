"""Progress of long work, with the time left.

A terminal shows a bar, a log file or a notebook a line now and then.
"""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LOG_EVERY_S = 30.0
LOG_IN_NOTEBOOK_EVERY_S = 5.0  # a person is watching

# The first steps load libraries and compile. Until there are a few of them they predict nothing.
BASIS_S = 5.0
BASIS_STEPS = 3

SECONDS_UNTIL_MINUTES = 90
SECONDS_UNTIL_HOURS = 5400


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    return "ipykernel" in sys.modules


def print_note(message: str, quiet: bool) -> None:
    """Print a line on standard error, unless ``quiet``."""
    if not quiet:
        console = Console(file=sys.stderr)
        console.print(message, markup=False, highlight=False, soft_wrap=True)


class Meter:
    """Count steps of one piece of work on standard error.

    As a context manager it always restores the terminal.

    Args:
        title: name of the work.
        total: number of steps.
        done: steps that were done before.
        quiet: show nothing.
    """

    def __init__(self, title: str, total: int, done: int = 0, quiet: bool = False) -> None:
        self._title = title
        self._total = total
        self._first = done
        self._done = done
        self._started = time.monotonic()
        self._logged = self._started
        self._log_every_s = LOG_IN_NOTEBOOK_EVERY_S if in_notebook() else LOG_EVERY_S
        console = Console(file=sys.stderr)
        self._log = console if not quiet and not console.is_terminal else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, note="", left="")

    def __enter__(self) -> "Meter":
        self._bar.start()
        if self._first:
            self._print(f"{self._title}: resumes after {self._first} of {self._total}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, note: str = "") -> None:
        """Count one more step; ``note`` is shown after the bar (a loss, a file name)."""
        self._done += 1
        now = time.monotonic()
        undone = self._total - self._done
        left = time_left(self._done - self._first, undone, now - self._started)
        self._bar.update(self._task, advance=1, note=note, left=left)
        if undone == 0 or now - self._logged > self._log_every_s:
            counted = f"{self._title}: {self._done} of {self._total}"
            text = f"{counted}, {left}" if left else counted
            self._print(f"{text}  {note}".rstrip())
            self._logged = now

    def say(self, line: str) -> None:
        """Print a line above the bar, unless it is empty or nothing is shown."""
        if line and not self._bar.disable:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        elif line:
            self._print(line)

    def _print(self, line: str) -> None:
        if self._log:
            self._log.print(line, markup=False, highlight=False, soft_wrap=True)


def time_left(done: int, undone: int, seconds: float) -> str:
    """Return the time that the undone steps will take, in words.

    Empty without a basis for it, and when all is done.

    >>> time_left(10, 50, 60.0)
    '5 min left'
    """
    if not undone or done < BASIS_STEPS or seconds < BASIS_S:
        return ""
    left_s = seconds / done * undone
    if left_s < SECONDS_UNTIL_MINUTES:
        return f"{left_s:.0f} s left"
    if left_s < SECONDS_UNTIL_HOURS:
        return f"{left_s / 60:.0f} min left"
    return f"{left_s / 3600:.1f} h left"
