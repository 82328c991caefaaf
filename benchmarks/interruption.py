"""Stop programs at random moments, and count those that end late, badly, or leave processes behind.

    python benchmarks/interruption.py [--stops 40] [--seed 1]

Each of three commands (import with workers, training, prediction with workers) gets SIGINT or SIGTERM, to the process or to its group as
a terminal and a cluster send it, at a moment between its start and its end.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tifffile

LATE_S = 10.0


@dataclass(frozen=True)
class Stop:
    """One stopped run.

    Attributes:
        command: its verb.
        signal: what was sent.
        to: "process" or "group".
        after_s: from the start to the signal.
        took_s: from the signal to the end.
        code: exit code.
        faults: what was wrong with it; empty if nothing.
    """

    command: str
    signal: str
    to: str
    after_s: float
    took_s: float
    code: int
    faults: tuple[str, ...]


def stopped(
    words: Sequence[str], folder: Path, number: signal.Signals, to_group: bool, after_s: float
) -> Stop | None:
    """Run a command and stop it; None if it ended before."""
    run = subprocess.Popen(
        [sys.executable, "-m", "sparsem", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # as in a terminal, also when this runs in the background
    )
    try:
        run.wait(after_s)
    except subprocess.TimeoutExpired:
        pass
    else:
        return None
    begun = time.monotonic()
    if to_group:
        os.killpg(run.pid, number)
    else:
        os.kill(run.pid, number)
    faults = []
    try:
        _, text = run.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        _, text = run.communicate()
        faults.append("hangs")
    took_s = time.monotonic() - begun
    if run.returncode == 0:
        return None  # the last thing that it did was done
    time.sleep(2)
    left = [each.pid for each in psutil.process_iter() if _session_of(each.pid) == run.pid]
    lines = text.strip().splitlines()
    if run.returncode != 130:
        faults.append(f"exit code {run.returncode}")
    if not lines or not lines[-1].startswith("Stopped."):
        faults.append("says nothing of it")
    if any(word in text for word in ("Traceback", "Error", "Exception", "warn")):
        faults.append("noise")
        Path(tempfile.gettempdir(), f"interruption-{run.pid}.txt").write_text(
            text, encoding="utf-8"
        )
    if took_s > LATE_S:
        faults.append("late")
    if left:
        faults.append(f"leaves {len(left)} processes")
        os.killpg(run.pid, signal.SIGKILL)
    return Stop(
        words[0],
        number.name,
        "group" if to_group else "process",
        after_s,
        took_s,
        run.returncode,
        tuple(faults),
    )


def _session_of(process: int) -> int:
    """The session of a process; -1 if it ended, whether or not somebody asked for its exit code."""
    try:
        return (
            -1 if psutil.Process(process).status() == psutil.STATUS_ZOMBIE else os.getsid(process)
        )
    except (OSError, psutil.Error):
        return -1


def prepared(folder: Path) -> dict[str, tuple[list[str], float]]:
    """Commands that can be stopped, with about how many seconds each takes."""
    noise = np.random.default_rng(0)
    tifffile.imwrite(
        folder / "big.tif",
        noise.integers(0, 255, (64, 1500, 1500), np.uint8),
        photometric="minisblack",
    )
    voxel = ["--voxel-nm", "8", "4", "4"]
    sparsem(folder, "phantom", "tissue.zarr", "--shape", "24", "192", "192")
    sparsem(
        folder,
        "annotate",
        "import",
        "tissue.zarr",
        "nucleus",
        "tissue.zarr/truth/nucleus",
        "--slices",
        "2,12,20",
    )
    training = [
        "train",
        "tissue.zarr",
        "--structure",
        "nucleus",
        "--width",
        "8",
        "--read",
        "64",
        "--see",
        "64",
        "--out",
    ]
    sparsem(folder, *training, "model.safetensors", "--updates", "20")
    return {
        "import": (
            ["import", "big.tif", "big.zarr", *voxel, "--block-depth", "1", "--workers", "2"],
            20,
        ),
        "train": ([*training, "long.safetensors", "--updates", "2000"], 30),
        "predict": (
            [
                "predict",
                "tissue.zarr",
                "model.safetensors",
                "--overlap",
                "0.5",
                "--workers",
                "2",
                "--overwrite",
            ],
            20,
        ),
    }


def sparsem(folder: Path, *words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "sparsem", *words, "--quiet"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _line(stop: Stop) -> str:
    sent = f"{stop.command:8} {stop.signal} to the {stop.to:7} after {stop.after_s:4.1f} s"
    return f"{sent}: ended in {stop.took_s:4.1f} s, {', '.join(stop.faults) or 'good'}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stops", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    draw = random.Random(given.seed)
    stops: list[Stop] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = prepared(folder)
        while len(stops) < given.stops:
            words, seconds = commands[draw.choice(sorted(commands))]
            number, to_group = draw.choice((signal.SIGINT, signal.SIGTERM)), draw.random() < 0.5
            # Half of them while the program starts, which is where half of the faults were.
            after_s = draw.uniform(0.2, 6 if draw.random() < 0.5 else seconds)
            if draw.random() < 0.5:
                shutil.rmtree(folder / "big.zarr", ignore_errors=True)
            stop = stopped(words, folder, number, to_group, after_s)
            if stop:
                stops.append(stop)
                print(_line(stop), flush=True)
            else:
                shutil.rmtree(folder / "big.zarr", ignore_errors=True)
    slowest = max(stop.took_s for stop in stops)
    print(
        f"{len(stops)} stops, {sum(bool(stop.faults) for stop in stops)} with faults; the slowest took {slowest:.1f} s"
    )


if __name__ == "__main__":
    main()
