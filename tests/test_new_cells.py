"""Cells that no labeled slice shows, found behind boundaries."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from sparsem.annotation.writing import write_annotation
from sparsem.cells.cells import cells
from sparsem.cells.intervals import whole_intervals
from sparsem.cells.new_cells import MAX_NEW_PER_SLICE, new_cell_ids
from sparsem.cells.settings import CellsSettings
from sparsem.cells.track import TrackResult, track
from sparsem.errors import InputError, SparsemError
from sparsem.geometry import VoxelSize
from sparsem.labels.components import connected_parts, runs_of_slice, sizes_of_runs, touching_pairs
from sparsem.measure.cell_columns import unassigned_cells
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import copy_of, kill_ten_times, put, voxels
from tests.test_cells import give

VOXEL = VoxelSize(20, 20, 20)
LABELED = (0, 12, 24)
SMALLEST_UM3 = 0.005  # 625 voxels
QUIET = Execution(quiet=True)
AGAIN = Execution(quiet=True, overwrite=True)
BALLS = {3: (6, 40, 40), 4: (18, 24, 40), 5: (18, 56, 40)}  # center, z y x; radii of 4, 11 and 11


def packed(depth: int = 28) -> NDArray[np.uint32]:
    """Two cells side by side that fill everything, with three round cells between labeled slices.

    The number of the first of them is 3.
    """
    z, y, x = np.mgrid[:depth, :80, :80]
    truth = np.where(x < 40, 1, 2).astype(np.uint32)
    for number, center in BALLS.items():
        inside = ((z - center[0]) / 4) ** 2 + ((y - center[1]) ** 2 + (x - center[2]) ** 2) / 121
        truth[inside < 1] = number
    return truth


def tissue(path: Path, block_depth: int = 5) -> Sample:
    """The packed cells as a sample, with the boundaries of a network that sees all three axes."""
    truth = packed()
    sample = Sample.create(path)
    texture = np.random.default_rng(0).integers(90, 160, truth.shape[1:])
    gray = np.broadcast_to(texture, truth.shape).astype(np.uint8)
    put(sample, "", np.ascontiguousarray(gray), block_depth, VOXEL)
    is_boundary = maximum_filter(truth, 3) != minimum_filter(truth, 3)
    give(sample, "probabilities/cells-interior", np.full(truth.shape, 255, np.uint8), block_depth)
    give(sample, "probabilities/cells-boundary", is_boundary * np.uint8(230), block_depth)
    write_annotation(sample, "cells", LABELED, [truth[z] for z in LABELED])
    return sample


def separated(
    sample: Sample, on: Execution = QUIET, **more: Any
) -> tuple[NDArray[Any], TrackResult]:
    cells(sample, **{"new_cells_um3": SMALLEST_UM3, **more}, on=on)
    result = track(sample, min_volume_um3=0, on=on)
    return np.asarray(sample.volume("labels", "cells").read(slice(None))), result


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Tests must not change it."""
    return tissue(tmp_path_factory.mktemp("new") / "s.zarr")


