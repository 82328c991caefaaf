"""Training targets of touching cells: their interior, and the boundary between them (paper 3.3).

Labels are (y, x) unsigned integers, 0 outside of all cells. Targets are (2, y, x) uint8: 0, 1, or
UNKNOWN.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.labels.overlaps import resample_labels
from sparsem.segment.tiles import scaled_shape

# Marks at pairs of adjacent pixels: (y - 1, x) of vertical and (y, x - 1) of horizontal pairs.
Pairs = tuple[NDArray[np.bool_], NDArray[np.bool_]]

# The second and the first pixels of all such pairs, as slices of an image.
VERTICAL = (np.s_[1:], np.s_[:-1])
HORIZONTAL = (np.s_[:, 1:], np.s_[:, :-1])


def shrink_labels(labels: NDArray[Any], factors: tuple[float, float]) -> NDArray[Any]:
    """Return labels at the network's scale: the label in the middle of every pixel.

    Ids are never interpolated.
    """
    return resample_labels(labels, scaled_shape((labels.shape[0], labels.shape[1]), factors))


def interior_and_boundary(
    labels: NDArray[Any], known: NDArray[np.bool_], width_px: float, outlined: bool
) -> NDArray[np.uint8]:
    """Return the two targets of one slice of cells.

    Args:
        labels: one id a cell.
        known: False where the annotation is undecided. Both targets are UNKNOWN there, so that
            adjacent cells without annotation are not trained as background.
        width_px: width of the boundary, half of it on either side of the line between two cells.
        outlined: a cell that ends at pixels that are not known was outlined there, so that its
            boundary is known. Otherwise it may end anywhere beyond, and the boundary is UNKNOWN
            within half a width of it.
    """
    differing, open_ended = _differing_and_open_pairs(labels, known)
    edge = _mark_pixels(differing)
    open_edge = _mark_pixels(open_ended)
    if outlined:
        edge |= open_edge
        is_unknown = ~known
    else:
        is_unknown = ~known | _within_half_width(open_edge, width_px)
    boundary = _within_half_width(edge, width_px)
    target = np.stack([labels > 0, boundary]).astype(np.uint8)
    target[0][~known] = UNKNOWN
    target[1][is_unknown & ~boundary] = UNKNOWN
    return target


def _differing_and_open_pairs(
    labels: NDArray[Any], known: NDArray[np.bool_]
) -> tuple[Pairs, Pairs]:
    """Return the pairs of known pixels with different labels, and the open ends of cells.

    At an open end one pixel is a known cell and the other one is not known.
    """
    is_cell = known & (labels > 0)
    differing = []
    open_ended = []
    for second, first in (VERTICAL, HORIZONTAL):
        is_different = labels[second] != labels[first]
        differing.append(is_different & known[second] & known[first])
        open_ended.append(_is_open_end(is_cell, known, second, first))
    return (differing[0], differing[1]), (open_ended[0], open_ended[1])


def _is_open_end(
    is_cell: NDArray[np.bool_], known: NDArray[np.bool_], second: Any, first: Any
) -> NDArray[np.bool_]:
    """Return the pairs of which one pixel is a cell and the other one is not known."""
    second_is_open = is_cell[second] & ~known[first]
    first_is_open = is_cell[first] & ~known[second]
    return np.asarray(second_is_open | first_is_open)


def _mark_pixels(pairs: Pairs) -> NDArray[np.bool_]:
    """Return a mask (y, x) of both pixels of every marked pair."""
    vertical, horizontal = pairs
    marked = np.zeros((vertical.shape[0] + 1, vertical.shape[1]), bool)
    marked[1:] |= vertical
    marked[:-1] |= vertical
    marked[:, 1:] |= horizontal
    marked[:, :-1] |= horizontal
    return marked


def _within_half_width(edge: NDArray[np.bool_], width_px: float) -> NDArray[np.bool_]:
    """Return the pixels within half a width of a line between pixels.

    ``edge`` marks the pixels at the line, whose centers are half a pixel away from it.
    """
    if not edge.any():
        return edge
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance + 0.5 <= width_px / 2)


def outlines_and_distances(targets: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the additional targets of networks with several heads (Diakogiannis et al. 2020).

    Args:
        targets: (B, C, S, S) uint8: 0, 1, or UNKNOWN, which counts as outside here.

    Returns:
        (B, 2 C, S, S) in 0..1: first the outlines of the structures, three pixels wide; then the
        distances to the nearest pixel outside, divided by the maximum of the tile.
    """
    n_tiles, n_structures = targets.shape[:2]
    out = np.zeros((n_tiles, 2 * n_structures, *targets.shape[2:]), np.float32)
    for target, out_of_tile in zip(targets, out, strict=True):
        masks = (target == 1).astype(np.uint8)
        outlines, distances = out_of_tile[:n_structures], out_of_tile[n_structures:]
        for mask, outline, distance in zip(masks, outlines, distances, strict=True):
            if mask.all():
                distance[:] = 1
            elif mask.any():
                outline[:], distance[:] = _outline_and_distance(mask)
    return out


def _outline_and_distance(mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the outline of a mask, and the distance to its outside divided by the maximum."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    inner_edge = cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, cross) & mask
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return cv2.dilate(inner_edge, cross), distance / distance.max()
