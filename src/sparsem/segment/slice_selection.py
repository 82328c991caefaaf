"""Selection of the slices to label next, from their uncertainty or by even spacing."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.geometry import evenly_spaced


def select_uncertain_slices(
    uncertainty: NDArray[np.float64], labeled: Sequence[int], n: int
) -> list[int]:
    """Select the ``n`` slices that are most worth labeling, one after the other.

    The value of a slice is its uncertainty, reduced near labeled slices and near slices that were
    selected before it: at a distance of d slices 1 - exp(-(d / l)^2) of it is left, where l is
    half of the even spacing of all labeled slices.

    Args:
        uncertainty: (n slices,), NaN where it is not known.
        labeled: slices that are labeled.
        n: number of slices to select.

    Raises:
        InputError: fewer slices are left than requested.
    """
    known = np.nonzero(~np.isnan(uncertainty))[0]
    candidates = [int(z) for z in known if z not in set(labeled)]
    if len(candidates) < n:
        raise InputError(
            f"Cannot suggest {n} slices: only {len(candidates)} unlabeled slices were examined."
        )
    n_slices = len(uncertainty)
    half_spacing = max(1.0, n_slices / (len(labeled) + n) / 2)
    labeled_or_selected = list(labeled)
    for _ in range(n):
        distances = [_distance_to_nearest(z, labeled_or_selected, n_slices) for z in candidates]
        values = uncertainty[candidates] * _remaining_value(distances, half_spacing)
        best = candidates.pop(int(values.argmax()))
        labeled_or_selected.append(best)
    return labeled_or_selected[len(labeled) :]


def _remaining_value(distances: Sequence[float], half_spacing: float) -> NDArray[np.float64]:
    """Return the fraction of its value that a slice keeps at a distance from a labeled one."""
    relative = np.array(distances, float) / half_spacing
    remaining: NDArray[np.float64] = 1 - np.exp(-(relative**2))
    return remaining


def spread_slices(
    n_slices: int, labeled: Sequence[int], n: int, copies: Sequence[int] = ()
) -> list[int]:
    """Select ``n`` evenly spaced slices.

    If some slices are labeled, select one after the other in the middle of the widest gap.

    Args:
        n_slices: number of slices of the stack.
        labeled: slices that are labeled.
        n: number of slices to select.
        copies: slices that replace missing ones, and are not worth labeling.

    Raises:
        InputError: fewer slices are left than requested.
    """
    original = [z for z in range(n_slices) if z not in set(copies)]
    if not labeled:
        return [original[position] for position in evenly_spaced(len(original), n)]
    labeled_or_selected = set(labeled)
    n_unlabeled = len(set(original) - labeled_or_selected)
    if n > n_unlabeled:
        raise InputError(f"Cannot suggest {n} slices: only {n_unlabeled} are not labeled.")
    selected: list[int] = []
    for _ in range(n):
        middle = _middle_of_widest_gap(original, labeled_or_selected)
        selected.append(middle)
        labeled_or_selected.add(middle)
    return selected


def _middle_of_widest_gap(original: Sequence[int], labeled: set[int]) -> int:
    """Return the first of the slices that are farthest from a labeled one."""
    candidates = [z for z in original if z not in labeled]
    distances = [_distance_to_nearest(z, labeled) for z in candidates]
    return candidates[int(np.argmax(distances))]


def _distance_to_nearest(z: int, slices: Sequence[int] | set[int], default: int = 0) -> int:
    """Return the distance to the nearest of some slices, or ``default`` if there are none."""
    return min((abs(z - other_z) for other_z in slices), default=default)
