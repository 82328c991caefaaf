"""Objects that touch: targets, fragments, agglomeration, and the stage ``objects``."""

import shutil
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from sparsem.annotation.labeled_slices import UNKNOWN, read_annotation
from sparsem.annotation.precedence import apply_annotation
from sparsem.annotation.writing import write_annotation
from sparsem.errors import InputError, ResumeError, SampleError, SettingsError
from sparsem.geometry import VoxelSize
from sparsem.labels import edit
from sparsem.labels.agglomerate import (
    Faces,
    add_faces,
    agglomerate,
    faces_along,
    faces_between,
    faces_of_block,
    require_overlap,
)
from sparsem.labels.fragments import HALO, climb, follow, insert_drawn_objects
from sparsem.labels.objects import objects, recorded_object_settings
from sparsem.measure.measure import measure
from sparsem.score.matching import ObjectMatching, choose_matching
from sparsem.score.score import score
from sparsem.segment.predict import predict
from sparsem.segment.targets import boundary_between_objects
from sparsem.segment.train import train
from sparsem.store.sample import Sample
from sparsem.study.study import run
from sparsem.workflow.execution import Execution

from .conftest import QUICK, drawn, files_in, kill_ten_times, put, write_liver
from .test_corrections import computed

QUIET = Execution(quiet=True)
AGAIN = Execution(quiet=True, overwrite=True)
Volume8 = NDArray[np.uint8]


def random_tissue(shape: tuple[int, int, int], seed: int) -> tuple[Volume8, Volume8, Volume8]:
    """Return a smooth random probability, boundary and mask."""
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    probability = np.clip(128 + 70 * grain / grain.std(), 0, 255).astype(np.uint8)
    sheets = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    boundary = np.clip(255 - 400 * np.abs(sheets / sheets.std()), 0, 255).astype(np.uint8)
    return probability, boundary, (probability >= 128).astype(np.uint8)


# Targets.


def test_the_boundary_lies_where_two_objects_touch_and_in_narrow_gaps() -> None:
    labels = drawn("1112222....3", "1112222....3")
    target = boundary_between_objects(labels, np.ones(labels.shape, bool), 3.0, outlined=True)
    assert target[0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    with_gap = drawn("111..44", "111..44")
    target = boundary_between_objects(with_gap, np.ones(with_gap.shape, bool), 4.0, outlined=True)
    assert target[0].tolist() == [0, 0, 0, 1, 1, 0, 0]
    alone = drawn(".......", "..111..", ".......")
    assert not boundary_between_objects(alone, np.ones(alone.shape, bool), 3.0, True).any()


def test_the_boundary_is_unknown_where_the_annotation_is() -> None:
    labels = drawn("11122...", "11122...")
    known = np.ones(labels.shape, bool)
    known[:, 5:] = False
    open_ended = boundary_between_objects(labels, known, 3.0, outlined=False)
    assert open_ended[0].tolist() == [0, 1, 1, 1, 1, 255, 255, 255]
    known[:, 3:] = False
    assert boundary_between_objects(labels, known, 3.0, outlined=True)[0].tolist() == [
        *(0, 1, 1, 1, 1),
        *(UNKNOWN,) * 3,
    ]


def test_the_distance_to_the_second_object_equals_a_plain_version() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random((40, 50)) < 0.02) * rng.integers(1, 9, (40, 50))
    labels = ndimage.grey_dilation(labels, 5).astype(np.uint32)
    distances = []
    for number in np.unique(labels[labels > 0]):
        distances.append(np.maximum(ndimage.distance_transform_edt(labels != number) - 0.5, 0))
    second = np.sort(distances, axis=0)[1]
    target = boundary_between_objects(labels, np.ones(labels.shape, bool), 4.0, outlined=True)
    np.testing.assert_array_equal(target, second <= 2.0)


def test_objects_of_a_mask_are_its_parts(own_tissue: Sample) -> None:
    shape = own_tissue.image().shape[1:]
    mask = np.zeros(shape, np.uint32)
    mask[10:20, 10:20] = mask[10:20, 21:30] = 1
    write_annotation(own_tissue, "endosome", (3,), [mask])
    parts, known = read_annotation(own_tissue, "endosome").separate_objects(0)
    assert known.all()
    assert np.unique(parts).tolist() == [0, 1, 2]
    numbered = mask.copy()
    numbered[40:50, 40:50] = 7
    numbered[60:70, 40:50] = 7  # two cross-sections of one object
    write_annotation(own_tissue, "lysosome", (3,), [numbered])
    parts, _ = read_annotation(own_tissue, "lysosome").separate_objects(0)
    assert np.unique(parts).tolist() == [0, 1, 7]


