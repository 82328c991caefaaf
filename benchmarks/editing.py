"""Edits of objects in a large label volume: seconds and memory.

    python benchmarks/editing.py [--edge 1000] [--folder /tmp]

Writes labels of EDGE^3 voxels, in which balls of 60 voxels stand in a grid and two of them are
joined by a bridge, and times index, merge, split, delete and undo. Each edit is one call as a user
makes it. Memory is the peak of the process minus what it had before.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rows import peak_gb, save
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.labels import edit
from sparsem.labels.object_index import object_index
from sparsem.settings import Settings
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage

PITCH = 80  # between the middles of two balls
RADIUS = 30
DEPTH = 16
QUIET = Execution(quiet=True)


def ball_labels(block: ZBlock, edge: int) -> NDArray[np.uint32]:
    """Return the labels of a block: the number of a ball is that of its place in the grid."""
    z = np.arange(block.start, block.stop)
    yx = np.arange(edge)
    n = -(-edge // PITCH)
    offsets = [(axis % PITCH - PITCH / 2) ** 2 for axis in (z, yx)]
    distance = offsets[0][:, None, None] + offsets[1][None, :, None] + offsets[1][None, None, :]
    numbers = (z // PITCH)[:, None, None] * n * n + (yx // PITCH)[None, :, None] * n
    numbers = numbers + (yx // PITCH)[None, None, :] + 1
    labels = np.where(distance < RADIUS**2, numbers, 0).astype(np.uint32)
    middle = PITCH // 2
    bridge = np.abs(z - middle) < 3
    labels[bridge, middle - 3 : middle + 3, middle : middle + PITCH] = 1
    labels[labels == 2] = 1
    return labels


def _block(block: ZBlock, edge: int) -> BlockResult:
    return {"labels/cells": ball_labels(block, edge)}, {}


def make_sample(path: Path, edge: int) -> Sample:
    """Write a sample of labels only."""
    shutil.rmtree(path, ignore_errors=True)
    sample = Sample.create(path)
    shape = (edge, edge, edge)
    spec = volume_spec("labels/cells", shape, np.uint32, Kind.LABELS, VoxelSize(8, 8, 8), DEPTH)
    with Stage(sample, "balls", Settings(), {}, [spec], QUIET) as stage:
        stage.map(_block, z_blocks(edge, DEPTH), edge)
    return sample


def timed(what: str, edge: int, action: Callable[[], object]) -> None:
    """Run an action, and print and append its row."""
    before = peak_gb()
    started = time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    row = {
        "what": what,
        "voxels": edge**3,
        "seconds": round(seconds, 2),
        "more_gb": round(peak_gb() - before, 2),
    }
    save("editing", row)


def main() -> None:
    """Run all edits on a new sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp"))
    options = parser.parse_args()
    edge = options.edge
    path = options.folder / f"balls{edge}.zarr"
    timed("write the labels", edge, lambda: make_sample(path, edge))
    sample = Sample.open(path)
    timed("index, once", edge, lambda: object_index(sample, "cells", quiet=True))
    half = PITCH // 2
    seeds = [(half, half, half)], [(half, half, half + PITCH)]
    edits: dict[str, Callable[[], object]] = {
        "merge two objects": lambda: edit.merge(sample, "cells", [3, 4], on=QUIET),
        "split an object": lambda: edit.split(sample, "cells", 1, *seeds, on=QUIET),
        "delete an object": lambda: edit.delete(sample, "cells", [40], on=QUIET),
        "undo": lambda: edit.undo(sample, "cells", on=QUIET),
    }
    for what, action in edits.items():
        timed(what, edge, action)
    shutil.rmtree(path)


if __name__ == "__main__":
    main()
