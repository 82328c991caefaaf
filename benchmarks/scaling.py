"""Every stage with 1 and 2 workers: speed-up and equal bytes; and what a stack of 50 gigavoxels would take.

    python benchmarks/scaling.py workers [--slices 8]    # every stage on slices of 24 Mpx (6000 x 4000)
    python benchmarks/scaling.py memory [--slices 8]     # what every stage says it needs, and its peak
    python benchmarks/scaling.py cost                    # worked out from the rates in results/scaling.csv

A worker is a process with one thread. Workers are started once for the whole chain, which is a row of its own.
"""

import argparse
import csv
import hashlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import tifffile

from rows import RESULTS, keep, peak_gb
from sparsem.annotation.writing import write_annotation
from sparsem.cells.cells import cells
from sparsem.cells.settings import CellsSettings
from sparsem.cells.track import TrackSettings, track
from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.labels.constrain import ConstrainSettings, constrain
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.phantom.phantom import PhantomSettings, phantom
from sparsem.preprocess.align import AlignSettings, align
from sparsem.preprocess.equalize import EqualizeSettings, equalize
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import PredictSettings, predict
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution, client_of

SHAPE = (4000, 6000)
GIGAVOXELS = 50.0
WORKERS = {"one core": 1, "workstation, 16 cores": 16, "cluster, 16 x 16 cores": 256}
# What goes from slice to slice has no more parts than these: track is one chain at its heart, cells two chains between labeled slices.
MOST_PARTS = {"track": 1, "cells": 12}

Work = Callable[[Sample, Execution], object]


def made(folder: Path, slices: int) -> tuple[Path, Path]:
    """A TIFF of tissue that drifts, and a network that has learnt a little: what it finds has the shape of objects."""
    settings = PhantomSettings(
        shape=(slices, *SHAPE), voxel_nm=(8, 8, 8), cells=12, seed=4, drift_nm=10, block_depth=1
    )
    sample = phantom(folder / "phantom.zarr", settings, on=Execution(workers=2))
    tifffile.imwrite(folder / "raw.tif", sample.image().read(slice(None)), photometric="minisblack")
    label(sample, sample)
    training = TrainSettings(
        structures=("nucleus", "nucleolus", "mitochondrion"), cells="cells", updates=300, ema=0.9
    )
    train_network([sample], folder / "m.safetensors", training)
    return folder / "raw.tif", folder / "m.safetensors"


def label(sample: Sample, phantom_: Sample) -> None:
    """Two labeled slices, those of the phantom's truth."""
    last = sample.image().shape[0] - 1
    for name in ("nucleus", "nucleolus", "mitochondrion", "cells"):
        volume = phantom_.volume("truth", name)
        write_annotation(
            sample,
            name,
            (0, last),
            [volume.read(slice(z, z + 1))[0] for z in (0, last)],
            image="raw",
            overwrite=True,
        )


def stages(source: Path, model: Path, depth: int = 1) -> dict[str, Work]:
    """The whole chain, in order."""
    return {
        "import": lambda sample, on: import_stack(
            source, sample.path, ImportSettings(voxel_nm=(8, 8, 8), block_depth=depth), on=on
        ),
        "align": lambda sample, on: align(sample, AlignSettings(), on=on),
        "equalize": lambda sample, on: equalize(sample, EqualizeSettings(), on=on),
        "predict": lambda sample, on: predict(sample, model, PredictSettings(), on=on),
        "constrain": lambda sample, on: constrain(sample, ConstrainSettings(), on=on),
        "cells": lambda sample, on: cells(sample, CellsSettings(), on=on),
        "track": lambda sample, on: track(sample, TrackSettings(), on=on),
        "measure": lambda sample, on: measure(sample, MeasureSettings(), on=on),
    }


def digest(sample: Path) -> str:
    """Of everything that a reader sees: volumes, tables, meshes; not of the history, which tells the time of day."""
    found = hashlib.blake2b()
    for file in sorted(
        path for path in sample.rglob("*") if path.is_file() and path.suffix != ".parquet"
    ):
        inside = file.relative_to(sample)
        if inside.parts[0] != ".sparsem" and str(inside) != "zarr.json":
            found.update(str(inside).encode() + file.read_bytes())
    return found.hexdigest()


