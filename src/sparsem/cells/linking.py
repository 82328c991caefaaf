"""Regions linked through z: which island continues which, and which cell it belongs to.

Paper 3.3, equation 1. A slice is a label map (y, x): cells under their ids up to ``base``, islands
under larger numbers that have a meaning in this slice only. Pairs of neighboring slices are
compared in any order; one small graph is then resolved once.

An island continues the region below that it overlaps most with, by IoU. An island that leaves a
cell keeps the cell's identity. An island that merges into a cell, or into an island of a cell,
gives this identity to all its earlier slices, unless they have one already. Islands that merge into
each other are one object. An object that never meets a cell gets an identity made of its first
slice and its number in that slice, so that changes in other slices do not change it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.labels.overlaps import Ids, overlaps

Labels = NDArray[Any]


class Links(NamedTuple):
    """Overlapping regions of two neighboring slices of which at least one is an island.

    Ascending by (lower, upper).

    Attributes:
        lower: label in the lower slice, (n,).
        upper: label in the upper slice, (n,).
        pixels: number of pixels in both, (n,) int64.
        continues: whether the upper one is an island and the lower one its best match, (n,) bool.
        merges: whether the lower one is an island and the upper one its best match, (n,) bool.
    """

    lower: Ids
    upper: Ids
    pixels: NDArray[np.int64]
    continues: NDArray[np.bool_]
    merges: NDArray[np.bool_]


class Tracks(NamedTuple):
    """Islands followed through the slices.

    Attributes:
        identity: identity of every track, (t,): the id of a cell, a number above ``base`` for an
            object that never meets a cell, or 0 for an object that is left out.
        of_slice: for every slice the tracks of its islands, (islands,) each, beginning with that of
            the island ``base + 1``.
    """

    identity: Ids
    of_slice: list[NDArray[np.int64]]


def link_slices(lower: Labels, upper: Labels, base: int, window_px: int) -> Links:
    """Compare two neighboring slices.

    Args:
        lower: the slice below, (y, x).
        upper: the slice above, (y, x).
        base: labels above it are islands.
        window_px: the IoU of an island is computed in a square of this edge around it. A cell that
            fills the slice would otherwise never win against a small component.
    """
    table = overlaps(lower, upper)
    are_regions = (table.first > 0) & (table.second > 0)
    has_island = (table.first > base) | (table.second > base)
    rows = are_regions & has_island
    first, second, pixels = table.first[rows], table.second[rows], table.pixels[rows]
    continues = _best_matches(second, first, upper, lower, base, window_px)
    merges = _best_matches(first, second, lower, upper, base, window_px)
    return Links(first, second, pixels, continues, merges)


def _best_matches(
    islands: Ids,
    candidates: Ids,
    island_labels: Labels,
    candidate_labels: Labels,
    base: int,
    window_px: int,
) -> NDArray[np.bool_]:
    """Return which pairs of an island and a candidate are the best match of the island.

    Of equal matches the smallest label wins. An island with a single candidate needs no IoU.

    Args:
        islands: label of every pair in ``island_labels``, (n,).
        candidates: label of every pair in ``candidate_labels``, (n,).
        island_labels: slice of the islands.
        candidate_labels: slice of the candidates.
        base: labels above it are islands.
        window_px: edge of the square in which IoU is computed.
    """
    best = islands > base
    labels, n_pairs = np.unique(islands[best], return_counts=True)
    contested = labels[n_pairs > 1]
    if not contested.size:
        return best
    centers = _box_centers(island_labels, contested)
    for island, (y, x) in zip(contested.tolist(), centers, strict=True):
        window = _window_around(y, x, window_px)
        island_mask = island_labels[window] == island
        rows = np.flatnonzero(islands == island)
        best[rows] = False
        best[_best_row(rows, candidates, island_mask, candidate_labels[window])] = True
    return best


def _window_around(y: int, x: int, edge_px: int) -> tuple[slice, slice]:
    """Return the square around a pixel, cut at the upper and left border."""
    half = edge_px // 2
    return slice(max(0, y - half), y + half), slice(max(0, x - half), x + half)


def _best_row(
    rows: NDArray[np.intp], candidates: Ids, island_mask: NDArray[np.bool_], nearby_labels: Labels
) -> int:
    """Return the row whose candidate has the largest IoU with an island in its window."""
    ious = {}
    for row in rows.tolist():
        candidate = int(candidates[row])
        ious[row] = (-_iou(island_mask, nearby_labels == candidate), candidate)
    best_row: int = min(ious, key=lambda row: ious[row])
    return best_row


def _box_centers(labels: Labels, ids: Ids) -> list[tuple[int, int]]:
    """Return the centers (y, x) of the bounding boxes of some labels.

    Only pixels at changes along a row are examined, and the ends of rows.

    Args:
        labels: (y, x).
        ids: labels in it, ascending.
    """
    width = labels.shape[1]
    pixels = _run_ends(labels)
    pixel_ids = labels.ravel()[pixels]
    is_requested = np.isin(pixel_ids, ids)
    index = np.searchsorted(ids, pixel_ids[is_requested])
    pixels = pixels[is_requested]
    rows = _middles(pixels // width, index, len(ids))
    columns = _middles(pixels % width, index, len(ids))
    return list(zip(rows, columns, strict=True))


def _run_ends(labels: Labels) -> NDArray[np.int64]:
    """Return the flat indices of the first and last pixels of runs of equal labels in rows."""
    height, width = labels.shape
    change = np.flatnonzero(labels[:, 1:] != labels[:, :-1])
    left = change // (width - 1) * width + change % (width - 1) if width > 1 else change
    row_starts = np.arange(height) * width
    return np.concatenate([left, left + 1, row_starts, row_starts + width - 1])


def _middles(coordinate: NDArray[np.int64], index: NDArray[np.int64], count: int) -> list[int]:
    """Return the middle of the range of coordinates with each of ``count`` indices."""
    low = np.full(count, np.iinfo(np.int64).max)
    high = np.full(count, -1)
    np.minimum.at(low, index, coordinate)
    np.maximum.at(high, index, coordinate)
    return [int(middle) for middle in (low + high + 1) // 2]


def _iou(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the intersection over union of two masks, equation 1; 0 if both are empty."""
    union = int(np.count_nonzero(first | second))
    intersection = int(np.count_nonzero(first & second))
    return intersection / union if union else 0.0


