"""Slices for the page: the image, and every structure found and true as transparent pictures over it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.regions import at_shape
from sparsem.report.boxes import BoxLayer, edges_of
from sparsem.report.encode import cells_picture, grey_picture, mask_picture
from sparsem.report.figures import shown
from sparsem.report.layers import Layer
from sparsem.store.readers.source import Stack
from sparsem.store.volume import Volume

QUALITIES = (82, 70, 55, 40)  # of WebP, best first


def level_of_width(volume: Volume, pixels: int) -> int:
    """The finest level no edge of which is longer than ``pixels`` in a slice; the coarsest if there is none."""
    fits = (level for level in range(volume.levels) if max(volume.level(level).shape[1:]) <= pixels)
    return next(fits, volume.levels - 1)


def slice_pictures(
    image: Volume, layers: Sequence[Layer], boxes: Sequence[BoxLayer], numbers: Sequence[int], pixels: int, budget: int
) -> list[dict[str, Any]]:
    """One entry a slice: its number, the image, and by structure what was found and what is true, as data URIs.

    Args:
        image: what lies below.
        layers: in the order in which they are laid over.
        boxes: laid over them.
        numbers: of the slices.
        pixels: longest edge of a picture; a coarser level is taken for a larger slice.
        budget: bytes of all images together; quality is reduced until they fit.
    """
    level = level_of_width(image, pixels)
    step = round(image.voxel_size_of(level).z / image.voxel_size.z)
    greys = [shown(image.read(slice(z // step, z // step + 1), level)[0])[..., 0] for z in numbers]
    middle = greys[len(greys) // 2]
    quality = next((one for one in QUALITIES if len(grey_picture(middle, one)) * len(greys) <= budget), QUALITIES[-1])
    entries = []
    for z, grey in zip(numbers, greys, strict=True):
        found = {one.name: _picture(_slice_of(one.labels, level, z, step), one) for one in layers if one.labels}
        true = {one.name: _picture(_true_slice(one.truth, z, grey.shape), one) for one in layers if one.truth is not None}
        factor = image.shape[2] / grey.shape[1]
        for one in boxes:
            for own, known in ((found, one.found), (true, one.truth)):
                if known is not None:
                    own[one.name] = mask_picture(edges_of(known, z, factor, grey.shape), one.colour)
        entries.append({"z": z, "image": grey_picture(grey, quality), "found": found, "truth": true})
    return entries


def _slice_of(labels: Volume, level: int, z: int, step: int) -> NDArray[Any]:
    return np.asarray(labels.read(slice(z // step, z // step + 1), level)[0])


def _true_slice(truth: Stack, z: int, shape: tuple[int, ...]) -> NDArray[Any]:
    return at_shape(np.asarray(truth[z : z + 1])[0], (shape[0], shape[1]))


def _picture(labels: NDArray[Any], layer: Layer) -> str:
    return cells_picture(labels) if layer.cells else mask_picture(labels > 0, layer.colour)
