"""Long work in a process of its own: its progress, its result, and how it is stopped.

A stopped function resumes where it stopped when it is started again.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from qtpy.QtCore import QObject, QProcess, QProcessEnvironment, Signal

from sparsem.store.sample import Sample
from sparsem.viewer.child import STOPPED

# The window and the child share the cores. Threads of OpenMP that wait in a loop for one that has
# no core made a training eight times slower (measured).
PASSIVE_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def _environment() -> QProcessEnvironment:
    """Return the environment of a child process."""
    environment = QProcessEnvironment.systemEnvironment()
    for name, value in PASSIVE_WAITING.items():
        environment.insert(name, value)
    return environment


class Task(QObject):
    """One run of a public function in a child process.

    Args:
        parent: owner of the task.
    """

    progressed = Signal(str)
    finished = Signal(dict)
    failed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._process: QProcess | None = None
        self._errors: list[str] = []
        self._is_stopping = False

    @property
    def is_running(self) -> bool:
        """True while the function runs."""
        return self._process is not None

    def start(
        self,
        sample: Sample,
        function: str,
        arguments: Sequence[Any] = (),
        settings: Mapping[str, Any] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Start a public function on a sample; ``finished`` or ``failed`` follows."""
        if self.is_running:
            return
        request = {
            "function": function,
            "sample": str(sample.path),
            "arguments": list(arguments),
            "settings": dict(settings or {}),
            "overwrite": overwrite,
        }
        process = QProcess(self)
        process.setProcessEnvironment(_environment())
        process.readyReadStandardError.connect(self._read_progress)
        process.finished.connect(self._end)
        self._process = process
        self._errors = []
        self._is_stopping = False
        process.start(sys.executable, ["-m", "sparsem.viewer.child", json.dumps(request)])

    def stop(self) -> None:
        """Ask the function to stop; it can be resumed."""
        if self._process is None or not self._process.processId():
            return
        self._is_stopping = True
        if os.name == "nt":  # there is no such signal, and a killed run resumes as well
            self._process.kill()
        else:
            os.kill(self._process.processId(), signal.SIGINT)

    def wait(self, seconds: float) -> bool:
        """Wait until the process ended; False if it did not in time."""
        return self._process is None or bool(self._process.waitForFinished(int(1000 * seconds)))

    def _read_progress(self) -> None:
        if self._process is None:
            return
        text = bytes(self._process.readAllStandardError().data()).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        self._errors = [*self._errors, *lines][-20:]
        if lines:
            self.progressed.emit(lines[-1])

    def _end(self, code: int, _status: Any) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        output = bytes(process.readAllStandardOutput().data()).decode(errors="replace")
        process.deleteLater()
        if code == 0 and output.strip():
            self.finished.emit(json.loads(output.strip().splitlines()[-1]))
            return
        errors = [line for line in self._errors if line.startswith("Error: ")]
        if errors:
            message = errors[-1].removeprefix("Error: ")
        elif self._is_stopping or code == STOPPED:
            message = "Stopped; start it again to resume."
        else:
            message = "\n".join(self._errors[-3:]) or f"The process ended with code {code}."
        self.failed.emit(message)
