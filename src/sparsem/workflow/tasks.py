"""The smallest pieces of a stage: a z-block, or a link of a chain. Each computes, writes what it made, and only then is done.

A block's chunks are followed by a marker that carries the stage's fingerprint and the block's summary; a link's arrays lie in a folder
that gets its name when it is complete. Every piece is picklable and runs in any process.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.store.pyramid import coarser
from sparsem.store.volume import Kind, VolumeSpec, write_atomically

Arrays = Mapping[str, NDArray[Any]]
BlockResult = tuple[Arrays, Mapping[str, Any]]
BlockFunction = Callable[..., BlockResult]
LinkFunction = Callable[..., Arrays]


def link_arrays(folder: Path, chain: str, number: int) -> Mapping[str, "zarr.Array[Any]"]:
    """What a link of a chain returned, name to array on disk, but for its state."""
    return dict(zarr.open_group(store=folder / f"{chain}-{number}", mode="r").arrays())


@dataclass(frozen=True)
class Link:
    """One link of a chain: a folder of arrays that gets its name when it is complete, and beside it the state for the next link."""

    folder: Path
    chain: str
    number: int

    def is_done(self) -> bool:
        """Whether its arrays are there."""
        return self._place(self.number).is_dir()

    def _place(self, number: int, what: str = "") -> Path:
        return self.folder / f"{self.chain}-{number}{what}"

    def run(self, function: LinkFunction, link: Any, *arguments: Any) -> None:
        """Write what ``function(link, before, *arguments)`` returns."""
        last = self._place(self.number - 1, ".state")
        before = (
            {
                name: np.asarray(array[...])
                for name, array in zarr.open_group(store=last, mode="r").arrays()
            }
            if self.number
            else None
        )
        arrays = function(link, before, *arguments)
        state = {name for name in arrays if name.startswith("state")}
        self._store(
            {name: arrays[name] for name in state},
            ".state",
            lambda array: tuple(max(1, length) for length in array.shape),
        )
        kept = {name: array for name, array in arrays.items() if name not in state}
        self._store(
            kept,
            "",
            lambda array: (
                (1, *(max(1, length) for length in array.shape[1:]))
                if array.ndim > 2
                else array.shape
            ),
        )
        shutil.rmtree(last, ignore_errors=True)  # large, and nobody asks for it again

    def _store(
        self, arrays: Arrays, what: str, chunks: Callable[[NDArray[Any]], tuple[int, ...]]
    ) -> None:
        made = self._place(self.number, f"{what}.{os.getpid()}.partial")
        shutil.rmtree(made, ignore_errors=True)
        group = zarr.create_group(store=made)
        for name, array in arrays.items():
            group.create_array(
                name, data=array, chunks=tuple(max(1, length) for length in chunks(array))
            )
        place = self._place(self.number, what)
        if (
            not place.exists()
        ):  # a scheduler that lost sight of a worker has a link done twice; both make the same
            os.replace(made, place)
        else:
            shutil.rmtree(made)


@dataclass(frozen=True)
class BlockTask:
    """One block of the first level of a run: computes it, writes its chunks and those of the run's other levels, then its marker."""

    work: Path
    fingerprint: str
    run_number: int
    block: ZBlock
    outputs: tuple[VolumeSpec, ...]
    name: str = ""

    @property
    def _marker(self) -> Path:
        prefix = f"{self.name.replace('/', '.')}-" if self.name else ""
        return self.work / "done" / f"{prefix}{self.run_number}-{self.block.start}.json"

    def is_done(self) -> bool:
        """Whether its marker is there, with this run's fingerprint."""
        if not self._marker.exists():
            return False
        return bool(read_record(self._marker)["fingerprint"] == self.fingerprint)

    def summary(self) -> dict[str, Any]:
        """What its function said of the block."""
        return dict(read_record(self._marker)["summary"])

    def run(self, function: BlockFunction, *arguments: Any) -> None:
        """Write what ``function(*arguments)`` returns, then the marker."""
        arrays, summary = function(*arguments)
        for output in self.outputs:
            if output.path in arrays:
                self._write(arrays[output.path], output)
        unknown = set(arrays) - {output.path for output in self.outputs}
        if unknown:
            raise AssertionError(f"{sorted(unknown)} are not among the outputs of this stage")
        write_atomically(
            self._marker, json.dumps({"fingerprint": self.fingerprint, "summary": summary}).encode()
        )

    def _write(self, voxels: NDArray[Any], output: VolumeSpec) -> None:
        """The block, and while it is in memory its coarser levels."""
        start, stop = self.block.own.start, self.block.own.stop
        factors, levels = output.level_factors(), output.level_runs()[self.run_number]
        for index, (level, _) in enumerate(levels):
            if index:
                voxels = coarser(voxels, factors[level], output.kind is Kind.LABELS)
                start, stop = start // factors[level][0], -(-stop // factors[level][0])
            array = zarr.open_array(store=self.work / "out" / output.path / str(level), mode="r+")
            if voxels.dtype != array.dtype or voxels.shape != (stop - start, *array.shape[1:]):
                raise AssertionError(
                    f"{output.path}: a block of {voxels.shape} {voxels.dtype} does not fit {array.shape} {array.dtype}"
                )
            # Looking for empty chunks takes zarr 3.1 longer than writing them: half of all writing (measured).
            array.with_config({"write_empty_chunks": True})[start:stop] = voxels


def coarser_block(block: ZBlock, fine: Path, output: VolumeSpec, level: int) -> BlockResult:
    """A block of a level from the level below it, which lies in ``fine``."""
    factors = output.level_factors()[level]
    voxels = np.asarray(
        zarr.open_array(store=fine, mode="r")[block.start * factors[0] : block.stop * factors[0]]
    )
    return {output.path: coarser(voxels, factors, output.kind is Kind.LABELS)}, {}


def read_record(file: Path) -> dict[str, Any]:
    """A record or marker of ours.

    Raises:
        SampleError: it is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["record" if "record" in content else "summary"]
        return dict(content)
    except (ValueError, TypeError, KeyError):
        raise SampleError(
            f"{file} is damaged; remove it, and the stage it belongs to is done again."
        ) from None
