"""Number of crashes of trainings at small and odd widths, for all architectures.

Each training runs in a process of its own, so that a crash ends only that training. The backward
pass of strided 1x1 convolutions in oneDNN writes beyond its memory with fewer than 16 channels
(AVX-512 without AMX, channels_last, two threads or more). This script shows whether that affects a
network.

    python benchmarks/small_widths.py --trainings 200

The exit code is 1 if a training crashed.
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads do not occupy a core

import numpy as np
import torch

from sparsem.models.architectures import ARCHITECTURES, architecture_class
from sparsem.models.checkpoint import Recipe
from sparsem.segment.supervised import LabeledLoss, start_network, train_step
from sparsem.training.settings import TrainSettings

TIMEOUT_S = 300
THREADS = 2  # one thread does not crash
WIDTHS = 8  # number of the smallest widths of each architecture


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
    compute_loss = LabeledLoss(state.network, settings, device)
    for _ in range(updates):
        images = random_numbers.normal(size=(batch, channels, edge, edge)).astype(np.float32)
        targets = random_numbers.integers(0, 2, (batch, 2, edge, edge)).astype(np.uint8)
        loss, _ = train_step(state, compute_loss, (images, targets), settings)
        assert np.isfinite(loss)


def widths_of(name: str, count: int) -> list[int]:
    """Return the smallest valid widths of a network.

    A network whose widths are multiples of 8 or more gets at most two.
    """
    multiple = architecture_class(name).width_multiple
    return [multiple * n for n in range(1, 1 + (count if multiple < 8 else min(count, 2)))]


def main(trainings: int, seed: int, updates: int, edges: list[int], widths: int) -> int:
    """Run the trainings, print their ends by architecture, and return the number of crashes."""
    generator, names = random.Random(seed), list(ARCHITECTURES)
    # This process can be forked: it has computed nothing and has no threads.
    context = multiprocessing.get_context("fork")
    ends: Counter[tuple[str, str]] = Counter()
    for number in range(trainings):
        name = names[number % len(names)]
        width, edge = generator.choice(widths_of(name, widths)), generator.choice(edges)
        channels = 1 if name == "transunet" else generator.choice((1, 3, 5))
        precision = generator.choice(("float32", "bfloat16"))
        batch = generator.randint(2, 5)
        arguments = (name, width, edge, channels, batch, precision, number, updates)
        process = context.Process(target=train_once, args=arguments)
        start = time.monotonic()
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
            end = "timeout"
        else:
            end = "finished" if process.exitcode == 0 else f"exit code {process.exitcode}"
        ends[name, end] += 1
        if end != "finished":
            print(f"{end}: {arguments}", flush=True)
        print(
            f"{number + 1} of {trainings}: {name} {width}, {time.monotonic() - start:.1f} s",
            flush=True,
        )
    for (name, end), count in sorted(ends.items()):
        print(f"{name:>18} {end:>14} {count}")
    return sum(count for (_, end), count in ends.items() if end != "finished")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainings", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--edges", type=int, nargs="+", default=[64, 96, 128])
    parser.add_argument(
        "--widths",
        type=int,
        default=WIDTHS,
        help="number of the smallest widths of each architecture",
    )
    options = parser.parse_args()
    crashed = main(options.trainings, options.seed, options.updates, options.edges, options.widths)
    sys.exit(1 if crashed else 0)
