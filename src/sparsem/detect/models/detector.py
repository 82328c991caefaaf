"""What all detectors share: what they are given, what they answer, and what they say of themselves.

Images are (B, 1, S, S) float32, standardized by sample; corners are ``x0 y0 x1 y1`` in pixels of the tile.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

MIN_SCORE = 0.05  # below which nothing is told


class DetectionTarget(NamedTuple):
    """What is in a tile.

    Attributes:
        corners: (n, 4) float32.
        kind: (n,) int64.
    """

    corners: Tensor
    kind: Tensor


class Detections(NamedTuple):
    """What a detector found in a tile: ``corners`` (n, 4), ``kind`` (n,), ``score`` (n,)."""

    corners: Tensor
    kind: Tensor
    score: Tensor


class Detector(nn.Module, ABC):
    """What all detectors share.

    Attributes:
        smallest: edge of a square object, in pixels of the tile, that it finds well; smaller ones it may not.
        usual_rate: learning rate that it learns well at.
        backbone_part: of the learning rate, for the part that looks at images.
        finding_bytes: of memory that a pixel of a tile takes to be searched (measured on a CPU, tiles of 512 px, see benchmarks).
        learning_bytes: the same to be learnt from.
    """

    smallest: int
    usual_rate: float
    backbone_part = 1.0
    finding_bytes: int
    learning_bytes: int
    asks = False  # by a number of queries, that is for so many objects in a tile
    has_coco = False  # weights that learnt on COCO, which it may begin with
    keeps_norms = False  # of weights that learnt on COCO: statistics of a few tiles would be worse than theirs

    @abstractmethod
    def loss(self, images: Tensor, targets: Sequence[DetectionTarget]) -> Tensor:
        """Of a batch (B, 1, S, S), to learn from."""

    @abstractmethod
    def found(self, images: Tensor) -> list[Detections]:
        """What is in every tile of a batch (B, 1, S, S)."""

    @abstractmethod
    def backbone(self) -> nn.Module:
        """The part that looks at images."""

    @abstractmethod
    def load_coco(self, file: Path | None) -> None:
        """Begin with weights of a file or folder, or with those that the library fetches."""

    def train(self, mode: bool = True) -> "Detector":
        """As any module; norms that are kept stay as they are."""
        super().train(mode)
        if self.keeps_norms:
            for module in self.backbone().modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self


def gray_as_color(images: Tensor) -> Tensor:
    """What learnt on color sees gray three times."""
    return images.expand(-1, 3, -1, -1)
