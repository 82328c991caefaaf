"""Segmentations that 3D Slicer cropped to their segments: restore their position in the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.source import Source, Stack

ADVICE = "in 3D Slicer, export it as a labelmap with the image as its reference"


@dataclass(frozen=True)
class PaddedStack:
    """A stack within a larger one, surrounded by background.

    Attributes:
        stack: the smaller stack.
        offset: (z, y, x) of its first voxel.
        shape: (z, y, x) of the larger stack.
    """

    stack: Stack
    offset: tuple[int, int, int]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.stack.dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        voxels = np.zeros((max(stop - start, 0), *self.shape[1:]), self.dtype)
        z, y, x = self.offset
        depth, height, width = self.stack.shape
        inner = voxels[:, y : y + height, x : x + width]
        first = max(start, z)
        last = min(stop, z + depth)
        if first < last:
            inner[first - start : last - start] = self.stack[first - z : last - z]
        return voxels


def uncrop_segmentation(source: Source, shapes: Sequence[tuple[int, int, int]]) -> Source:
    """Pad a cropped segmentation to the size of its image; return any other source unchanged.

    Args:
        source: a source.
        shapes: (z, y, x) of the images that it may have been drawn on, the likeliest first. If
            there are none, the file has to state the size of its image.

    Raises:
        InputError: the segmentation is cropped, and its position is outside of the image or is not
            known.
    """
    if source.placement is None or tuple(source.stack.shape) in shapes:
        return source
    offset, stated = source.placement
    name = source.files[0].name
    if stated is None and not shapes:
        if any(offset):
            raise InputError(
                f"{name} is cropped to its segments, and it does not state the size of its image; "
                f"{ADVICE}."
            )
        return source
    if stated is not None and shapes and stated not in shapes:
        raise InputError(
            f"{name} was drawn on an image of {stated} (z, y, x) voxels, "
            f"but the image here has {shapes[0]}; {ADVICE}."
        )
    image_shape = stated or shapes[0]
    _refuse_outside(source, offset, image_shape)
    return replace(source, stack=PaddedStack(source.stack, offset, image_shape))


def _refuse_outside(
    source: Source, offset: tuple[int, int, int], image_shape: tuple[int, int, int]
) -> None:
    """Raise an InputError if a segmentation covers voxels outside of its image."""
    lengths = zip(offset, source.stack.shape, strict=True)
    ends = tuple(first + length for first, length in lengths)
    is_beyond = any(end > length for end, length in zip(ends, image_shape, strict=True))
    if min(offset) < 0 or is_beyond:
        raise InputError(
            f"{source.files[0].name} covers the voxels {offset} to {ends} (z, y, x), "
            f"but the image has {image_shape}; {ADVICE}."
        )
