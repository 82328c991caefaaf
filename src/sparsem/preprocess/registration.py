"""Registration of two slices (Thevenaz et al. 1998; Baker & Matthews 2004).

Slices are (y, x) of any real dtype. A motion leads from a pixel of the fixed slice to the pixel of
the moving slice that shows the same (see ``store.transforms``). Slices are compared by their fine
detail (see ``preprocess.detail``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from sparsem.preprocess.detail import Detail, Image
from sparsem.preprocess.settings import MotionKind
from sparsem.preprocess.tile_sums import TILE, tile_sums
from sparsem.store.transforms import UNMOVED, Motion, compose, invert, round_motion

Floats = NDArray[np.float64]

MIN_SHARED_SIMILARITY = 0.15  # detail of less similarity has nothing in common
GRAIN_PX = 25.0  # pixels of the band of detail that are not independent of each other
MIN_OVERLAP = 0.15  # fraction of two slices that must overlap
MAX_STEPS = 20  # of Gauss-Newton on a level
CONVERGED_PX = 0.003  # a step of Gauss-Newton below which a level has converged
REWEIGHTINGS = 3  # in one step of Gauss-Newton; the next step continues with the weights
MIN_SCALE_PX = 0.01  # of the reweighting
MANY_TILES = 2500  # with fewer tiles, the tiles that agree with most are hard to identify

# Rows: the parts of which a small motion may be made. Columns: y, x and 1 of the first row of its
# matrix, and of the second.
BASIS: dict[MotionKind, Floats] = {
    "translation": np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], float),
    "rigid": np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, -1, 0, 1, 0, 0]], float),
    "affine": np.eye(6),
}


@dataclass(frozen=True)
class Registration:
    """The motion that brings one slice onto another.

    Attributes:
        motion: (2, 3), in pixels of the slices, from the fixed slice to the moving one.
        similarity: correlation of their detail where they overlap, -1 to 1; 0 where it is no more
            than chance.
        overlap: fraction of the fixed slice that the moving one covers, 0 to 1.
    """

    motion: Motion
    similarity: float
    overlap: float


class _Estimate(NamedTuple):
    """A motion in pixels of the finest level, and how well the slices agree under it."""

    motion: Motion
    similarity: float
    overlap: float


def register(
    fixed: Detail, moving: Detail, motion_kind: MotionKind = "translation"
) -> Registration:
    """Return the motion between two slices of one shape, whatever its size.

    The shift under which coarse images are most similar is refined by Gauss-Newton from scale to
    scale (inverse compositional; Baker & Matthews 2004), down to the finest scale at which the
    slices have detail in common.

    Args:
        fixed: detail of one slice.
        moving: detail of the other slice.
        motion_kind: the motions that are allowed.
    """
    motion, similarity, overlap = _estimate_motion(fixed, moving, motion_kind)
    if similarity < _chance_similarity(overlap * fixed.levels[0].size):
        similarity = 0.0
    motion = round_motion(_rescale(motion, fixed.factor))
    return Registration(motion, round(similarity, 6), round(overlap, 6))


def _estimate_motion(fixed: Detail, moving: Detail, motion_kind: MotionKind) -> _Estimate:
    """Return the estimate at the finest scale at which the slices have detail in common."""
    reliable: _Estimate | None = None
    latest = _Estimate(_first_motion(fixed, moving), 0.0, 0.0)
    for level in range(min(fixed.outline_level, len(fixed.levels) - 1), -1, -1):
        fixed_level = fixed.levels[level]
        latest = _refine(fixed_level, moving.levels[level], latest.motion, motion_kind, 2.0**level)
        if latest.similarity >= _shared_similarity(latest.overlap * fixed_level.size):
            reliable = latest
        elif reliable is not None:
            break  # sections far apart share no fine detail: the estimate of coarser detail holds
    return reliable or latest


def _first_motion(fixed: Detail, moving: Detail) -> Motion:
    """Return the shift of coarse images as a motion in pixels of the finest level."""
    y, x = coarse_shift(fixed.outline, moving.outline)
    motion = UNMOVED.copy()
    motion[:, 2] = np.array([y, x]) * 2.0**fixed.outline_level
    return motion


def _shared_similarity(pixels: float) -> float:
    """Return the similarity from which detail of so many pixels is refined at a finer scale."""
    return max(MIN_SHARED_SIMILARITY, _chance_similarity(pixels))


def _chance_similarity(pixels: float) -> float:
    """Return a similarity that detail of so many pixels does not reach by chance (4 sigma)."""
    return 4 * float(np.sqrt(GRAIN_PX / max(pixels, 1.0)))


def _rescale(motion: Motion, factor: float) -> Motion:
    """Return the same motion in pixels that are ``factor`` times smaller.

    Centers of pixels lie at whole numbers.
    """
    scaled = motion.copy()
    center = (factor - 1) / 2  # of a large pixel, in small ones
    scaled[:, 2] = motion[:, 2] * factor + center - motion[:, :2] @ np.array([center, center])
    return scaled


def coarse_shift(fixed: Image, moving: Image) -> tuple[int, int]:
    """Return the whole-pixel shift (y, x) under which two images of one shape are most similar.

    Of all shifts with sufficient overlap, the normalized cross-correlation of what overlaps
    (Padfield 2012, with rectangular masks) times the square root of the overlap is largest: small
    overlaps are more often similar by chance.
    """
    similarity, overlap = shift_correlations(fixed, moving)
    score = np.where(overlap >= MIN_OVERLAP, similarity * np.sqrt(overlap), -np.inf)
    y, x = np.unravel_index(int(score.argmax()), score.shape)
    return int(y) - fixed.shape[0] + 1, int(x) - fixed.shape[1] + 1


def shift_correlations(fixed: Image, moving: Image) -> tuple[Floats, Floats]:
    """Return the correlation of what overlaps, for every shift of two images (h, w).

    Returns:
        (2 h - 1, 2 w - 1) each, zero shift in the center: correlation coefficients, and the
        fraction of the image that overlaps.
    """
    convolve = scipy.signal.fftconvolve
    fixed_values = _centered(fixed)
    moving_values = _centered(moving)
    # With a shift of s, the fixed image from -s on overlaps the moving one from s on; correlation
    # with ones sums over the overlap.
    flipped = fixed_values[::-1, ::-1]
    ones = np.ones(fixed_values.shape)
    products = convolve(moving_values, flipped)
    counts = np.rint(convolve(ones, ones))
    fixed_sum = convolve(ones, flipped)
    moving_sum = convolve(moving_values, ones)
    covariance = products - fixed_sum * moving_sum / counts
    fixed_variance = _squared_deviation(convolve(ones, flipped**2), fixed_sum, counts)
    moving_variance = _squared_deviation(convolve(moving_values**2, ones), moving_sum, counts)
    total_variance = float((fixed_values**2).sum() * (moving_values**2).sum())
    floor = 1e-9 * total_variance + 1e-30
    correlations = covariance / np.sqrt(fixed_variance * moving_variance + floor)
    return np.clip(correlations, -1, 1), counts / fixed_values.size


def _centered(image: Image) -> Floats:
    """Return an image less its mean, in double precision."""
    return image.astype(np.float64) - float(image.mean())


def _squared_deviation(squares: Floats, sums: Floats, counts: Floats) -> Floats:
    """Return the sum of squared deviations from the mean, from sums over so many pixels."""
    return np.maximum(squares - sums**2 / counts, 0)


def _refine(
    fixed: Image, moving: Image, motion: Motion, motion_kind: MotionKind, scale: float
) -> _Estimate:
    """Refine a motion by Gauss-Newton on one level.

    Args:
        fixed: level of the fixed slice.
        moving: level of the moving slice.
        motion: in pixels of the finest level, as the result is.
        motion_kind: the motions that are allowed.
        scale: edge of a pixel of the level, in pixels of the finest one.
    """
    level_motion = _rescale(motion, 1 / scale)
    reach = max(fixed.shape) / 2
    tile_motions = _tile_motions(fixed.shape, reach) @ BASIS[motion_kind].T  # (tiles, 2, parts)
    similarity = overlap = 0.0
    agreement = np.ones(len(tile_motions))
    for number in range(MAX_STEPS + 1):
        hessians, gradients, sums, counts = tile_sums(fixed, moving, level_motion)
        overlap = float(counts.sum()) / fixed.size
        similarity = _correlation(sums)
        if number == MAX_STEPS or overlap < MIN_OVERLAP / 2:
            break
        step, agreement = _common_step(
            hessians, gradients, tile_motions, _tile_weights(sums), agreement
        )
        level_motion = _compose(level_motion, step, motion_kind, fixed.shape, reach)
        if float(np.abs(step).max()) < CONVERGED_PX:
            break
    return _Estimate(_rescale(level_motion, scale), similarity, overlap)


def _correlation(sums: Floats) -> float:
    """Return the correlation of two slices from the sums of their tiles (see ``tile_sums``)."""
    fm, ff, mm = sums.T
    return float(fm.sum() / np.sqrt(ff.sum() * mm.sum() + 1e-12))


def _tile_weights(sums: Floats) -> Floats:
    """Return (tiles,) weights; tiles that are not similar, resin above all, get no weight."""
    fm, ff, mm = sums.T
    weights: Floats = np.clip(fm / np.sqrt(ff * mm + 1e-12), 0, 1) ** 2
    return weights


def _tile_motions(shape: Sequence[int], reach: float) -> Floats:
    """Return by how much the center of each tile moves with each part of an affine motion.

    Args:
        shape: (y, x) of the slice, px.
        reach: distance from the center of the slice at which linear parts move by one pixel.

    Returns:
        (tiles, 2, 6): movement in y and x with each of the six entries of the matrix.
    """
    centers = [_tile_centers(length) for length in shape]
    y, x = np.meshgrid(*centers, indexing="ij")
    position = np.stack([y.ravel() / reach, x.ravel() / reach, np.ones(y.size)], axis=-1)
    zeros = np.zeros_like(position)
    movement_y = np.concatenate([position, zeros], axis=-1)
    movement_x = np.concatenate([zeros, position], axis=-1)
    return np.stack([movement_y, movement_x], axis=1)


def _tile_centers(length: int) -> Floats:
    """Return where the centers of tiles lie along an axis, from the middle of the slice."""
    padded_length = -(-length // TILE) * TILE
    return np.arange(TILE / 2, padded_length, TILE) - length / 2


def _common_step(
    hessians: Floats,
    gradients: Floats,
    tile_motions: Floats,
    tile_weights: Floats,
    agreement: Floats,
) -> tuple[Floats, Floats]:
    """Return the small motion that most tiles agree on, by reweighted least squares over tiles.

    Geman-McClure weights let tiles that move differently count less with every iteration. The scale
    of the weights is the median distance of a tile's own motion from the common one, and is wider
    where few tiles have detail: of few tiles, some agree by chance (FIB-25, 170 tiles: 0.7 px RMS
    over 250 slices, compared with 0.4).

    Args:
        hessians: (tiles, 2, 2), see ``tile_sums``.
        gradients: (tiles, 2).
        tile_motions: (tiles, 2, parts) movement of each tile with each part of the motion.
        tile_weights: (tiles,) 0 to 1.
        agreement: (tiles,) of the step before, 0 to 1.

    Returns:
        The motion (parts,), and how far each tile agrees with it, with which the next step begins.
    """
    own_motions = _own_motions(hessians, gradients)
    strength = tile_weights * np.trace(hessians, axis1=1, axis2=2)
    width = _scale_width(strength)
    step = np.zeros(tile_motions.shape[-1])
    for _ in range(REWEIGHTINGS):
        step = _least_squares_step(hessians, gradients, tile_motions, tile_weights * agreement)
        distance = np.linalg.norm(own_motions - tile_motions @ step, axis=1)
        scale = max(width * _weighted_median(distance, strength), MIN_SCALE_PX)
        agreement = 1 / (1 + (distance / scale) ** 2) ** 2
    return step, agreement


def _own_motions(hessians: Floats, gradients: Floats) -> Floats:
    """Return (tiles, 2) px by which each tile moves by itself."""
    regularized = hessians + 1e-3 * np.eye(2)
    return np.asarray(np.linalg.solve(regularized, gradients[..., None])[..., 0])


def _scale_width(strength: Floats) -> float:
    """Return the factor by which the scale is wider where few tiles have detail."""
    effective_tiles = float(strength.sum() ** 2 / max(float((strength**2).sum()), 1e-12))
    return max(1.0, float(np.sqrt(MANY_TILES / max(effective_tiles, 1e-12))))


def _least_squares_step(
    hessians: Floats, gradients: Floats, tile_motions: Floats, weights: Floats
) -> Floats:
    """Return the small motion (parts,) that fits all tiles best, with weights (tiles,)."""
    weighted = np.swapaxes(tile_motions, 1, 2) * weights[:, None, None]
    left = (weighted @ hessians @ tile_motions).sum(axis=0)
    right = (weighted @ gradients[..., None]).sum(axis=0)[:, 0]
    regularization = 1e-9 + 1e-9 * np.trace(left)
    return np.asarray(np.linalg.solve(left + regularization * np.eye(len(left)), right))


def _weighted_median(values: Floats, weights: Floats) -> float:
    """Return the weighted median of values."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _compose(
    motion: Motion, step: Floats, motion_kind: MotionKind, shape: Sequence[int], reach: float
) -> Motion:
    """Return a motion after the inverse of a small one.

    Args:
        motion: (2, 3).
        step: the small motion, by the parts of ``BASIS``; its linear part is given in pixels at a
            distance of ``reach`` from the center of the slice.
        motion_kind: the motions that are allowed.
        shape: (y, x) of the slice, px.
        reach: px.
    """
    if motion_kind == "translation":
        return np.asarray(motion - np.array([[0, 0, step[0]], [0, 0, step[1]]]))
    small = _small_motion(step, motion_kind, shape, reach)
    composed = compose(motion, invert(small))
    if motion_kind == "rigid":
        composed[:, :2] = nearest_rotation(composed[:, :2])
    return composed


def _small_motion(
    step: Floats, motion_kind: MotionKind, shape: Sequence[int], reach: float
) -> Motion:
    """Return the matrix (2, 3) of a small motion, see ``_compose``."""
    entries = (BASIS[motion_kind].T @ step).reshape(2, 3)
    small: Motion = UNMOVED + entries / np.array([reach, reach, 1.0])
    if motion_kind == "rigid":
        small[:, :2] = nearest_rotation(small[:, :2])
    center = (np.array(shape, float) - 1) / 2
    small[:, 2] += center - small[:, :2] @ center  # rotate about the center
    return small


def nearest_rotation(matrix: Floats) -> Floats:
    """Return the rotation nearest to a (2, 2) matrix, or to each of many, (..., 2, 2)."""
    left, _, right = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(left @ right))
    left = left.copy()
    left[..., :, 1] *= sign[..., None]
    rotation: Floats = left @ right
    return rotation
