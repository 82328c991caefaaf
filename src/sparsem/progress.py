"""Progress of long work, with the time left: a bar on a terminal, a line now and then in a log file."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LOG_EVERY_S = 30.0
BASIS_S = 5.0  # the first steps load libraries and compile: before there are a few of them they tell nothing of the others
BASIS_STEPS = 3


def tell(message: str, quiet: bool) -> None:
    """One line on standard error, unless it is to be quiet."""
    if not quiet:
        Console(file=sys.stderr).print(message, markup=False, highlight=False, soft_wrap=True)


class Meter:
    """Counts steps of one piece of work on standard error; as a context manager it always cleans up after itself."""

    def __init__(self, title: str, total: int, done: int = 0, quiet: bool = False) -> None:
        self._title, self._total, self._first, self._done = title, total, done, done
        self._started = self._logged = time.monotonic()
        console = Console(file=sys.stderr)
        self._log = console if not quiet and not console.is_terminal else None
        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[note]}"),
        )
        self._bar = Progress(
            TextColumn("{task.description}"),
            *columns,
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._bar.add_task(title, total=total, completed=done, note="", left="")

    def __enter__(self) -> "Meter":
        self._bar.start()
        if self._log and self._first:
            self._log.print(
                f"{self._title}: goes on, {self._first} of {self._total} were done before",
                highlight=False,
                soft_wrap=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, note: str = "") -> None:
        """One more step is done; ``note`` stands behind the bar (a loss, a file name)."""
        self._done += 1
        now = time.monotonic()
        left = time_left(self._done - self._first, self._total - self._done, now - self._started)
        self._bar.update(self._task, advance=1, note=note, left=left)
        last = self._done == self._total
        if self._log and (now - self._logged > LOG_EVERY_S or last):
            texts = [f"{self._title}: {self._done} of {self._total}", *([left] if left else [])]
            self._log.print(f"{', '.join(texts)}  {note}".rstrip(), highlight=False, soft_wrap=True)
            self._logged = now


def time_left(done: int, undone: int, seconds: float) -> str:
    """Return how long the undone steps will take, in words; nothing before there is a basis for it, or when all is done.

    >>> time_left(10, 50, 60.0)
    '5 min left'
    """
    if not undone or done < BASIS_STEPS or seconds < BASIS_S:
        return ""
    left_s = seconds / done * undone
    if left_s < 90:
        return f"{left_s:.0f} s left"
    return f"{left_s / 60:.0f} min left" if left_s < 5400 else f"{left_s / 3600:.1f} h left"
