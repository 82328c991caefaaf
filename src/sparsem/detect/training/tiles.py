"""Tiles that detectors learn from: windows of annotated pictures with the boxes that survive the cut, flipped, turned and regrayed.

Windows are read where they lie, so that a training takes no more memory with a thousand pictures than with ten. Corners are
``x0 y0 x1 y1``, in pixels of the picture until the tile is cut, and of the tile as the detector sees it after that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparsem.boxes.geometry import Corners, box_areas, box_sizes, clip_boxes
from sparsem.detect.inference import GrayStatistics, network_input
from sparsem.store.volume import Volume
from sparsem.training.augment import vary_intensity

LEAST_PART = 0.3  # of a box that must lie in a tile for the rest of it to be learnt; less of an object cannot be told
LEAST_SEEN = 2.0  # px of the tile: narrower pieces are none
ANYWHERE = 0.25  # of the tiles lie anywhere; the others hold an object of a structure drawn at random, so that rare ones are seen as often


class TrainingImage(NamedTuple):
    """An annotated picture.

    Attributes:
        name: sample and slice.
        image: that it is a slice of.
        z: which.
        corners: (n, 4) float32 px of the picture.
        kind: (n,) int64.
        levels: gray levels of the sample.
        edge: (y, x) of a tile, in pixels of the picture.
    """

    name: str
    image: Volume
    z: int
    corners: Corners
    kind: NDArray[np.int64]
    levels: GrayStatistics
    edge: tuple[int, int]


class DetectionBatch(NamedTuple):
    """What an update learns from: tiles (B, 1, S, S) float32, and of each its corners (n, 4) float32 and kinds (n,) int64."""

    images: NDArray[np.float32]
    corners: list[Corners]
    kinds: list[NDArray[np.int64]]


@dataclass(frozen=True)
class DetectionSampler:
    """Draws batches; a batch is a function of seed and update.

    Attributes:
        pictures: to learn from.
        see: edge of a tile as the detector sees it, px.
        batch: tiles an update.
        gray: strength of other gray levels, in standard deviations.
        seed: of all draws.
    """

    pictures: Sequence[TrainingImage]
    see: int
    batch: int
    gray: float
    seed: int

    def draw(self, update: int) -> DetectionBatch:
        """The ``update``-th batch."""
        random = np.random.default_rng([self.seed, update])
        tiles = [self._tile(random) for _ in range(self.batch)]
        return DetectionBatch(
            np.stack([image for image, _, _ in tiles]),
            [one for _, one, _ in tiles],
            [kind for _, _, kind in tiles],
        )

    def _tile(
        self, random: np.random.Generator
    ) -> tuple[NDArray[np.float32], Corners, NDArray[np.int64]]:
        picture, center = self._place(random)
        height, width = picture.image.size_of(picture.z)
        y, x = (
            _begin(length, edge, at, random)
            for length, edge, at in zip((height, width), picture.edge, center, strict=True)
        )
        stop_y, stop_x = min(height, y + picture.edge[0]), min(width, x + picture.edge[1])
        gray = picture.image.kept(0)[
            slice(picture.z, picture.z + 1), slice(y, stop_y), slice(x, stop_x)
        ][0]
        image = network_input(gray, picture.levels, picture.edge, self.see)[None]
        corners, kind = boxes_in_window(picture.corners, picture.kind, (x, y, stop_x, stop_y))
        corners = corners * np.array(
            [self.see / picture.edge[1], self.see / picture.edge[0]] * 2, np.float32
        )
        wide = (box_sizes(corners) >= LEAST_SEEN).all(axis=1)
        image, corners = turn_tile(image, corners[wide], int(random.integers(8)))
        return (
            (vary_intensity(image, random, self.gray) if self.gray else image),
            corners,
            kind[wide],
        )

    def _place(
        self, random: np.random.Generator
    ) -> tuple[TrainingImage, tuple[float | None, float | None]]:
        """A picture, and the (y, x) that the tile is to hold; none where it may lie anywhere."""
        if not self._of_kind or random.random() < ANYWHERE:
            return self.pictures[int(random.integers(len(self.pictures)))], (None, None)
        places = self._of_kind[int(random.integers(len(self._of_kind)))]
        number, box = places[int(random.integers(len(places)))].tolist()
        x0, y0, x1, y1 = self.pictures[number].corners[box].tolist()
        return self.pictures[number], ((y0 + y1) / 2, (x0 + x1) / 2)

    @cached_property
    def _of_kind(self) -> list[NDArray[np.int64]]:
        """(n, 2) picture and box of every object, a list entry a structure that there is."""
        places = [
            np.column_stack([np.full(len(one.kind), number), np.arange(len(one.kind))])
            for number, one in enumerate(self.pictures)
        ]
        every, kinds = np.concatenate(places), np.concatenate([one.kind for one in self.pictures])
        return [every[kinds == kind] for kind in np.unique(kinds)]


def _begin(length: int, edge: int, center: float | None, random: np.random.Generator) -> int:
    """Where a tile begins along an axis: anywhere, or so that it holds a point."""
    first, last = 0, max(0, length - edge)
    if center is not None:
        first, last = min(last, max(first, int(center) - edge + 1)), max(0, min(last, int(center)))
    return int(random.integers(first, last + 1))


def boxes_in_window(
    corners: Corners, kind: NDArray[np.int64], window: tuple[int, int, int, int]
) -> tuple[Corners, NDArray[np.int64]]:
    """Boxes in a window, cut at its edges, from its corner on; one of which too little is left is none."""
    inside = clip_boxes(corners, window)
    enough = box_areas(inside) > np.maximum(LEAST_PART * box_areas(corners), 0)
    x, y = window[:2]
    return inside[enough] - np.array([x, y, x, y], np.float32), kind[enough]


def turn_tile(
    image: NDArray[np.float32], corners: Corners, way: int
) -> tuple[NDArray[np.float32], Corners]:
    """One of the eight flips and quarter turns (0 to 7) of a square tile (1, S, S) and its boxes."""
    edge = image.shape[-1]
    if way & 1:
        image, corners = (
            image[..., ::-1],
            np.column_stack(
                [edge - corners[:, 2], corners[:, 1], edge - corners[:, 0], corners[:, 3]]
            ),
        )
    if way & 2:
        image, corners = (
            image[..., ::-1, :],
            np.column_stack(
                [corners[:, 0], edge - corners[:, 3], corners[:, 2], edge - corners[:, 1]]
            ),
        )
    if way & 4:
        image, corners = image.swapaxes(-1, -2), corners[:, [1, 0, 3, 2]]
    return np.ascontiguousarray(image), np.asarray(corners, np.float32).reshape(-1, 4)
