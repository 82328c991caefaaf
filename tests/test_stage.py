"""Stages: resumed, refused, replaced, locked, checked before they start, spread over workers.

Always the same bytes.
"""

import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client, LocalCluster
from pydantic import Field

from sparsem.errors import ResourceError, ResumeError, SampleError, SettingsError
from sparsem.geometry import VoxelSize, ZBlock, z_blocks
from sparsem.settings import Settings
from sparsem.store.pyramid import coarser_mean, coarser_mode
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, Volume, volume_spec
from sparsem.workflow.execution import HERE, Execution, Needs
from sparsem.workflow.stage import BlockResult, Stage, fingerprint_of, finished, link_arrays
from tests.conftest import copy_of, files_in


class BrightenSettings(Settings):
    by: int = Field(10, description="gray levels")


class StopError(Exception):
    pass


def brighten(block: ZBlock, image: Volume, by: int, log: Path, fail_at: int = -1) -> BlockResult:
    if block.start == fail_at:
        raise StopError
    with log.open("a") as file:
        file.write(f"{block.start}\n")
    voxels = image.read(block.own)
    return {
        "images/bright": voxels + np.uint8(by),
        "labels/dark": (voxels < 90).astype(np.uint8),
    }, {"mean": float(voxels.mean())}


KINDS = {"images/part": Kind.IMAGE, "labels/part": Kind.LABELS}


def part_of(block: ZBlock, file: Path) -> BlockResult:
    voxels = np.load(file, mmap_mode="r")[block.own]
    return {path: np.asarray(voxels) for path in KINDS}, {}


def run(
    sample: Sample,
    log: Path,
    by: int = 10,
    on: Execution = HERE,
    fail_at: int = -1,
    needs: Needs | Callable[[], Needs] = Needs,
) -> list[dict[str, Any]]:
    image = sample.image("raw")
    frame = (image.shape, np.uint8)
    outputs = [
        volume_spec("images/bright", *frame, Kind.IMAGE, image.voxel_size, image.block_depth),
        volume_spec("labels/dark", *frame, Kind.LABELS, image.voxel_size, image.block_depth),
    ]
    with Stage(
        sample,
        "brighten",
        BrightenSettings(by=by),
        {"image": image.fingerprint},
        outputs,
        on,
        needs,
    ) as stage:
        return stage.map(brighten, image.blocks(), image, by, log, fail_at)


def test_outputs_appear_whole_with_history_and_lists(own_tissue: Sample, tmp_path: Path) -> None:
    summaries = run(own_tissue, tmp_path / "log")
    raw = own_tissue.image("raw").read(slice(None))
    assert np.array_equal(own_tissue.image("bright").read(slice(None)), raw + np.uint8(10))
    assert own_tissue.newest_image == "bright"
    assert [round(summary["mean"], 6) for summary in summaries] == [
        round(float(raw[z : z + 7].mean()), 6) for z in (0, 7, 14)
    ]
    entry = own_tissue.history()[-1]
    assert (entry["stage"], entry["settings"]["by"]) == ("brighten", 10)
    assert entry["outputs"] == ["images/bright", "labels/dark"]
    assert not (own_tissue.path / ".sparsem" / "work" / "brighten").exists()


@pytest.mark.parametrize("depth", [1, 4, 7, 16])
def test_coarser_levels_do_not_depend_on_the_blocks(tmp_path: Path, depth: int) -> None:
    """The levels are those of the whole stack, whether the depth of a block can be halved or not."""
    stack = np.random.default_rng(5).integers(0, 256, (45, 11, 4400), np.uint8)
    np.save(tmp_path / "stack.npy", stack)
    sample = Sample.create(tmp_path / "long.zarr")
    frame = (stack.shape, np.uint8)
    outputs = [
        volume_spec(path, *frame, kind, VoxelSize(8, 8, 8), depth) for path, kind in KINDS.items()
    ]
    assert len(outputs[0].level_runs()) == {1: 5, 4: 2, 7: 5, 16: 1}[depth]
    with Stage(sample, "slice", Settings(), {}, outputs) as stage:
        stage.map(part_of, z_blocks(len(stack), depth), tmp_path / "stack.npy")
    for path, make in (("images/part", coarser_mean), ("labels/part", coarser_mode)):
        volume, whole = Volume(sample.path / path), stack
        assert volume.levels == 5
        for level, factors in enumerate(outputs[0].level_factors()):
            whole = make(whole, factors)
            assert np.array_equal(volume.level(level)[:], whole)
            assert (
                volume.level(level).chunks[0]
                == [deep for run in outputs[0].level_runs() for _, deep in run][level]
            )


