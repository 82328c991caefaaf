"""Prediction: what it costs beyond the bare network, and how much memory it takes for 100 and for 800 slices.

    python benchmarks/prediction.py overhead [--slices 16] [--device cpu]
    python benchmarks/prediction.py memory

Both make their own stack of 2 Mpx slices; results go to benchmarks/results/. The overhead is the wall time of the whole
``predict`` (reading, shrinking, tiling, blending, enlarging, writing, pyramids) over that of the network alone on the same
tiles in the same batches, measured in turn within one run.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rows import peak_gb
from sparsem.annotation.writing import write_annotation
from sparsem.models.checkpoint import Recipe, load_checkpoint, save_checkpoint
from sparsem.models.device import choose_device
from sparsem.phantom.phantom import PhantomSettings, phantom
from sparsem.segment.inference import make_forward
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import PredictSettings, predict
from sparsem.segment.tiles import TileGrid, scaled_shape
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution

RESULTS = Path(__file__).parent / "results"
EDGE = 1448  # 2.1 Mpx


def make(folder: Path, slices: int, width: int, read: int, see: int) -> tuple[Sample, Path]:
    settings = PhantomSettings(shape=(slices, EDGE, EDGE), voxel_nm=(8, 8, 8), cells=12)
    sample = phantom(folder / "s.zarr", settings, on=Execution(workers=2, quiet=True))
    for name in ("nucleus", "mitochondrion"):
        labels = [sample.volume("truth", name).read(slice(z, z + 1))[0] for z in (0, slices - 1)]
        write_annotation(sample, name, (0, slices - 1), labels)
    # A network that has learnt a little: what it finds has the shape of objects, as in real use, and not of noise.
    settings_of = TrainSettings(
        structures=("nucleus", "mitochondrion"),
        width=width,
        context_px=read,
        input_px=see,
        updates=150,
        ema=0.9,
    )
    train_network([sample], folder / "m.safetensors", settings_of)
    return sample, folder / "m.safetensors"


def bare_seconds(sample: Sample, model: Path, settings: PredictSettings) -> float:
    """The network on as many tiles, nothing else."""
    network, recipe = load_checkpoint(model)
    forward = make_forward(network, choose_device(settings.device), settings.precision)
    shape = sample.image().shape
    grid = TileGrid(
        scaled_shape(shape[1:], recipe.factors(sample.voxel_size)),
        recipe.input_px,
        round(settings.overlap * recipe.input_px),
    )
    tiles = np.random.default_rng(0).standard_normal(
        (settings.batch, 1, recipe.input_px, recipe.input_px), np.float32
    )
    left = shape[0] * len(grid.corners)
    forward(tiles)
    started = time.monotonic()
    while left > 0:
        forward(tiles[:left])
        left -= settings.batch
    return time.monotonic() - started


def overhead(slices: int, device: str, width: int, read: int, see: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        sample, model = make(Path(folder), slices, width, read, see)
        settings = PredictSettings(device=device)
        ratios, times = [], []
        for _ in range(3):
            bare = bare_seconds(sample, model, settings)
            started = time.monotonic()
            predict(sample, model, settings, on=Execution(overwrite=True, quiet=True))
            whole = time.monotonic() - started
            subprocess.run(
                ["rm", "-rf", *(str(sample.path / name) for name in ("probabilities", "labels"))],
                check=True,
            )
            ratios.append(whole / bare)
            times.append((whole, bare))
    middle = sorted(ratios)[1]
    seconds = times[ratios.index(middle)]
    return {
        "slices": slices,
        "mpx": round(EDGE**2 / 1e6, 1),
        "width": width,
        "read": read,
        "see": see,
        "device": device,
        "predict_s": round(seconds[0], 2),
        "network_s": round(seconds[1], 2),
        "ratio": round(middle, 3),
        "ratio_least": round(min(ratios), 3),
        "ratio_most": round(max(ratios), 3),
    }


def memory_of(slices: int) -> dict[str, object]:
    """Peak memory of a process that predicts a stack; the stack is made by another."""
    with tempfile.TemporaryDirectory() as folder:
        code = "import sys; sys.path.insert(0, sys.argv[1]); import prediction as p; from pathlib import Path; "
        here = str(Path(__file__).parent)
        make_it = code + f"p.make_noise(Path(sys.argv[2]), {slices})"
        subprocess.run([sys.executable, "-c", make_it, here, folder], check=True)
        run_it = code + "print(p.predict_and_tell(Path(sys.argv[2])))"
        result = subprocess.run(
            [sys.executable, "-c", run_it, here, folder], check=True, capture_output=True, text=True
        )
    return {"slices": slices, "mpx": round(EDGE**2 / 1e6, 1), **json.loads(result.stdout)}


def make_noise(folder: Path, slices: int) -> None:
    import tifffile

    from sparsem.io.ingest import ImportSettings, import_stack

    random = np.random.default_rng(0)
    plane = random.integers(0, 255, (EDGE, EDGE), np.uint8)
    with tifffile.TiffWriter(folder / "raw.tif", bigtiff=True) as tiff:
        tiff.write(
            (np.roll(plane, z, axis=1) for z in range(slices)),
            shape=(slices, EDGE, EDGE),
            dtype=np.uint8,
            photometric="minisblack",
        )
    import_stack(folder / "raw.tif", folder / "s.zarr", ImportSettings(voxel_nm=(8, 8, 8)))
    recipe = Recipe("resunet", 2, ("nucleus",), 128, (64.0, 64.0), 0.6, 0.12)
    save_checkpoint(folder / "m.safetensors", recipe.build(), recipe)


def predict_and_tell(folder: Path) -> str:
    started = time.monotonic()
    predict(Sample.open(folder / "s.zarr"), folder / "m.safetensors")
    return json.dumps(
        {"peak_gb": round(peak_gb(), 3), "predict_s": round(time.monotonic() - started, 1)}
    )


def write(name: str, rows: list[dict[str, object]]) -> None:
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("overhead", "memory"))
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--read", type=int, default=256)
    parser.add_argument("--see", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if given.what == "overhead":
        rows = [overhead(given.slices, given.device, given.width, given.read, given.see)]
    else:
        rows = [memory_of(slices) for slices in (100, 800)]
    for row in rows:
        print(row)
    write(f"prediction_{given.what}", rows)


if __name__ == "__main__":
    main()
