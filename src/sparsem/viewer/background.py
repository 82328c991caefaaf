"""Short work in a thread, so that the window stays responsive: seconds, not minutes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from qtpy.QtCore import QObject, QTimer

from sparsem.viewer.errors import SHOWN_ERRORS

POLL_MS = 50

T = TypeVar("T")


class Background(QObject):
    """One piece of work at a time in a thread; its result is shown in the thread of the window.

    Args:
        parent: owner of the work.
        say: shows a sentence about the work.
    """

    def __init__(self, parent: QObject, say: Callable[[str], None]) -> None:
        super().__init__(parent)
        self._say = say
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[Any] | None = None
        self._show: Callable[[Any], str] = str
        self._timer = QTimer(self)
        self._timer.timeout.connect(self._poll)

    @property
    def is_running(self) -> bool:
        """True while there is work."""
        return self._future is not None

    def start(self, title: str, work: Callable[[], T], show: Callable[[T], str]) -> None:
        """Start work, and show its result when it is done.

        Args:
            title: what is done, in words.
            work: computes the result; touches no widget and no layer.
            show: shows the result, and returns a sentence about it.
        """
        if self.is_running:
            self._say("Wait until the work before this is done.")
            return
        self._say(f"{title} ...")
        self._show = show
        self._future = self._pool.submit(work)
        self._timer.start(POLL_MS)

    def close(self) -> None:
        """Forget the work that is not done yet."""
        self._timer.stop()
        self._future = None
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _poll(self) -> None:
        future = self._future
        if future is None or not future.done():
            return
        self._timer.stop()
        self._future = None
        try:
            message = self._show(future.result())
        except SHOWN_ERRORS as error:
            message = str(error)
        self._say(message)
