"""The interface of all detectors: their targets, their answers, and their properties.

Images are (B, 1, S, S) float32, standardized by sample; corners are ``x0 y0 x1 y1`` in pixels of
the tile.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

MIN_SCORE = 0.05  # boxes with a lower score are not returned


class DetectionTarget(NamedTuple):
    """Annotated boxes in a tile.

    Attributes:
        corners: (n, 4) float32.
        kind: (n,) int64, index of the structure.
    """

    corners: Tensor
    kind: Tensor


class Detections(NamedTuple):
    """Boxes that a detector found in a tile.

    Attributes:
        corners: (n, 4).
        kind: (n,), index of the structure.
        score: (n,) in 0..1.
    """

    corners: Tensor
    kind: Tensor
    score: Tensor


class Detector(nn.Module, ABC):
    """A network that finds boxes in tiles.

    Attributes:
        min_object_px: edge of the smallest square objects, in pixels of the tile, that it finds
            well.
        default_rate: learning rate that it trains well at.
        backbone_rate_factor: factor of the learning rate for the backbone.
        inference_bytes: memory for each pixel of a tile in inference (measured on a CPU, tiles of
            512 px, see benchmarks).
        training_bytes: the same in training.
        has_queries: it has a number of queries, and finds no more objects in a tile.
        has_coco_weights: weights trained on COCO exist that it can be initialized with.
        freezes_norms: the batch norms of the backbone keep the statistics of the initial weights:
            those of a few tiles would be worse.
        nameless_outputs: beginnings of the names of tensors whose outputs stand for no structure,
            although their number is that of the structures.
    """

    min_object_px: int
    default_rate: float
    backbone_rate_factor = 1.0
    inference_bytes: int
    training_bytes: int
    has_queries = False
    has_coco_weights = False
    freezes_norms = False
    nameless_outputs: tuple[str, ...] = ()

    @abstractmethod
    def loss(self, images: Tensor, targets: Sequence[DetectionTarget]) -> Tensor:
        """Return the training loss of a batch (B, 1, S, S)."""

    @abstractmethod
    def detect(self, images: Tensor) -> list[Detections]:
        """Return the boxes in every tile of a batch (B, 1, S, S)."""

    @abstractmethod
    def backbone(self) -> nn.Module:
        """Return the part that computes features of images."""

    @abstractmethod
    def load_coco(self, file: Path | None) -> None:
        """Load weights trained on COCO from a file or folder, or fetch those of the library."""

    def train(self, mode: bool = True) -> "Detector":
        """Set the training mode as any module does; frozen norms stay in evaluation mode."""
        super().train(mode)
        if self.freezes_norms:
            for module in self.backbone().modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def gray_as_color(images: Tensor) -> Tensor:
    """Return gray images (B, 1, S, S) three times (B, 3, S, S), for networks trained on color."""
    return images.expand(-1, 3, -1, -1)
