"""The threads of a training, and the note that other programs need the cores."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from sparsem.store.sample import Sample
from sparsem.training import threads
from tests.conftest import QUICK, copy_of


@pytest.mark.parametrize(
    ("n_threads", "cores", "used_by_others", "fewer"),
    [
        (2, 2, 1.0, 1),
        (16, 16, 6.2, 10),
        (2, 2, 0.3, None),  # the system itself
        (1, 2, 2.0, None),  # there is no smaller number
        (4, 16, 6.0, None),  # there are cores for all
        (2, 2, 0.5, None),  # 1.5 cores are left, and two threads use them
    ],
)
def test_fewer_threads_are_recommended_on_a_busy_machine(
    n_threads: int, cores: int, used_by_others: float, fewer: int | None
) -> None:
    note = threads.thread_note(n_threads, cores, used_by_others)
    assert (f"--threads {fewer} " in note) if fewer else note == ""


def test_another_program_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "WATCH_S", 1.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: psutil.cpu_count())
    others = threads.OtherPrograms()
    assert others.note() == ""
    busy = [sys.executable, "-c", "import time; end = time.time() + 3\nwhile time.time() < end: 1"]
    programs = [subprocess.Popen(busy) for _ in range(psutil.cpu_count() or 1)]
    time.sleep(2)
    assert "Other programs use" in others.note()
    assert others.note() == ""  # it is said once
    for program in programs:
        program.wait()


def test_a_training_computes_with_its_threads(tissue: Sample, tmp_path: Path) -> None:
    from sparsem.segment.train import train

    sample = copy_of(tissue, tmp_path / "s.zarr")
    seen = []
    update_weights = torch.optim.Adam.step

    def step(*arguments: object, **named: object) -> object:
        seen.append(torch.get_num_threads())
        return update_weights(*arguments, **named)  # type: ignore[arg-type]

    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        train(sample, tmp_path / "m.safetensors", QUICK, threads=2, updates=2)
        train(sample, tmp_path / "m.safetensors", QUICK, threads=1, updates=2)  # already done
    assert seen == [2, 2]
    assert torch.get_num_threads() == before
