"""A simulated annotator, who labels the slices that a method names: the Dice as labels grow.

    python benchmarks/annotator.py rounds --stacks vnc epfl --seeds 0 1 2 --updates 300
    python benchmarks/annotator.py start --stacks epfl --seeds 0 1 2 --updates 2000
    python benchmarks/annotator.py cells --seeds 0 --updates 1000
    python benchmarks/annotator.py curves --out curves.png       # Dice, from the results

The annotator labels a slice by copying the ground truth.

``rounds`` (mitochondria) starts with the middle slice. Every round trains ``--updates`` more,
predicts, and adds slices up to the next number of ``--labeled``:

- suggest, continued: slices of highest entropy; training starts from the weights of the last round.
- suggest, continued at the full rate: the same, but the learning rate is that of a training from
  random weights, not the lower default.
- suggest, from scratch: the same choice, but every round trains a new network with the sum of the
  updates of all rounds so far.
- even, from scratch: k evenly spaced slices instead, so that every round may have other slices.

``start`` compares 7 evenly spaced slices with 3 evenly spaced slices and 4 suggested ones, with the
same number of updates in total. Half of the updates come before the suggestion if training is
continued after it.

``cells`` (FIB-25, neurites) trains one network on the first and the last slice. Slices are then
added to the annotation, the cells are separated and tracked again, and the network stays the same.
Slices are those with the most places in ``tables/review_cells``, those whose places have the
largest area, the middle of the widest gap, those of highest entropy, or evenly spaced ones.

The Dice is that of the slices that the strategy has not labeled at that moment: no slice is fixed
in advance that no strategy ever labels. For mitochondria it is the pooled 3D Dice, for cells the
mean Dice of the cells of at least 5,000 voxels. ``SPARSEM_DATA`` names the folder of the stacks.
Rows are appended to benchmarks/results/annotator.csv.
"""

import argparse
import csv
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rows import RESULTS, save
from sparsem.annotation.writing import write_annotation
from sparsem.cells.cells import cells
from sparsem.cells.track import track
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.models.architectures import default_learning_rate
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.slice_selection import spread_slices
from sparsem.segment.suggest import suggest
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import NAME, ROOT, VOXELS, raw_path, truth_path

TABLE = "annotator"
CELLS = "cells"
NEURITES = ROOT / "fib25_fibsem_neurites"
MIN_VOXELS = 5000
REPLACE = Execution(overwrite=True, quiet=True)

Truth = NDArray[np.uint32]
Choose = Callable[[Sample, Sequence[int]], int]  # names the next slice to label


@dataclass(frozen=True)
class Stack:
    """A stack whose labels grow.

    Attributes:
        name: name of the stack.
        sample: its sample.
        structure: structure that is labeled.
        truth: ground truth (z, y, x).
        folder: folder for models.
        seed: seed of all trainings.
        width: width of the networks; None for the default.
    """

    name: str
    sample: Sample
    structure: str
    truth: Truth
    folder: Path
    seed: int
    width: int | None

    def label(self, slices: Sequence[int]) -> None:
        """Copy the ground truth of these slices into the annotation, which has no others."""
        z = sorted(slices)
        labels = [self.truth[number] for number in z]
        write_annotation(self.sample, self.structure, z, labels, overwrite=True)

    def train(
        self,
        name: str,
        updates: int,
        earlier: Path | None = None,
        learning_rate: float | None = None,
    ) -> tuple[Path, float]:
        """Train on the labeled slices, and predict; return the model and the seconds."""
        model = self.folder / f"{name}.safetensors"
        settings = TrainSettings(
            structures=(self.structure,),
            seed=self.seed,
            updates=updates,
            width=self.width,
            learning_rate=learning_rate,
            from_model=str(earlier) if earlier else None,
        )
        start = time.perf_counter()
        train_network([self.sample], model, settings, on=REPLACE)
        seconds = time.perf_counter() - start
        predict(self.sample, model, on=REPLACE)
        return model, seconds

    def suggest(self, slices: Sequence[int], count: int) -> list[int]:
        """Return the slices, and the suggested ones, until there are ``count``."""
        missing = count - len(slices)
        if not missing:
            return list(slices)
        suggestion = suggest(self.sample, self.structure, n=missing, on=REPLACE)
        return [*slices, *suggestion.z]

    def dice(self, slices: Sequence[int]) -> float:
        """Return the pooled 3D Dice of all slices but these."""
        predicted = self.sample.computed(self.structure).read(slice(None)) > 0
        others = [z for z in range(len(self.truth)) if z not in set(slices)]
        return pool_slices([mask_overlap(predicted[z], self.truth[z] > 0) for z in others]).dice

    def save(self, strategy: str, slices: Sequence[int], numbers: Mapping[str, Any]) -> None:
        """Append a row to the table."""
        row = {
            "stack": self.name,
            "strategy": strategy,
            "seed": self.seed,
            "width": self.width or "default",
            "labeled": len(slices),
            "slices": " ".join(map(str, slices)),
        }
        save(TABLE, row | dict(numbers))


