"""Labels that the optical flow carries from both labeled slices, where they agree."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.writing import write_annotation
from sparsem.cells.agreement import MIN_AGREEMENT, agreed_labels
from sparsem.cells.cells import cells
from sparsem.cells.propagate import Front
from sparsem.cells.separate import UNDECIDED, Seeds
from sparsem.geometry import VoxelSize
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution
from tests.conftest import put
from tests.test_cells import give

NO_SEEDS = Seeds(np.empty(0, np.int64), np.zeros((0, 2)))
VOXEL = VoxelSize(20, 20, 20)


def front(along_flow: list[int] | None) -> Front:
    labels = None if along_flow is None else np.array([along_flow], np.uint32)
    return Front(np.zeros((1, 20), np.uint32), np.zeros((1, 20), np.float32), NO_SEEDS, labels)


def agreed(first: list[int], second: list[int]) -> list[int]:
    arrived = np.full((1, 20), 9, np.uint32)
    return [int(label) for label in agreed_labels(arrived, front(first), front(second))[0]]


def test_both_sides_decide_where_nearly_all_of_a_slice_agrees() -> None:
    first, second = [0, 0] + [1] * 9 + [2] * 9, [0, 0] + [1] * 10 + [2] * 8
    assert agreed(first, second) == [9, 9] + [1] * 9 + [9] + [2] * 8


def test_nothing_changes_where_less_of_a_slice_agrees() -> None:
    """Of eighteen pixels of cells, sixteen are more than 85 %, and fifteen are less."""
    assert 15 / 18 < MIN_AGREEMENT < 16 / 18
    first = [0, 0] + [1] * 9 + [2] * 9
    assert agreed(first, [0, 0] + [1] * 11 + [2] * 7).count(9) == 4
    assert agreed(first, [0, 0] + [1] * 12 + [2] * 6).count(9) == 20


def test_background_and_undecided_pixels_are_no_cells() -> None:
    first = [UNDECIDED] * 5 + [0] * 5 + [3] * 10
    assert agreed(first, first) == [9] * 10 + [3] * 10
    assert agreed([0] * 20, [0] * 20) == [9] * 20


def test_methods_without_flow_labels_keep_theirs() -> None:
    arrived = np.full((1, 20), 9, np.uint32)
    assert agreed_labels(arrived, front(None), front(None)) is arrived


def moving(depth: int, step: int) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Tissue that moves right, and in it a protrusion of cell 2 within cell 1, four pixels wide.

    The labels are those of both cells.
    """
    noise = np.random.default_rng(3).normal(size=(160, 160 + step * depth)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 2)
    texture = np.interp(smooth, (smooth.min(), smooth.max()), (0, 255)).astype(np.uint8)
    columns = [slice(step * (depth - z), step * (depth - z) + 160) for z in range(depth)]
    gray = np.stack([texture[:, part] for part in columns])
    labels = np.ones((depth, 160, 160), np.uint32)
    for z in range(depth):
        labels[z, 60:64, 40 + step * z : 70 + step * z] = 2
    return gray, labels


def test_a_protrusion_that_looks_like_a_boundary_keeps_its_cell(tmp_path: Path) -> None:
    """It is so thin that labels arrive there from the cell around it, at a lower cost."""
    gray, truth = moving(9, 2)
    sample = Sample.create(tmp_path / "s.zarr")
    put(sample, "", gray, 4, VOXEL)
    boundary = np.where(truth == 2, 204, 0).astype(np.uint8)
    give(sample, "probabilities/cells-interior", np.full_like(boundary, 255), 4)
    give(sample, "probabilities/cells-boundary", boundary, 4)
    write_annotation(sample, "cells", (0, 6), [truth[0], truth[6]])
    cells(sample, min_island_nm2=0, fill_holes_um2=0, on=Execution(quiet=True))
    regions = np.asarray(sample.volume("labels", "cells-regions").read(slice(None)))
    for z in range(1, 6):
        protrusion = np.s_[z, 61:63, 42 + 2 * z : 68 + 2 * z]
        around = np.s_[z, 50:57, 40 + 2 * z : 70 + 2 * z]
        assert len(np.unique(regions[protrusion])) == 1
        assert regions[protrusion][0, 0] != regions[around][0, 0]