def test_an_interrupted_run_does_only_what_is_left(own_tissue: Sample, tmp_path: Path) -> None:
    whole = copy_of(own_tissue, tmp_path / "whole.zarr")
    run(whole, tmp_path / "whole.log")
    with pytest.raises(StopError):
        run(own_tissue, tmp_path / "log", fail_at=14)
    assert own_tissue.names("images") == []
    assert own_tissue.names("labels") == []
    assert run(own_tissue, tmp_path / "log") == run(whole, tmp_path / "whole.log")
    assert (tmp_path / "log").read_text().split() == ["0", "7", "14"]
    assert files_in(own_tissue.path) == files_in(whole.path)


def test_a_finished_stage_is_not_done_again(own_tissue: Sample, tmp_path: Path) -> None:
    first = run(own_tissue, tmp_path / "log")
    assert run(own_tissue, tmp_path / "log") == first
    assert len((tmp_path / "log").read_text().split()) == 3
    shutil.rmtree(
        own_tissue.path / "images" / "bright"
    )  # a user deleted a result: it is computed again
    run(own_tissue, tmp_path / "log")
    assert own_tissue.names("images") == ["bright"]


@pytest.mark.parametrize("fail_at", [-1, 14])
def test_other_settings_are_refused_with_the_difference(
    own_tissue: Sample, tmp_path: Path, fail_at: int
) -> None:
    if fail_at >= 0:
        with pytest.raises(StopError):
            run(own_tissue, tmp_path / "log", fail_at=fail_at)
    else:
        run(own_tissue, tmp_path / "log")
    what = "unfinished run" if fail_at >= 0 else "finished result"
    with pytest.raises(
        ResumeError,
        match=rf"'brighten' has a {what} in own.zarr that was computed with other settings \(by: 10 -> 20\); use --overwrite",
    ):
        run(own_tissue, tmp_path / "log", by=20)


def test_overwrite_keeps_the_old_result_until_the_new_one_is_whole(
    own_tissue: Sample, tmp_path: Path
) -> None:
    run(own_tissue, tmp_path / "log")
    again = replace(HERE, overwrite=True)
    with pytest.raises(StopError):
        run(own_tissue, tmp_path / "log", by=20, on=again, fail_at=14)
    raw = own_tissue.image("raw").read(slice(None))
    assert np.array_equal(own_tissue.image("bright").read(slice(None)), raw + np.uint8(10))
    run(
        own_tissue, tmp_path / "log", by=20
    )  # the replacement was asked for; going on with it needs no second word
    assert np.array_equal(own_tissue.image("bright").read(slice(None)), raw + np.uint8(20))


def test_a_result_of_another_command_is_not_overwritten(own_tissue: Sample, tmp_path: Path) -> None:
    run(own_tissue, tmp_path / "log")
    shutil.rmtree(own_tissue.path / "labels" / "dark")
    shutil.copytree(own_tissue.path / "truth" / "nucleus", own_tissue.path / "labels" / "dark")
    with pytest.raises(ResumeError, match="already has labels/dark, made by another command"):
        run(own_tissue, tmp_path / "log")


def test_a_damaged_record_is_reported(own_tissue: Sample, tmp_path: Path) -> None:
    run(own_tissue, tmp_path / "log")
    (own_tissue.path / ".sparsem" / "stages" / "brighten.json").write_text('{"rec')
    with pytest.raises(
        SampleError,
        match=r"brighten.json is damaged; remove it, and the stage that it belongs to is computed again",
    ):
        run(own_tissue, tmp_path / "log")


def test_two_runs_at_once_are_refused(own_tissue: Sample, tmp_path: Path) -> None:
    with (
        own_tissue.locked(),
        pytest.raises(SampleError, match=r"Another run is writing to own.zarr"),
    ):
        run(own_tissue, tmp_path / "log")
    run(own_tissue, tmp_path / "log")


