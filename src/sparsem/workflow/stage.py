"""The one way in which work over a stack is done: cut into z-blocks, resumed, spread, checked before, recorded after.

A stage is a function of a z-block that returns arrays. What it makes lies under ``.sparsem/work/STAGE`` until all of it is
there, and is then renamed into place, so a final name never holds half a result. A finished block leaves a marker, written
after its chunks by an atomic rename, that carries the stage's fingerprint and the block's summary: a second run does only
what is missing, and ends in the same bytes.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from sparsem import __version__
from sparsem.errors import ResumeError, SampleError
from sparsem.geometry import ZBlock, z_blocks
from sparsem.progress import Meter, tell
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
from sparsem.workflow.execution import HERE, Execution, Needs, client_of, spread
from sparsem.workflow.tasks import (
    Arrays,
    BlockFunction,
    BlockResult,
    BlockTask,
    Link,
    LinkFunction,
    coarser_block,
    link_arrays,
    read_record,
)

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Arrays",
    "BlockResult",
    "Stage",
    "earlier_setting",
    "fingerprint_of",
    "finished",
    "forget",
    "link_arrays",
]

Work = tuple[BlockTask | Link, Callable[..., Any], tuple[Any, ...]]


def fingerprint_of(record: Mapping[str, Any]) -> str:
    """A short hash of a JSON record; equal records have equal fingerprints, whatever the order of their keys."""
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass
class Stage:
    """One run of a stage on a sample, as a context manager.

    Attributes:
        sample: what is written to.
        name: of the stage, and of its folder of unfinished work; two stages that write different things need two names.
        settings: every setting that changes the result.
        inputs: what it reads, name to fingerprint.
        outputs: the volumes it writes.
        instead_of: volumes of an earlier result that this one does not have; they go when it is published.
        on: how the work is spread.
        needs: checked before anything is written; a function of nothing where finding out takes a while.

    Raises:
        ResumeError: a result, finished or not, exists that was made otherwise, and ``on.overwrite`` is not set.
        ResourceError: it cannot fit.
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
        self._summaries: list[dict[str, Any]] = []
        self._client: Client | None = None
        # A folder for each fingerprint: a worker of an abandoned run can never write into another run's result.
        self._runs = self.sample.path / ".sparsem" / "work" / self.name
        self._work = self._runs / self.fingerprint[:16]
        self._record_file = _record_of(self.sample, self.name)

    def __enter__(self) -> "Stage":
        with ExitStack() as held:
            held.enter_context(self.sample.locked())
            self.finished = self._is_finished()
            if self.finished:
                tell(f"{self.name}: done before, with the same settings", self.on.quiet)
                shutil.rmtree(self._runs, ignore_errors=True)
            else:
                self.refuse_other()
                self._prepare()
            self._held = held.pop_all()  # the lock, and the workers once there is work for them
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._held:
            if error is None and not self.finished:
                self._coarser_levels()
                self._publish()

    def map(
        self,
        function: BlockFunction,
        blocks: Sequence[ZBlock],
        *arguments: Any,
        of_block: Callable[[ZBlock], Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Run ``function(block, *arguments)`` for every block that is not done yet; it returns arrays and a summary.

        The arrays are a mapping from an output's path to its (depth, y, x) voxels of the block; the summary is small and
        JSON. Function and arguments must be picklable; ``of_block`` makes one more argument for each block. The summaries of all
        blocks come back in the order of the blocks.
        """
        if self.finished:
            return list(read_record(self._record_file)["summaries"])
        tasks = [self._task(block) for block in blocks]
        own = [(of_block(block),) if of_block else () for block in blocks]
        work = [
            (task, function, (task.block, *arguments, *more))
            for task, more in zip(tasks, own, strict=True)
        ]
        self._run(self.name, [work])
        self._summaries = [task.summary() for task in tasks]
        return self._summaries

    def chain(
        self,
        title: str,
        function: LinkFunction,
        chains: Mapping[str, Sequence[Any]],
        *arguments: Any,
        here: bool = False,
    ) -> Path:
        """Work that goes from slice to slice: several chains in parallel, the links of each one after the other.

        ``function(link, before, *arguments)`` returns arrays, of which the next link of the chain gets those named ``state...``
        as ``before`` (None for the first). A link that is done is not done again: the n-th link of a chain of a name is always the same.
        ``here`` keeps local workers out of it: what adds numbers in another order in each process is to be the same with any of them.

        Returns:
            A folder that holds until the end of the stage, for the blocks of ``map`` (see ``link_arrays``).
        """
        folder = self._work / "chains"
        rounds: list[list[Work]] = []
        for number in range(max(map(len, chains.values()), default=0)):
            links = [(name, chain[number]) for name, chain in chains.items() if number < len(chain)]
            rounds.append(
                [(Link(folder, name, number), function, (link, *arguments)) for name, link in links]
            )
        if not self.finished:
            self._run(title, rounds, here and not self.on.scheduler)
        return folder

    def forget(self) -> None:
        """What was finished before no longer is: called before the first of several files that replace its own."""
        forget(self.sample, self.name)

    def left(self, blocks: Sequence[ZBlock]) -> list[ZBlock]:
        """The blocks that ``map`` has not done yet."""
        return (
            [] if self.finished else [block for block in blocks if not self._task(block).is_done()]
        )

    def replaced(self) -> list[dict[str, Any]]:
        """Summaries of the finished result that this run is to replace, whose volumes are still in place; empty if there is none."""
        whole = self._record_file.exists() and all(
            (self.sample.path / one.path / "zarr.json").exists() for one in self.outputs
        )
        made = _fingerprint_in(self._record_file) if whole else None
        volumes = (
            [Volume(self.sample.path / one.path).fingerprint for one in self.outputs]
            if made
            else []
        )
        same = [
            fingerprint_of({"stage": made, "path": one.path}) for one in self.outputs
        ] == volumes
        return list(read_record(self._record_file)["summaries"]) if made and same else []

    def _task(self, block: ZBlock) -> BlockTask:
        return BlockTask(self._work, self.fingerprint, 0, block, tuple(self.outputs))

    def _is_finished(self) -> bool:
        return _fingerprint_in(self._record_file) == self.fingerprint and all(
            map(self._is_published, self.outputs)
        )

    def refuse_other(self) -> None:
        """What was made with other settings is only replaced on request; a run that was so requested may be continued.

        To be called before the stage is entered where something else is replaced on the way to it.

        Raises:
            ResumeError: there is such a result.
        """
        if self._is_finished() or self.goes_on or self.on.overwrite:
            return
        begun = [
            run for run in self._runs.glob("*/stage.json") if any((run.parent / "done").iterdir())
        ]
        others = [(file, "unfinished run") for file in begun]
        for file, what in ((self._record_file, "finished result"), *others):
            if _fingerprint_in(file) not in (None, self.fingerprint):
                before = read_record(file)["record"]
                raise ResumeError(
                    f"'{self.name}' has a {what} in {self.sample.path.name} that was made otherwise "
                    f"({differences(before, self.record)}); use --overwrite to replace it, or the same settings to keep it."
                )
        for output in self.outputs:
            if (self.sample.path / output.path / "0").is_dir() and not self._is_published(output):
                what = output.path or "image"
                raise ResumeError(
                    f"{self.sample.path.name} has a {what} already, made by another command or for other structures; use --overwrite to "
                    "replace it."
                )

    @property
    def goes_on(self) -> bool:
        """Whether a run of just this stage was begun, and is to be continued."""
        return (self._work / "stage.json").exists()

    def _prepare(self) -> None:
        needs = self.needs() if callable(self.needs) else self.needs
        left = replace(needs, disk=0) if self.goes_on else needs
        left = (
            replace(left, ram=0, gpu=0) if self.on.scheduler else left
        )  # the memory of other machines cannot be seen from here
        left.check(self.sample.path, max(1, self.on.workers))
        if self.goes_on:
            for half in (self._work / "out").rglob(
                "*.partial"
            ):  # chunks that a kill left half-written
                half.unlink(missing_ok=True)
            return
        tell(f"{self.name}: {left}", self.on.quiet or not (left.ram or left.disk))
        shutil.rmtree(self._runs, ignore_errors=True)
        (self._work / "done").mkdir(parents=True)
        for output in self.outputs:
            create_volume(self._work / "out" / output.path, output, self._fingerprint_of(output))
        write_atomically(
            self._work / "stage.json", json_bytes({"record": self.record})
        )  # from here on the run can be continued

    def _fingerprint_of(self, output: VolumeSpec) -> str:
        return fingerprint_of({"stage": self.fingerprint, "path": output.path})

    def _is_published(self, output: VolumeSpec) -> bool:
        final = self.sample.path / output.path
        return (
            (final / "0").is_dir()
            and (final / "zarr.json").exists()
            and Volume(final).fingerprint == self._fingerprint_of(output)
        )

    def _is_moved(self, output: VolumeSpec) -> bool:
        """Renamed into place already, by a run that was killed between two renames."""
        return not (self._work / "out" / output.path / "zarr.json").exists()

    def _coarser_levels(self) -> None:
        """The levels that the blocks of the full resolution did not hold whole: run after run, its blocks in parallel."""
        runs = {
            output: output.level_runs()[1:] for output in self.outputs if not self._is_moved(output)
        }
        for number in range(max(map(len, runs.values()), default=0)):
            work: list[Work] = []
            for output, left in runs.items():
                if number < len(left):
                    level, depth = left[number][0]
                    fine = self._work / "out" / output.path / str(level - 1)
                    for block in z_blocks(output.level_shapes()[level][0], depth):
                        task = BlockTask(
                            self._work, self.fingerprint, number + 1, block, (output,), output.path
                        )
                        work.append((task, coarser_block, (task.block, fine, output, level)))
            self._run(f"{self.name}, coarser levels", [work])

    def _publish(self) -> None:
        for output in self.outputs:
            if not self._is_moved(output):
                self._replace(
                    self._work / "out" / output.path, self.sample.path / output.path, output
                )
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
        write_atomically(
            self._record_file,
            json.dumps({"record": self.record, "summaries": self._summaries}).encode(),
        )
        shutil.rmtree(self._runs)

    def _replace(self, made: Path, final: Path, output: VolumeSpec) -> None:
        """Put a complete volume in its place. The raw image is the sample's own root, so its levels move one by one."""
        if output.path:
            put_in_place(made, final, self._work / f"replaced-{time.monotonic_ns()}")
            return
        if (final / "zarr.json").exists():
            os.replace(
                final / "zarr.json", self._work / "replaced-zarr.json"
            )  # until the new one is here there is no image
        for level in range(len(output.level_factors())):
            if (made / str(level)).exists():
                shutil.rmtree(final / str(level), ignore_errors=True)
                os.replace(made / str(level), final / str(level))
        for level in range(len(output.level_factors()), 64):
            shutil.rmtree(final / str(level), ignore_errors=True)
        os.replace(made / "zarr.json", final / "zarr.json")

    def _run(self, title: str, rounds: Sequence[Sequence[Work]], here: bool = False) -> None:
        """Rounds one after the other; what is in a round may run in parallel, unless it is to be done ``here``, in this process."""
        left = [[work for work in one if not work[0].is_done()] for one in rounds]
        total, undone = sum(map(len, rounds)), sum(map(len, left))
        if not undone:
            return
        if self._client is None and not here:
            self._client = self._held.enter_context(client_of(self.on))
        client = None if here else self._client
        with Meter(title, total, total - undone, self.on.quiet) as meter:
            for one in left:
                if client is None:
                    for task, function, arguments in one:
                        task.run(function, *arguments)
                        meter.step()
                elif one:
                    for _ in spread(
                        client,
                        [(task.run, (function, *arguments)) for task, function, arguments in one],
                    ):
                        meter.step()


def finished(sample: Sample, name: str) -> list[dict[str, Any]]:
    """Summaries of the blocks of a finished stage.

    Raises:
        SampleError: it was not finished, or its record is damaged.
    """
    file = _record_of(sample, name)
    if not file.exists():
        raise SampleError(f"'{name}' is not finished in {sample.path.name}; run it again.")
    return list(read_record(file)["summaries"])


def earlier_setting(sample: Sample, name: str, key: str, overwrite: bool) -> Any:
    """Return a setting of a stage's unfinished run, or else of its finished one unless that is replaced; None without either."""
    files = sorted((sample.path / ".sparsem" / "work" / name).glob("*/stage.json"))
    finished = _record_of(sample, name)
    if finished.exists() and not overwrite:
        files.append(finished)
    return read_record(files[0])["record"].get(key) if files else None


def forget(sample: Sample, name: str) -> None:
    """What a stage finished no longer counts as finished; what it wrote and what is unfinished stay."""
    _record_of(sample, name).unlink(missing_ok=True)


def _record_of(sample: Sample, name: str) -> Path:
    return sample.path / ".sparsem" / "stages" / f"{name}.json"


def _fingerprint_in(file: Path) -> str | None:
    return fingerprint_of(read_record(file)["record"]) if file.exists() else None