@dataclass(frozen=True)
class Strategy:
    """How slices are selected, and how training begins in each round.

    Attributes:
        suggested: slices are suggested, not evenly spaced.
        continued: training starts from the weights of the last round.
        full_rate: the learning rate is that of a training from random weights.
    """

    suggested: bool
    continued: bool
    full_rate: bool = False


STRATEGIES = {
    "suggest, continued": Strategy(suggested=True, continued=True),
    "suggest, continued at the full rate": Strategy(True, True, full_rate=True),
    "even, from scratch": Strategy(suggested=False, continued=False),
    "suggest, from scratch": Strategy(suggested=True, continued=False),
}


COLORS = {
    "suggest, continued": "#0072B2",
    "suggest, continued at the full rate": "#56B4E9",
    "suggest, from scratch": "#009E73",
    "even, from scratch": "#888888",
    "review, most places": "#0072B2",
    "review, largest area": "#56B4E9",
    "widest gap": "#009E73",
    "suggest": "#D55E00",
    "even": "#888888",
}
TITLES = {"epfl": "EPFL, mitochondria", "vnc": "VNC, mitochondria", "FIB-25": "FIB-25, neurites"}


def mitochondria(name: str, folder: Path, seed: int, width: int | None) -> Stack:
    """Import a stack without labels."""
    settings = ImportSettings(voxel_nm=VOXELS[name])
    sample = import_stack(raw_path(name), folder / "s.zarr", settings)
    truth = (tifffile.imread(truth_path(name)) > 0).astype(np.uint32)
    return Stack(name, sample, NAME, truth, folder, seed, width)


def numbers_of(updates: int, dice: float, seconds: float) -> dict[str, Any]:
    """Return the measured columns of a row."""
    return {"updates": updates, "dice": f"{dice:.4f}", "seconds": round(seconds)}


def compare_rounds(stack: Stack, updates: int, labeled: Sequence[int]) -> None:
    """Run all strategies; the first round is the same for all, and is trained once."""
    slices = evenly_spaced(len(stack.truth), labeled[0])
    stack.label(slices)
    first, seconds = stack.train("first", updates)
    numbers = numbers_of(updates, stack.dice(slices), seconds)
    for strategy in STRATEGIES:
        stack.save(strategy, slices, numbers)
    for strategy in STRATEGIES:
        # The probabilities of the last strategy are replaced.
        predict(stack.sample, first, on=REPLACE)
        stack.label(slices)
        grow(stack, strategy, slices, first, updates, labeled[1:])


def grow(
    stack: Stack,
    name: str,
    slices: list[int],
    model: Path,
    updates: int,
    labeled: Sequence[int],
) -> None:
    """Add slices and train, round after round."""
    strategy = STRATEGIES[name]
    for number, count in enumerate(labeled, 2):
        if strategy.suggested:
            slices = stack.suggest(slices, count)
        else:
            slices = evenly_spaced(len(stack.truth), count)
        stack.label(slices)
        total = number * updates
        if strategy.continued:
            rate = default_learning_rate("resunet") if strategy.full_rate else None
            model, seconds = stack.train(f"round-{number}", updates, model, rate)
        else:
            model, seconds = stack.train(f"round-{number}", total)
        stack.save(name, slices, numbers_of(total, stack.dice(slices), seconds))


