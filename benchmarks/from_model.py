"""Training from an earlier model: Dice at equal numbers of updates, and the learning rate.

    python benchmarks/from_model.py rates --target vnc --labeled 1 3 --seeds 0 1 --updates 300
    python benchmarks/from_model.py compare --target vnc --labeled 1 2 3 --seeds 0 1 2 \
        --updates 100 300 1000 --factors 1.0

The structure is mitochondria. The earlier model is trained on the other stack: on 7 labeled slices
of ``epfl``, or on 5 of ``vnc``. ``compare`` trains on a few evenly spaced slices of the target,
from random weights and from the earlier model. ``rates`` trains from the earlier model with several
maximum learning rates. The networks are the same, so equal updates take equal time.

The Dice is the pooled 3D Dice of the unlabeled slices, without what a person labeled. The seconds
are those of the training. ``SPARSEM_DATA`` names the folder of the stacks. One row for each
training is appended to benchmarks/results/from_model.csv; rows that the file already has are not
measured again.
"""

import argparse
import csv
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from rows import RESULTS, save
from sparsem.geometry import evenly_spaced
from sparsem.models.architectures import default_learning_rate
from sparsem.models.transfer import RATE_FACTOR
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import NAME, labeled_sample, truth_path

TABLE = "from_model"
SCRATCH = "none"  # source of a training from random weights
OTHER = {"vnc": "epfl", "epfl": "vnc"}
LABELED_IN_SOURCE = {"epfl": 7, "vnc": 5}
FACTORS = {"rates": (1.0, 0.3, 0.1), "compare": (RATE_FACTOR,)}
REPLACE = Execution(overwrite=True, quiet=True)
QUIET = Execution(quiet=True)

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Training:
    """One training of the comparison: the columns that identify a row."""

    target: str
    source: str
    labeled: int
    seed: int
    updates: int
    learning_rate: float


@dataclass(frozen=True)
class Target:
    """The stack to train on, and the earlier model of the other stack.

    Attributes:
        sample: the stack, with labels on every slice.
        truth: ground truth (z, y, x).
        earlier: the earlier model.
        folder: folder for new models.
    """

    sample: Sample
    truth: Mask
    earlier: Path
    folder: Path


def read_truth(stack: str) -> Mask:
    """Return the ground truth of a stack, (z, y, x)."""
    truth: Mask = tifffile.imread(truth_path(stack)) > 0
    return truth


def unlabeled_dice(sample: Sample, truth: Mask, labeled: tuple[int, ...]) -> float:
    """Return the pooled 3D Dice of the predicted labels on the slices that are not labeled."""
    predicted = sample.computed(NAME).read(slice(None)) > 0
    unlabeled = [z for z in range(len(truth)) if z not in labeled]
    return pool_slices([mask_overlap(predicted[z], truth[z]) for z in unlabeled]).dice


def train_earlier(stack: str, folder: Path, updates: int, seed: int) -> Path:
    """Train a model on a stack with default settings, unless the folder holds it already."""
    labeled = LABELED_IN_SOURCE[stack]
    path = folder / f"{stack}-{labeled}-{updates}-{seed}.safetensors"
    with tempfile.TemporaryDirectory() as name:
        sample = labeled_sample(stack, Path(name))
        slices = tuple(evenly_spaced(sample.image().shape[0], labeled))
        settings = TrainSettings(structures=(NAME,), slices=slices, updates=updates, seed=seed)
        train_network([sample], path, settings, on=QUIET)
    return path


def measure(target: Target, training: Training) -> None:
    """Train, predict, and save a row, unless the table holds it already."""
    if is_measured(training):
        return
    slices = tuple(evenly_spaced(len(target.truth), training.labeled))
    settings = TrainSettings(
        structures=(NAME,),
        slices=slices,
        seed=training.seed,
        updates=training.updates,
        learning_rate=training.learning_rate,
    )
    if training.source != SCRATCH:
        settings = changed(settings, {"from_model": str(target.earlier)})
    model = target.folder / "model.safetensors"
    start = time.perf_counter()
    train_network([target.sample], model, settings, on=REPLACE)
    seconds = time.perf_counter() - start
    predict(target.sample, model, on=REPLACE)
    dice = unlabeled_dice(target.sample, target.truth, slices)
    save(TABLE, {**asdict(training), "dice": f"{dice:.4f}", "seconds": round(seconds)})


def is_measured(training: Training) -> bool:
    """Return True if the table has a row of this training."""
    path = RESULTS / f"{TABLE}.csv"
    if not path.exists():
        return False
    expected = {name: str(value) for name, value in asdict(training).items()}
    with path.open(newline="", encoding="utf-8") as file:
        return any(expected.items() <= row.items() for row in csv.DictReader(file))


def warm_up(target: Target) -> None:
    """Run the first updates of the process, which take longer and would count in a row."""
    model = target.folder / "first.safetensors"
    settings = TrainSettings(structures=(NAME,), slices=(0,), updates=2)
    train_network([target.sample], model, settings, on=REPLACE)


def learning_rate(factor: float) -> float:
    """Return a multiple of the default learning rate."""
    return round(default_learning_rate("resunet") * factor, 8)


def trainings(arguments: argparse.Namespace) -> list[Training]:
    """Return the trainings of a benchmark, in their order."""
    target, source = arguments.target, OTHER[arguments.target]
    factors = arguments.factors or FACTORS[arguments.what]
    variants = [(source, learning_rate(factor)) for factor in factors]
    if arguments.what == "compare":
        variants.insert(0, (SCRATCH, learning_rate(1)))
    choices = product(arguments.updates, arguments.seeds, arguments.labeled, variants)
    return [
        Training(target, origin, labeled, seed, updates, rate)
        for updates, seed, labeled, (origin, rate) in choices
    ]


def run(arguments: argparse.Namespace, folder: Path) -> None:
    """Train the earlier model, and measure every training."""
    models = arguments.models or folder
    source = OTHER[arguments.target]
    earlier = train_earlier(source, models, arguments.source_updates, arguments.source_seed)
    sample = labeled_sample(arguments.target, folder)
    target = Target(sample, read_truth(arguments.target), earlier, folder)
    warm_up(target)
    for training in trainings(arguments):
        measure(target, training)


def parsed_arguments() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default: dict[str, Any] = {"nargs": "+", "type": int}
    parser.add_argument("what", choices=["rates", "compare"])
    parser.add_argument("--target", choices=OTHER, default="vnc")
    parser.add_argument("--labeled", **default, default=[1, 2, 3])
    parser.add_argument("--seeds", **default, default=[0, 1, 2])
    parser.add_argument("--updates", **default, default=[100, 300, 1000])
    parser.add_argument(
        "--factors",
        nargs="+",
        type=float,
        help="learning rates of trainings from the earlier model, as multiples of the default one",
    )
    parser.add_argument("--source-updates", type=int, default=TrainSettings().updates)
    parser.add_argument("--source-seed", type=int, default=0)
    parser.add_argument("--models", type=Path, help="folder that keeps the earlier models")
    return parser.parse_args()


def main() -> None:
    """Run the benchmark that the command line names."""
    arguments = parsed_arguments()
    with tempfile.TemporaryDirectory() as name:
        run(arguments, Path(name))


if __name__ == "__main__":
    main()
