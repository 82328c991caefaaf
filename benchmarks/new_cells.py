"""Neurites in few labeled slices: with and without new cells, seen from one or three sides.

    python benchmarks/new_cells.py --every 25 50 250 --seeds 0 1 2
    python benchmarks/new_cells.py --every 50 --folder /tmp/neurites     # keeps the networks

FIB-25 as in cells.py; of ``--every 250``, slice 125 alone is labeled. Scores are those of the
unlabeled slices. *matched* is the mean Dice of neurites with the objects that match them best, one
to one: a cell that no labeled slice shows cannot have the id of the ground truth. The seconds are
those of all cores in ``cells``. Rows are appended to benchmarks/results/new_cells.csv.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rows import save
from sparsem.annotation.importing import import_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.cells.cells import cells
from sparsem.cells.track import track
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.labels.overlaps import Overlaps, add_overlaps, overlaps
from sparsem.score.instances import instance_scores, remove_small_objects
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution

MIN_VOXELS = 5_000
NEW_CELLS_UM3 = 0.001
AGAIN = Execution(overwrite=True, quiet=True)


def labeled_slices(every: int, n_slices: int) -> list[int]:
    """Return every so many-th slice from the first one on, or the middle one alone."""
    return list(range(0, n_slices, every)) if every < n_slices else [n_slices // 2]


def trained(data: Path, every: int, seed: int, folder: Path) -> tuple[Sample, Path]:
    """Return a sample with labeled slices, and a network that was trained on them."""
    model = folder / "m.safetensors"
    if model.exists():
        return Sample.open(folder / "s.zarr"), model
    folder.mkdir(parents=True, exist_ok=True)
    sample = import_stack(
        data / "raw.tif", folder / "s.zarr", ImportSettings(voxel_nm=(10, 10, 10)), on=AGAIN
    )
    slices = ",".join(map(str, labeled_slices(every, sample.image().shape[0])))
    import_annotation(
        sample, "cells", data / "labels_cells.tif", AnnotationSettings(slices=slices), on=AGAIN
    )
    settings = TrainSettings(
        cells="cells", adjacent_slices=2, context_px=128, input_px=128, seed=seed
    )
    train_network([sample], model, settings, on=AGAIN)
    return sample, model


def matched_dice(slices: Sequence[Overlaps]) -> float:
    """Return the mean Dice of true objects with the predicted ones, matched one to one."""
    table = add_overlaps(remove_small_objects(slices, MIN_VOXELS))
    predicted, row = np.unique(table.first, return_inverse=True)
    true, column = np.unique(table.second, return_inverse=True)
    pixels = np.zeros((len(predicted), len(true)))
    pixels[row, column] = table.pixels
    sums = pixels.sum(axis=1)[:, None] + pixels.sum(axis=0)[None]
    dice = (2 * pixels / sums)[predicted > 0][:, true > 0]
    matches = linear_sum_assignment(-dice)
    return float(dice[matches].sum() / dice.shape[1])


def scores_of(
    labels: NDArray[np.uint32], truth: NDArray[np.uint32], unlabeled: Sequence[int]
) -> dict[str, str]:
    """Return the scores of labels on the unlabeled slices."""
    slices = [overlaps(labels[z], truth[z]) for z in unlabeled]
    scores = instance_scores(slices, MIN_VOXELS)
    names = ("dice_cells", "arand_3d", "voi_split_3d", "voi_merge_3d", "pq_3d")
    rounded = {name: f"{scores[name]:.4f}" for name in names}
    return {**rounded, "matched": f"{matched_dice(slices):.4f}"}


def measure(sample: Sample, model: Path, truth: NDArray[np.uint32], row: dict[str, object]) -> None:
    """Predict from one and from three sides, separate without and with new cells, and score."""
    for views in (1, 3):
        predict(sample, model, views=views, on=AGAIN)
        for volume in (0.0, NEW_CELLS_UM3):
            # A name of its own, since slices with the same inputs are not computed again.
            name = f"views-{views}-{volume:g}".replace(".", "_")
            start = time.process_time()
            cells(sample, new_cells_um3=volume, out=name, on=AGAIN)
            seconds = time.process_time() - start
            tracking = track(sample, cells=name, min_volume_um3=NEW_CELLS_UM3, on=AGAIN)
            labels = np.asarray(sample.computed(name).read(slice(None)), np.uint32)
            labeled = labeled_slices(int(str(row["every"])), len(truth))
            unlabeled = [z for z in range(len(truth)) if z not in labeled]
            save(
                "new_cells",
                row
                | {"views": views, "new_cells_um3": volume, "new_cells": len(tracking.unassigned)}
                | scores_of(labels, truth, unlabeled)
                | {"cells_s": f"{seconds:.0f}"},
            )


def main() -> None:
    """Measure every number of labeled slices with every seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, nargs="+", default=[25, 50, 250])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, help="keep samples and networks here")
    options = parser.parse_args()
    data = Path(os.environ["SPARSEM_DATA"]) / "fib25_fibsem_neurites"
    truth = tifffile.imread(data / "labels_cells.tif").astype(np.uint32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for every in options.every:
            for seed in options.seeds:
                sample, model = trained(data, every, seed, folder / f"{every}_{seed}")
                measure(sample, model, truth, {"every": every, "seed": seed})


if __name__ == "__main__":
    main()
