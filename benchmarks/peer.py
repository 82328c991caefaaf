"""Prediction with the same network and tiles by sparsem and by MONAI: time and peak memory.

    python benchmarks/peer.py [--slices 100] [--width 16] [--sides sparsem "monai float32"]

The stack has slices of 24 Mpx (6000 x 4000) and one structure. Tiles of 256 px are shrunk to 128 px
and overlap by a quarter; sparsem computes tiles twice as long, with the same overlap in pixels.
Every program runs in a process of its own, one after the other: sparsem with its defaults, in 8-bit
integers, with torch in float32, the bare compiled network on as many tiles, and MONAI's
sliding-window inference in float32 and in bfloat16. MONAI gets one slice after the other; the
functions of sparsem shrink, enlarge and write it. In addition, sparsem writes coarser levels,
labels and a resumable state. MONAI must be installed.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import zarr

from rows import peak_gb
from sparsem.io.ingest import import_stack
from sparsem.io.settings import ImportSettings
from sparsem.models.checkpoint import Recipe, load_checkpoint, save_checkpoint
from sparsem.models.device import autocast, choose_device, keep_freed_memory, resolve_precision
from sparsem.models.engine import compile_network
from sparsem.models.quantization import measure_ranges
from sparsem.phantom.phantom import phantom_slice
from sparsem.phantom.settings import PhantomSettings
from sparsem.segment.inference import plan_tiles, quantize_probability
from sparsem.segment.predict import predict
from sparsem.segment.settings import PredictSettings
from sparsem.segment.tiles import enlarge, shrink
from sparsem.settings import Precision
from sparsem.store.sample import Sample
from sparsem.store.volume import FOREGROUND
from sparsem.workflow.execution import Execution

RESULTS = Path(__file__).parent / "results"
SHAPE = (4000, 6000)
BATCH = 16


def write_inputs(folder: Path, slices: int, width: int) -> None:
    """Write a stack that resembles tissue, and a network with random weights.

    Neither changes the cost of inference.
    """
    crop = phantom_slice(
        PhantomSettings(shape=(1, 1000, 1500), voxel_nm=(8, 8, 8), cells=6), 0
    ).image
    plane = np.tile(crop, (4, 4))
    with tifffile.TiffWriter(folder / "raw.tif", bigtiff=True) as tiff:
        rolled = (np.roll(plane, 7 * z, axis=1) for z in range(slices))
        tiff.write(rolled, shape=(slices, *SHAPE), dtype=np.uint8, photometric="minisblack")
    import_stack(
        folder / "raw.tif", folder / "s.zarr", ImportSettings(voxel_nm=(8, 8, 8), block_depth=4)
    )
    recipe = Recipe("resunet", width, ("nucleus",), 128, (16.0, 16.0), 128.0, 30.0)
    network = recipe.build().eval()
    ranges = measure_ranges(network, [torch.randn(4, 1, 128, 128)])
    save_checkpoint(folder / "m.safetensors", network, replace(recipe, ranges=ranges))


def by_sparsem(folder: Path, **changes: Any) -> None:
    """Predict with the function of the command ``predict``."""
    sample = Sample.open(folder / "s.zarr")
    predict(sample, folder / "m.safetensors", PredictSettings(batch=BATCH), **changes)


def by_sparsem_in_a_copy(folder: Path, name: str, **changes: Any) -> None:
    """Predict as ``by_sparsem`` with changed settings, in a copy of the sample."""
    shutil.copytree(folder / "s.zarr", folder / name)
    sample = Sample.open(folder / name)
    for outputs in ("probabilities", "labels"):
        shutil.rmtree(sample.path / outputs, ignore_errors=True)
    settings = PredictSettings(batch=BATCH, **changes)
    predict(sample, folder / "m.safetensors", settings, on=Execution(overwrite=True))


def by_bare_engine(folder: Path) -> None:
    """Run the compiled network on as many tiles as ``predict`` does, and nothing else."""
    sample = Sample.open(folder / "s.zarr")
    network, recipe = load_checkpoint(folder / "m.safetensors")
    precision = resolve_precision(choose_device("cpu"), "auto")
    image = sample.image()
    _, *shape = image.shape
    factors = recipe.factors(image.voxel_size)
    overlap = PredictSettings().overlap
    grid, batch = plan_tiles(recipe, (shape[0], shape[1]), factors, overlap, BATCH)
    n_tiles = image.shape[0] * len(grid.corners)
    keep_freed_memory()
    batch_shape = (batch, 1, grid.tile, grid.tile)
    tiles = np.random.default_rng(0).normal(size=batch_shape).astype(np.float32)
    forward = compile_network(network, batch_shape, precision)
    for _ in range(-(-n_tiles // batch)):
        forward(tiles)


def by_monai(folder: Path, precision: Precision) -> None:
    """Predict with MONAI slice by slice, as in its documentation."""
    sliding_window_inference: Any = import_module("monai.inferers").sliding_window_inference

    keep_freed_memory()
    image = Sample.open(folder / "s.zarr").image()
    network, recipe = load_checkpoint(folder / "m.safetensors")
    device = choose_device("auto")
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    factors = recipe.factors(image.voxel_size)
    stores = [
        zarr.create_array(
            folder / f"monai-{precision}-{name}.zarr",
            shape=image.shape,
            chunks=(1, 512, 512),
            dtype=np.uint8,
        )
        for name in ("p", "l")
    ]

    def forward(tiles: Any) -> Any:
        with autocast(device, precision):
            return network(tiles.contiguous(memory_format=torch.channels_last)).float()

    for z in range(image.shape[0]):
        voxels = image.read(slice(z, z + 1))[0]
        small = (shrink(voxels, factors) - np.float32(recipe.mean)) / np.float32(recipe.std)
        with torch.inference_mode():
            tensor = torch.from_numpy(small)[None, None].to(device)
            logits = sliding_window_inference(
                tensor,
                (recipe.input_px, recipe.input_px),
                BATCH,
                forward,
                overlap=0.25,
                mode="gaussian",
            )
            probability = logits.sigmoid()[0].cpu().numpy()
        gray = quantize_probability(enlarge(probability, (voxels.shape[0], voxels.shape[1])))[0]
        stores[0][z], stores[1][z] = gray, (gray >= FOREGROUND).view(np.uint8)


SIDES: dict[str, Callable[[Path], None]] = {
    "sparsem": by_sparsem,
    "sparsem, int8": partial(by_sparsem_in_a_copy, name="int8.zarr", precision="int8"),
    "sparsem, torch float32": partial(
        by_sparsem_in_a_copy, name="torch.zarr", engine="torch", precision="float32"
    ),
    "bare engine": by_bare_engine,
    "monai float32": partial(by_monai, precision="float32"),
    "monai bfloat16": partial(by_monai, precision="bfloat16"),
}


def label_difference(folder: Path, name: str) -> float:
    """Return the fraction of voxels whose label in a sample differs from that of torch."""
    labels = [
        Sample.open(folder / sample).volume("labels", "nucleus") for sample in (name, "torch.zarr")
    ]
    differing = 0
    for z in range(labels[0].shape[0]):
        first, second = (volume.read(slice(z, z + 1)) for volume in labels)
        differing += int((first != second).sum())
    return differing / np.prod(labels[0].shape)


def measure_side(side: str, folder: Path) -> str:
    """Predict with one of the programs, and return time and peak memory as JSON."""
    start = time.monotonic()
    SIDES[side](folder)
    return json.dumps(
        {
            "side": side,
            "seconds": round(time.monotonic() - start, 1),
            "peak_gb": round(peak_gb(), 3),
        }
    )


def main() -> None:
    """Run both programs, one after the other, and append the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--side", choices=SIDES, help="internal: the program of a process")
    parser.add_argument("--folder", type=Path, help="internal: the folder of the inputs")
    arguments = parser.parse_args()
    if arguments.side:
        print(measure_side(arguments.side, arguments.folder))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments.slices, arguments.width)
        rows = []
        for side in arguments.sides:
            command = [sys.executable, __file__, "--side", side, "--folder", folder]
            result = subprocess.run(command, check=True, capture_output=True, text=True)
            measured = json.loads(result.stdout.splitlines()[-1])
            row = {"slices": arguments.slices, "mpx": 24, "width": arguments.width}
            rows.append(row | measured)
            print(rows[-1], flush=True)
        compared = ("s.zarr", "int8.zarr") if arguments.sides == list(SIDES) else ()
        for name in compared:
            difference = label_difference(Path(folder), name)
            print(f"{name}: labels that differ from torch: {difference:.2g}")
    with (RESULTS / "peer.csv").open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        if file.tell() == 0:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