Usage = namedtuple("Usage", "total used free")


def test_what_cannot_fit_is_refused_before_anything_is_written(
    own_tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_in(own_tissue.path)
    with pytest.raises(
        ResourceError,
        match=r"needs 1000000.0 GB of memory, and .* GB are free; a smaller --block-depth",
    ):
        run(
            own_tissue,
            tmp_path / "log",
            needs=Needs(ram=10**15, smaller="a smaller --block-depth needs less"),
        )
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 10**6))
    with pytest.raises(ResourceError, match=r"needs 5.0 GB of disk at .*, and 0.0 GB are free"):
        run(own_tissue, tmp_path / "log", needs=Needs(disk=5 * 10**9))
    assert files_in(own_tissue.path) == before


def test_what_takes_a_while_to_find_out_is_not_asked_of_a_finished_stage(
    own_tissue: Sample, tmp_path: Path
) -> None:
    asked: list[Needs] = []

    def needs() -> Needs:
        asked.append(Needs(ram=1))
        return asked[-1]

    first = run(own_tissue, tmp_path / "log", needs=needs)
    assert run(own_tissue, tmp_path / "log", needs=needs) == first
    assert asked == [Needs(ram=1)]
    with pytest.raises(ResourceError, match=r"needs 1000000.0 GB of memory"):
        run(
            own_tissue,
            tmp_path / "log",
            by=20,
            on=Execution(overwrite=True),
            needs=lambda: Needs(ram=10**15),
        )


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    assert (
        fingerprint_of({"a": 1, "b": [2]})
        == fingerprint_of({"b": [2], "a": 1})
        != fingerprint_of({"a": 1, "b": [3]})
    )


def test_workers_and_a_scheduler_give_the_same_bytes(own_tissue: Sample, tmp_path: Path) -> None:
    in_process, workers, scheduler = (
        copy_of(own_tissue, tmp_path / f"{name}.zarr") for name in ("here", "workers", "scheduler")
    )
    run(in_process, tmp_path / "log")
    run(workers, tmp_path / "log", on=replace(HERE, workers=2))
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
    ):
        run(scheduler, tmp_path / "log", on=replace(HERE, scheduler=cluster.scheduler_address))
    assert files_in(in_process.path) == files_in(workers.path) == files_in(scheduler.path)


def test_an_error_in_a_worker_comes_back_and_the_rest_resumes(
    own_tissue: Sample, tmp_path: Path
) -> None:
    with pytest.raises(StopError):
        run(own_tissue, tmp_path / "log", on=replace(HERE, workers=2), fail_at=7)
    run(own_tissue, tmp_path / "log")
    # What was in flight when the stage was given up is done again.
    assert set((tmp_path / "log").read_text().split()) == {"0", "7", "14"}


def fail_or_work_on(block: ZBlock, folder: Path) -> BlockResult:
    """Fail in the first block, once the second one has begun.

    The second one writes long after that.
    """
    if block.start == 0:
        deadline = time.monotonic() + 60
        while not (folder / "begun").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        raise StopError
    (folder / "begun").touch()
    time.sleep(6)
    (folder / "ended").touch()
    return {}, {}


def test_an_error_ends_the_work_of_all_local_workers(own_tissue: Sample, tmp_path: Path) -> None:
    image = own_tissue.image("raw")
    blocks = z_blocks(image.shape[0], 16)
    on = Execution(workers=2, quiet=True)
    inputs = {"image": image.fingerprint}
    with (
        pytest.raises(StopError),
        Stage(own_tissue, "fail", Settings(), inputs, [], on) as stage,
    ):
        stage.map(fail_or_work_on, blocks, tmp_path)
    assert (tmp_path / "begun").exists()
    time.sleep(8)
    assert not (tmp_path / "ended").exists()


def test_an_unreachable_scheduler_is_one_sentence(
    own_tissue: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsem.workflow.execution.SCHEDULER_TIMEOUT_S", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x:1"):
        with pytest.raises(SettingsError, match=rf"No Dask scheduler answers at {address}"):
            run(own_tissue, tmp_path / "log", on=replace(HERE, scheduler=address))
    with pytest.raises(
        SettingsError, match=r"--workers takes 0 .* or a number of processes; got -1"
    ):
        replace(HERE, workers=-1)


