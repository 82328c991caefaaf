"""Skeletons of analytic bodies: tubes, tori and Y-shapes, in cubes and in long voxels."""

from itertools import pairwise
from pathlib import Path

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.errors import SampleError
from sparsem.geometry import VoxelSize
from sparsem.measure.features.skeleton import Skeleton, skeleton_of, to_cubes
from sparsem.measure.skeletons import skeletons
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

from .conftest import files_in, kill_ten_times, put

QUIET = Execution(quiet=True)

Edges = tuple[float, float, float]
VOXELS = [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0), (5.0, 1.0, 1.0)]
CENTER = np.array([60.0, 60.0, 60.0])


def tubes(lines: list[NDArray[np.float64]], radius: float, voxel: Edges) -> NDArray[np.bool_]:
    """Draw tubes around chains of points (n, 3) in a box of 120."""
    axes = [(np.arange(round(120 / edge)) + 0.5) * edge for edge in voxel]
    positions = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    mask = np.zeros(positions.shape[:3], bool)
    for line in lines:
        for start, end in pairwise(line):
            along = end - start
            fraction = np.clip(((positions - start) @ along) / (along @ along), 0, 1)
            nearest = start + fraction[..., None] * along
            mask |= np.linalg.norm(positions - nearest, axis=-1) <= radius
    return mask


def axes_of(seed: int) -> NDArray[np.float64]:
    """Return three random perpendicular directions (3, 3)."""
    random = np.random.default_rng(seed).normal(size=(3, 3))
    return np.linalg.qr(random)[0].T


def check(skeleton: Skeleton, length: float, ends: int, branch_points: int, branches: int) -> None:
    assert (skeleton.ends, skeleton.branch_points) == (ends, branch_points)
    assert len(skeleton.branches) == branches
    assert skeleton.length == pytest.approx(length, rel=0.03)


