"""The inputs of the stage ``measure``: labels, numbered objects, and the image for texture."""

from typing import Any

import numpy as np

from sparsem.errors import SampleError, SettingsError
from sparsem.labels.objects import objects, recorded_object_settings
from sparsem.labels.results import require_same_pixels, result_labels, result_names
from sparsem.labels.settings import ObjectSettings
from sparsem.measure.settings import MeasureSettings
from sparsem.measure.structures import SmallComponents
from sparsem.settings import changed, nearest
from sparsem.store.names import checked_structure, is_step
from sparsem.store.sample import Sample
from sparsem.store.volume import Volume
from sparsem.workflow.execution import Execution

Volumes = dict[str, Volume]


def select_labels(sample: Sample, settings: MeasureSettings) -> Volumes:
    """Return the labels of every structure to measure, by name, the cells last.

    Raises:
        SampleError: there are no labels, a structure has no labels, or the labels differ in shape,
            voxel size or alignment.
        InputError: a structure has a reserved name.
        SettingsError: ``min_volume_um3`` names a structure that is not measured.
    """
    names = list(settings.structures) or result_names(sample)
    if not names:
        raise SampleError(
            f"{sample.path.name} has no labels to measure; run 'sparsem predict' first, or "
            "'sparsem detect masks' if it has boxes."
        )
    for name in names:
        if not is_step(name):
            checked_structure(name)
    for name in settings.min_volume_um3:
        if name not in names:
            raise SettingsError(
                f"min_volume_um3 names '{name}', which is not measured{nearest(name, names)}"
            )
    cells_last = sorted(names, key=lambda name: name == settings.cells)
    labels = {name: result_labels(sample, name) for name in cells_last}
    require_same_pixels(sample, labels, "name structures that belong together with --structure")
    return labels


def select_image(sample: Sample, settings: MeasureSettings, labels: Volume) -> Volume | None:
    """Return the image whose texture is measured; None without an image, or without texture.

    Raises:
        SampleError: the image and the labels differ in shape.
    """
    if not settings.texture or not sample.has_image:
        return None
    name = settings.image or sample.name_of_image(labels)
    image = sample.image(name)
    if image.shape != labels.shape:
        raise SampleError(
            f"The image {name} of {sample.path.name} has the shape {image.shape}, but its labels "
            f"have {labels.shape}; use --image with the image of the labels, or --no-texture."
        )
    return image


def number_masks(
    sample: Sample, labels: Volumes, settings: MeasureSettings, on: Execution
) -> tuple[Volumes, dict[str, SmallComponents]]:
    """Return numbered objects of every structure, and the components that are too small.

    A mask is split into connected objects; labels that number objects, as those of cells do, are
    returned as they are.
    """
    volumes: Volumes = {}
    small_components: dict[str, SmallComponents] = {}
    for name, volume in labels.items():
        is_mask = volume.dtype == np.uint8 and name != settings.cells  # numbers are 32 bit
        if is_mask:
            result = objects(sample, name, _object_settings(sample, name, settings), on=on)
            volumes[name] = result.labels
            small_components[name] = SmallComponents(result.small_objects, result.small_voxels)
        else:
            volumes[name] = volume
            small_components[name] = SmallComponents(0, 0)
    return volumes, small_components


def _object_settings(sample: Sample, name: str, settings: MeasureSettings) -> ObjectSettings:
    """Return how the objects of a mask are numbered: as before, but for the minimum size."""
    earlier = recorded_object_settings(sample, name)
    sizes: dict[str, Any] = {}
    if settings.min_voxels is not None:
        sizes["min_voxels"] = settings.min_voxels
    if name in settings.min_volume_um3:
        sizes["min_volume_um3"] = settings.min_volume_um3[name]
    return changed(earlier, sizes)
