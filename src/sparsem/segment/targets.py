"""Training targets of objects that touch.

Cells have an interior and a boundary (paper 3.3); organelles have, in addition to their mask, a
boundary where two of them touch. Labels are (y, x) unsigned integers, 0 outside of all objects.
Targets are uint8: 0, 1, or UNKNOWN.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

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


def boundary_between_objects(
    labels: NDArray[Any], known: NDArray[np.bool_], width_px: float, outlined: bool
) -> NDArray[np.uint8]:
    """Return the target (y, x) of the boundary between the objects of one slice.

    It consists of the pixels from which the second nearest object is no farther than half a width:
    a band along the line where two objects touch, and narrow gaps between them. The outline of an
    object without a neighbor is not part of it.

    Args:
        labels: one number an object.
        known: False where the annotation is undecided; the target is UNKNOWN there.
        width_px: width of the boundary.
        outlined: see ``interior_and_boundary``.
    """
    _, open_ended = _differing_and_open_pairs(labels, known)
    boundary = _distance_to_second(labels, width_px / 2 + 1) <= width_px / 2
    target = boundary.astype(np.uint8)
    is_unknown = ~known
    if not outlined:
        is_unknown = is_unknown | _within_half_width(_mark_pixels(open_ended), width_px)
    target[is_unknown & ~boundary] = UNKNOWN
    return target


def _distance_to_second(labels: NDArray[Any], reach_px: float) -> NDArray[np.float32]:
    """Return the distance of every pixel to the second nearest object, px; at most ``reach_px``.

    Distances are those to the outline of objects; they are 0 within them.
    """
    margin = int(np.ceil(reach_px)) + 1
    nearest = np.full(labels.shape, reach_px, np.float32)
    second = nearest.copy()
    numbers, compact = np.unique(labels, return_inverse=True)
    boxes = find_objects(compact.reshape(labels.shape))
    for number, box in zip(numbers[numbers > 0], boxes[-int((numbers > 0).sum()) :], strict=True):
        area = _widen(box, margin)
        outside = (labels[area] != number).astype(np.uint8)
        distance = cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        distance = np.maximum(distance - 0.5, 0)  # from the center of a pixel to the outline
        second[area] = np.minimum(second[area], np.maximum(nearest[area], distance))
        nearest[area] = np.minimum(nearest[area], distance)
    return second


def _widen(box: tuple[slice, ...], margin: int) -> tuple[slice, ...]:
    """Return a box with a margin on all sides."""
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)


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