def resolve_tracks(links: Sequence[Links], islands: Sequence[int], base: int) -> Tracks:
    """Give every island its track and every track its identity.

    Args:
        links: links of the slices 0 and 1, 1 and 2, ...
        islands: number of islands of each slice.
        base: labels above it are islands.
    """
    forest = _TrackForest()
    of_slice = [forest.add(islands[0])] if len(islands) else []
    for link, count in zip(links, islands[1:], strict=True):
        of_slice.append(_continue_tracks(link, of_slice[-1], count, base, forest))
    for link, (below, above) in zip(links, pairwise(of_slice), strict=True):
        _merge_tracks(link, below, above, base, forest)
    roots = forest.roots()
    cells = np.array(forest.cells, np.int64)[roots]
    unassigned = _unassigned_identities(of_slice, base)[roots]
    return Tracks(np.where(cells > 0, cells, unassigned).astype(np.uint32), of_slice)


class _TrackForest:
    """Union-find structure of tracks, each with the cell that it belongs to.

    Attributes:
        cells: id of the cell of every track, 0 for none; the entry of a root counts.
    """

    def __init__(self) -> None:
        self.cells: list[int] = []
        self._parents: list[int] = []

    def add(self, count: int) -> NDArray[np.int64]:
        """Add tracks that belong to no cell and return their numbers."""
        first = len(self.cells)
        self.cells += [0] * count
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, track: int) -> int:
        """Return the track that stands for all that a track is united with."""
        parents = self._parents
        while parents[track] != track:
            parents[track] = parents[parents[track]]
            track = parents[track]
        return track

    def roots(self) -> NDArray[np.int64]:
        """Return the root of every track."""
        return np.array([self.root(track) for track in range(len(self._parents))], np.int64)

    def assign(self, track: int, cell: int) -> None:
        """Assign a track to a cell, unless it belongs to one already."""
        root = self.root(track)
        self.cells[root] = self.cells[root] or cell

    def unite(self, track: int, other_track: int) -> None:
        """Unite two tracks, unless they belong to two cells; the earlier one is the root."""
        first, second = sorted((self.root(track), self.root(other_track)))
        first_cell, second_cell = self.cells[first], self.cells[second]
        belong_to_two = first_cell and second_cell and first_cell != second_cell
        if first == second or belong_to_two:
            return
        self.cells[first] = first_cell or second_cell
        self._parents[second] = first


