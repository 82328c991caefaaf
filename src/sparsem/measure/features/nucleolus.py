"""Fenestrations of an object, and where a nucleolus lies in its nucleus (Machireddy et al. 2023, equations 8 and 9).

Masks are boolean (z, y, x).
"""

from collections.abc import Sequence
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Fill = Literal["3d", "2d"]


def fill_cavities(mask: Mask, fill: Fill = "3d") -> Mask:
    """The object with its holes: background that no path of voxel faces connects to the outside.

    ``2d`` fills slice by slice, so that a tunnel which is closed within every slice counts as well. A tunnel that is open to the
    outside is no hole in 3D. Beyond the array lies outside.
    """
    if fill == "2d":
        return np.stack([_filled(one[None], rim=0)[0] for one in mask])
    return _filled(mask, rim=1)


def _filled(mask: Mask, rim: int) -> Mask:
    """Everything that is not joined to the outside; the outside lies around, and ``rim`` voxels below and above."""
    outside = np.pad(~mask, ((rim, rim), (1, 1), (1, 1)), constant_values=True)
    parts = cc3d.connected_components(outside, connectivity=6)
    inner = (parts != parts[0, 0, 0])[:, 1:-1, 1:-1]
    return np.ascontiguousarray(inner[rim : len(inner) - rim])


def proximity_to_membrane(
    nucleus: Sequence[float], nucleolus: Sequence[float], to_surface: float
) -> float:
    """d_cc / (d_cc + d_s), equation 9: 0 in the middle of the nucleus, towards 1 at its membrane.

    Args:
        nucleus: its centroid, in a unit of length.
        nucleolus: its centroid.
        to_surface: from the nucleolus' centroid to the nearest point of the nucleus' surface; 0 if the centroid lies outside, NaN if
            it is not known.
    """
    between = float(np.linalg.norm(np.subtract(nucleus, nucleolus)))
    return between / (between + to_surface) if between + to_surface != 0 else 0.0
