"""What a network learns from: slices of samples, labeled or not, at the scale at which it sees them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import UNKNOWN, LabeledSlices, annotations_on
from sparsem.errors import InputError
from sparsem.geometry import evenly_spaced
from sparsem.models.architectures import default_width
from sparsem.models.checkpoint import Recipe
from sparsem.segment.targets import interior_and_boundary, shrink_labels
from sparsem.segment.tiles import scaled_shape, shrink, shrink_mask
from sparsem.settings import SLICES
from sparsem.store.sample import Sample
from sparsem.store.slice_use import slice_digest
from sparsem.store.volume import Volume
from sparsem.training.settings import TrainSettings

BOUNDARY_PX = 3.0  # wide enough that no border slips between two pixels, narrow enough for two borders side by side


@dataclass(frozen=True)
class TrainingSlice:
    """One labeled slice as the network meets it.

    Attributes:
        image: (K, y, x) float32, standardized: the slice in the middle of its neighbors.
        target: (C, y, x) uint8: 0, 1, or 255 where not known.
        sample: its name.
        z: slice number.
        digest: of the slice in the raw image (``slice_digest``).
    """

    image: NDArray[np.float32]
    target: NDArray[np.uint8]
    sample: str
    z: int
    digest: str = ""

    @property
    def name(self) -> str:
        """Sample and slice number."""
        return f"{self.sample} {self.z}"


def read_training_slices(
    samples: Sequence[Sample], structures: tuple[str, ...], settings: TrainSettings
) -> tuple[list[TrainingSlice], Recipe, dict[str, Any]]:
    """All labeled slices at the network's scale, the recipe that follows from them, and what they were read from.

    The scale is that of the first sample (read / see of its pixels); other samples are brought to the same nm.
    """
    voxel = samples[0].voxel_size
    pixel_nm = (
        voxel.y * settings.context_px / settings.input_px,
        voxel.x * settings.context_px / settings.input_px,
    )
    width = settings.width or default_width(settings.architecture)
    recipe = Recipe(
        settings.architecture,
        width,
        structures,
        settings.input_px,
        pixel_nm,
        0.0,
        1.0,
        settings.adjacent_slices,
    )
    found: list[TrainingSlice] = []
    inputs: dict[str, Any] = {}
    for number, sample in enumerate(samples, 1):
        image, annotations = annotations_on(
            sample, _annotated(structures, settings), settings.image
        )
        factors, raw = recipe.factors(image.voxel_size), sample.image("raw")
        inputs |= {f"image {number}": image.fingerprint}
        inputs |= {f"{name} {number}": one.fingerprint for name, one in annotations.items()}
        prints = {
            name: dict(zip(map(str, one.z), one.slice_fingerprints, strict=True))
            for name, one in annotations.items()
            if one.slice_fingerprints
        }
        inputs |= {f"{name} {number}{SLICES}": of_slices for name, of_slices in prints.items()}
        chosen = sorted({z for one in annotations.values() for z in one.z})
        unknown = set(settings.slices) - set(chosen)
        if unknown:
            raise InputError(
                f"Slice {min(unknown)} of {sample.path.name} is not labeled; labeled are {', '.join(map(str, chosen))}."
            )
        for z in (z for z in chosen if not settings.slices or z in settings.slices):
            targets = [
                _target(one, z, factors, name == settings.cells, settings, recipe)
                for name, one in annotations.items()
            ]
            target = np.concatenate(targets)  # (structures, y, x)
            found.append(
                TrainingSlice(
                    _context(image, z, recipe), target, sample.name, z, slice_digest(raw, z)
                )
            )
    for place, structure in enumerate(structures):
        if not any((each.target[place] == 1).any() for each in found):
            raise InputError(
                f"No labeled slice holds a pixel of '{structure}': check its masks, --classes and --ignore."
            )
    mean = float(np.mean([each.image.mean(dtype=np.float64) for each in found]))
    std = (
        float(
            np.sqrt(
                np.mean([np.square(each.image - mean, dtype=np.float64).mean() for each in found])
            )
        )
        or 1.0
    )
    slices = [replace(each, image=((each.image - mean) / std).astype(np.float32)) for each in found]
    return slices, replace(recipe, mean=mean, std=std), inputs


def _annotated(structures: tuple[str, ...], settings: TrainSettings) -> tuple[str, ...]:
    """The annotations that structures are learnt from; that of the cells, which gives two of them, is the last."""
    return (*structures[:-2], settings.cells) if settings.cells else structures


def _target(
    annotation: LabeledSlices,
    z: int,
    factors: tuple[float, float],
    cells: bool,
    settings: TrainSettings,
    recipe: Recipe,
) -> NDArray[np.uint8]:
    """(1, y, x), or (2, y, x) of cells, at the network's scale; UNKNOWN all over where slice ``z`` is not annotated."""
    if z not in annotation.z:
        shape = scaled_shape((annotation.labels.shape[1], annotation.labels.shape[2]), factors)
        return np.full((2 if cells else 1, *shape), UNKNOWN, np.uint8)
    index = annotation.z.index(z)
    if not cells:
        return shrink_mask(annotation.mask(index), factors, UNKNOWN)[None]
    labels, known = (shrink_labels(one, factors) for one in annotation.objects(index))
    width_px = settings.boundary_nm / min(recipe.pixel_nm) if settings.boundary_nm else BOUNDARY_PX
    return interior_and_boundary(labels, known, width_px, outlined=annotation.ignore == 0)


def read_unlabeled_slices(
    samples: Sequence[Sample],
    learn: Sequence[TrainingSlice],
    recipe: Recipe,
    settings: TrainSettings,
) -> tuple[list[NDArray[np.float32]], dict[str, str]]:
    """Slices that nobody labeled, (K, y, x) each, evenly spaced, as the network sees them; and the images that they are of.

    Args:
        samples: those that are learnt from; those that ``settings.also`` names are added.
        learn: the labeled slices, which are left out.
        recipe: the scale, and the gray levels of the labeled slices.
        settings: how many.

    Raises:
        InputError: every slice is labeled.
        SampleError: there is no sample of a name.
    """
    everything = [*samples, *(Sample.open(path) for path in settings.unlabeled_sample)]
    found: list[NDArray[np.float32]] = []
    inputs: dict[str, str] = {}
    for number, sample in enumerate(everything, 1):
        image = sample.image(settings.image)
        labeled = (
            {each.z for each in learn if each.sample == sample.name}
            if number <= len(samples)
            else set()
        )
        copies = set(sample.image("raw").repeated)
        free = [z for z in range(image.shape[0]) if z not in labeled | copies]
        count = min(len(free), -(-settings.unlabeled_slices // len(everything)))
        inputs[f"unlabeled {number}"] = image.fingerprint
        for place in evenly_spaced(len(free), count) if count else []:
            context = _context(image, free[place], recipe)
            found.append(((context - recipe.mean) / recipe.std).astype(np.float32))
    if not found:
        raise InputError(
            "Every slice is labeled: --semi learns from slices that are not; name another sample with --unlabeled-sample."
        )
    return found, inputs


def _context(image: Volume, z: int, recipe: Recipe) -> NDArray[np.float32]:
    """(K, y, x) a slice in the middle of its neighbors, at the network's scale."""
    around = np.clip(
        np.arange(z - recipe.adjacent_slices, z + recipe.adjacent_slices + 1), 0, image.shape[0] - 1
    ).tolist()
    factors = recipe.factors(image.voxel_size)
    return np.stack([shrink(image.read(slice(one, one + 1))[0], factors) for one in around])