def _merge_tracks(
    link: Links,
    below: NDArray[np.int64],
    above: NDArray[np.int64],
    base: int,
    forest: _TrackForest,
) -> None:
    """Assign the tracks of a slice to the cells that they merge into, and unite merging tracks."""
    lower_labels = link.lower[link.merges].tolist()
    upper_labels = link.upper[link.merges].tolist()
    for lower, upper in zip(lower_labels, upper_labels, strict=True):
        track = int(below[lower - base - 1])
        if upper <= base:
            forest.assign(track, upper)
        else:
            forest.unite(track, int(above[upper - base - 1]))


def _continue_tracks(
    link: Links, below: NDArray[np.int64], count: int, base: int, forest: _TrackForest
) -> NDArray[np.int64]:
    """Return the tracks of the islands of a slice: those of their best matches below, or new ones.

    An island that leaves a cell is assigned to it at once.
    """
    tracks = np.full(count, -1, np.int64)
    lower = link.lower[link.continues].astype(np.int64)
    islands = link.upper[link.continues].astype(np.int64) - base - 1
    follows_island = lower > base
    tracks[islands[follows_island]] = below[lower[follows_island] - base - 1]
    new = np.flatnonzero(tracks < 0)
    tracks[new] = forest.add(len(new))
    cells = lower[~follows_island].tolist()
    tracks_in_cells = tracks[islands[~follows_island]].tolist()
    for cell, track in zip(cells, tracks_in_cells, strict=True):
        forest.cells[track] = cell
    return tracks


def _unassigned_identities(of_slice: Sequence[NDArray[np.int64]], base: int) -> NDArray[np.int64]:
    """Return for every track the identity that it has if it meets no cell.

    It is ``base`` + 1 + its first slice times a step + its number in that slice. The step is the
    largest power of ten for which the numbers of all slices fit into 32 bits.

    Raises:
        ValueError: a slice has more islands than the step.
    """
    step = 10 ** int(np.log10((2**32 - 2 - base) / max(1, len(of_slice))))
    last_track = max((int(tracks.max(initial=-1)) for tracks in of_slice), default=-1)
    identity = np.zeros(1 + last_track, np.int64)
    # Backwards, so that the first of several islands of a track counts.
    for z, tracks in reversed(list(enumerate(of_slice))):
        _refuse_many_islands(len(tracks), step, z, base)
        numbers = np.arange(len(tracks))[::-1]
        identity[tracks[::-1]] = base + 1 + z * step + numbers
    return identity


def _refuse_many_islands(n_islands: int, step: int, z: int, base: int) -> None:
    """Raise a ValueError if a slice has more islands than there are numbers for them."""
    if n_islands > step:
        raise ValueError(
            f"the {n_islands} islands of slice {z} need numbers between {base} and 2**32, "
            f"of which {step} are available for a slice; give the cells smaller ids"
        )


def remove_fragments(
    tracks: Tracks, pixels: Sequence[NDArray[np.int64]], base: int, min_voxels: float
) -> tuple[Tracks, list[int]]:
    """Remove small objects that meet no cell.

    Args:
        tracks: result of ``resolve_tracks``.
        pixels: number of pixels of every island, slice by slice.
        base: identities above it are unassigned.
        min_voxels: minimum size of an unassigned object.

    Returns:
        The tracks, of which those of small objects have the identity 0; and the number of voxels of
        each removed object.
    """
    objects, object_of_track = np.unique(tracks.identity, return_inverse=True)
    voxels = np.zeros(len(objects), np.int64)
    for of_slice, island_pixels in zip(tracks.of_slice, pixels, strict=True):
        np.add.at(voxels, object_of_track[of_slice], island_pixels)
    is_small = (objects > base) & (voxels < min_voxels)
    identity = np.where(is_small[object_of_track], 0, tracks.identity).astype(np.uint32)
    return Tracks(identity, tracks.of_slice), voxels[is_small].tolist()


def relabel_islands(regions: Labels, identity: Ids, base: int) -> NDArray[np.uint32]:
    """Return a slice with its islands under their identities.

    Args:
        regions: (y, x).
        identity: identities of the islands ``base + 1``, ``base + 2``, ...
        base: labels above it are islands.
    """
    labels = regions.astype(np.uint32)
    pixels = np.flatnonzero(regions > base)  # few of the many pixels of a slice
    labels.ravel()[pixels] = identity[regions.ravel()[pixels] - base - 1]
    return labels
