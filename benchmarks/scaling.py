"""Scaling: every stage with 1 and 2 workers, speed-up and equal bytes; time for 50 gigavoxels.

    python benchmarks/scaling.py workers [--slices 8] [--folder INPUTS]   # of 24 Mpx (6000 x 4000)
    python benchmarks/scaling.py memory [--slices 8]     # memory that stages state, and peak
    python benchmarks/scaling.py cost                    # from the rates in results/scaling.csv

A worker is a process with one thread. Workers are started once for all stages; their start has a
row of its own.
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

from rows import RESULTS, peak_gb, save
from sparsem.annotation.writing import write_annotation
from sparsem.cells.cells import cells
from sparsem.cells.settings import CellsSettings, TrackSettings
from sparsem.cells.track import track
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.labels.constrain import constrain
from sparsem.labels.settings import ConstrainSettings
from sparsem.measure.measure import measure
from sparsem.measure.settings import MeasureSettings
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.preprocess.align import align
from sparsem.preprocess.equalize import equalize
from sparsem.preprocess.settings import AlignSettings, EqualizeSettings
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution, workers_of

SHAPE = (4000, 6000)
GIGAVOXELS = 50.0
WORKERS = {"one core": 1, "workstation, 16 cores": 16, "cluster, 16 x 16 cores": 256}
# Fraction of a stage that proceeds from slice to slice, in so many parallel chains: half of cells,
# in two chains between two of seven labeled slices (measured with a profiler). All other work is
# done in blocks. The graph of track is resolved in one process, in 1 s for 2,083 slices with 300
# islands each.
CHAINS = {"cells": (0.5, 12)}

Work = Callable[[Sample, Execution], object]


def write_inputs(folder: Path, slices: int) -> tuple[Path, Path]:
    """Write a TIFF of tissue with drift, and a network.

    The network is trained for a few updates, so that its output has the shape of objects.
    """
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


def label(sample: Sample, phantom_sample: Sample) -> None:
    """Label the first and the last slice with the ground truth of the phantom."""
    last = sample.image().shape[0] - 1
    for name in ("nucleus", "nucleolus", "mitochondrion", "cells"):
        volume = phantom_sample.volume("truth", name)
        write_annotation(
            sample,
            name,
            (0, last),
            [volume.read(slice(z, z + 1))[0] for z in (0, last)],
            image="raw",
            overwrite=True,
        )


def stages(source: Path, model: Path, depth: int = 1) -> dict[str, Work]:
    """Return all stages, in order."""
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
    """Return the digest of volumes, tables and meshes.

    The history is not included, since it contains times.
    """
    content = hashlib.blake2b()
    for file in sorted(
        path for path in sample.rglob("*") if path.is_file() and path.suffix != ".parquet"
    ):
        inside = file.relative_to(sample)
        if inside.parts[0] != ".sparsem" and str(inside) != "zarr.json":
            content.update(str(inside).encode() + file.read_bytes())
    return content.hexdigest()


def run_stages(folder: Path, source: Path, model: Path, count: int) -> dict[str, tuple[float, str]]:
    """Run every stage on one sample; return its seconds and the digest of the sample after it."""
    results = {}
    start = time.perf_counter()
    with workers_of(Execution(workers=count)) as workers:
        assert workers is not None
        workers.client.run(import_module, "sparsem.segment.predict")
    results["start of the workers"] = time.perf_counter() - start, ""
    sample = Sample(folder / f"by-{count}.zarr")
    for stage, work in stages(source, model).items():
        start = time.perf_counter()
        work(sample, Execution(workers=count, quiet=True))
        results[stage] = time.perf_counter() - start, digest(sample.path)
        print(f"{count} workers: {stage} {results[stage][0]:.1f} s", flush=True)
        if stage == "import":
            label(sample, Sample.open(folder / "phantom.zarr"))
    return results


def compare_workers(slices: int, input_folder: Path | None = None) -> None:
    """Run all stages with one worker and with two.

    Args:
        slices: depth of the sample.
        input_folder: folder where the inputs, which take a minute a slice, are kept for another
            run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = input_folder or folder
        source, model = inputs / "raw.tif", inputs / "m.safetensors"
        if not model.exists():
            write_inputs(inputs, slices)
        if input_folder:
            (folder / "phantom.zarr").symlink_to((inputs / "phantom.zarr").absolute())
        with_one, with_two = (run_stages(folder, source, model, count) for count in (1, 2))
    gigavoxels = slices * SHAPE[0] * SHAPE[1] / 1e9
    for stage in with_one:
        one_worker_s, digest_of_one = with_one[stage]
        two_workers_s, digest_of_two = with_two[stage]
        row: dict[str, object] = {
            "stage": stage,
            "slices": slices,
            "one_worker_s": f"{one_worker_s:.1f}",
            "two_workers_s": f"{two_workers_s:.1f}",
            "speed_up": f"{one_worker_s / two_workers_s:.2f}",
            "same_bytes": digest_of_one == digest_of_two,
            "core_s_a_gigavoxel": f"{one_worker_s / gigavoxels:.0f}",
        }
        save("scaling", row)


