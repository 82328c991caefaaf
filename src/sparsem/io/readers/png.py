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
from sparsem.io.readers.damage import UNREADABLE
from sparsem.io.readers.display import full_range_levels, palette_display, refuse_color

SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEADER = struct.Struct(">8s4x4sIIBB")  # signature, length, IHDR, width, height, bits, color type
GRAY = 0  # color type
PALETTE = 3  # color type
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # color type -> samples a pixel


class PngHeader(NamedTuple):
    """Header of a PNG: size in pixels, bits a sample, color type."""

    height: int
    width: int
    bits: int
    color: int


def png_header(file: Path) -> PngHeader:
    """Return the header of a PNG.

    Raises:
        InputError: the file has no PNG header.
    """
    with file.open("rb") as stream:
        content = stream.read(HEADER.size)
    if len(content) == HEADER.size:
        signature, name, width, height, bits, color = HEADER.unpack(content)
        is_png = signature == SIGNATURE and name == b"IHDR"
        if is_png and color in SAMPLES and width and height:
            return PngHeader(height, width, bits, color)
    raise InputError(f"{file.name} cannot be read (it has no PNG header); is it complete?")


def png_slice(file: Path, labels: bool) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return (y, x) and dtype of a PNG that is gray or has a palette.

    Raises:
        InputError: it has colors or an alpha channel, or is damaged.
    """
    header = png_header(file)
    if header.color not in (GRAY, PALETTE):
        shape = (header.height, header.width, SAMPLES[header.color])
        with _open_png(file) as image:
            refuse_color(file.name, shape, np.asarray(image), labels)
    if header.color == PALETTE and not labels:
        with _open_png(file) as image:
            palette_display(_palette(image, header.bits), file.name)
    return (header.height, header.width), np.dtype(np.uint16 if header.bits == 16 else np.uint8)


def read_png(file: Path, labels: bool) -> NDArray[Any]:
    """Return the pixels (y, x) of a PNG.

    Labels are the stored numbers, images are gray levels that fill 8 or 16 bits.

    Raises:
        InputError: the file cannot be read as a gray PNG.
    """
    header = png_header(file)
    display = None
    with _open_png(file) as image:
        pixels = np.asarray(image)
        if header.color == PALETTE and not labels:
            display = palette_display(_palette(image, header.bits), file.name)
    if header.color not in (GRAY, PALETTE) or pixels.ndim != 2:
        raise InputError(f"{file.name} cannot be read as a gray PNG; is it complete?")
    if header.bits == 16:
        return pixels.astype(np.uint16, copy=False)
    if header.color == PALETTE:
        return display.read(pixels, file.name) if display else pixels
    return _gray_pixels(pixels, header.bits, labels)


def _gray_pixels(pixels: NDArray[Any], bits: int, labels: bool) -> NDArray[np.uint8]:
    """Return gray pixels of up to 8 bits, stored numbers for labels.

    Pillow returns one bit as booleans, and two and four bits scaled to 8.
    """
    if pixels.dtype == bool:
        numbers = pixels.astype(np.uint8)
        return numbers if labels else full_range_levels(1)[numbers]
    step = int(full_range_levels(bits)[1])  # 85, 17 or 1
    return pixels // np.uint8(step) if labels else pixels


@contextmanager
def _open_png(file: Path) -> Iterator[PngImagePlugin.PngImageFile]:
    """Open a PNG of any size; it is decoded when its pixels are read.

    ``PIL.Image.open`` refuses large slices as an attack, the plugin does not.
    """
    try:
        with file.open("rb") as stream:
            yield PngImagePlugin.PngImageFile(stream)
    except (*UNREADABLE, SyntaxError) as error:  # Pillow calls a damaged chunk bad syntax
        raise InputError(f"{file.name} cannot be read ({error}); is it complete?") from None


def _palette(image: PngImagePlugin.PngImageFile, bits: int) -> NDArray[np.uint8]:
    """Return the palette (2^bits, 3).

    Entries that a file leaves out are gray levels of their own; no pixel has their number.
    """
    entries = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
    palette = np.repeat(np.arange(2**bits, dtype=np.uint8)[:, None], 3, axis=1)
    palette[: len(entries)] = entries[: len(palette)]
    return palette
