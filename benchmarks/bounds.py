"""How close every stage is to what it must do at least: read, write, and multiply.

    python benchmarks/scaling.py workers --slices 16     # core seconds of every stage
    python benchmarks/bounds.py SAMPLE MODEL             # a sample with the results of all stages

The bound of a stage is the time to decompress what it reads, to compress what it writes, with the
coarser levels, and for ``predict`` the multiplications of the network at the peak of the processor:
all on one core, each measured here. Work between reading and writing counts as nothing.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from rows import RESULTS, save
from sparsem.geometry import ZBlock
from sparsem.models.checkpoint import load_checkpoint, read_recipe
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume, create_volume
from sparsem.workflow.tasks import BlockResult, BlockTask

# Kinds of volumes that a stage reads and writes, each time that it must.
READS = {
    "import": [],
    "align": ["image", "image"],
    "equalize": ["image"],
    "predict": ["image"],
    "constrain": ["mask", "mask", "mask", "cells"],
    # once in both directions, and once when slices are separated
    "cells": 3 * ["image", "probability", "probability"],
    "track": ["cells", "cells"],
    "measure": ["image", "mask", "mask", "mask", "cells"],
}
WRITES = {
    "import": ["image"],
    "align": ["image"],
    "equalize": ["image"],
    "predict": 5 * ["mask", "probability"],
    "constrain": ["mask", "mask", "mask"],
    "cells": ["cells", "probability"],
    "track": ["cells"],
    "measure": [],
}
OVERLAP = 0.25  # of a tile, the default of predict
ROUNDS = 3
MATRIX = 2048


def fastest(work: Callable[[], object]) -> float:
    """Return the seconds of the fastest of a few rounds."""
    seconds = []
    for _ in range(ROUNDS):
        begun_s = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun_s)
    return min(seconds)


def volumes_of(sample: Sample) -> dict[str, Volume]:
    """Return a volume of every kind."""
    return {
        "image": sample.image("raw"),
        "mask": sample.volume("labels", "nucleus"),
        "cells": sample.volume("labels", "cells"),
        "probability": sample.volume("probabilities", "nucleus"),
    }


def read_seconds(volume: Volume) -> float:
    """Return the core seconds to read a gigavoxel of a volume."""
    block = volume.blocks()[0]
    n_voxels = np.prod(volume.read(block.own).shape)
    return fastest(lambda: volume.read(block.own)) / float(n_voxels) * 1e9


def write_seconds(volume: Volume) -> float:
    """Return the core seconds to write a gigavoxel of a volume with its coarser levels."""
    block = volume.blocks()[0]
    voxels = volume.read(block.own)
    spec = volume.like("labels/copy", volume.dtype, Kind.LABELS, ("raw", "0"))

    def same(_block: ZBlock) -> BlockResult:
        return {"labels/copy": voxels}, {}

    def write() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "done").mkdir()
            create_volume(folder / "out" / spec.path, spec, "0")
            BlockTask(folder, "0", 0, block, (spec,)).run(same, block)

    return fastest(write) / voxels.size * 1e9


def peak_flops() -> float:
    """Return the floating-point operations of a core in a second, of large matrices."""
    torch.set_num_threads(1)
    first, second = torch.randn(2, MATRIX, MATRIX)
    return 2 * MATRIX**3 / fastest(lambda: first @ second)


def network_flops(model: Path, volume: Volume) -> float:
    """Return the operations of the network for a gigavoxel, with the overlap of its tiles."""
    network, recipe = load_checkpoint(model)
    tile = 2 * read_recipe(model).input_px  # predict uses larger tiles than the training
    image = torch.zeros(1, 1, tile, tile)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(image)
    scale_y, scale_x = recipe.factors(volume.voxel_size)
    voxels_a_tile = (tile * (1 - OVERLAP / 2)) ** 2 * scale_y * scale_x
    return float(counter.get_total_flops()) / voxels_a_tile * 1e9


def measured_rates() -> dict[str, float]:
    """Return the core seconds a gigavoxel of every stage, as ``scaling.py`` measured them last."""
    with (RESULTS / "scaling.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["stage"]: float(row["core_s_a_gigavoxel"]) for row in rows if row["stage"] in READS}


def main() -> None:
    """Measure the bounds, and save a row for every stage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sample", type=Path)
    parser.add_argument("model", type=Path)
    arguments = parser.parse_args()
    volumes = volumes_of(Sample.open(arguments.sample))
    reading = {kind: read_seconds(volume) for kind, volume in volumes.items()}
    writing = {kind: write_seconds(volume) for kind, volume in volumes.items()}
    network_s = network_flops(arguments.model, volumes["image"]) / peak_flops()
    for stage, measured_s in measured_rates().items():
        bound_s = sum(reading[kind] for kind in READS[stage])
        bound_s += sum(writing[kind] for kind in WRITES[stage])
        bound_s += network_s if stage == "predict" else 0
        row = {"stage": stage, "core s a gigavoxel": round(measured_s), "bound": round(bound_s)}
        save("bounds", row | {"fraction": round(bound_s / measured_s, 2)})


if __name__ == "__main__":
    main()
