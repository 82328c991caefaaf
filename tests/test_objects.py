"""Objects of a mask, cavities, distances, protrusions: compared with scipy, formulas, drawings."""

from itertools import pairwise
from typing import Any

import cc3d
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, map_coordinates

from sparsem.labels.components import (
    connected_labels,
    connected_parts,
    join_parts,
    number_runs,
    runs_of_slice,
    sizes_of_runs,
    touching_pairs,
)
from sparsem.labels.distance_transform import distances_inside
from sparsem.labels.overlaps import Overlaps, overlaps
from sparsem.labels.runs import label_runs
from sparsem.measure.containment import contents_of, main_containers
from sparsem.measure.features.distances import (
    depths_at,
    half_edge,
    minimum_distances,
)
from sparsem.measure.features.moments import renumber_consecutively
from sparsem.measure.features.nucleolus import fill_cavities, proximity_to_membrane
from sparsem.measure.features.protrusions import cell_body, find_protrusions
from tests.conftest import drawn

ISOTROPIC = (1.0, 1.0, 1.0)
Mask = NDArray[np.bool_]
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))


def number_in_blocks(mask: Mask, depth: int, min_voxels: int) -> NDArray[np.uint32]:
    """Number the objects as the stage does, without files."""
    starts = range(0, len(mask), depth)
    blocks = [mask[start : start + depth] for start in starts]
    parts = [connected_parts(block) for block in blocks]
    pixels = mask[0].size
    pairs = []
    for k, (upper, lower) in enumerate(pairwise(parts)):
        last = runs_of_slice(upper, len(blocks[k]) - 1, pixels)
        pairs.append(touching_pairs(last, runs_of_slice(lower, 0, pixels), mask.shape[1:]))
    sizes = [sizes_of_runs(runs) for runs in parts]
    voxels = [block_voxels for block_voxels, _ in sizes]
    firsts = [
        block_firsts + start * pixels
        for (_, block_firsts), start in zip(sizes, starts, strict=True)
    ]
    objects = join_parts(voxels, firsts, pairs, min_voxels)
    numbered = [
        number_runs(runs, numbers, block.shape)
        for runs, numbers, block in zip(parts, objects.numbers, blocks, strict=True)
    ]
    return np.concatenate(numbered)


@settings(max_examples=80)
@given(masks, st.integers(1, 4), st.integers(1, 5))
def test_objects_do_not_depend_on_blocks_and_are_numbered_by_their_first_voxel(
    mask: Mask, depth: int, min_voxels: int
) -> None:
    objects = number_in_blocks(mask, depth, min_voxels)
    whole = cc3d.connected_components(mask.view(np.uint8), connectivity=26)
    large = np.bincount(whole.ravel()) >= min_voxels
    large[0] = False
    np.testing.assert_array_equal(objects > 0, large[whole])
    pairs = np.unique(np.column_stack([objects[objects > 0], whole[objects > 0]]), axis=0)
    assert len(pairs) == large.sum() == objects.max()  # one to one
    assert (np.diff(sizes_of_runs(label_runs(objects))[1]) > 0).all()


@given(
    hnp.arrays(
        np.uint32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 3)
    )
)
def test_sizes_and_first_voxels_equal_a_plain_count(labels: NDArray[np.uint32]) -> None:
    parts = renumber_consecutively(labels)[0]
    expected_voxels = np.bincount(parts.ravel(), minlength=1)[1:].tolist()
    expected = [np.flatnonzero(parts == number)[0] for number in range(1, parts.max() + 1)]
    voxels, firsts = sizes_of_runs(label_runs(parts))
    assert voxels.tolist() == expected_voxels
    assert firsts.tolist() == expected


