"""Labels between two labeled slices, and in the next one: equal to a plain version."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from sparsem.cells.between import blend_labels, carry_labels, fill_between
from sparsem.store.sample import Sample


def test_both_sides_are_carried_and_blended(tissue: Sample) -> None:
    """The flow of a pair of slices is computed once for both sides."""
    images = list(tissue.image().read(slice(3, 8)))
    truth = tissue.volume("truth", "cells").read(slice(3, 8))
    filled = fill_between(truth[0], truth[4], images)
    from_first = carry_labels(truth[0], images[:-1])
    from_last = carry_labels(truth[4], images[:0:-1])[::-1]
    assert len(filled) == 3
    for number, (below, above) in enumerate(zip(from_first, from_last, strict=True), 1):
        np.testing.assert_array_equal(filled[number - 1], blend_labels(below, above, number / 4))
        true = truth[number]
        assert (filled[number - 1] == true).mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_outlines_lie_between_by_exact_distances(seed: int) -> None:
    random = np.random.default_rng(seed)
    planes = []
    for _ in range(2):
        plane = np.zeros((60, 70), np.uint32)
        for number in (3, 70_000, 5):
            y, x = random.integers(10, 50, 2)
            rows, columns = np.ogrid[:60, :70]
            plane[(rows - y) ** 2 + (columns - x) ** 2 < random.integers(4, 12) ** 2] = number
        planes.append(plane)
    below, above = planes
    best = np.zeros(below.shape)
    expected = np.zeros_like(below)
    for number in np.union1d(below, above)[1:]:
        total = np.zeros(below.shape)
        ys, xs = np.nonzero((below == number) | (above == number))
        box = (
            slice(max(0, ys.min() - 2), ys.max() + 3),
            slice(max(0, xs.min() - 2), xs.max() + 3),
        )
        for weight, plane in ((0.6, below), (0.4, above)):
            mask = (plane == number)[box]
            if mask.any():
                inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
                outside = distance_transform_edt(~mask)
                signed = np.where(mask, inside - 0.5, 0.5 - outside)
            else:
                signed = np.full(mask.shape, -1.0)
            total[box] += weight * signed
        is_better = np.zeros(below.shape, bool)
        is_better[box] = total[box] > best[box] + 1e-6
        best[is_better] = total[is_better]
        expected[is_better] = number
    blended = blend_labels(below, above, 0.4)
    # Float32 and float64 may decide a tie differently.
    assert (blended != expected).sum() <= 3
