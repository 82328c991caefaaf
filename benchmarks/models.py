r"""Architectures: accuracy after equal training time, and the memory that each training needs.

    python benchmarks/models.py zoo --minutes 4      # EPFL, 7 labeled slices
    python benchmarks/models.py zoo --models unet resunet --stack vnc --labeled 3 \
        --seeds 0 1 2 --minutes 2.5
    python benchmarks/models.py memory               # five tiles of 512 px: stated memory, and peak

``SPARSEM_DATA`` names the folder of the stacks. One row for each network is appended to
benchmarks/results/models_zoo.csv or models_memory.csv.
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

from rows import peak_gb, save
from sparsem.experiment.models import compare_models
from sparsem.experiment.settings import ModelsSettings
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
from sparsem.segment.supervised import LabeledLoss, start_network, train_step
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, labeled_sample, truth_path

UPDATES = 2  # the optimizer allocates its moments in the first update, so that the second has them


def zoo(models: list[str], minutes: float, labeled: int, stack: str, seeds: list[int]) -> None:
    """Train every network for the same time on the same slices."""
    with tempfile.TemporaryDirectory() as name:
        sample, truth = labeled_sample(stack, Path(name)), truth_path(stack)
        for seed, model in product(seeds, models):
            settings = ModelsSettings(
                networks=(model,), n_slices=(labeled,), minutes=minutes, seed=seed
            )
            (run,) = compare_models(
                sample, NAME, Path(name) / "models", truth, settings, on=Execution(overwrite=True)
            ).runs
            worst = min(overlap.dice for overlap in run.overlaps)
            row = {
                "stack": stack,
                "seed": seed,
                "model": model,
                "parameters": run.parameters,
                "minutes": minutes,
                "labeled": labeled,
            }
            results = {
                "updates": run.updates,
                "train_s": f"{run.seconds:.0f}",
                "dice_3d": f"{run.dice:.4f}",
                "dice_slices": f"{average_dice(run.overlaps):.4f}",
                "worst_slice": f"{worst:.4f}",
            }
            save("models_zoo", row | results)


def memory(models: list[str], input_px: int, batch: int) -> None:
    """Train every network in a process of its own, and measure the peak memory."""
    for model in models:
        process = subprocess.run(
            [sys.executable, __file__, "one", model, str(input_px), str(batch)],
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            last_line = process.stderr.strip().splitlines()[-1:]
            print(f"{model}: {last_line} ({process.returncode})", flush=True)
            continue
        parameters, stated, taken, seconds = process.stdout.split()[-4:]
        row = {"model": model, "input_px": input_px, "batch": batch, "parameters": parameters}
        save("models_memory", row | {"stated_gb": stated, "taken_gb": taken, "update_s": seconds})


def measure_network(model: str, input_px: int, batch: int) -> None:
    """Print the stated memory of a network, and its peak beyond that of the program."""
    settings = TrainSettings(
        architecture=model, input_px=input_px, context_px=input_px, batch=batch
    )
    device = choose_device(settings.device)
    recipe = Recipe(model, default_width(model), ("m",), input_px, (5, 5), 0, 1)
    stated = training_bytes([recipe], batch, device, settings.precision)
    build_network(model, recipe.width, 1, input_px)  # loads its libraries
    before = peak_gb()
    state = start_network(recipe, settings, device)
    compute_loss = LabeledLoss(state.network, settings, device)
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, 1, input_px, input_px), np.float32)
    targets = random.integers(0, 2, images.shape, np.uint8)
    start = time.perf_counter()
    for _ in range(UPDATES):
        train_step(state, compute_loss, (images, targets), settings)
    seconds = (time.perf_counter() - start) / UPDATES
    taken = peak_gb() - before if device.type == "cpu" else torch.cuda.max_memory_allocated() / 1e9
    print(count_parameters(state.network), f"{stated / 1e9:.2f} {taken:.2f} {seconds:.1f}")


def main() -> None:
    """Run the benchmark that the command line names."""
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
            command.add_argument("--see", type=int, default=512, dest="input_px")
            command.add_argument("--batch", type=int, default=5)
    single = commands.add_parser("one")
    single.add_argument("model")
    single.add_argument("input_px", type=int)
    single.add_argument("batch", type=int)
    arguments = vars(parser.parse_args())
    benchmarks: dict[str, Callable[..., None]] = {
        "zoo": zoo,
        "memory": memory,
        "one": measure_network,
    }
    benchmarks[arguments.pop("what")](**arguments)


if __name__ == "__main__":
    main()