def compare_start(stack: Stack, updates: int) -> None:
    """Compare 3 slices and 4 suggested ones with 7 evenly spaced slices, at equal updates."""
    n_slices, half = len(stack.truth), updates // 2
    even = evenly_spaced(n_slices, 7)
    stack.label(even)
    _, seconds = stack.train("even", updates)
    stack.save("7 even", even, numbers_of(updates, stack.dice(even), seconds))
    three = evenly_spaced(n_slices, 3)
    stack.label(three)
    model, first_seconds = stack.train("three", half)
    stack.save("3 even", three, numbers_of(half, stack.dice(three), first_seconds))
    slices = stack.suggest(three, 7)
    stack.label(slices)
    _, seconds = stack.train("continued", updates - half, model)
    numbers = numbers_of(updates, stack.dice(slices), first_seconds + seconds)
    stack.save("3 + 4 suggested, continued", slices, numbers)
    _, seconds = stack.train("suggested", updates)
    numbers = numbers_of(updates, stack.dice(slices), seconds)
    stack.save("3 + 4 suggested, from scratch", slices, numbers)


def neurites(folder: Path, seed: int, width: int | None) -> Stack:
    """Import FIB-25 without labels."""
    settings = ImportSettings(voxel_nm=(10, 10, 10))
    sample = import_stack(NEURITES / "raw.tif", folder / "s.zarr", settings)
    truth = tifffile.imread(NEURITES / "labels_cells.tif").astype(np.uint32)
    return Stack("FIB-25", sample, CELLS, truth, folder, seed, width)


def train_cells(stack: Stack, updates: int) -> None:
    """Train a network for the labeled cells, and predict."""
    model = stack.folder / "cells.safetensors"
    settings = TrainSettings(
        cells=CELLS,
        adjacent_slices=2,
        context_px=128,
        input_px=128,
        updates=updates,
        seed=stack.seed,
        width=stack.width,
    )
    train_network([stack.sample], model, settings, on=REPLACE)
    predict(stack.sample, model, on=REPLACE)


def review_places(sample: Sample, slices: Sequence[int]) -> list[dict[str, Any]]:
    """Return the places to review that lie in none of these slices."""
    places = sample.read_table(f"review_{CELLS}").to_pylist()
    return [review_place for review_place in places if review_place["z"] not in set(slices)]


def most_places(sample: Sample, slices: Sequence[int]) -> int:
    """Return the slice with the most places to review; of several, the largest area."""
    places = review_places(sample, slices)
    counts = Counter(review_place["z"] for review_place in places)
    areas = area_by_slice(places)
    return int(max(sorted(counts), key=lambda z: (counts[z], areas[z])))


def largest_area(sample: Sample, slices: Sequence[int]) -> int:
    """Return the slice whose places to review have the largest area together."""
    areas = area_by_slice(review_places(sample, slices))
    return max(sorted(areas), key=lambda z: areas[z])


