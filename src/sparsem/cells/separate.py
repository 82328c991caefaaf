"""Cells of one slice from what the network sees and what optical flow brings: the ways of Table 2 (paper 3.3 and 5.5).

Probabilities are (h, w) float32 in 0..1, labels (h, w) unsigned integers with 0 for no cell, masks boolean; all on the grid of
the flow. What no seed reaches has label 0 in the result and is True in the mask: an island, which tracking joins to its cell.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import cc3d
import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import watershed

from sparsem.cells.flow import numbered
from sparsem.labels.overlaps import overlaps

NOBODY = (
    2**32 - 1
)  # label of pixels of a labeled slice that nobody decided on: they hold their place, but have no name
NAMELESS = (
    2**32 - 2**20
)  # labels from here on are regions of their own without a name; ``with_islands`` numbers them

Labels = NDArray[Any]
Mask = NDArray[np.bool_]
Probability = NDArray[np.float32]
SeedPoint = Literal["deepest", "centroid"]


class Seeds(NamedTuple):
    """One point in every part of every cell.

    Attributes:
        ids: (n,) of the cells.
        places: (n, 2) float64, (y, x) in pixels of the grid.
    """

    ids: Labels
    places: NDArray[np.float64]


class Evidence(NamedTuple):
    """What is known of one slice.

    Attributes:
        interior: probability of lying in a cell.
        boundary: probability of lying on the border of a cell.
        carried: labels that optical flow brought here.
        seeds: of the cells, brought here too.
        rim: pixels; borders so near to the mask's outline do not cut, so that thin protrusions are not eaten up.
    """

    interior: Probability
    boundary: Probability
    carried: Labels
    seeds: Seeds
    rim: float = 0.0


def by_mask(evidence: Evidence) -> Labels:
    """The mask of all cells, split between the seeds."""
    return flooded(_mask(evidence), None, evidence.seeds)


def by_mask_and_border(evidence: Evidence) -> Labels:
    """The mask, cut along the borders that the network sees."""
    mask = _mask(evidence)
    return flooded(mask, mask & (evidence.boundary >= 0.5), evidence.seeds)


def by_flow(evidence: Evidence) -> Labels:
    """What flow brought, as it is."""
    return evidence.carried


def by_mask_and_flow(evidence: Evidence) -> Labels:
    """The mask, cut along the borders that flow brought."""
    return flooded(_mask(evidence), edges(evidence.carried), evidence.seeds)


def selective(evidence: Evidence) -> Labels:
    """The mask, cut along the network's borders; and where a part then still holds several cells, along those of the flow."""
    mask = _mask(evidence)
    cut = (evidence.boundary >= 0.5) & _inner(mask, evidence.rim)
    parts, count = _parts(mask & ~cut)
    crowded = np.bincount(_at(parts, evidence.seeds.places), minlength=count + 1) > 1
    crowded[0] = False
    more = edges(evidence.carried) & crowded[parts] & _inner(mask & ~cut, evidence.rim)
    return flooded(mask, cut | more, evidence.seeds)


def per_frame(evidence: Evidence) -> Labels:
    """What flow brought of the slice before, mended: the cores of its cells grow to where the network sees borders.

    Where the network sees none, they meet halfway, where flow has the border. Cores, ``rim`` pixels inside, and not points, so
    that a branched cell keeps its branches (on neurites a mean Dice of 0.78 against 0.57).
    """
    carried, mask = evidence.carried, _mask(evidence)
    core = mask & (_depth((carried > 0) & ~edges(carried)) > evidence.rim)
    ids, small = numbered(carried)
    markers = np.where(core, small, 0).astype(np.int32)
    y, x = np.round(evidence.seeds.places).astype(int).T
    own = np.searchsorted(ids, evidence.seeds.ids)
    inside = mask[y, x] & (small[y, x] == own)  # a centroid may lie in another cell
    markers[y[inside], x[inside]] = own[inside]  # a thin cell has no core: its deepest point
    return np.asarray(ids[watershed(evidence.boundary, markers, mask=mask)])


WAYS: dict[str, Callable[[Evidence], Labels]] = {
    "mask": by_mask,
    "mask_border": by_mask_and_border,
    "flow": by_flow,
    "mask_flow": by_mask_and_flow,
    "selective": selective,
    "per_frame": per_frame,
}
CARRIED = ("flow", "per_frame")  # names come from what flow brought, not from seeds


def separated(way: str, evidence: Evidence, least_iou: float) -> Labels:
    """One of the ways, and names that flow does not confirm taken away (see ``faithful``)."""
    labels = WAYS[way](evidence)
    return labels if way in CARRIED else faithful(labels, evidence.carried, least_iou)