# Fragments.


def plain_maxima(
    probability: Volume8, boundary: Volume8, mask: Volume8, in_depth: bool
) -> NDArray[np.int64]:
    """Return for every voxel the flat index of the maximum that it climbs to."""
    height = np.minimum(probability, 255 - boundary).astype(np.int64)
    for axis in range(0 if in_depth else 1, 3):
        height = ndimage.correlate1d(height, [1, 4, 6, 4, 1], axis=axis, mode="nearest")
    padded = np.pad(np.where(mask, height, -1), 1, constant_values=-1)
    index = np.arange(mask.size).reshape(mask.shape)
    padded_index = np.pad(index, 1)
    best = np.full(mask.shape, -1)
    target = index.copy()
    z, y, x = mask.shape
    for shift in np.ndindex(3, 3, 3):
        if not in_depth and shift[0] != 1:
            continue
        area = tuple(slice(s, s + n) for s, n in zip(shift, (z, y, x), strict=True))
        is_higher = padded[area] > best
        best = np.where(is_higher, padded[area], best)
        target = np.where(is_higher, padded_index[area], target)
    flat = np.where(mask, target, index).ravel()
    while (flat[flat] != flat).any():
        flat = flat[flat]
    return np.where(mask, flat.reshape(mask.shape), -1)


@pytest.mark.parametrize("in_depth", [True, False])
def test_fragments_equal_a_plain_version(in_depth: bool) -> None:
    probability, boundary, mask = random_tissue((12, 40, 50), 1)
    fragments, exits = follow(climb(probability, boundary, mask, slice(0, 12), in_depth))
    maxima = plain_maxima(probability, boundary, mask, in_depth)
    pairs = np.unique(np.stack([fragments[mask > 0], maxima[mask > 0]]), axis=1)
    assert len(exits) == pairs.shape[1] == len(np.unique(maxima[mask > 0]))
    assert not fragments[mask == 0].any()
    assert not exits[:, 0].any()
    firsts = [np.flatnonzero(fragments == number)[0] for number in range(1, len(exits) + 1)]
    assert firsts == sorted(firsts)


@settings(max_examples=20)
@given(st.integers(0, 2**16), st.integers(1, 12))
def test_fragments_of_blocks_continue_where_the_whole_says(seed: int, depth: int) -> None:
    probability, boundary, mask = random_tissue((12, 20, 25), seed)
    whole = follow(climb(probability, boundary, mask, slice(0, 12), True)).fragments
    for start in range(0, 12, depth):
        stop = min(start + depth, 12)
        read = slice(max(0, start - HALO), min(12, stop + HALO))
        own = slice(start - read.start, stop - read.start)
        block = follow(climb(probability[read], boundary[read], mask[read], own, True))
        for number, (direction, pixel) in enumerate(block.exits, 1):
            reached = np.unique(whole[start:stop][block.fragments == number])
            assert len(reached) == 1
            if direction:
                neighbor = start - 1 if direction < 0 else stop
                assert whole[neighbor].ravel()[pixel] == reached[0]


# Agglomeration.


def plain_agglomeration(
    faces: Faces, n_fragments: int, areas: NDArray[np.float64], threshold: float
) -> list[int]:
    """Merge the best pair of all, one after the other."""
    object_of = list(range(n_fragments + 1))
    edges: dict[tuple[int, int], list[float]] = {}
    for (first, second), count, evidence in zip(*faces, strict=True):
        edges[int(first), int(second)] = [float(count @ areas), float(evidence @ areas)]
    while True:
        means = [(total / area, pair) for pair, (area, total) in edges.items()]
        mean, (first, second) = min(means, default=(np.inf, (0, 0)))
        if mean >= threshold:
            return object_of
        object_of = [first if number == second else number for number in object_of]
        merged: dict[tuple[int, int], list[float]] = {}
        for pair, (area, total) in edges.items():
            ends = sorted(first if number == second else number for number in pair)
            if ends[0] != ends[1]:
                sums = merged.setdefault((ends[0], ends[1]), [0.0, 0.0])
                sums[0] += area
                sums[1] += total
        edges = merged


