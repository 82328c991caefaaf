"""Cavities of an object, and the position of a nucleolus in its nucleus.

Machireddy et al. 2023, equations 8 (fenestrations) and 9 (proximity to the membrane).
Masks are boolean (z, y, x).
"""

from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import NDArray

from sparsem.measure.settings import Fill

Mask = NDArray[np.bool_]


def fill_cavities(mask: Mask, fill: Fill = "3d") -> Mask:
    """Return the object with its cavities filled.

    A cavity is background that no path of voxel faces connects to the outside. Everything beyond
    the array is outside.

    Args:
        mask: the object.
        fill: ``3d``, in which a tunnel that is open to the outside is no cavity; or ``2d``, slice
            by slice, which also fills a tunnel that is closed within every slice.
    """
    if fill == "2d":
        return np.stack([_fill_enclosed(section[None], margin=0)[0] for section in mask])
    return _fill_enclosed(mask, margin=1)


def _fill_enclosed(mask: Mask, margin: int) -> Mask:
    """Return everything that is not connected to the outside.

    The outside surrounds the array in y and x, and by ``margin`` voxels below and above it.
    """
    background = np.pad(~mask, ((margin, margin), (1, 1), (1, 1)), constant_values=True)
    parts = cc3d.connected_components(background, connectivity=6)
    is_enclosed = (parts != parts[0, 0, 0])[:, 1:-1, 1:-1]
    return np.ascontiguousarray(is_enclosed[margin : len(is_enclosed) - margin])


def proximity_to_membrane(
    nucleus: Sequence[float], nucleolus: Sequence[float], to_surface: float
) -> float:
    """Return d_cc / (d_cc + d_s), equation 9.

    It is 0 in the middle of the nucleus and approaches 1 at the membrane of the nucleus.

    Args:
        nucleus: centroid of the nucleus, in a unit of length.
        nucleolus: centroid of the nucleolus.
        to_surface: d_s, the distance from the centroid of the nucleolus to the nearest point of the
            surface of the nucleus; 0 if the centroid lies outside, NaN if it is not known.
    """
    between_centroids = float(np.linalg.norm(np.subtract(nucleus, nucleolus)))  # d_cc
    total = between_centroids + to_surface
    return between_centroids / total if total != 0 else 0.0
