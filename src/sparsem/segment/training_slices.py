"""Slices to train on: slices of samples, labeled or unlabeled, at the network's scale."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.labeled_slices import (
    UNKNOWN,
    LabeledSlices,
    annotation_of_output,
    annotations_on,
    boundary_of_objects,
    outputs_of_cells,
)
from sparsem.errors import InputError
from sparsem.geometry import evenly_spaced
from sparsem.models.architectures import default_width
from sparsem.models.checkpoint import Recipe
from sparsem.segment.earlier_model import earlier_recipe
from sparsem.segment.targets import (
    boundary_between_objects,
    interior_and_boundary,
    shrink_labels,
)
from sparsem.segment.tiles import scaled_shape, shrink, shrink_mask
from sparsem.settings import SLICES
from sparsem.store.sample import Sample, sample_names_of
from sparsem.store.slice_use import slice_digest
from sparsem.store.volume import Volume
from sparsem.training.settings import TrainSettings

# Width of a boundary between cells, in pixels of the network: wide enough that no boundary is lost
# between two pixels, narrow enough for two boundaries side by side.
BOUNDARY_PX = 3.0


@dataclass(frozen=True)
class TrainingSlice:
    """One labeled slice at the network's scale.

    Attributes:
        image: (K, y, x) float32, standardized: the slice in the middle of its adjacent slices.
        target: (C, y, x) uint8: 0, 1, or 255 where it is not known.
        sample: name of its sample.
        z: slice number.
        digest: digest of the slice in the raw image (``slice_digest``).
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
    """Read all labeled slices at the network's scale.

    The scale is that of the first sample: ``context_px`` of its pixels for ``input_px`` of the
    network. Other samples are resampled to the same nm per pixel.

    Args:
        samples: samples with annotations of every structure.
        structures: the outputs of the network, in the order of the targets' channels: structures,
            boundaries of ``settings.objects``, interior and boundary of ``settings.cells``.
        settings: settings of the training.

    Returns:
        The slices, standardized by the mean and standard deviation of all of them; the recipe
        with these; and the fingerprints of the data that were read.

    Raises:
        SampleError: a structure is not annotated, or on an image that was replaced.
        InputError: a slice of the settings is not labeled, or a structure has no pixel.
    """
    recipe = _initial_recipe(samples[0], structures, settings)
    slices: list[TrainingSlice] = []
    inputs: dict[str, Any] = {}
    annotation_names = _annotation_names(structures)
    names = sample_names_of(samples)
    for number, (sample, sample_name) in enumerate(zip(samples, names, strict=True), 1):
        image, annotations = annotations_on(sample, annotation_names, settings.image)
        inputs |= _fingerprints(image, annotations, number)
        slices += _read_labeled_slices(sample, sample_name, image, annotations, settings, recipe)
    _require_every_structure(slices, structures, settings)
    standardized, mean, std = _standardize(slices)
    return standardized, replace(recipe, mean=mean, std=std), inputs


def _read_labeled_slices(
    sample: Sample,
    sample_name: str,
    image: Volume,
    annotations: Mapping[str, LabeledSlices],
    settings: TrainSettings,
    recipe: Recipe,
) -> list[TrainingSlice]:
    """Read the labeled slices of a sample at the network's scale, not standardized."""
    raw = sample.image("raw")
    factors = recipe.factors(image.voxel_size)
    slices = []
    for z in _slice_numbers(sample, annotations, settings):
        target = _target(annotations, z, factors, settings, recipe)
        digest = slice_digest(raw, z)
        context = _read_context(image, z, recipe)
        slices.append(TrainingSlice(context, target, sample_name, z, digest))
    return slices


def _standardize(
    slices: Sequence[TrainingSlice],
) -> tuple[list[TrainingSlice], float, float]:
    """Return the slices with mean 0 and deviation 1 over all of them, and mean and deviation."""
    mean, std = _mean_and_std(slices)
    standardized = []
    for labeled in slices:
        image = ((labeled.image - mean) / std).astype(np.float32)
        standardized.append(replace(labeled, image=image))
    return standardized, mean, std


def _initial_recipe(sample: Sample, structures: tuple[str, ...], settings: TrainSettings) -> Recipe:
    """Return the recipe before the gray levels of the slices are known.

    Raises:
        InputError: the model to start from is missing, or is no network for pixels.
        SettingsError: settings state something else than that model.
    """
    if settings.from_model:
        return earlier_recipe(settings, structures)
    voxel = sample.voxel_size
    pixel_nm = (
        voxel.y * settings.context_px / settings.input_px,
        voxel.x * settings.context_px / settings.input_px,
    )
    return Recipe(
        architecture=settings.architecture,
        width=settings.width or default_width(settings.architecture),
        structures=structures,
        input_px=settings.input_px,
        pixel_nm=pixel_nm,
        mean=0.0,
        std=1.0,
        adjacent_slices=settings.adjacent_slices,
    )


