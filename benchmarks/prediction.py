"""Prediction: its time relative to the network alone, and its memory for 100 and for 800 slices.

    python benchmarks/prediction.py overhead [--slices 16] [--device cpu]
    python benchmarks/prediction.py memory

Both write their own stack of 2 Mpx slices; results are appended to benchmarks/results/. The
overhead is the wall time of the whole ``predict`` (reading, shrinking, tiling, blending, enlarging,
writing, pyramids) over that of the network alone on the same tiles in the same batches. Both are
measured alternately within one run.
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
from sparsem.models.checkpoint import Recipe, save_checkpoint
from sparsem.models.device import choose_device
from sparsem.phantom.phantom import phantom
from sparsem.phantom.settings import PhantomSettings
from sparsem.segment.ensemble import choose_engine, load_networks, settings_for_device
from sparsem.segment.inference import plan_tiles
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.settings import changed
from sparsem.store.sample import Sample
from sparsem.training.settings import TrainSettings
from sparsem.workflow.execution import Execution

RESULTS = Path(__file__).parent / "results"
EDGE = 1448  # 2.1 Mpx


def prepare(
    folder: Path, slices: int, width: int, context_px: int, input_px: int
) -> tuple[Sample, Path]:
    """Draw a phantom, and train a network on it.

    The network is trained for a few updates: its output has the shape of objects, as in practice,
    instead of noise.
    """
    settings = PhantomSettings(shape=(slices, EDGE, EDGE), voxel_nm=(8, 8, 8), cells=12)
    sample = phantom(folder / "s.zarr", settings, on=Execution(workers=2, quiet=True))
    for name in ("nucleus", "mitochondrion"):
        labels = [sample.volume("truth", name).read(slice(z, z + 1))[0] for z in (0, slices - 1)]
        write_annotation(sample, name, (0, slices - 1), labels)
    training = TrainSettings(
        structures=("nucleus", "mitochondrion"),
        width=width,
        context_px=context_px,
        input_px=input_px,
        updates=150,
        ema=0.9,
    )
    train_network([sample], folder / "m.safetensors", training)
    return sample, folder / "m.safetensors"


def network_seconds(sample: Sample, model: Path, settings: PredictSettings) -> float:
    """Return the seconds of the network alone on the same number of tiles."""
    image = sample.image()
    engine = choose_engine([model], image, settings, choose_device(settings.device))
    ((forward, recipe),) = load_networks([model], changed(settings, {"engine": engine}))
    _, height, width = image.shape
    factors = recipe.factors(image.voxel_size)
    grid, batch = plan_tiles(recipe, (height, width), factors, settings.overlap, settings.batch)
    tiles = np.random.default_rng(0).standard_normal((batch, 1, grid.tile, grid.tile), np.float32)
    remaining = image.shape[0] * len(grid.corners)
    forward(tiles)
    start = time.monotonic()
    while remaining > 0:
        forward(tiles)
        remaining -= batch
    return time.monotonic() - start


def overhead(
    slices: int, device: str, width: int, context_px: int, input_px: int
) -> dict[str, object]:
    """Measure ``predict`` and the network alone, three times in turn; return the median."""
    with tempfile.TemporaryDirectory() as folder:
        sample, model = prepare(Path(folder), slices, width, context_px, input_px)
        settings = settings_for_device(device)
        ratios, times = [], []
        for _ in range(3):
            network_s = network_seconds(sample, model, settings)
            start = time.monotonic()
            predict(sample, model, settings, on=Execution(overwrite=True, quiet=True))
            predict_s = time.monotonic() - start
            subprocess.run(
                ["rm", "-rf", *(str(sample.path / name) for name in ("probabilities", "labels"))],
                check=True,
            )
            ratios.append(predict_s / network_s)
            times.append((predict_s, network_s))
    median = sorted(ratios)[1]
    predict_s, network_s = times[ratios.index(median)]
    return {
        "slices": slices,
        "mpx": round(EDGE**2 / 1e6, 1),
        "width": width,
        "context_px": context_px,
        "input_px": input_px,
        "device": device,
        "predict_s": round(predict_s, 2),
        "network_s": round(network_s, 2),
        "ratio": round(median, 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
    }


def memory_of(slices: int) -> dict[str, object]:
    """Measure the peak memory of a process that predicts a stack of another process."""
    imports = (
        "import sys; sys.path.insert(0, sys.argv[1]); import prediction; from pathlib import Path; "
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(__file__).parent), folder]
        write_code = imports + f"prediction.write_noise(Path(sys.argv[2]), {slices})"
        subprocess.run([sys.executable, "-c", write_code, *paths], check=True)
        predict_code = imports + "print(prediction.measure_prediction(Path(sys.argv[2])))"
        command = [sys.executable, "-c", predict_code, *paths]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"slices": slices, "mpx": round(EDGE**2 / 1e6, 1), **json.loads(result.stdout)}


def write_noise(folder: Path, slices: int) -> None:
    """Write a stack of noise, and a network with random weights."""
    import tifffile

    from sparsem.io.ingest import import_stack
    from sparsem.io.settings import ImportSettings

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


def measure_prediction(folder: Path) -> str:
    """Predict, and return time and peak memory as JSON."""
    start = time.monotonic()
    predict(Sample.open(folder / "s.zarr"), folder / "m.safetensors")
    return json.dumps(
        {"peak_gb": round(peak_gb(), 3), "predict_s": round(time.monotonic() - start, 1)}
    )


def write(name: str, rows: list[dict[str, object]]) -> None:
    """Append rows to results/NAME.csv."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.csv").open("a", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    """Run the benchmark that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("overhead", "memory"))
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--read", type=int, default=256, help="--context-px of the network")
    parser.add_argument("--see", type=int, default=128, help="--input-px of the network")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    if arguments.what == "overhead":
        rows = [
            overhead(
                arguments.slices,
                arguments.device,
                arguments.width,
                arguments.read,
                arguments.see,
            )
        ]
    else:
        rows = [memory_of(slices) for slices in (100, 800)]
    for row in rows:
        print(row)
    write(f"prediction_{arguments.what}", rows)


if __name__ == "__main__":
    main()
