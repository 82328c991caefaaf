"""Training targets of touching cells, drawn: 0, 1, and ? for unknown."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import UNKNOWN, read_annotation
from sparsem.annotation.settings import AnnotationSettings
from sparsem.annotation.writing import write_annotation
from sparsem.errors import SettingsError
from sparsem.segment.network_training import train_network
from sparsem.segment.predict import predict
from sparsem.segment.targets import interior_and_boundary, shrink_labels
from sparsem.segment.training_slices import read_training_slices
from sparsem.settings import changed, parse
from sparsem.store.sample import Sample
from tests.conftest import LABELED, QUICK, drawn, truth_of


def shown(target: NDArray[np.uint8]) -> list[str]:
    return ["".join({0: "0", 1: "1", UNKNOWN: "?"}[int(value)] for value in row) for row in target]


def known(*rows: str) -> NDArray[np.bool_]:
    return np.array([[mark != "?" for mark in row] for row in rows])


def test_two_cells_that_touch_and_background() -> None:
    cells = drawn("11222...", "11222...")
    interior, boundary = interior_and_boundary(
        cells, np.ones(cells.shape, bool), width_px=2, outlined=False
    )
    assert shown(interior) == ["11111000"] * 2
    assert shown(boundary) == ["01101100"] * 2


@pytest.mark.parametrize(
    ("width", "row"), [(2, "00011000"), (3, "00111100"), (4, "00111100"), (6, "01111110")]
)
def test_the_width_counts_both_sides(width: float, row: str) -> None:
    cells = drawn("11112222")
    assert shown(
        interior_and_boundary(cells, np.ones(cells.shape, bool), width, outlined=False)[1]
    ) == [row]


def test_adjacent_cells_without_annotation_are_not_background() -> None:
    cells = drawn("..1122..", "..1122..")
    is_known = known("??1122??", "??1122??")
    interior, boundary = interior_and_boundary(cells, is_known, width_px=2, outlined=True)
    assert shown(interior) == ["??1111??"] * 2
    assert (
        shown(boundary) == ["?111111?"] * 2
    )  # each is two pixels wide, and all of its ends were drawn


def test_the_boundary_next_to_undecided_pixels_is_unknown() -> None:
    cells, is_known = drawn("1111...22"), known("1111???22")
    interior, boundary = interior_and_boundary(cells, is_known, width_px=2, outlined=False)
    assert shown(interior) == ["1111???11"]
    assert shown(boundary) == ["000????" + "?0"]


def test_a_slice_without_cells_is_background() -> None:
    target = interior_and_boundary(drawn("....", "...."), np.ones((2, 4), bool), 3, outlined=False)
    assert not target.any()
    unknown = interior_and_boundary(drawn("....", "...."), np.zeros((2, 4), bool), 3, outlined=True)
    assert (unknown == UNKNOWN).all()


def test_ids_are_never_interpolated() -> None:
    labels = np.repeat(np.repeat(np.array([[70_000, 3], [0, 70_000]], np.uint32), 4, 0), 4, 1)
    assert shrink_labels(labels, (4, 4)).tolist() == [[70_000, 3], [0, 70_000]]
    assert set(np.unique(shrink_labels(labels, (3, 1.5))).tolist()) == {0, 3, 70_000}


def test_an_id_for_background_where_nothing_is_unknown(own_tissue: Sample) -> None:
    shape = own_tissue.image().shape[1:]
    labels = np.zeros(shape, np.uint32)
    labels[:10], labels[10:20], labels[20:30] = 5, 6, 9
    write_annotation(own_tissue, "cells", (3,), [labels], ignore=0, background=9)
    ids, is_known = read_annotation(own_tissue, "cells").objects(0)
    assert [int(ids[row, 0]) for row in (0, 10, 20, 30)] == [5, 6, 0, 0]
    assert [bool(is_known[row, 0]) for row in (0, 10, 20, 30)] == [True, True, True, False]
    assert [int(read_annotation(own_tissue, "cells").mask(0)[row, 0]) for row in (0, 20, 30)] == [
        1,
        0,
        UNKNOWN,
    ]
    with pytest.raises(SettingsError, match="cannot be both ignored and background"):
        parse(AnnotationSettings, {"ignore": 9, "background": 9}, "labels")


def test_one_network_predicts_interior_boundary_and_a_structure(
    own_tissue: Sample, tmp_path: Path
) -> None:
    write_annotation(own_tissue, "cells", LABELED, truth_of(own_tissue, "cells", LABELED))
    settings = changed(QUICK, {"structures": ("nucleus",), "cells": "cells"})
    recipe = train_network([own_tissue], tmp_path / "m.safetensors", settings)
    assert recipe.structures == ("nucleus", "cells-interior", "cells-boundary")
    slices, _, _ = read_training_slices([own_tissue], recipe.structures, settings)
    cells = own_tissue.volume("truth", "cells").read(slice(9, 10))[0]
    expected = interior_and_boundary(
        shrink_labels(cells, (2, 2)), np.ones((48, 64), bool), 3, outlined=False
    )
    assert np.array_equal(slices[1].target[1:], expected)
    predict(own_tissue, tmp_path / "m.safetensors")
    assert own_tissue.names("probabilities") == ["cells-boundary", "cells-interior", "nucleus"]
