"""Labels of a part of slices: a box, or a mask of where labels are known.

Outside of the part nothing is known. A single cell of interest in tissue is the usual case: around
it nobody labeled anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.annotation.settings import BOX_EXAMPLE, parse_box
from sparsem.errors import InputError
from sparsem.io.readers.open import open_source
from sparsem.io.readers.source import Source, Stack

Size = tuple[int, int]


@dataclass(frozen=True)
class BoxStack:
    """Planes of which a box is labeled, as whole slices.

    Attributes:
        planes: (n, y, x) labels of whole slices, or of the box only.
        size: (y, x) of whole slices.
        box: (y, x) labeled part.
        outside: number of pixels outside of it.
    """

    planes: Stack
    size: Size
    box: tuple[slice, slice]
    outside: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, y, x) of the whole slices."""
        return (self.planes.shape[0], *self.size)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, which holds ``outside`` as well."""
        return _type_with(self.planes.dtype)

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        planes = np.asarray(self.planes[slices])
        whole = np.full((len(planes), *self.size), self.outside, self.dtype)
        if planes.shape[1:] == self.size:
            planes = planes[:, self.box[0], self.box[1]]
        whole[:, self.box[0], self.box[1]] = planes
        return whole


@dataclass(frozen=True)
class MaskedStack:
    """Planes whose labels are known inside a mask.

    Attributes:
        planes: (n, y, x) labels.
        mask: (m, y, x) numbers; any except 0 is inside.
        mask_planes: number of the mask of each plane, (n,).
        outside: number of pixels outside of the mask.
    """

    planes: Stack
    mask: Stack
    mask_planes: Sequence[int]
    outside: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape (n, y, x)."""
        return tuple(self.planes.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers, which holds ``outside`` as well."""
        return _type_with(self.planes.dtype)

    def __getitem__(self, slices: slice) -> NDArray[Any]:
        planes = np.asarray(self.planes[slices]).astype(self.dtype)
        for plane, number in zip(planes, self.mask_planes[slices], strict=True):
            inside = np.asarray(self.mask[number : number + 1])[0] != 0
            plane[~inside] = self.outside
        return planes


def _type_with(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type that holds the numbers of a type and the largest of 32 bits exactly."""
    if np.issubdtype(dtype, np.floating):
        return np.dtype(np.float64)
    if dtype.itemsize == 8:
        return dtype
    return np.dtype(np.int64)


def crop_to_box(labels: Source, box: str, size: Size, outside: int, where: str) -> Source:
    """Return labels that are known in a box only, as whole slices.

    Args:
        labels: whole slices, or the box only.
        box: ``z0:z1,y0:y1,x0:x1``; the part along z names the labeled slices.
        size: (y, x) of the slices of the image.
        outside: number of pixels outside of the box.
        where: the source, for messages.

    Raises:
        InputError: the box exceeds the slices, or the labels have another size.
    """
    _, rows, columns = parse_box(box)
    y, x = (
        slice(part.start or 0, length if part.stop is None else part.stop)
        for part, length in zip((rows, columns), size, strict=True)
    )
    for part, length, axis in ((y, size[0], "y"), (x, size[1], "x")):
        if not 0 <= part.start < part.stop <= length:
            raise InputError(
                f"--box is {part.start}:{part.stop} along {axis}, but the image has 0:{length} "
                "there."
            )
    plane_size = tuple(labels.stack.shape[1:])
    box_size = (y.stop - y.start, x.stop - x.start)
    if plane_size not in (size, box_size):
        raise InputError(
            f"{where} has slices of {plane_size} px; expected {size} as the image has, or "
            f"{box_size} as --box states."
        )
    stack = BoxStack(labels.stack, size, (y, x), outside)
    return replace(labels, stack=stack, part=f"{labels.part} box {box}")


def slices_of_box(box: str | None) -> str | None:
    """Return the slices of a box as ``--slices`` states them; None if it names none.

    >>> slices_of_box("4:9,0:10,")
    '4-8'
    """
    if box is None:
        return None
    z, _, _ = parse_box(box)
    if z.start is None and z.stop is None:
        return None
    if z.stop is None or z.stop <= (z.start or 0):
        raise InputError(f"--box names its slices as START:STOP, for example {BOX_EXAMPLE}.")
    return f"{z.start or 0}-{z.stop - 1}"


def mask_labels(
    labels: Source, within: str, plane_of: Mapping[int, int], n_slices: int, outside: int
) -> Stack:
    """Return labels that are known inside a mask only.

    Args:
        labels: the labels.
        within: file or folder of the mask: one plane for all slices, one for each plane of the
            labels, or one for each slice of the image.
        plane_of: slice number -> plane of the labels.
        n_slices: number of slices of the image.
        outside: number of pixels outside of the mask.

    Raises:
        InputError: the mask has another shape, or is empty.
    """
    mask = open_source(within, labels=True, any_order=True).stack
    n_planes, n_masks = labels.stack.shape[0], mask.shape[0]
    if tuple(mask.shape[1:]) != tuple(labels.stack.shape[1:]):
        raise InputError(
            f"--within {within} has slices of {tuple(mask.shape[1:])} px; expected "
            f"{tuple(labels.stack.shape[1:])} as the labels have."
        )
    if n_masks not in (1, n_planes, n_slices):
        raise InputError(
            f"--within {within} has {n_masks} slices; expected 1, {n_planes} as the labels have, "
            f"or {n_slices} as the image has."
        )
    mask_planes = [0] * n_planes
    for z, plane in plane_of.items():
        if n_masks > 1:
            mask_planes[plane] = plane if n_masks == n_planes else z
    if not any(np.any(np.asarray(mask[n : n + 1])) for n in set(mask_planes)):
        raise InputError(f"--within {within} is empty, so no pixel would be labeled.")
    return MaskedStack(labels.stack, mask, mask_planes, outside)
