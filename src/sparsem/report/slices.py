"""Slices for the page: the image, and structures as transparent images over it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.label_numbers import UNLABELED
from sparsem.io.readers.source import Stack
from sparsem.labels.overlaps import resample_labels
from sparsem.report.box_layers import BoxLayer, box_edges
from sparsem.report.encode import encode_numbers, gray_image_uri, mask_uri
from sparsem.report.layers import StructureLayer
from sparsem.report.plots.figures import stretch_contrast
from sparsem.store.volume import Volume

WEBP_QUALITIES = (82, 70, 55, 40)  # best first
Gray = NDArray[np.uint8]


def level_of_width(volume: Volume, pixels: int) -> int:
    """Return the finest level whose slices have no edge longer than ``pixels``.

    If no level is that small, return the coarsest.
    """
    for level in range(volume.levels):
        if max(volume.level(level).shape[1:]) <= pixels:
            return level
    return volume.levels - 1


def scale_bar(width_nm: float) -> tuple[float, str]:
    """Return a scale bar for an image: a round length of about a fifth of its width.

    Returns:
        Length as a fraction of the width, and as text: 1, 2 or 5 times a power of ten.
    """
    max_length = width_nm / 5 * (1 + 1e-9)
    decade = 10.0 ** math.floor(math.log10(width_nm / 5))
    length = max(step * decade for step in (1, 2, 5) if step * decade <= max_length)
    text = f"{length / 1000:g} µm" if length >= 1000 else f"{length:g} nm"
    return length / width_nm, text


def encode_slices(
    image: Volume,
    layers: Sequence[StructureLayer],
    boxes: Sequence[BoxLayer],
    slice_numbers: Sequence[int],
    pixels: int,
    max_bytes: int,
    names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Return one entry for each slice.

    Args:
        image: the volume that is shown.
        layers: structures, in the order in which they are drawn over the image.
        boxes: drawn over the structures.
        slice_numbers: slices to encode.
        pixels: longest edge of an encoded slice; a coarser level is read for a larger one.
        max_bytes: of all encoded images together; their quality is reduced until they fit.
        names: of all slices of the stack, if they have names.

    Returns:
        Dictionaries with ``z``, ``name``, ``bar`` (see ``scale_bar``), ``image`` (data URI),
        ``predicted`` and ``truth`` (name of a layer -> data URI, or numbers of objects, see
        ``encode.encode_numbers``).
    """
    level = level_of_width(image, pixels)
    grays = [_read_gray(image, level, z) for z in slice_numbers]
    quality = _quality_within(grays, max_bytes)
    entries = []
    for z, gray in zip(slice_numbers, grays, strict=True):
        width_px = image.size_of(z)[1]
        predicted = _encode_predicted(image, layers, level, z)
        truth = _encode_truth(image, layers, z, gray.shape)
        _add_boxes(predicted, truth, boxes, z, gray.shape, width_px / gray.shape[1])
        entry = {
            "z": z,
            "name": names[z] if names else "",
            "bar": scale_bar(width_px * image.voxel_size.x),
            "image": gray_image_uri(gray, quality),
            "predicted": predicted,
            "truth": truth,
        }
        entries.append(entry)
    return entries


def _quality_within(grays: Sequence[Gray], max_bytes: int) -> int:
    """Return the best quality at which all slices fit, judged by the middle one."""
    middle = grays[len(grays) // 2]
    for quality in WEBP_QUALITIES:
        if len(gray_image_uri(middle, quality)) * len(grays) <= max_bytes:
            return quality
    return WEBP_QUALITIES[-1]


def _read_gray(image: Volume, level: int, z: int) -> Gray:
    """Return a slice of a level with stretched contrast."""
    gray = stretch_contrast(_read_slice(image, image, level, z))
    return np.asarray(gray[..., 0])


def _read_slice(volume: Volume, image: Volume, level: int, z: int) -> NDArray[Any]:
    """Return slice ``z`` (y, x) of a level, without the padding of a smaller image.

    Args:
        volume: the volume to read, of the shape of ``image``.
        image: gives the size of every slice.
        level: of the pyramid.
        z: number of the slice at full resolution.
    """
    step = round(image.voxel_size_of(level).z / image.voxel_size.z)
    labels = np.asarray(volume.read(slice(z // step, z // step + 1), level)[0])
    return labels[_slice_extent(image, z, level)]


def _slice_extent(image: Volume, z: int, level: int) -> tuple[slice, slice]:
    """Return the rows and columns of a level that a slice fills.

    Images of a montage may be smaller than the largest one.
    """
    full_shape = image.shape[1:]
    level_shape = image.level(level).shape[1:]
    height, width = image.size_of(z)
    n_rows = max(1, round(height * level_shape[0] / full_shape[0]))
    n_columns = max(1, round(width * level_shape[1] / full_shape[1]))
    return slice(0, n_rows), slice(0, n_columns)


def _encode_predicted(
    image: Volume, layers: Sequence[StructureLayer], level: int, z: int
) -> dict[str, Any]:
    """Return name of a structure -> its result in a slice: numbers, or a mask as a data URI."""
    encoded: dict[str, Any] = {}
    for layer in layers:
        if layer.labels is not None:
            labels = _read_slice(layer.labels, image, level, z)
            encoded[layer.name] = _encode_labels(labels, layer, layer.numbered)
    return encoded


def _encode_truth(
    image: Volume, layers: Sequence[StructureLayer], z: int, shape: tuple[int, ...]
) -> dict[str, Any]:
    """Return name of a structure -> its ground truth in a slice: numbers of cells, or a mask."""
    encoded: dict[str, Any] = {}
    for layer in layers:
        if layer.truth is not None and z in layer.truth.z:
            labels = _read_true_slice(layer.truth.stack, image, z, shape)
            encoded[layer.name] = _encode_labels(labels, layer, layer.cells)
    return encoded


def _read_true_slice(truth: Stack, image: Volume, z: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a slice of ground truth at the shape (y, x) of an encoded slice."""
    height, width = image.size_of(z)
    labels = np.asarray(truth[z : z + 1])[0][:height, :width]
    return resample_labels(np.where(labels == UNLABELED, 0, labels), (shape[0], shape[1]))


def _encode_labels(labels: NDArray[Any], layer: StructureLayer, numbered: bool) -> Any:
    """Return the labels of a slice as numbers, or as a data URI in the color of the structure."""
    return encode_numbers(labels) if numbered else mask_uri(labels > 0, layer.color)


def _add_boxes(
    predicted: dict[str, Any],
    truth: dict[str, Any],
    layers: Sequence[BoxLayer],
    z: int,
    shape: tuple[int, ...],
    factor: float,
) -> None:
    """Add the edges of the boxes of a slice to the data URIs of its layers."""
    for layer in layers:
        for boxes, uris in ((layer.predicted, predicted), (layer.truth, truth)):
            if boxes is not None:
                uris[layer.name] = mask_uri(box_edges(boxes, z, factor, shape), layer.color)
