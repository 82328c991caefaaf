"""Sampling of the tiles of a batch (paper 5.1).

Most tiles must contain a sparse structure; otherwise a network is trained to find it nowhere. A
batch is a pure function of the seed and the number of the update, so that a resumed run draws the
same tiles.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsem.segment.tiles import pad_by_reflection
from sparsem.training.augment import Tile, flip_and_rotate, vary_intensity

# Step of the grid on which tiles that contain a structure start, px: 16 times fewer positions to
# store than with a step of 1.
ORIGIN_STEP = 4

Batch = tuple[NDArray[np.float32], NDArray[np.uint8]]


@dataclass(frozen=True)
class Sampling:
    """Rules by which tiles are drawn and augmented.

    Attributes:
        tile: edge of a tile at the network's scale, px.
        batch: tiles in a batch.
        foreground_fraction: fraction of a batch, 0..1, that must contain a structure; several
            structures take turns.
        min_foreground_px: minimum pixels of the structure in such a tile, at the network's scale.
        intensity_augmentation: strength of the intensity augmentation; 0: none.
        seed: random seed of all draws.
    """

    tile: int
    batch: int
    foreground_fraction: float
    min_foreground_px: float
    intensity_augmentation: float
    seed: int


class TileSampler:
    """Sampler of batches of tiles from slices.

    Args:
        images: slices (K, y, x) float32 with their adjacent slices, at the network's scale,
            standardized.
        targets: targets (C, y, x) uint8 of the slices: 0, 1, or 255 where a structure is not
            annotated.
        rules: how tiles are drawn.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.float32]],
        targets: Sequence[NDArray[np.uint8]],
        rules: Sampling,
    ) -> None:
        self._rules = rules
        self._images = [pad_by_reflection(image, rules.tile) for image in images]
        self._targets = [pad_by_reflection(target, rules.tile) for target in targets]
        self._origins: list[NDArray[np.int32]] = []
        for structure in range(self._targets[0].shape[0]):
            origins = self._origins_with(structure)
            if len(origins):  # a structure without foreground takes no turn
                self._origins.append(origins)

    def batch(self, update: int) -> Batch:
        """Return the batch of an update.

        Returns:
            Images (B, K, tile, tile) float32 and targets (B, C, tile, tile) uint8.
        """
        random = np.random.default_rng([self._rules.seed, update])
        tiles = [self._draw_tile(index, update, random) for index in range(self._rules.batch)]
        images = [image for image, _ in tiles]
        targets = [target for _, target in tiles]
        return np.stack(images), np.stack(targets)

    def _draw_tile(self, index: int, update: int, random: np.random.Generator) -> Tile:
        """Draw and augment the tile at an index of a batch; the first ones contain a structure."""
        rules = self._rules
        slice_index, top, left = self._draw_origin(index, update, random)
        area = np.s_[:, top : top + rules.tile, left : left + rules.tile]
        tile = (self._images[slice_index][area], self._targets[slice_index][area])
        image, target = flip_and_rotate(tile, random)
        if rules.intensity_augmentation:
            image = vary_intensity(image, random, rules.intensity_augmentation)
        return image, target

    def _draw_origin(
        self, index: int, update: int, random: np.random.Generator
    ) -> tuple[int, int, int]:
        """Draw slice index, top and left of the tile at an index of a batch."""
        rules = self._rules
        # Less 1e-9, since a product such as 0.55 * 100 is slightly above 55.
        n_foreground = math.ceil(rules.foreground_fraction * rules.batch - 1e-9)
        if index < n_foreground and self._origins:
            turn = (update * n_foreground + index) % len(self._origins)
            origins = self._origins[turn]
            slice_index, top, left = origins[random.integers(len(origins))]
            return int(slice_index), int(top), int(left)
        return self._draw_any_origin(random)

    def _draw_any_origin(self, random: np.random.Generator) -> tuple[int, int, int]:
        """Draw slice index, top and left of a tile, whatever it contains."""
        slice_index = int(random.integers(len(self._images)))
        height, width = self._images[slice_index].shape[1:]
        top = int(random.integers(height - self._rules.tile + 1))
        left = int(random.integers(width - self._rules.tile + 1))
        return slice_index, top, left

    def _origins_with(self, structure: int) -> NDArray[np.int32]:
        """Return slice index, top and left (N, 3) of the tiles that contain the structure."""
        min_px = max(1.0, self._rules.min_foreground_px)
        parts = [np.empty((0, 3), np.int32)]
        for slice_index, target in enumerate(self._targets):
            counts = tile_counts(target[structure] == 1, self._rules.tile, ORIGIN_STEP)
            rows, columns = np.nonzero(counts >= min_px)
            slice_indices = np.full_like(rows, slice_index)
            origins = [slice_indices, rows * ORIGIN_STEP, columns * ORIGIN_STEP]
            parts.append(np.stack(origins, axis=1).astype(np.int32))
        return np.concatenate(parts)


def tile_counts(mask: NDArray[np.bool_], tile: int, step: int) -> NDArray[np.int64]:
    """Count the pixels of ``mask`` (y, x) in the tile that starts at each (step * i, step * j)."""
    total = _summed_area(mask)
    tops, lefts = (slice(0, length - tile + 1, step) for length in mask.shape)
    bottoms, rights = (slice(tile, length + 1, step) for length in mask.shape)
    counts = total[bottoms, rights] - total[tops, rights] - total[bottoms, lefts]
    return np.asarray(counts + total[tops, lefts])


def _summed_area(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the table of sums: its value at (y, x) is the sum over ``mask[:y, :x]``."""
    total: NDArray[np.int64] = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=total[1:, 1:])
    return total
