"""Pretraining on the unlabeled stack: a network restores masked squares before it sees labels.

    python benchmarks/pretraining.py vnc --labeled 1 3 --seeds 0 1 2

Half of every tile, in squares of 8 px, is set to the mean gray level, and the network is trained to
restore it (masked autoencoding, He et al. 2022). Then it is trained on a few labeled slices, as by
``train --from``, with the rate of a new network. Compared with a training from random weights of
the same number of updates, and with one of the updates of both together.

The Dice is that of from_model.py. ``SPARSEM_DATA`` names the folder of the stacks. Rows are
appended to benchmarks/results/pretraining.csv.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from from_model import REPLACE, learning_rate, read_truth, unlabeled_dice
from rows import save
from sparsem.geometry import evenly_spaced
from sparsem.models.checkpoint import save_checkpoint
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.supervised import build_sampler, compute_logits, start_network
from sparsem.segment.training_slices import read_training_slices
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.loop import run_updates, update_weights
from sparsem.training.settings import TrainSettings
from stacks import FOLDERS, NAME, labeled_sample

SQUARE_PX = 8


def masked(shape: tuple[int, int, int], random: np.random.Generator) -> torch.Tensor:
    """Return which pixels of tiles (B, S, S) are hidden: half of all squares."""
    count, height, width = shape
    squares = random.random((count, height // SQUARE_PX, width // SQUARE_PX)) < 0.5
    pixels = np.kron(squares, np.ones((1, SQUARE_PX, SQUARE_PX), bool))
    return torch.from_numpy(pixels[:, None])


def pretrain(sample: Sample, updates: int, path: Path) -> None:
    """Train a network to restore masked squares of all slices, and save it as a model."""
    settings = TrainSettings(structures=(NAME,), updates=updates, foreground_fraction=0)
    slices, recipe, _ = read_training_slices([sample], (NAME,), settings)
    recipe = replace(recipe, structures=("pixels",))
    cpu = torch.device("cpu")
    state = start_network(recipe, settings, cpu)
    sampler = build_sampler(slices, settings, 0)

    def step(batch: tuple[int, np.ndarray]) -> tuple[float, ...]:
        number, tiles = batch
        images = torch.from_numpy(tiles)
        hidden = masked((len(tiles), *tiles.shape[2:]), np.random.default_rng([1, number]))
        state.network.train()
        restored = compute_logits(state.network, images.masked_fill(hidden, 0.0), settings)
        loss = ((restored - images) ** 2)[hidden].mean()
        update_weights(state, loss, settings, 1.0)
        return float(loss.detach()), 0.0

    start = time.perf_counter()
    for progress in run_updates(
        state, lambda number: (number, sampler.batch(number)[0]), step, None, settings, updates
    ):
        if progress.update % 50 == 0:
            print(f"{progress.update} updates, {progress.loss:.3f}", flush=True)
    print(f"pretrained in {time.perf_counter() - start:.0f} s", flush=True)
    save_checkpoint(path, state.average, recipe)


def main() -> None:
    """Pretrain once, and train with every number of labeled slices and every seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=FOLDERS)
    parser.add_argument("--labeled", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=300, help="of each of the two trainings")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sample, truth = labeled_sample(options.stack, folder), read_truth(options.stack)
        pretrained = folder / "pretrained.safetensors"
        pretrain(sample, options.updates, pretrained)
        for labeled in options.labeled:
            slices = tuple(evenly_spaced(len(truth), labeled))
            for seed in options.seeds:
                for way, updates in (("random", 1), ("pretrained", 1), ("random", 2)):
                    settings = TrainSettings(
                        structures=(NAME,),
                        slices=slices,
                        seed=seed,
                        updates=updates * options.updates,
                        learning_rate=learning_rate(1),
                    )
                    if way == "pretrained":
                        settings = changed(settings, {"from_model": str(pretrained)})
                    model = folder / "m.safetensors"
                    train_network([sample], model, settings, on=REPLACE)
                    predict(sample, model, on=REPLACE)
                    row = {
                        "stack": options.stack,
                        "labeled": labeled,
                        "seed": seed,
                        "weights": way,
                        "updates": settings.updates,
                    }
                    dice = unlabeled_dice(sample, truth, slices)
                    save("pretraining", row | {"dice": f"{dice:.4f}"})


if __name__ == "__main__":
    main()
