"""From the grid of the flow to the pixels of a slice: labels enlarged without steps, limited to the mask, and what is left over.

Labels and masks are (y, x); labels unsigned integers, 0 for no cell.
"""

import cc3d
import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.cells.flow import numbered
from sparsem.cells.separate import NAMELESS, Labels, Mask
from sparsem.labels.overlaps import resample_labels

BORDER_PX = 4  # of a border's pixels join the part beside them; a border is a few pixels wide at the network's scale


def enlarged(labels: Labels, shape: tuple[int, int]) -> Labels:
    """Labels at a finer resolution: of the four nearest grid pixels the label that weighs most, as in linear interpolation.

    Only where the four differ is there anything to weigh; of equal weights the largest label wins.
    """
    if labels.shape == shape:
        return labels
    fine = resample_labels(labels, shape)
    low, high, part = zip(
        *(_neighbors(new, old) for new, old in zip(shape, labels.shape, strict=True)), strict=True
    )
    corners = [(y, x) for y in (low[0], high[0]) for x in (low[1], high[1])]
    mixed = _mixed(labels, low, high)
    rows, columns = np.nonzero(mixed)
    found = [labels[y[rows], x[columns]] for y, x in corners]
    down, right = part[0][rows], part[1][columns]
    weights = ((1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right)
    best, most = np.zeros(len(rows), labels.dtype), np.full(len(rows), -1.0)
    for label in found:
        votes = sum(
            np.where(other == label, weight, 0)
            for other, weight in zip(found, weights, strict=True)
        )
        wins = (votes > most) | ((votes == most) & (label > best))
        best, most = np.where(wins, label, best), np.where(wins, votes, most)
    fine[rows, columns] = best
    return fine


def refined(labels: Labels, mask: Mask) -> Labels:
    """Labels of the grid on the pixels of the mask; its pixels beside a label, as far as a grid pixel reaches, take that label."""
    ids, small = numbered(labels)  # 16 bit from here on: half the memory to go through
    fine = np.where(mask, enlarged(small, (mask.shape[0], mask.shape[1])), 0)
    reach = -(-mask.shape[0] // labels.shape[0])
    return np.asarray(ids[grown(fine, mask, reach) if reach > 1 else fine])


def grown(labels: NDArray[np.uint16], mask: Mask, steps: int) -> NDArray[np.uint16]:
    """Labels spread over pixels of the mask that have none, one pixel a step; the largest of several labels wins."""
    for _ in range(steps):
        wider = cv2.dilate(labels, np.ones((3, 3), np.uint8))
        labels = np.where(mask & (labels == 0), wider, labels).astype(np.uint16)
    return labels


def with_islands(
    labels: Labels, mask: Mask, base: int, least_px: int, border: Mask | None = None
) -> NDArray[np.uint32]:
    """What is in the mask and in no cell, part by part: labels from ``base`` + 1. Parts under ``least_px`` are dropped.

    Args:
        labels: of cells; those from ``NAMELESS`` on are regions without a name, each a part of its own.
        mask: of all cells.
        base: no cell has a larger label.
        least_px: of a part.
        border: where it is True, parts are cut; its pixels then go to the part beside them.
    """
    left = mask & ((labels == 0) | (labels >= NAMELESS))
    regions = np.where(left | (labels >= NAMELESS), 0, labels).astype(np.uint32)
    where = np.flatnonzero(left)  # few, in a slice of many pixels
    if not where.size:
        return regions
    rows = slice(where[0] // left.shape[1], where[-1] // left.shape[1] + 1)
    parts = _parts(labels[rows], left[rows], None if border is None else border[rows])
    parts = parts.ravel()[where - rows.start * left.shape[1]]
    kept = np.bincount(parts, minlength=1) >= max(1, least_px)
    kept[0] = False
    number = np.where(kept, base + np.cumsum(kept), 0).astype(np.uint32)
    regions.ravel()[where] = number[parts]
    return regions


def _parts(labels: Labels, left: Mask, border: Mask | None) -> NDArray[np.uint32]:
    """Connected parts of what is left, across corners too: by label, and cut at the border, whose pixels join a part beside them."""
    kind = np.where(left, np.maximum(labels, 1), 0).astype(
        np.uint32
    )  # 1 is no cell here: cells are not left
    if border is None or not (border & (kind == 1)).any():
        return np.asarray(cc3d.connected_components(kind, connectivity=8), np.uint32)
    inner = cc3d.connected_components(
        np.where(border & (kind == 1), 0, kind), connectivity=8
    ).astype(np.uint32)
    inner = _joined(inner, left & (inner == 0), BORDER_PX)
    alone = cc3d.connected_components((left & (inner == 0)).view(np.uint8), connectivity=8).astype(
        np.uint32
    )  # all border: a thin one
    return np.where(alone > 0, alone + inner.max(), inner).astype(np.uint32)


def _joined(parts: NDArray[np.uint32], loose: Mask, steps: int) -> NDArray[np.uint32]:
    """Loose pixels take the largest number beside them, ``steps`` times; few pixels and any number of parts, unlike ``grown``."""
    padded = np.pad(parts, 1)
    flat, width = padded.ravel(), padded.shape[1]
    where = np.flatnonzero(np.pad(loose, 1))
    around = [dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for _ in range(steps):
        where = where[flat[where] == 0]
        flat[where] = np.max([flat[where + shift] for shift in around], axis=0, initial=0)
    return padded[1:-1, 1:-1]


def _neighbors(
    new: int, old: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """For each of ``new`` pixels the two of ``old`` whose centers are nearest, and how far it is on the way from one to the other."""
    center = (np.arange(new) + 0.5) * old / new - 0.5
    low = np.clip(np.floor(center).astype(int), 0, old - 1)
    high = np.clip(low + 1, 0, old - 1)
    return low, high, np.clip(center - low, 0, 1)


def _mixed(
    labels: Labels, low: tuple[NDArray[np.int64], ...], high: tuple[NDArray[np.int64], ...]
) -> Mask:
    """Fine pixels whose four nearest grid pixels do not have one label; found on the grid, then enlarged."""
    ahead = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    unlike = np.zeros(labels.shape, bool)
    for corner in (ahead[1:, :-1], ahead[:-1, 1:], ahead[1:, 1:]):
        unlike |= corner != labels
    # The four lie at low and low + 1; where low is clipped at the near edge, its own row or column stands for both.
    return np.asarray(unlike[np.ix_(low[0], low[1])])


def filled(regions: NDArray[np.uint32], most_px: int) -> NDArray[np.uint32]:
    """Holes of at most ``most_px`` pixels that one region alone encloses belong to it.

    A network may take a bright organelle for the outside: a hole in the cell. Gaps between cells have several around them and stay,
    and so does what reaches the edge of the slice.
    """
    count, holes, about, _ = cv2.connectedComponentsWithStats(
        (regions == 0).astype(np.uint8), connectivity=4
    )
    left, top, width, height, area = about.T
    small = (
        (area <= most_px)
        & (left > 0)
        & (top > 0)
        & (left + width < regions.shape[1])
        & (top + height < regions.shape[0])
    )
    small[0] = False  # the regions themselves
    low, high = np.full(count, np.iinfo(np.uint32).max, np.uint32), np.zeros(count, np.uint32)
    inside = small[holes]
    for along in (0, 1):
        first, second = (
            tuple(part if axis == along else slice(None) for axis in (0, 1))
            for part in (slice(None, -1), slice(1, None))
        )
        for hole, beside in ((first, second), (second, first)):
            touching = inside[hole] & (regions[beside] > 0)
            parts, ids = holes[hole][touching], regions[beside][touching]
            np.minimum.at(low, parts, ids)
            np.maximum.at(high, parts, ids)
    where = np.flatnonzero((small & (low == high))[holes])  # few, in a slice of many pixels
    regions = regions.copy()
    regions.ravel()[where] = low[holes.ravel()[where]]
    return regions
