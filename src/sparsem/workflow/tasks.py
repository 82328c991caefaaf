"""The smallest pieces of a stage: a z-block, or a link of a chain.

Each computes, writes its arrays, and only then counts as done.

A block's chunks are followed by a marker that carries the stage's fingerprint and the block's
summary. A link's arrays lie in a folder that gets its name when it is complete. Every piece is
picklable and runs in any process.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from sparsem.errors import SampleError
from sparsem.geometry import ZBlock
from sparsem.store.chunks import write_plain
from sparsem.store.lazy import LazyArray
from sparsem.store.pyramid import coarser
from sparsem.store.volume import Kind, VolumeSpec, process_name, write_atomically

Arrays = Mapping[str, NDArray[Any]]
BlockResult = tuple[Arrays, Mapping[str, Any]]
BlockFunction = Callable[..., BlockResult]
LinkFunction = Callable[..., Arrays]
ChunkRule = Callable[[tuple[int, ...]], tuple[int, ...]]

ONE_FILE = ".npz"  # ending of the file of a link
STATE = "state"  # beginning of the names of arrays that only the next link of a chain reads
# Arrays of links are read soon and then removed: this is read five times as fast as Zarr's default.
TEMPORARY_CODEC = ZstdCodec(level=1)


def link_arrays(folder: Path, chain: str, number: int) -> Mapping[str, "zarr.Array[Any]"]:
    """Return the arrays of a link of a chain on disk by name, without those of its state."""
    return dict(zarr.open_group(store=folder / f"{chain}-{number}", mode="r").arrays())


def read_link(folder: Path, chain: str, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Read arrays of the only link of a chain into memory, by default all."""
    file = folder / f"{chain}-0{ONE_FILE}"
    if not file.exists():
        stored = link_arrays(folder, chain, 0)
        return {name: np.asarray(stored[name][...]) for name in names or stored}
    with np.load(file, allow_pickle=False) as content:
        return {name: content[name] for name in names or content.files}


