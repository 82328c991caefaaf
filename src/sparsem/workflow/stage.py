"""The work of every stage on a sample: checked, cut into z-blocks, resumed, recorded.

A stage applies a function to every z-block; the function returns arrays. They are collected under
``.sparsem/work/STAGE`` until all of them are complete, and then renamed into place, so a final name
never holds a part of a result. A finished block leaves a marker, which is renamed into place after
its chunks and carries the stage's fingerprint and the block's summary. A second run computes only
the blocks without a marker, and ends in the same bytes.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from sparsem import __version__
from sparsem.errors import ResumeError, SampleError
from sparsem.geometry import ZBlock, z_blocks
from sparsem.progress import Meter, print_note
from sparsem.settings import Settings, differences
from sparsem.store.sample import Sample, now
from sparsem.store.volume import (
    Volume,
    VolumeSpec,
    create_volume,
    json_bytes,
    put_in_place,
    write_atomically,
)
from sparsem.workflow.execution import HERE, Execution, Needs, Workers, spread, workers_of
from sparsem.workflow.settings import read_cluster
from sparsem.workflow.tasks import (
    Arrays,
    BlockFunction,
    BlockResult,
    BlockTask,
    Link,
    LinkFunction,
    coarser_block,
    link_arrays,
    read_link,
    read_record,
)

__all__ = [
    "Arrays",
    "BlockResult",
    "Stage",
    "earlier_setting",
    "fingerprint_of",
    "finished",
    "forget",
    "link_arrays",
    "read_link",
]

MAX_LEVELS = 64  # levels of an earlier raw image that may have to be removed

Summary = dict[str, Any]
Work = tuple[BlockTask | Link, Callable[..., Any], tuple[Any, ...]]


def fingerprint_of(record: Mapping[str, Any]) -> str:
    """Return a short hash of a JSON record; the order of its keys does not matter."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Stage:
    """One run of a stage on a sample, as a context manager.

    Attributes:
        sample: the sample that is written to.
        name: name of the stage, and of the folder of its unfinished work; stages that write
            different things need different names.
        settings: every setting that changes the result.
        inputs: what the stage reads, name to fingerprint.
        outputs: the volumes that the stage writes.
        on: how the work is run.
        needs: memory and disk, checked before anything is written; a function where the estimate
            takes a while.
        instead_of: volumes of an earlier result that this one does not have; they are removed when
            it is published.

    Raises:
        ResumeError: a result, finished or not, exists that was computed with other settings, and
            ``on.overwrite`` is not set.
        ResourceError: the work does not fit into memory or onto the disk.
        SampleError: another run writes to the sample.
    """

    sample: Sample
    name: str
    settings: Settings
    inputs: Mapping[str, str]
    outputs: Sequence[VolumeSpec]
    on: Execution = HERE
    needs: Needs | Callable[[], Needs] = Needs
    instead_of: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.record: dict[str, Any] = {
            "stage": self.name,
            "version": __version__,
            **{f"input {name}": fingerprint for name, fingerprint in self.inputs.items()},
            **self.settings.model_dump(mode="json"),
        }
        self.fingerprint = fingerprint_of(self.record)
        self._summaries: list[Summary] = []
        self._workers: Workers | None = None
        # One folder per fingerprint: a worker of an abandoned run can never write into another
        # run's result.
        self._runs = self.sample.path / ".sparsem" / "work" / self.name
        self._work = self._runs / self.fingerprint[:16]
        self._record_file = _record_of(self.sample, self.name)

    def __enter__(self) -> "Stage":
        with ExitStack() as resources:
            resources.enter_context(self.sample.locked())
            self.finished = self._is_finished()
            if self.finished:
                print_note(f"{self.name}: already done, with the same settings", self.on.quiet)
                shutil.rmtree(self._runs, ignore_errors=True)
            else:
                self.refuse_other()
                self._prepare()
            # The lock, and the workers as soon as there is work for them.
            self._resources = resources.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None or self.finished:
            # The workers must see the error: blocks that they still compute are given up with the
            # stage.
            self._resources.__exit__(kind, error, trace)
            return
        with self._resources:
            self._write_coarser_levels()
            self._publish()

    def map(
        self,
        function: BlockFunction,
        blocks: Sequence[ZBlock],
        *arguments: Any,
        of_block: Callable[[ZBlock], Any] | None = None,
    ) -> list[Summary]:
        """Run ``function(block, *arguments)`` for every block that is not done yet.

        The function returns arrays and a summary. The arrays are a mapping from an output's path to
        its (depth, y, x) voxels of the block; the summary is small and JSON. Function and arguments
        must be picklable; ``of_block`` computes one more argument for each block.

        Returns:
            The summaries of all blocks, in the order of the blocks.
        """
        if self.finished:
            return list(read_record(self._record_file)["summaries"])
        tasks = [self._task(block) for block in blocks]
        work: list[Work] = []
        for task in tasks:
            block_arguments = (of_block(task.block),) if of_block else ()
            work.append((task, function, (task.block, *arguments, *block_arguments)))
        self._run(self.name, [work])
        self._summaries = [task.summary() for task in tasks]
        return self._summaries

    def chain(
        self,
        title: str,
        function: LinkFunction,
        chains: Mapping[str, Sequence[Any]],
        *arguments: Any,
        in_process: bool = False,
        in_one_file: bool = False,
    ) -> Path:
        """Run work that proceeds from slice to slice.

        Several chains run in parallel, the links of each chain one after the other.

        ``function(link, before, *arguments)`` returns arrays. The next link of the chain receives
        those whose names begin with ``state`` as ``before`` (None for the first link). A link that
        is done is not computed again: the n-th link of a chain of a name must always be the same.

        Args:
            title: for the progress.
            function: computes one link; must be picklable, as its arguments.
            chains: name of a chain to its links.
            arguments: further arguments of every call.
            in_process: compute in this process, not on local workers. Sums whose order depends on
                the process are then the same with any number of workers.
            in_one_file: store the arrays of a link in one file, see ``read_link``.

        Returns:
            A folder for the blocks of ``map`` (see ``link_arrays`` and ``read_link``), which exists
            until the end of the stage.
        """
        folder = self._work / "chains"
        longest = max(map(len, chains.values()), default=0)
        rounds: list[list[Work]] = []
        for number in range(longest):
            round_work: list[Work] = []
            for name, links in chains.items():
                if number < len(links):
                    link_arguments = (links[number], *arguments)
                    link = Link(folder, name, number, in_one_file)
                    round_work.append((link, function, link_arguments))
            rounds.append(round_work)
        if not self.finished:
            self._run(title, rounds, in_process=in_process and not self.on.is_remote)
        return folder

    def forget(self) -> None:
        """Forget that the stage was finished before.

        It is called before the first of several files of its result is replaced.
        """
        forget(self.sample, self.name)

    def undone_blocks(self, blocks: Sequence[ZBlock]) -> list[ZBlock]:
        """Return the blocks that ``map`` has not computed yet."""
        if self.finished:
            return []
        return [block for block in blocks if not self._task(block).is_done()]

    def replaced_summaries(self) -> list[Summary]:
        """Return the summaries of the finished result that this run replaces.

        They are empty if its volumes are not in place.
        """
        volumes = [self.sample.path / output.path for output in self.outputs]
        is_complete = all((volume / "zarr.json").exists() for volume in volumes)
        if not self._record_file.exists() or not is_complete:
            return []
        earlier = _fingerprint_in(self._record_file)
        for output, volume in zip(self.outputs, volumes, strict=True):
            expected = fingerprint_of({"stage": earlier, "path": output.path})
            if Volume(volume).computed_fingerprint != expected:
                return []
        return list(read_record(self._record_file)["summaries"])

    def _task(self, block: ZBlock) -> BlockTask:
        return BlockTask(self._work, self.fingerprint, 0, block, tuple(self.outputs))

    def _is_finished(self) -> bool:
        has_record = _fingerprint_in(self._record_file) == self.fingerprint
        return has_record and all(map(self._is_published, self.outputs))

    def refuse_other(self) -> None:
        """Refuse to replace a result of other settings without ``on.overwrite``.

        A run that was begun may continue.

        Call this before the stage is entered, where something else is replaced before that.

        Raises:
            ResumeError: there is such a result.
        """
        if self._is_finished() or self.is_resumed or self.on.overwrite:
            return
        for file, description in self._earlier_records():
            if _fingerprint_in(file) not in (None, self.fingerprint):
                before = read_record(file)["record"]
                raise ResumeError(
                    f"'{self.name}' has a {description} in {self.sample.path.name} that was "
                    f"computed with other settings ({differences(before, self.record)}); use "
                    "--overwrite to replace it, or the same settings to keep it."
                )
        for output in self.outputs:
            exists = (self.sample.path / output.path / "0").is_dir()
            if exists and not self._is_published(output):
                raise ResumeError(
                    f"{self.sample.path.name} already has {output.path or 'an image'}, made by "
                    "another command or for other structures; use --overwrite to replace it."
                )

    def _earlier_records(self) -> Iterator[tuple[Path, str]]:
        """Yield the records of the finished result, and of unfinished runs with finished blocks."""
        yield self._record_file, "finished result"
        for run in self._runs.glob("*/stage.json"):
            if any((run.parent / "done").iterdir()):
                yield run, "unfinished run"

    @property
    def is_resumed(self) -> bool:
        """True if a run of this stage with these settings was begun before, and is resumed."""
        return (self._work / "stage.json").exists()

    def _prepare(self) -> None:
        """Check that the work fits, and make the folder of its unfinished result."""
        needs = self.needs() if callable(self.needs) else self.needs
        if self.is_resumed:
            needs = replace(needs, disk=0)
        if self.on.cluster:
            read_cluster(self.on.cluster).check_memory(needs.ram)
        if self.on.is_remote:
            # The memory of other machines is not known in this process.
            needs = replace(needs, ram=0, gpu=0)
        needs.check(self.sample.path, max(1, self.on.workers))
        if self.is_resumed:
            for unfinished in (self._work / "out").rglob("*.partial"):
                unfinished.unlink(missing_ok=True)  # chunks that a kill left half-written
            return
        print_note(f"{self.name}: {needs}", self.on.quiet or not (needs.ram or needs.disk))
        shutil.rmtree(self._runs, ignore_errors=True)
        (self._work / "done").mkdir(parents=True)
        for output in self.outputs:
            create_volume(self._work / "out" / output.path, output, self._fingerprint_of(output))
        # From here on the run can be continued.
        write_atomically(self._work / "stage.json", json_bytes({"record": self.record}))

    def _fingerprint_of(self, output: VolumeSpec) -> str:
        return fingerprint_of({"stage": self.fingerprint, "path": output.path})

    def _is_published(self, output: VolumeSpec) -> bool:
        final = self.sample.path / output.path
        exists = (final / "0").is_dir() and (final / "zarr.json").exists()
        return exists and Volume(final).computed_fingerprint == self._fingerprint_of(output)

    def _is_moved(self, output: VolumeSpec) -> bool:
        """Return True if a run that was killed between two renames put an output in place."""
        return not (self._work / "out" / output.path / "zarr.json").exists()

    def _write_coarser_levels(self) -> None:
        """Write the levels that blocks of the full resolution do not contain.

        Run follows run; the blocks of a run are written in parallel.
        """
        runs = {
            output: output.level_runs()[1:] for output in self.outputs if not self._is_moved(output)
        }
        most_runs = max(map(len, runs.values()), default=0)
        for number in range(most_runs):
            work: list[Work] = []
            for output, output_runs in runs.items():
                if number < len(output_runs):
                    work += self._level_work(output, number, *output_runs[number][0])
            self._run(f"{self.name}, coarser levels", [work])

    def _level_work(self, output: VolumeSpec, number: int, level: int, depth: int) -> list[Work]:
        fine = self._work / "out" / output.path / str(level - 1)
        n_slices = output.level_shapes()[level][0]
        work: list[Work] = []
        for block in z_blocks(n_slices, depth):
            task = BlockTask(
                self._work, self.fingerprint, number + 1, block, (output,), output.path
            )
            work.append((task, coarser_block, (block, fine, output, level)))
        return work

    def _publish(self) -> None:
        """Rename the outputs into place, and record the stage."""
        for output in self.outputs:
            if not self._is_moved(output):
                unfinished = self._work / "out" / output.path
                self._replace(unfinished, self.sample.path / output.path, output)
        for number, path in enumerate(self.instead_of):
            if (self.sample.path / path).exists():
                os.replace(self.sample.path / path, self._work / f"gone-{number}")
        self.sample.publish_names()
        self.sample.remember(
            {
                "stage": self.name,
                "fingerprint": self.fingerprint,
                "settings": self.record,
                "outputs": [output.path for output in self.outputs],
                "finished": now(),
            }
        )
        self._record_file.parent.mkdir(exist_ok=True)
        record = {"record": self.record, "summaries": self._summaries}
        write_atomically(self._record_file, json.dumps(record).encode())
        shutil.rmtree(self._runs)

    def _replace(self, complete: Path, final: Path, output: VolumeSpec) -> None:
        """Put a complete volume in its place.

        The raw image is the sample's root, so its levels are renamed one by one.
        """
        if output.path:
            put_in_place(complete, final, self._work / f"replaced-{time.monotonic_ns()}")
            return
        if (final / "zarr.json").exists():
            # Until the new metadata are in place there is no image.
            os.replace(final / "zarr.json", self._work / "replaced-zarr.json")
        n_levels = len(output.level_factors())
        for level in range(n_levels):
            if (complete / str(level)).exists():
                shutil.rmtree(final / str(level), ignore_errors=True)
                os.replace(complete / str(level), final / str(level))
        for level in range(n_levels, MAX_LEVELS):
            shutil.rmtree(final / str(level), ignore_errors=True)
        os.replace(complete / "zarr.json", final / "zarr.json")

    def _run(self, title: str, rounds: Sequence[Sequence[Work]], in_process: bool = False) -> None:
        """Run rounds one after the other, and the work of a round in parallel."""
        undone = [[item for item in work if not item[0].is_done()] for work in rounds]
        total = sum(map(len, rounds))
        n_undone = sum(map(len, undone))
        if not n_undone:
            return
        if self._workers is None and not in_process:
            self._workers = self._resources.enter_context(workers_of(self.on))
        workers = None if in_process else self._workers
        with Meter(title, total, total - n_undone, self.on.quiet) as meter:
            for work in undone:
                for _ in _completed(work, workers):
                    meter.step()


