"""Fragments of objects: the basins in which voxels climb to the same maximum.

The height of a voxel is large inside of objects and small along the boundaries between them. Every
voxel of a mask points to the highest of its neighbors, of equal ones to the first in the volume.
Following these pointers, each voxel reaches one maximum; the voxels that reach the same one are a
fragment. A pointer depends on nearby voxels only. So a block is computed without the others, and
fragments that continue in the next block are joined afterwards: they are the same for any blocks.

Volumes are (z, y, x) uint8. Fragments are numbered from 1 in the order of their first voxels, 0
outside of the mask.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

Bytes = NDArray[np.uint8]
Fragments = NDArray[np.uint32]
Ints = NDArray[np.int64]

# Slices around a block that its fragments depend on: two for the filter, one for the neighbors.
HALO = 3
# The position of a neighbor among the 27 voxels around a voxel, counted from 1; 0 for no voxel.
OWN_POSITION = 14


class BlockFragments(NamedTuple):
    """The fragments of one block.

    Attributes:
        fragments: (z, y, x) numbers of the fragments.
        exits: (n, 2) where every fragment continues: -1 in the slice before the block, 1 in the
            slice after it, 0 nowhere; and the flat index of the pixel (y, x) in that slice.
    """

    fragments: Fragments
    exits: Ints


def climb(
    probability: Bytes,
    boundary: Bytes,
    mask: Bytes,
    own_slices: slice,
    in_depth: bool,
) -> Bytes:
    """Return for every voxel of a block the position of its highest neighbor, see ``fragments``.

    The height is the minimum of the probability of the structure and that of no boundary, smoothed
    by a binomial filter (1 4 6 4 1) along each axis. Integers keep it the same on every machine.

    Args:
        probability: (z, y, x) of the structure; around ``own_slices`` it has ``HALO`` slices more
            unless the stack ends there.
        boundary: (z, y, x) of the boundary between objects.
        mask: (z, y, x) voxels of the structure; fragments lie inside of it.
        own_slices: slices of the block.
        in_depth: voxels have neighbors in adjacent slices; else fragments are those of slices.

    Returns:
        (z, y, x) uint8: 1 to 27 for the neighbors in the order of the volume, the voxel itself
        included; 0 outside of the mask.
    """
    pointers: Bytes = _pointers(
        probability, boundary, mask, own_slices.start, own_slices.stop, in_depth
    )
    return pointers


def follow(pointers: Bytes) -> BlockFragments:
    """Return the fragments of a block: the voxels that reach the same maximum.

    Args:
        pointers: see ``climb``.
    """
    return BlockFragments(*_follow(pointers))


def insert_drawn_objects(
    probability: Bytes,
    boundary: Bytes,
    drawn: NDArray[Any],
    known: NDArray[np.bool_],
) -> None:
    """Replace the prediction of a slice (y, x) by the objects that a person drew in it, in place.

    Args:
        probability: of the structure.
        boundary: of the boundary between objects.
        drawn: numbers of the objects, 0 for background.
        known: pixels that the person labeled.
    """
    touches_other = _touch_another(drawn)
    probability[known] = np.where(drawn > 0, 255, 0)[known]
    boundary[known] = np.where(touches_other, 255, 0)[known]


def _touch_another(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels (y, x) of objects next to a pixel of another object."""
    # Neighbors beyond the border are the pixels themselves.
    padded = np.pad(labels, 1, mode="edge")
    touches = np.zeros(labels.shape, bool)
    for near in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        touches |= (near != labels) & (near > 0)
    return touches & (labels > 0)


@compiled()
def _pointers(
    probability: Any,
    boundary: Any,
    mask: Any,
    start: Any,
    stop: Any,
    in_depth: Any,
) -> Any:
    """Return for every voxel of the own slices the position of its highest neighbor."""
    depth, rows, columns = mask.shape
    pointers = np.zeros((stop - start, rows, columns), np.uint8)
    reach = 1 if in_depth else 0
    # Slices stay as long as they are needed: slice z at position z modulo the length.
    in_plane = np.empty((5, rows, columns), np.int32)
    heights = np.empty((3, rows, columns), np.int32)
    n_smoothed = max(start - HALO, 0)
    n_heights = max(start - reach, 0)
    for z in range(start, stop):
        while n_heights < min(z + reach + 1, depth):
            while n_smoothed < min(n_heights + 2 * reach + 1, depth):
                smooth = in_plane[n_smoothed % 5]
                _smooth_slice(probability[n_smoothed], boundary[n_smoothed], smooth)
                n_smoothed += 1
            _smooth_depth(in_plane, n_heights, depth, in_depth, heights[n_heights % 3])
            n_heights += 1
        _point(heights, mask, z, reach, pointers[z - start])
    return pointers


@compiled()
def _binomial(
    first: Any,
    second: Any,
    third: Any,
    fourth: Any,
    fifth: Any,
    total: Any,
) -> None:
    """Write the sum of five rows of values, weighted 1 4 6 4 1."""
    for x in range(len(total)):
        inner = second[x] + fourth[x]
        total[x] = first[x] + fifth[x] + 4 * inner + 6 * third[x]


