"""Shape compared with formulas and independent libraries.

Bodies at isotropic and anisotropic voxels, sums in blocks, hulls counted voxel by voxel.
"""

from itertools import pairwise
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import correlate1d
from scipy.spatial import ConvexHull, QhullError
from skimage.measure import regionprops

from sparsem.geometry import VoxelSize
from sparsem.labels.neighbors import neighbor_slices
from sparsem.measure.features.hull import convex_voxels, slice_corners
from sparsem.measure.features.moments import combine_moments, object_moments, renumber_consecutively
from sparsem.measure.features.shape import shapes
from sparsem.measure.features.surface import (
    SurfaceWindow,
    gaussian_windows,
    surface_sums,
)
from tests.bodies import BODIES, body
from tests.conftest import drawn

ISOTROPIC = (1.0, 1.0, 1.0)
ANISOTROPIC = (5.0, 1.0, 1.0)
# Bodies with sharp edges, which lose area: about two voxels next to each edge. Of 40 voxels across
# (along the coarsest axis) they may differ more from the true value than smooth bodies, which stay
# within 0.4 %.
SHARP = ("cube", "box", "cube with tunnels")


def measure_body(
    name: str, across: float, voxel: tuple[float, float, float]
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    drawn_body = body(name, across * max(voxel), voxel)
    voxel_nm = VoxelSize.of([1000 * edge for edge in voxel])
    return shapes(drawn_body.mask.astype(np.uint32), voxel_nm), drawn_body.truth


@pytest.mark.parametrize("voxel", [ISOTROPIC, ANISOTROPIC])
@pytest.mark.parametrize("name", BODIES)
def test_measures_of_bodies_equal_their_formulas_closely(
    name: str, voxel: tuple[float, float, float]
) -> None:
    columns, truth = measure_body(name, 40, voxel)
    for column, value in truth.items():
        by_area = column in ("surface_um2", "sphericity")
        tolerance = (
            (0.11 if name == "cube with tunnels" else 0.075)
            if name in SHARP and by_area
            else 0.0075
        )
        assert columns[column][0] == pytest.approx(value, rel=tolerance), column
    assert not columns["cut_by_edge"][0]


@pytest.mark.parametrize("voxel", [ISOTROPIC, ANISOTROPIC])
@pytest.mark.parametrize("name", BODIES)
def test_measures_converge_as_voxels_shrink(name: str, voxel: tuple[float, float, float]) -> None:
    for column in ("volume_um3", "surface_um2", "solidity"):
        errors = []
        for across in (12, 60):
            columns, truth = measure_body(name, across, voxel)
            errors.append(abs(columns[column][0] / truth.get(column, np.nan) - 1))
        if np.isfinite(errors[0]):
            assert errors[1] <= max(errors[0] / 2, 0.003), (
                column,
                errors,
            )  # 0.3 % is the floor of the surface's window


def test_circular_variance_of_a_ball_is_zero_and_of_an_ellipsoid_is_known() -> None:
    assert measure_body("ball", 60, ISOTROPIC)[0]["circular_variance"][0] < 1e-4
    # By integration over the surface of an ellipsoid of half-axes 2, 1, 1: the variance of |p| over
    # its squared mean.
    u, v = np.meshgrid(
        (np.arange(400) + 0.5) / 400 * np.pi,
        (np.arange(400) + 0.5) / 400 * 2 * np.pi,
        indexing="ij",
    )
    p = np.stack([2 * np.cos(u), np.sin(u) * np.cos(v), np.sin(u) * np.sin(v)])
    area = np.sin(u) * np.sqrt(np.sin(u) ** 2 + 4 * np.cos(u) ** 2)
    radius = np.linalg.norm(p, axis=0)
    mean = (radius * area).sum() / area.sum()
    expected = ((radius - mean) ** 2 * area).sum() / area.sum() / mean**2
    z, y, x = np.mgrid[-32:33, -17:18, -17:18]
    columns = shapes(
        ((z / 2) ** 2 + y**2 + x**2 < 15.4**2).astype(np.uint32), VoxelSize(1000, 1000, 1000)
    )
    assert columns["circular_variance"][0] == pytest.approx(expected, rel=0.02)


def test_moments_equal_regionprops() -> None:
    random = np.random.default_rng(0)
    labels = (
        np.where(random.random((9, 30, 40)) < 0.5, random.integers(1, 5, (9, 30, 40)), 0).astype(
            np.uint32
        )
        * 1_000_003
    )
    moments = object_moments(labels)
    edges = (2.0, 1.0, 3.0)
    for index, region in enumerate(regionprops(labels, spacing=edges)):
        assert (moments.ids[index], moments.voxels[index]) == (region.label, region.num_pixels)
        np.testing.assert_allclose(moments.centroids[index] * edges, region.centroid)
        assert (*moments.low[index], *moments.high[index]) == region.bbox
        points = region.coords * np.array(edges)
        covariance = np.cov(points.T, bias=True) + np.diag(np.square(edges)) / 12
        np.testing.assert_allclose(moments.covariances(edges)[index], covariance)


@settings(max_examples=40)
@given(
    hnp.arrays(np.uint32, (7, 6, 9), elements=st.sampled_from([0, 1, 2, 2, 9, 70_000])),
    st.integers(1, 6),
)
def test_moments_add_up_over_blocks(labels: NDArray[np.uint32], cut: int) -> None:
    for whole, parts in zip(
        object_moments(labels),
        combine_moments([object_moments(labels[cut:], cut), object_moments(labels[:cut])]),
        strict=True,
    ):
        np.testing.assert_array_equal(whole, parts)


def test_labels_are_compacted_in_the_order_of_their_ids() -> None:
    labels = np.array([[0, 7, 7, 4_000_000_000], [3, 3, 0, 7]], np.uint32)
    index, ids = renumber_consecutively(labels)
    assert index.tolist() == [[0, 2, 2, 3], [1, 1, 0, 2]]
    assert ids.tolist() == [3, 7, 4_000_000_000]


def plain_surface(mask: NDArray[np.bool_], voxel: tuple[float, float, float]) -> float:
    """Compute the formula with whole-array filters.

    Every face has the weight |n|_2 / |n|_1 of the slope of the mask around it.
    """
    smooth, slope, smooth_face, slope_face = gaussian_windows(voxel)
    around = max(len(weights) for weights in smooth)
    padded = np.pad(mask, around).astype(float)
    total = 0.0
    for axis in range(3):
        gradients = []
        for along in range(3):
            field = padded
            for filter_axis in range(3):
                around_face = filter_axis == axis
                slopes, smooths = (slope_face, smooth_face) if around_face else (slope, smooth)
                weights = slopes if filter_axis == along else smooths
                field = correlate1d(
                    field,
                    weights[filter_axis],
                    axis=filter_axis,
                    mode="constant",
                    origin=-1 if around_face else 0,
                )
            gradients.append(field)
        lower, upper = neighbor_slices(axis)
        faces = padded[lower] != padded[upper]
        n = np.stack([gradient[lower][faces] for gradient in gradients])
        total += (
            float((np.linalg.norm(n, axis=0) / np.abs(n).sum(axis=0)).sum())
            * float(np.prod(voxel))
            / voxel[axis]
        )
    return total


@pytest.mark.parametrize("voxel", [ISOTROPIC, (2.0, 1.0, 1.0)])
def test_surface_equals_a_plain_implementation(voxel: tuple[float, float, float]) -> None:
    random = np.random.default_rng(3)
    blob = np.pad(correlate1d(random.random((9, 11, 12)), np.ones(3), axis=0) > 1.4, 2)
    surface = surface_sums(blob.astype(np.uint32), voxel, np.zeros((1, 3)))
    assert surface.area[0] == pytest.approx(plain_surface(blob, voxel), rel=1e-9)


def test_surfaces_do_not_depend_on_neighbors_or_blocks() -> None:
    labels = np.random.default_rng(1).integers(0, 3, (12, 10, 11)).astype(np.uint32)
    centroids = object_moments(labels).centroids
    whole = surface_sums(labels, ISOTROPIC, centroids)
    for number in (1, 2):
        alone = surface_sums(
            (labels == number).astype(np.uint32), ISOTROPIC, centroids[number - 1 :]
        )
        assert whole.area[number - 1] == pytest.approx(alone.area[0], rel=1e-12)
        assert whole.radius[number - 1] == pytest.approx(alone.radius[0], rel=1e-12)
    z = 6
    windows = [SurfaceWindow((10, 11), ISOTROPIC) for _ in range(2)]
    for window, first in zip(windows, (z - windows[0].reach, 0), strict=True):
        for number in range(first, z + window.reach + 1):
            window.add(number, labels[number])
    of_halo, of_all = (window.sums(z, centroids) for window in windows)
    np.testing.assert_array_equal(of_halo, of_all)


def test_a_sheet_of_one_voxel_keeps_both_sides_and_a_cut_object_is_closed() -> None:
    sheet = np.zeros((5, 40, 40), np.uint32)
    sheet[2] = 1
    surface = surface_sums(sheet, ISOTROPIC, np.array([[2.0, 19.5, 19.5]]))
    assert surface.area[0] == pytest.approx(2 * 40 * 40, rel=0.06)
    whole = np.ones((30, 30, 30), np.uint32)
    assert shapes(whole, VoxelSize(1000, 1000, 1000))["surface_um2"][0] == pytest.approx(
        6 * 900, rel=0.07
    )
    assert shapes(whole, VoxelSize(1000, 1000, 1000))["cut_by_edge"][0]


def count_in_hull(mask: NDArray[np.bool_]) -> int:
    """Count the voxel centers in the hull, each tested against every side."""
    hull = ConvexHull(np.argwhere(mask))
    inside = (
        np.indices(mask.shape).reshape(3, -1).T @ hull.equations[:, :3].T + hull.equations[:, 3]
    )
    return int((inside <= 1e-9).all(axis=1).sum())


def hull_voxels_of(mask: NDArray[np.bool_]) -> int:
    corners = []
    for z, section in enumerate(mask):
        corner_labels, yx = slice_corners(section.astype(np.uint32), 1)
        assert (corner_labels == 1).all()
        corners.append(np.column_stack([np.full(len(yx), z), yx]))
    return convex_voxels(np.concatenate(corners))


@settings(max_examples=150)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=7)))
def test_hulls_equal_a_count_voxel_by_voxel(mask: NDArray[np.bool_]) -> None:
    if mask.sum() < 4:
        return
    try:
        expected = count_in_hull(mask)
    except QhullError:
        return
    assert hull_voxels_of(mask) == expected


