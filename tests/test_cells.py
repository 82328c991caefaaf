"""Cells and their protrusions as stages.

Results are independent of blocks, workers and kills; difficult cases are small drawings."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sparsem.annotation.importing import import_annotation
from sparsem.annotation.labeled_slices import read_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.annotation.writing import write_annotation
from sparsem.cells import cells as cells_module
from sparsem.cells import track as track_module
from sparsem.cells.cells import cells
from sparsem.cells.intervals import Leg, plan_legs
from sparsem.cells.job import SeparationJob
from sparsem.cells.propagate import FlowCarrier, GridSlice
from sparsem.cells.settings import (
    CellsSettings,
    PropagationSettings,
    SeparationMethod,
    TrackSettings,
)
from sparsem.cells.track import track
from sparsem.errors import InputError, ResumeError, SampleError
from sparsem.experiment.cells import compare_cell_methods
from sparsem.experiment.settings import ALL_METHODS, CellMethodsSettings
from sparsem.geometry import VoxelSize, ZBlock
from sparsem.labels.overlaps import overlaps
from sparsem.phantom.phantom import phantom
from sparsem.score.instances import dice_of_cells, remove_small_objects
from sparsem.score.score import score
from sparsem.score.settings import ScoreSettings
from sparsem.segment.targets import interior_and_boundary
from sparsem.settings import Settings, changed
from sparsem.store.sample import Sample
from sparsem.store.volume import Kind, volume_spec
from sparsem.workflow.execution import Execution
from sparsem.workflow.stage import BlockResult, Stage, finished
from tests.conftest import LABELED, TISSUE, copy_of, drawn, kill_ten_times, put, truth_of, voxels

Labels = NDArray[Any]
QUIET = Execution(overwrite=True, quiet=True)


def _given(block: ZBlock, path: str, stack: Labels) -> BlockResult:
    return {path: stack[block.own]}, {}


def give(
    sample: Sample,
    path: str,
    stack: Labels,
    depth: int,
    kind: Kind = Kind.PROBABILITY,
    voxel: Sequence[float] = (20, 20, 20),
) -> None:
    """Write a volume as a stage would."""
    shape = (stack.shape[0], stack.shape[1], stack.shape[2])
    spec = volume_spec(path, shape, stack.dtype, kind, VoxelSize.of(voxel), depth)
    with Stage(
        sample,
        f"given-{path.replace('/', '-')}",
        Settings(),
        {"voxels": str(hash(stack.tobytes()))},
        [spec],
    ) as stage:
        stage.map(
            _given,
            [ZBlock(z, min(z + depth, len(stack)), z, z) for z in range(0, len(stack), depth)],
            path,
            stack,
        )


def give_network(sample: Sample, truth: Labels, depth: int, boundary_fraction: float = 1.0) -> None:
    """Write interior and boundary of the true cells, as a network predicts them.

    Boundaries are written only in a fraction of every slice, ``boundary_fraction``.
    """
    targets = [
        interior_and_boundary(labels, np.ones(labels.shape, bool), 3.0, True) for labels in truth
    ]
    interior, boundary = (
        np.stack([target[n] for target in targets]) * np.uint8(255) for n in (0, 1)
    )
    boundary[:, : round((1 - boundary_fraction) * truth.shape[1])] = 0
    give(sample, "probabilities/cells-interior", interior, depth)
    give(sample, "probabilities/cells-boundary", boundary, depth)


def tissue_of_depth(path: Path, depth: int) -> Sample:
    sample = phantom(path, changed(TISSUE, {"block_depth": depth}))
    truth = sample.volume("truth", "cells").read(slice(None))
    write_annotation(sample, "cells", LABELED, truth_of(sample, "cells", LABELED))
    give_network(sample, truth, depth, boundary_fraction=0.7)
    return sample


@pytest.fixture(scope="module")
def tissue_with_cells(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """A small phantom, three labeled slices, and the predictions of a good network.

    Tests must not change it.
    """
    return tissue_of_depth(tmp_path_factory.mktemp("cells") / "tissue.zarr", 7)


@pytest.fixture
def tissue_copy(tissue_with_cells: Sample, tmp_path: Path) -> Sample:
    return copy_of(tissue_with_cells, tmp_path / "own.zarr")


def both(
    sample: Sample, method: SeparationMethod = "arrival", on: Execution = QUIET, **more: Any
) -> Labels:
    cells(sample, CellsSettings(method=method, **more), on=on)
    track(sample, TrackSettings(min_volume_um3=0), on=on)
    return sample.volume("labels", "cells").read(slice(None))


def mean_dice(sample: Sample, labels: Labels, min_voxels: int = 500) -> float:
    truth = sample.volume("truth", "cells").read(slice(None))
    unlabeled = [z for z in range(len(truth)) if z not in LABELED]
    (table,) = remove_small_objects([overlaps(labels[unlabeled], truth[unlabeled])], min_voxels)
    return float(np.mean(list(dice_of_cells(table).values())))


def test_every_method_separates_and_the_order_of_the_paper_appears(tissue_copy: Sample) -> None:
    dice = {method: mean_dice(tissue_copy, both(tissue_copy, method)) for method in ALL_METHODS}
    assert dice["mask"] < dice["mask_border"] < min(dice["mask_flow"], dice["selective"])
    assert dice["per_frame"] > 0.9
    assert dice["arrival"] > 0.93
    assert read_annotation(tissue_copy, "cells").z == LABELED


def test_an_organelle_that_the_network_takes_for_the_outside_stays_in_its_cell(
    tissue_copy: Sample,
) -> None:
    truth = tissue_copy.volume("truth", "cells").read(slice(None))
    inside = tissue_copy.volume("probabilities", "cells-interior").read(slice(None))
    inside &= tissue_copy.volume("probabilities", "cells-boundary").read(slice(None)) == 0
    z, rows, columns = (
        5,
        *np.nonzero(sliding_window_view(inside[5], (9, 9)).all(axis=(2, 3))),
    )  # 9 x 9 pixels well within a cell
    hole = np.s_[z, rows[0] + 2 : rows[0] + 6, columns[0] + 2 : columns[0] + 6]
    seen = tissue_copy.volume("probabilities", "cells-interior").read(slice(None))
    seen[hole] = 3
    put(tissue_copy, "probabilities/cells-interior", seen, 7, VoxelSize(20, 20, 20))
    assert (both(tissue_copy)[hole] == truth[hole]).all()
    assert (both(tissue_copy, fill_holes_um2=0)[hole] == 0).all()


def test_labeled_slices_stay_as_they_were_labeled(tissue_copy: Sample) -> None:
    result = both(tissue_copy)
    for z, labels in zip(LABELED, truth_of(tissue_copy, "cells", LABELED), strict=True):
        assert np.array_equal(result[z], labels)


@pytest.mark.parametrize(
    ("method", "depth"), [("arrival", 1), ("arrival", 16), ("per_frame", 16), ("selective", 1)]
)
def test_results_do_not_depend_on_the_depth_of_blocks(
    tissue_with_cells: Sample, tmp_path: Path, method: SeparationMethod, depth: int
) -> None:
    first = copy_of(tissue_with_cells, tmp_path / "seven.zarr")
    second = tissue_of_depth(tmp_path / "other.zarr", depth)
    assert np.array_equal(both(first, method), both(second, method))
    names = ("labels/cells-regions", "probabilities/cells-disagreement")
    for folder, name in (path.split("/") for path in names):
        first_values, second_values = (
            sample.volume(folder, name).read(slice(None)) for sample in (first, second)
        )
        assert np.array_equal(first_values, second_values)
    tables = [
        [sample.read_table(f"{kind}_cells") for kind in ("tracks", "links", "review")]
        for sample in (first, second)
    ]
    assert tables[0] == tables[1]


def test_results_do_not_depend_on_workers(tissue_with_cells: Sample, tmp_path: Path) -> None:
    first, second = (
        copy_of(tissue_with_cells, tmp_path / f"{name}.zarr") for name in ("here", "workers")
    )
    both(first)
    both(second, on=replace(QUIET, workers=2))
    for name in ("cells", "cells-regions"):
        for first_level, second_level in zip(
            *(voxels(sample.volume("labels", name)) for sample in (first, second)), strict=True
        ):
            assert np.array_equal(first_level, second_level)


def test_killed_at_any_moment_and_run_again(tissue_copy: Sample, tmp_path: Path) -> None:
    whole = copy_of(tissue_copy, tmp_path / "whole.zarr")
    both(whole, on=Execution(quiet=True))
    died = kill_ten_times("cells", {"sample": str(tissue_copy.path), "seconds": 1.0})
    assert died >= 3
    for name in ("cells", "cells-regions"):
        for killed_level, whole_level in zip(
            *(voxels(sample.volume("labels", name)) for sample in (tissue_copy, whole)), strict=True
        ):
            assert np.array_equal(killed_level, whole_level)
    for kind in ("tracks", "links", "review"):
        assert tissue_copy.read_table(f"{kind}_cells") == whole.read_table(f"{kind}_cells")
    assert not (tissue_copy.path / ".sparsem" / "work" / "cells-cells").exists()


def test_a_corrected_slice_redoes_its_two_intervals_and_an_added_one_the_interval_it_lies_in(
    tissue_copy: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(tissue_copy)
    done: list[int] = []
    separate = cells_module._separate_slice

    def counted(z: int, *rest: Any) -> Any:
        done.append(z)
        return separate(z, *rest)

    monkeypatch.setattr(cells_module, "_separate_slice", counted)
    corrected = truth_of(tissue_copy, "cells", (18,))[0]
    tifffile.imwrite(
        tmp_path / "cells_0018.tif", np.where(corrected == corrected.max(), 900, corrected)
    )  # a new id
    add = AnnotationSettings(add=True)
    with pytest.raises(ResumeError, match="Slices 18 of 'cells' have other labels already"):
        import_annotation(tissue_copy, "cells", tmp_path / "cells_0018.tif", add)
    import_annotation(
        tissue_copy,
        "cells",
        tmp_path / "cells_0018.tif",
        add,
        on=Execution(overwrite=True, quiet=True),
    )
    with pytest.raises(ResumeError, match="--overwrite"):
        cells(tissue_copy, CellsSettings(), on=Execution(quiet=True))
    assert 900 in both(tissue_copy)[15]
    assert done == list(range(10, 19))  # 9 is labeled and was not touched
    done.clear()
    tifffile.imwrite(tmp_path / "cells_0005.tif", truth_of(tissue_copy, "cells", (5,))[0])
    import_annotation(tissue_copy, "cells", tmp_path / "cells_0005.tif", add)
    assert read_annotation(tissue_copy, "cells").z == (0, 5, 9, 18)
    added = both(tissue_copy)
    assert done == list(range(1, 9))
    scratch = copy_of(tissue_copy, tmp_path / "scratch.zarr")
    shutil.rmtree(scratch.path / ".sparsem" / "stages")
    for name in ("cells", "cells-regions"):
        shutil.rmtree(scratch.path / "labels" / name)
    shutil.rmtree(scratch.path / "probabilities" / "cells-disagreement")
    assert np.array_equal(both(scratch), added)


def test_a_coarser_grid_costs_little(tissue_copy: Sample) -> None:
    fine, coarse = both(tissue_copy, flow_downsampling=1), both(tissue_copy, flow_downsampling=2)
    assert np.mean(fine == coarse) > 0.95
    assert mean_dice(tissue_copy, coarse) > mean_dice(tissue_copy, fine) - 0.03


def test_legs_lead_from_every_labeled_slice_to_its_neighbors_and_end_at_blocks() -> None:
    plan = plan_legs((3, 9), 14, 4, [True] * 14)
    assert plan == {
        "3-up": [Leg(0, 1, 3, 4, True), Leg(0, 1, 4, 8, False), Leg(0, 1, 8, 9, False)],
        "3-down": [Leg(0, -1, 0, 4, True)],
        "9-up": [Leg(1, 1, 9, 12, True), Leg(1, 1, 12, 14, False)],
        "9-down": [Leg(1, -1, 8, 10, True), Leg(1, -1, 4, 8, False)],
    }
    for z in range(14):  # the needed slices decide how long a chain is, not its legs
        partial_plan = plan_legs((3, 9), 14, 4, [slice_index == z for slice_index in range(14)])
        assert all(chain == plan[name][: len(chain)] for name, chain in partial_plan.items())
        assert all(
            any(leg.start <= z < leg.stop for leg in chain) for chain in partial_plan.values()
        )
        assert len(partial_plan) == (1 if z < 3 or z > 9 else 2)
    assert plan_legs((3,), 5, 4, [False] * 5) == {}


def test_the_experiment_scores_all_methods(tissue_copy: Sample) -> None:
    rows = compare_cell_methods(
        tissue_copy,
        settings=CellMethodsSettings(method=("mask", "arrival"), min_voxels=500),
        on=Execution(quiet=True),
    )
    assert list(rows) == ["mask", "arrival"]
    assert rows["arrival"]["dice_cells"] == pytest.approx(mean_dice(tissue_copy, both(tissue_copy)))
    assert rows["arrival"]["arand_3d"] < rows["mask"]["arand_3d"]  # type: ignore[operator]
    assert tissue_copy.read_table("experiment_cells")["method"].to_pylist() == ["mask", "arrival"]


def test_scores_of_cells_are_those_of_the_arrays(tissue_copy: Sample) -> None:
    labels = both(tissue_copy)
    scores = score(tissue_copy, "cells", settings=ScoreSettings(instances=True, min_voxels=500))
    assert scores.of_cells("unseen")["dice_cells"] == pytest.approx(mean_dice(tissue_copy, labels))
    assert scores.of_cells()["dice_cells"] > mean_dice(tissue_copy, labels)  # type: ignore[operator]
    table = tissue_copy.read_table("dice_cells").to_pydict()
    truth = tissue_copy.volume("truth", "cells").read(slice(None))
    assert table["voxels"] == [int((truth == cell).sum()) for cell in table["cell"]]
    assert score(tissue_copy, "cells").of_cells("unseen") == {}


# Drawn stacks: slices side by side. 1 to 9 are cells.


def stack_of(*rows: str) -> Labels:
    """Slices of a drawing, enlarged for optical flow and boundaries: a mark is 6 x 6 pixels."""
    split = [row.split() for row in rows]
    slices = [drawn(*(row[z] for row in split)) for z in range(len(split[0]))]
    return np.stack([np.kron(labels, np.ones((6, 6), np.uint8)) for labels in slices])


def drawn_sample(
    path: Path,
    truth: Labels,
    labeled: dict[int, Labels],
    ids: dict[int, int] | None = None,
    voxel: Sequence[float] = (20, 20, 20),
) -> Sample:
    """A sample whose image shows the drawing."""
    sample = Sample.create(path)
    noise = np.random.default_rng(0).normal(0, 6, truth.shape)
    texture = np.random.default_rng(1).normal(0, 12, truth.shape[1:])
    image = np.clip(np.where(truth > 0, 150, 60) + texture + noise, 0, 255).astype(np.uint8)
    give(sample, "", image, 4, Kind.IMAGE, voxel)
    give_network(sample, truth, 4)
    renamed = [
        np.vectorize(lambda v: (ids or {}).get(int(v), int(v)))(labels).astype(np.uint32)
        for labels in labeled.values()
    ]
    write_annotation(sample, "cells", list(labeled), renamed)
    return sample


def marks(stack: Labels) -> list[list[str]]:
    """The label in the middle of every mark, slice by slice."""
    return [
        ["".join(str(v) if v else "." for v in row) for row in labels[3::6, 3::6]]
        for labels in stack
    ]


def separated(path: Path, truth: Labels, z: Sequence[int], **more: Any) -> Labels:
    return both(drawn_sample(path, truth, {index: truth[index] for index in z}), **more)


@pytest.mark.parametrize("method", ALL_METHODS)
def test_a_cell_that_ends_between_labeled_slices(tmp_path: Path, method: SeparationMethod) -> None:
    truth = stack_of("11.22 11.22 11... 11... 11...", "11.22 11.22 11... 11... 11...")
    result = marks(separated(tmp_path / "s.zarr", truth, (0, 4), method=method))
    if method != "flow":  # flow alone does not detect the end of a cell
        assert result == marks(truth)
    assert result[1][0] == "11.22"
    assert result[4][0] == "11..."


@pytest.mark.parametrize("method", [method for method in ALL_METHODS if method != "flow"])
def test_a_cell_in_no_labeled_slice_gets_an_identity_of_its_own(
    tmp_path: Path, method: SeparationMethod
) -> None:
    truth = stack_of("11... 11.55 11.55 11.55 11...", "11... 11.55 11.55 11.55 11...")
    result = separated(tmp_path / "s.zarr", truth, (0, 4), method=method)
    assert marks(np.where(result > 65_535, 5, result)) == marks(truth)  # an identity above all ids
    assert Sample.open(tmp_path / "s.zarr").read_table("tracks_cells")["in_cell"].to_pylist() == [
        False
    ]


@pytest.mark.parametrize("method", ALL_METHODS)
def test_an_empty_slice_a_full_one_and_a_labeled_slice_without_cells(
    tmp_path: Path, method: SeparationMethod
) -> None:
    truth = stack_of("..... ..... 11111 11.22 .....", "..... ..... 11111 11.22 .....")
    result = separated(tmp_path / "s.zarr", truth, (0, 3, 4), method=method)
    assert marks(result)[0] == marks(truth)[0]
    assert marks(result)[3:] == marks(truth)[3:]
    if method != "flow":  # flow uses no mask
        assert marks(result)[1] == marks(truth)[1]
        assert (result[2] > 0).all()  # every pixel belongs to a cell


def test_ids_beyond_16_bit(tmp_path: Path) -> None:
    truth = stack_of("11.22 11.22 11.22", "11.22 11.22 11.22")
    ids = {1: 70_000, 2: 4_290_000_000}
    result = both(drawn_sample(tmp_path / "s.zarr", truth, {0: truth[0], 2: truth[2]}, ids))
    assert np.unique(result).tolist() == [0, *ids.values()]
    assert np.array_equal(result == 70_000, truth == 1)


def test_a_blob_that_touches_two_cells_is_divided_between_them(
    tmp_path: Path,
) -> None:
    truth = stack_of("1...2 11111 1...2", "1...2 1...2 1...2")
    result = separated(tmp_path / "s.zarr", truth, (0, 2))
    middle = marks(result)[1]
    assert set(middle[0]) <= {"1", "2"}
    assert middle[1] == "1...2"


@pytest.mark.parametrize("method", ALL_METHODS)
def test_neighbors_that_are_not_annotated_do_not_take_the_id_of_a_cell(
    tmp_path: Path, method: SeparationMethod
) -> None:
    truth = stack_of("1133 1133 1133", "1133 1133 1133")
    sample = drawn_sample(tmp_path / "s.zarr", truth, {0: truth[0], 2: truth[2]})
    write_annotation(
        sample, "cells", [0, 2], [truth[0], truth[2]], ignore=3, overwrite=True
    )  # 3 was not outlined
    result = both(sample, method)
    assert (result[truth == 1] == 1).mean() > 0.9
    assert (result[truth == 3] == 1).mean() < 0.2
    if method != "flow":  # flow uses no mask
        assert (result[truth == 3] > 65_535).mean() > 0.8  # an identity above all ids


@pytest.mark.parametrize(
    "method", ["arrival", "per_frame", "flow"]
)  # the others take their seeds from the nearest labeled slice alone
def test_pixels_unknown_in_one_labeled_slice_get_labels_from_the_other(
    tmp_path: Path, method: SeparationMethod
) -> None:
    truth = stack_of("112233 112233 112233 112233 112233", "112233 112233 112233 112233 112233")
    sample = drawn_sample(tmp_path / "s.zarr", truth, {0: truth[0], 4: truth[4]})
    half = np.where(truth[0] == 1, 1, 9)  # only cell 1 was outlined in the first slice
    write_annotation(sample, "cells", [0, 4], [half, truth[4]], ignore=9, overwrite=True)
    assert marks(both(sample, method))[1:] == marks(truth)[1:]


@pytest.mark.parametrize("method", ["arrival", "per_frame", "selective", "mask_border"])
def test_two_new_cells_that_touch_are_two(tmp_path: Path, method: SeparationMethod) -> None:
    truth = stack_of(
        "1...... 1.55566 1.55566 1.55566 1......", "1...... 1.55566 1.55566 1.55566 1......"
    )
    result = separated(tmp_path / "s.zarr", truth, (0, 4), method=method)
    assert {v: np.unique(result[truth == v]).size for v in (5, 6)} == {5: 1, 6: 1}
    assert result[truth == 5].min() != result[truth == 6].min()


def test_pixels_ignored_before_and_background_now_are_computed_again(tissue_copy: Sample) -> None:
    first = truth_of(tissue_copy, "cells", LABELED)
    holes = [np.where(np.indices(labels.shape)[1] < 20, 4_000, labels) for labels in first]
    write_annotation(tissue_copy, "cells", LABELED, holes, ignore=4_000, overwrite=True)
    both(tissue_copy)
    write_annotation(
        tissue_copy,
        "cells",
        LABELED,
        [np.where(labels == 4_000, 0, labels) for labels in holes],
        overwrite=True,
    )
    changed = both(tissue_copy)
    assert not changed[0][:, :20].any()


def test_probabilities_of_another_image_are_refused(tissue_copy: Sample, tmp_path: Path) -> None:
    truth = tissue_copy.volume("truth", "cells").read(slice(None))
    shutil.rmtree(tissue_copy.path / "probabilities")
    shutil.rmtree(tissue_copy.path / ".sparsem" / "stages")
    give_network(tissue_copy, truth[:, :-2], 7)
    with pytest.raises(
        SampleError,
        match=r"The pixels of the image 'raw' of own\.zarr are not those of probabilities/cells-interior",
    ):
        cells(tissue_copy)


@pytest.mark.parametrize("grid", [1, 4])
def test_slices_are_as_far_apart_as_they_are(tmp_path: Path, grid: int) -> None:
    truth = stack_of("11.22 11.22", "11.22 11.22")
    sample = drawn_sample(tmp_path / "s.zarr", truth, {0: truth[0]}, voxel=(60, 20, 20))
    image = sample.image("raw")
    job = SeparationJob(
        sample,
        "raw",
        image,
        image,
        image,
        CellsSettings(flow_downsampling=grid),
        (12 // grid, 30 // grid),
        (0,),
        1,
        2,
    )
    assert job.pixel_nm == pytest.approx(20 * np.sqrt(12 * 30 / ((12 // grid) * (30 // grid))))
    assert job.carrier.thickness == pytest.approx(60 / job.pixel_nm)  # type: ignore[attr-defined]


def test_missing_inputs_are_reported(tissue_copy: Sample, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"run 'sparsem cells own\.zarr' first"):
        track(tissue_copy)
    with pytest.raises(SampleError, match=r"no annotation of 'cell'.*did you mean 'cells'"):
        cells(tissue_copy, CellsSettings(cells="cell"))
    write_annotation(tissue_copy, "others", [0], [np.ones((96, 128), np.uint32)])
    with pytest.raises(
        SampleError, match="no probabilities/others-interior; train with --cells others"
    ):
        cells(tissue_copy, CellsSettings(cells="others"))
    empty = [np.zeros((96, 128), np.uint32)] * 3
    write_annotation(tissue_copy, "cells", LABELED, empty, overwrite=True)
    with pytest.raises(InputError, match="No labeled slice of 'cells' holds a cell"):
        cells(tissue_copy)
    write_annotation(
        tissue_copy,
        "cells",
        LABELED,
        [labels + np.uint32(2**32 - 1) for labels in empty],
        overwrite=True,
    )
    with pytest.raises(InputError, match="Renumber the cells"):
        cells(tissue_copy)
    many = np.arange(96 * 128, dtype=np.uint32).reshape(96, 128)
    monkey = pytest.MonkeyPatch()
    monkey.setattr(cells_module, "MAX_CELLS_PER_SLICE", 10_000)
    write_annotation(tissue_copy, "cells", LABELED, [many] * 3, overwrite=True)
    with pytest.raises(InputError, match="Slice 0 of 'cells' holds 12287 cells; at most 10000"):
        cells(tissue_copy)
    monkey.undo()


def test_places_to_review_are_where_the_two_sides_disagree(tissue_copy: Sample) -> None:
    truth = tissue_copy.volume("truth", "cells").read(slice(None))
    labels = both(tissue_copy)
    tracked = track(tissue_copy, TrackSettings(min_volume_um3=0), on=Execution(quiet=True))
    assert tracked.review
    assert [review_place.area_um2 for review_place in tracked.review] == sorted(
        (review_place.area_um2 for review_place in tracked.review), reverse=True
    )
    disagreement = tissue_copy.volume("probabilities", "cells-disagreement").read(slice(None))
    for review_place in tracked.review:
        if review_place.kind == "disagreement":
            assert disagreement[review_place.z, review_place.y, review_place.x] >= 127
    wrong = labels != truth
    assert wrong[disagreement > 0].mean() > 3 * wrong[disagreement == 0].mean()
    assert (
        json.loads((tissue_copy.path / ".sparsem" / "stages" / "track-cells.json").read_text())[
            "record"
        ]["window_px"]
        == 512
    )
    assert len(finished(tissue_copy, "cells-cells")) == 3


def test_labeled_slices_of_a_result_are_those_of_the_annotation_that_it_was_made_from(
    tissue_copy: Sample,
) -> None:
    cells(tissue_copy, CellsSettings(out="neurons"))
    track(tissue_copy, TrackSettings(cells="neurons"))
    truth = tissue_copy.volume("truth", "cells").directory
    assert (
        score(tissue_copy, "neurons", truth, ScoreSettings(slices="all")).group("trained")
        == LABELED
    )
    cell_ids = sorted(
        {
            int(cell)
            for labels in truth_of(tissue_copy, "cells", LABELED)
            for cell in np.unique(labels)
            if cell
        }
    )[:2]
    scores = score(
        tissue_copy,
        "neurons",
        truth,
        ScoreSettings(instances=True, ids=tuple(cell_ids), slices="all"),
    ).of_cells()
    assert scores["cells"] == 2  # other structures in the truth are no cells


def test_a_correction_may_be_killed_too(tissue_copy: Sample, tmp_path: Path) -> None:
    both(tissue_copy)
    tifffile.imwrite(tmp_path / "cells_0005.tif", truth_of(tissue_copy, "cells", (5,))[0])
    import_annotation(
        tissue_copy, "cells", tmp_path / "cells_0005.tif", AnnotationSettings(add=True)
    )
    whole = copy_of(tissue_copy, tmp_path / "whole.zarr")
    both(whole)
    assert (
        kill_ten_times(
            "cells", {"sample": str(tissue_copy.path), "seconds": 0.8, "overwrite": True}
        )
        >= 3
    )
    killed_labels, whole_labels = (
        np.asarray(sample.volume("labels", "cells").read(slice(None)))
        for sample in (tissue_copy, whole)
    )
    assert np.array_equal(killed_labels, whole_labels)
    assert not (tissue_copy.path / ".sparsem" / "work" / "cells-cells").exists()


def test_track_is_refused_before_slices_are_compared(
    tissue_copy: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    both(tissue_copy)
    monkeypatch.setattr(
        track_module,
        "link_slices",
        lambda *_: pytest.fail("slices were compared before the refusal"),
    )
    with pytest.raises(ResumeError, match="window_px: 512 -> 64"):
        track(tissue_copy, TrackSettings(window_px=64))


def test_labels_from_beyond_the_border_have_infinite_cost() -> None:
    labels = np.ones((8, 10), np.uint32)
    carrier = FlowCarrier(PropagationSettings())
    zeros = np.zeros((8, 10), np.float32)
    state = dict(
        carrier.begin(labels, labels > 0, GridSlice(np.zeros((8, 10), np.uint8), zeros, zeros, 1.0))
    )
    state["flow"] = state["flow"] - np.float32(
        3
    )  # everything came from three pixels up and to the left
    front = carrier.front(state)
    assert np.isinf(front.cost[:3]).all()
    assert np.isinf(front.cost[:, :3]).all()
    assert np.isfinite(front.cost[3:, 3:]).all()
    assert (front.labels[3:, 3:] == 1).all()
