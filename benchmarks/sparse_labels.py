"""How good is a network that saw 3, 5, 7 or 15 labeled slices? Real stacks, evenly spaced slices, scored on all others.

    python benchmarks/sparse_labels.py epfl --labeled 3 7 15 --updates 2000
    python benchmarks/sparse_labels.py vnc --labeled 5

The stacks (see DATA below) lie in the folder that the environment variable SPARSEM_DATA names. Results go to
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

from sparsem.annotation.importing import AnnotationSettings, import_annotation
from sparsem.geometry import evenly_spaced
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.score.score import score
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import PredictSettings, predict
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution

DATA = {  # stack, labels, voxel size nm
    "epfl": (
        "epfl_fibsem_mitochondria/raw.tif",
        "epfl_fibsem_mitochondria/labels_mitochondria.tif",
        (5, 5, 5),
    ),
    "vnc": ("vnc_sstem/raw.tif", "vnc_sstem/labels_mitochondria.tif", (50, 4.6, 4.6)),
}
RESULTS = Path(__file__).parent / "results" / "sparse_labels.csv"
NAME = "mitochondrion"


def measure(
    data: Path, which: str, labeled: int, training: TrainSettings, prediction: PredictSettings
) -> dict[str, object]:
    stack, labels, voxel = DATA[which]
    with tempfile.TemporaryDirectory() as folder:
        sample = import_stack(data / stack, Path(folder) / "s.zarr", ImportSettings(voxel_nm=voxel))
        slices = evenly_spaced(sample.image().shape[0], labeled)
        import_annotation(
            sample, NAME, data / labels, AnnotationSettings(slices=",".join(map(str, slices)))
        )
        started = time.monotonic()
        train_network([sample], Path(folder) / "m.safetensors", training, on=Execution())
        trained = time.monotonic()
        predict(sample, Path(folder) / "m.safetensors", prediction, on=Execution())
        predicted = time.monotonic()
        unseen = score(sample, NAME, data / labels).summary("unseen")
    return {
        "stack": which,
        "labeled": labeled,
        "unseen": unseen["slices"],
        "dice_3d": round(unseen["dice_3d"] or 0, 4),
        "precision_3d": round(unseen["precision_3d"] or 0, 4),
        "recall_3d": round(unseen["recall_3d"] or 0, 4),
        "dice_slices": round(unseen["dice_slices"] or 0, 4),
        "model": training.architecture,
        "width": training.width,
        "read": training.context_px,
        "see": training.input_px,
        "updates": training.updates,
        "learning_rate": training.learning_rate,
        "seed": training.seed,
        "train_s": round(trained - started),
        "predict_s": round(predicted - trained),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stack", choices=DATA)
    parser.add_argument("--labeled", type=int, nargs="+", default=[7])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--overlap", type=float, default=PredictSettings().overlap)
    for name, kind in (
        ("model", str),
        ("width", int),
        ("read", int),
        ("see", int),
        ("updates", int),
        ("learning_rate", float),
    ):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=getattr(TrainSettings(), name)
        )
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    if "SPARSEM_DATA" not in os.environ:
        parser.error("set SPARSEM_DATA to the folder that holds the stacks")
    data = Path(os.environ["SPARSEM_DATA"])
    settings = {
        name: getattr(given, name)
        for name in ("model", "width", "read", "see", "updates", "learning_rate", "precision")
    }
    for labeled in given.labeled:
        for seed in given.seeds:
            training = TrainSettings(structures=(NAME,), seed=seed, **settings)
            row = measure(
                data,
                given.stack,
                labeled,
                training,
                PredictSettings(overlap=given.overlap, precision=given.precision),
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
