"""Regions through z: which island continues which, and which cell it belongs to (paper 3.3, equation 1).

A slice is a label map (y, x): cells under their ids up to ``base``, islands under numbers above it that mean something in this slice
only. Pairs of neighboring slices are compared in any order; one small graph is then resolved once.

An island goes on from the region below that it overlaps most with, by IoU. One that leaves a cell keeps its identity; one that goes
over into a cell, or into an island of a cell, takes its identity in all slices before, unless it has one already. Islands that go
over into each other are one. What never meets a cell gets an identity of its own, made of its first slice and its number there, so that
nothing that changes in other slices changes it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import Ids, overlaps

Labels = NDArray[Any]


class Links(NamedTuple):
    """Overlapping regions of two neighboring slices of which at least one is an island; ascending by (lower, upper).

    Attributes:
        lower: label in the lower slice, (n,).
        upper: label in the upper slice, (n,).
        pixels: how many they share, (n,) int64.
        continues: the upper one is an island, and the lower one its best match, (n,) bool.
        goes_over: the lower one is an island, and the upper one its best match, (n,) bool.
    """

    lower: Ids
    upper: Ids
    pixels: NDArray[np.int64]
    continues: NDArray[np.bool_]
    goes_over: NDArray[np.bool_]


class Tracks(NamedTuple):
    """Islands as they were followed.

    Attributes:
        identity: of every track, (t,): a cell's id, a number above ``base`` for what never meets a cell, or 0 for what is left out.
        of_slice: for every slice the track of its islands, (islands,) each; island ``base + 1`` is the first.
    """

    identity: Ids
    of_slice: list[NDArray[np.int64]]


def links(lower: Labels, upper: Labels, base: int, window_px: int) -> Links:
    """Compare two neighboring slices.

    Args:
        lower: the slice below.
        upper: the slice above.
        base: labels above it are islands.
        window_px: IoU of an island is taken in a square of this edge around it: a cell that fills the slice would otherwise
            never win against a speck.
    """
    table = overlaps(lower, upper)
    island = (table.first > 0) & (table.second > 0) & ((table.first > base) | (table.second > base))
    first, second, pixels = table.first[island], table.second[island], table.pixels[island]
    continues = _best(second, first, upper, lower, base, window_px)
    goes_over = _best(first, second, lower, upper, base, window_px)
    return Links(first, second, pixels, continues, goes_over)


def _best(
    islands: Ids, others: Ids, of: Labels, among: Labels, base: int, window_px: int
) -> NDArray[np.bool_]:
    """Which of the pairs is the best match of its island; of equal ones the smallest label. What has no rival needs no IoU."""
    best = islands > base
    label, pairs = np.unique(islands[best], return_counts=True)
    contested = label[pairs > 1]
    if not contested.size:
        return best
    middles = _middles(of, contested)
    for island, middle in zip(contested.tolist(), middles, strict=True):
        rows = np.flatnonzero(islands == island)
        near = tuple(slice(max(0, one - window_px // 2), one + window_px // 2) for one in middle)
        ours, theirs = of[near] == island, among[near]
        iou = [_iou(ours, theirs == other) for other in others[rows].tolist()]
        winner = min(range(len(rows)), key=lambda row: (-iou[row], int(others[rows[row]])))
        best[rows] = False
        best[rows[winner]] = True
    return best


def _middles(labels: Labels, chosen: Ids) -> list[list[int]]:
    """(y, x) of the middle of the bounding boxes of some labels, ascending; only pixels beside another label are looked at."""
    height, width = labels.shape
    change = np.flatnonzero(labels[:, 1:] != labels[:, :-1])
    left = change // (width - 1) * width + change % (width - 1) if width > 1 else change
    ends = np.arange(height) * width
    pixels = np.concatenate([left, left + 1, ends, ends + width - 1])
    names = labels.ravel()[pixels]
    ours = np.isin(names, chosen)
    which, pixels = np.searchsorted(chosen, names[ours]), pixels[ours]
    middles = []
    for side in (pixels // width, pixels % width):
        low, high = np.full(len(chosen), height * width), np.full(len(chosen), -1)
        np.minimum.at(low, which, side)
        np.maximum.at(high, which, side)
        middles.append((low + high + 1) // 2)
    return [[int(y), int(x)] for y, x in zip(*middles, strict=True)]


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Equation 1."""
    either = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / either if either else 0.0


