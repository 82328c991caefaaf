"""Contacts: analytic bodies, a plain version, blocks and workers, bad input."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from sparsem.errors import ResumeError, SampleError
from sparsem.geometry import VoxelSize
from sparsem.labels.components import connected_numbers
from sparsem.labels.objects import objects
from sparsem.measure.contacts import contacts
from sparsem.measure.features.contact import near_points
from sparsem.measure.features.contact_sites import join_voxels, site_voxels
from sparsem.measure.features.surface import gaussian_windows
from sparsem.measure.features.surface_points import POINT_SIGMA, nearby_labels, surface_points
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

from .conftest import files_in, kill_ten_times, put

QUIET = Execution(quiet=True)
AGAIN = Execution(quiet=True, overwrite=True)
Labels = NDArray[np.uint32]
Edges = tuple[float, float, float]


def grid(shape: tuple[int, int, int], voxel: Edges) -> list[NDArray[np.float64]]:
    axes = [np.arange(n) * edge for n, edge in zip(shape, voxel, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij"))


def sample_of(path: Path, labels: Labels, voxel: Edges, depth: int = 16) -> Sample:
    sample = Sample.create(path)
    size = VoxelSize(*voxel)
    put(sample, "", np.zeros(labels.shape, np.uint8), depth, size)
    put(sample, "labels/body", labels.astype(np.uint32), depth, size)
    return sample


def measured(path: Path, labels: Labels, voxel: Edges, distance_nm: float) -> dict[str, Any]:
    sample = sample_of(path, labels, voxel)
    contacts(sample, "body", "body", distance_nm=distance_nm, on=QUIET)
    table: dict[str, Any] = sample.read_table("contacts_body_body").to_pydict()
    return table


# Analytic bodies.


@pytest.mark.parametrize(("voxel", "tolerance"), [((4.0, 4, 4), 0.05), ((8.0, 4, 4), 0.08)])
def test_two_balls_at_a_distance(tmp_path: Path, voxel: Edges, tolerance: float) -> None:
    radius, gap, distance = 160.0, 16.0, 32.0
    z, y, x = grid((int(360 / voxel[0]), 90, 180), voxel)
    labels = np.zeros(z.shape, np.uint32)
    for number, center in ((1, 175.0), (2, 175.0 + 2 * radius + gap)):
        labels[(z - 178) ** 2 + (y - 181) ** 2 + (x - center) ** 2 <= radius**2] = number
    table = measured(tmp_path / "s.zarr", labels, voxel, distance)
    # A cap of each ball lies within the distance of the other.
    apart = 2 * radius + gap
    cosine = (apart**2 + radius**2 - (radius + distance) ** 2) / (2 * apart * radius)
    cap_um2 = 2 * np.pi * radius**2 * (1 - cosine) * 1e-6
    assert table["area_um2"][0] == pytest.approx(cap_um2, rel=tolerance)
    assert table["first_area_um2"][0] == pytest.approx(table["second_area_um2"][0], rel=0.1)
    assert table["min_distance_nm"][0] == pytest.approx(gap, abs=2)
    assert table["sites"] == [1]
    assert gap < table["mean_distance_nm"][0] < distance


def test_contact_areas_converge(tmp_path: Path) -> None:
    radius, apart, distance = 160.0, 340.0, 40.0
    cosine = (apart**2 + radius**2 - (radius + distance) ** 2) / (2 * apart * radius)
    cap_um2 = 2 * np.pi * radius**2 * (1 - cosine) * 1e-6
    directions = np.random.default_rng(2).normal(size=(4, 3))
    errors = []
    for edge in (20.0, 5.0):
        of_directions = []
        for number, direction in enumerate(np.abs(directions)):
            way = apart * direction / np.linalg.norm(direction)
            size = np.ceil((way + 2 * radius + 60) / edge).astype(int)
            center = np.array([190.0, 193.0, 187.0])[:, None, None, None]
            positions = np.stack(grid((size[0], size[1], size[2]), (edge,) * 3)) - center
            labels = (np.linalg.norm(positions, axis=0) <= radius).astype(np.uint32)
            labels[np.linalg.norm(positions - way[:, None, None, None], axis=0) <= radius] = 2
            table = measured(tmp_path / f"{edge} {number}.zarr", labels, (edge,) * 3, distance)
            of_directions.append(abs(table["area_um2"][0] / cap_um2 - 1))
        errors.append(np.mean(of_directions))
    assert errors[1] < 0.03, errors
    assert errors[1] < errors[0] / 2, errors


@pytest.mark.parametrize("voxel", [(5.0, 5, 5), (25.0, 5, 5)])
def test_parallel_plates(tmp_path: Path, voxel: Edges) -> None:
    labels = np.zeros((20, 60, 60), np.uint32)
    labels[:, 10:50, 10:20] = 1
    labels[:, 10:50, 24:34] = 2  # 20 nm away
    labels[:, 10:50, 44:50] = 3  # 50 nm away
    table = measured(tmp_path / "s.zarr", labels, voxel, 30)
    assert (table["first"], table["second"]) == ([1], [2])
    area_um2 = 20 * voxel[0] * 40 * 5 * 1e-6
    assert table["area_um2"][0] == pytest.approx(area_um2, rel=0.1)  # and a little of the edges
    assert table["mean_distance_nm"][0] == pytest.approx(20, abs=1)
    assert table["min_distance_nm"][0] == pytest.approx(20, abs=0.5)


def test_a_ball_in_a_shell_touches_it_everywhere(tmp_path: Path) -> None:
    z, y, x = grid((50, 50, 50), (8.0, 8, 8))
    radius = np.sqrt((z - 197) ** 2 + (y - 195) ** 2 + (x - 199) ** 2)
    sample = sample_of(tmp_path / "s.zarr", (radius <= 100).astype(np.uint32) * 5, (8, 8, 8))
    put(sample, "labels/cells", (radius <= 120).astype(np.uint32) * 9, 16, VoxelSize(8, 8, 8))
    result = contacts(sample, "body", "cells", distance_nm=30, on=QUIET)
    row = sample.read_table("contacts_body_cells").to_pylist()[0]
    assert (row["first"], row["second"], row["sites"], result.pairs) == (5, 9, 1, 1)
    assert row["first_area_um2"] == pytest.approx(4 * np.pi * 0.1**2, rel=0.02)
    assert row["second_area_um2"] == pytest.approx(4 * np.pi * 0.12**2, rel=0.02)
    assert row["mean_distance_nm"] == pytest.approx(20, abs=1)
    fractions = sample.read_table("contact_fraction_body_cells").to_pylist()
    assert [(row["structure"], row["object"]) for row in fractions] == [("body", 5), ("cells", 9)]
    assert [row["contact_fraction"] for row in fractions] == [1, 1]
    assert fractions[0]["surface_um2"] == pytest.approx(4 * np.pi * 0.1**2, rel=0.02)


def test_sites_are_connected_parts_of_the_contact(tmp_path: Path) -> None:
    labels = np.zeros((40, 60, 60), np.uint32)
    labels[:, :, :20] = 1
    labels[4:10, 10:20, 20:30] = 2
    labels[20:30, 30:50, 20:30] = 2
    labels[4:30, 10:50, 30:40] = 2  # joins both, out of reach
    table = measured(tmp_path / "s.zarr", labels, (10.0, 10, 10), 30)
    assert table["sites"] == [2]


# A plain version.


def plain_points(labels: Labels, voxel: Edges) -> dict[int, NDArray[np.float64]]:
    """Return (z, y, x, area) of the points of every object, face by face."""
    smooth, slope, smooth_face, slope_face = gaussian_windows(voxel, POINT_SIGMA)
    reach = max(len(window) for window in (*smooth, *smooth_face))
    padded = np.pad(labels, reach, mode="edge")
    points: dict[int, list[list[float]]] = {}
    for axis in range(3):
        weights = [smooth_face[k] if k == axis else smooth[k] for k in range(3)]
        slopes = [slope_face[k] if k == axis else slope[k] for k in range(3)]
        step = np.eye(3, dtype=int)[axis]
        for first in np.argwhere(np.diff(labels.astype(np.int64), axis=axis)):
            for label in {int(labels[tuple(first)]), int(labels[tuple(first + step)])} - {0}:
                start = first + reach + step - np.array([len(window) // 2 for window in weights])
                box = tuple(slice(s, s + len(w)) for s, w in zip(start, weights, strict=True))
                inside = (padded[box] == label).astype(float)
                level = np.einsum("zyx,z,y,x", inside, *weights)
                normal = np.array(
                    [
                        np.einsum(
                            "zyx,z,y,x",
                            inside,
                            *(slopes[k] if k == along else weights[k] for k in range(3)),
                        )
                        for along in range(3)
                    ]
                )
                shift = (0.5 - level) * normal / (normal @ normal)
                shift *= min(1.0, max(voxel) / max(float(np.linalg.norm(shift)), 1e-9))
                area = np.prod(voxel) / voxel[axis]
                area *= np.linalg.norm(normal) / np.abs(normal).sum()
                center = (first + step / 2) * voxel + shift
                points.setdefault(label, []).append([*center, area])
    return {label: np.array(rows) for label, rows in points.items()}


@pytest.mark.parametrize("voxel", [(10.0, 10, 10), (24.0, 8, 8)])
def test_contacts_equal_a_plain_version(tmp_path: Path, voxel: Edges) -> None:
    rng = np.random.default_rng(5)
    seeds = (rng.random((14, 24, 26)) < 0.004) * rng.integers(1, 9, (14, 24, 26))
    labels = np.zeros(seeds.shape, np.uint32)
    for number, position in enumerate(np.argwhere(seeds), 1):
        low = np.maximum(position - rng.integers(1, 5, 3), 0)
        high = position + rng.integers(1, 5, 3)
        labels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = number
    sample = sample_of(tmp_path / "s.zarr", labels, voxel, depth=5)
    contacts(sample, "body", "body", distance_nm=33, on=QUIET)
    rows = sample.read_table("contacts_body_body").to_pylist()
    points = plain_points(labels, voxel)
    expected = {}
    for first in points:
        for second in points:
            away = cKDTree(points[second][:, :3]).query(points[first][:, :3])[0]
            if first != second and (away <= 33).any():
                areas = points[first][away <= 33, 3]
                expected[first, second] = (areas.sum(), areas @ away[away <= 33], away.min())
    assert len(rows) == len({tuple(sorted(pair)) for pair in expected}) > 5
    for row in rows:
        one = expected.get((row["first"], row["second"]), (0, 0, np.inf))
        two = expected.get((row["second"], row["first"]), (0, 0, np.inf))
        assert row["first_area_um2"] == pytest.approx(one[0] * 1e-6)
        assert row["second_area_um2"] == pytest.approx(two[0] * 1e-6)
        assert row["min_distance_nm"] == pytest.approx(min(one[2], two[2]))
        mean = (one[1] + two[1]) / (one[0] + two[0])
        assert row["mean_distance_nm"] == pytest.approx(mean)
    surfaces = sample.read_table("contact_fraction_body_body").to_pylist()
    for row in surfaces:
        assert row["surface_um2"] == pytest.approx(points[row["object"]][:, 3].sum() * 1e-6)


def test_sites_equal_connected_components() -> None:
    rng = np.random.default_rng(1)
    mask = rng.random((9, 20, 20)) < 0.12
    voxels = np.argwhere(mask)
    pairs = np.tile([3, 8], (len(voxels), 1))
    sites = site_voxels(pairs, voxels)
    _, number = connected_numbers(len(voxels), join_voxels(sites, sites))
    whole = cc3d.connected_components(mask.view(np.uint8), connectivity=26)
    assert len(np.unique(number)) == whole.max()
    assert len(np.unique(np.stack([number, whole[tuple(sites.voxels.T)]]), axis=1).T) == whole.max()


# The stage.


def test_block_depth_and_workers_change_nothing(tmp_path: Path) -> None:
    labels = _packed()
    tables = []
    for depth, workers in ((20, 0), (1, 0), (6, 2)):
        sample = sample_of(tmp_path / f"{depth}.zarr", labels, (12.0, 8, 8), depth)
        on = Execution(workers=workers, quiet=True)
        contacts(sample, "body", "body", on=on)
        put(sample, "labels/cells", (labels > 3).astype(np.uint32), depth, VoxelSize(12, 8, 8))
        contacts(sample, "body", "cells", on=on)
        names = ("contacts_body_body", "contact_fraction_body_body", "contacts_body_cells")
        tables.append([sample.read_table(name) for name in names])
    assert len(tables[0][0]) > 5
    for first, second in pairwise(tables):
        for one, other in zip(first, second, strict=True):
            assert one.equals(other)


def _packed() -> Labels:
    rng = np.random.default_rng(9)
    centers = rng.random((25, 3)) * (20, 40, 50)
    z, y, x = grid((20, 40, 50), (1.0, 1, 1))
    positions = np.stack([z, y, x], axis=-1).reshape(-1, 3)
    away, nearest = cKDTree(centers).query(positions)
    labels = np.where(away < 7, nearest + 1, 0).reshape(20, 40, 50)
    return labels.astype(np.uint32)


def test_a_killed_run_ends_in_the_same_tables(tmp_path: Path) -> None:
    labels = _packed()
    whole, killed = (
        sample_of(tmp_path / f"{name}.zarr", labels, (8.0, 8, 8), 2) for name in ("a", "b")
    )
    contacts(whole, "body", "body", on=QUIET)
    given = {"sample": str(killed.path), "first": "body", "second": "body", "seconds": 0.5}
    assert kill_ten_times("contacts", given) > 0
    assert files_in(killed.path / "tables") == files_in(whole.path / "tables")


def test_a_mask_needs_numbered_objects_and_other_settings_are_refused(tmp_path: Path) -> None:
    sample = sample_of(tmp_path / "s.zarr", _packed(), (8.0, 8, 8))
    mask = (_packed() > 0).astype(np.uint8)
    put(sample, "labels/organelle", mask, 16, VoxelSize(8, 8, 8))
    with pytest.raises(SampleError, match=r"sparsem objects s\.zarr organelle"):
        contacts(sample, "organelle", "body", on=QUIET)
    objects(sample, "organelle", on=QUIET)
    assert contacts(sample, "organelle", "body", on=QUIET).pairs > 5
    with pytest.raises(ResumeError, match="distance_nm"):
        contacts(sample, "organelle", "body", distance_nm=20, on=QUIET)
    contacts(sample, "organelle", "body", distance_nm=20, on=AGAIN)


def test_structures_without_objects_have_no_contacts(tmp_path: Path) -> None:
    labels = np.zeros((6, 20, 20), np.uint32)
    sample = sample_of(tmp_path / "s.zarr", labels, (8.0, 8, 8))
    assert contacts(sample, "body", "body", on=QUIET).pairs == 0
    labels[2:4, 5:9, 5:9] = 1
    alone = sample_of(tmp_path / "t.zarr", labels, (8.0, 8, 8))
    result = contacts(alone, "body", "body", on=QUIET)
    assert (result.pairs, result.sites, result.area_um2) == (0, 0, 0)
    assert alone.read_table("contact_fraction_body_body")["contact_fraction"].to_pylist() == [0]


def test_only_points_near_another_object_are_kept() -> None:
    labels = np.zeros((10, 10, 400), np.uint32)
    labels[3:7, 3:7, 2:200] = 1
    labels[3:7, 3:7, 203:398] = 2
    voxel = (10.0, 10, 10)
    nearby = nearby_labels(labels, 35, voxel)
    whole = slice(0, 10)
    points, areas = surface_points(labels, whole, whole, 0, voxel, nearby, True)
    assert len(points.labels) < (areas.sum() / 100) / 4
    near = near_points(points, points, 35.0, True)
    assert set(points.labels[near.points].tolist()) == {1, 2}
