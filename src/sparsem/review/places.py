"""Places to review: the few places of a stack where a correction helps most."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa


class ReviewPlace(NamedTuple):
    """One place to review.

    Attributes:
        kind: ``disagreement`` of the labels of cells from two sides, ``jump`` of a cell's area, or
            ``uncertain``, a prediction of a structure near one half.
        z: slice with most of its pixels; the upper of the two slices of a jump.
        y: row of a pixel in it.
        x: column of the same pixel.
        first: id of the cell; 0 is no cell. Of an uncertain prediction, 1 if the pixel is the
            structure.
        second: id of the cell that the other side has there; 0 is no cell.
        area_um2: area in slice ``z``.
        slices: number of slices in which the two sides disagree, or of an uncertain place; 1 for
            a jump.
    """

    kind: str
    z: int
    y: int
    x: int
    first: int
    second: int
    area_um2: float
    slices: int


def review_table(places: Sequence[ReviewPlace]) -> pa.Table:
    """Return one row for each place to review, the most important first."""
    columns: dict[str, Any] = {"rank": np.arange(1, len(places) + 1)}
    for name in ReviewPlace._fields:
        columns[name] = [getattr(review_place, name) for review_place in places]
    return pa.table(columns)
