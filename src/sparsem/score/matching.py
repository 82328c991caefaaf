"""Matching of predicted objects with true ones: in 3D, or slice by slice.

Numbers of a ground truth need not agree between slices, and a mask has one number for all objects.
Such objects can be compared slice by slice only. Labels are (y, x) unsigned integers.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.label_numbers import UNLABELED
from sparsem.geometry import evenly_spaced
from sparsem.io.readers.source import Stack

MAX_READ = 8  # slices, and pairs of adjacent slices, that are read to see what numbers mean
# Fraction of the numbers in two adjacent slices whose objects overlap. Of numbers that are given
# slice by slice, in the order of positions, three quarters do (EPFL).
MIN_AGREEMENT = 0.9

Labels = NDArray[Any]


class ObjectMatching(NamedTuple):
    """Rule by which objects are matched.

    Attributes:
        in_3d: a number is the same object in all slices.
        is_mask: the ground truth has one number for all objects.
    """

    in_3d: bool = True
    is_mask: bool = False

    def objects(self, predicted: Labels, true: Labels) -> tuple[Labels, Labels]:
        """Return the objects of a slice to compare.

        Slice by slice, the cross-sections of a predicted object that are not connected are objects
        of their own, and so are the parts of a true mask.
        """
        if self.in_3d:
            return predicted, true
        return _parts(predicted), _parts(true) if self.is_mask else true


def choose_matching(truth: Stack, slices: Sequence[int], default_in_3d: bool) -> ObjectMatching:
    """Return how the objects of a ground truth can be matched.

    Args:
        truth: (z, y, x) numbers, ``UNLABELED`` where nothing is known.
        slices: labeled slices, ascending.
        default_in_3d: numbers agree between slices if no two labeled slices are adjacent.
    """
    if _is_mask(truth, slices):
        return ObjectMatching(in_3d=False, is_mask=True)
    pairs = [(upper, lower) for upper, lower in pairwise(slices) if lower == upper + 1]
    agreement = _agreement(truth, _spread(pairs))
    return ObjectMatching(default_in_3d if agreement is None else agreement >= MIN_AGREEMENT)


def _spread(values: Sequence[Any]) -> list[Any]:
    """Return up to ``MAX_READ`` values, evenly spaced."""
    count = min(len(values), MAX_READ)
    return [values[index] for index in evenly_spaced(len(values), count)] if count else []


def _agreement(truth: Stack, pairs: Sequence[tuple[int, int]]) -> float | None:
    """Return the fraction of numbers in both slices of a pair whose objects overlap.

    None if no number is in both.
    """
    in_both = 0
    overlapping = 0
    for pair in pairs:
        upper, lower = (_true_objects(truth, z) for z in pair)
        in_both += len(np.intersect1d(upper[upper > 0], lower[lower > 0]))
        overlapping += len(np.unique(upper[(upper == lower) & (upper > 0)]))
    return overlapping / in_both if in_both else None


def _is_mask(truth: Stack, slices: Sequence[int]) -> bool:
    """Return True if a ground truth has one number in the slices that are looked at."""
    numbers: set[int] = set()
    for z in _spread(slices):
        numbers |= set(np.unique(_true_objects(truth, z)).tolist()) - {0}
    return len(numbers) == 1


def _true_objects(truth: Stack, z: int) -> Labels:
    """Return the numbers of a slice, 0 where nothing is known."""
    labels = np.asarray(truth[z : z + 1])[0]
    return np.where(labels == UNLABELED, 0, labels)


def _parts(labels: Labels) -> Labels:
    """Return the connected parts of every label, numbered from 1."""
    return np.asarray(cc3d.connected_components(labels, connectivity=8), np.uint32)
