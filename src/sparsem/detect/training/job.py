"""The preparation of a detector's training: its images with their roles, scale and recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sparsem.boxes.geometry import Boxes, box_sizes, concatenate_boxes
from sparsem.boxes.tables import annotated_box_structures, read_annotated_boxes
from sparsem.detect.inference import GrayStatistics, sample_gray_statistics
from sparsem.detect.models.networks import build_detector, detector_class
from sparsem.detect.settings import DetectTrainSettings
from sparsem.detect.training.recipe import DetectorRecipe, read_detector
from sparsem.detect.training.splitting import ImageId, ImageRole, named_images, split_images
from sparsem.detect.training.tiles import TrainingImage
from sparsem.errors import InputError, SampleError
from sparsem.geometry import VoxelSize
from sparsem.models.device import choose_device
from sparsem.store.sample import Sample, sample_names_of
from sparsem.store.volume import Volume

MAX_ENLARGEMENT = 2.0  # largest factor by which an image is enlarged for small objects
# Percentiles of the sizes of objects that set the scale: small objects must be large enough to be
# seen, and large ones must fit into a tile.
SMALL_PERCENTILE = 10
LARGE_PERCENTILE = 95
MAX_OBJECT_FRACTION = 0.6  # fraction of the edge of a tile that a large object may take
NO_TRAINING_BOX = (
    "Expected boxes in the training images, but they hold none; annotate some, or hold out other "
    "images."
)


@dataclass(frozen=True)
class DetectionJob:
    """A training whose inputs were checked.

    Attributes:
        recipe: recipe of the detector.
        roles: role of each annotated image.
        images: all annotated images.
        raw: raw image of each sample, by which its slices are recognized under another name.
        inputs: fingerprints of what was read.
        device: device of the training.
    """

    recipe: DetectorRecipe
    roles: Mapping[ImageId, ImageRole]
    images: Mapping[ImageId, TrainingImage]
    raw: Mapping[str, Volume]
    inputs: Mapping[str, str]
    device: torch.device

    def ids_of(self, role: ImageRole) -> list[ImageId]:
        """Return the images with a role, in order."""
        return [image_id for image_id in sorted(self.roles) if self.roles[image_id] is role]

    def images_of(self, role: ImageRole) -> list[TrainingImage]:
        """Return the images with a role, in order."""
        return [self.images[image_id] for image_id in self.ids_of(role)]


class _AnnotatedSample(NamedTuple):
    """The annotation of one sample.

    Attributes:
        image: the image to train on.
        levels: its gray levels.
        boxes: boxes of all structures.
        slices: indices of the slices that are annotated with all structures.
        fingerprints: fingerprints of boxes and image, by name.
    """

    image: Volume
    levels: GrayStatistics
    boxes: Boxes
    slices: list[int]
    fingerprints: dict[str, str]


def detection_job(samples: Sequence[Sample], settings: DetectTrainSettings) -> DetectionJob:
    """Read the annotations of samples, and split their images.

    Raises:
        SampleError: boxes are missing, or were drawn on an image that was replaced.
        InputError: no training image holds a box.
        SettingsError: the architecture, tile size, device or split is not possible.
    """
    architecture = detector_class(settings.architecture)
    structures = settings.structures or _common_structures(samples)
    annotated: dict[str, _AnnotatedSample] = {}
    sample_names = sample_names_of(samples)
    for sample_name, sample in zip(sample_names, samples, strict=True):
        annotated[sample_name] = _read_annotation(sample, structures, settings.image)
    image_ids = _image_ids(annotated)
    roles = _roles_of(image_ids, settings)
    training_ids = {image_id for image_id, role in roles.items() if role is ImageRole.TRAIN}
    if settings.from_model:
        pixel_nm = read_detector(Path(settings.from_model)).pixel_nm
    else:
        pixel_nm = _pixel_nm(annotated, training_ids, settings, architecture.min_object_px)
    recipe = DetectorRecipe(
        settings.architecture, structures, settings.input_px, pixel_nm, settings.queries
    )
    images = _training_images(image_ids, annotated, recipe)
    if not any(len(images[image_id].kind) for image_id in training_ids):
        raise InputError(NO_TRAINING_BOX)
    # An impossible tile size is reported before anything is read.
    build_detector(settings.architecture, 1, settings.input_px, 10)
    raw = {name: sample.image("raw") for name, sample in zip(sample_names, samples, strict=True)}
    inputs = _inputs_of(annotated)
    return DetectionJob(recipe, roles, images, raw, inputs, choose_device(settings.device))


def _training_images(
    image_ids: Sequence[ImageId],
    annotated: Mapping[str, _AnnotatedSample],
    recipe: DetectorRecipe,
) -> dict[ImageId, TrainingImage]:
    """Return all annotated images with their boxes."""
    images = {}
    for image_id in image_ids:
        images[image_id] = _training_image(image_id, annotated[image_id.sample], recipe)
    return images


def _image_ids(annotated: Mapping[str, _AnnotatedSample]) -> list[ImageId]:
    """Return all annotated images, sample by sample."""
    image_ids = []
    for sample_name, annotation in annotated.items():
        image_ids += [ImageId(sample_name, z) for z in annotation.slices]
    return image_ids


def _inputs_of(annotated: Mapping[str, _AnnotatedSample]) -> dict[str, str]:
    """Return the fingerprints of all that was read, by its name."""
    inputs = {}
    for sample_name, annotation in annotated.items():
        for name, fingerprint in annotation.fingerprints.items():
            inputs[f"input {sample_name}/{name}"] = fingerprint
    return inputs


def _roles_of(
    image_ids: Sequence[ImageId], settings: DetectTrainSettings
) -> dict[ImageId, ImageRole]:
    """Return the role of each image as the settings demand it."""
    validation = named_images(image_ids, settings.validation, "--validation")
    test = named_images(image_ids, settings.test, "--test")
    excluded = named_images(image_ids, settings.exclude, "--exclude")
    return split_images(image_ids, settings.split, validation, test, excluded, settings.seed)


def _training_image(
    image_id: ImageId, annotation: _AnnotatedSample, recipe: DetectorRecipe
) -> TrainingImage:
    """Return an annotated image with its boxes."""
    boxes = annotation.boxes.of_image(image_id.z)
    return TrainingImage(
        str(image_id),
        annotation.image,
        image_id.z,
        boxes.corners,
        boxes.kind.astype(np.int64),
        annotation.levels,
        recipe.tile_shape(annotation.image.voxel_size),
    )


def _common_structures(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the structures with annotated boxes in every sample."""
    structures = [annotated_box_structures(sample) for sample in samples]
    common = tuple(name for name in structures[0] if all(name in names for names in structures))
    if not common:
        sample_names = " and ".join(sample.path.name for sample in samples[:3])
        raise SampleError(
            f"No structure has annotated boxes in {sample_names}; import some with 'sparsem detect "
            f"import {samples[0].path.name} --source BOXES'."
        )
    return common


