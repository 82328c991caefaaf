"""Cells of one slice from the network's output and the optical flow: the methods of Table 2.

Paper 3.3 and 5.5. Probabilities are (h, w) float32 in 0..1, labels (h, w) unsigned integers with 0
for no cell, masks (h, w) boolean; all on the grid of the flow. A pixel that is True in the mask and
that no seed reaches has label 0 in the result: it is part of an island, which tracking joins to its
cell.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import watershed

from sparsem.cells.settings import SeedPoint
from sparsem.cells.warp import compact_labels
from sparsem.labels.distance_transform import distances_inside
from sparsem.labels.overlaps import Overlaps, overlaps

# Label of the unknown pixels of a labeled slice: they occupy their area, but belong to no known
# cell.
UNDECIDED = 2**32 - 1
# Labels from here on are regions of no known cell, each its own; ``number_islands`` renumbers them.
UNASSIGNED = 2**32 - 2**20

Labels = NDArray[Any]
Mask = NDArray[np.bool_]
Probability = NDArray[np.float32]


class Seeds(NamedTuple):
    """One point in every part of every cell.

    Attributes:
        ids: ids of the cells, (n,).
        positions: (n, 2) float64, (y, x) in pixels of the grid.
    """

    ids: Labels
    positions: NDArray[np.float64]

    def pixels(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the rows and the columns of the pixels that the seeds lie in."""
        rows, columns = np.round(self.positions).astype(int).T
        return rows, columns


class Evidence(NamedTuple):
    """Everything that is known about one slice.

    Attributes:
        interior: probability of lying in a cell.
        boundary: probability of lying on the boundary of a cell.
        carried: labels that optical flow carried to this slice.
        seeds: seeds of the cells, carried to this slice as well.
        margin: pixels; boundaries within this distance of the mask's outline do not cut, so that
            thin protrusions are not removed.
    """

    interior: Probability
    boundary: Probability
    carried: Labels
    seeds: Seeds
    margin: float = 0.0


def separate_by_mask(evidence: Evidence) -> Labels:
    """Split the mask of all cells between the seeds."""
    return flood_from_seeds(_cell_mask(evidence), None, evidence.seeds)


def separate_by_boundary(evidence: Evidence) -> Labels:
    """Split the mask, cut along the boundaries that the network predicts."""
    mask = _cell_mask(evidence)
    return flood_from_seeds(mask, mask & (evidence.boundary >= 0.5), evidence.seeds)


def separate_by_flow(evidence: Evidence) -> Labels:
    """Return the carried labels unchanged."""
    return evidence.carried


def separate_by_mask_and_flow(evidence: Evidence) -> Labels:
    """Split the mask, cut along the edges of the carried labels."""
    return flood_from_seeds(_cell_mask(evidence), label_edges(evidence.carried), evidence.seeds)


def separate_selectively(evidence: Evidence) -> Labels:
    """Split the mask, cut along predicted boundaries, and along carried edges where needed.

    Carried edges cut the parts that still hold several seeds after the predicted boundaries have
    cut.
    """
    mask = _cell_mask(evidence)
    cut = (evidence.boundary >= 0.5) & _inner_pixels(mask, evidence.margin)
    parts, count = _connected_parts(mask & ~cut)
    seed_parts = parts[evidence.seeds.pixels()]
    is_crowded = np.bincount(seed_parts, minlength=count + 1) > 1
    is_crowded[0] = False
    crowded = is_crowded[parts]
    inner = _inner_pixels(mask & ~cut, evidence.margin)
    flow_cut = label_edges(evidence.carried) & crowded & inner
    return flood_from_seeds(mask, cut | flow_cut, evidence.seeds)


def separate_per_frame(evidence: Evidence) -> Labels:
    """Correct the labels carried from the previous slice: their cores grow to predicted boundaries.

    Where the network predicts no boundary, the cores meet halfway, at the edge of the carried
    labels. Cores, ``margin`` pixels inside, are used instead of points, so that a branched cell
    keeps its branches (on neurites a mean Dice of 0.78 against 0.57).
    """
    carried, mask = evidence.carried, _cell_mask(evidence)
    core = mask & (_depth((carried > 0) & ~label_edges(carried)) > evidence.margin)
    ids, compact = compact_labels(carried)
    markers = np.where(core, compact, 0).astype(np.int32)
    _mark_seeds(markers, evidence.seeds, ids, compact, mask)
    return np.asarray(ids[watershed(evidence.boundary, markers, mask=mask)])


