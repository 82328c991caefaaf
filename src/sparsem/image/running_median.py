"""Running medians along a stack."""

import numpy as np
from numpy.typing import NDArray


def running_median(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return (n, k) medians over ``window`` rows around each row, over fewer rows at both ends.

    Rows that contain NaN are left out; where no row remains, the median is NaN.

    Args:
        values: (n, k), one row for each slice.
        window: rows; an even number counts as the next odd one.
    """
    reach = window // 2
    medians = []
    for z in range(len(values)):
        rows = values[max(0, z - reach) : z + reach + 1]
        medians.append(_median_of_known(rows))
    return np.stack(medians)


def _median_of_known(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (k,) the median of the rows (n, k) without NaN; NaN without any."""
    known_rows = rows[~np.isnan(rows).any(axis=1)]
    if not len(known_rows):
        return np.full(rows.shape[1], np.nan)
    return np.asarray(np.median(known_rows, axis=0))