def _completed(work: Sequence[Work], workers: Workers | None) -> Iterator[None]:
    """Run work on workers, or in this process; yield once for every finished item."""
    if workers is not None and work:
        calls = [(task.run, (function, *arguments)) for task, function, arguments in work]
        yield from spread(workers, calls)
        return
    for task, function, arguments in work:
        task.run(function, *arguments)
        yield


def finished(sample: Sample, name: str) -> list[Summary]:
    """Return the summaries of the blocks of a finished stage.

    Raises:
        SampleError: the stage was not finished, or its record is damaged.
    """
    file = _record_of(sample, name)
    if not file.exists():
        raise SampleError(f"'{name}' is not finished in {sample.path.name}; run it again.")
    return list(read_record(file)["summaries"])


def earlier_setting(sample: Sample, name: str, key: str, overwrite: bool) -> Any:
    """Return a setting of a stage's unfinished run, else of its finished one; None without either.

    A finished run that is replaced does not count.
    """
    files = sorted((sample.path / ".sparsem" / "work" / name).glob("*/stage.json"))
    record_file = _record_of(sample, name)
    if record_file.exists() and not overwrite:
        files.append(record_file)
    if not files:
        return None
    return read_record(files[0])["record"].get(key)


def forget(sample: Sample, name: str) -> None:
    """Forget that a stage was finished; what it wrote and what is unfinished stay."""
    _record_of(sample, name).unlink(missing_ok=True)


def _record_of(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "stages" / f"{name}.json"


def _fingerprint_in(file: Path) -> str | None:
    if not file.exists():
        return None
    return fingerprint_of(read_record(file)["record"])
