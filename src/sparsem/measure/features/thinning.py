"""Thinning of a body to lines one voxel wide, which keep its parts, tunnels and ends.

The voxels of the surface are removed direction by direction, as by Lee, Kashyap and Chu (1994), as
long as they are simple (Bertrand and Malandain 1994) and no ends of lines. Both are examined again
right before every voxel is removed, so that bodies of an even thickness do not vanish.

The 26 neighbors of a voxel and itself are the bits of a number, in the order z, y, x.
"""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled

Mask = NDArray[np.bool_]

CENTER = 13
STEPS = np.array(list(product((-1, 0, 1), repeat=3)))


def _adjacent(within: NDArray[np.bool_], max_steps: int) -> NDArray[np.int64]:
    """Return, for each of the 27 voxels, the bits of those adjacent to it.

    Args:
        within: (27,) voxels that take part.
        max_steps: number of coordinates in which adjacent voxels may differ: 1 across faces, 3
            across faces, edges and corners.
    """
    differences = np.abs(STEPS[:, None] - STEPS)
    is_adjacent = (differences.max(axis=2) == 1) & (differences.sum(axis=2) <= max_steps)
    return np.asarray((is_adjacent & within) @ (1 << np.arange(27)))


_DISTANCES = np.abs(STEPS).sum(axis=1)
OBJECT_ADJACENT = _adjacent(_DISTANCES > 0, 3)
OUTSIDE_ADJACENT = _adjacent((_DISTANCES > 0) & (_DISTANCES < 3), 1)
FACES = int((_DISTANCES == 1) @ (1 << np.arange(27)))
ALL_NEIGHBORS = (1 << 27) - 1 - (1 << CENTER)
# The opposite directions follow each other, so that a body is thinned evenly.
DIRECTIONS = np.array([4, 22, 10, 16, 12, 14])


def thin(mask: Mask) -> Mask:
    """Return the lines that are left of a body (z, y, x), with a margin of a voxel outside."""
    thinned = mask.copy()
    _, rows, columns = thinned.shape
    _remove_surface(thinned.reshape(-1), STEPS @ np.array([rows * columns, columns, 1]))
    return thinned


@compiled()
def _remove_surface(mask, offsets):  # type: ignore[no-untyped-def]
    """Remove voxels of a flat mask until none can be removed.

    ``offsets`` are those of the 27 voxels around one, (27,).
    """
    faces = offsets[DIRECTIONS]
    is_listed = np.zeros(len(mask), np.bool_)
    surface = _newly_exposed(mask, np.flatnonzero(mask), faces, is_listed)
    n_unchanged = 0  # directions in a row along which no voxel was removed
    while n_unchanged < len(faces):
        for face in faces:
            removed = _remove_along(mask, surface, face, offsets)
            n_unchanged = 0 if len(removed) else n_unchanged + 1
            exposed = (removed.reshape(-1, 1) + faces).ravel()
            surface = np.append(surface, _newly_exposed(mask, exposed, faces, is_listed))
            surface = surface[mask[surface]]


@compiled()
def _newly_exposed(mask, voxels, faces, is_listed):  # type: ignore[no-untyped-def]
    """Return the voxels that have a face to the outside and are not listed yet."""
    new = np.empty(len(voxels), np.int64)
    count = 0
    for voxel in voxels:
        if mask[voxel] and not is_listed[voxel] and not mask[voxel + faces].all():
            is_listed[voxel] = True
            new[count] = voxel
            count += 1
    return new[:count]


@compiled()
def _remove_along(mask, surface, face, offsets):  # type: ignore[no-untyped-def]
    """Remove voxels with the outside at one of their faces, and return those."""
    candidates = np.empty(len(surface), np.int64)
    count = 0
    for voxel in surface:
        if not mask[voxel + face] and _is_removable(_neighborhood(mask, voxel, offsets)):
            candidates[count] = voxel
            count += 1
    n_removed = 0
    for voxel in candidates[:count]:
        if _is_removable(_neighborhood(mask, voxel, offsets)):
            mask[voxel] = False
            candidates[n_removed] = voxel
            n_removed += 1
    return candidates[:n_removed]


@compiled()
def _neighborhood(mask, voxel, offsets):  # type: ignore[no-untyped-def]
    """Return the bits of the neighbors of a voxel."""
    bits = 0
    for number in range(27):
        if number != CENTER and mask[voxel + offsets[number]]:
            bits |= 1 << number
    return bits


@compiled()
def _is_removable(neighbors):  # type: ignore[no-untyped-def]
    """Return whether a voxel is simple and no end of a line, from the bits of its neighbors."""
    if neighbors & (neighbors - 1) == 0:
        return False  # an end, or a single voxel
    if _connected(neighbors, OBJECT_ADJACENT, neighbors & -neighbors) != neighbors:
        return False
    outside = ALL_NEIGHBORS & ~neighbors
    across_faces = outside & FACES
    reached = _connected(outside, OUTSIDE_ADJACENT, across_faces & -across_faces)
    return reached & across_faces == across_faces


@compiled()
def _connected(bits, adjacent, start):  # type: ignore[no-untyped-def]
    """Return the bits that are connected with a first one."""
    reached = start
    frontier = start
    while frontier:
        lowest = frontier & -frontier
        frontier ^= lowest
        number = 0
        while lowest > 1:
            lowest >>= 1
            number += 1
        new = adjacent[number] & bits & ~reached
        reached |= new
        frontier |= new
    return reached
