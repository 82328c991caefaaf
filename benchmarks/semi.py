"""Unlabeled slices: supervised and semi-supervised training at equal updates and architecture.

    python benchmarks/semi.py epfl --labeled 3 7 --seeds 0 1 2
    python benchmarks/semi.py vnc --labeled 3 --seeds 0 1 2
    python benchmarks/semi.py curves --out curves.png       # Dice along z, from the results

The structure is mitochondria; ``SPARSEM_DATA`` names the folder of the stacks. One row for each
training, with its time in seconds, is appended to benchmarks/results/semi.csv; the Dice of every
slice is appended to semi_curves.csv.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from matplotlib.figure import Figure

from rows import RESULTS, save
from sparsem.geometry import evenly_spaced
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, labeled_sample, truth_path

METHODS: dict[str, dict[str, object]] = {
    "supervised": {},
    "cps": {"semi": "cps"},
    "cps without cutmix": {"semi": "cps", "cutmix": False},
    "mean-teacher": {"semi": "mean-teacher"},
}
REPLACE = Execution(overwrite=True, quiet=True)


def train_and_score(
    sample: Sample, truth: Path, model: Path, settings: TrainSettings
) -> tuple[float, list[float], float]:
    """Train and predict.

    Returns:
        3D Dice on the unseen slices, Dice of every slice, and seconds of the training.
    """
    start = time.perf_counter()
    train_network([sample], model, settings, on=REPLACE)
    seconds = time.perf_counter() - start
    predict(sample, model, on=REPLACE)
    true = tifffile.imread(truth) > 0
    predicted = sample.computed(NAME).read(slice(None)) > 0
    overlaps = [mask_overlap(predicted[z], true[z]) for z in range(len(true))]
    unseen_overlaps = [overlap for z, overlap in enumerate(overlaps) if z not in settings.slices]
    dice_of_slices = [overlap.dice for overlap in overlaps]
    return pool_slices(unseen_overlaps).dice, dice_of_slices, seconds


def plot_curves(path: Path) -> None:
    """Plot the Dice of every slice, as the mean and the range over seeds.

    There is a panel for each stack and number of labeled slices.
    """
    with (RESULTS / "semi_curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    panels = list(dict.fromkeys((row["stack"], int(row["labeled"])) for row in rows))
    figure = Figure(figsize=(9, 2.6 * len(panels)), layout="constrained")
    for axis, (stack, labeled) in zip(
        figure.subplots(len(panels), squeeze=False).ravel(), panels, strict=True
    ):
        panel_rows = [
            row for row in rows if (row["stack"], int(row["labeled"])) == (stack, labeled)
        ]
        for color, method in zip(
            ("#888888", "#0072B2", "#D55E00"),
            dict.fromkeys(row["method"] for row in panel_rows),
            strict=False,
        ):
            dice = np.array(
                [
                    [float(value) for value in row["dice_by_slice"].split()]
                    for row in panel_rows
                    if row["method"] == method
                ]
            )
            axis.plot(dice.mean(0), color=color, label=method, linewidth=1.4)
            axis.fill_between(
                range(dice.shape[1]),
                dice.min(0),
                dice.max(0),
                color=color,
                alpha=0.15,
                linewidth=0,
            )
        for z in evenly_spaced(dice.shape[1], labeled):
            axis.axvline(z, color="black", linewidth=0.8, linestyle=":")
        axis.set(
            xlabel="slice (dotted: labeled)",
            ylabel="Dice",
            title=f"{stack}, {labeled} labeled slices, {len(dice)} seeds",
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the trainings, or plot the curves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=[*FOLDERS, "curves"])
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    parser.add_argument("--labeled", type=int, nargs="+", default=[3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument(
        "--ways",
        dest="methods",
        nargs="+",
        default=["supervised", "cps", "mean-teacher"],
        choices=list(METHODS),
        help="methods of training",
    )
    arguments = parser.parse_args()
    if arguments.stack == "curves":
        plot_curves(arguments.out)
        return
    with tempfile.TemporaryDirectory() as name:
        sample, truth = labeled_sample(arguments.stack, Path(name)), truth_path(arguments.stack)
        for seed in arguments.seeds:
            for labeled in arguments.labeled:
                slices = tuple(evenly_spaced(sample.image().shape[0], labeled))
                for method in arguments.methods:
                    settings = TrainSettings.model_validate(
                        {
                            "structures": (NAME,),
                            "slices": slices,
                            "seed": seed,
                            "updates": arguments.updates,
                            "width": arguments.width,
                            **METHODS[method],
                        }
                    )
                    dice, curve, seconds = train_and_score(
                        sample, truth, Path(name) / "m.safetensors", settings
                    )
                    row = {
                        "stack": arguments.stack,
                        "labeled": labeled,
                        "seed": seed,
                        "updates": arguments.updates,
                        "width": arguments.width,
                        "method": method,
                    }
                    unseen_dice = [value for z, value in enumerate(curve) if z not in slices]
                    scores = {
                        "dice_3d": f"{dice:.4f}",
                        "worst_slice": f"{np.nanmin(unseen_dice):.4f}",
                        "train_s": f"{seconds:.0f}",
                    }
                    save("semi", row | scores)
                    save(
                        "semi_curves",
                        row | {"dice_by_slice": " ".join(f"{value:.3f}" for value in curve)},
                    )


if __name__ == "__main__":
    main()