def compare_memory(slices: int) -> None:
    """Run every stage in a process of its own with z-blocks of 4 slices.

    The rows hold the memory that a stage states at its start, and the peak of the process.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, model = write_inputs(folder, slices)
        for stage in stages(source, model):
            command = [sys.executable, __file__, "one", "--stage", stage, "--folder", name]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            stated = [
                float(number) / (1 if unit == "GB" else 1000)
                for number, unit in re.findall(
                    r"needs up to ([\d.]+) (GB|MB) of memory", result.stderr
                )
            ]
            before, peak = map(float, result.stdout.split()[-2:])
            row: dict[str, object] = {
                "stage": stage,
                "slices": slices,
                "stated_gb": max(stated, default=0.0),
            }
            save(
                "scaling_memory",
                row | {"peak_gb": f"{peak:.2f}", "program_gb": f"{before:.2f}"},
            )
            if stage == "import":
                label(Sample.open(folder / "s.zarr"), Sample.open(folder / "phantom.zarr"))


def run_stage(folder: Path, stage: str) -> None:
    """Run a stage in this process; print its memory before and at its peak, in GB."""
    before = peak_gb()
    stages(folder / "raw.tif", folder / "m.safetensors", depth=4)[stage](
        Sample(folder / "s.zarr"), Execution()
    )
    print(before, peak_gb())


def cost() -> None:
    """Print the hours of each stage for ``GIGAVOXELS`` as a Markdown table.

    All workers are assumed to work as fast as one.
    """
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
        in_chains, n_chains = CHAINS.get(stage, (0.0, 1))
        hours = {}
        for machine, cores in WORKERS.items():
            share = in_chains / min(cores, n_chains) + (1 - in_chains) / cores
            hours[machine] = rate * GIGAVOXELS / 3600 * share
        total = {machine: total[machine] + hours[machine] for machine in WORKERS}
        print(
            f"| {stage} | {rate:.0f} | "
            + " | ".join(f"{hours[machine]:.2f} h" for machine in WORKERS)
            + " |"
        )
    print(
        "| all | "
        f"{sum(rates.values()):.0f} | "
        + " | ".join(f"{total[machine]:.1f} h" for machine in WORKERS)
        + " |"
    )


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["workers", "memory", "cost", "one"])
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--stage", help="stage for one, a process that memory starts")
    parser.add_argument("--folder", type=Path, help="folder of the inputs")
    arguments = parser.parse_args()
    benchmarks = {
        "workers": lambda: compare_workers(arguments.slices, arguments.folder),
        "memory": lambda: compare_memory(arguments.slices),
        "one": lambda: run_stage(arguments.folder, arguments.stage),
        "cost": cost,
    }
    benchmarks[arguments.what]()


if __name__ == "__main__":
    main()
