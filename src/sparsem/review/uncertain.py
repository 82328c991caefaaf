"""Places of a predicted structure where the prediction is least certain.

The entropy of the probabilities is summed over small cubes of tissue. Of cubes that are close to
each other, the one with the largest sum is a place to review. Volumes are (z, y, x).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.geometry import VoxelSize
from sparsem.review.places import ReviewPlace
from sparsem.segment.suggest import stored_entropies
from sparsem.store.volume import FOREGROUND, Volume

EDGE_NM = 240.0  # edge of a cube: most of a mitochondrion, many times the width of its outline
APART_NM = 1000.0  # between two places: a person sees both at once
# Cubes with a smaller mean entropy are not listed: where one surface crosses a cube, the voxels
# next to it alone give about a tenth of a bit.
MIN_BITS = 0.15


class CubeGrid(NamedTuple):
    """The voxels (z, y, x) of half a cube's edge; cubes are two steps wide and overlap by one."""

    z: int
    y: int
    x: int

    @classmethod
    def of(cls, voxel: VoxelSize) -> "CubeGrid":
        """Return the grid of a voxel size; a step has at least one voxel."""
        return cls(*(max(1, round(0.5 * EDGE_NM / edge)) for edge in voxel))


def step_sums(
    values: NDArray[np.uint8], known: NDArray[np.bool_] | None, grid: CubeGrid
) -> NDArray[np.float32]:
    """Return the entropy in bits of every slice, summed over squares: (n, rows, columns).

    Args:
        values: (n, y, x) probabilities as on disk.
        known: (n, y, x) voxels that a person drew, in which nothing is uncertain; None if there
            are none.
        grid: size of the squares.
    """
    if known is not None:
        values = np.where(known, np.uint8(0), values)
    sums: NDArray[np.float32] = _step_sums(values, grid.y, grid.x, stored_entropies())
    return sums


@compiled()
def _step_sums(
    values: NDArray[np.uint8], height: int, width: int, bits: NDArray[np.floating[Any]]
) -> NDArray[np.float32]:
    depth, n_rows, n_columns = values.shape
    out = np.zeros((depth, -(-n_rows // height), -(-n_columns // width)), np.float64)
    for z in range(depth):
        for y in range(n_rows):
            row = out[z, y // height]
            for x in range(n_columns):
                row[x // width] += bits[values[z, y, x]]
    return out.astype(np.float32)


def step_voxels(shape: tuple[int, int, int], grid: CubeGrid) -> NDArray[np.float32]:
    """Return the pixels of every square of a volume's slices: (n slices, rows, columns).

    The last row and the last column may be cut.
    """
    n_slices, height, width = shape
    rows = np.diff([*range(0, height, grid.y), height])
    columns = np.diff([*range(0, width, grid.x), width])
    pixels = np.outer(rows, columns).astype(np.float32)
    return np.broadcast_to(pixels, (n_slices, *pixels.shape))


def cube_sums(
    slice_sums: NDArray[np.float32], grid: CubeGrid, in_depth: bool = True
) -> NDArray[np.float32]:
    """Return the bits of every cube, of two steps along each axis.

    Args:
        slice_sums: (n slices, rows, columns), as ``step_sums`` returns them.
        grid: the grid of all of them.
        in_depth: False if cubes have one step in depth.
    """
    starts = np.arange(0, len(slice_sums), grid.z)
    sums = np.add.reduceat(slice_sums, starts, axis=0)
    for axis, length in enumerate(sums.shape):
        if length > 1 and (axis or in_depth):
            first = np.take(sums, range(length - 1), axis)
            second = np.take(sums, range(1, length), axis)
            sums = first + second
    return sums


def largest_cubes(
    sums: NDArray[np.float32], min_sums: NDArray[np.float32], apart: Sequence[int], n: int
) -> list[tuple[int, int, int]]:
    """Return the positions of up to ``n`` cubes, the largest sum first.

    Args:
        sums: (z, y, x), as ``cube_sums`` returns them.
        min_sums: minimum sum of each cube.
        apart: minimum distance of two cubes in z, y or x.
        n: maximum number of cubes.
    """
    is_free = np.ones(sums.shape, bool)
    candidates = np.flatnonzero(sums >= min_sums)
    order = candidates[np.argsort(-sums.ravel()[candidates], kind="stable")]
    cubes: list[tuple[int, int, int]] = []
    for flat in order.tolist():
        z, y, x = (int(number) for number in np.unravel_index(flat, sums.shape))
        if not is_free[z, y, x]:
            continue
        cubes.append((z, y, x))
        if len(cubes) == n:
            break
        around = zip((z, y, x), apart, strict=True)
        is_free[tuple(slice(max(0, at - edge + 1), at + edge) for at, edge in around)] = False
    return cubes


def uncertain_places(
    volume: Volume, slice_sums: NDArray[np.float32], grid: CubeGrid, n: int
) -> list[ReviewPlace]:
    """Return up to ``n`` places where a prediction is least certain, the most uncertain first.

    Args:
        volume: probabilities of a structure.
        slice_sums: (n slices, rows, columns), as ``step_sums`` returns them.
        grid: the grid of the sums.
        n: maximum number of places.
    """
    is_stack = not volume.sizes
    if volume.sizes:  # no depth connects the images of a montage, and a cube is one slice deep
        grid = grid._replace(z=1)
    sums = cube_sums(slice_sums, grid, is_stack)
    voxels = cube_sums(step_voxels(volume.shape, grid), grid, is_stack)
    voxel = volume.voxel_size
    steps_nm = [edge * nm for edge, nm in zip(grid, voxel, strict=True)]
    apart = [max(2, math.ceil(APART_NM / step_nm)) for step_nm in steps_nm]
    return [
        _place_in_cube(volume, slice_sums, grid, cube)
        for cube in largest_cubes(sums, MIN_BITS * voxels, apart, n)
    ]


def _place_in_cube(
    volume: Volume, slice_sums: NDArray[np.float32], grid: CubeGrid, cube: tuple[int, int, int]
) -> ReviewPlace:
    """Return the most uncertain slice of a cube, and the most uncertain pixel in it."""
    cube_z, cube_y, cube_x = cube
    first = cube_z * grid.z
    last = first + (1 if volume.sizes else 2 * grid.z)
    squares = slice_sums[first:last, cube_y : cube_y + 2, cube_x : cube_x + 2]
    bits_of_slices = squares.sum(axis=(1, 2))
    z = first + int(bits_of_slices.argmax())
    n_slices = int((bits_of_slices >= 0.5 * bits_of_slices.max()).sum())
    top, left = cube_y * grid.y, cube_x * grid.x
    rows, columns = slice(top, top + 2 * grid.y), slice(left, left + 2 * grid.x)
    values = volume.lazy()[z, rows, columns]
    # A blurred maximum lies in an uncertain area, not on an edge.
    blurred = cv2.blur(stored_entropies()[values], (grid.x // 2 + 1, grid.y // 2 + 1))
    row, column = np.unravel_index(int(blurred.argmax()), blurred.shape)
    is_structure = int(values[row, column] >= FOREGROUND)
    pixel_um2 = volume.voxel_size.y * volume.voxel_size.x * 1e-6
    area_um2 = float(bits_of_slices.max()) * pixel_um2
    y, x = top + int(row), left + int(column)
    return ReviewPlace("uncertain", z, y, x, is_structure, 0, area_um2, n_slices)
