"""Axons and nerve fibers as objects that touch: against components, and against masks in boxes.

    python benchmarks/axons.py --updates 2000 --detector-updates 300

Three images of ``axon_sem_2d`` are annotated, two others are scored, one of a rat that is also in
training and one of a rat that is not. Axons are separated by myelin. A fiber is an axon with its
myelin, and touches its neighbors; myelin belongs to the axon that is nearest within it.
``components`` and ``agglomeration``: a network of ``train --objects``. ``masks``: a small RetinaNet
from random weights and the outlines of ``detect masks``, as in benchmarks/detection.py.

``SPARSEM_DATA`` names the folder of the data. Rows are appended to benchmarks/results/axons.csv.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.segmentation import watershed

from rows import save
from sparsem.annotation.writing import write_annotation
from sparsem.boxes.geometry import boxes_of_labels
from sparsem.boxes.importing import import_boxes
from sparsem.detect.masks.masks import box_masks
from sparsem.detect.predict import detect
from sparsem.detect.training.train import train_detector
from sparsem.io.ingest import import_stack
from sparsem.labels.objects import objects
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.segment.predict import predict
from sparsem.segment.train import train
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from stacks import ROOT

AXONS = ROOT / "axon_sem_2d"
TEST = ("sub-rat4_sample-data12", "sub-rat3_sample-data9")
VALIDATION = "sub-rat3_sample-data11"
ENDING = "_SEM_labels_axon1_myelin2.tif"
VOXEL_NM = (100.0, 100.0, 100.0)  # the files state no pixel size; all get the same one
MIN_PX = 27  # smallest object that counts, in prediction and ground truth
AXON, MYELIN = 1, 2
REPLACE = Execution(overwrite=True, quiet=True)

Labels = NDArray[np.uint32]


def numbered(labels: NDArray[np.uint8], structure: str) -> Labels:
    """Return the numbers (y, x) of the axons or fibers of an image."""
    axons = np.asarray(cc3d.connected_components(labels == AXON, connectivity=8), np.uint32)
    if structure == "axon":
        return axons
    return np.asarray(
        watershed(np.zeros(labels.shape, np.uint8), axons, mask=labels > 0), np.uint32
    )


def truth_of(structure: str) -> dict[str, Labels]:
    """Return the objects of all images, by the name of the image."""
    files = sorted(AXONS.glob(f"*{ENDING}"))
    return {
        file.name.removesuffix(ENDING): numbered(tifffile.imread(file), structure) for file in files
    }


def samples_in(folder: Path, names: Sequence[str]) -> dict[str, Sample]:
    """Import the images, each as a sample of its own."""
    return {
        name: import_stack(
            AXONS / f"{name}_SEM_raw.tif", folder / f"{name}.zarr", voxel_nm=VOXEL_NM, on=REPLACE
        )
        for name in names
    }


def score_network(
    structure: str, truth: Mapping[str, Labels], folder: Path, given: argparse.Namespace
) -> None:
    """Train a network of objects on three images, and score both methods on two others."""
    samples = samples_in(folder / "network", list(truth))
    trained = [samples[name] for name in truth if name not in (*TEST, VALIDATION)]
    for sample in trained:
        write_annotation(sample, structure, (0,), [truth[sample.name]])
    model = folder / "network" / "m.safetensors"
    started = time.perf_counter()
    settings: dict[str, Any] = {"updates": given.updates, "context_px": 256, "seed": given.seed}
    train(trained, model, objects=(structure,), on=REPLACE, **settings)
    minutes = (time.perf_counter() - started) / 60
    for name in TEST:
        predict(samples[name], model, on=REPLACE)
        for method in ("components", "agglomeration"):
            objects(samples[name], structure, method=method, min_voxels=MIN_PX, on=REPLACE)
            row = {"structure": structure, "image": name, "method": method, "seed": given.seed}
            row |= {"updates": given.updates, "training_minutes": round(minutes, 1)}
            add_scores(row, samples[name], structure, truth[name], folder)


def score_masks(
    structure: str, truth: Mapping[str, Labels], folder: Path, given: argparse.Namespace
) -> None:
    """Train a detector on three images, and score the masks of its boxes on two others."""
    samples = samples_in(folder / "detector", list(truth))
    import_boxes(list(samples.values()), source=str(box_file(structure, truth, folder)), min_px=0)
    model = folder / "detector" / "d.safetensors"
    started = time.perf_counter()
    settings: dict[str, Any] = {
        "architecture": "retinanet-small",
        "updates": given.detector_updates,
        "input_px": 384,
        "seed": given.seed,
        "weights": "none",
        "split": "none",
        "validate_every": 100,
        "validation": (VALIDATION,),
        "test": TEST,
    }
    train_detector(list(samples.values()), model, on=REPLACE, **settings)
    minutes = (time.perf_counter() - started) / 60
    for name in TEST:
        detect(samples[name], model, on=REPLACE)
        box_masks(samples[name], on=REPLACE)
        row = {"structure": structure, "image": name, "method": "masks", "seed": given.seed}
        row |= {"updates": given.detector_updates, "training_minutes": round(minutes, 1)}
        add_scores(row, samples[name], structure, truth[name], folder)


def box_file(structure: str, truth: Mapping[str, Labels], folder: Path) -> Path:
    """Write the boxes around all objects as CSV."""
    path = folder / "boxes.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "class", "x0", "y0", "x1", "y1"])
        for name, labels in truth.items():
            _, corners = boxes_of_labels(labels)
            image = f"{name}_SEM_raw.tif"
            writer.writerows([image, structure, *map(float, box)] for box in corners.tolist())
    return path


def add_scores(
    row: dict[str, Any], sample: Sample, structure: str, truth: Labels, folder: Path
) -> None:
    """Save the scores of the objects of an image."""
    file = folder / "truth.tif"
    tifffile.imwrite(file, truth[None].astype(np.uint16))
    scoring = ScoreSettings(instances=True, slices="all", min_voxels=MIN_PX)
    scores = score(sample, structure, file, scoring, on=REPLACE)
    numbers = scores.of_cells()
    dimension = "3d" if scores.in_3d else "2d"
    for name in ("f1_50", "f1_75", "pq", "ap50", "true", "predicted"):
        row[name] = round(numbers[f"{name}_{dimension}"] or 0, 4)
    for name in ("splits", "merges"):
        row[name] = numbers[f"{name}_{dimension}"]
    save("axons", row)


def main() -> None:
    """Score axons and fibers by all methods."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--structures", nargs="+", default=["axon", "fiber"])
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--detector-updates", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for structure in given.structures:
        truth = truth_of(structure)
        with tempfile.TemporaryDirectory() as folder:
            score_network(structure, truth, Path(folder), given)
            score_masks(structure, truth, Path(folder), given)


if __name__ == "__main__":
    main()
