"""Sums over the tiles of a slice, from which a step of Gauss-Newton follows.

This is the inner loop of ``register``.

Slices are (y, x) float32. A motion leads from a pixel of the fixed slice to the pixel of the moving
slice that shows the same (see ``store.transforms``).
"""

import numpy as np

from sparsem.compiled import compiled

TILE = 16  # edge of the parts of a slice that may move independently, px


@compiled(fastmath=True)
def tile_sums(fixed, moving, motion):  # type: ignore[no-untyped-def]
    """Return the sums of every tile of the fixed slice, in one pass over the pixels that overlap.

    Args:
        fixed: (y, x) float32.
        moving: (y, x) float32.
        motion: (2, 3) float64.

    Rows are inlined as source. A function of their own would be inlined by the compiler when it is
    compiled, but called when it is loaded from the cache; sums in another order have other last
    digits.

    Returns:
        Hessians (tiles, 2, 2) and gradients (tiles, 2) of the squared difference for a small
        translation of the tile; sums of fixed x moving, fixed^2 and moving^2 (tiles, 3); number of
        pixels (tiles,).
    """
    rows, columns = fixed.shape
    across = (columns + TILE - 1) // TILE
    tiles = across * ((rows + TILE - 1) // TILE)
    hessians, gradients, sums = np.zeros((tiles, 2, 2)), np.zeros((tiles, 2)), np.zeros((tiles, 3))
    counts = np.zeros(tiles, np.int64)
    is_shift = motion[0, 0] == 1 and motion[1, 1] == 1 and motion[0, 1] == 0 and motion[1, 0] == 0
    for i in range(1, rows - 1):
        for tile in range(across):
            start, stop = max(1, tile * TILE), min(columns - 1, (tile + 1) * TILE)
            if is_shift:
                row_sums = _shifted_row(fixed, moving, motion[0, 2], motion[1, 2], i, start, stop)
            else:
                row_sums = _transformed_row(fixed, moving, motion, i, start, stop)
            yy, yx, xx, gy, gx, fm, ff, mm, count = row_sums
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


@compiled(inline="always")
def _shifted_row(fixed, moving, dy, dx, i, start, stop):  # type: ignore[no-untyped-def]
    """Return the sums over a row of a tile for a translation.

    The weights of the interpolation are the same everywhere, and no bounds are checked in the loop.
    """
    rows, columns = moving.shape
    half, zero = np.float32(0.5), np.float32(0)
    whole_y, whole_x = int(np.floor(dy)), int(np.floor(dx))
    v, u = np.float32(dy - whole_y), np.float32(dx - whole_x)
    unit = np.float32(1)
    a, b, c, d = (unit - v) * (unit - u), (unit - v) * u, v * (unit - u), v * u
    yy = yx = xx = gy = gx = fm = ff = mm = zero
    p = i + whole_y
    start, stop = max(start, -whole_x), min(stop, columns - 1 - whole_x)
    if p < 0 or p >= rows - 1 or stop <= start:
        return yy, yx, xx, gy, gx, fm, ff, mm, 0
    for j in range(start, stop):
        k = j + whole_x
        moving_value = (
            a * moving[p, k]
            + b * moving[p, k + 1]
            + c * moving[p + 1, k]
            + d * moving[p + 1, k + 1]
        )
        fixed_value = fixed[i, j]
        slope_y, slope_x = (
            (fixed[i + 1, j] - fixed[i - 1, j]) * half,
            (fixed[i, j + 1] - fixed[i, j - 1]) * half,
        )
        difference = moving_value - fixed_value
        yy += slope_y * slope_y
        yx += slope_y * slope_x
        xx += slope_x * slope_x
        gy += slope_y * difference
        gx += slope_x * difference
        fm += fixed_value * moving_value
        ff += fixed_value * fixed_value
        mm += moving_value * moving_value
    return yy, yx, xx, gy, gx, fm, ff, mm, stop - start


@compiled(inline="always")
def _transformed_row(fixed, moving, motion, i, start, stop):  # type: ignore[no-untyped-def]
    """Return the sums over a row of a tile for any affine motion."""
    rows, columns = moving.shape
    half, unit = np.float32(0.5), np.float32(1)
    yy = yx = xx = gy = gx = fm = ff = mm = np.float32(0)
    count = 0
    for j in range(start, stop):
        y = motion[0, 0] * i + motion[0, 1] * j + motion[0, 2]
        x = motion[1, 0] * i + motion[1, 1] * j + motion[1, 2]
        p, k = int(np.floor(y)), int(np.floor(x))
        if p < 0 or k < 0 or p >= rows - 1 or k >= columns - 1:
            continue
        v, u = np.float32(y - p), np.float32(x - k)
        near = (unit - u) * moving[p, k] + u * moving[p, k + 1]
        far = (unit - u) * moving[p + 1, k] + u * moving[p + 1, k + 1]
        moving_value = (unit - v) * near + v * far
        fixed_value = fixed[i, j]
        slope_y, slope_x = (
            (fixed[i + 1, j] - fixed[i - 1, j]) * half,
            (fixed[i, j + 1] - fixed[i, j - 1]) * half,
        )
        difference = moving_value - fixed_value
        yy += slope_y * slope_y
        yx += slope_y * slope_x
        xx += slope_x * slope_x
        gy += slope_y * difference
        gx += slope_x * difference
        fm += fixed_value * moving_value
        ff += fixed_value * fixed_value
        mm += moving_value * moving_value
        count += 1
    return yy, yx, xx, gy, gx, fm, ff, mm, count
