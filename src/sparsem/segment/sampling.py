"""Which tiles make a batch (paper 5.1): most of them must hold a sparse structure, or a network learns that it is nowhere.

A batch is a pure function of (seed, number of the update): a run that was stopped draws the same tiles when it goes on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.segment.tiles import pad_by_reflection
from sparsem.training.augment import Tile, flip_and_rotate, vary_intensity

ORIGIN_STEP = 4  # tiles that hold a structure begin on a grid this coarse, px: 16 times fewer places to remember

Batch = tuple[NDArray[np.float32], NDArray[np.uint8]]


@dataclass(frozen=True)
class Sampling:
    """How tiles are chosen and varied.

    Attributes:
        tile: edge in px, at the network's scale.
        batch: tiles in a batch.
        foreground_fraction: part of a batch, 0..1, that must hold a structure; with several structures they take turns.
        min_foreground_px: how many pixels of it, at the network's scale.
        intensity_augmentation: strength of the gray-level augmentation, 0 for none.
        seed: of all draws.
    """

    tile: int
    batch: int
    foreground_fraction: float
    min_foreground_px: float
    intensity_augmentation: float
    seed: int


class TileSampler:
    """Draws batches from labeled slices.

    Args:
        images: (K, y, x) float32 a slice and its neighbors, at the network's scale, standardized.
        targets: (C, y, x) uint8 a slice: 0, 1, or 255 where a structure is not annotated.
        how: the rules.
    """

    def __init__(
        self,
        images: Sequence[NDArray[np.float32]],
        targets: Sequence[NDArray[np.uint8]],
        how: Sampling,
    ) -> None:
        self._how = how
        self._images = [pad_by_reflection(image, how.tile) for image in images]
        self._targets = [pad_by_reflection(target, how.tile) for target in targets]
        structures = range(self._targets[0].shape[0])
        origins = [self._origins_holding(structure) for structure in structures]
        self._origins = [
            found for found in origins if len(found)
        ]  # an empty annotation asks for nothing

    def batch(self, update: int) -> Batch:
        """Images (B, K, tile, tile) float32 and targets (B, C, tile, tile) uint8 of the ``update``-th batch."""
        random = np.random.default_rng([self._how.seed, update])
        tiles = [self._tile(place, update, random) for place in range(self._how.batch)]
        return np.stack([image for image, _ in tiles]), np.stack([target for _, target in tiles])

    def _tile(self, place: int, update: int, random: np.random.Generator) -> Tile:
        holding = math.ceil(self._how.foreground_fraction * self._how.batch - 1e-9)
        if place < holding and self._origins:
            origins = self._origins[(update * holding + place) % len(self._origins)]
            index, top, left = origins[random.integers(len(origins))]
        else:
            index = random.integers(len(self._images))
            top, left = (
                random.integers(length - self._how.tile + 1)
                for length in self._images[index].shape[1:]
            )
        area = np.s_[:, top : top + self._how.tile, left : left + self._how.tile]
        image, target = flip_and_rotate(
            (self._images[index][area], self._targets[index][area]), random
        )
        return (
            vary_intensity(image, random, self._how.intensity_augmentation)
            if self._how.intensity_augmentation
            else image
        ), target

    def _origins_holding(self, structure: int) -> NDArray[np.int32]:
        """(N, 3) slice index, top and left of every tile that holds at least ``min_foreground_px`` of the structure."""
        found = [np.empty((0, 3), np.int32)]
        for index, target in enumerate(self._targets):
            counts = tile_counts(target[structure] == 1, self._how.tile, ORIGIN_STEP)
            top, left = np.nonzero(counts >= max(1.0, self._how.min_foreground_px))
            found.append(
                np.stack(
                    [np.full_like(top, index), top * ORIGIN_STEP, left * ORIGIN_STEP], axis=1
                ).astype(np.int32)
            )
        return np.concatenate(found)


def tile_counts(mask: NDArray[np.bool_], tile: int, step: int) -> NDArray[np.int64]:
    """How many pixels of ``mask`` (y, x) lie in the tile that begins at each (step * i, step * j)."""
    total: NDArray[Any] = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    np.cumsum(np.cumsum(mask, axis=0, dtype=np.int64), axis=1, out=total[1:, 1:])
    y, x = (slice(0, length - tile + 1, step) for length in mask.shape)
    far_y, far_x = (slice(tile, length + 1, step) for length in mask.shape)
    return np.asarray(total[far_y, far_x] - total[y, far_x] - total[far_y, x] + total[y, x])
