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
from sparsem.store.names import checked_structure

# Score from which boxes count as objects, where too few images are held out to choose one.
DEFAULT_COUNTS_FROM = 0.5
# Scores, ascending, and the fraction of boxes of each score that are right.
Curve = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class DetectorRecipe:
    """Architecture, classes, scale and calibration of a trained detector.

    Attributes:
        detector: name in DETECTORS.
        structures: structure of each of its classes.
        input_px: edge of the tiles that it sees, px.
        pixel_nm: (y, x) nm of a pixel of these tiles.
        queries: maximum number of boxes in a tile, of Deformable DETR.
        counts_from: score from which boxes of each structure count as objects.
        confidence: for each structure, the calibration curve from scores to probabilities; empty
            if no image was held out.
        training: settings, samples and images of the training, and the scores that it reached.
    """

    detector: str
    structures: tuple[str, ...]
    input_px: int
    pixel_nm: tuple[float, float]
    queries: int
    counts_from: Mapping[str, float] = field(default_factory=dict)
    confidence: Mapping[str, Curve] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def tile_shape(self, voxel: VoxelSize) -> tuple[int, int]:
        """Return the (y, x) of a tile in pixels of an image with a voxel size."""
        height = round(self.input_px * self.pixel_nm[0] / voxel.y)
        width = round(self.input_px * self.pixel_nm[1] / voxel.x)
        return max(1, height), max(1, width)

    def build(self) -> Detector:
        """Return the detector with random weights."""
        return build_detector(self.detector, len(self.structures), self.input_px, self.queries)

    def confidence_of(self, structure: str, score: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability (N,) that boxes of these scores are right.

        Without a calibration curve these are the scores.
        """
        if structure not in self.confidence:
            return score
        scores, is_right = self.confidence[structure]
        return np.interp(score, scores, is_right).astype(np.float32)

    def threshold(self, structure: str) -> float:
        """Return the score from which boxes of a structure count as objects."""
        return self.counts_from.get(structure, DEFAULT_COUNTS_FROM)


def save_detector(path: Path, network: Detector, recipe: DetectorRecipe) -> None:
    """Write a detector and its recipe to ``path`` in one step."""
    save_tensors(path, network_state(network), asdict(recipe))


def load_detector(path: Path) -> tuple[Detector, DetectorRecipe]:
    """Return a detector in evaluation mode on the CPU, and its recipe.

    Raises:
        InputError: the file is missing or no detector, or its weights do not fit its recipe.
    """
    tensors, metadata = load_tensors(path)
    recipe = _checked_recipe(path, metadata)
    return build_with_weights(path, recipe.build, tensors), recipe


def read_detector(path: Path) -> DetectorRecipe:
    """Return the recipe of a detector without reading its weights.

    Raises:
        InputError: the file is missing, or no detector.
    """
    _, metadata = load_tensors(path, names=())
    return _checked_recipe(path, metadata)


def _checked_recipe(path: Path, metadata: dict[str, Any]) -> DetectorRecipe:
    """Return the recipe in the metadata of a file, which may be anything."""
    if "detector" not in metadata:
        raise InputError(
            f"{path.name} segments structures pixel by pixel and finds no boxes; expected a model "
            "that 'sparsem detect train' wrote."
        )
    try:
        recipe = _recipe_from(metadata)
        _check_values(recipe)
    except (*DAMAGE_ERRORS, IndexError) as error:
        raise InputError(
            f"{path.name} is no finished detector: {str(error).splitlines()[0]}"
        ) from None
    return recipe


def _recipe_from(metadata: dict[str, Any]) -> DetectorRecipe:
    """Return the recipe with tuples in place of the lists of JSON."""
    curves = metadata["confidence"].items()
    parsed = {
        "structures": tuple(metadata["structures"]),
        "pixel_nm": tuple(metadata["pixel_nm"]),
        "confidence": {name: (tuple(curve[0]), tuple(curve[1])) for name, curve in curves},
    }
    return DetectorRecipe(**{**metadata, **parsed})


def _check_values(recipe: DetectorRecipe) -> None:
    """Raise an error that ``DAMAGE_ERRORS`` lists if a value of a recipe cannot be used."""
    pixel_y, pixel_x = recipe.pixel_nm
    lengths = (pixel_y, pixel_x, recipe.input_px, recipe.queries)
    are_lengths_valid = all(math.isfinite(length) and length > 0 for length in lengths)
    if not recipe.structures or not are_lengths_valid:
        raise ValueError("values of its recipe are out of range")
    for structure in recipe.structures:
        checked_structure(structure)  # it becomes part of the name of a table
        if not MIN_SCORE <= recipe.threshold(structure) <= 1:
            raise ValueError("values of its recipe are out of range")
        recipe.confidence_of(structure, np.zeros(1, np.float32))
    dict(recipe.training)