def _annotation_names(structures: tuple[str, ...]) -> tuple[str, ...]:
    """Return the annotations of the outputs, each once; those of objects and cells give two."""
    return tuple(dict.fromkeys(annotation_of_output(name) for name in structures))


def _fingerprints(
    image: Volume, annotations: Mapping[str, LabeledSlices], number: int
) -> dict[str, Any]:
    """Return the fingerprints of a sample's image, annotations and labeled slices.

    ``number`` is that of the sample, counted from 1, and part of the keys.
    """
    fingerprints: dict[str, Any] = {f"image {number}": image.fingerprint}
    for name, annotation in annotations.items():
        fingerprints[f"{name} {number}"] = annotation.fingerprint
    for name, annotation in annotations.items():
        if annotation.slice_fingerprints:
            by_slice = dict(zip(map(str, annotation.z), annotation.slice_fingerprints, strict=True))
            fingerprints[f"{name} {number}{SLICES}"] = by_slice
    return fingerprints


def _slice_numbers(
    sample: Sample, annotations: Mapping[str, LabeledSlices], settings: TrainSettings
) -> list[int]:
    """Return the labeled slices to train on, ascending.

    Raises:
        InputError: a slice of the settings is not labeled.
    """
    labeled = sorted({z for annotation in annotations.values() for z in annotation.z})
    unknown = set(settings.slices) - set(labeled)
    if unknown:
        raise InputError(
            f"Slice {min(unknown)} of {sample.path.name} is not labeled; "
            f"labeled are {', '.join(map(str, labeled))}."
        )
    return [z for z in labeled if not settings.slices or z in settings.slices]


def _require_every_structure(
    slices: Sequence[TrainingSlice], structures: Sequence[str], settings: TrainSettings
) -> None:
    """Refuse structures without a pixel. Objects need not touch.

    Raises:
        InputError: the first such structure is named.
    """
    boundaries = [boundary_of_objects(name) for name in settings.objects]
    for channel, structure in enumerate(structures):
        is_drawn = any((labeled.target[channel] == 1).any() for labeled in slices)
        if not is_drawn and structure not in boundaries:
            raise InputError(
                f"No labeled slice contains a pixel of '{structure}': "
                "check its masks, --classes and --ignore."
            )


def _mean_and_std(slices: Sequence[TrainingSlice]) -> tuple[float, float]:
    """Return mean and standard deviation of all gray levels; every slice has the same weight."""
    mean = float(np.mean([labeled.image.mean(dtype=np.float64) for labeled in slices]))
    variances = [np.square(labeled.image - mean, dtype=np.float64).mean() for labeled in slices]
    std = float(np.sqrt(np.mean(variances)))
    return mean, std or 1.0


def _target(
    annotations: Mapping[str, LabeledSlices],
    z: int,
    factors: tuple[float, float],
    settings: TrainSettings,
    recipe: Recipe,
) -> NDArray[np.uint8]:
    """Return the targets (C, y, x) of all outputs on slice ``z``, at the network's scale."""
    targets: dict[str, NDArray[np.uint8]] = {}
    for name, annotation in annotations.items():
        names = _outputs_of(name, settings)
        if z not in annotation.z:
            unknown = _unknown_target(annotation, factors)
            targets |= dict.fromkeys(names, unknown)
        else:
            planes = _planes_of_annotation(name, annotation, z, factors, settings, recipe)
            targets |= dict(zip(names, planes, strict=True))
    return np.stack([targets[output] for output in recipe.structures])


def _outputs_of(name: str, settings: TrainSettings) -> tuple[str, ...]:
    """Return the outputs of a network that are trained on an annotation."""
    if name == settings.cells:
        return outputs_of_cells(name)
    if name in settings.objects:
        return name, boundary_of_objects(name)
    return (name,)


def _planes_of_annotation(
    name: str,
    annotation: LabeledSlices,
    z: int,
    factors: tuple[float, float],
    settings: TrainSettings,
    recipe: Recipe,
) -> Sequence[NDArray[np.uint8]]:
    """Return the targets (y, x) of the outputs of an annotation on a labeled slice."""
    index = annotation.z.index(z)
    width_px = _boundary_px(settings, recipe)
    is_outlined = annotation.ignore == 0
    if name == settings.cells:
        ids, is_known = _shrink_objects(annotation.objects(index), factors)
        return list(interior_and_boundary(ids, is_known, width_px, is_outlined))
    mask = shrink_mask(annotation.mask(index), factors, UNKNOWN)
    if name not in settings.objects:
        return [mask]
    ids, is_known = _shrink_objects(annotation.separate_objects(index), factors)
    return [mask, boundary_between_objects(ids, is_known, width_px, is_outlined)]


