"""Labels that the optical flow carries to a pixel from both labeled slices.

The two labels are independent: they come from different slices, along different paths. If nearly
all of a slice agrees, the flow is right where it agrees, more often than any boundary of a network:
thin protrusions move with the tissue around them, and a network of few labels misses parts of their
boundary. If little agrees, labels that agree do so by chance. On neurites (FIB-25) the mean Dice of
cells changes by +0.013 where 91 % of the pixels agree, by +0.003 at 87 %, by -0.006 at 82 % and by
-0.005 at 60 %.
"""

import numpy as np
from numpy.typing import NDArray

from sparsem.cells.propagate import Front
from sparsem.cells.separate import UNDECIDED
from sparsem.cells.warp import Labels

# Smallest fraction of the cells of a slice on which both sides must agree.
MIN_AGREEMENT = 0.85


def agreed_labels(labels: Labels, below: Front, above: Front) -> Labels:
    """Return labels of a slice, with those that both sides carry along the flow where they agree.

    Args:
        labels: (h, w), returned as they are where the sides do not agree, or in the whole slice if
            they agree on less than ``MIN_AGREEMENT`` of the cells.
        below: front from the labeled slice below.
        above: front from the labeled slice above.
    """
    first, second = below.along_flow, above.along_flow
    if first is None or second is None:
        return labels
    is_first, is_second = _is_cell(first), _is_cell(second)
    agrees = is_first & (first == second)
    n_cell_pixels = np.count_nonzero(is_first | is_second)
    if np.count_nonzero(agrees) < MIN_AGREEMENT * n_cell_pixels:
        return labels
    return np.asarray(np.where(agrees, first, labels))


def _is_cell(labels: Labels) -> NDArray[np.bool_]:
    """Return the pixels whose label is that of a cell."""
    return np.asarray((labels > 0) & (labels != UNDECIDED))
