"""Sparse labels: accuracy of networks that are trained on 3, 5, 7 or 15 labeled slices.

    python benchmarks/sparse_labels.py epfl --labeled 3 7 15 --updates 2000
    python benchmarks/sparse_labels.py vnc --labeled 5

The labeled slices of the real stacks are evenly spaced; the scores are those of the unseen slices.
``SPARSEM_DATA`` names the folder of the stacks (see DATA below). Rows are appended to
benchmarks/results/sparse_labels.csv.
"""

import argparse
import csv
import os
import platform
import tempfile
import time
from pathlib import Path

import torch

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.models.architectures import default_optimizer
from sparsem.score.score import score
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution

DATA = {  # stack, labels, voxel size in nm
    "epfl": (
        "epfl_fibsem_mitochondria/raw.tif",
        "epfl_fibsem_mitochondria/labels_mitochondria.tif",
        (5, 5, 5),
    ),
    "vnc": ("vnc_sstem/raw.tif", "vnc_sstem/labels_mitochondria.tif", (50, 4.6, 4.6)),
}
RESULTS = Path(__file__).parent / "results" / "sparse_labels.csv"
NAME = "mitochondrion"
# Option, field of TrainSettings, type.
TRAINING_OPTIONS: tuple[tuple[str, str, type], ...] = (
    ("--model", "architecture", str),
    ("--width", "width", int),
    ("--read", "context_px", int),
    ("--see", "input_px", int),
    ("--updates", "updates", int),
    ("--learning-rate", "learning_rate", float),
    ("--optimizer", "optimizer", str),
)


def measure(
    data: Path, stack: str, labeled: int, training: TrainSettings, prediction: PredictSettings
) -> dict[str, object]:
    """Train on evenly spaced slices, predict, and return the scores as a row."""
    raw, labels, voxel = DATA[stack]
    with tempfile.TemporaryDirectory() as folder:
        sample = import_stack(data / raw, Path(folder) / "s.zarr", ImportSettings(voxel_nm=voxel))
        slices = evenly_spaced(sample.image().shape[0], labeled)
        import_annotation(
            sample, NAME, data / labels, AnnotationSettings(slices=",".join(map(str, slices)))
        )
        start = time.monotonic()
        train_network([sample], Path(folder) / "m.safetensors", training, on=Execution())
        train_end = time.monotonic()
        predict(sample, Path(folder) / "m.safetensors", prediction, on=Execution())
        predict_end = time.monotonic()
        scores = score(sample, NAME, data / labels).summary("unseen")
    return {
        "stack": stack,
        "labeled": labeled,
        "unseen": scores["slices"],
        "dice_3d": round(scores["dice_3d"] or 0, 4),
        "precision_3d": round(scores["precision_3d"] or 0, 4),
        "recall_3d": round(scores["recall_3d"] or 0, 4),
        "dice_slices": round(scores["dice_slices"] or 0, 4),
        "model": training.architecture,
        "width": training.width,
        "context_px": training.context_px,
        "input_px": training.input_px,
        "updates": training.updates,
        "learning_rate": training.learning_rate,
        "optimizer": training.optimizer or default_optimizer(training.architecture),
        "seed": training.seed,
        "train_s": round(train_end - start),
        "predict_s": round(predict_end - train_end),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def main() -> None:
    """Measure every number of labeled slices with every seed, and append the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=DATA)
    parser.add_argument("--labeled", type=int, nargs="+", default=[7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--overlap", type=float, default=PredictSettings().overlap)
    for option, field, kind in TRAINING_OPTIONS:
        parser.add_argument(
            option,
            dest=field,
            type=kind,
            default=getattr(TrainSettings(), field),
            help=f"{field} of the training",
        )
    parser.add_argument("--precision", default="auto")
    arguments = parser.parse_args()
    if "SPARSEM_DATA" not in os.environ:
        parser.error("set SPARSEM_DATA to the folder that holds the stacks")
    data = Path(os.environ["SPARSEM_DATA"])
    settings = {field: getattr(arguments, field) for _, field, _ in TRAINING_OPTIONS}
    settings["precision"] = arguments.precision
    for labeled in arguments.labeled:
        for seed in arguments.seeds:
            training = TrainSettings(structures=(NAME,), seed=seed, **settings)
            row = measure(
                data,
                arguments.stack,
                labeled,
                training,
                PredictSettings(overlap=arguments.overlap, precision=arguments.precision),
            )
            print(row, flush=True)
            RESULTS.parent.mkdir(exist_ok=True)
            new = not RESULTS.exists()
            with RESULTS.open("a", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)


if __name__ == "__main__":
    main()