@settings(max_examples=150)
@given(masks)
def test_parts_of_runs_are_connected_components(mask: Mask) -> None:
    runs = connected_parts(mask)
    numbers = np.arange(runs.labels.max(initial=0) + 1).astype(np.uint32)
    parts = number_runs(runs, numbers, mask.shape)
    expected = cc3d.connected_components(mask.view(np.uint8), connectivity=26)
    np.testing.assert_array_equal(parts > 0, mask)
    pairs = np.unique(np.column_stack([parts[mask], expected[mask]]), axis=0)
    assert len(pairs) == parts.max() == expected.max()
    assert (np.diff(sizes_of_runs(runs)[1]) > 0).all()  # in the order of first voxels


@settings(max_examples=150)
@given(
    hnp.arrays(
        np.uint32,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
        elements=st.integers(0, 3),
    )
)
def test_components_of_labels_are_those_of_each_label(labels: NDArray[np.uint32]) -> None:
    runs = connected_labels(labels)
    numbers = np.arange(runs.labels.max(initial=0) + 1).astype(np.uint32)
    parts = number_runs(runs, numbers, labels.shape)
    expected = cc3d.connected_components(labels, connectivity=26)
    np.testing.assert_array_equal(parts > 0, labels > 0)
    pairs = np.unique(np.column_stack([parts.ravel(), expected.ravel()]), axis=0)
    assert len(pairs) == len(np.unique(parts)) == len(np.unique(expected))


def test_parts_of_neighboring_slices_touch_across_corners() -> None:
    upper, lower = (
        label_runs(drawn("1...", "...2", "....").astype(np.uint32)),
        label_runs(drawn("....", ".3..", "....").astype(np.uint32)),
    )
    assert touching_pairs(upper, lower, (3, 4)).tolist() == [[1, 3]]


@settings(max_examples=60)
@given(masks)
def test_filling_equals_scipy(mask: Mask) -> None:
    np.testing.assert_array_equal(
        fill_cavities(mask), binary_fill_holes(np.pad(mask, 1))[1:-1, 1:-1, 1:-1]
    )
    np.testing.assert_array_equal(
        fill_cavities(mask, "2d"),
        np.stack([binary_fill_holes(np.pad(section, 1))[1:-1, 1:-1] for section in mask]),
    )


def test_a_tunnel_is_a_cavity_in_2d_only() -> None:
    pipe = np.repeat(drawn("1111", "1..1", "1111")[None], 5, axis=0) > 0
    assert (fill_cavities(pipe) == pipe).all()
    assert fill_cavities(pipe, "2d").all()
    pipe[[0, -1]] = True
    assert fill_cavities(pipe).all()


def test_proximity_is_0_in_the_middle_and_grows_towards_the_membrane() -> None:
    assert proximity_to_membrane((0, 0, 0), (0, 0, 0), 5) == 0
    assert proximity_to_membrane((0, 0, 0), (0, 0, 3), 1) == 0.75
    assert proximity_to_membrane((0, 0, 0), (0, 0, 3), 0) == 1
    assert proximity_to_membrane((0, 0, 0), (0, 0, 0), 0) == 0


def test_the_depth_of_a_position_is_that_of_the_voxels_around_it() -> None:
    random = np.random.default_rng(3)
    mask = random.random((9, 21, 15)) < 0.97
    voxel = (4.0, 2.0, 1.0)
    positions = random.random((40, 3)) * np.array(mask.shape) - 0.5
    field = distances_inside(mask, voxel)
    expected = map_coordinates(field, positions.T, order=1, mode="nearest")
    np.testing.assert_allclose(depths_at(mask, voxel, positions), expected, rtol=1e-6, atol=1e-6)
    assert half_edge(voxel) == 1.0
    assert np.isnan(depths_at(np.ones((2, 2, 2), bool), voxel, positions)).all()


def test_the_nearest_voxel_of_every_object_counts() -> None:
    labels = drawn("1.2", "112", "..2").astype(np.uint32)[None]
    field = np.array([[[5, 0, 9], [4, 7, 8], [0, 0, 6]]], np.float32)
    assert minimum_distances(labels, 3, field).tolist() == [4, 6, np.inf]


