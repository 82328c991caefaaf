"""Feret diameters compared with formulas, with every pair of edges, and between stack and image."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import ConvexHull
from skimage.measure import regionprops

from sparsem.geometry import VoxelSize
from sparsem.measure.features.feret import TOLERANCE, feret_diameters
from sparsem.measure.features.shape import shapes
from tests.bodies import body

Floats = NDArray[np.float64]
VOXELS = [(1.0, 1.0, 1.0), (5.0, 1.0, 1.0)]


def plain_diameters(centers: Floats, voxel: Floats) -> tuple[float, float]:
    """Return both diameters from all pairs of corners, and all normals of facets and edge pairs."""
    half = np.diag(voxel / 2)
    points = (centers[:, None] + np.concatenate([half, -half])).reshape(-1, 3)
    hull = ConvexHull(points)
    corners = points[hull.vertices]
    largest = max(np.linalg.norm(first - second) for first, second in combinations(corners, 2))
    pairs = {tuple(sorted(pair)) for facet in hull.simplices for pair in combinations(facet, 2)}
    edges = [points[first] - points[second] for first, second in pairs]
    crossings = np.array([np.cross(first, second) for first, second in combinations(edges, 2)])
    lengths = np.linalg.norm(crossings, axis=1)
    directions = crossings[lengths > 1e-9] / lengths[lengths > 1e-9, None]
    positions = np.concatenate([hull.equations[:, :3], directions]) @ corners.T
    return float(largest), float(np.ptp(positions, axis=1).min())


def test_diameters_equal_those_of_all_pairs() -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        voxel = random.choice([1.0, 1.0, 5.0], 3)
        shape = (random.integers(1, 9), 3)
        centers = random.integers(0, random.integers(2, 40), shape) * voxel
        largest, smallest = feret_diameters(centers, voxel)
        plain_largest, plain_smallest = plain_diameters(centers, voxel)
        assert largest == pytest.approx(plain_largest)
        assert plain_smallest - 1e-9 <= smallest <= plain_smallest * (1 + TOLERANCE)


@pytest.mark.parametrize("voxel", VOXELS)
@pytest.mark.parametrize(
    ("name", "largest", "smallest"),
    [("ball", 1.0, 1.0), ("ellipsoid", 1.0, 0.5), ("torus", 1.0, 0.3), ("box", 1.346, 0.5)],
)
def test_diameters_of_bodies_equal_their_formulas(
    name: str, largest: float, smallest: float, voxel: tuple[float, float, float]
) -> None:
    across = 40 * max(voxel)
    mask = body(name, across, voxel).mask.astype(np.uint32)
    columns = shapes(mask, VoxelSize.of([1000 * edge for edge in voxel]))
    # Within an edge of the longest voxel; a box loses its corners.
    assert columns["max_feret_um"][0] == pytest.approx(largest * across, abs=1.1 * max(voxel))
    assert columns["min_feret_um"][0] == pytest.approx(smallest * across, abs=1.1 * max(voxel))
    ratio = columns["surface_um2"] / columns["volume_um3"]
    np.testing.assert_allclose(columns["surface_to_volume_per_um"], ratio)


def test_a_single_voxel_and_a_line_have_diameters() -> None:
    voxel = np.array([3.0, 1.0, 2.0])
    largest, smallest = feret_diameters(np.zeros((1, 3)), voxel)
    assert largest == pytest.approx(3)
    assert smallest < 1  # an octahedron, narrower between two of its faces
    line = np.array([[0.0, 0, 0], [0, 9, 0]])
    assert feret_diameters(line, voxel)[0] == pytest.approx(10)


def test_diameters_in_an_image_are_those_of_scikit_image() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        mask = np.zeros((40, 40), np.uint8)
        rows, columns = np.indices(mask.shape) - 20
        turn = random.uniform(0, np.pi)
        along = rows * np.cos(turn) + columns * np.sin(turn)
        across = columns * np.cos(turn) - rows * np.sin(turn)
        mask[(along / 15) ** 2 + (across / random.uniform(3, 12)) ** 2 < 1] = 1
        centers = np.argwhere(mask).astype(float)
        largest, smallest = feret_diameters(centers, np.ones(2))
        # It takes the hull of the pixels of the hull, which is up to a pixel longer.
        assert largest == pytest.approx(regionprops(mask)[0].feret_diameter_max, abs=1)
        # No direction is narrower, and one of them is as narrow.
        angles = np.linspace(0, np.pi, 3601)
        directions = np.stack([np.cos(angles), np.sin(angles)])
        half = np.abs(directions).max(axis=0) / 2
        widths = np.ptp(centers @ directions, axis=0) + 2 * half
        assert widths.min() == pytest.approx(smallest, rel=1e-3)
        assert smallest <= widths.min() + 1e-9
