"""Do slices that nobody labeled help? Supervised and semi-supervised training at equal updates and equal architecture.

    python benchmarks/semi.py epfl --labeled 3 7 --seeds 0 1 2
    python benchmarks/semi.py vnc --labeled 3 --seeds 0 1 2
    python benchmarks/semi.py curves --out curves.png       # Dice along z, of what was measured

Mitochondria; ``SPARSEM_DATA`` names the folder of the stacks. One row a training is appended to benchmarks/results/semi.csv, with the
seconds that it took; the Dice of every slice to semi_curves.csv.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from matplotlib.figure import Figure

from rows import RESULTS, keep
from sparsem.geometry import evenly_spaced
from sparsem.score.overlap import mask_overlap, pool_slices
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution
from stacks import FOLDERS, NAME, labeled_sample, truth_of

WAYS: dict[str, dict[str, object]] = {
    "supervised": {},
    "cps": {"semi": "cps"},
    "cps without cutmix": {"semi": "cps", "cutmix": False},
    "mean-teacher": {"semi": "mean-teacher"},
}
REPLACE = Execution(overwrite=True, quiet=True)


def measured(
    sample: Sample, truth: Path, model: Path, settings: TrainSettings
) -> tuple[float, list[float], float]:
    """Train and predict: 3D Dice on the slices not learnt from, Dice of every slice, and seconds of the training."""
    began = time.perf_counter()
    train_network([sample], model, settings, on=REPLACE)
    seconds = time.perf_counter() - began
    predict(sample, model, on=REPLACE)
    true, found = tifffile.imread(truth) > 0, sample.volume("labels", NAME).read(slice(None)) > 0
    slices = [mask_overlap(found[z], true[z]) for z in range(len(true))]
    unseen = [one for z, one in enumerate(slices) if z not in settings.slices]
    return pool_slices(unseen).dice, [one.dice for one in slices], seconds


def curves(path: Path) -> None:
    """Dice of every slice, the mean over seeds and their spread: a panel for each stack and number of labeled slices."""
    with (RESULTS / "semi_curves.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    panels = list(dict.fromkeys((row["stack"], int(row["labeled"])) for row in rows))
    figure = Figure(figsize=(9, 2.6 * len(panels)), layout="constrained")
    for axis, (stack, labeled) in zip(
        figure.subplots(len(panels), squeeze=False).ravel(), panels, strict=True
    ):
        own = [row for row in rows if (row["stack"], int(row["labeled"])) == (stack, labeled)]
        for color, way in zip(
            ("#888888", "#0072B2", "#D55E00"),
            dict.fromkeys(row["way"] for row in own),
            strict=False,
        ):
            dice = np.array(
                [
                    [float(value) for value in row["dice_by_slice"].split()]
                    for row in own
                    if row["way"] == way
                ]
            )
            axis.plot(dice.mean(0), color=color, label=way, linewidth=1.4)
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
            xlabel="slice (dotted: learnt from)",
            ylabel="Dice",
            title=f"{stack}, {labeled} labeled slices, {len(dice)} seeds",
        )
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8, loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
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
        "--ways", nargs="+", default=["supervised", "cps", "mean-teacher"], choices=list(WAYS)
    )
    given = parser.parse_args()
    if given.stack == "curves":
        curves(given.out)
        return
    with tempfile.TemporaryDirectory() as name:
        sample, truth = labeled_sample(given.stack, Path(name)), truth_of(given.stack)
        for seed in given.seeds:
            for labeled in given.labeled:
                slices = tuple(evenly_spaced(sample.image().shape[0], labeled))
                for way in given.ways:
                    settings = TrainSettings.model_validate(
                        {
                            "structures": (NAME,),
                            "slices": slices,
                            "seed": seed,
                            "updates": given.updates,
                            "width": given.width,
                            **WAYS[way],
                        }
                    )
                    dice, curve, seconds = measured(
                        sample, truth, Path(name) / "m.safetensors", settings
                    )
                    row = {
                        "stack": given.stack,
                        "labeled": labeled,
                        "seed": seed,
                        "updates": given.updates,
                        "width": given.width,
                        "way": way,
                    }
                    unseen = [one for z, one in enumerate(curve) if z not in slices]
                    told = {
                        "dice_3d": f"{dice:.4f}",
                        "worst_slice": f"{np.nanmin(unseen):.4f}",
                        "train_s": f"{seconds:.0f}",
                    }
                    keep("semi", row | told)
                    keep(
                        "semi_curves",
                        row | {"dice_by_slice": " ".join(f"{value:.3f}" for value in curve)},
                    )


if __name__ == "__main__":
    main()