def area_by_slice(places: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the area of the places to review of every slice."""
    areas: dict[int, float] = defaultdict(float)
    for review_place in places:
        areas[review_place["z"]] += review_place["area_um2"]
    return areas


def widest_gap(sample: Sample, slices: Sequence[int]) -> int:
    """Return the middle of the widest gap between labeled slices."""
    return spread_slices(sample.image().shape[0], slices, 1)[0]


def highest_entropy(sample: Sample, _slices: Sequence[int]) -> int:
    """Return the slice that ``suggest`` names."""
    return suggest(sample, CELLS, n=1, on=REPLACE).z[0]


CHOICES: dict[str, Choose] = {
    "review, most places": most_places,
    "review, largest area": largest_area,
    "widest gap": widest_gap,
    "suggest": highest_entropy,
}


def compare_cells(stack: Stack, updates: int, labeled: Sequence[int]) -> None:
    """Add slices one by one by every choice, and evenly spaced ones."""
    first = evenly_spaced(len(stack.truth), 2)
    stack.label(first)
    train_cells(stack, updates)
    save_cells(stack, "all", first, updates)
    for count in labeled:
        save_cells(stack, "even", evenly_spaced(len(stack.truth), count), updates)
    for name, choose in CHOICES.items():
        slices = list(first)
        separate(stack, slices)
        while len(slices) < max(labeled):
            slices.append(choose(stack.sample, slices))
            save_cells(stack, name, slices, updates)


def separate(stack: Stack, slices: Sequence[int]) -> float:
    """Separate and track the cells from these labeled slices; return the seconds."""
    stack.label(slices)
    start = time.perf_counter()
    cells(stack.sample, on=REPLACE)
    track(stack.sample, on=REPLACE)
    return time.perf_counter() - start


def save_cells(stack: Stack, strategy: str, slices: Sequence[int], updates: int) -> None:
    """Separate the cells from these labeled slices, score them, and save a row."""
    seconds = separate(stack, slices)
    scoring = ScoreSettings(instances=True, min_voxels=MIN_VOXELS)
    scores = score(stack.sample, CELLS, NEURITES / "labels_cells.tif", scoring, on=REPLACE)
    dice = scores.of_cells("unseen")["dice_cells"] or 0.0
    stack.save(strategy, slices, numbers_of(updates, dice, seconds))


def plot_curves(path: Path) -> None:
    """Plot the Dice against the number of labeled slices, mean and range over seeds.

    There is a panel for each stack.
    """
    with (RESULTS / f"{TABLE}.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["strategy"] in COLORS]
    stacks = list(dict.fromkeys(row["stack"] for row in rows))
    figure = Figure(figsize=(4.4 * len(stacks), 3.6), layout="constrained")
    panels = figure.subplots(1, len(stacks), squeeze=False).ravel()
    for axis, stack in zip(panels, stacks, strict=True):
        of_stack = [row for row in rows if row["stack"] == stack]
        for strategy in dict.fromkeys(row["strategy"] for row in of_stack):
            dice_by_count: dict[int, list[float]] = defaultdict(list)
            for row in of_stack:
                if row["strategy"] == strategy:
                    dice_by_count[int(row["labeled"])].append(float(row["dice"]))
            counts = sorted(dice_by_count)
            means = [np.mean(dice_by_count[count]) for count in counts]
            lowest = [min(dice_by_count[count]) for count in counts]
            highest = [max(dice_by_count[count]) for count in counts]
            color = COLORS[strategy]
            axis.plot(counts, means, color=color, marker="o", markersize=3, label=strategy)
            axis.fill_between(counts, lowest, highest, color=color, alpha=0.12, linewidth=0)
        n_seeds = len({row["seed"] for row in of_stack})
        title = f"{TITLES.get(stack, stack)}, {n_seeds} seed{'s' if n_seeds > 1 else ''}"
        axis.set(xlabel="labeled slices", ylabel="Dice of the unlabeled slices", title=title)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)


def run(arguments: argparse.Namespace, stack_name: str, seed: int) -> None:
    """Run a benchmark on one stack with one seed."""
    with tempfile.TemporaryDirectory() as name:
        folder, width = Path(name), arguments.width
        if arguments.what == "cells":
            counts = [count for count in arguments.labeled if count > 2]
            compare_cells(neurites(folder, seed, width), arguments.updates, counts)
            return
        stack = mitochondria(stack_name, folder, seed, width)
        if arguments.what == "rounds":
            compare_rounds(stack, arguments.updates, arguments.labeled)
        else:
            compare_start(stack, arguments.updates)


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["rounds", "start", "cells", "curves"])
    parser.add_argument("--stacks", nargs="+", choices=["epfl", "vnc"], default=["epfl", "vnc"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--labeled", type=int, nargs="+", default=list(range(1, 9)))
    parser.add_argument("--width", type=int, help="width of the networks")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    arguments = parser.parse_args()
    if arguments.what == "curves":
        plot_curves(arguments.out)
        return
    stacks = ["FIB-25"] if arguments.what == "cells" else arguments.stacks
    for seed in arguments.seeds:
        for stack_name in stacks:
            run(arguments, stack_name, seed)


if __name__ == "__main__":
    main()
