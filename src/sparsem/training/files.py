"""The files of a training: its checkpoint, the state of an unfinished one, its course as a table, and the lock of whoever trains."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sparsem.errors import InputError, ResumeError
from sparsem.models.checkpoint import load_tensors, read_recipe, save_tensors
from sparsem.models.device import Precision
from sparsem.progress import Meter
from sparsem.settings import differences
from sparsem.store.locks import acquire
from sparsem.store.volume import write_atomically
from sparsem.training.loop import Progress, ResumableTraining
from sparsem.training.settings import LoopSettings
from sparsem.workflow.interruption import stops_after_steps
from sparsem.workflow.stage import fingerprint_of

R = TypeVar("R")


def log_path(out: Path) -> Path:
    """Where the course of a training lies: beside its checkpoint, and under no name that a table would get."""
    return out.with_suffix(".training.csv")


@dataclass(frozen=True)
class TrainingFiles:
    """What a training writes beside its checkpoint.

    Attributes:
        out: the checkpoint.
    """

    out: Path

    @property
    def state_path(self) -> Path:
        """Of an unfinished training: weights, their average, the optimizer's moments."""
        return self.out.with_suffix(".state.safetensors")

    @property
    def second_path(self) -> Path:
        """The other one of two networks that were trained together."""
        return self.out.with_suffix(".second.safetensors")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the training for this process; a killed one leaves no lock behind."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        refusal = ResumeError(
            f"Another run is training {self.out.name}; wait for it to end, or use another name."
        )
        with acquire(self.out.with_suffix(".lock"), refusal, remove_after=True):
            yield

    def read_existing(self, read: Callable[[Path], R], overwrite: bool) -> R | None:
        """What was trained before under this name; None of nothing, or of something damaged that is to be replaced.

        Raises:
            InputError: it is damaged.
        """
        try:
            return read(self.out) if self.out.exists() else None
        except InputError:
            if overwrite:
                return None
            raise

    def is_finished(
        self, before: Mapping[str, Any], record: Mapping[str, Any], overwrite: bool
    ) -> bool:
        """Whether the checkpoint, which was trained as ``before`` says, is the one that is wanted.

        Raises:
            ResumeError: it was trained otherwise, and is not to be replaced.
        """
        if fingerprint_of(before) == fingerprint_of(record):
            self.state_path.unlink(missing_ok=True)
            return True
        if not overwrite:
            made = f"was trained otherwise ({differences(before, record)})"
            raise ResumeError(
                f"{self.out.name} exists and {made}; use --overwrite, or another name."
            )
        return False

    def save(self, state: ResumableTraining, record: Mapping[str, Any]) -> None:
        """Write the state of an unfinished training in one step."""
        best = [one.best_score for one in state.members]
        about: dict[str, Any] = {
            "record": dict(record),
            "update": state.update,
            "best_scores": best,
        }
        save_tensors(self.state_path, state.tensors(), about)

    def unfinished_record(self) -> dict[str, Any]:
        """The record of an unfinished training; empty if there is none."""
        return (
            dict(load_tensors(self.state_path, names=())[1].get("record", {}))
            if self.state_path.exists()
            else {}
        )

    def earlier_precision(self, overwrite: bool) -> Precision | None:
        """Return the precision of an unfinished training, or else of a finished one unless that is replaced; None without either."""
        try:
            record = self.unfinished_record()
            if not record and not overwrite and self.out.exists():
                record = read_recipe(self.out).training.get("record", {})
        except InputError:  # whoever reads these files next reports what is wrong with them
            return None
        return record.get("precision")

    def restore(self, state: ResumableTraining, record: Mapping[str, Any], overwrite: bool) -> None:
        """Go on where an unfinished training was, if there is one.

        Raises:
            ResumeError: it was set otherwise, and is not to be replaced.
        """
        if not self.state_path.exists():
            return
        tensors, about = load_tensors(self.state_path)
        if fingerprint_of(about["record"]) == fingerprint_of(record):
            state.restore(tensors, about)
            return
        if not overwrite:
            raise ResumeError(
                f"{self.state_path.name} holds an unfinished training that was set otherwise "
                f"({differences(about['record'], record)}); use --overwrite to start anew, or the same settings to go on."
            )
        self.state_path.unlink()

    def run(
        self,
        course: Iterable[Progress],
        state: ResumableTraining,
        record: Mapping[str, Any],
        settings: LoopSettings,
        columns: Sequence[str],
        said: Callable[[Progress], str],
        quiet: bool,
    ) -> None:
        """Run through a training to its end: how far it is is shown and logged, and every now and then its state is saved.

        Args:
            course: of the training, as ``run`` gives it.
            state: of it.
            record: of what is learnt from and how, by which an unfinished training is known again.
            settings: how many updates, and how often to save.
            columns: of the log beside the loss, held-out scores last.
            said: of an update, beside how far it is.
            quiet: show nothing.
        """
        log = TrainingLog(log_path(self.out), columns, state.update)
        meter = Meter(f"train {self.out.stem}", settings.updates, state.update, quiet)
        with stops_after_steps() as is_to_stop, meter, log as write:
            saved = time.monotonic()
            # Saved between two updates only: an interrupt may come when some weights have moved and others have not.
            for progress in course:
                write(progress)
                meter.step(said(progress))
                if is_to_stop() or time.monotonic() - saved >= settings.checkpoint_every_s:
                    self.save(state, record)
                    saved = time.monotonic()
                if is_to_stop():
                    break


class TrainingLog:
    """The course of a training as CSV; rows after the update that a resumed training starts from are dropped."""

    def __init__(self, path: Path, columns: Sequence[str], update: int) -> None:
        header = ["update", "seconds", "learning_rate", "loss", *columns]
        kept: list[list[str]] = []
        if update and path.exists():
            with path.open(newline="", encoding="utf-8") as before:
                kept = [
                    row for row in list(csv.reader(before))[1:] if row and int(row[0]) <= update
                ]
        text = io.StringIO()
        csv.writer(text).writerows([header, *kept])
        write_atomically(path, text.getvalue().encode())
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._seconds = float(kept[-1][1]) if kept else 0.0
        self._started, self._columns = time.monotonic(), len(columns)

    def __enter__(self) -> Callable[[Progress], None]:
        return self._write

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, progress: Progress) -> None:
        seconds = self._seconds + time.monotonic() - self._started
        numbers = [
            f"{progress.learning_rate:.3g}",
            *(f"{one:.5f}" for one in (progress.loss, *progress.batch)),
        ]
        validation = ["" if math.isnan(score) else f"{score:.4f}" for score in progress.validation]
        nothing = [""] * (self._columns - len(progress.batch) - len(validation))
        self._writer.writerow([progress.update, f"{seconds:.2f}", *numbers, *validation, *nothing])
        self._file.flush()
