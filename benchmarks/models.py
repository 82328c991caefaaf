"""Which network? All of them in the same time, and the memory that each takes to learn.

    python benchmarks/models.py zoo --minutes 4      # EPFL, 7 labeled slices; SPARSEM_DATA names the folder of the stacks
    python benchmarks/models.py zoo --models unet resunet --stack vnc --labeled 3 --seeds 0 1 2 --minutes 2.5
    python benchmarks/models.py memory               # tiles of 512 px, five of them: what is said, and the peak

One row a network is appended to benchmarks/results/models_zoo.csv or models_memory.csv.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch

from rows import keep, peak_gb
from sparsem.experiment.models import ModelsSettings, compare_models
from sparsem.models.architectures import (
    ARCHITECTURES,
    build_network,
    count_parameters,
    default_width,
)
from sparsem.models.checkpoint import Recipe
from sparsem.models.device import choose_device
from sparsem.models.memory import training_bytes
from sparsem.score.overlap import average_dice
from sparsem.segment.supervised import start_network, train_step
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, labeled_sample, truth_of

UPDATES = 2  # the second one finds the moments of the optimizer in place


def zoo(models: list[str], minutes: float, labeled: int, stack: str, seeds: list[int]) -> None:
    """Every network learns for as long, from the same slices."""
    with tempfile.TemporaryDirectory() as name:
        sample, truth = labeled_sample(stack, Path(name)), truth_of(stack)
        for seed, model in product(seeds, models):
            settings = ModelsSettings(
                networks=(model,), n_slices=(labeled,), minutes=minutes, seed=seed
            )
            (found,) = compare_models(
                sample, NAME, Path(name) / "models", truth, settings, on=Execution(overwrite=True)
            ).runs
            worst = min(one.dice for one in found.overlaps)
            told = {
                "updates": found.updates,
                "train_s": f"{found.seconds:.0f}",
                "dice_3d": f"{found.dice:.4f}",
            }
            told |= {
                "dice_slices": f"{average_dice(found.overlaps):.4f}",
                "worst_slice": f"{worst:.4f}",
            }
            row = {
                "stack": stack,
                "seed": seed,
                "model": model,
                "parameters": found.parameters,
                "minutes": minutes,
                "labeled": labeled,
            }
            keep("models_zoo", row | told)


def memory(models: list[str], see: int, batch: int) -> None:
    """Every network in a process of its own."""
    for model in models:
        done = subprocess.run(
            [sys.executable, __file__, "one", model, str(see), str(batch)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            print(
                f"{model}: {done.stderr.strip().splitlines()[-1:]} ({done.returncode})", flush=True
            )
            continue
        parameters, said, taken, seconds = done.stdout.split()[-4:]
        told = {"said_gb": said, "taken_gb": taken, "update_s": seconds}
        keep(
            "models_memory",
            {"model": model, "see": see, "batch": batch, "parameters": parameters, **told},
        )


def one(model: str, see: int, batch: int) -> None:
    """What a network says, and its peak beyond the program."""
    settings = TrainSettings(architecture=model, input_px=see, context_px=see, batch=batch)
    device = choose_device(settings.device)
    recipe = Recipe(model, default_width(model), ("m",), see, (5, 5), 0, 1)
    said = training_bytes([recipe], batch, device, settings.precision)
    build_network(model, recipe.width, 1, see)  # loads its libraries
    before = peak_gb()
    state = start_network(recipe, settings, device)
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, 1, see, see), np.float32)
    targets = random.integers(0, 2, images.shape, np.uint8)
    began = time.perf_counter()
    for _ in range(UPDATES):
        train_step(state, (images, targets), settings, device)
    seconds = (time.perf_counter() - began) / UPDATES
    taken = peak_gb() - before if device.type == "cpu" else torch.cuda.max_memory_allocated() / 1e9
    print(count_parameters(state.network), f"{said / 1e9:.2f} {taken:.2f} {seconds:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    for name in ("zoo", "memory"):
        command = commands.add_parser(name)
        command.add_argument("--models", nargs="+", default=list(ARCHITECTURES))
        if name == "zoo":
            command.add_argument("--minutes", type=float, default=4)
            command.add_argument("--labeled", type=int, default=7)
            command.add_argument("--stack", choices=list(FOLDERS), default="epfl")
            command.add_argument("--seeds", type=int, nargs="+", default=[0])
        else:
            command.add_argument("--see", type=int, default=512)
            command.add_argument("--batch", type=int, default=5)
    alone = commands.add_parser("one")
    alone.add_argument("model")
    alone.add_argument("see", type=int)
    alone.add_argument("batch", type=int)
    given = vars(parser.parse_args())
    ways: dict[str, Callable[..., None]] = {"zoo": zoo, "memory": memory, "one": one}
    ways[given.pop("what")](**given)


if __name__ == "__main__":
    main()
