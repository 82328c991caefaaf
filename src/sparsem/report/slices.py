"""Slices for the page: the image, and every structure found and true as transparent pictures over it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.label_numbers import UNLABELED
from sparsem.io.readers.source import Stack
from sparsem.labels.overlaps import resample_labels
from sparsem.report.boxes import BoxLayer, edges_of
from sparsem.report.encode import cells_picture, gray_picture, mask_picture
from sparsem.report.layers import Layer
from sparsem.report.plots.figures import shown
from sparsem.store.volume import Volume

QUALITIES = (82, 70, 55, 40)  # of WebP, best first


def level_of_width(volume: Volume, pixels: int) -> int:
    """The finest level no edge of which is longer than ``pixels`` in a slice; the coarsest if there is none."""
    fits = (level for level in range(volume.levels) if max(volume.level(level).shape[1:]) <= pixels)
    return next(fits, volume.levels - 1)


def scale_bar(width_nm: float) -> tuple[float, str]:
    """A length of 1, 2 or 5 and noughts that is about a fifth of a picture of ``width_nm``: its part of the width, and in words."""
    decade = 10.0 ** math.floor(math.log10(width_nm / 5))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= width_nm / 5 * (1 + 1e-9))
    return length / width_nm, f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"


def slice_pictures(
    image: Volume,
    layers: Sequence[Layer],
    boxes: Sequence[BoxLayer],
    numbers: Sequence[int],
    pixels: int,
    budget: int,
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """One entry a slice: its number and name, a scale bar, the image, and by structure what was found and what is true, as data URIs.

    Args:
        image: what lies below.
        layers: in the order in which they are laid over.
        boxes: laid over them.
        numbers: of the slices.
        pixels: longest edge of a picture; a coarser level is taken for a larger slice.
        budget: bytes of all images together; quality is reduced until they fit.
        names: of all slices, if they have any.
    """
    level = level_of_width(image, pixels)
    step = round(image.voxel_size_of(level).z / image.voxel_size.z)
    parts = [_there(image, z, level) for z in numbers]
    grays = [
        shown(image.read(slice(z // step, z // step + 1), level)[0][part])[..., 0]
        for z, part in zip(numbers, parts, strict=True)
    ]
    middle = grays[len(grays) // 2]
    quality = next(
        (one for one in QUALITIES if len(gray_picture(middle, one)) * len(grays) <= budget),
        QUALITIES[-1],
    )
    entries = []
    for z, gray, part in zip(numbers, grays, parts, strict=True):
        found = {
            one.name: _picture(_slice_of(one.labels, level, z, step)[part], one)
            for one in layers
            if one.labels
        }
        labeled = [one for one in layers if one.truth and z in one.truth.z]
        true = {
            one.name: _picture(_true_slice(one.truth.stack, image, z, gray.shape), one)
            for one in labeled
            if one.truth
        }
        factor = image.size_of(z)[1] / gray.shape[1]
        for one in boxes:
            for own, known in ((found, one.found), (true, one.truth)):
                if known is not None:
                    own[one.name] = mask_picture(edges_of(known, z, factor, gray.shape), one.color)
        about = {
            "z": z,
            "name": names[z] if names else "",
            "bar": scale_bar(image.size_of(z)[1] * image.voxel_size.x),
        }
        entries.append(
            {**about, "image": gray_picture(gray, quality), "found": found, "truth": true}
        )
    return entries


def _there(image: Volume, z: int, level: int) -> tuple[slice, slice]:
    """Where a slice holds something at a level: a picture may be smaller than the largest one."""
    whole, own = image.shape[1:], image.level(level).shape[1:]
    y, x = (
        max(1, round(size * length / full))
        for size, length, full in zip(image.size_of(z), own, whole, strict=True)
    )
    return slice(0, y), slice(0, x)


def _slice_of(labels: Volume, level: int, z: int, step: int) -> NDArray[Any]:
    return np.asarray(labels.read(slice(z // step, z // step + 1), level)[0])


def _true_slice(truth: Stack, image: Volume, z: int, shape: tuple[int, ...]) -> NDArray[Any]:
    height, width = image.size_of(z)
    labels = np.asarray(truth[z : z + 1])[0][:height, :width]
    return resample_labels(np.where(labels == UNLABELED, 0, labels), (shape[0], shape[1]))


def _picture(labels: NDArray[Any], layer: Layer) -> str:
    return cells_picture(labels) if layer.cells else mask_picture(labels > 0, layer.color)
