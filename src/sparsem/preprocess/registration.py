"""Registration of two slices: where the one shows what the other shows (Thevenaz et al. 1998; Baker & Matthews 2004).

Slices are (y, x) of any real dtype. A motion (see ``store.frame``) leads from a pixel of the fixed slice to the pixel of the
moving slice that shows the same.

What moves between two slices is not the stage alone: tissue that runs obliquely seems to move too, and what is summed up over a stack
is that bias. Fine grain (vesicles, ribosomes, noise of the tissue) has no direction. So slices are compared by a narrow band of fine
detail whose contrast is cut off, where a membrane counts no more than a vesicle (measured on a phantom: a fifth of the bias).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import scipy.signal
from numba import njit
from numpy.typing import NDArray

from sparsem.store.transforms import UNMOVED, Motion, inverse, joined, rounded
from sparsem.workflow.compiled import compiled

Image = NDArray[np.float32]
Kind = Literal["translation", "rigid", "affine"]

FINE_PX, COARSE_PX = 1.0, 3.0  # the band of detail, standard deviations of two Gaussians
LOCAL_PX = 32.0  # over which contrast is made even
CUT = 0.5  # standard deviations at which contrast is cut off
WORKING_MPX = 2.0  # larger slices are shrunk first: a fiftieth of a pixel there is less than a tenth of one here
OUTLINE_EDGE = 200  # of the picture in which a motion of any size is searched
FINER = 0.15  # likeness below which detail has nothing in common
GRAIN_PX = 25.0  # pixels of the band of detail that are not independent of each other
LEAST_EDGE = 48  # a level of the pyramid is no smaller
LEAST_OVERLAP = 0.15  # of two slices that may lie over each other
STEPS, STILL_PX = 20, 0.003  # of Gauss-Newton on a level, and the step at which it has arrived
TILE = 16  # edge of the parts of a slice that may move on their own
REWEIGHTINGS, LEAST_SCALE_PX = 3, 0.01  # a step of Gauss-Newton; the next one goes on with them
FEW = 2500  # tiles; of fewer, most of them are hard to tell

# What a small motion may be made of, over (y, x) of the first row and of the second, y, x and 1 each.
FREEDOM: dict[Kind, NDArray[np.float64]] = {
    "translation": np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1]], float),
    "rigid": np.array([[0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1], [0, -1, 0, 1, 0, 0]], float),
    "affine": np.eye(6),
}


@dataclass(frozen=True)
class Detail:
    """The fine detail of a slice at several scales.

    Attributes:
        levels: (y, x) float32, the finest first, each half as large as the one before it.
        outline: (y, x) float32, a coarse picture without shading, for a first look.
        outline_level: the level whose pixels it has.
        factor: pixels of the slice in one of the finest level.
    """

    levels: tuple[Image, ...]
    outline: Image
    outline_level: int
    factor: int


@dataclass(frozen=True)
class Registration:
    """Where the moving slice shows what the fixed one shows.

    Attributes:
        motion: (2, 3), in pixels of the slices.
        likeness: correlation of their detail where they lie over each other, -1 to 1.
        overlap: part of the fixed slice that the moving one covers, 0 to 1.
    """

    motion: Motion
    likeness: float
    overlap: float


def detail(image: NDArray[Any], working_mpx: float = WORKING_MPX) -> Detail:
    """The fine detail of a slice (y, x), at most ``working_mpx`` megapixels of it, and of coarser pictures of it."""
    factor = max(1, int(np.ceil(np.sqrt(image.shape[0] * image.shape[1] / (working_mpx * 1e6)))))
    picture = shrunk(image.astype(np.float32) if factor == 1 else image, factor)
    levels, outline, number = [_band(picture)], picture, 0
    while min(picture.shape) >= 2 * LEAST_EDGE:
        picture = shrunk(picture, 2)
        levels.append(_band(picture))
        if max(outline.shape) > OUTLINE_EDGE:
            outline, number = picture, len(levels) - 1
    return Detail(tuple(levels), _without_shading(outline), number, factor)


def _without_shading(picture: Image) -> Image:
    shading = cv2.GaussianBlur(picture, (0, 0), max(picture.shape) / 5)
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), FINE_PX) - shading, np.float32)


def shrunk(image: NDArray[Any], factor: int) -> Image:
    """Means over squares of ``factor``; what is left over at the far edges is cut off, so that a pixel is ``factor`` wide everywhere."""
    if factor == 1:
        return np.asarray(image, np.float32)
    rows, columns = (max(1, length // factor) for length in image.shape)
    cut = np.ascontiguousarray(image[: rows * factor, : columns * factor])
    return np.asarray(cv2.resize(cut, (columns, rows), interpolation=cv2.INTER_AREA), np.float32)


def _band(picture: Image) -> Image:
    """Detail between two scales, of even contrast, cut off."""
    band = cv2.GaussianBlur(picture, (0, 0), FINE_PX) - cv2.GaussianBlur(picture, (0, 0), COARSE_PX)
    power = cv2.resize(band * band, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)
    spread = np.sqrt(cv2.GaussianBlur(power, (0, 0), LOCAL_PX / 8))
    spread += np.float32(0.1 * float(np.median(spread)) + 1e-6)
    even = cv2.resize(1 / spread, band.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(band * even, -CUT, CUT), np.float32)


def register(fixed: Detail, moving: Detail, kind: Kind = "translation") -> Registration:
    """Find the motion between two slices of one shape, whatever its size.

    The shift under which coarse pictures are most alike is refined by Gauss-Newton from scale to scale (inverse compositional; Baker &
    Matthews 2004), down to the finest at which the slices have detail in common.

    Args:
        fixed: detail of the one slice.
        moving: of the other.
        kind: what motion is allowed.
    """
    y, x = coarse_shift(fixed.outline, moving.outline)
    motion = UNMOVED.copy()
    motion[:, 2] = np.array([y, x]) * 2.0**fixed.outline_level
    found: tuple[Motion, float, float] | None = None
    last = (motion, 0.0, 0.0)
    for level in range(min(fixed.outline_level, len(fixed.levels) - 1), -1, -1):
        last = _refined(fixed.levels[level], moving.levels[level], last[0], kind, 2.0**level)
        if last[1] >= _more_than_chance(last[2] * fixed.levels[level].size):
            found = last
        elif found is not None:
            break  # sections too far apart have no fine detail in common: what coarser detail said stands
    motion, likeness, overlap = found or last
    if likeness < _chance(overlap * fixed.levels[0].size):
        likeness = 0.0
    return Registration(
        rounded(_scaled(motion, fixed.factor)), round(likeness, 6), round(overlap, 6)
    )


def _more_than_chance(pixels: float) -> float:
    """A likeness at which detail of so many pixels is worth following to a finer scale."""
    return max(FINER, _chance(pixels))


def _chance(pixels: float) -> float:
    """A likeness that detail of so many pixels does not reach by chance: four standard deviations."""
    return 4 * float(np.sqrt(GRAIN_PX / max(pixels, 1.0)))


def _scaled(motion: Motion, factor: float) -> Motion:
    """The same motion in pixels that are ``factor`` times smaller; centers of pixels lie at whole numbers."""
    scaled = motion.copy()
    middle = (factor - 1) / 2  # center of a large pixel in small ones
    scaled[:, 2] = motion[:, 2] * factor + middle - motion[:, :2] @ np.array([middle, middle])
    return scaled


def coarse_shift(fixed: Image, moving: Image) -> tuple[int, int]:
    """Whole-pixel (y, x) under which two pictures of one shape are most alike, of all under which enough of them lies over each other.

    Normalized cross-correlation of what overlaps (Padfield 2012, with masks that are rectangles), times the square root of the overlap:
    a small piece is alike by chance more easily.
    """
    likeness, overlap = correlations(fixed, moving)
    credit = np.where(overlap >= LEAST_OVERLAP, likeness * np.sqrt(overlap), -np.inf)
    y, x = np.unravel_index(int(credit.argmax()), credit.shape)
    return int(y) - fixed.shape[0] + 1, int(x) - fixed.shape[1] + 1


def correlations(fixed: Image, moving: Image) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation coefficients, and the part that overlaps, for every shift: (2 h - 1, 2 w - 1), no shift in the middle."""
    one, other = (picture.astype(np.float64) - float(picture.mean()) for picture in (fixed, moving))
    # What overlaps with a shift of s is the fixed picture from -s on and the moving one from s on; correlation with ones adds it up.
    flipped, ones = one[::-1, ::-1], np.ones(one.shape)
    pairs = scipy.signal.fftconvolve(other, flipped)
    counts = np.rint(scipy.signal.fftconvolve(ones, ones))
    sums = [scipy.signal.fftconvolve(ones, flipped**k) for k in (1, 2)]
    more = [scipy.signal.fftconvolve(other**k, ones) for k in (1, 2)]
    covariance = pairs - sums[0] * more[0] / counts
    spread = np.maximum(sums[1] - sums[0] ** 2 / counts, 0) * np.maximum(
        more[1] - more[0] ** 2 / counts, 0
    )
    floor = 1e-9 * float((one**2).sum() * (other**2).sum()) + 1e-30
    return np.clip(covariance / np.sqrt(spread + floor), -1, 1), counts / one.size


