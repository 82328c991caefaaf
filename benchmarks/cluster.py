"""What a scheduler costs: many workers, blocks that take no time, and files in one folder.

    python benchmarks/cluster.py --workers 1 16 256

All workers run in this process, so that the time of a block is that of the scheduler, of the
messages, and of the files of a block. It is an upper bound: workers on machines of their own do
not take turns with the scheduler. More than 16 workers are threads of 16.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, LocalCluster

from rows import save
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.store.volume import CHUNK_YX, Kind, VolumeSpec, create_volume, volume_spec
from sparsem.workflow.execution import Workers, spread
from sparsem.workflow.tasks import BlockResult, BlockTask

N_BLOCKS = 4000
TINY = (N_BLOCKS, 8, 8)
STACK = (2083, 4000, 6000)  # 50 gigavoxels
BLOCK_DEPTH = 16
MAX_PROCESSES = 16  # more workers are threads of these

Calls = Iterator[tuple[Callable[..., None], tuple[Any, ...]]]


def do_nothing(_number: int) -> None:
    """Compute a block that takes no time."""


def tiny_block(block: ZBlock) -> BlockResult:
    """Compute a block of a few voxels."""
    shape = (block.stop - block.start, TINY[1], TINY[2])
    return {"labels/tiny": np.ones(shape, np.uint8)}, {"voxels": math.prod(shape)}


def tiny_spec() -> VolumeSpec:
    """Return a volume with a slice in every block."""
    return volume_spec("labels/tiny", TINY, np.uint8, Kind.LABELS, VoxelSize(8, 8, 8), 1)


def empty_calls() -> Calls:
    """Yield calls that do nothing."""
    for number in range(N_BLOCKS):
        yield do_nothing, (number,)


def block_calls(folder: Path) -> Calls:
    """Yield calls that write a block and its marker."""
    spec = tiny_spec()
    (folder / "done").mkdir(parents=True)
    create_volume(folder / "out" / spec.path, spec, "0")
    for block in z_blocks(TINY[0], 1):
        yield BlockTask(folder, "0", 0, block, (spec,)).run, (tiny_block, block)


def milliseconds_a_block(n_workers: int, calls: Calls) -> float:
    """Return the time of a call on workers in this process."""
    with (
        LocalCluster(
            n_workers=min(n_workers, MAX_PROCESSES),
            threads_per_worker=max(1, n_workers // MAX_PROCESSES),
            processes=False,
            memory_limit=0,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        workers = Workers(client, n_workers)
        begun_s = time.perf_counter()
        n_finished = sum(1 for _ in spread(workers, calls))
        return 1000 * (time.perf_counter() - begun_s) / n_finished


def largest_folder(spec: VolumeSpec) -> int:
    """Return the number of entries in the largest folder of a volume, or of its markers."""
    n_blocks = math.ceil(spec.shape[0] / spec.block_depth)
    return max(n_blocks, *(math.ceil(length / CHUNK_YX) for length in spec.shape[1:]))


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 16, 256])
    arguments = parser.parse_args()
    for n_workers in arguments.workers:
        empty_ms = milliseconds_a_block(n_workers, empty_calls())
        with tempfile.TemporaryDirectory() as folder:
            written_ms = milliseconds_a_block(n_workers, block_calls(Path(folder)))
        row = {"workers": n_workers, "empty ms": empty_ms, "with its files ms": written_ms}
        save("cluster", {name: round(value, 2) for name, value in row.items()})
    spec = volume_spec("labels/a", STACK, np.uint8, Kind.LABELS, VoxelSize(8, 4, 4), BLOCK_DEPTH)
    print(f"{largest_folder(spec)} entries in the largest folder of a stack of {STACK} voxels")


if __name__ == "__main__":
    main()
