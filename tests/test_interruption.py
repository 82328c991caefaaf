"""Programs that are stopped, at a moment that nobody chose."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
from numpy.typing import NDArray

import sparsem.workflow.interruption
from sparsem.models.checkpoint import load_tensors
from sparsem.store.sample import Sample
from sparsem.workflow.interruption import EXIT_CODE, SENTENCE, stops_after_steps
from tests.conftest import copy_of


def hear_interrupts() -> None:
    """What a terminal does: tests may run in the background, where a shell lets programs ignore Ctrl+C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def interruptible() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def running(*words: str, folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "sparsem", *words],
        cwd=folder,
        text=True,
        stderr=subprocess.PIPE,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )


def session_of(process: psutil.Process) -> int:
    try:
        return -1 if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (OSError, psutil.Error):
        return -1


# A program of its own: whatever goes wrong with a signal must not end the process of the tests.
SIGNALED_STEPS = """
import signal
import sys
from sparsem.workflow.interruption import stops_after_steps

def refuse(*_):
    raise KeyboardInterrupt

number = int(sys.argv[1])
signal.signal(number, refuse)
try:
    with stops_after_steps() as is_to_stop:
        for step in range(5):
            if step == 2:
                signal.raise_signal(number)
            print(step)
            if is_to_stop():
                break
except KeyboardInterrupt:
    print("interrupted")
print(signal.getsignal(number) is refuse)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_a_step(number: signal.Signals) -> None:
    command = [sys.executable, "-c", SIGNALED_STEPS, str(int(number))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == ["0", "1", "2", "interrupted", "True"]


@pytest.mark.usefixtures("interruptible")
def test_a_second_signal_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparsem.workflow.interruption, "REPEATED_S", 0)
    reached = []

    def work() -> None:
        with stops_after_steps():
            for step in range(5):
                reached.append(step)
                time.sleep(0.01)
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached == [0, 1]


@pytest.mark.parametrize(("handler", "is_left"), [(signal.SIG_IGN, False), (lambda *_: None, True)])
def test_a_block_that_was_left_is_never_taken_for_complete(handler: Any, is_left: bool) -> None:
    """As of a program in the background that ignores Ctrl+C, and of one whose own handler only takes a note."""
    steps = []

    def work() -> None:
        with stops_after_steps() as is_to_stop:
            for step in range(3):
                signal.raise_signal(signal.SIGINT)
                steps.append(step)
                if is_to_stop():
                    break

    before = signal.signal(signal.SIGINT, handler)
    try:
        if is_left:
            with pytest.raises(KeyboardInterrupt):
                work()
        else:
            work()
        assert steps == ([0] if is_left else [0, 1, 2])
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_error_in_a_step_is_not_hidden_by_a_signal() -> None:
    def work() -> None:
        with stops_after_steps():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("of the step")

    with pytest.raises(ValueError, match="of the step"):
        work()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_goes_on_with_the_next_update(
    tissue: Sample, tmp_path: Path, number: signal.Signals
) -> None:
    sample = copy_of(tissue, tmp_path / "s.zarr")
    words = [
        "train",
        "s.zarr",
        "--structure",
        "nucleus",
        "--width",
        "8",
        "--context-px",
        "64",
        "--input-px",
        "64",
        "--batch",
        "1",
    ]
    words += ["--checkpoint-every-s", "100000", "--out", "m.safetensors", "--device", "cpu"]
    assert sample.path.exists()
    run = running(*words, "--updates", "100000", folder=tmp_path)
    log = tmp_path / "m.training.csv"
    while run.poll() is None and not (
        log.exists() and len(log.read_text(encoding="utf-8").splitlines()) > 5
    ):
        time.sleep(0.05)
    run.send_signal(number)
    _, text = run.communicate(timeout=60)
    assert run.returncode == EXIT_CODE
    assert text.splitlines()[-1] == SENTENCE
    assert "Traceback" not in text
    done = [int(row.split(",")[0]) for row in log.read_text(encoding="utf-8").splitlines()[1:]]
    assert load_tensors(tmp_path / "m.state.safetensors", names=())[1]["update"] == done[-1]
    assert not (tmp_path / "m.lock").exists()


def test_workers_that_are_stopped_with_their_program_end_quietly(tmp_path: Path) -> None:
    noise: NDArray[Any] = np.random.default_rng(0).integers(0, 255, (40, 700, 700)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", noise, photometric="minisblack")
    words = [
        "import",
        "a.tif",
        "s.zarr",
        "--voxel-nm",
        "8",
        "4",
        "4",
        "--block-depth",
        "1",
        "--workers",
        "2",
    ]
    for after_s in (2.5, 5.0):
        run = running(*words, folder=tmp_path)
        time.sleep(after_s)
        os.killpg(run.pid, signal.SIGINT)  # as a terminal sends it: workers get it too
        begun = time.monotonic()
        _, text = run.communicate(timeout=60)
        if run.returncode == 0:
            break
        assert time.monotonic() - begun < 10
        assert run.returncode == EXIT_CODE
        assert text.splitlines()[-1] == SENTENCE
        assert "Traceback" not in text
        time.sleep(2)
        assert run.pid not in [session_of(process) for process in psutil.process_iter()]
    subprocess.run(
        [sys.executable, "-m", "sparsem", *words, "--quiet"], cwd=tmp_path, timeout=120, check=True
    )
    np.testing.assert_array_equal(Sample.open(tmp_path / "s.zarr").image().read(slice(None)), noise)
