"""Labels at full resolution: from the grid of the flow to the pixels of a slice.

Labels are enlarged without stair steps and limited to the mask of all cells; parts of the mask in
no cell become islands. Labels and masks are (y, x); labels unsigned integers, 0 for no cell.
"""

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.cells.separate import UNASSIGNED, Labels, Mask
from sparsem.cells.warp import compact_labels
from sparsem.labels.components import connected_labels, number_runs
from sparsem.labels.overlaps import resample_labels

# Pixels of a boundary that join the part next to them: a boundary is a few pixels wide at the
# network's resolution.
BOUNDARY_PX = 4

# Pixels and their neighbors in the four directions, as slices of an image (y, x).
NEIGHBOR_SIDES: tuple[tuple[Any, Any], ...] = (
    (np.s_[:-1], np.s_[1:]),
    (np.s_[1:], np.s_[:-1]),
    (np.s_[:, :-1], np.s_[:, 1:]),
    (np.s_[:, 1:], np.s_[:, :-1]),
)


class _NearestTwo(NamedTuple):
    """The two coarse pixels with the nearest centers, for every fine pixel along an axis.

    Attributes:
        low: index of the first one, (n,).
        high: index of the second one, (n,).
        fraction: position between their centers, 0 at the first one, 1 at the second one, (n,).
    """

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    fraction: NDArray[np.float64]


def enlarge_labels(labels: Labels, shape: tuple[int, int]) -> Labels:
    """Return labels at a finer resolution.

    Each pixel gets the label that weighs most among its four nearest grid pixels, weighted as in
    linear interpolation; of equal weights the largest label wins. Only pixels whose four neighbors
    differ are weighted.
    """
    if labels.shape == shape:
        return labels
    rows = _nearest_two(shape[0], labels.shape[0])
    columns = _nearest_two(shape[1], labels.shape[1])
    y, x = np.nonzero(_is_mixed(labels, rows, columns))
    corners = _corner_labels(labels, rows, columns, (y, x))
    weights = _corner_weights(rows.fraction[y], columns.fraction[x])
    fine = resample_labels(labels, shape)
    fine[y, x] = _label_of_most_weight(corners, weights)
    return fine


def _corner_labels(
    labels: Labels,
    rows: _NearestTwo,
    columns: _NearestTwo,
    pixels: tuple[NDArray[np.intp], NDArray[np.intp]],
) -> list[Labels]:
    """Return the labels of the four grid pixels next to some pixels, (n,) each."""
    y, x = pixels
    top, bottom = rows.low[y], rows.high[y]
    left, right = columns.low[x], columns.high[x]
    return [labels[top, left], labels[top, right], labels[bottom, left], labels[bottom, right]]


def _corner_weights(
    down: NDArray[np.float64], right: NDArray[np.float64]
) -> list[NDArray[np.float64]]:
    """Return the weights of the four corners in linear interpolation, (n,) each."""
    return [
        (1 - down) * (1 - right),
        (1 - down) * right,
        down * (1 - right),
        down * right,
    ]


def _nearest_two(fine: int, coarse: int) -> _NearestTwo:
    """Return the coarse pixels next to every fine one, of an axis with ``fine`` fine pixels."""
    center = (np.arange(fine) + 0.5) * coarse / fine - 0.5
    low = np.clip(np.floor(center).astype(int), 0, coarse - 1)
    high = np.clip(low + 1, 0, coarse - 1)
    return _NearestTwo(low, high, np.clip(center - low, 0, 1))


def _is_mixed(labels: Labels, rows: _NearestTwo, columns: _NearestTwo) -> Mask:
    """Return the fine pixels whose four nearest grid pixels differ, computed on the grid."""
    padded = np.pad(labels, ((0, 1), (0, 1)), mode="edge")
    differs = np.zeros(labels.shape, bool)
    for neighbor in (padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]):
        differs |= neighbor != labels
    # The four lie at low and low + 1. Where low is clipped at the near border, its own row or
    # column takes the place of both.
    return np.asarray(differs[np.ix_(rows.low, columns.low)])