def _boundary_px(settings: TrainSettings, recipe: Recipe) -> float:
    """Return the width of boundaries in pixels of the network."""
    return settings.boundary_nm / min(recipe.pixel_nm) if settings.boundary_nm else BOUNDARY_PX


def _shrink_objects(
    objects: tuple[NDArray[Any], NDArray[np.bool_]], factors: tuple[float, float]
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return numbered objects, and where they are known, at the network's scale."""
    ids, is_known = objects
    return shrink_labels(ids, factors), shrink_labels(is_known, factors)


def _unknown_target(annotation: LabeledSlices, factors: tuple[float, float]) -> NDArray[np.uint8]:
    """Return the target (y, x) of a slice without annotation: UNKNOWN everywhere."""
    _, height, width = annotation.labels.shape
    return np.full(scaled_shape((height, width), factors), UNKNOWN, np.uint8)


def read_unlabeled_slices(
    samples: Sequence[Sample],
    labeled: Sequence[TrainingSlice],
    recipe: Recipe,
    settings: TrainSettings,
) -> tuple[list[NDArray[np.float32]], dict[str, str]]:
    """Read evenly spaced unlabeled slices (K, y, x), standardized, at the network's scale.

    Args:
        samples: the samples to train on; those of ``settings.unlabeled_sample`` are added.
        labeled: the labeled slices, which are left out.
        recipe: the scale, and mean and standard deviation of the labeled slices.
        settings: ``unlabeled_slices`` is their number, over all samples.

    Returns:
        The slices, and the fingerprints of their images.

    Raises:
        InputError: every slice is labeled.
        SampleError: an unlabeled sample does not exist.
    """
    all_samples = [*samples, *(Sample.open(path) for path in settings.unlabeled_sample)]
    names = sample_names_of(samples)
    n_per_sample = math.ceil(settings.unlabeled_slices / len(all_samples))
    slices: list[NDArray[np.float32]] = []
    inputs: dict[str, str] = {}
    for number, sample in enumerate(all_samples, 1):
        image = sample.image(settings.image)
        inputs[f"unlabeled {number}"] = image.fingerprint
        excluded = set(sample.image("raw").repeated)
        if number <= len(samples):
            excluded |= {each.z for each in labeled if each.sample == names[number - 1]}
        slices += _read_spaced_slices(image, excluded, n_per_sample, recipe)
    _refuse_no_slices(slices)
    return slices, inputs


def _read_spaced_slices(
    image: Volume, excluded: set[int], n: int, recipe: Recipe
) -> list[NDArray[np.float32]]:
    """Read evenly spaced slices of an image (K, y, x), standardized, at the network's scale."""
    slices = []
    for z in _spaced_numbers(image.shape[0], excluded, n):
        context = _read_context(image, z, recipe)
        slices.append(((context - recipe.mean) / recipe.std).astype(np.float32))
    return slices


def _refuse_no_slices(slices: Sequence[NDArray[np.float32]]) -> None:
    """Raise an InputError if no slice is unlabeled."""
    if not slices:
        raise InputError(
            "Every slice is labeled, and --semi needs unlabeled slices. "
            "Name another sample with --unlabeled-sample."
        )


def _spaced_numbers(n_slices: int, excluded: set[int], max_count: int) -> list[int]:
    """Return at most ``max_count`` evenly spaced slices that are not excluded."""
    available = [z for z in range(n_slices) if z not in excluded]
    count = min(len(available), max_count)
    if not count:
        return []
    return [available[position] for position in evenly_spaced(len(available), count)]


def _read_context(image: Volume, z: int, recipe: Recipe) -> NDArray[np.float32]:
    """Read a slice in the middle of its adjacent slices (K, y, x), at the network's scale.

    Beyond the first and the last slice of the stack these are repeated.
    """
    numbers = np.arange(z - recipe.adjacent_slices, z + recipe.adjacent_slices + 1)
    factors = recipe.factors(image.voxel_size)
    planes = []
    for number in np.clip(numbers, 0, image.shape[0] - 1).tolist():
        plane = image.read(slice(number, number + 1))[0]
        planes.append(shrink(plane, factors))
    return np.stack(planes)