def _read_annotation(
    sample: Sample, structures: Sequence[str], image_name: str | None
) -> _AnnotatedSample:
    """Return the boxes of all structures in a sample.

    Args:
        sample: annotated sample.
        structures: structures to train on.
        image_name: image to train on; if None, the newest one with the pixels that the boxes were
            drawn on.

    Raises:
        SampleError: boxes are missing, or lie on images with other pixels.
    """
    stored = {name: read_annotated_boxes(sample, name) for name in structures}
    image_name = _image_to_train_on(sample, {boxes.image for boxes in stored.values()}, image_name)
    slices = sorted(set.intersection(*(set(boxes.slices) for boxes in stored.values())))
    image = sample.image(image_name)
    fingerprints = {name: boxes.fingerprint for name, boxes in stored.items()}
    fingerprints[f"image {image_name}"] = image.fingerprint
    all_boxes = concatenate_boxes([boxes.boxes for boxes in stored.values()])
    return _AnnotatedSample(image, sample_gray_statistics(image), all_boxes, slices, fingerprints)


def _image_to_train_on(sample: Sample, box_images: set[str], image_name: str | None) -> str:
    """Return the given image, or the newest one with the pixels that boxes were drawn on.

    Raises:
        SampleError: boxes lie on images with other pixels.
    """
    drawn_on = next(iter(box_images))
    if image_name is None:
        newest = sample.newest_image
        has_same_pixels = sample.grid_image(newest) == sample.grid_image(drawn_on)
        image_name = newest if has_same_pixels else drawn_on
    if len(box_images) > 1 or sample.grid_image(image_name) != sample.grid_image(drawn_on):
        raise SampleError(
            f"Boxes in {sample.path.name} were drawn on {' and '.join(sorted(box_images))}, whose "
            f"pixels lie elsewhere than those of '{image_name}'; use that --image, or draw all "
            "boxes on one image."
        )
    return image_name


