"""One training in two processes that torchrun starts, on the CPU."""

import copy
import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from sparsem.errors import SettingsError
from sparsem.models.checkpoint import load_tensors, network_state
from sparsem.segment.supervised import build_sampler, labeled_loss, start_network
from sparsem.segment.training_slices import read_training_slices
from sparsem.store.sample import Sample
from sparsem.training import processes
from sparsem.training.loop import update_weights
from sparsem.training.settings import TrainSettings
from tests.conftest import copy_of

COMMON = ["--structure", "nucleus", "--width", "8", "--context-px", "64", "--input-px", "64"]
COMMON += ["--batch", "4", "--device", "cpu", "--precision", "float32"]
ONE = [sys.executable, "-m", "sparsem", "train"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TWO += ["-m", "sparsem", "train"]


def train(folder: Path, program: list[str], *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*program, "t.zarr", *COMMON, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture
def folder(tissue: Sample, tmp_path: Path) -> Path:
    copy_of(tissue, tmp_path / "t.zarr")
    return tmp_path


def losses(folder: Path, name: str) -> list[float]:
    with (folder / f"{name}.training.csv").open(encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def by_hand(sample: Sample, updates: int) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Train with the mean of the gradients of two halves of every batch, in this process.

    The running means of the batch normalization are those of the first half.
    """
    settings = TrainSettings(
        structures=("nucleus",),
        width=8,
        context_px=64,
        input_px=64,
        batch=4,
        updates=updates,
        precision="float32",
    )
    device = torch.device("cpu")
    slices, recipe, _ = read_training_slices([sample], ("nucleus",), settings)
    state = start_network(recipe, settings, device)
    sampler = build_sampler(slices, settings, settings.min_foreground_px)
    means = []
    for update in range(updates):
        images, targets = sampler.batch(update)
        state.network.train()
        other = copy.deepcopy(state.network)
        first, _ = labeled_loss(state.network, (images[::2], targets[::2]), settings, device)
        second, _ = labeled_loss(other, (images[1::2], targets[1::2]), settings, device)
        second.backward()
        gradients = [parameter.grad for parameter in other.parameters()]

        # The loss whose gradient is the mean: half of the first, and of the second a linear one.
        linear = torch.zeros(())
        for parameter, gradient in zip(state.network.parameters(), gradients, strict=True):
            assert gradient is not None
            linear = linear + (parameter * gradient).sum()
        update_weights(state, (first + linear) / 2, settings, None)
        means.append(float(first.detach() + second.detach()) / 2)
    return means, dict(network_state(state.average))


def test_two_processes_average_their_gradients(folder: Path) -> None:
    run = train(folder, TWO, "--updates", "8", "--out", "two.safetensors")
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("Wrote two.safetensors") == 1
    expected_losses, expected = by_hand(Sample.open(folder / "t.zarr"), 8)
    assert losses(folder, "two") == pytest.approx(expected_losses, abs=2e-5)
    tensors, _ = load_tensors(folder / "two.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, atol=1e-3, rtol=0)


def process_of_rank(program: "subprocess.Popen[bytes]", rank: int) -> psutil.Process:
    for process in psutil.Process(program.pid).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            return process
    raise AssertionError(f"there is no process of rank {rank}")


STOPPED = ("--updates", "14", "--checkpoint-every-s", "100000")


@pytest.fixture(scope="module")
def whole(tissue: Sample, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of a training that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    copy_of(tissue, folder / "t.zarr")
    run = train(folder, TWO, *STOPPED, "--out", "whole.safetensors")
    assert run.returncode == 0, run.stderr
    return load_tensors(folder / "whole.safetensors")[0]


@pytest.mark.parametrize("rank", [None, 1])
def test_a_stopped_training_of_two_processes_resumes(
    folder: Path, rank: int | None, whole: dict[str, torch.Tensor]
) -> None:
    """All processes are stopped, as by torchrun, or only the one that writes nothing."""
    command = [*TWO, "t.zarr", *COMMON, *STOPPED, "--out", "part.safetensors"]
    run = subprocess.Popen(command, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"})
    log = folder / "part.training.csv"
    while run.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 2):
        time.sleep(0.02)
    (run if rank is None else process_of_rank(run, rank)).send_signal(signal.SIGTERM)
    run.wait(120)
    assert (folder / "part.state.safetensors").exists()
    assert not (folder / "part.safetensors").exists()
    resumed = train(folder, TWO, *STOPPED, "--out", "part.safetensors")
    assert resumed.returncode == 0, resumed.stderr
    tensors, _ = load_tensors(folder / "part.safetensors")
    for name, tensor in whole.items():
        torch.testing.assert_close(tensors[name], tensor, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--batch", "5"], "cannot be divided among 2 processes; use --batch 6"),
        (["--semi", "cps"], "--semi trains in one process"),
        (["--folds", "2"], "--folds trains in one process"),
        (["--device", "cpu:0"], "names one device for all processes; use --device cpu"),
    ],
)
def test_what_one_process_does_is_refused(folder: Path, words: list[str], sentence: str) -> None:
    run = train(folder, TWO, *words, "--updates", "2", "--out", "m.safetensors")
    assert run.returncode != 0
    assert sentence in " ".join(run.stderr.split())


def test_one_process_is_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert processes.training_processes() == processes.Processes(0, 1, 1)
    assert processes.mean_of_all((0.25, 3.0)) == (0.25, 3.0)
    assert processes.own_part(5) == slice(0, 5, 1)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert processes.training_processes() == processes.Processes(1, 2, 2)
    assert processes.own_part(5) == slice(1, 5, 2)
    with pytest.raises(SettingsError, match="use --batch 6"):
        processes.connect(torch.device("cpu"), 5)