def test_the_contents_of_containers_are_their_objects() -> None:
    random = np.random.default_rng(2)
    containers = np.array([2, 3, 7, 4_000_000_000], np.uint32)
    owners = random.choice(np.array([0, 2, 5, 7, 4_000_000_000], np.uint32), 50)
    for container, objects in zip(containers, contents_of(containers, owners), strict=True):
        assert objects.tolist() == np.flatnonzero(owners == container).tolist()


def test_the_container_of_most_voxels_contains_an_object() -> None:
    objects, cells = (
        drawn("1112233").astype(np.uint32),
        drawn("5566 77".replace(" ", ".")).astype(np.uint32),
    )
    shared = overlaps(objects, cells, objects > 0)
    containers, fractions = main_containers(
        shared, np.array([1, 2, 3], np.uint32), np.array([3, 2, 2])
    )
    assert containers.tolist() == [5, 6, 7]
    assert fractions.tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    containers, fractions = main_containers(
        shared, np.array([1, 2, 3], np.uint32), np.array([3, 2, 2]), excluded=[5, 7]
    )
    assert containers.tolist() == [0, 6, 0]
    assert (
        main_containers(
            Overlaps(*(np.empty(0, np.uint32),) * 2, np.empty(0, np.int64)),
            np.empty(0, np.uint32),
            np.empty(0, int),
        )[0].size
        == 0
    )


def cell_with(*tubes: tuple[int, int, int]) -> Mask:
    """Draw a ball of radius 20 and tubes along x: (y, first x, last x), 6 thick."""
    z, y, x = np.meshgrid(np.arange(60), np.arange(80), np.arange(90), indexing="ij")
    cell = (z - 30) ** 2 + (y - 40) ** 2 + (x - 30) ** 2 < 20**2
    for at, first, last in tubes:
        cell |= ((z - 30) ** 2 + (y - at) ** 2 < 3.2**2) & (x >= first) & (x <= last)
    return np.asarray(cell)


def test_a_ball_has_no_protrusion() -> None:
    assert find_protrusions(cell_with(), ISOTROPIC, 12) == []
    assert cell_body(cell_with(), ISOTROPIC, 12).sum() > 0.97 * cell_with().sum()


@pytest.mark.parametrize("step", [1, 2])
def test_protrusions_have_their_length_and_volume(step: int) -> None:
    voxel = (float(step), 1.0, 1.0)
    attached, free = find_protrusions(cell_with((40, 30, 80), (70, 20, 44))[::step], voxel, 10)
    assert attached.attached
    assert not free.attached
    assert attached.length == pytest.approx(80 - 49.7, abs=2.5)  # beyond the ball
    assert free.length == pytest.approx(
        25, rel=0.25
    )  # the diagonal of a thick tube is longer than its axis
    assert free.volume == pytest.approx(cell_with((70, 20, 44))[:, 62:].sum(), rel=0.1)
    for protrusion, length in ((attached, 80 - 49.7), (free, 25)):
        skeleton = protrusion.skeleton
        assert (len(skeleton.branches), skeleton.ends, skeleton.branch_points) == (1, 2, 0)
        assert length - 2 * 3.6 - 2 <= skeleton.length <= length
        assert skeleton.radii.mean() == pytest.approx(3.2, abs=0.5)


def test_thick_or_short_parts_are_no_protrusions() -> None:
    assert find_protrusions(cell_with((40, 30, 80)), ISOTROPIC, 5) == []  # thicker than 5
    assert find_protrusions(cell_with((40, 30, 54)), ISOTROPIC, 10) == []  # stands out by 4
    assert [
        protrusion.attached
        for protrusion in find_protrusions(cell_with((70, 20, 44))[:, 60:], ISOTROPIC, 10)
    ] == [False]  # a part without a body


def test_a_cell_that_fills_its_box_is_all_body() -> None:
    whole: NDArray[Any] = np.ones((6, 6, 6), bool)
    assert cell_body(whole, ISOTROPIC, 20).all()
    assert find_protrusions(whole, ISOTROPIC, 20) == []