def _pixel_nm(
    annotated: Mapping[str, _AnnotatedSample],
    training_ids: set[ImageId],
    settings: DetectTrainSettings,
    min_object_px: float,
) -> tuple[float, float]:
    """Return the (y, x) nm of a pixel as the detector sees it, with the first sample's aspect.

    If ``settings.context_px`` is not set, most objects get a size that the detector finds well.
    """
    voxel = next(iter(annotated.values())).image.voxel_size
    if settings.context_px is not None:
        pixel_y = voxel.y * settings.context_px / settings.input_px
        pixel_x = voxel.x * settings.context_px / settings.input_px
        return pixel_y, pixel_x
    object_nm = _object_sizes_nm(annotated, training_ids)
    if not len(object_nm):
        raise InputError(NO_TRAINING_BOX)
    finest_nm = min(_mean_pixel_nm(sample.image.voxel_size) for sample in annotated.values())
    pixel = max(
        _pixel_of_objects_nm(object_nm, settings.input_px, min_object_px),
        finest_nm / MAX_ENLARGEMENT,
    )
    mean_nm = _mean_pixel_nm(voxel)
    return pixel * voxel.y / mean_nm, pixel * voxel.x / mean_nm


def _pixel_of_objects_nm(object_nm: NDArray[Any], input_px: int, min_object_px: float) -> float:
    """Return the nm of a pixel with which most objects are neither too small nor too large.

    Args:
        object_nm: (N, 2) width and height of all objects.
        input_px: edge of a tile as the detector sees it, px.
        min_object_px: size from which on the detector finds objects well, px.
    """
    small_nm = float(np.percentile(np.sqrt(object_nm.prod(axis=1)), SMALL_PERCENTILE))
    large_nm = float(np.percentile(object_nm.max(axis=1), LARGE_PERCENTILE))
    return max(small_nm / min_object_px, large_nm / (MAX_OBJECT_FRACTION * input_px))


def _object_sizes_nm(
    annotated: Mapping[str, _AnnotatedSample], training_ids: set[ImageId]
) -> NDArray[Any]:
    """Return width and height of all objects in training images, (N, 2) nm."""
    sizes = []
    for name, annotation in annotated.items():
        slices = [image_id.z for image_id in training_ids if image_id.sample == name]
        boxes = annotation.boxes[np.isin(annotation.boxes.z, slices)]
        voxel = annotation.image.voxel_size
        sizes.append(box_sizes(boxes.corners) * np.array([voxel.x, voxel.y]))
    return np.concatenate(sizes)


def _mean_pixel_nm(voxel: VoxelSize) -> float:
    """Return the geometric mean of the edges of a pixel, nm."""
    return float(np.sqrt(voxel.y * voxel.x))