@pytest.mark.parametrize("seed", range(20))
def test_mutual_best_partners_give_the_result_of_the_best_pair_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = np.array([np.sort(rng.choice(40, 2, replace=False)) + 1 for _ in range(130)])
    counts = rng.integers(1, 50, (130, 3)) * 1000
    evidence = (counts * rng.random((130, 1)) * 255).astype(np.int64)
    faces = add_faces([Faces(pairs, counts, evidence)])
    areas = np.array([1.0, 2.0, 3.0])
    merged = agglomerate(faces, 40, areas, 128.0)
    assert merged.tolist() == plain_agglomeration(faces, 40, areas, 128.0)


def test_equal_evidence_is_merged_in_a_fixed_order_and_ends() -> None:
    pairs = np.array([[1, 2], [1, 3], [2, 3], [3, 4]])
    counts = np.ones((4, 3), np.int64)
    faces = Faces(pairs, counts, counts * 100)
    assert agglomerate(faces, 5, np.ones(3), 101.0).tolist() == [0, 1, 1, 1, 1, 5]
    assert agglomerate(faces, 5, np.ones(3), 100.0).tolist() == [0, 1, 2, 3, 4, 5]


def test_faces_equal_a_plain_count_and_do_not_depend_on_blocks() -> None:
    rng = np.random.default_rng(2)
    fragments = rng.integers(0, 5, (4, 6, 7)).astype(np.uint32)
    boundary = rng.integers(0, 256, (4, 6, 7)).astype(np.uint8)
    expected: dict[tuple[int, int, int], list[int]] = {}
    for axis in range(3):
        length = fragments.shape[axis]
        first, second = np.arange(length - 1), np.arange(1, length)
        ends = [np.take(fragments, index, axis).ravel() for index in (first, second)]
        values = [np.take(boundary, index, axis).ravel() for index in (first, second)]
        for a, b, value in zip(*ends, np.maximum(*values), strict=True):
            if a and b and a != b:
                sums = expected.setdefault((min(a, b), max(a, b), axis), [0, 0])
                sums[0] += 1
                sums[1] += int(value)
    faces = faces_of_block(fragments, boundary)
    assert sum(count[axis] > 0 for count in faces.counts for axis in range(3)) == len(expected)
    for pair, count, total in zip(*faces, strict=True):
        for axis in range(3):
            assert [count[axis], total[axis]] == expected.get((*pair, axis), [0, 0])
    upper, lower = slice(1, 2), slice(2, 3)
    seam = faces_along(
        0,
        *faces_between(fragments[upper], fragments[lower], boundary[upper], boundary[lower], True),
    )
    halves = [faces_of_block(fragments[part], boundary[part]) for part in (np.s_[:2], np.s_[2:])]
    for whole, joined in zip(faces, add_faces([seam, *halves]), strict=True):
        np.testing.assert_array_equal(whole, joined)


def test_a_fragment_that_is_hardly_covered_is_another_object() -> None:
    faces = Faces(
        np.array([[1, 2], [1, 3]]), np.array([[90, 0, 0], [10, 5, 0]]), np.zeros((2, 3), np.int64)
    )
    stretched = require_overlap(faces, np.array([100, 100, 120]))
    assert stretched.counts.tolist() == [[100, 0, 0], [100, 5, 0]]
    assert stretched.evidence.tolist() == [[2550, 0, 0], [22950, 0, 0]]
    merged = agglomerate(stretched, 3, np.array([1.0, 0.0, 0.0]), 127.5)
    assert merged.tolist() == [0, 1, 1, 3]


def test_drawn_objects_replace_what_was_predicted() -> None:
    probability, boundary = np.full((1, 6), 90, np.uint8), np.full((1, 6), 60, np.uint8)
    labels = drawn("1122.3")
    known = np.array([[True] * 5 + [False]])
    insert_drawn_objects(probability, boundary, labels, known)
    assert probability.tolist() == [[255, 255, 255, 255, 0, 90]]
    assert boundary.tolist() == [[0, 255, 255, 0, 0, 60]]


