"""Editing of objects: merge, split, delete, keep, relabel and fill, as functions of arrays."""

from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.labels.editing import (
    delete_objects,
    fill_objects,
    keep_objects,
    merge_objects,
    relabel_object,
    split_object,
)

Labels = NDArray[Any]

label_maps = hnp.arrays(np.uint32, (3, 5, 6), elements=st.integers(0, 4))


def dumbbell(radius: int = 6, apart: int = 8) -> Labels:
    """Return two balls that touch, as one object with the id 7."""
    z, y, x = np.mgrid[:15, :15, :34]
    left = (z - 7) ** 2 + (y - 7) ** 2 + (x - 8) ** 2 <= radius**2
    right = (z - 7) ** 2 + (y - 7) ** 2 + (x - 8 - 2 * apart) ** 2 <= radius**2
    neck = (abs(z - 7) <= 1) & (abs(y - 7) <= 1) & (x >= 8) & (x <= 8 + 2 * apart)
    return np.where(left | right | neck, 7, 0).astype(np.uint32)


@given(labels=label_maps, data=st.data())
def test_simple_edits_are_those_of_a_plain_model(labels: Labels, data: st.DataObject) -> None:
    present = [int(number) for number in np.unique(labels) if number]
    if len(present) < 2:
        return
    ids = data.draw(st.lists(st.sampled_from(present), min_size=2, max_size=3, unique=True))
    before = labels.copy()
    merged, deleted, kept = (
        merge_objects(labels, ids),
        delete_objects(labels, ids),
        keep_objects(labels, ids),
    )
    for index in np.ndindex(labels.shape):
        number = int(labels[index])
        assert merged[index] == (min(ids) if number in ids else number)
        assert deleted[index] == (0 if number in ids else number)
        assert kept[index] == (number if number in ids else 0)
    renamed = relabel_object(labels, ids[0], 99)
    assert np.array_equal(renamed == 99, labels == ids[0])
    assert np.array_equal(relabel_object(renamed, 99, ids[0]), labels)
    assert np.array_equal(labels, before)
    assert {array.dtype for array in (merged, deleted, kept, renamed)} == {labels.dtype}


@given(labels=label_maps)
def test_filling_adds_enclosed_background_only(labels: Labels) -> None:
    present = [int(number) for number in np.unique(labels) if number]
    if not present:
        return
    filled = fill_objects(labels, present[:1])
    changed = filled != labels
    assert (labels[changed] == 0).all()
    assert (filled[changed] == present[0]).all()
    assert np.array_equal(fill_objects(filled, present[:1]), filled)


def test_cavities_are_filled_in_3d_and_holes_slice_by_slice() -> None:
    labels = np.ones((5, 7, 7), np.uint16)
    labels[2, 2, 2] = 0  # a cavity
    labels[:, 4, 4] = 0  # a channel, open above and below
    labels[2, 2, 4] = 5  # another object in the first one
    filled = fill_objects(labels, [1])
    assert filled[2, 2, 2] == 1
    assert (filled[:, 4, 4] == 0).all()
    assert filled[2, 2, 4] == 5
    assert (fill_objects(labels, [1], slice_by_slice=True)[:, 4, 4] == 1).all()


def test_a_split_runs_through_the_neck() -> None:
    labels = dumbbell()
    parts = split_object(labels, 7, [(7, 7, 8)], [(7, 7, 24)])
    assert np.array_equal(parts > 0, labels > 0)
    assert set(np.unique(parts)) == {0, 7, 8}
    assert (parts[:, :, :14][labels[:, :, :14] > 0] == 7).all()
    assert (parts[:, :, 19:][labels[:, :, 19:] > 0] == 8).all()


def test_a_split_runs_along_the_weakest_probability() -> None:
    """A bar has no neck; the network saw a membrane at one end of it."""
    labels = np.zeros((5, 9, 40), np.uint32)
    labels[:, 1:8, 2:38] = 3
    probability = np.where(labels > 0, 230, 0).astype(np.uint8)
    probability[:, :, 30] = 140
    for second in ([(2, 4, 36)], [(2, y, 36) for y in range(2, 7)]):  # a point, and a line
        parts = split_object(labels, 3, [(2, 4, 5)], second, probability)
        assert (parts[:, 1:8, 2:30] == 3).all()
        assert (parts[:, 1:8, 31:38] == 4).all()
    centered = split_object(labels, 3, [(2, 4, 5)], [(2, 4, 34)])
    assert (centered[2, 4, 2:15] == 3).all()
    assert (centered[2, 4, 30:38] == 4).all()


def test_the_voxel_size_decides_what_is_deep() -> None:
    labels = dumbbell()
    parts = split_object(labels, 7, [(7, 7, 8)], [(7, 7, 24)], voxel_nm=(40, 8, 8))
    assert np.array_equal(parts > 0, labels > 0)
    assert parts[7, 7, 8] == 7
    assert parts[7, 7, 24] == 8


def test_merging_a_split_restores_the_labels() -> None:
    labels = dumbbell()
    parts = split_object(labels, 7, [(7, 7, 8)], [(7, 7, 24)])
    assert np.array_equal(merge_objects(parts, [7, 8]), labels)


def test_a_part_that_no_seed_reaches_keeps_its_id() -> None:
    labels = dumbbell()
    labels[0, 0, 0] = 7
    parts = split_object(labels, 7, [(7, 7, 8)], [(7, 7, 24)])
    assert parts[0, 0, 0] == 7


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda labels: merge_objects(labels, [7]), "needs two objects or more; got 7"),
        (lambda labels: merge_objects(labels, [7, 9]), "have no object 9"),
        (lambda labels: delete_objects(labels, []), "no object .none was given"),
        (lambda labels: delete_objects(labels, [0]), "have no object 0"),
        (lambda labels: keep_objects(labels, [1, 2]), "have no object 1, 2"),
        (lambda labels: relabel_object(labels, 7, 0), "an integer from 1 to 4294967295; got 0"),
        (lambda labels: relabel_object(labels, 7, 7), "There is an object 7 already"),
        (lambda labels: fill_objects(labels, [8]), "have no object 8"),
        (lambda labels: split_object(labels, 7, [], [(7, 7, 24)]), "one voxel on either side"),
        (
            lambda labels: split_object(labels, 7, [(0, 0, 0)], [(7, 7, 24)]),
            r"voxel 0, 0, 0 \(z, y, x\) does not lie in the object",
        ),
        (
            lambda labels: split_object(labels, 7, [(7, 7, 8)], [(7, 7, 99)]),
            "voxel 7, 7, 99",
        ),
        (
            lambda labels: split_object(labels, 7, [(7, 7, 8)], [(7, 7, 8)]),
            "7, 7, 8 is a seed of both parts",
        ),
        (
            lambda labels: split_object(
                (labels > 0).astype(np.uint8) * np.uint8(255), 255, [(7, 7, 8)], [(7, 7, 24)]
            ),
            "no free id above 255 in labels of uint8",
        ),
    ],
)
def test_impossible_edits_are_refused(edit: Callable[[Labels], Labels], sentence: str) -> None:
    labels = dumbbell()
    with pytest.raises(InputError, match=sentence):
        edit(labels)