@pytest.mark.parametrize("voxel", VOXELS)
@pytest.mark.parametrize("radius", [4.0, 7.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_tube(voxel: Edges, radius: float, seed: int) -> None:
    direction = axes_of(seed)[0]
    line = np.stack([CENTER - 45 * direction, CENTER + 45 * direction])
    skeleton = skeleton_of(tubes([line], radius, voxel), voxel)
    assert (skeleton.ends, skeleton.branch_points, len(skeleton.branches)) == (2, 0, 1)
    is_thin = radius < max(voxel)  # no slice lies in the middle of the tube
    assert skeleton.length == pytest.approx(90, rel=0.04 if is_thin else 0.03)
    assert skeleton.tortuosity == pytest.approx(1, abs=0.02)
    if not is_thin:
        assert skeleton.radii.mean() == pytest.approx(radius, rel=0.15)
    ends = skeleton.branches[0].points[[0, -1]]
    aligned = ends if (ends[0] - CENTER) @ direction < 0 else ends[::-1]
    np.testing.assert_allclose(aligned, line, atol=3)


@pytest.mark.parametrize("voxel", VOXELS)
@pytest.mark.parametrize("radius", [4.0, 8.0])
def test_a_torus_is_one_closed_line(voxel: Edges, radius: float) -> None:
    first, second, _ = axes_of(1)
    angles = np.linspace(0, 2 * np.pi, 73)[:, None]
    ring = CENTER + 40 * (np.cos(angles) * first + np.sin(angles) * second)
    skeleton = skeleton_of(tubes([ring], radius, voxel), voxel)
    check(skeleton, 2 * np.pi * 40, ends=0, branch_points=0, branches=1)
    assert np.isnan(skeleton.tortuosity)


@pytest.mark.parametrize("voxel", VOXELS)
@pytest.mark.parametrize("seed", [2, 3])
def test_a_y_has_three_branches(voxel: Edges, seed: int) -> None:
    first, second, _ = axes_of(seed)
    directions = [first, -0.5 * first + 0.866 * second, -0.5 * first - 0.866 * second]
    arms = [np.stack([CENTER, CENTER + 45 * direction]) for direction in directions]
    skeleton = skeleton_of(tubes(arms, 4, voxel), voxel)
    assert (skeleton.ends, skeleton.branch_points, len(skeleton.branches)) == (3, 1, 3)
    assert skeleton.length == pytest.approx(135, rel=0.04)


@pytest.mark.parametrize("radius", [5.0, 14.0])
@pytest.mark.parametrize("seed", range(3))
def test_a_rough_tube_has_the_line_of_a_smooth_one(radius: float, seed: int) -> None:
    """Holes, cavities, and rows of voxels that stick out, as in an uncertain prediction."""
    direction = axes_of(seed)[0]
    line = np.stack([CENTER - 40 * direction, CENTER + 40 * direction])
    tube = tubes([line], radius, (1, 1, 1))
    random = np.random.default_rng(seed)
    near_surface = tubes([line], radius + 3, (1, 1, 1)) & ~tube
    rows = random.random((120, 120, 1)) < 0.2  # along x
    rough = (tube & (random.random(tube.shape) > 0.02)) | (near_surface & rows)
    parts = cc3d.connected_components(rough, connectivity=26)
    rough = parts == np.bincount(parts[parts > 0]).argmax()
    skeleton = skeleton_of(rough, (1, 1, 1))
    assert (skeleton.ends, skeleton.branch_points, len(skeleton.branches)) == (2, 0, 1)
    assert skeleton.length == pytest.approx(80, rel=0.1)


def test_thin_parts_stay_where_they_are_no_roughness() -> None:
    """A tail of a third of the radius is a part of the shape."""
    along_z = np.array([1.0, 0, 0])
    body = np.stack([CENTER - 30 * along_z, CENTER])
    tail = np.stack([CENTER, CENTER + 40 * along_z])
    mask = tubes([body], 12, (1, 1, 1)) | tubes([tail], 4, (1, 1, 1))
    skeleton = skeleton_of(mask, (1, 1, 1))
    assert (skeleton.ends, skeleton.branch_points) == (2, 0)
    assert skeleton.length == pytest.approx(70, rel=0.1)


def test_a_nanotunnel_and_a_beaded_tube_have_one_line() -> None:
    along_z = np.array([1.0, 0, 0])
    ends = [
        CENTER - 50 * along_z,
        CENTER - 25 * along_z,
        CENTER + 25 * along_z,
        CENTER + 50 * along_z,
    ]
    rods = tubes([np.stack(ends[:2]), np.stack(ends[2:])], 9, (1, 1, 1))
    tunnel = tubes([np.stack(ends[1:3])], 2.5, (1, 1, 1))
    skeleton = skeleton_of(rods | tunnel, (1, 1, 1))
    assert (skeleton.ends, skeleton.branch_points, len(skeleton.branches)) == (2, 0, 1)
    assert skeleton.length == pytest.approx(100, rel=0.05)
    thin = tubes([np.stack([ends[0], ends[3]])], 2.5, (1, 1, 1))
    bead = tubes([np.stack([CENTER, CENTER + along_z])], 9, (1, 1, 1))
    beaded = skeleton_of(thin | bead, (1, 1, 1))
    assert (beaded.ends, beaded.branch_points) == (2, 0)
    assert beaded.length == pytest.approx(100, rel=0.05)


def test_a_bent_tube_is_tortuous() -> None:
    angles = np.linspace(0, np.pi, 40)[:, None]
    half_ring = CENTER + 40 * np.concatenate(
        [np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1
    )
    skeleton = skeleton_of(tubes([half_ring], 5, (1.0, 1.0, 1.0)), (1.0, 1.0, 1.0))
    check(skeleton, np.pi * 40, ends=2, branch_points=0, branches=1)
    assert skeleton.tortuosity == pytest.approx(np.pi / 2, rel=0.03)


def test_a_ring_with_a_tail_has_one_branch_point() -> None:
    angles = np.linspace(0, 2 * np.pi, 73)[:, None]
    ring = CENTER + 30 * np.concatenate(
        [np.zeros_like(angles), np.cos(angles), np.sin(angles)], axis=1
    )
    tail = np.stack([ring[0], ring[0] + np.array([0, 25.0, 0])])
    skeleton = skeleton_of(tubes([ring, tail], 4, (1.0, 1.0, 1.0)), (1.0, 1.0, 1.0))
    check(skeleton, 2 * np.pi * 30 + 25, ends=1, branch_points=1, branches=2)


def test_bodies_without_a_line() -> None:
    z, y, x = np.indices((30, 30, 30)) - 15
    ball = z**2 + y**2 + x**2 <= 12**2
    skeleton = skeleton_of(ball, (1.0, 1.0, 1.0))
    assert (skeleton.length, skeleton.ends, skeleton.branch_points) == (0, 0, 0)
    assert skeleton_of(np.ones((1, 1, 1), bool), (1.0, 1.0, 1.0)).length == 0
    assert skeleton_of(np.zeros((3, 3, 3), bool), (1.0, 1.0, 1.0)).branches == ()


def test_a_thin_line_keeps_its_length_in_any_unit() -> None:
    line = np.zeros((3, 3, 40), bool)
    line[1, 1, 5:35] = True
    for unit in (1.0, 0.008):
        skeleton = skeleton_of(line, (unit, unit, unit))
        assert skeleton.length == pytest.approx(29 * unit, rel=0.05)
        assert skeleton.ends == 2


def test_long_voxels_become_cubes() -> None:
    z, y, x = np.meshgrid(
        np.arange(-6, 7) * 5.0, np.arange(-30, 31), np.arange(-30, 31), indexing="ij"
    )
    ball = z**2 + y**2 + x**2 <= 25**2
    cubes, edge = to_cubes(ball, (5.0, 1.0, 1.0))
    assert edge == 1
    assert cubes.shape == (65, 61, 61)
    assert cubes.sum() == pytest.approx(4 / 3 * np.pi * 25**3, rel=0.03)
    same, edge = to_cubes(ball, (1.0, 1.0, 1.0))
    assert same is ball
    # Serial sections: a voxel is cut into eight cubes at most.
    cubes, edge = to_cubes(ball, (50.0, 5.0, 5.0))
    assert edge == 6.25
    assert cubes.shape == (104, 49, 49)


# The stage.


def network(path: Path, depth: int = 16, edge: float = 10.0) -> Sample:
    """A straight tube, a Y and a ball, as numbered objects."""
    labels = np.zeros((40, 120, 120), np.uint32)
    z, y, x = np.indices(labels.shape)
    labels[((z - 10) ** 2 + (y - 15) ** 2 <= 16) & (x > 10) & (x < 110)] = 3
    for direction in ((1.0, 0.0), (-0.5, 0.866), (-0.5, -0.866)):
        along = (y - 75) * direction[0] + (x - 60) * direction[1]
        across = (y - 75) * direction[1] - (x - 60) * direction[0]
        inside = (along >= 0) & (along <= 35) & (across**2 + (z - 20) ** 2 <= 16)
        labels[inside] = 5
    labels[(z - 33) ** 2 + (y - 20) ** 2 + (x - 60) ** 2 <= 36] = 9
    sample = Sample.create(path)
    put(sample, "", np.zeros(labels.shape, np.uint8), depth, VoxelSize(edge, edge, edge))
    put(sample, "labels/er", labels, depth, VoxelSize(edge, edge, edge))
    return sample


def test_every_object_has_a_row_and_its_lines(tmp_path: Path) -> None:
    sample = network(tmp_path / "s.zarr")
    result = skeletons(sample, "er", on=QUIET)
    rows = {row["object"]: row for row in sample.read_table("skeletons_er").to_pylist()}
    assert result.objects == len(rows) == 3
    tube, fork, ball = rows[3], rows[5], rows[9]
    assert (tube["branches"], tube["ends"], tube["branch_points"]) == (1, 2, 0)
    assert tube["skeleton_length_um"] == pytest.approx(0.92, rel=0.04)  # flat ends, less a radius
    assert tube["mean_radius_um"] == pytest.approx(0.04, rel=0.15)
    assert (fork["branches"], fork["ends"], fork["branch_points"]) == (3, 3, 1)
    assert (ball["skeleton_length_um"], ball["tortuosity"]) == (0, None)
    lines = sample.read_table("skeleton_lines_er").to_pandas()
    middle = lines[lines["object"] == 3]
    assert middle["z_um"].between(0.09, 0.12).all()
    assert middle["y_um"].between(0.14, 0.17).all()
    assert lines[lines["object"] == 5]["branch"].nunique() == 3


def test_block_depth_and_workers_change_no_skeleton(tmp_path: Path) -> None:
    tables = []
    for depth, workers in ((40, 0), (3, 2)):
        sample = network(tmp_path / f"{depth}.zarr", depth)
        skeletons(sample, "er", on=Execution(workers=workers, quiet=True))
        tables.append([sample.read_table(f"{name}_er") for name in ("skeletons", "skeleton_lines")])
    assert all(one.equals(other) for one, other in zip(*tables, strict=True))


def test_a_killed_run_ends_in_the_same_tables(tmp_path: Path) -> None:
    whole, killed = (network(tmp_path / f"{name}.zarr") for name in ("whole", "killed"))
    skeletons(whole, "er", on=QUIET)
    given = {"sample": str(killed.path), "name": "er", "seconds": 0.5}
    assert kill_ten_times("skeletons", given) > 0
    assert files_in(killed.path / "tables") == files_in(whole.path / "tables")


def test_a_mask_needs_numbered_objects(tmp_path: Path) -> None:
    sample = network(tmp_path / "s.zarr")
    mask = (sample.volume("labels", "er").read(slice(None)) > 0).astype(np.uint8)
    put(sample, "labels/net", mask, 16)
    with pytest.raises(SampleError, match=r"sparsem objects s\.zarr net"):
        skeletons(sample, "net", on=QUIET)
    put(sample, "labels/none", np.zeros(mask.shape, np.uint32), 16)
    assert skeletons(sample, "none", on=QUIET).objects == 0