# The stage.


def two_touching_balls(shape: tuple[int, int, int] = (24, 40, 60)) -> tuple[Volume8, Volume8]:
    """Return the mask of two balls that touch and a third one, and the boundary between the two."""
    z, y, x = np.indices(shape)
    first, second, third = (
        (z - 12) ** 2 + (y - 20) ** 2 + (x - center) ** 2 <= 9**2 for center in (12, 28, 50)
    )
    near = [ndimage.binary_dilation(ball, iterations=2) for ball in (first, second)]
    boundary = (near[0] & near[1]).astype(np.uint8) * 255
    return (first | second | third).astype(np.uint8), boundary


@pytest.fixture
def balls(tmp_path: Path) -> Sample:
    return _sample_of_balls(tmp_path / "balls.zarr", 7)


def _sample_of_balls(path: Path, depth: int, voxel: VoxelSize | None = None) -> Sample:
    mask, boundary = two_touching_balls()
    sample = Sample.create(path)
    put(sample, "", np.full(mask.shape, 100, np.uint8), depth, voxel)
    made_on = ("raw", sample.image("raw").fingerprint)
    put(sample, "labels/organelle", mask, depth, voxel, made_on)
    put(sample, "probabilities/organelle", mask * np.uint8(255), depth, voxel, made_on)
    put(sample, "probabilities/organelle-boundary", boundary, depth, voxel, made_on)
    return sample


def numbers(sample: Sample, name: str = "organelle") -> NDArray[Any]:
    return sample.volume("labels", f"{name}-objects").read(slice(None))


def test_balls_that_touch_are_two_objects(balls: Sample) -> None:
    result = objects(balls, "organelle", on=QUIET)
    assert result.settings.method == "agglomeration"
    assert result.objects == 3
    assert len(set(numbers(balls)[12, 20, [8, 30, 50]].tolist())) == 3
    mask = balls.volume("labels", "organelle").read(slice(None))
    np.testing.assert_array_equal(numbers(balls) > 0, mask > 0)
    with pytest.raises(ResumeError, match="method"):
        objects(balls, "organelle", method="components", on=QUIET)
    assert objects(balls, "organelle", method="components", on=AGAIN).objects == 2


@pytest.mark.parametrize("voxel", [VoxelSize(10, 10, 10), VoxelSize(50, 10, 10)])
def test_block_depth_and_workers_change_no_object(tmp_path: Path, voxel: VoxelSize) -> None:
    results = []
    for depth, workers in ((24, 0), (1, 0), (5, 2)):
        sample = _sample_of_balls(tmp_path / f"{depth}.zarr", depth, voxel)
        objects(sample, "organelle", on=Execution(workers=workers, quiet=True))
        results.append(numbers(sample))
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
    assert results[0].max() == 3


def test_real_shapes_are_the_same_in_any_blocks(tmp_path: Path) -> None:
    probability, boundary, mask = random_tissue((13, 60, 70), 4)
    results = []
    for depth in (13, 2, 5):
        sample = Sample.create(tmp_path / f"{depth}.zarr")
        put(sample, "", probability, depth)
        made_on = ("raw", sample.image("raw").fingerprint)
        put(sample, "labels/organelle", mask, depth, made_on=made_on)
        put(sample, "probabilities/organelle", probability, depth, made_on=made_on)
        put(sample, "probabilities/organelle-boundary", boundary, depth, made_on=made_on)
        objects(sample, "organelle", min_voxels=5, on=QUIET)
        results.append(numbers(sample))
    assert results[0].max() > 10
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_a_killed_run_ends_in_the_same_bytes(balls: Sample, tmp_path: Path) -> None:
    whole = tmp_path / "whole.zarr"
    shutil.copytree(balls.path, whole)
    objects(Sample.open(whole), "organelle", on=QUIET)
    objects(balls, "organelle", method="components", on=QUIET)  # compiles; then it is replaced
    given = {"sample": str(balls.path), "name": "organelle", "overwrite": True, "seconds": 0.3}
    assert kill_ten_times("objects", given) > 0
    path = "labels/organelle-objects"
    assert files_in(balls.path / path) == files_in(whole / path)