def flooded(mask: Mask, cut: Mask | None, seeds: Seeds) -> Labels:
    """Watershed from seeds on the negative distance transform of ``mask & ~cut``, within ``mask``.

    A part of the mask that one seed alone lies in is that cell's; only parts with several are flooded.
    """
    parts, count = _parts(mask)
    where = _at(parts, seeds.places)
    held = np.bincount(where, minlength=count + 1)
    owner = np.zeros(count + 1, seeds.ids.dtype)
    owner[where] = seeds.ids
    owner[held != 1] = owner[0] = 0
    labels: Labels = owner[parts]
    contested = held > 1
    contested[0] = False
    if contested.any():
        among = contested[where]
        markers = np.zeros(mask.shape, np.int32)
        y, x = np.round(seeds.places[among]).astype(int).T
        markers[y, x] = np.arange(1, among.sum() + 1)
        depth = _depth(mask if cut is None else mask & ~cut)
        basins = watershed(-depth, markers, mask=contested[parts])
        labels += np.append(np.zeros(1, labels.dtype), seeds.ids[among])[basins].astype(
            labels.dtype
        )
    return labels


def faithful(labels: Labels, carried: Labels, least_iou: float) -> NDArray[np.uint32]:
    """Regions that overlap with what flow brought of the same cell by at least that IoU keep its name; the others are nameless.

    A seed that drifted into a neighbor cannot give it a wrong name then: main cells are known by IoU (paper 3.3).
    """
    table = overlaps(labels, carried)
    ids, which = np.unique(np.concatenate([table.first, table.second]), return_inverse=True)
    first, second = which[: len(table.first)], which[len(table.first) :]
    ours, theirs = (
        np.bincount(side, weights=table.pixels, minlength=len(ids)) for side in (first, second)
    )
    same = np.zeros(len(ids))
    same[first[first == second]] = table.pixels[first == second]
    unlike = np.flatnonzero((same < least_iou * (ours + theirs - same)) & (ours > 0) & (ids > 0))
    named = labels.astype(np.uint32)
    for number, label in enumerate(ids[unlike]):
        named[labels == label] = NAMELESS + number
    return named


def seeds_of(labels: Labels, point: SeedPoint = "deepest") -> Seeds:
    """A seed in every part of every cell: where it is deepest, or its centroid, as the paper has it (which may lie outside)."""
    parts = cc3d.connected_components(labels, connectivity=4)
    flat = parts.ravel()
    inside = np.flatnonzero(flat)
    if not inside.size:
        return Seeds(np.empty(0, labels.dtype), np.empty((0, 2)))
    width = labels.shape[1]
    if point == "centroid":
        pixels = np.bincount(flat)[1:]
        sums = [
            np.bincount(flat[inside], weights=where)[1:]
            for where in (inside // width, inside % width)
        ]
        places = np.stack(sums, axis=1) / pixels[:, None]
        first = np.zeros(len(pixels) + 1, np.int64)
        first[flat[inside[::-1]]] = inside[::-1]
        return Seeds(labels.ravel()[first[1:]], places)
    depth = _depth((labels > 0) & ~edges(labels)).ravel()
    order = inside[np.argsort(depth[inside], kind="stable")]
    deepest = np.zeros(int(flat.max()) + 1, np.int64)
    deepest[flat[order]] = (
        order  # what is written last stays: the deepest, and of equals the last in the picture
    )
    at = deepest[1:]
    return Seeds(labels.ravel()[at], np.stack([at // width, at % width], axis=1).astype(np.float64))


def edges(labels: Labels) -> Mask:
    """Pixels of cells beside a pixel of another label, on either side of the border."""
    edge = np.zeros(labels.shape, bool)
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        unlike = labels[here] != labels[there]
        edge[here] |= unlike
        edge[there] |= unlike
    return edge


def _mask(evidence: Evidence) -> Mask:
    return np.asarray(evidence.interior >= 0.5)


def _inner(mask: Mask, rim: float) -> Mask:
    """Farther than that from the outline; the edge of the picture is none."""
    return np.asarray(_depth(mask, edge_is_outside=False) > rim)


def _parts(mask: Mask) -> tuple[NDArray[Any], int]:
    """Connected parts, numbered from 1; neighbors share an edge, as in the watershed."""
    parts, count = cc3d.connected_components(mask.view(np.uint8), connectivity=4, return_N=True)
    return parts, int(count)


def _depth(mask: Mask, edge_is_outside: bool = True) -> NDArray[np.float32]:
    """Distance to the nearest pixel outside of the mask, beyond the picture too: what it cuts is not deepest in its corners."""
    outside = (1,) * 4 if edge_is_outside else (0,) * 4
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), *outside, cv2.BORDER_CONSTANT, value=0)
    depth = np.asarray(
        cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE), np.float32
    )
    return depth[1:-1, 1:-1] if edge_is_outside else depth


def _at(picture: NDArray[Any], places: NDArray[np.float64]) -> NDArray[Any]:
    y, x = np.round(places).astype(int).T if len(places) else (np.empty(0, int), np.empty(0, int))
    return np.asarray(picture[y, x])