def _mark_seeds(
    markers: NDArray[np.int32], seeds: Seeds, ids: NDArray[Any], compact: Labels, mask: Mask
) -> None:
    """Write the seeds that lie in their own cell into the markers."""
    y, x = seeds.pixels()
    seed_labels = np.searchsorted(ids, seeds.ids)
    # A centroid may lie in another cell: only seeds in their own cell are used.
    inside = mask[y, x] & (compact[y, x] == seed_labels)
    # A thin cell has no core; its seed is the marker.
    markers[y[inside], x[inside]] = seed_labels[inside]


METHODS: dict[str, Callable[[Evidence], Labels]] = {
    "mask": separate_by_mask,
    "mask_border": separate_by_boundary,
    "flow": separate_by_flow,
    "mask_flow": separate_by_mask_and_flow,
    "selective": separate_selectively,
    "per_frame": separate_per_frame,
}
# Methods whose ids come from the carried labels and not from seeds.
METHODS_WITH_CARRIED_IDS = ("flow", "per_frame")


def separate_cells(method: str, evidence: Evidence, min_iou: float) -> Labels:
    """Separate the cells of a slice by one of ``METHODS``.

    Ids that the carried labels do not confirm are removed (see ``keep_confirmed_ids``).
    """
    labels = METHODS[method](evidence)
    if method in METHODS_WITH_CARRIED_IDS:
        return labels
    return keep_confirmed_ids(labels, evidence.carried, min_iou)


def flood_from_seeds(mask: Mask, cut: Mask | None, seeds: Seeds) -> Labels:
    """Compute the watershed from seeds on the negative distance transform of ``mask & ~cut``.

    A connected part of ``mask`` with a single seed gets the id of that seed; only parts with
    several seeds are flooded.

    Args:
        mask: pixels that get labels.
        cut: pixels along which parts are cut; none if not given.
        seeds: seeds of the cells.
    """
    parts, count = _connected_parts(mask)
    seed_parts = parts[seeds.pixels()]
    n_seeds = np.bincount(seed_parts, minlength=count + 1)
    labels: Labels = _only_owners(seeds.ids, seed_parts, n_seeds)[parts]
    is_contested = n_seeds > 1
    is_contested[0] = False
    if is_contested.any():
        in_contested = is_contested[seed_parts]
        contesting = Seeds(seeds.ids[in_contested], seeds.positions[in_contested])
        depth = _depth(mask if cut is None else mask & ~cut)
        labels += _flood(-depth, contesting, is_contested[parts])
    return labels


def _only_owners(ids: Labels, seed_parts: NDArray[Any], n_seeds: NDArray[np.int64]) -> Labels:
    """Return the id of every part with a single seed, and 0 for the others and for no part."""
    owner = np.zeros(len(n_seeds), ids.dtype)
    owner[seed_parts] = ids
    owner[n_seeds != 1] = 0
    owner[0] = 0
    return owner


def _flood(height: NDArray[np.float32], seeds: Seeds, region: Mask) -> Labels:
    """Return the ids that the watershed spreads from the seeds, in the region only."""
    markers = np.zeros(height.shape, np.int32)
    markers[seeds.pixels()] = np.arange(1, len(seeds.ids) + 1)
    basins = watershed(height, markers, mask=region)
    id_of_basin = np.append(np.zeros(1, seeds.ids.dtype), seeds.ids)
    return np.asarray(id_of_basin[basins])


def keep_confirmed_ids(labels: Labels, carried: Labels, min_iou: float) -> NDArray[np.uint32]:
    """Keep the ids of regions that overlap with the same carried cell by at least ``min_iou``.

    The other regions become unassigned. A seed that drifted into a neighbor cannot give it a wrong
    id then: main cells are recognized by IoU (paper 3.3).
    """
    areas = _areas_by_id(overlaps(labels, carried))
    union_px = areas.first_px + areas.second_px - areas.shared_px
    is_region = (areas.first_px > 0) & (areas.ids > 0)
    is_unconfirmed = (areas.shared_px < min_iou * union_px) & is_region
    confirmed = labels.astype(np.uint32)
    for number, label in enumerate(areas.ids[is_unconfirmed]):
        confirmed[labels == label] = UNASSIGNED + number
    return confirmed


class _AreasById(NamedTuple):
    """Areas of all ids of two label maps, in pixels, (ids,) each.

    Attributes:
        ids: the ids, ascending.
        first_px: area in the first map.
        second_px: area in the second map.
        shared_px: area of the pixels that have the id in both.
    """

    ids: NDArray[Any]
    first_px: NDArray[Any]
    second_px: NDArray[Any]
    shared_px: NDArray[Any]


