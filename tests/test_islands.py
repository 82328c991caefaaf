"""Islands of cells: how much of their area has the right identity."""

import cc3d
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from sparsem.cli.score_format import score_lines
from sparsem.labels.overlaps import overlaps
from sparsem.score.islands import IslandCount, count_islands
from sparsem.score.overlap import MaskOverlap
from sparsem.score.score import Scores


def test_islands_as_drawn() -> None:
    true = np.array([[1, 1, 1, 0, 1], [1, 1, 1, 0, 1], [0, 0, 0, 0, 0], [2, 2, 0, 0, 2]], np.uint32)
    good, half = true.copy(), true.copy()
    half[0, 4] = 0  # sizes of the two pixels of the island of cell 1
    assert count_islands(good, true) == IslandCount(3, 3)
    assert count_islands(half, true) == IslandCount(3, 1)  # half of an island is no majority
    half[1, 4] = 2
    half[3, 4] = 0
    assert count_islands(half, true) == IslandCount(3, 0)
    assert count_islands(np.zeros_like(true), np.zeros_like(true)) == IslandCount(0, 0)


def plain_count(labels: np.ndarray, true: np.ndarray) -> tuple[int, int]:
    pixels = right = 0
    for cell in set(np.unique(true).tolist()) - {0}:
        parts = cc3d.connected_components(
            np.ascontiguousarray(true == cell).view(np.uint8), connectivity=8
        )
        masks = sorted(
            (parts == part for part in range(1, int(parts.max()) + 1)), key=np.count_nonzero
        )
        for mask in masks[:-1]:
            pixels += int(mask.sum())
            right += int(mask.sum()) * bool(2 * (labels[mask] == cell).sum() > mask.sum())
    return pixels, right


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_islands_equal_a_plain_count(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    labels, true = (
        data.draw(arrays.arrays(np.uint32, shape, elements=st.integers(0, 3))) for _ in range(2)
    )
    pixels, right = plain_count(labels, true)
    count = count_islands(labels, true)
    assert count.pixels == pixels
    largest = [
        np.bincount(
            cc3d.connected_components((true == cell).view(np.uint8), connectivity=8).ravel()
        )[1:]
        for cell in (1, 2, 3)
    ]
    if all(
        len(sizes) < 2 or np.sort(sizes)[-1] > np.sort(sizes)[-2] for sizes in largest
    ):  # else it is open which part is the island
        assert count.right == right


def test_other_numbers_in_the_ground_truth_are_reported() -> None:
    true = np.array([[1, 1, 0], [2, 2, 0]], np.uint32)
    known = np.ones(true.shape, bool)
    for labels, is_reported in ((true, False), (np.where(true > 0, true + 10, 0), True)):
        table = overlaps(labels.astype(np.uint32), true, known)
        scores = Scores(
            (MaskOverlap(4, 4, 4, 6),), None, (table,), islands=(count_islands(labels, true),)
        )
        lines = score_lines({"cells": scores})
        assert (
            any("no object has the same number in the ground truth" in line for line in lines)
            is is_reported
        )
