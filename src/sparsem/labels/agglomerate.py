"""Agglomeration: fragments that no boundary separates become one object.

Fragments that touch share faces of voxels. The evidence of a face is the probability of a boundary
on it, 0 to 255, the larger one of its two voxels. Fragments are merged as long as the mean evidence
of their common faces, weighted by area, is below a threshold, the pair with the smallest mean first
(average linkage). Sums are integers, so that they do not depend on the order of blocks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.compiled import compiled
from sparsem.labels.neighbors import neighbor_slices

Ints = NDArray[np.int64]


class Faces(NamedTuple):
    """Pairs of fragments that touch, ascending by (first, second), first < second.

    Attributes:
        pairs: (n, 2) fragments, numbered from 1.
        counts: (n, 3) common faces whose normal is along z, y and x.
        evidence: (n, 3) sum of the evidence of these faces.
    """

    pairs: Ints
    counts: Ints
    evidence: Ints


NO_FACES = Faces(np.empty((0, 2), np.int64), np.empty((0, 3), np.int64), np.empty((0, 3), np.int64))


def faces_of_block(fragments: NDArray[np.uint32], boundary: NDArray[np.uint8]) -> Faces:
    """Return the faces between the fragments of a block.

    Args:
        fragments: (z, y, x) numbers from 1, 0 for no fragment.
        boundary: (z, y, x) probability of a boundary.
    """
    parts = [NO_FACES]
    for axis in range(3):
        first, second = neighbor_slices(axis)
        numbers = fragments[first], fragments[second]
        boundaries = boundary[first], boundary[second]
        pairs, counts, evidence = faces_between(*numbers, *boundaries, same_numbers=True)
        parts.append(faces_along(axis, pairs, counts, evidence))
    return add_faces(parts)


def faces_between(
    first: NDArray[np.uint32],
    second: NDArray[np.uint32],
    first_boundary: NDArray[np.uint8],
    second_boundary: NDArray[np.uint8],
    same_numbers: bool,
) -> tuple[Ints, Ints, Ints]:
    """Return the faces between the fragments of voxels and those of their neighbors.

    Args:
        first: (z, y, x) fragments of the voxels.
        second: (z, y, x) fragments of their neighbors.
        first_boundary: (z, y, x) probability of a boundary at the voxels.
        second_boundary: (z, y, x) probability of a boundary at the neighbors.
        same_numbers: equal numbers are one fragment; else the two are numbered separately.

    Returns:
        Pairs (n, 2) of fragments, the number (n,) of their common faces, and the sum (n,) of the
        evidence.
    """
    keys, evidence_of_face = _list_faces(
        first, second, first_boundary, second_boundary, same_numbers
    )
    pairs, pair_of_face = np.unique(keys, return_inverse=True)
    counts = np.bincount(pair_of_face, minlength=len(pairs)).astype(np.int64)
    evidence = np.bincount(pair_of_face, evidence_of_face, minlength=len(pairs))
    return _split_keys(pairs), counts, evidence.astype(np.int64)


def faces_along(
    axis: int,
    pairs: Ints,
    counts: Ints,
    evidence: Ints,
) -> Faces:
    """Return faces whose normal is along one axis."""
    faces = Faces(pairs, np.zeros((len(pairs), 3), np.int64), np.zeros((len(pairs), 3), np.int64))
    faces.counts[:, axis] = counts
    faces.evidence[:, axis] = evidence
    return faces


def add_faces(parts: Sequence[Faces]) -> Faces:
    """Return the faces of a whole from those of its parts; a fragment has none with itself."""
    pairs, counts, evidence = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    differ = pairs[:, 0] != pairs[:, 1]
    low, high = np.sort(pairs[differ], axis=1).astype(np.uint64).T
    keys = low << np.uint64(32) | high
    order = np.argsort(keys, kind="stable")
    is_first = np.diff(keys[order], prepend=np.uint64(0)) > 0  # no key is 0
    starts = np.flatnonzero(is_first)
    if not len(starts):
        return NO_FACES
    return Faces(
        _split_keys(keys[order][starts]),
        np.add.reduceat(counts[differ][order], starts),
        np.add.reduceat(evidence[differ][order], starts),
    )


def require_overlap(faces: Faces, sizes: Ints) -> Faces:
    """Return faces of which those between slices also show where fragments do not overlap.

    In slices that are far apart, the fragments of an object overlap almost completely, and a
    neighbor that moves below it overlaps a little. Every pixel of the smaller fragment that the
    larger one does not cover counts as a face with a boundary.

    Args:
        faces: faces between fragments that lie in one slice each.
        sizes: (n,) pixels of the fragments, from number 1 on.
    """
    overlap = faces.counts[:, 0]
    smaller = sizes[faces.pairs - 1].min(axis=1)
    uncovered = np.where(overlap > 0, smaller - overlap, 0)
    missing = np.zeros_like(faces.counts)
    missing[:, 0] = uncovered
    return Faces(faces.pairs, faces.counts + missing, faces.evidence + 255 * missing)


def agglomerate(
    faces: Faces,
    n_fragments: int,
    areas: NDArray[np.float64],
    threshold: float,
) -> Ints:
    """Return the object of every fragment: the smallest number of a fragment in it, (n + 1,).

    Two fragments that are each other's best partner are merged at once, all such pairs of a round
    together. As the mean of merged faces lies between the two means, no later merger could come
    before them: the result is that of merging the best pair of all, one after the other (Murtagh
    1983, reciprocal nearest neighbors).

    Args:
        faces: common faces of fragments 1 to ``n_fragments``.
        n_fragments: number of fragments.
        areas: (3,) area of a face whose normal is along z, y and x.
        threshold: mean evidence, 0 to 255, from which on two fragments stay separate.
    """
    numbers = np.arange(n_fragments + 1)
    object_of = numbers
    while True:
        partner = _best_partners(faces, mean_evidence(faces, areas), n_fragments, threshold)
        is_mutual = (partner > 0) & (partner[partner] == numbers)
        if not is_mutual.any():
            return object_of
        renumbered = np.where(is_mutual, np.minimum(partner, numbers), numbers)
        object_of = renumbered[object_of]
        faces = add_faces([Faces(renumbered[faces.pairs], faces.counts, faces.evidence)])


def _best_partners(
    faces: Faces,
    means: NDArray[np.float64],
    n_fragments: int,
    threshold: float,
) -> Ints:
    """Return the fragment (n + 1,) with which each one has the smallest mean below a threshold.

    Of several ones with the same mean it is the smallest number; 0 if there is none.
    """
    is_weak = means < threshold
    first, second = faces.pairs[is_weak].T
    nodes = np.concatenate([first, second])
    partners = np.concatenate([second, first])
    order = np.lexsort((partners, np.tile(means[is_weak], 2), nodes))
    # Backwards, so that of all partners of a fragment the first one is written last.
    backwards = order[::-1]
    best = np.zeros(n_fragments + 1, np.int64)
    best[nodes[backwards]] = partners[backwards]
    return best


def mean_evidence(faces: Faces, areas: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean evidence (n,) of all pairs, weighted by area."""
    # Sums of three products, written out: a matrix product may add them in any order.
    area = faces.counts[:, 0] * areas[0] + faces.counts[:, 1] * areas[1]
    area = area + faces.counts[:, 2] * areas[2]
    total = faces.evidence[:, 0] * areas[0] + faces.evidence[:, 1] * areas[1]
    total = total + faces.evidence[:, 2] * areas[2]
    return np.asarray(total / area)