def test_what_a_person_drew_separates_objects(balls: Sample) -> None:
    none = np.zeros((24, 40, 60), np.uint8)
    made_on = ("raw", balls.image("raw").fingerprint)
    put(balls, "probabilities/organelle-boundary", none, 7, made_on=made_on)
    assert objects(balls, "organelle", on=AGAIN).objects == 2
    # The boundary is drawn on every slice on which the two touch; the mask must be a prediction.
    computed(balls, "organelle", balls.volume("labels", "organelle").read(slice(None)))
    _, boundary = two_touching_balls()
    touching = np.flatnonzero(boundary.any(axis=(1, 2))).tolist()
    x = np.arange(60)
    planes = []
    for z in touching:
        mask = balls.volume("labels", "organelle").read(slice(z, z + 1))[0]
        planes.append(np.where(mask, np.where(x < 20, 1, np.where(x < 40, 2, 3)), 0))
    write_annotation(
        balls, "organelle", tuple(touching), [plane.astype(np.uint32) for plane in planes]
    )
    apply_annotation(balls, "organelle", quiet=True)
    assert objects(balls, "organelle", on=AGAIN).objects == 3


def test_measure_takes_the_objects_as_they_were_numbered(balls: Sample) -> None:
    objects(balls, "organelle", min_voxels=10, on=QUIET)
    assert measure(balls, texture=False, on=QUIET).objects == {"organelle": 3}
    assert recorded_object_settings(balls, "organelle").min_voxels == 10
    table = balls.read_table("organelle")
    np.testing.assert_array_equal(
        table["voxels"].to_numpy(), np.bincount(numbers(balls).ravel())[1:]
    )
    edit.merge(balls, "organelle", [1, 2], on=QUIET)
    assert measure(balls, texture=False, on=AGAIN).objects == {"organelle": 2}


def test_bad_input_is_one_sentence(balls: Sample) -> None:
    put(balls, "labels/cells", np.ones((24, 40, 60), np.uint32), 7)
    with pytest.raises(SampleError, match="numbers its objects already"):
        objects(balls, "cells", on=QUIET)
    put(balls, "labels/nucleus", np.ones((24, 40, 60), np.uint8), 7)
    with pytest.raises(SampleError, match="train --objects nucleus"):
        objects(balls, "nucleus", method="agglomeration", on=QUIET)
    assert objects(balls, "nucleus", on=QUIET).settings.method == "components"
    with pytest.raises(SampleError, match="organele"):
        objects(balls, "organele", on=QUIET)
    with pytest.raises(InputError, match="name the structure, 'organelle'"):
        objects(balls, "organelle-boundary", on=QUIET)


# Scores of objects.


def test_objects_are_matched_slice_by_slice_where_numbers_do_not_agree() -> None:
    stack = np.zeros((4, 6, 12), np.uint32)
    stack[:, 1:5, 1:4] = 1
    stack[:, 1:5, 6:9] = 2
    assert choose_matching(stack, range(4), True) == ObjectMatching(in_3d=True)
    shuffled = stack.copy()
    shuffled[1::2] = np.array([0, 2, 1])[stack[1::2]]
    assert choose_matching(shuffled, range(4), True) == ObjectMatching(in_3d=False)
    mask = (stack > 0).astype(np.uint32)
    assert choose_matching(mask, range(4), True) == ObjectMatching(in_3d=False, is_mask=True)
    assert choose_matching(stack, (0, 2), False) == ObjectMatching(in_3d=False)
    assert choose_matching(stack, (0, 2), True) == ObjectMatching(in_3d=True)


def test_parts_of_an_object_are_compared_in_a_slice() -> None:
    predicted = drawn("11.11.2").astype(np.uint32)  # a network that crosses the slice twice
    true = drawn("33.44.5").astype(np.uint32)
    in_2d = ObjectMatching(in_3d=False)
    parts, same = in_2d.objects(predicted, true)
    assert parts[0].tolist() == [1, 1, 0, 2, 2, 0, 3]
    assert same is true
    _, parts = ObjectMatching(in_3d=False, is_mask=True).objects(predicted, (true > 0) * 1)
    assert parts[0].tolist() == [1, 1, 0, 2, 2, 0, 3]