def _refined(
    fixed: Image, moving: Image, motion: Motion, kind: Kind, scale: float
) -> tuple[Motion, float, float]:
    """Gauss-Newton on one level; motions are in pixels of the finest one, ``scale`` times smaller."""
    here = _scaled(motion, 1 / scale)
    reach = max(fixed.shape) / 2
    leads = _leads(fixed.shape, reach) @ FREEDOM[kind].T  # (tiles, 2, freedoms)
    likeness = overlap = 0.0
    agreeing = np.ones(len(leads))
    for number in range(STEPS + 1):
        hessians, gradients, sums, counts = tile_sums(fixed, moving, here)
        fm, ff, mm = sums.T
        overlap, likeness = (
            float(counts.sum()) / fixed.size,
            float(fm.sum() / np.sqrt(ff.sum() * mm.sum() + 1e-12)),
        )
        if number == STEPS or overlap < LEAST_OVERLAP / 2:
            break
        trust = (
            np.clip(fm / np.sqrt(ff * mm + 1e-12), 0, 1) ** 2
        )  # tiles that do not look alike, resin above all, say nothing
        step, agreeing = _common_step(hessians, gradients, leads, trust, agreeing)
        here = _composed(here, step, kind, fixed.shape, reach)
        if float(np.abs(step).max()) < STILL_PX:
            break
    return _scaled(here, scale), likeness, overlap


