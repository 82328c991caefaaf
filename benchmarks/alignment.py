"""Alignment: error against a known drift, and time, beside pystackreg in the same run.

    python benchmarks/alignment.py error      # the phantom with every fault; EPFL and FIB-25 with a known drift added
    python benchmarks/alignment.py speed      # slices of 24 Mpx, one core

``SPARSEM_DATA`` names the folder of the real stacks; pystackreg is needed for ``error`` and ``speed``.
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

from sparsem.io.ingest import ImportSettings, import_stack
from sparsem.phantom.phantom import PhantomSettings, phantom
from sparsem.preprocess.align import AlignSettings, align
from sparsem.preprocess.detail import extract_detail
from sparsem.preprocess.registration import register
from sparsem.store.sample import Sample
from sparsem.store.transforms import Motion, moved
from sparsem.workflow.execution import Execution

RESULTS = Path(__file__).with_name("results")
DATA = Path(os.environ.get("SPARSEM_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
STACKS = {  # file, voxel in nm, step of the random walk in px: FIB-25 is 250 px wide and 250 slices long
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


def rms(found: Shifts, true: Shifts) -> float:
    """RMS distance (n, 2) px of two drifts; only their common origin is free."""
    off = found - true
    return float(np.sqrt((np.square(off - off.mean(axis=0))).sum(axis=1).mean()))


def shifts_of(motions: Motion, shape: tuple[int, ...]) -> Shifts:
    """By how much each slice's content lies off in the image that was aligned, at its center."""
    center = np.append((np.array(shape[1:]) - 1) / 2, 1.0)
    return np.asarray(motions @ center - center[:2])


def stackreg(stack: NDArray[Any]) -> tuple[Shifts, float]:
    """The same by pystackreg, to the slice before, summed up; and its time."""
    from pystackreg import StackReg

    began = time.perf_counter()
    matrices = StackReg(StackReg.TRANSLATION).register_stack(stack, reference="previous")
    return matrices[:, :2, 2][:, ::-1], time.perf_counter() - began


def on_phantom(folder: Path) -> dict[str, Any]:
    """Every fault at once: noise, curtaining, flicker, two bad slices, and a jump of 300 px."""
    sample = phantom(folder / "phantom.zarr", FAULTY, on=Execution(workers=2))
    table = sample.read_table("phantom_slices")
    true = (
        -np.stack([table["drift_y_nm"].to_numpy(), table["drift_x_nm"].to_numpy()], axis=1)
        / FAULTY.voxel_nm[1]
    )
    good = ~table["bad"].to_numpy()
    began = time.perf_counter()
    found = align(sample, AlignSettings())
    ours = time.perf_counter() - began
    other, theirs = stackreg(sample.image("raw").read(slice(None)))
    shape = sample.image("raw").shape
    return {
        "stack": "phantom, every fault",
        "rms_px": round(rms(shifts_of(found.motions, shape)[good], true[good]), 3),
        "pystackreg_rms_px": round(rms(other[good], true[good]), 3),
        "seconds": round(ours, 1),
        "pystackreg_seconds": round(theirs, 1),
        "bad": f"{list(found.bad)} of {np.nonzero(~good)[0].tolist()}",
        "jumps": str(list(found.jumps)),
        "rms_px_raw": "",
        "pystackreg_rms_px_raw": "",
    }