def test_each_cell_between_labeled_slices_gets_an_id_of_its_own(
    sample: Sample, tmp_path: Path
) -> None:
    labels, result = separated(copy_of(sample, tmp_path / "own.zarr"))
    truth = packed()
    ids = {}
    for number, center in BALLS.items():
        ids[number] = int(labels[center])
        overlap = (labels == ids[number]) & (truth == number)
        union = (labels == ids[number]) | (truth == number)
        assert overlap.sum() > 0.7 * union.sum()
    # They are made of the first slice of the seed, one slice above that of the boundary.
    assert [(identity - 65_536) // MAX_NEW_PER_SLICE for identity in ids.values()] == [4, 16, 16]
    assert [identity % MAX_NEW_PER_SLICE for identity in ids.values()] == [0, 0, 1]
    assert ((labels == 1) & (truth == 1)).sum() > 0.95 * (truth == 1).sum()
    assert result.cells == 2
    assert result.unassigned.keys() == set(ids.values())


def test_without_them_neighbors_spread_into_these_cells(sample: Sample, tmp_path: Path) -> None:
    labels, result = separated(copy_of(sample, tmp_path / "own.zarr"), new_cells_um3=0)
    assert set(np.unique(labels)) == {1, 2}
    assert result.unassigned == {}


def test_cells_below_the_minimum_volume_stay_with_their_neighbors(
    sample: Sample, tmp_path: Path
) -> None:
    few, _ = separated(copy_of(sample, tmp_path / "few.zarr"), new_cells_um3=1)
    none, _ = separated(copy_of(sample, tmp_path / "none.zarr"), new_cells_um3=0)
    assert np.array_equal(few, none)


def test_tables_and_measures_know_them_as_not_annotated(sample: Sample, tmp_path: Path) -> None:
    own = copy_of(sample, tmp_path / "own.zarr")
    labels, result = separated(own)
    table = own.read_table("tracks_cells")
    new = {row["identity"]: row for row in table.to_pylist() if row["identity"] >= 65_536}
    assert len(new) == 3
    for identity, row in new.items():
        slices = np.flatnonzero((labels == identity).any(axis=(1, 2)))
        assert (row["first_z"], row["last_z"]) == (slices[0], slices[-1])
        assert row["slices"] == len(slices)
        assert row["voxels"] == (labels == identity).sum()
        assert result.unassigned[identity] == pytest.approx(row["voxels"] * 8e-6)
        assert not row["in_cell"]
    assert unassigned_cells(own, "cells").tolist() == sorted(new)


@pytest.mark.parametrize("depth", [3, 28])
def test_they_do_not_depend_on_blocks(sample: Sample, tmp_path: Path, depth: int) -> None:
    first, _ = separated(copy_of(sample, tmp_path / "own.zarr"))
    second, _ = separated(tissue(tmp_path / "other.zarr", depth))
    assert np.array_equal(first, second)


def test_they_do_not_depend_on_workers(sample: Sample, tmp_path: Path) -> None:
    first, _ = separated(copy_of(sample, tmp_path / "own.zarr"))
    second, _ = separated(copy_of(sample, tmp_path / "two.zarr"), replace(QUIET, workers=2))
    assert np.array_equal(first, second)


def test_killed_at_any_moment_and_run_again(sample: Sample, tmp_path: Path) -> None:
    whole, killed = (copy_of(sample, tmp_path / f"{name}.zarr") for name in ("whole", "killed"))
    cells(whole, new_cells_um3=SMALLEST_UM3, on=QUIET)
    settings = {"new_cells_um3": SMALLEST_UM3}
    work = {"sample": str(killed.path), "settings": settings, "seconds": 1.0}
    assert kill_ten_times("cells", work) >= 3
    for killed_level, whole_level in zip(
        *(voxels(own.volume("labels", "cells-regions")) for own in (killed, whole)), strict=True
    ):
        assert np.array_equal(killed_level, whole_level)


def test_a_correction_renumbers_new_cells_of_its_own_interval_only(
    sample: Sample, tmp_path: Path
) -> None:
    own = copy_of(sample, tmp_path / "own.zarr")
    before, _ = separated(own)
    corrected = packed()[6]  # a slice through the first round cell
    write_annotation(
        own, "cells", (0, 6, 12, 24), [packed()[z] for z in (0, 6, 12, 24)], overwrite=True
    )
    after, result = separated(own, AGAIN)
    assert np.array_equal(after[6], corrected)
    assert np.array_equal(before[12:], after[12:])
    assert len(result.unassigned) == 2
    scratch = tissue(tmp_path / "scratch.zarr")
    write_annotation(
        scratch, "cells", (0, 6, 12, 24), [packed()[z] for z in (0, 6, 12, 24)], overwrite=True
    )
    assert np.array_equal(separated(scratch)[0], after)


def test_a_method_without_costs_is_refused(sample: Sample) -> None:
    with pytest.raises(SparsemError, match="--new-cells-um3 needs the costs of --method arrival"):
        cells(sample, method="per_frame", new_cells_um3=0.1, on=QUIET)


def test_ids_that_leave_no_room_are_refused(sample: Sample, tmp_path: Path) -> None:
    own = copy_of(sample, tmp_path / "own.zarr")
    large = np.where(packed()[0] == 1, 2**32 - 2**20 - 70_000, 2).astype(np.uint32)
    write_annotation(own, "cells", (0,), [large], overwrite=True)
    cells(own, on=AGAIN)
    with pytest.raises(InputError, match="no room for new cells in 28 slices"):
        cells(own, new_cells_um3=SMALLEST_UM3, on=AGAIN)


class _Job:
    """What the numbering of new cells needs of a job."""

    def __init__(self, grid: tuple[int, int], min_new_voxels: int) -> None:
        self.grid = grid
        self.min_new_voxels = min_new_voxels
        self.first_new = 65_536


def test_components_of_blocks_are_those_of_the_whole_volume() -> None:
    mask = np.random.default_rng(1).random((12, 20, 20)) < 0.08
    pixels = 400
    runs = [connected_parts(mask[start : start + 4]) for start in (0, 4, 8)]
    sizes, firsts = zip(*map(sizes_of_runs, runs), strict=True)
    shifted = [first + n * 4 * pixels for n, first in enumerate(firsts)]
    pairs = [
        touching_pairs(runs_of_slice(lower, 3, pixels), runs_of_slice(upper, 0, pixels), (20, 20))
        for lower, upper in pairwise(runs)
    ]
    job: Any = _Job((20, 20), 5)
    ids_of_blocks = new_cell_ids(sizes, shifted, pairs, job)
    whole = cc3d.connected_components(mask.astype(np.uint8), connectivity=26)
    expected = {}
    for component in range(1, int(whole.max()) + 1):
        slices = np.nonzero(whole == component)[0]
        if len(slices) >= 5:
            expected[component] = int(slices[0])
    assert len(expected) > 10
    found = sorted(set(np.concatenate(ids_of_blocks).tolist()) - {0})
    first_slices = [(identity - 65_536) // MAX_NEW_PER_SLICE for identity in found]
    assert first_slices == sorted(expected.values())


def test_too_many_new_cells_in_one_slice_are_refused() -> None:
    count = MAX_NEW_PER_SLICE + 1
    job: Any = _Job((200, 200), 1)
    sizes, firsts = [np.ones(count, np.int64)], [40_000 * 7 + np.arange(count)]
    with pytest.raises(InputError, match="More than 4096 new cells begin in slice 7"):
        new_cell_ids(sizes, firsts, [], job)
    assert len(new_cell_ids([sizes[0][1:]], [firsts[0][1:]], [], job)[0]) == count


def test_an_interval_is_needed_whole() -> None:
    is_needed = [False] * 10
    is_needed[5] = True
    assert whole_intervals([3, 7], is_needed) == [False] * 3 + [True] * 4 + [False] * 3
    is_needed[9] = True
    assert whole_intervals([3, 7], is_needed) == [False] * 3 + [True] * 7


def test_the_setting_is_recorded(sample: Sample, tmp_path: Path) -> None:
    own = copy_of(sample, tmp_path / "own.zarr")
    separated(own)
    recorded = own.last_settings("cells-cells")
    assert json.loads(json.dumps(recorded["new_cells_um3"])) == SMALLEST_UM3
    assert CellsSettings().new_cells_um3 == 0