@dataclass(frozen=True)
class Link:
    """One link of a chain: a folder of arrays, and next to it the state for the next link.

    The folder gets its name when it is complete.

    Attributes:
        folder: folder of all chains of the stage.
        chain: name of the chain.
        number: position of the link in its chain, from 0.
        in_one_file: the arrays are small, or read whole, and lie in one file instead of a folder;
            there is no state.
    """

    folder: Path
    chain: str
    number: int
    in_one_file: bool = False

    def is_done(self) -> bool:
        """Return whether the arrays of the link are complete."""
        return self._path(self.number, self._suffix).exists()

    @property
    def _suffix(self) -> str:
        return ONE_FILE if self.in_one_file else ""

    def _path(self, number: int, suffix: str = "") -> Path:
        return self.folder / f"{self.chain}-{number}{suffix}"

    def run(self, function: LinkFunction, link: Any, *arguments: Any) -> None:
        """Write what ``function(link, before, *arguments)`` returns, if that is not done yet.

        A scheduler that lost contact with a worker runs a link twice; both results are the same.
        """
        if self.is_done():
            return
        if self.in_one_file:
            self._store_in_one_file(function(link, None, *arguments))
            return
        previous_state = self._path(self.number - 1, ".state")
        try:
            before = _read_group(previous_state) if self.number else None
        except (OSError, KeyError):
            if not self.is_done():
                raise
            return  # another worker was faster, and has removed the state
        self._store_with_state(function(link, before, *arguments))
        shutil.rmtree(previous_state, ignore_errors=True)  # large, and not needed again

    def _store_with_state(self, arrays: Arrays) -> None:
        state = {name: array for name, array in arrays.items() if name.startswith(STATE)}
        results = {name: array for name, array in arrays.items() if name not in state}
        self._store(state, ".state", _one_chunk)
        self._store(results, "", _chunk_per_slice)

    def _store_in_one_file(self, arrays: Arrays) -> None:
        self.folder.mkdir(exist_ok=True)
        content = BytesIO()
        np.savez(content, **dict[str, Any](arrays))
        write_atomically(self._path(self.number, ONE_FILE), content.getvalue())

    def _store(self, arrays: Arrays, suffix: str, chunk_rule: ChunkRule) -> None:
        unfinished = self._path(self.number, f"{suffix}.{process_name()}.partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        group = zarr.create_group(store=unfinished)
        for name, array in arrays.items():
            chunks = chunk_rule(array.shape)
            group.create_array(name, data=array, chunks=chunks, compressors=TEMPORARY_CODEC)
        complete = self._path(self.number, suffix)
        try:
            os.replace(unfinished, complete)
        except OSError:
            if not complete.exists():
                raise
            shutil.rmtree(unfinished)  # another worker was faster


def _read_group(folder: Path) -> dict[str, NDArray[Any]]:
    arrays = zarr.open_group(store=folder, mode="r").arrays()
    return {name: np.asarray(array[...]) for name, array in arrays}


def _one_chunk(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(max(1, length) for length in shape)


def _chunk_per_slice(shape: tuple[int, ...]) -> tuple[int, ...]:
    whole = _one_chunk(shape)
    return (1, *whole[1:]) if len(shape) > 2 else whole


@dataclass(frozen=True)
class BlockTask:
    """One block of the first level of a run.

    It is computed; its chunks and those of the run's other levels are written, then its marker.

    Attributes:
        work: folder of the unfinished result.
        fingerprint: fingerprint of the stage.
        run_number: number of the run of levels (see ``VolumeSpec.level_runs``).
        block: the z-block, in slices of the run's first level.
        outputs: the volumes of which the block is written.
        name: distinguishes the markers of coarser levels of several outputs.
    """

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
        """Return whether the block has a marker with this run's fingerprint."""
        if not self._marker.exists():
            return False
        return bool(read_record(self._marker)["fingerprint"] == self.fingerprint)

    def summary(self) -> dict[str, Any]:
        """Return the summary that the block's function returned."""
        return dict(read_record(self._marker)["summary"])

    def run(self, function: BlockFunction, *arguments: Any) -> None:
        """Write what ``function(*arguments)`` returns, then the marker, if that is not done yet."""
        if self.is_done():
            return
        arrays, summary = function(*arguments)
        for output in self.outputs:
            if output.path in arrays:
                self._write(arrays[output.path], output)
        unknown = set(arrays) - {output.path for output in self.outputs}
        if unknown:
            raise AssertionError(f"{sorted(unknown)} are not among the outputs of this stage")
        marker = {"fingerprint": self.fingerprint, "summary": summary}
        write_atomically(self._marker, json.dumps(marker).encode())

    def _write(self, voxels: NDArray[Any], output: VolumeSpec) -> None:
        """Write the block, and while it is in memory its coarser levels."""
        start = self.block.start
        stop = self.block.stop
        factors = output.level_factors()
        for index, (level, _) in enumerate(output.level_runs()[self.run_number]):
            if index:
                voxels = coarser(voxels, factors[level], output.kind is Kind.LABELS)
                depth_factor = factors[level][0]
                start = start // depth_factor
                stop = -(-stop // depth_factor)
            folder = self.work / "out" / output.path / str(level)
            array = zarr.open_array(store=folder, mode="r")
            if voxels.dtype != array.dtype or voxels.shape != (stop - start, *array.shape[1:]):
                raise AssertionError(
                    f"{output.path}: a block of {voxels.shape} {voxels.dtype} does not fit "
                    f"{array.shape} {array.dtype}"
                )
            write_plain(folder, array, start, voxels)


def coarser_block(block: ZBlock, fine: Path, output: VolumeSpec, level: int) -> BlockResult:
    """Compute a block of a level from the level below it, the array ``fine``."""
    factors = output.level_factors()[level]
    depth_factor = factors[0]
    fine_voxels = LazyArray(fine)[block.start * depth_factor : block.stop * depth_factor]
    return {output.path: coarser(fine_voxels, factors, output.kind is Kind.LABELS)}, {}


def read_record(file: Path) -> dict[str, Any]:
    """Read a record or marker that a stage wrote.

    Raises:
        SampleError: the file is damaged.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        content["record" if "record" in content else "summary"]
        return dict(content)
    except (ValueError, TypeError, KeyError):
        raise SampleError(
            f"{file} is damaged; remove it, and the stage that it belongs to is computed again."
        ) from None