def add_up(link: int, before: "dict[str, Any] | None", log: Path, fail_at: int) -> dict[str, Any]:
    """A sum that runs along a chain; only what is called state is handed on."""
    if link == fail_at:
        raise StopError
    with log.open("a") as file:
        file.write(f"{link}\n")
    total = np.array([link + (0 if before is None else int(before["state-sum"][0]))])
    assert before is None or list(before) == ["state-sum"]
    return {"state-sum": total, "slices": np.full((2, 3, 4), total[0])}


def with_sums(block: ZBlock, folder: Path) -> BlockResult:
    ends = [
        int(np.asarray(link_arrays(folder, chain, number)["slices"][1]).max())
        for chain, number in (("ones", 2), ("tens", 1))
    ]
    return {}, {"ends": ends}


def chained(
    sample: Sample, log: Path, fail_at: int = -1, on: Execution = HERE
) -> list[dict[str, Any]]:
    with Stage(sample, "chained", BrightenSettings(), {}, [], on) as stage:
        folder = stage.chain(
            "adding up", add_up, {"ones": [1, 2, 3], "tens": [10, 20]}, log, fail_at
        )
        return stage.map(with_sums, z_blocks(4, 4), folder)


@pytest.mark.parametrize("workers", [0, 2])
def test_links_of_a_chain_run_in_turn_and_once(
    own_tissue: Sample, tmp_path: Path, workers: int
) -> None:
    log = tmp_path / "log"
    with pytest.raises(StopError):
        chained(own_tissue, log, fail_at=3, on=replace(HERE, workers=workers))
    assert sorted(log.read_text().split()) == ["1", "10", "2", "20"]
    assert chained(own_tissue, log, on=replace(HERE, workers=workers)) == [{"ends": [6, 30]}]
    assert sorted(log.read_text().split()) == ["1", "10", "2", "20", "3"]
    assert finished(own_tissue, "chained") == [{"ends": [6, 30]}]
    assert chained(own_tissue, log) == [{"ends": [6, 30]}]  # finished: nothing runs
    assert not (own_tissue.path / ".sparsem" / "work" / "chained").exists()
    with pytest.raises(SampleError, match="'other' is not finished"):
        finished(own_tissue, "other")


def whose(link: int, before: "dict[str, Any] | None") -> dict[str, Any]:
    return {"process": np.array([os.getpid()]), "state": np.array([link])}


def test_a_chain_that_is_to_be_done_here_is_given_to_no_worker(own_tissue: Sample) -> None:
    with Stage(
        own_tissue, "here", BrightenSettings(), {}, [], Execution(workers=2, quiet=True)
    ) as stage:
        folder = stage.chain("learning", whose, {"one": [1, 2]}, in_process=True)
        assert [
            int(np.asarray(link_arrays(folder, "one", number)["process"])[0]) for number in range(2)
        ] == [os.getpid()] * 2


def test_a_stage_knows_the_result_that_it_replaces_only_while_it_is_whole(
    own_tissue: Sample, tmp_path: Path
) -> None:
    def replaced() -> list[dict[str, Any]]:
        image = own_tissue.image("raw")
        frame = (image.shape, np.uint8, Kind.IMAGE, image.voxel_size, image.block_depth)
        specs = [volume_spec("images/bright", *frame), volume_spec("labels/dark", *frame)]
        with (
            suppress(StopError),
            Stage(own_tissue, "brighten", BrightenSettings(by=3), {}, specs, OVERWRITE) as stage,
        ):
            results.append(stage.replaced_summaries())
            raise StopError
        return results[-1]

    results: list[list[dict[str, Any]]] = []
    assert replaced() == []
    shutil.rmtree(own_tissue.path / ".sparsem" / "work" / "brighten")
    summaries = run(own_tissue, tmp_path / "log")
    assert replaced() == summaries
    shutil.rmtree(own_tissue.path / "labels" / "dark")
    assert replaced() == []


OVERWRITE = Execution(overwrite=True, quiet=True)
