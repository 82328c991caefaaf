"""Exact distances of voxels to a set of voxels, compared with SciPy."""

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from sparsem.labels.distance_transform import LINES, distances_inside, within_distance

Mask = NDArray[np.bool_]
EDGES = st.sampled_from([1.0, 1.5, 4.0, 5.0, 0.016])
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9))


def expected_distances(mask: Mask, voxel: list[float], closed: bool) -> NDArray[np.float64]:
    """Return distances by SciPy, which takes a mask without anything outside as undefined."""
    padded = np.pad(mask, 1) if closed else mask
    if padded.all():
        return np.full(mask.shape, np.inf)
    distances = distance_transform_edt(padded, sampling=voxel)
    inner = (slice(1, -1),) * mask.ndim
    return np.asarray(distances[inner] if closed else distances)


@given(masks, st.lists(EDGES, min_size=3, max_size=3), st.booleans())
@settings(max_examples=200, deadline=None)
def test_distances_are_those_of_scipy(mask: Mask, edges: list[float], closed: bool) -> None:
    voxel = edges[: mask.ndim]
    expected = expected_distances(mask, voxel, closed)
    np.testing.assert_allclose(distances_inside(mask, voxel, closed), expected, rtol=2e-7)


@given(masks, st.lists(EDGES, min_size=3, max_size=3), st.sampled_from([1.0, 2.0, 3.0, 5.5]))
@settings(max_examples=200, deadline=None)
def test_a_mask_grows_by_a_ball(mask: Mask, edges: list[float], radius: float) -> None:
    voxel = edges[: mask.ndim]
    length = radius * min(voxel)
    expected = expected_distances(~mask, voxel, False) <= length * (1 + 1e-9)
    np.testing.assert_array_equal(within_distance(mask, voxel, length), expected)


@pytest.mark.parametrize("shape", [(3, 70, 2 * LINES + 5), (70, 3, 41), (130, 97)])
def test_many_lines_and_long_ones_are_right(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    for fraction in (0.5, 0.99, 0.9999):
        mask = random.random(shape) < fraction
        voxel = [5.0, 1.0, 1.0][-len(shape) :]
        expected = expected_distances(mask, voxel, False)
        np.testing.assert_allclose(distances_inside(mask, voxel), expected, rtol=2e-7)


def test_equal_edges_have_exact_squares() -> None:
    mask = np.ones((1, 1, 5000), bool)
    mask[0, 0, 0] = False
    distances = distances_inside(mask, (8.0, 8.0, 8.0))
    np.testing.assert_array_equal(distances[0, 0], 8 * np.arange(5000, dtype=np.float32))


def test_a_radius_is_within_itself_after_rounding() -> None:
    mask = np.zeros((1, 1, 60), bool)
    mask[0, 0, 0] = True
    assert within_distance(mask, (0.008, 0.008, 0.008), 0.4 / 2).sum() == 26