def chain(folder: Path, source: Path, model: Path, count: int) -> dict[str, tuple[float, str]]:
    """Seconds of every stage, one after the other on one sample, and the digest of the sample after it."""
    began, done = time.perf_counter(), {}
    with client_of(Execution(workers=count)) as client:
        assert client is not None
        client.run(import_module, "sparsem.segment.predict")
    done["start of the workers"] = time.perf_counter() - began, ""
    sample = Sample(folder / f"by-{count}.zarr")
    for stage, work in stages(source, model).items():
        began = time.perf_counter()
        work(sample, Execution(workers=count, quiet=True))
        done[stage] = time.perf_counter() - began, digest(sample.path)
        print(f"{count} workers: {stage} {done[stage][0]:.1f} s", flush=True)
        if stage == "import":
            label(sample, Sample.open(folder / "phantom.zarr"))
    return done


def workers(slices: int) -> None:
    """The chain with one worker and with two."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, model = made(folder, slices)
        one, two = (chain(folder, source, model, count) for count in (1, 2))
    gigavoxels = slices * SHAPE[0] * SHAPE[1] / 1e9
    for stage in one:
        alone, together = one[stage][0], two[stage][0]
        row: dict[str, object] = {
            "stage": stage,
            "slices": slices,
            "one_worker_s": f"{alone:.1f}",
            "two_workers_s": f"{together:.1f}",
        }
        row |= {"speed_up": f"{alone / together:.2f}", "same_bytes": one[stage][1] == two[stage][1]}
        keep("scaling", row | {"core_s_a_gigavoxel": f"{alone / gigavoxels:.0f}"})


def memory(slices: int) -> None:
    """Every stage in a process of its own, z-blocks of 4: the memory that it states before it begins, and the peak of the process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, model = made(folder, slices)
        for stage in stages(source, model):
            command = [sys.executable, __file__, "one", "--stage", stage, "--folder", name]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            stated = [
                float(number)
                for number in re.findall(r"needs up to ([\d.]+) GB of memory", result.stderr)
            ]
            before, peak = map(float, result.stdout.split()[-2:])
            row: dict[str, object] = {
                "stage": stage,
                "slices": slices,
                "stated_gb": max(stated, default=0.0),
            }
            keep(
                "scaling_memory",
                row | {"peak_gb": f"{peak:.2f}", "of_it_the_program_gb": f"{before:.2f}"},
            )
            if stage == "import":
                label(Sample.open(folder / "s.zarr"), Sample.open(folder / "phantom.zarr"))


def one(folder: Path, stage: str) -> None:
    """A stage in this process; prints its memory before and at its peak, GB."""
    before = peak_gb()
    stages(folder / "raw.tif", folder / "m.safetensors", depth=4)[stage](
        Sample(folder / "s.zarr"), Execution()
    )
    print(before, peak_gb())


def cost() -> None:
    """Hours for ``GIGAVOXELS``, stage by stage, if more workers go on to help as one another; a Markdown table."""
    with (RESULTS / "scaling.csv").open(encoding="utf-8") as file:
        rates = {
            row["stage"]: float(row["core_s_a_gigavoxel"])
            for row in csv.DictReader(file)
            if row["stage"] in stages(Path(), Path())
        }
    print("| stage | core s a gigavoxel | " + " | ".join(WORKERS) + " |")
    print("|---" * (2 + len(WORKERS)) + "|")
    total = dict.fromkeys(WORKERS, 0.0)
    for stage, rate in rates.items():
        hours = {
            where: rate * GIGAVOXELS / 3600 / min(cores, MOST_PARTS.get(stage, cores))
            for where, cores in WORKERS.items()
        }
        total = {where: total[where] + hours[where] for where in WORKERS}
        print(
            f"| {stage} | {rate:.0f} | "
            + " | ".join(f"{hours[where]:.2f} h" for where in WORKERS)
            + " |"
        )
    print(
        "| all | "
        f"{sum(rates.values()):.0f} | "
        + " | ".join(f"{total[where]:.1f} h" for where in WORKERS)
        + " |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["workers", "memory", "cost", "one"])
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--stage", help="for one, which memory starts")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    {
        "workers": lambda: workers(given.slices),
        "memory": lambda: memory(given.slices),
        "one": lambda: one(given.folder, given.stage),
        "cost": cost,
    }[given.what]()


if __name__ == "__main__":
    main()
