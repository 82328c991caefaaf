"""A trained detector in one .safetensors file: its weights, and how to use them."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.detect.models.detector import MIN_SCORE, Detector
from sparsem.detect.models.networks import build_detector
from sparsem.errors import InputError
from sparsem.geometry import VoxelSize
from sparsem.models.checkpoint import (
    DAMAGE_ERRORS,
    build_with_weights,
    load_tensors,
    network_state,
    save_tensors,
)
from sparsem.store.names import checked_name

DEFAULT_COUNTS_FROM = 0.5  # score from which boxes are counted where nothing can be told
Curve = tuple[
    tuple[float, ...], tuple[float, ...]
]  # scores, ascending, and how many of the boxes with such a score are right


@dataclass(frozen=True)
class DetectorRecipe:
    """How to use a detector.

    Attributes:
        detector: name in DETECTORS.
        structures: what each of its classes is.
        see: edge of the tiles that it sees, px.
        pixel_nm: (y, x) nm of a pixel as it sees it.
        queries: most boxes in a tile, of Deformable DETR.
        counts_from: score from which a box of each structure is taken for an object.
        confidence: of each structure, from score to the probability that a box is right; empty where nothing was held out.
        training: settings, samples and pictures that it was trained with, and the scores that it reached.
    """

    detector: str
    structures: tuple[str, ...]
    see: int
    pixel_nm: tuple[float, float]
    queries: int
    counts_from: Mapping[str, float] = field(default_factory=dict)
    confidence: Mapping[str, Curve] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def edge(self, voxel: VoxelSize) -> tuple[int, int]:
        """(y, x) of a tile in pixels of a picture."""
        return max(1, round(self.see * self.pixel_nm[0] / voxel.y)), max(
            1, round(self.see * self.pixel_nm[1] / voxel.x)
        )

    def build(self) -> Detector:
        """The detector with random weights."""
        return build_detector(self.detector, len(self.structures), self.see, self.queries)

    def confident(self, structure: str, score: NDArray[np.float32]) -> NDArray[np.float32]:
        """How probably boxes of such scores are right; the scores themselves where nothing was held out to tell."""
        if structure not in self.confidence:
            return score
        scores, right = self.confidence[structure]
        return np.interp(score, scores, right).astype(np.float32)

    def threshold(self, structure: str) -> float:
        """Score from which a box is taken for an object."""
        return self.counts_from.get(structure, DEFAULT_COUNTS_FROM)


def save_detector(path: Path, network: Detector, recipe: DetectorRecipe) -> None:
    """Write a detector and its recipe to ``path`` in one step."""
    save_tensors(path, network_state(network), asdict(recipe))


def load_detector(path: Path) -> tuple[Detector, DetectorRecipe]:
    """A detector in evaluation mode on the CPU, and its recipe.

    Raises:
        InputError: no such file, not a detector of ours, or its weights do not fit its recipe.
    """
    tensors, about = load_tensors(path)
    recipe = _checked(path, about)
    return build_with_weights(path, recipe.build, tensors), recipe


def read_detector(path: Path) -> DetectorRecipe:
    """The recipe alone; no weights are read.

    Raises:
        InputError: no such file, or not a detector of ours.
    """
    return _checked(path, load_tensors(path, names=())[1])


def _checked(path: Path, about: dict[str, Any]) -> DetectorRecipe:
    """A recipe from what a file says of itself, which may be anything."""
    if "detector" not in about:
        raise InputError(
            f"{path.name} finds structures pixel by pixel, not in boxes; expected what 'sparsem detect train' wrote."
        )
    try:
        confidence = {
            name: (tuple(one[0]), tuple(one[1])) for name, one in about["confidence"].items()
        }
        structures, pixel = tuple(about["structures"]), tuple(about["pixel_nm"])
        recipe = DetectorRecipe(
            **{**about, "structures": structures, "pixel_nm": pixel, "confidence": confidence}
        )
        y, x = recipe.pixel_nm
        if not structures or not all(
            math.isfinite(one) and one > 0 for one in (y, x, recipe.see, recipe.queries)
        ):
            raise ValueError("its recipe makes no sense")
        for structure in structures:
            checked_name(structure)  # it becomes part of a table's name
            if not MIN_SCORE <= recipe.threshold(structure) <= 1:
                raise ValueError("its recipe makes no sense")
            recipe.confident(structure, np.zeros(1, np.float32))
        dict(recipe.training)
    except (*DAMAGE_ERRORS, IndexError) as error:
        raise InputError(
            f"{path.name} is no finished detector: {str(error).splitlines()[0]}"
        ) from None
    return recipe
