"""Skeletons as lines of the 3D scene."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparsem.report.encode import encode_lines

MAX_POINTS = 60_000  # of the lines of a structure; beyond that points are left out


def encode_skeletons(table: pa.Table, cube_um: float) -> dict[str, Any]:
    """Return the lines of ``tables/skeleton_lines_NAME`` for the page, see ``encode_lines``.

    Args:
        table: with the columns ``object``, ``branch``, ``z_um``, ``y_um`` and ``x_um``.
        cube_um: edge of the cube around the volume.
    """
    points = np.stack([table[f"{axis}_um"].to_numpy() for axis in "zyx"], axis=1)
    lines = np.stack([table[name].to_numpy() for name in ("object", "branch")], axis=1)
    selected = _thinned(lines)
    ends = _ends_of_lines(lines[selected])
    return dict(encode_lines(points[selected].astype(np.float64), ends, cube_um))


def _thinned(lines: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of at most about ``MAX_POINTS`` points: the ends of lines, and others.

    Args:
        lines: (n, 2) object and branch of every point, of which those of a line are consecutive.
    """
    step = -(-len(lines) // MAX_POINTS)
    is_selected = np.arange(len(lines)) % max(step, 1) == 0
    starts_line = np.ones(len(lines), bool)
    starts_line[1:] = (lines[1:] != lines[:-1]).any(axis=1)
    ends_line = np.ones(len(lines), bool)
    ends_line[:-1] = starts_line[1:]
    return np.flatnonzero(is_selected | starts_line | ends_line)


def _ends_of_lines(lines: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices (m, 2) of consecutive points of the same line."""
    first = np.flatnonzero((lines[1:] == lines[:-1]).all(axis=1))
    return np.stack([first, first + 1], axis=1)