def test_scores_of_objects_from_sparse_slices(balls: Sample, tmp_path: Path) -> None:
    objects(balls, "organelle", on=QUIET)
    truth = numbers(balls).copy()
    truth[1::2] = np.array([0, 3, 1, 2])[truth[1::2]]
    tifffile.imwrite(tmp_path / "truth.tif", truth.astype(np.uint8))
    scores = score(balls, "organelle", tmp_path / "truth.tif", instances=True, slices="all")
    assert not scores.in_3d
    numbers_2d = scores.of_cells()
    assert (numbers_2d["pq_2d"], numbers_2d["f1_75_2d"], numbers_2d["pq_3d"]) == (1, 1, None)
    assert numbers_2d["predicted_2d"] == numbers_2d["true_2d"]
    table = balls.read_table("scores_organelle")
    assert np.nanmin(table["f1_50"].to_numpy()) == 1
    assert table["true_objects"].to_pylist()[12 - scores.compared[0]] == 3
    in_3d = score(
        balls, "organelle", tmp_path / "truth.tif", instances=True, slices="all", matching="3d"
    )
    assert in_3d.of_cells()["pq_3d"] < 1  # type: ignore[operator]


def test_a_mask_needs_numbered_objects_for_its_scores(balls: Sample, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "truth.tif", np.ones((24, 40, 60), np.uint8))
    with pytest.raises(SampleError, match=r"sparsem objects balls\.zarr organelle"):
        score(balls, "organelle", tmp_path / "truth.tif", instances=True, slices="all")


# The whole path.


def test_a_study_trains_boundaries_and_numbers_objects(tissue: Sample, tmp_path: Path) -> None:
    write_liver(tissue, tmp_path)
    study = """
        sample = "s.zarr"
        [import]
        source = "liver.tif"
        voxel_nm = [20, 20, 20]
        [annotate.mitochondrion]
        source = "masks/mitochondrion"
        [train]
        objects = ["mitochondrion"]
        width = 4
        context_px = 64
        input_px = 32
        batch = 2
        updates = 4
        [objects.mitochondrion]
        min_voxels = 5
        [measure]
        texture = false
        [contacts]
        pairs = [["mitochondrion", "mitochondrion"]]
        [skeletons]
        structures = ["mitochondrion"]
        [predict]
        views = 3
        [export]
    """
    (tmp_path / "study.toml").write_text(textwrap.dedent(study), encoding="utf-8")
    result = run(tmp_path / "study.toml", on=QUIET)
    sample = result.sample
    assert sample.names("probabilities") == ["mitochondrion", "mitochondrion-boundary"]
    assert "mitochondrion-objects" in sample.names("labels")
    assert recorded_object_settings(sample, "mitochondrion").method == "agglomeration"
    tables = {"contacts_mitochondrion_mitochondrion", "skeletons_mitochondrion"}
    assert {"mitochondrion", *tables} <= set(sample.tables)
    assert "branches" in sample.read_table("statistics")["measure"].to_pylist()
    # The boundary is a step, and no result.
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["mitochondrion.tif"]
    before = files_in(sample.path)
    run(tmp_path / "study.toml", on=QUIET)
    assert files_in(sample.path) == before
    wrong = textwrap.dedent(study).replace("[objects.mitochondrion]", "[objects.mitochondria]")
    (tmp_path / "study.toml").write_text(wrong, encoding="utf-8")
    with pytest.raises(SettingsError, match="did you mean 'mitochondrion'"):
        run(tmp_path / "study.toml", on=QUIET)


def test_cells_and_objects_are_named_once(own_tissue: Sample, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="is named by --cells and by --structure or --objects"):
        train(own_tissue, model, QUICK, objects=("nucleus",), cells="nucleus", structures=())


def test_a_boundary_that_occurs_nowhere_is_trained(own_tissue: Sample, tmp_path: Path) -> None:
    """Nuclei do not touch: the boundary has no pixel, and nothing is refused."""
    model = tmp_path / "m.safetensors"
    result = train(own_tissue, model, QUICK, objects=("nucleus",), structures=(), on=QUIET)
    assert result.recipe.structures == ("nucleus", "nucleus-boundary")
    predict(own_tissue, model, on=QUIET)
    assert objects(own_tissue, "nucleus", on=QUIET).settings.method == "agglomeration"