def _split_keys(keys: NDArray[np.uint64]) -> Ints:
    """Return pairs (n, 2) of numbers from keys that hold the first one in their upper bits."""
    first = keys >> np.uint64(32)
    second = keys & np.uint64(2**32 - 1)
    return np.stack([first, second], axis=1).astype(np.int64)


@compiled()
def _list_faces(
    first: Any,
    second: Any,
    first_boundary: Any,
    second_boundary: Any,
    same_numbers: Any,
) -> Any:
    """Return the pair and the evidence of every face between different fragments."""
    pairs = np.empty(1024, np.uint64)
    evidence = np.empty(1024, np.uint8)
    count = 0
    depth, rows, columns = first.shape
    for z in range(depth):
        for y in range(rows):
            if count + columns > len(pairs):
                pairs = np.concatenate((pairs, np.empty(count + columns, np.uint64)))
                evidence = np.concatenate((evidence, np.empty(count + columns, np.uint8)))
            for x in range(columns):
                number, near = first[z, y, x], second[z, y, x]
                if number == 0 or near == 0 or (same_numbers and number == near):
                    continue
                pairs[count] = np.uint64(number) << np.uint64(32) | np.uint64(near)
                evidence[count] = max(first_boundary[z, y, x], second_boundary[z, y, x])
                count += 1
    return pairs[:count], evidence[:count]