def resolve(pairs: Sequence[Links], islands: Sequence[int], base: int) -> Tracks:
    """Give every island its track and every track its identity.

    Args:
        pairs: links of the slices 0 and 1, 1 and 2, ...
        islands: how many each slice has.
        base: labels above it are islands.
    """
    names: list[int] = []  # of a track: the cell that it left, 0 for none
    of_slice = [_fresh(names, islands[0])] if len(islands) else []
    for link, count in zip(pairs, islands[1:], strict=True):
        of_slice.append(_continued(link, of_slice[-1], count, base, names))
    roots = list(range(len(names)))
    for z, link in enumerate(pairs):
        for lower, upper in zip(
            link.lower[link.goes_over].tolist(), link.upper[link.goes_over].tolist(), strict=True
        ):
            one = _root(roots, int(of_slice[z][lower - base - 1]))
            if upper <= base:
                names[one] = names[one] or upper
            else:
                _unite(roots, names, one, _root(roots, int(of_slice[z + 1][upper - base - 1])))
    heads = np.array([_root(roots, track) for track in range(len(roots))], np.int64)
    cells = np.array(names, np.int64)[heads]
    return Tracks(
        np.where(cells > 0, cells, _unassigned(of_slice, base)[heads]).astype(np.uint32), of_slice
    )


def _fresh(names: list[int], count: int) -> NDArray[np.int64]:
    names += [0] * count
    return np.arange(len(names) - count, len(names))


def _continued(
    link: Links, below: NDArray[np.int64], count: int, base: int, names: list[int]
) -> NDArray[np.int64]:
    """Tracks of the islands of a slice: those of their best matches below, or new ones; who leaves a cell has its name at once."""
    tracks = np.full(count, -1, np.int64)
    lower, upper = (
        link.lower[link.continues].astype(np.int64),
        link.upper[link.continues].astype(np.int64) - base - 1,
    )
    follows = lower > base
    tracks[upper[follows]] = below[lower[follows] - base - 1]
    new = np.flatnonzero(tracks < 0)
    tracks[new] = _fresh(names, len(new))
    for cell, island in zip(lower[~follows].tolist(), upper[~follows].tolist(), strict=True):
        names[int(tracks[island])] = cell
    return tracks


def _root(roots: list[int], track: int) -> int:
    while roots[track] != track:
        roots[track] = roots[roots[track]]
        track = roots[track]
    return track


def _unite(roots: list[int], names: list[int], one: int, other: int) -> None:
    """Two tracks that go over into each other are one, unless they belong to two cells; the earlier stands for both."""
    if one == other or (names[one] and names[other] and names[one] != names[other]):
        return
    first, second = sorted((one, other))
    names[first] = names[first] or names[second]
    roots[second] = first


def _unassigned(of_slice: Sequence[NDArray[np.int64]], base: int) -> NDArray[np.int64]:
    """Return for every track the identity that it has if it meets no cell: ``base`` + 1 + its first slice times a step + its number there.

    The step is the largest power of ten for which all slices find numbers in 32 bits.

    Raises:
        ValueError: a slice has more islands than the step.
    """
    step = 10 ** int(np.log10((2**32 - 2 - base) / max(1, len(of_slice))))
    identity = np.zeros(
        1 + max((int(tracks.max(initial=-1)) for tracks in of_slice), default=-1), np.int64
    )
    for z in range(len(of_slice) - 1, -1, -1):
        tracks = of_slice[z]
        if len(tracks) > step:
            raise ValueError(
                f"{len(tracks)} islands of slice {z} do not find numbers above {base} in 32 bits; renumber the cells"
            )
        identity[tracks[::-1]] = (
            base + 1 + z * step + np.arange(len(tracks))[::-1]
        )  # of several islands the first counts
    return identity


def without_fragments(
    tracks: Tracks, pixels: Sequence[NDArray[np.int64]], base: int, min_voxels: float
) -> tuple[Tracks, list[int]]:
    """Leave out what meets no cell and is small.

    Args:
        tracks: what ``resolve`` found.
        pixels: of every island, slice by slice.
        base: identities above it are unassigned.
        min_voxels: of the smallest unassigned object that stays.

    Returns:
        The tracks, of which those of small objects have the identity 0; and the voxels of each object that was left out.
    """
    objects, which = np.unique(tracks.identity, return_inverse=True)
    voxels = np.zeros(len(objects), np.int64)
    for of_slice, islands in zip(tracks.of_slice, pixels, strict=True):
        np.add.at(voxels, which[of_slice], islands)
    is_small = (objects > base) & (voxels < min_voxels)
    identity = np.where(is_small[which], 0, tracks.identity).astype(np.uint32)
    return Tracks(identity, tracks.of_slice), voxels[is_small].tolist()


def renamed(regions: Labels, identity: Ids, base: int) -> NDArray[np.uint32]:
    """A slice with its islands under their identities; ``identity`` is that of island ``base + 1``, ``base + 2``, ..."""
    named = regions.astype(np.uint32)
    where = np.flatnonzero(regions > base)  # few, in a slice of many pixels
    named.ravel()[where] = identity[regions.ravel()[where] - base - 1]
    return named