def _leads(shape: Sequence[int], reach: float) -> NDArray[np.float64]:
    """(tiles, 2, 6): how far the center of each tile goes, in y and x, with each of the six freedoms of an affine motion."""
    y, x = np.meshgrid(
        *(np.arange(TILE / 2, -(-length // TILE) * TILE, TILE) - length / 2 for length in shape),
        indexing="ij",
    )
    place = np.stack([y.ravel() / reach, x.ravel() / reach, np.ones(y.size)], axis=-1)
    nothing = np.zeros_like(place)
    return np.stack(
        [np.concatenate([place, nothing], axis=-1), np.concatenate([nothing, place], axis=-1)],
        axis=1,
    )


def _common_step(
    hessians: NDArray[np.float64],
    gradients: NDArray[np.float64],
    leads: NDArray[np.float64],
    trust: NDArray[np.float64],
    agreeing: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The small motion that most tiles agree on: least squares over tiles, of which those that move otherwise count less and less.

    Geman-McClure weights. Their scale is the median distance of a tile's own motion from the common one, and wider where few tiles
    speak: a choice among few is a matter of chance (FIB-25, 170 tiles: 0.7 px RMS over 250 slices, against 0.4). Returns the motion, and
    how far each tile agrees, 0 to 1, with which the next step begins.
    """
    own = np.linalg.solve(hessians + 1e-3 * np.eye(2), gradients[..., None])[
        ..., 0
    ]  # (tiles, 2) px
    strength = trust * np.trace(hessians, axis1=1, axis2=2)
    speaking = float(strength.sum() ** 2 / max(float((strength**2).sum()), 1e-12))
    width = max(1.0, float(np.sqrt(FEW / max(speaking, 1e-12))))
    step = np.zeros(leads.shape[-1])
    for _ in range(REWEIGHTINGS):
        weighted = np.swapaxes(leads, 1, 2) * (trust * agreeing)[:, None, None]
        left = (weighted @ hessians @ leads).sum(axis=0)
        right = (weighted @ gradients[..., None]).sum(axis=0)[:, 0]
        step = np.linalg.solve(left + (1e-9 + 1e-9 * np.trace(left)) * np.eye(len(left)), right)
        distance = np.linalg.norm(own - leads @ step, axis=1)
        scale = max(width * _median(distance, strength), LEAST_SCALE_PX)
        agreeing = 1 / (1 + (distance / scale) ** 2) ** 2
    return np.asarray(step), agreeing


def _median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    """Weighted median."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _composed(
    motion: Motion, step: NDArray[np.float64], kind: Kind, shape: Sequence[int], reach: float
) -> Motion:
    """The motion after the inverse of a small one, whose linear part is given in pixels at a distance of ``reach`` from the center."""
    if kind == "translation":
        return np.asarray(motion - np.array([[0, 0, step[0]], [0, 0, step[1]]]))
    small = UNMOVED + (FREEDOM[kind].T @ step).reshape(2, 3) / np.array([reach, reach, 1.0])
    if kind == "rigid":
        small[:, :2] = rotation_nearest(small[:, :2])
    center = (np.array(shape, float) - 1) / 2
    small[:, 2] += center - small[:, :2] @ center  # it turns about the center
    whole = joined(motion, inverse(small))
    if kind == "rigid":
        whole[:, :2] = rotation_nearest(whole[:, :2])
    return whole


def rotation_nearest(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation nearest to a (2, 2) matrix; also of many at once, (..., 2, 2)."""
    left, _, right = np.linalg.svd(matrix)
    sign = np.sign(np.linalg.det(left @ right))
    left = left.copy()
    left[..., :, 1] *= sign[..., None]
    rotation: NDArray[np.float64] = left @ right
    return rotation


@compiled(fastmath=True)
def tile_sums(fixed, moving, motion):  # type: ignore[no-untyped-def]
    """What every tile of the fixed picture says of the motion: one pass over the pixels that lie over each other.

    Args:
        fixed: (y, x) float32.
        moving: (y, x) float32.
        motion: (2, 3) float64.

    Rows are inlined as source: a function of their own would be inlined by the compiler when it is new and called when it comes from the
    cache, and sums in another order have other last digits.

    Returns:
        Hessians (tiles, 2, 2) and gradients (tiles, 2) of the squared difference for a small translation of the tile; sums of
        fixed x moving, fixed^2 and moving^2 (tiles, 3); pixels (tiles,).
    """
    rows, columns = fixed.shape
    across = (columns + TILE - 1) // TILE
    tiles = across * ((rows + TILE - 1) // TILE)
    hessians, gradients, sums = np.zeros((tiles, 2, 2)), np.zeros((tiles, 2)), np.zeros((tiles, 3))
    counts = np.zeros(tiles, np.int64)
    straight = motion[0, 0] == 1 and motion[1, 1] == 1 and motion[0, 1] == 0 and motion[1, 0] == 0
    for i in range(1, rows - 1):
        for tile in range(across):
            start, stop = max(1, tile * TILE), min(columns - 1, (tile + 1) * TILE)
            if straight:
                found = _straight_run(fixed, moving, motion[0, 2], motion[1, 2], i, start, stop)
            else:
                found = _oblique_run(fixed, moving, motion, i, start, stop)
            yy, yx, xx, gy, gx, fm, ff, mm, count = found
            t = (i // TILE) * across + tile
            hessians[t, 0, 0] += yy
            hessians[t, 0, 1] += yx
            hessians[t, 1, 0] += yx
            hessians[t, 1, 1] += xx
            gradients[t, 0] += gy
            gradients[t, 1] += gx
            sums[t, 0] += fm
            sums[t, 1] += ff
            sums[t, 2] += mm
            counts[t] += count
    return hessians, gradients, sums, counts


@njit(inline="always")
def _straight_run(fixed, moving, dy, dx, i, start, stop):  # type: ignore[no-untyped-def]
    """Sums over a row of a tile for a translation: the same weights of interpolation everywhere, no bounds to look at."""
    rows, columns = moving.shape
    half, none = np.float32(0.5), np.float32(0)
    whole_y, whole_x = int(np.floor(dy)), int(np.floor(dx))
    v, u = np.float32(dy - whole_y), np.float32(dx - whole_x)
    one = np.float32(1)
    a, b, c, d = (one - v) * (one - u), (one - v) * u, v * (one - u), v * u
    yy = yx = xx = gy = gx = fm = ff = mm = none
    p = i + whole_y
    start, stop = max(start, -whole_x), min(stop, columns - 1 - whole_x)
    if p < 0 or p >= rows - 1 or stop <= start:
        return yy, yx, xx, gy, gx, fm, ff, mm, 0
    for j in range(start, stop):
        k = j + whole_x
        there = (
            a * moving[p, k]
            + b * moving[p, k + 1]
            + c * moving[p + 1, k]
            + d * moving[p + 1, k + 1]
        )
        here = fixed[i, j]
        slope_y, slope_x = (
            (fixed[i + 1, j] - fixed[i - 1, j]) * half,
            (fixed[i, j + 1] - fixed[i, j - 1]) * half,
        )
        off = there - here
        yy += slope_y * slope_y
        yx += slope_y * slope_x
        xx += slope_x * slope_x
        gy += slope_y * off
        gx += slope_x * off
        fm += here * there
        ff += here * here
        mm += there * there
    return yy, yx, xx, gy, gx, fm, ff, mm, stop - start


@njit(inline="always")
def _oblique_run(fixed, moving, motion, i, start, stop):  # type: ignore[no-untyped-def]
    """The same for any motion."""
    rows, columns = moving.shape
    half, one = np.float32(0.5), np.float32(1)
    yy = yx = xx = gy = gx = fm = ff = mm = np.float32(0)
    count = 0
    for j in range(start, stop):
        y = motion[0, 0] * i + motion[0, 1] * j + motion[0, 2]
        x = motion[1, 0] * i + motion[1, 1] * j + motion[1, 2]
        p, k = int(np.floor(y)), int(np.floor(x))
        if p < 0 or k < 0 or p >= rows - 1 or k >= columns - 1:
            continue
        v, u = np.float32(y - p), np.float32(x - k)
        near = (one - u) * moving[p, k] + u * moving[p, k + 1]
        far = (one - u) * moving[p + 1, k] + u * moving[p + 1, k + 1]
        there = (one - v) * near + v * far
        here = fixed[i, j]
        slope_y, slope_x = (
            (fixed[i + 1, j] - fixed[i - 1, j]) * half,
            (fixed[i, j + 1] - fixed[i, j - 1]) * half,
        )
        off = there - here
        yy += slope_y * slope_y
        yx += slope_y * slope_x
        xx += slope_x * slope_x
        gy += slope_y * off
        gx += slope_x * off
        fm += here * there
        ff += here * here
        mm += there * there
        count += 1
    return yy, yx, xx, gy, gx, fm, ff, mm, count
