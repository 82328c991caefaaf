"""Files of a training: checkpoint, state of an unfinished training, log as a table, and lock."""

import csv
import io
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from sparsem.errors import InputError, ResumeError
from sparsem.models.checkpoint import load_tensors, read_recipe, save_tensors
from sparsem.progress import Meter
from sparsem.settings import Precision, differences
from sparsem.store.locks import acquire
from sparsem.store.volume import write_atomically
from sparsem.training.loop import Progress, ResumableTraining
from sparsem.training.processes import as_in_first, is_any, training_processes
from sparsem.training.settings import LoopSettings
from sparsem.training.threads import OtherPrograms, limited_threads
from sparsem.workflow.interruption import Stopped, stops_after_steps
from sparsem.workflow.stage import fingerprint_of

R = TypeVar("R")


def log_path(out: Path) -> Path:
    """Return the path of a training's log: next to its checkpoint, with a name no table gets."""
    return out.with_suffix(".training.csv")


@dataclass(frozen=True)
class TrainingFiles:
    """The files that a training writes next to its checkpoint.

    Attributes:
        out: path of the checkpoint.
    """

    out: Path

    @property
    def state_path(self) -> Path:
        """Path of an unfinished training: weights, moving average, moments of the optimizer."""
        return self.out.with_suffix(".state.safetensors")

    @property
    def second_path(self) -> Path:
        """Path of the other one of two networks that were trained together."""
        return self.out.with_suffix(".second.safetensors")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the training's lock for this process; a killed process leaves no lock behind.

        Raises:
            ResumeError: another process holds the lock.
        """
        lock_path = self.out.with_suffix(".lock")
        self.out.parent.mkdir(parents=True, exist_ok=True)
        refusal = ResumeError(
            f"Another run is training {self.out.name}. Wait for it to end, or use another name."
        )
        with acquire(lock_path, refusal, remove_after=True):
            yield

    def read_existing(self, read: Callable[[Path], R], overwrite: bool) -> R | None:
        """Read the checkpoint that exists under this name.

        Returns:
            What ``read`` returns; None if there is no checkpoint, or if it is damaged and
            ``overwrite`` is set.

        Raises:
            InputError: the checkpoint is damaged.
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
        """Return True if the existing checkpoint is the requested one.

        Args:
            before: record of the existing checkpoint.
            record: record of the requested training.
            overwrite: a checkpoint with another record may be replaced.

        Raises:
            ResumeError: the records differ, and ``overwrite`` is not set.
        """
        if fingerprint_of(before) == fingerprint_of(record):
            self.state_path.unlink(missing_ok=True)
            return True
        if not overwrite:
            raise ResumeError(
                f"{self.out.name} exists and was trained with other settings "
                f"({differences(before, record)}). Use --overwrite, or another name."
            )
        return False

    def begin(self, state: ResumableTraining, record: Mapping[str, Any], overwrite: bool) -> None:
        """Load the state of an unfinished training, and give it to the other processes.

        Raises:
            ResumeError: as ``restore``.
        """
        self.restore(state, record, overwrite)
        if training_processes().count > 1:
            # The best weights so far are those of the process that validates.
            shared = {
                name: tensor.detach().cpu()
                for name, tensor in state.tensors().items()
                if not name.startswith("best.")
            }
            as_in_first((shared, _about(state, record)))

    def save(self, state: ResumableTraining, record: Mapping[str, Any]) -> None:
        """Write the state of an unfinished training in one step."""
        save_tensors(self.state_path, state.tensors(), _about(state, record))

    def unfinished_record(self) -> dict[str, Any]:
        """Return the record of an unfinished training; empty if there is none."""
        if not self.state_path.exists():
            return {}
        _, about = load_tensors(self.state_path, names=())
        return dict(about.get("record", {}))

    def earlier_precision(self, overwrite: bool) -> Precision | None:
        """Return the precision of an unfinished training, or else of a finished one.

        Returns:
            None without either, and for a finished training that ``overwrite`` replaces.
        """
        try:
            record = self.unfinished_record()
            if not record and not overwrite and self.out.exists():
                record = read_recipe(self.out).training.get("record", {})
        except InputError:  # the next reader of these files reports what is wrong with them
            return None
        return record.get("precision")

    def restore(self, state: ResumableTraining, record: Mapping[str, Any], overwrite: bool) -> None:
        """Load the state of an unfinished training into ``state``, if there is one.

        Raises:
            ResumeError: its record differs from ``record``, and ``overwrite`` is not set.
        """
        if not self.state_path.exists():
            return
        tensors, about = load_tensors(self.state_path)
        if fingerprint_of(about["record"]) == fingerprint_of(record):
            state.restore(tensors, about)
            return
        if not overwrite:
            raise ResumeError(
                f"{self.state_path.name} holds an unfinished training with other settings "
                f"({differences(about['record'], record)}). Use --overwrite to start again, "
                "or the same settings to continue."
            )
        self.state_path.unlink()

    def run(
        self,
        updates: Iterable[Progress],
        state: ResumableTraining,
        record: Mapping[str, Any],
        settings: LoopSettings,
        columns: Sequence[str],
        describe: Callable[[Progress], str],
        quiet: bool,
    ) -> None:
        """Run a training to its end; show and log its progress, and save its state regularly.

        Args:
            updates: the updates, as ``run_updates`` yields them.
            state: state of the training.
            record: data and settings, by which an unfinished training is recognized.
            settings: number of updates, and how often to save the state.
            columns: columns of the log in addition to the loss; validation scores last.
            describe: text of an update for the progress bar.
            quiet: show no progress.
        """
        log = TrainingLog(log_path(self.out), columns, state.update)
        meter = Meter(f"train {self.out.stem}", settings.updates, state.update, quiet)
        others = None if torch.cuda.is_available() else OtherPrograms()
        with (
            limited_threads(settings.threads),
            stops_after_steps() as is_to_stop,
            meter,
            log as write_row,
        ):
            saved_at = time.monotonic()
            must_stop = False
            # Saved only between two updates: an interrupt may come when some weights have
            # changed and others have not.
            for progress in updates:
                write_row(progress)
                meter.step(describe(progress))
                if others:
                    meter.say(others.note())
                seconds_since_save = time.monotonic() - saved_at
                must_stop = is_any(is_to_stop())
                if must_stop or seconds_since_save >= settings.checkpoint_every_s:
                    self.save(state, record)
                    saved_at = time.monotonic()
                if must_stop:
                    break
        if must_stop:  # another process received the signal
            raise Stopped


