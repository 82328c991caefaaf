"""What a network learns of cells that touch: where they are, and where they border on each other (paper 3.3).

Labels are (y, x) unsigned integers, 0 outside of all cells; targets (2, y, x) uint8: 0, 1, or UNKNOWN.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import UNKNOWN
from sparsem.labels.overlaps import resample_labels
from sparsem.segment.tiles import scaled_shape


def shrink_labels(labels: NDArray[Any], factors: tuple[float, float]) -> NDArray[Any]:
    """Labels at the network's scale: the one in the middle of every pixel; an id is never interpolated."""
    return resample_labels(labels, scaled_shape((labels.shape[0], labels.shape[1]), factors))


def interior_and_boundary(
    labels: NDArray[Any], known: NDArray[np.bool_], width_px: float, outlined: bool
) -> NDArray[np.uint8]:
    """The two targets of one slice of cells.

    Args:
        labels: one id a cell.
        known: False where nobody decided. Neither target says anything there, so that neighbors which nobody annotated are
            not taught to be background.
        width_px: of the boundary, half of it on either side of the border.
        outlined: where a cell ends at pixels that are not known it has been outlined there: its border is taught. Otherwise
            the border may be anywhere beyond, and the boundary is not known within half a width of it.
    """
    edge, open_end = (_beside(pairs) for pairs in _unlike(labels, known))
    if outlined:
        edge |= open_end
    boundary = _near(edge, width_px)
    unsure = ~known if outlined else ~known | _near(open_end, width_px)
    target = np.stack([labels > 0, boundary]).astype(np.uint8)
    target[0][~known] = UNKNOWN
    target[1][unsure & ~boundary] = UNKNOWN
    return target


Pairs = tuple[
    NDArray[np.bool_], NDArray[np.bool_]
]  # (y - 1, x) of vertical and (y, x - 1) of horizontal neighbors


def _unlike(labels: NDArray[Any], known: NDArray[np.bool_]) -> tuple[Pairs, Pairs]:
    """Neighbors that are known and unlike; neighbors of which one is a known cell and the other is not known."""
    cell = known & (labels > 0)
    unlike, ends = [], []
    for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        unlike.append((labels[here] != labels[there]) & known[here] & known[there])
        ends.append((cell[here] & ~known[there]) | (cell[there] & ~known[here]))
    return (unlike[0], unlike[1]), (ends[0], ends[1])


def _beside(pairs: Pairs) -> NDArray[np.bool_]:
    """The pixels of these pairs."""
    vertical, horizontal = pairs
    marked = np.zeros((vertical.shape[0] + 1, vertical.shape[1]), bool)
    marked[1:] |= vertical
    marked[:-1] |= vertical
    marked[:, 1:] |= horizontal
    marked[:, :-1] |= horizontal
    return marked


def _near(edge: NDArray[np.bool_], width_px: float) -> NDArray[np.bool_]:
    """Within half a width of a border; the center of a pixel beside it is half a pixel away."""
    if not edge.any():
        return edge
    distance = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance + 0.5 <= width_px / 2)


def outlines_and_distances(targets: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What networks with several heads learn beside structures: their outlines, then how deep inside of them a pixel lies, 0..1.

    Args:
        targets: (B, C, S, S) uint8: 0, 1, or UNKNOWN, which counts as outside here.

    Returns:
        (B, 2 C, S, S): outlines of three pixels; distances to the nearest pixel outside, over the largest of the tile (Diakogiannis et al.
        2020).
    """
    count, structures = targets.shape[:2]
    out = np.zeros((count, 2 * structures, *targets.shape[2:]), np.float32)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    for target, made in zip(targets, out, strict=True):
        for place, mask in enumerate((target == 1).astype(np.uint8)):
            if mask.any() and not mask.all():
                made[place] = cv2.dilate(
                    cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, cross) & mask, cross
                )
                depth = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                made[structures + place] = depth / depth.max()
            elif mask.any():
                made[structures + place] = 1
    return out