def _areas_by_id(table: Overlaps) -> _AreasById:
    """Return the areas of all ids from the overlaps of two label maps."""
    labels_of_pairs = np.concatenate([table.first, table.second])
    ids, index = np.unique(labels_of_pairs, return_inverse=True)
    first, second = index[: len(table.first)], index[len(table.first) :]
    first_px = np.bincount(first, weights=table.pixels, minlength=len(ids))
    second_px = np.bincount(second, weights=table.pixels, minlength=len(ids))
    is_same = first == second
    shared_px = np.zeros(len(ids))
    shared_px[first[is_same]] = table.pixels[is_same]
    return _AreasById(ids, first_px, second_px, shared_px)


def place_seeds(labels: Labels, point: SeedPoint = "deepest") -> Seeds:
    """Place a seed in every connected part of every cell.

    Args:
        labels: (h, w).
        point: ``deepest``, the pixel farthest from the edge of its cell; or ``centroid`` as in the
            paper, which may lie outside of the part.
    """
    parts = cc3d.connected_components(labels, connectivity=4)
    part_of_pixel = parts.ravel()
    inside = np.flatnonzero(part_of_pixel)
    if not inside.size:
        return Seeds(np.empty(0, labels.dtype), np.empty((0, 2)))
    if point == "centroid":
        return _seeds_at_centroids(labels, part_of_pixel, inside)
    return _seeds_at_deepest_pixels(labels, part_of_pixel, inside)


def _seeds_at_centroids(
    labels: Labels, part_of_pixel: NDArray[Any], inside: NDArray[np.int64]
) -> Seeds:
    """Return the centroid of every part; ``inside`` are the flat indices of the pixels of parts."""
    width = labels.shape[1]
    n_pixels = np.bincount(part_of_pixel)[1:]
    sums = [
        np.bincount(part_of_pixel[inside], weights=coordinate)[1:]
        for coordinate in (inside // width, inside % width)
    ]
    positions = np.stack(sums, axis=1) / n_pixels[:, None]
    first_pixel = np.zeros(len(n_pixels) + 1, np.int64)
    first_pixel[part_of_pixel[inside[::-1]]] = inside[::-1]
    return Seeds(labels.ravel()[first_pixel[1:]], positions)


def _seeds_at_deepest_pixels(
    labels: Labels, part_of_pixel: NDArray[Any], inside: NDArray[np.int64]
) -> Seeds:
    """Return the deepest pixel of every part; of equally deep ones, the last in the slice."""
    width = labels.shape[1]
    depth = _depth((labels > 0) & ~label_edges(labels)).ravel()
    order = inside[np.argsort(depth[inside], kind="stable")]
    deepest = np.zeros(int(part_of_pixel.max()) + 1, np.int64)
    # Of several pixels of a part the last one written stays, which is the deepest.
    deepest[part_of_pixel[order]] = order
    pixels = deepest[1:]
    positions = np.stack([pixels // width, pixels % width], axis=1).astype(np.float64)
    return Seeds(labels.ravel()[pixels], positions)


def label_edges(labels: Labels) -> Mask:
    """Return the pixels next to a pixel of another label, on both sides of the edge."""
    edge = np.zeros(labels.shape, bool)
    for first, second in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        differ = labels[first] != labels[second]
        edge[first] |= differ
        edge[second] |= differ
    return edge


def _cell_mask(evidence: Evidence) -> Mask:
    return np.asarray(evidence.interior >= 0.5)


def _inner_pixels(mask: Mask, margin: float) -> Mask:
    """Return the pixels farther than ``margin`` from the outline; the slice's border is not one."""
    return np.asarray(_depth(mask, border_is_outside=False) > margin)


def _connected_parts(mask: Mask) -> tuple[NDArray[Any], int]:
    """Number connected parts from 1; neighbors share an edge, as in the watershed."""
    parts, count = cc3d.connected_components(mask.view(np.uint8), connectivity=4, return_N=True)
    return parts, int(count)


def _depth(mask: Mask, border_is_outside: bool = True) -> NDArray[np.float32]:
    """Return the distance to the nearest pixel outside of the mask.

    With ``border_is_outside``, pixels beyond the border of the slice are outside too: a cell that
    the border cuts is then not deepest in the corners of the slice.

    OpenCV's precise transform is not used: its last bits differ from call to call, and they decide
    between equally deep pixels.
    """
    return distances_inside(mask, closed=border_is_outside)
