"""Segmentations that 3D Slicer saved cropped to their segments: put back where they lie in the image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.source import Source, Stack


@dataclass(frozen=True)
class PaddedStack:
    """A stack within a larger one; around it is background.

    Attributes:
        stack: the smaller one.
        offset: (z, y, x) of its first voxel.
        shape: (z, y, x) of the larger one.
    """

    stack: Stack
    offset: tuple[int, int, int]
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self.stack.dtype

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        start, stop, _ = slices.indices(self.shape[0])
        found = np.zeros((max(stop - start, 0), *self.shape[1:]), self.dtype)
        z, y, x = self.offset
        depth, height, width = self.stack.shape
        first, last = max(start, z), min(stop, z + depth)
        if first < last:
            found[first - start : last - start, y : y + height, x : x + width] = self.stack[
                first - z : last - z
            ]
        return found


def uncrop_segmentation(found: Source, shapes: Sequence[tuple[int, int, int]]) -> Source:
    """A segmentation as large as its image; anything else as it is.

    Args:
        found: a source.
        shapes: (z, y, x) of the images that it may have been drawn on, the likeliest first. If there are none, the file has to
            state the size of its image.

    Raises:
        InputError: the segmentation is cropped, and its place is outside of the image or is not known.
    """
    if found.placement is None or tuple(found.stack.shape) in shapes:
        return found
    offset, stated = found.placement
    name = found.files[0].name
    advice = "in 3D Slicer, export it as a labelmap with the image as its reference"
    if stated is None and not shapes:
        if any(offset):
            raise InputError(
                f"{name} is cropped to its segments, and it does not state the size of its image; {advice}."
            )
        return found
    if stated is not None and shapes and stated not in shapes:
        raise InputError(
            f"{name} was drawn on an image of {stated} (z, y, x) voxels, but the image here has {shapes[0]}; {advice}."
        )
    whole = stated or shapes[0]
    ends = tuple(start + length for start, length in zip(offset, found.stack.shape, strict=True))
    if min(offset) < 0 or any(end > length for end, length in zip(ends, whole, strict=True)):
        raise InputError(
            f"{name} covers the voxels {offset} to {ends} (z, y, x), but the image has {whole}; {advice}."
        )
    return replace(found, stack=PaddedStack(found.stack, offset, whole))
