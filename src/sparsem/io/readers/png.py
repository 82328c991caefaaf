"""PNG: gray of 1 to 16 bits, and palettes, whose indices are the numbers of labels."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import PngImagePlugin

from sparsem.errors import InputError
from sparsem.io.readers.display import full_range_levels, palette_display, refuse_color
from sparsem.io.readers.source import UNREADABLE

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">8s4x4sIIBB")  # signature, length, IHDR, width, height, bits, color type
GRAY, PALETTE = 0, 3  # color types
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # color type -> samples a pixel


class PngHeader(NamedTuple):
    """What a PNG states first: size in pixels, bits a sample, color type."""

    height: int
    width: int
    bits: int
    color: int


def png_header(file: Path) -> PngHeader:
    """The header of a PNG.

    Raises:
        InputError: there is none.
    """
    with file.open("rb") as stream:
        content = stream.read(HEADER.size)
    if len(content) == HEADER.size:
        signature, name, width, height, bits, color = HEADER.unpack(content)
        if signature == SIGNATURE and name == b"IHDR" and color in SAMPLES and width and height:
            return PngHeader(height, width, bits, color)
    raise InputError(f"{file.name} cannot be read (it has no PNG header); is it complete?")


def png_slice(file: Path, labels: bool) -> tuple[tuple[int, int], np.dtype[Any]]:
    """(y, x) and dtype of a gray PNG, or of one with a palette.

    Raises:
        InputError: it has colors or an alpha channel, or is damaged.
    """
    header = png_header(file)
    if header.color not in (GRAY, PALETTE):
        with _opened(file) as picture:
            refuse_color(
                file.name,
                (header.height, header.width, SAMPLES[header.color]),
                np.asarray(picture),
                labels,
            )
    if header.color == PALETTE and not labels:
        with _opened(file) as picture:
            palette_display(_palette(picture, header.bits), file.name)
    return (header.height, header.width), np.dtype(np.uint16 if header.bits == 16 else np.uint8)


def read_png(file: Path, labels: bool) -> NDArray[Any]:
    """The pixels (y, x): of labels the numbers that are stored, of images gray levels that fill 8 or 16 bits.

    Raises:
        InputError: it cannot be read as such.
    """
    header = png_header(file)
    with _opened(file) as picture:
        pixels = np.asarray(picture)
        is_palette_image = header.color == PALETTE and not labels
        display = (
            palette_display(_palette(picture, header.bits), file.name) if is_palette_image else None
        )
    if header.color not in (GRAY, PALETTE) or pixels.ndim != 2:
        raise InputError(f"{file.name} cannot be read as a gray PNG; is it complete?")
    if header.bits == 16:
        return pixels.astype(np.uint16, copy=False)
    if header.color == PALETTE:
        return display.read(pixels, file.name) if display else pixels
    return _gray(pixels, header.bits, labels)


def _gray(pixels: NDArray[Any], bits: int, labels: bool) -> NDArray[np.uint8]:
    """Gray of up to 8 bits; Pillow gives fewer than 8 as booleans, or scaled to 8."""
    if pixels.dtype == bool:
        numbers = pixels.astype(np.uint8)
        return numbers if labels else full_range_levels(1)[numbers]
    step = int(full_range_levels(bits)[1])  # 85, 17 or 1
    return pixels // np.uint8(step) if labels else pixels


@contextmanager
def _opened(file: Path) -> Iterator[PngImagePlugin.PngImageFile]:
    """A PNG of any size, decoded when it is asked for: only ``PIL.Image.open`` takes large slices for an attack."""
    try:
        with file.open("rb") as stream:
            yield PngImagePlugin.PngImageFile(stream)
    except (*UNREADABLE, SyntaxError) as error:  # Pillow calls a damaged chunk bad syntax
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None


def _palette(picture: PngImagePlugin.PngImageFile, bits: int) -> NDArray[np.uint8]:
    """The palette (2^bits, 3); entries that a file leaves out are gray levels of their own, and stand for no pixel."""
    given = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    palette = np.repeat(np.arange(2**bits, dtype=np.uint8)[:, None], 3, axis=1)
    palette[: len(given)] = given[: len(palette)]
    return palette