@compiled()
def _smooth_slice(probability: Any, boundary: Any, smooth: Any) -> None:
    """Write the score of a slice (y, x), smoothed in the plane; pixels at its border repeat."""
    rows, columns = probability.shape
    row = np.empty(columns + 4, np.int32)
    across = np.empty((rows + 4, columns), np.int32)
    for y in range(rows):
        for x in range(columns):
            row[x + 2] = min(probability[y, x], 255 - boundary[y, x])
        row[:2] = row[2]
        row[columns + 2 :] = row[columns + 1]
        _binomial(row, row[1:], row[2:], row[3:], row[4:], across[y + 2])
    across[:2] = across[2]
    across[rows + 2 :] = across[rows + 1]
    for y in range(rows):
        near = across[y : y + 5]
        _binomial(near[0], near[1], near[2], near[3], near[4], smooth[y])


@compiled()
def _smooth_depth(
    in_plane: Any,
    z: Any,
    depth: Any,
    in_depth: Any,
    height: Any,
) -> None:
    """Write the height of slice z (y, x) from the smoothed slices around it."""
    if not in_depth:
        height[:] = in_plane[z % 5]
        return
    first = _slice_near(in_plane, z - 2, depth)
    second = _slice_near(in_plane, z - 1, depth)
    third = _slice_near(in_plane, z, depth)
    fourth = _slice_near(in_plane, z + 1, depth)
    fifth = _slice_near(in_plane, z + 2, depth)
    for y in range(len(height)):
        _binomial(first[y], second[y], third[y], fourth[y], fifth[y], height[y])


@compiled()
def _slice_near(in_plane: Any, z: Any, depth: Any) -> Any:
    """Return a smoothed slice; beyond the ends of the stack the last one repeats."""
    return in_plane[min(max(z, 0), depth - 1) % 5]


@compiled()
def _point(
    heights: Any,
    mask: Any,
    z: Any,
    reach: Any,
    pointers: Any,
) -> None:
    """Write the position of the highest neighbor of every voxel of slice z."""
    rows, columns = pointers.shape
    slices = range(max(z - reach, 0), min(z + reach + 1, len(mask)))
    for y in range(rows):
        for x in range(columns):
            if mask[z, y, x] == 0:
                continue
            best = -1
            # In the order of the volume: of equal neighbors the first one stays.
            for near_z in slices:
                for near_y in range(max(y - 1, 0), min(y + 2, rows)):
                    for near_x in range(max(x - 1, 0), min(x + 2, columns)):
                        value = heights[near_z % 3, near_y, near_x]
                        if value > best and mask[near_z, near_y, near_x] != 0:
                            best = value
                            steps = 9 * (near_z - z) + 3 * (near_y - y) + near_x - x
                            pointers[y, x] = OWN_POSITION + steps


@compiled()
def _follow(pointers: Any) -> Any:
    """Return fragments and exits: what voxels reach that follow their pointers."""
    depth, rows, columns = pointers.shape
    plane = rows * columns
    steps = pointers.reshape(-1)
    # The slices before and after the block are part of it, and hold the exits.
    fragments = np.zeros(plane * (depth + 2), np.uint32)
    inner = fragments[plane:-plane]
    exits = np.empty((1024, 2), np.int64)
    count = 0
    for index in range(len(inner)):
        if steps[index] == 0 or inner[index]:
            continue
        end = _end_of_path(index, steps, inner, columns, plane)
        number = fragments[end + plane]
        if number == 0:
            if count == len(exits):
                exits = np.concatenate((exits, np.empty_like(exits)))
            direction = -1 if end < 0 else int(end >= len(inner))
            exits[count] = (direction, end % plane if direction else 0)
            count += 1
            number = np.uint32(count)
            fragments[end + plane] = number
        _write_path(index, number, steps, inner, columns, plane)
    return inner.reshape(pointers.shape), exits[:count].copy()


@compiled()
def _end_of_path(
    index: Any,
    steps: Any,
    fragments: Any,
    columns: Any,
    plane: Any,
) -> Any:
    """Return a maximum, a voxel whose fragment is known, or one outside of the block."""
    while 0 <= index < len(steps) and not fragments[index] and steps[index] != OWN_POSITION:
        index += _step(steps[index], columns, plane)
    return index


@compiled()
def _write_path(
    index: Any,
    number: Any,
    steps: Any,
    fragments: Any,
    columns: Any,
    plane: Any,
) -> None:
    """Write the fragment of all voxels of a path that have none yet."""
    while 0 <= index < len(steps) and fragments[index] == 0:
        fragments[index] = number
        index += _step(steps[index], columns, plane)


@compiled()
def _step(position: Any, columns: Any, plane: Any) -> Any:
    """Return the difference of flat indices from a voxel to a neighbor at a position."""
    code = np.int64(position) - 1
    return (code // 9 - 1) * plane + (code // 3 % 3 - 1) * columns + code % 3 - 1