def _label_of_most_weight(labels: list[Labels], weights: list[NDArray[np.float64]]) -> Labels:
    """Return the label with the largest sum of weights, element by element; all are (n,)."""
    best_label = np.zeros_like(labels[0])
    best_weight = np.full(len(best_label), -1.0)
    for label in labels:
        weight = sum(
            np.where(other_label == label, other_weight, 0)
            for other_label, other_weight in zip(labels, weights, strict=True)
        )
        is_better = (weight > best_weight) | ((weight == best_weight) & (label > best_label))
        best_label = np.where(is_better, label, best_label)
        best_weight = np.where(is_better, weight, best_weight)
    return best_label


def refine_labels(labels: Labels, mask: Mask) -> Labels:
    """Return labels of the grid on the pixels of a mask of full resolution.

    Pixels of the mask within one grid pixel of a label take that label.
    """
    # 16 bit labels from here on: half the memory.
    ids, compact = compact_labels(labels)
    fine = np.where(mask, enlarge_labels(compact, (mask.shape[0], mask.shape[1])), 0)
    reach = -(-mask.shape[0] // labels.shape[0])
    if reach > 1:
        fine = grow_labels(fine, mask, reach)
    return np.asarray(ids[fine])


def grow_labels(labels: NDArray[np.uint16], mask: Mask, steps: int) -> NDArray[np.uint16]:
    """Grow labels into unlabeled pixels of a mask, one pixel a step; the largest label wins."""
    for _ in range(steps):
        dilated = cv2.dilate(labels, np.ones((3, 3), np.uint8))
        labels = np.where(mask & (labels == 0), dilated, labels).astype(np.uint16, copy=False)
    return labels


def number_islands(
    labels: Labels, mask: Mask, base: int, min_px: int, boundary: Mask | None = None
) -> NDArray[np.uint32]:
    """Number the connected parts of the mask that lie in no cell: labels from ``base`` + 1.

    Args:
        labels: labels of cells; those from ``UNASSIGNED`` on are regions of no known cell, each an
            island of its own.
        mask: mask of all cells.
        base: no cell has a larger label.
        min_px: minimum size of an island; smaller ones are removed.
        boundary: where it is True, islands are cut; its pixels then join the island next to them.
    """
    is_unassigned = labels >= UNASSIGNED
    is_island = mask & ((labels == 0) | is_unassigned)
    regions = np.where(is_island | is_unassigned, 0, labels).astype(np.uint32)
    pixels = np.flatnonzero(is_island)  # few of the many pixels of a slice
    if not pixels.size:
        return regions
    rows = _rows_of_pixels(pixels, is_island.shape[1])
    boundary_rows = None if boundary is None else boundary[rows]
    parts = _island_parts(labels[rows], is_island[rows], boundary_rows)
    part_of_pixel = parts.ravel()[pixels - rows.start * is_island.shape[1]]
    regions.ravel()[pixels] = _number_large(part_of_pixel, base, min_px)
    return regions


def _rows_of_pixels(pixels: NDArray[np.int64], width: int) -> slice:
    """Return the rows from the first to the last of some pixels, given as ascending indices."""
    return slice(pixels[0] // width, pixels[-1] // width + 1)


def _number_large(part_of_pixel: NDArray[np.uint32], base: int, min_px: int) -> NDArray[np.uint32]:
    """Return the number of the part of every pixel, 0 where the part is small, (pixels,)."""
    is_large = np.bincount(part_of_pixel, minlength=1) >= max(1, min_px)
    is_large[0] = False
    number = np.where(is_large, base + np.cumsum(is_large), 0).astype(np.uint32)
    return number[part_of_pixel]


def _island_parts(labels: Labels, is_island: Mask, boundary: Mask | None) -> NDArray[np.uint32]:
    """Number the connected parts of islands, separately for each label.

    Pixels that touch at a corner are connected. Parts without a label are cut at the boundary.
    """
    # 1 stands for no label: no pixel of an island has the label of a cell.
    kind = np.maximum(labels, 1).astype(np.uint32, copy=False)
    kind *= is_island
    is_cut = None if boundary is None else boundary & (kind == 1)
    if is_cut is None or not is_cut.any():
        return _components(kind)
    kind[is_cut] = 0
    inner = _join_pixels(_components(kind), is_cut, BOUNDARY_PX)
    # A thin part may consist of boundary only.
    is_thin = is_cut & (inner == 0)
    if is_thin.any():
        thin = _components(is_thin)
        inner[is_thin] = thin[is_thin] + inner.max()
    return inner


def _components(labels: NDArray[Any]) -> NDArray[np.uint32]:
    """Number the components of labels (y, x), in the order of their first pixels."""
    runs = connected_labels(labels[None])
    n_parts = int(runs.labels.max(initial=0))
    return number_runs(runs, np.arange(n_parts + 1, dtype=np.uint32), labels.shape)


def _join_pixels(parts: NDArray[np.uint32], pixels: Mask, steps: int) -> NDArray[np.uint32]:
    """Give pixels the largest number next to them, ``steps`` times.

    Made for few pixels and any number of parts, unlike ``grow_labels``.
    """
    padded = np.pad(parts, 1)
    flat, width = padded.ravel(), padded.shape[1]
    index = np.flatnonzero(np.pad(pixels, 1))
    shifts = [dy * width + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for _ in range(steps):
        index = index[flat[index] == 0]
        flat[index] = np.max([flat[index + shift] for shift in shifts], axis=0, initial=0)
    return padded[1:-1, 1:-1]


def fill_region_holes(regions: NDArray[np.uint32], max_px: int) -> NDArray[np.uint32]:
    """Fill holes of at most ``max_px`` pixels that a single region encloses.

    A network may take a bright organelle for the outside: a hole in the cell. Gaps between cells
    touch several regions and stay; so do holes that reach the border of the slice.
    """
    background = (regions == 0).astype(np.uint8)
    _, holes, statistics, _ = cv2.connectedComponentsWithStats(background, connectivity=4)
    is_small = _is_small_hole(statistics, regions.shape, max_px)
    lowest, highest = _neighbor_ids(regions, holes, is_small)
    is_filled = is_small & (lowest == highest)
    pixels = np.flatnonzero(is_filled[holes])  # few of the many pixels of a slice
    filled = regions.copy()
    filled.ravel()[pixels] = lowest[holes.ravel()[pixels]]
    return filled


def _is_small_hole(
    statistics: NDArray[np.int32], shape: tuple[int, ...], max_px: int
) -> NDArray[np.bool_]:
    """Return which components of the background are small and do not reach the border."""
    left, top, width, height, area = statistics.T
    reaches_border = (
        (left <= 0) | (top <= 0) | (left + width >= shape[1]) | (top + height >= shape[0])
    )
    is_small = (area <= max_px) & ~reaches_border
    is_small[0] = False  # component 0 is the regions
    return np.asarray(is_small)


def _neighbor_ids(
    regions: NDArray[np.uint32], holes: NDArray[np.int32], is_small: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Return the lowest and the highest id next to every small hole, (holes,) each.

    Args:
        regions: ids, (y, x).
        holes: number of the hole of every pixel, (y, x).
        is_small: which holes are small, (holes,).
    """
    lowest = np.full(len(is_small), np.iinfo(np.uint32).max, np.uint32)
    highest = np.zeros(len(is_small), np.uint32)
    in_small = is_small[holes]
    for hole_side, region_side in NEIGHBOR_SIDES:
        touches = in_small[hole_side] & (regions[region_side] > 0)
        touched_holes = holes[hole_side][touches]
        ids = regions[region_side][touches]
        np.minimum.at(lowest, touched_holes, ids)
        np.maximum.at(highest, touched_holes, ids)
    return lowest, highest