def on_stack(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """A real stack with a known random walk added; what is recovered of it, beside the stack's own drift and slope."""
    file, voxel, step_px = STACKS[name]
    raw = tifffile.imread(DATA / file)
    walk = np.cumsum(np.random.default_rng(seed).normal(0, step_px, (len(raw), 2)), axis=0)
    walk -= (walk.max(axis=0) + walk.min(axis=0)) / 2
    rim = int(np.ceil(np.abs(walk).max())) + 2
    stacks = {"still": np.zeros_like(walk), "moved": walk}
    found, times = {}, {}
    for which, shift in stacks.items():
        motions = np.repeat(np.array([[[1, 0, rim], [0, 1, rim]]], float), len(raw), axis=0)
        motions[:, :, 2] -= shift  # content moves by the shift
        shape = tuple(length - 2 * rim for length in raw.shape[1:])
        stack = np.stack(
            [moved(one, motion, shape, "cubic") for one, motion in zip(raw, motions, strict=True)]
        )
        tifffile.imwrite(folder / f"{which}.tif", stack, photometric="minisblack")
        sample = import_stack(
            folder / f"{which}.tif",
            folder / f"{name}-{which}-{seed}.zarr",
            ImportSettings(voxel_nm=voxel),
        )
        began = time.perf_counter()
        ours = align(sample, AlignSettings(canvas="whole"))
        times[which] = time.perf_counter() - began
        found[which] = (shifts_of(ours.motions, stack.shape), *stackreg(stack))
    return {
        "stack": f"{name}, random walk of {step_px:g} px a slice",
        "rms_px": round(rms(found["moved"][0] - found["still"][0], walk), 3),
        "pystackreg_rms_px": round(rms(found["moved"][1] - found["still"][1], walk), 3),
        "seconds": round(times["moved"], 1),
        "pystackreg_seconds": round(found["moved"][2], 1),
        "bad": str(list(ours.bad)),
        "jumps": str(list(ours.jumps)),
        "rms_px_raw": round(rms(found["moved"][0], walk), 3),
        "pystackreg_rms_px_raw": round(rms(found["moved"][1], walk), 3),
    }


def error(seeds: list[int]) -> None:
    """Table of errors."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [on_phantom(Path(folder))]
        rows += [on_stack(name, Path(folder), seed) for name in STACKS for seed in seeds]
    write("alignment_error", rows)


def median_time(work: Callable[[], Any], times: int = 5) -> float:
    """Median wall time of ``work`` after one call that does not count."""
    work()
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return float(np.median(spent))


def big_phantom(folder: Path, slices: int) -> Sample:
    """Slices of 24 Mpx with drift; anatomy is drawn once and enlarged, so that it takes minutes and not an hour."""
    tissue = PhantomSettings(
        shape=(slices, 4000, 6000), voxel_nm=(8, 4, 4), cells=12, seed=4, drift_nm=10
    )
    return phantom(folder / "big.zarr", tissue, on=Execution(workers=2))


def speed(slices: int) -> None:
    """What a slice of 24 Mpx costs on one core, part by part and as a command; beside pystackreg on one pair."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        sample = big_phantom(Path(folder), slices)
        image = sample.image("raw")
        first, second = image.read(slice(0, 1))[0], image.read(slice(1, 2))[0]
        details = extract_detail(first), extract_detail(second)
        table = sample.read_table("phantom_slices")
        true = (
            -np.array([np.diff(table[f"drift_{axis}_nm"].to_numpy()[:2])[0] for axis in "yx"]) / 4
        )
        ours = register(*details).motion[:, 2]
        motion = np.array([[1, 0, 3.3], [0, 1, -2.6]])
        rows = [
            {"what": "read a slice", "seconds": median_time(lambda: image.read(slice(0, 1)))},
            {"what": "detail of a slice", "seconds": median_time(lambda: extract_detail(first))},
            {"what": "register a pair", "seconds": median_time(lambda: register(*details))},
            {
                "what": "move a slice (cubic)",
                "seconds": median_time(lambda: moved(first, motion, first.shape, "cubic")),
            },
        ]
        began = time.perf_counter()
        found = align(sample, AlignSettings())
        rows.append(
            {
                "what": "align, a slice of the whole command",
                "seconds": (time.perf_counter() - began) / slices,
            }
        )
        drift = -np.stack([table[f"drift_{axis}_nm"].to_numpy() for axis in "yx"], axis=1) / 4
        print(f"error of the stack: {rms(shifts_of(found.motions, image.shape), drift):.3f} px")
        other, theirs = stackreg(np.stack([first, second]))
        rows.append({"what": "pystackreg, a pair", "seconds": theirs})
        errors = {
            "register a pair": np.linalg.norm(ours - true),
            "pystackreg, a pair": np.linalg.norm(other[1] - other[0] - true),
        }
        for row in rows:
            row["seconds"] = round(float(str(row["seconds"])), 3)
            row["error_px"] = round(float(errors[row["what"]]), 3) if row["what"] in errors else ""
    write("alignment_speed", rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["error", "speed"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--slices", type=int, default=6)
    given = parser.parse_args()
    {"error": lambda: error(given.seeds), "speed": lambda: speed(given.slices)}[given.what]()


if __name__ == "__main__":
    main()
