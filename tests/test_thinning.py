"""Thinning keeps every part, tunnel, cavity and end, whatever the thickness of a body."""

from itertools import product
from typing import Any, Literal

import cc3d
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.measure import euler_number

from sparsem.measure.features.thinning import thin

Mask = NDArray[np.bool_]


def parts_of(mask: Mask, connectivity: Literal[6, 26] = 26) -> NDArray[Any]:
    return np.asarray(cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity))


@pytest.mark.parametrize("threshold", [-0.4, 0.0, 0.7, 1.2])
def test_topology_stays(threshold: float) -> None:
    random = np.random.default_rng(0)
    for _ in range(10):
        field = gaussian_filter(random.normal(size=(24, 24, 24)), 2)
        mask = np.pad(field > field.std() * threshold, 1)
        lines = thin(mask)
        assert not (lines & ~mask).any()
        parts = parts_of(mask)
        assert set(np.unique(parts[lines])) == set(range(1, parts.max() + 1))
        assert parts_of(lines).max() == parts.max()
        assert parts_of(~lines, 6).max() == parts_of(~mask, 6).max()
        assert euler_number(lines, 3) == euler_number(mask, 3)  # so tunnels, too
        np.testing.assert_array_equal(thin(lines), lines)


@pytest.mark.parametrize(("height", "width"), [*product(range(1, 9), repeat=2)])
def test_bars_of_any_thickness_become_a_line(height: int, width: int) -> None:
    bar = np.zeros((height + 4, width + 4, 44), bool)
    bar[2 : 2 + height, 2 : 2 + width, 2:42] = True
    lines = thin(bar)
    z, y, x = np.nonzero(lines)
    assert len(x) <= 48
    assert np.ptp(x) >= 40 - max(height, width) - 1
    middle = (x > 12) & (x < 32)
    assert np.abs(z[middle] - (height + 3) / 2).max() <= 1
    assert np.abs(y[middle] - (width + 3) / 2).max() <= 1


def test_small_bodies_keep_a_voxel() -> None:
    for edge in range(1, 7):
        cube = np.zeros((edge + 2,) * 3, bool)
        cube[1:-1, 1:-1, 1:-1] = True
        assert 1 <= thin(cube).sum() <= 2 * edge
    assert not thin(np.zeros((3, 3, 3), bool)).any()
