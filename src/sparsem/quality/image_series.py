"""Images to be measured, opened from files with their references and masks of resin."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.gray_levels import GrayMapping, refuse_non_finite
from sparsem.io.readers.open import open_source
from sparsem.io.readers.source import Source
from sparsem.quality.resin import Box, mask_from_boxes
from sparsem.quality.settings import ImagesSettings


@dataclass(frozen=True)
class ImageSeries:
    """The images of one source, with their references and masks.

    Attributes:
        name: of the file or folder.
        file: path of the file or folder.
        numbers: of the images in the source.
        source: from which they are read.
        reference: with which they are compared, or None.
        mask: of resin, or None; always indexed by the numbers of the source.
        is_single: the source holds one image.
        is_consecutive: source and reference hold only these images, one after the other.
    """

    name: str
    file: str
    numbers: tuple[int, ...]
    source: Source
    reference: Source | None
    mask: Source | None
    is_single: bool
    is_consecutive: bool = False

    def title(self, z: int) -> str:
        """Return the name of one image."""
        return self.name if self.is_single else f"{self.name}_z{z:04d}"

    def position(self, z: int) -> int:
        """Return the position of an image in source and reference."""
        return self.numbers.index(z) if self.is_consecutive else z


def open_images(sources: Sequence[str | Path], settings: ImagesSettings) -> list[ImageSeries]:
    """Open all images that are to be measured, with their references and masks.

    Files that do not open or do not fit are reported before anything is measured.

    Raises:
        InputError: a file cannot be opened, does not fit, or settings contradict each other.
    """
    _check_settings(settings)
    opened = [open_source(source, any_order=True) for source in sources]
    if settings.box:
        _check_box(Box(*settings.box), opened)
    numbers = [_image_numbers(source, settings.slices) for source in opened]
    references = _open_companions(settings.reference, opened, "reference")
    masks = _open_companions(settings.resin, opened, "resin")
    files = [_file_or_folder(source) for source in opened]
    names = _unique_names(opened, files)
    series = []
    for index, source in enumerate(opened):
        series.append(
            ImageSeries(
                name=names[index],
                file=str(files[index]),
                numbers=numbers[index],
                source=source,
                reference=references[index],
                mask=masks[index],
                is_single=source.stack.shape[0] == 1,
            )
        )
    return series


def _check_settings(settings: ImagesSettings) -> None:
    """Check that resin is marked, and the reference given, in one way only.

    Raises:
        InputError: in several ways.
    """
    if sum(map(bool, (settings.resin, settings.box, settings.polygon))) > 1:
        raise InputError(
            "Resin is marked by masks, --resin, by a --box, or by a --polygon; give one of them."
        )
    if settings.denoise and settings.reference:
        raise InputError(
            "Images are compared with others, --reference, or with their denoised versions, "
            "--denoise; give one of them."
        )


def _check_box(box: Box, opened: Sequence[Source]) -> None:
    """Check that a box lies in all images.

    Raises:
        InputError: it is empty, or reaches beyond an image.
    """
    for source in opened:
        _, height, width = source.stack.shape
        mask_from_boxes([box], (height, width))


def _file_or_folder(source: Source) -> Path:
    """Return the file of a source, or the folder of its files."""
    return source.files[0] if len(source.files) == 1 else source.files[0].parent


def _unique_names(opened: Sequence[Source], files: Sequence[Path]) -> list[str]:
    """Return a name for each source; names that occur twice get a number.

    Files are named after them, and some file systems do not distinguish a and A.
    """
    names: list[str] = []
    for source, file in zip(opened, files, strict=True):
        name = file.stem if len(source.files) == 1 else file.name
        numbered = [f"{name}-{number}" for number in range(2, len(opened) + 2)]
        taken = [used_name.casefold() for used_name in names]
        names.append(
            next(candidate for candidate in (name, *numbered) if candidate.casefold() not in taken)
        )
    return names


def _image_numbers(source: Source, slices: tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of the images of a source that are measured.

    Raises:
        InputError: the source has no such slice.
    """
    count = source.stack.shape[0]
    if count == 1 or not slices:
        return tuple(range(count))
    for z in slices:
        if not 0 <= z < count:
            raise InputError(f"{source.title} has slices 0 to {count - 1}; --slices asks for {z}.")
    return tuple(sorted(set(slices)))


def _open_companions(
    paths: Sequence[str], opened: Sequence[Source], option: str
) -> list[Source | None]:
    """Open the reference or the mask of every source; None for each if none is given.

    Args:
        paths: one for each source, or empty.
        opened: the sources.
        option: ``reference`` or ``resin``.

    Raises:
        InputError: their number or a shape differs from that of the sources.
    """
    if not paths:
        return [None] * len(opened)
    if len(paths) != len(opened):
        raise InputError(
            f"{len(opened)} images and {len(paths)} of --{option} were given; expected one for "
            "each, in the same order."
        )
    companions = [open_source(path, labels=option == "resin", any_order=True) for path in paths]
    for companion, source in zip(companions, opened, strict=True):
        _check_same_shape(companion, source, option)
    return list(companions)


def _check_same_shape(companion: Source, source: Source, option: str) -> None:
    """Check that a reference or a mask has the shape of its source.

    Raises:
        InputError: it has another one.
    """
    if companion.stack.shape != source.stack.shape:
        size = " x ".join(map(str, source.stack.shape))
        companion_size = " x ".join(map(str, companion.stack.shape))
        raise InputError(
            f"{source.title} has {size} (z y x) px, its {option} {companion.title} "
            f"{companion_size}; expected the same."
        )


def read_gray(source: Source, position: int, gray: GrayMapping) -> NDArray[Any]:
    """Return one image (y, x) uint8 or uint16.

    Args:
        source: from which it is read.
        position: of the image in the source.
        gray: how its numbers become gray levels; for a reference, that of the image itself.

    Raises:
        InputError: it holds NaN or infinite values.
    """
    voxels = np.asarray(source.stack[position : position + 1])
    refuse_non_finite(voxels, source.title, position)
    return np.asarray(voxels[0] if gray.unchanged else gray.apply(voxels)[0])


def source_identity(source: Source) -> list[str]:
    """Return what identifies a source.

    The paths are part of it: two files may have the same name, size and time of change.
    """
    return [source.identity(), *(str(file.resolve()) for file in source.files)]
