"""Trainings at small and odd widths, over all architectures: how many of them crash.

Each training runs in a process of its own, so that a crash ends that training alone. oneDNN's backward pass of strided 1x1 convolutions
writes beyond its memory below 16 channels (AVX-512 without AMX, channels_last, two threads or more); this shows whether any network does
such a thing.

    python benchmarks/small_widths.py --trainings 200

Exit code 1 if any training crashed.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter

os.environ.setdefault(
    "OMP_WAIT_POLICY", "passive"
)  # threads that wait do not keep a core from others

import numpy as np
import torch

from sparsem.models.architectures import ARCHITECTURES, architecture_class
from sparsem.models.checkpoint import Recipe
from sparsem.segment.supervised import start_network, train_step
from sparsem.training.settings import TrainSettings

TIMEOUT_S = 300
THREADS = 2  # one thread does not crash
WIDTHS = 8  # of each architecture: its smallest ones


def train_once(
    name: str,
    width: int,
    edge: int,
    channels: int,
    batch: int,
    precision: str,
    seed: int,
    updates: int,
) -> None:
    """Train a network on random tiles for a few updates."""
    torch.set_num_threads(THREADS)
    random_numbers = np.random.default_rng(seed)
    device = torch.device("cpu")
    recipe = Recipe(name, width, ("a", "b"), edge, (8.0, 8.0), 0.0, 1.0, (channels - 1) // 2)
    settings = TrainSettings.model_validate(
        {"architecture": name, "width": width, "precision": precision, "batch": batch}
    )
    state = start_network(recipe, settings, device)
    for _ in range(updates):
        images = random_numbers.normal(size=(batch, channels, edge, edge)).astype(np.float32)
        targets = random_numbers.integers(0, 2, (batch, 2, edge, edge)).astype(np.uint8)
        loss, _ = train_step(state, (images, targets), settings, device)
        assert np.isfinite(loss)


def widths_of(name: str, count: int) -> list[int]:
    """Return the smallest widths that a network takes; of one that takes multiples of 8 or more, two at most."""
    multiple = architecture_class(name).width_multiple
    return [multiple * n for n in range(1, 1 + (count if multiple < 8 else min(count, 2)))]


def main(trainings: int, seed: int, updates: int, edges: list[int], widths: int) -> int:
    """Run the trainings, print how they ended by architecture, and return how many crashed."""
    draw, names = random.Random(seed), list(ARCHITECTURES)
    context = multiprocessing.get_context(
        "fork"
    )  # of a process that has computed nothing: it has no threads yet
    ends: Counter[tuple[str, str]] = Counter()
    for number in range(trainings):
        name = names[number % len(names)]
        width, edge = draw.choice(widths_of(name, widths)), draw.choice(edges)
        channels = 1 if name == "transunet" else draw.choice((1, 3, 5))
        precision = draw.choice(("float32", "bfloat16"))
        arguments = (name, width, edge, channels, draw.randint(2, 5), precision, number, updates)
        process = context.Process(target=train_once, args=arguments)
        started = time.monotonic()
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
            end = "endless"
        else:
            end = "finished" if process.exitcode == 0 else f"exit code {process.exitcode}"
        ends[name, end] += 1
        if end != "finished":
            print(f"{end}: {arguments}", flush=True)
        print(
            f"{number + 1} of {trainings}: {name} {width}, {time.monotonic() - started:.1f} s",
            flush=True,
        )
    for (name, end), count in sorted(ends.items()):
        print(f"{name:>18} {end:>14} {count}")
    return sum(count for (_, end), count in ends.items() if end != "finished")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trainings", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--edges", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument(
        "--widths",
        type=int,
        default=WIDTHS,
        help="how many of the smallest widths of each architecture",
    )
    options = parser.parse_args()
    crashed = main(options.trainings, options.seed, options.updates, options.edges, options.widths)
    sys.exit(1 if crashed else 0)