def test_flat_hulls_are_counted_by_picks_theorem() -> None:
    flat = drawn("2....2", "......", "......", "2....2")[None] > 0
    for turned in (flat, flat.transpose(1, 0, 2), flat.transpose(1, 2, 0)):
        assert hull_voxels_of(turned) == 24
    assert hull_voxels_of(drawn("2..2")[None] > 0) == 4
    assert hull_voxels_of(drawn("2")[None] > 0) == 1
    assert hull_voxels_of(drawn("2.", ".2")[None] > 0) == 2
    assert (
        hull_voxels_of(drawn("2....", ".....", "....2")[None] > 0) == 3
    )  # a line meets the voxel in its middle
    assert (
        hull_voxels_of(np.eye(3, dtype=bool)[:, :, None] & np.eye(3, dtype=bool)[:, None]) == 0
    )  # a line from slice to slice


def test_corners_of_touching_objects_are_separate() -> None:
    corner_labels, yx = slice_corners(drawn(".112", "1122", "1.22").astype(np.uint32), 2)
    for number, corners in (
        (1, {(0, 1), (0, 2), (1, 0), (2, 0), (1, 1)}),
        (2, {(0, 3), (1, 2), (2, 2), (2, 3)}),
    ):
        positions = {(int(y), int(x)) for y, x in yx[corner_labels == number]}
        assert positions <= corners | {(1, 3)}
        assert {(2, 0)} <= positions if number == 1 else {(0, 3), (2, 2)} <= positions


def test_shape_does_not_depend_on_the_number_of_an_object() -> None:
    mask = body("torus", 30, ISOTROPIC).mask
    voxel = VoxelSize(1000, 1000, 1000)
    small_number = shapes(mask.astype(np.uint32), voxel)
    large_number = shapes(mask.astype(np.uint32) * np.uint32(4_000_000_000), voxel)
    for column in set(small_number) - {"object"}:
        np.testing.assert_array_equal(small_number[column], large_number[column])
    numbers = [0, *small_number["object"], *large_number["object"]]
    assert all(b > a for a, b in pairwise(numbers))
