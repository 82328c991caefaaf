"""Smoothing across slices: Dice, the worst slice, and flicker, with and without it.

    python benchmarks/smoothing.py epfl --labeled 7 3
    python benchmarks/smoothing.py vnc --labeled 5 3
    python benchmarks/smoothing.py epfl --labeled 7 --folder /tmp/smoothing   # keeps the models

Flicker is the mean change of the predicted area between neighboring slices over that of the ground
truth. The scores are those of the unseen slices. ``SPARSEM_DATA`` names the folder of the stacks.
Rows are appended to benchmarks/results/smoothing.csv.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from rows import save
from sparse_labels import DATA, NAME
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution

AGAIN = Execution(overwrite=True, quiet=True)


def main() -> None:
    """Train every network once, and predict with every smoothing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=DATA)
    parser.add_argument("--labeled", type=int, nargs="+", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--nm", type=float, nargs="+", default=[0, 15, 20, 25, 30])
    parser.add_argument("--folder", type=Path, help="keep samples and models here")
    options = parser.parse_args()
    data = Path(os.environ["SPARSEM_DATA"])
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for labeled in options.labeled:
            for seed in options.seeds:
                name = f"{options.stack}_{labeled}_{seed}"
                sample, model = trained(data, options.stack, labeled, seed, folder / name)
                truth = tifffile.imread(data / DATA[options.stack][1]) > 0
                unseen = sorted(set(range(len(truth))) - set(evenly_spaced(len(truth), labeled)))
                for nm in options.nm:
                    predict(sample, model, z_smoothing_nm=nm, on=AGAIN)
                    predicted = sample.computed(NAME).read(slice(None)) > 0
                    row = {
                        "stack": options.stack,
                        "labeled": labeled,
                        "seed": seed,
                        "nm": f"{nm:g}",
                    }
                    save("smoothing", row | slice_scores(predicted, truth, unseen))


def trained(data: Path, stack: str, labeled: int, seed: int, folder: Path) -> tuple[Sample, Path]:
    """Return a sample with evenly spaced labeled slices, and a network that was trained on them."""
    model = folder / "m.safetensors"
    if model.exists():
        return Sample.open(folder / "s.zarr"), model
    folder.mkdir(parents=True)
    raw, labels, voxel = DATA[stack]
    sample = import_stack(data / raw, folder / "s.zarr", ImportSettings(voxel_nm=voxel))
    slices = evenly_spaced(sample.image().shape[0], labeled)
    names = ",".join(map(str, slices))
    import_annotation(sample, NAME, data / labels, AnnotationSettings(slices=names))
    train_network([sample], model, TrainSettings(structures=(NAME,), seed=seed), on=Execution())
    return sample, model


def slice_scores(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], unseen: list[int]
) -> dict[str, float]:
    """Return the mean Dice of unseen slices, that of the worst one, and flicker."""
    areas, true_areas = (mask.sum(axis=(1, 2)).astype(float) for mask in (predicted, truth))
    shared = (predicted & truth).sum(axis=(1, 2))
    dice = 2 * shared[unseen] / (areas + true_areas)[unseen]
    flicker = np.abs(np.diff(areas)).mean() / np.abs(np.diff(true_areas)).mean()
    return {
        "dice_slices": round(float(dice.mean()), 4),
        "worst_slice": round(float(dice.min()), 4),
        "flicker": round(float(flicker), 3),
    }


if __name__ == "__main__":
    main()
