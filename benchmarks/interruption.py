"""Interruption at random moments: late ends, faulty ends, and processes left behind.

    python benchmarks/interruption.py [--stops 40] [--seed 1]

Each of three commands (import with workers, training, prediction with workers) gets SIGINT or
SIGTERM between its start and its end. The signal goes to the process or to its process group, as a
cluster and a terminal send it.
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
        command: the subcommand.
        signal: name of the signal.
        to: "process" or "group".
        after_s: seconds from the start to the signal.
        took_s: seconds from the signal to the end.
        code: exit code.
        faults: descriptions of the faults; empty without faults.
    """

    command: str
    signal: str
    to: str
    after_s: float
    took_s: float
    code: int
    faults: tuple[str, ...]


def run_and_stop(
    words: Sequence[str], folder: Path, number: signal.Signals, to_group: bool, after_s: float
) -> Stop | None:
    """Run a command and stop it; return None if it ended before the signal."""
    # SIGINT works as in a terminal, also when this script runs in the background.
    run = subprocess.Popen(
        [sys.executable, "-m", "sparsem", *words],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        run.wait(after_s)
    except subprocess.TimeoutExpired:
        pass
    else:
        return None
    start = time.monotonic()
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
    took_s = time.monotonic() - start
    if run.returncode == 0:
        return None  # it had finished its work
    time.sleep(2)
    processes = [process.pid for process in psutil.process_iter()]
    remaining = [process for process in processes if _session_of(process) == run.pid]
    lines = text.strip().splitlines()
    if run.returncode != 130:
        faults.append(f"exit code {run.returncode}")
    if not lines or not lines[-1].startswith("Stopped."):
        faults.append("prints no final message")
    if any(word in text for word in ("Traceback", "Error", "Exception", "warn")):
        faults.append("prints errors or warnings")
        Path(tempfile.gettempdir(), f"interruption-{run.pid}.txt").write_text(
            text, encoding="utf-8"
        )
    if took_s > LATE_S:
        faults.append("late")
    if remaining:
        faults.append(f"leaves {len(remaining)} processes")
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
    """Return the session of a process; -1 if it has ended, also if it is a zombie."""
    try:
        return (
            -1 if psutil.Process(process).status() == psutil.STATUS_ZOMBIE else os.getsid(process)
        )
    except (OSError, psutil.Error):
        return -1


def prepare_commands(folder: Path) -> dict[str, tuple[list[str], float]]:
    """Write the data, and return the commands with their approximate run times in seconds."""
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
        "--context-px",
        "64",
        "--input-px",
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
    """Run a command of sparsem to its end."""
    subprocess.run(
        [sys.executable, "-m", "sparsem", *words, "--quiet"],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _line(stop: Stop) -> str:
    event = f"{stop.command:8} {stop.signal} to the {stop.to:7} after {stop.after_s:4.1f} s"
    return f"{event}: ended in {stop.took_s:4.1f} s, {', '.join(stop.faults) or 'no faults'}"


def main() -> None:
    """Stop commands until enough of them were stopped, and print the faults."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stops", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    stops: list[Stop] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        commands = prepare_commands(folder)
        while len(stops) < arguments.stops:
            words, seconds = commands[generator.choice(sorted(commands))]
            number = generator.choice((signal.SIGINT, signal.SIGTERM))
            to_group = generator.random() < 0.5
            # Half of the signals arrive while the program starts: half of the faults were there.
            after_s = generator.uniform(0.2, 6 if generator.random() < 0.5 else seconds)
            if generator.random() < 0.5:
                shutil.rmtree(folder / "big.zarr", ignore_errors=True)
            stop = run_and_stop(words, folder, number, to_group, after_s)
            if stop:
                stops.append(stop)
                print(_line(stop), flush=True)
            else:
                shutil.rmtree(folder / "big.zarr", ignore_errors=True)
    slowest = max(stop.took_s for stop in stops)
    print(
        f"{len(stops)} stops, {sum(bool(stop.faults) for stop in stops)} with faults; the slowest "
        f"took {slowest:.1f} s"
    )


if __name__ == "__main__":
    main()