def receive(state: ResumableTraining) -> None:
    """Load the state that the first process has given, see ``TrainingFiles.begin``."""
    tensors, about = as_in_first(None)
    state.restore(tensors, about)


def _about(state: ResumableTraining, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is stored with the tensors of an unfinished training."""
    scores = [member.best_score for member in state.members]
    return {"record": dict(record), "update": state.update, "best_scores": scores}


class TrainingLog:
    """Log of a training as CSV, one row an update, for use in a ``with`` statement.

    Rows after the update from which a resumed training continues are dropped.

    Args:
        path: the CSV file.
        columns: columns in addition to update, seconds, learning rate and loss.
        update: number of updates done.
    """

    def __init__(self, path: Path, columns: Sequence[str], update: int) -> None:
        header = ["update", "seconds", "learning_rate", "loss", *columns]
        earlier_rows = _read_rows(path, update) if update and path.exists() else []
        text = io.StringIO()
        csv.writer(text).writerows([header, *earlier_rows])
        write_atomically(path, text.getvalue().encode())
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._earlier_seconds = float(earlier_rows[-1][1]) if earlier_rows else 0.0
        self._started_at = time.monotonic()
        self._n_columns = len(columns)

    def __enter__(self) -> Callable[[Progress], None]:
        return self._write

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _write(self, progress: Progress) -> None:
        """Write the row of an update; a validation score that is not known stays empty."""
        seconds = self._earlier_seconds + time.monotonic() - self._started_at
        batch_values = [f"{value:.5f}" for value in (progress.loss, *progress.batch)]
        validation = ["" if math.isnan(score) else f"{score:.4f}" for score in progress.validation]
        n_empty = self._n_columns - len(progress.batch) - len(validation)
        row: list[object] = [progress.update, f"{seconds:.2f}", f"{progress.learning_rate:.3g}"]
        self._writer.writerow([*row, *batch_values, *validation, *[""] * n_empty])
        self._file.flush()


def _read_rows(path: Path, last_update: int) -> list[list[str]]:
    """Return the rows of a log up to an update, without the header."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [row for row in rows if row and int(row[0]) <= last_update]
