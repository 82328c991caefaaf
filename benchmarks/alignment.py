"""Alignment: error against a known drift, and time, compared with pystackreg in the same run.

    python benchmarks/alignment.py error   # the phantom with all faults; EPFL and FIB-25 with drift
    python benchmarks/alignment.py speed   # slices of 24 Mpx, one core

``SPARSEM_DATA`` names the folder of the real stacks. ``error`` and ``speed`` need pystackreg.
"""

import argparse
import csv
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.preprocess.align import align
from sparsem.preprocess.detail import extract_detail
from sparsem.preprocess.registration import register
from sparsem.preprocess.settings import AlignSettings
from sparsem.store.sample import Sample
from sparsem.store.transforms import Motion, warp
from sparsem.workflow.execution import Execution

RESULTS = Path(__file__).with_name("results")
DATA = Path(os.environ.get("SPARSEM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
# File, voxel size in nm, step of the random walk in px. FIB-25 has 250 slices that are 250 px wide.
STACKS = {
    "epfl": ("epfl_fibsem_mitochondria/raw.tif", (5.0, 5.0, 5.0), 3.0),
    "fib25": ("fib25_fibsem_neurites/raw.tif", (10.0, 10.0, 10.0), 1.0),
}
FAULTY = PhantomSettings(
    shape=(64, 1024, 1024),
    voxel_nm=(8, 8, 8),
    cells=6,
    seed=3,
    noise=14,
    drift_nm=16,
    flicker=6,
    curtaining=6,
    jump_nm=2400,
    bad_slices=2,
)

Shifts = NDArray[np.float64]


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Print rows and append them to results/NAME.csv."""
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    path = RESULTS / f"{name}.csv"
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        if new:
            writer.writeheader()
        writer.writerows(rows)


def rms(measured: Shifts, true: Shifts) -> float:
    """Return the RMS distance in px of two drifts (n, 2); only their common origin is free."""
    difference = measured - true
    return float(np.sqrt((np.square(difference - difference.mean(axis=0))).sum(axis=1).mean()))


def shifts_of(motions: Motion, shape: tuple[int, ...]) -> Shifts:
    """Return the shift of each slice in the image that was aligned, at its center."""
    center = np.append((np.array(shape[1:]) - 1) / 2, 1.0)
    return np.asarray(motions @ center - center[:2])


def pystackreg_shifts(stack: NDArray[Any]) -> tuple[Shifts, float]:
    """Return the shifts by pystackreg, each slice to the one before, summed up, and its time."""
    from pystackreg import StackReg

    start = time.perf_counter()
    matrices = StackReg(StackReg.TRANSLATION).register_stack(stack, reference="previous")
    return matrices[:, :2, 2][:, ::-1], time.perf_counter() - start


def phantom_error(folder: Path) -> dict[str, Any]:
    """Measure the error with all faults: noise, curtaining, flicker, bad slices, jump of 300 px."""
    sample = phantom(folder / "phantom.zarr", FAULTY, on=Execution(workers=2))
    table = sample.read_table("phantom_slices")
    true = (
        -np.stack([table["drift_y_nm"].to_numpy(), table["drift_x_nm"].to_numpy()], axis=1)
        / FAULTY.voxel_nm[1]
    )
    good = ~table["bad"].to_numpy()
    start = time.perf_counter()
    alignment = align(sample, AlignSettings())
    seconds = time.perf_counter() - start
    peer_shifts, peer_seconds = pystackreg_shifts(sample.image("raw").read(slice(None)))
    shape = sample.image("raw").shape
    return {
        "stack": "phantom, every fault",
        "rms_px": round(rms(shifts_of(alignment.motions, shape)[good], true[good]), 3),
        "pystackreg_rms_px": round(rms(peer_shifts[good], true[good]), 3),
        "seconds": round(seconds, 1),
        "pystackreg_seconds": round(peer_seconds, 1),
        "bad": f"{list(alignment.bad)} of {np.nonzero(~good)[0].tolist()}",
        "jumps": str(list(alignment.jumps)),
        "rms_px_raw": "",
        "pystackreg_rms_px_raw": "",
    }


def stack_error(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Measure the error on a real stack to which a known random walk is added.

    The walk is compared with the shifts of the stack with the walk, less those of the original
    stack, which has a drift and a slope of its own.
    """
    file, voxel, step_px = STACKS[name]
    raw = tifffile.imread(DATA / file)
    walk = np.cumsum(np.random.default_rng(seed).normal(0, step_px, (len(raw), 2)), axis=0)
    walk -= (walk.max(axis=0) + walk.min(axis=0)) / 2
    margin = int(np.ceil(np.abs(walk).max())) + 2
    added_shifts = {"original": np.zeros_like(walk), "drifting": walk}
    results, times = {}, {}
    for version, shift in added_shifts.items():
        motions = np.repeat(np.array([[[1, 0, margin], [0, 1, margin]]], float), len(raw), axis=0)
        motions[:, :, 2] -= shift  # content moves by the shift
        shape = tuple(length - 2 * margin for length in raw.shape[1:])
        stack = np.stack(
            [
                warp(plane, motion, shape, "cubic")
                for plane, motion in zip(raw, motions, strict=True)
            ]
        )
        tifffile.imwrite(folder / f"{version}.tif", stack, photometric="minisblack")
        sample = import_stack(
            folder / f"{version}.tif",
            folder / f"{name}-{version}-{seed}.zarr",
            ImportSettings(voxel_nm=voxel),
        )
        start = time.perf_counter()
        alignment = align(sample, AlignSettings(canvas="whole"))
        times[version] = time.perf_counter() - start
        shifts = shifts_of(alignment.motions, stack.shape)
        results[version] = (shifts, *pystackreg_shifts(stack))
    original, drifting = results["original"], results["drifting"]
    return {
        "stack": f"{name}, random walk of {step_px:g} px a slice",
        "rms_px": round(rms(drifting[0] - original[0], walk), 3),
        "pystackreg_rms_px": round(rms(drifting[1] - original[1], walk), 3),
        "seconds": round(times["drifting"], 1),
        "pystackreg_seconds": round(drifting[2], 1),
        "bad": str(list(alignment.bad)),
        "jumps": str(list(alignment.jumps)),
        "rms_px_raw": round(rms(drifting[0], walk), 3),
        "pystackreg_rms_px_raw": round(rms(drifting[1], walk), 3),
    }


def error(seeds: list[int]) -> None:
    """Write the table of errors."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [phantom_error(Path(folder))]
        rows += [stack_error(name, Path(folder), seed) for name in STACKS for seed in seeds]
    write("alignment_error", rows)


def median_time(work: Callable[[], Any], times: int = 5) -> float:
    """Return the median wall time of ``work`` after one call that is not timed."""
    work()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def large_phantom(folder: Path, slices: int) -> Sample:
    """Draw slices of 24 Mpx with drift.

    The anatomy is drawn once and enlarged, so that it takes minutes instead of an hour.
    """
    tissue = PhantomSettings(
        shape=(slices, 4000, 6000), voxel_nm=(8, 4, 4), cells=12, seed=4, drift_nm=10
    )
    return phantom(folder / "big.zarr", tissue, on=Execution(workers=2))


def speed(slices: int) -> None:
    """Time a slice of 24 Mpx on one core, step by step and as a command.

    pystackreg is timed on one pair of slices.
    """
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        sample = large_phantom(Path(folder), slices)
        image = sample.image("raw")
        first, second = image.read(slice(0, 1))[0], image.read(slice(1, 2))[0]
        details = extract_detail(first), extract_detail(second)
        table = sample.read_table("phantom_slices")
        true = (
            -np.array([np.diff(table[f"drift_{axis}_nm"].to_numpy()[:2])[0] for axis in "yx"]) / 4
        )
        shift = register(*details).motion[:, 2]
        motion = np.array([[1, 0, 3.3], [0, 1, -2.6]])
        rows = [
            {"what": "read a slice", "seconds": median_time(lambda: image.read(slice(0, 1)))},
            {"what": "detail of a slice", "seconds": median_time(lambda: extract_detail(first))},
            {"what": "register a pair", "seconds": median_time(lambda: register(*details))},
            {
                "what": "move a slice (cubic)",
                "seconds": median_time(lambda: warp(first, motion, first.shape, "cubic")),
            },
        ]
        start = time.perf_counter()
        alignment = align(sample, AlignSettings())
        rows.append(
            {
                "what": "align, a slice of the whole command",
                "seconds": (time.perf_counter() - start) / slices,
            }
        )
        drift = -np.stack([table[f"drift_{axis}_nm"].to_numpy() for axis in "yx"], axis=1) / 4
        print(f"error of the stack: {rms(shifts_of(alignment.motions, image.shape), drift):.3f} px")
        peer_shifts, peer_seconds = pystackreg_shifts(np.stack([first, second]))
        rows.append({"what": "pystackreg, a pair", "seconds": peer_seconds})
        errors = {
            "register a pair": np.linalg.norm(shift - true),
            "pystackreg, a pair": np.linalg.norm(peer_shifts[1] - peer_shifts[0] - true),
        }
        for row in rows:
            row["seconds"] = round(float(str(row["seconds"])), 3)
            row["error_px"] = round(float(errors[row["what"]]), 3) if row["what"] in errors else ""
    write("alignment_speed", rows)


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["error", "speed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--slices", type=int, default=6)
    arguments = parser.parse_args()
    benchmarks = {
        "error": lambda: error(arguments.seeds),
        "speed": lambda: speed(arguments.slices),
    }
    benchmarks[arguments.what]()


if __name__ == "__main__":
    main()
