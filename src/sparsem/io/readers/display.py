"""From stored to read pixels: labels keep the numbers that are stored, images show the gray levels that a viewer displays.

The two differ in TIFF and PNG files with a palette, with fewer than 8 bits a pixel, or with "min is white". A lookup
table (2^bits,) of uint8 or uint16 leads from one to the other; None where they are the same.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.source import Selection

MAX_BITS = 16  # of pixels that a lookup table can translate
ALPHA_BANDS = 2  # gray and alpha


@dataclass(frozen=True, eq=False)
class Display:
    """How stored pixels of one file are read.

    Attributes:
        table: (2^bits,) the number to read for each stored one.
        is_mask: only the lowest and the highest number have an inverse: what is read is a mask.
    """

    table: NDArray[Any]
    is_mask: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers that are read."""
        return np.dtype(self.table.dtype)

    def read(self, stored: NDArray[Any], name: str) -> NDArray[Any]:
        """The numbers for stored pixels, of any shape.

        Raises:
            InputError: labels that are to be inverted hold other numbers than a mask's two; ``name`` is the file.
        """
        pixels = stored.astype(np.uint8) if stored.dtype == bool else stored
        if self.is_mask:
            highest = len(self.table) - 1
            between = pixels[(pixels != 0) & (pixels != highest)]
            if between.size:
                raise InputError(
                    f"{name} holds the number {int(between[0])}, and only masks of 0 and {highest} can be inverted; use "
                    "--min-is-white stored if its numbers count as they are stored."
                )
        return np.asarray(self.table[pixels])


def tiff_display(page: Any, path: Path, pick: Selection) -> Display | None:
    """How the pixels of a TIFF page are read; None where they are read as stored.

    Raises:
        InputError: an image with a color palette; labels in a "min is white" TIFF where nobody said which numbers count;
            numbers that cannot be inverted.
    """
    is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if pick.labels:
        return _labels_display(page, path, pick) if is_inverted else None
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        return palette_display(_palette_of(page.colormap), path.name)
    if is_inverted and pick.min_is_white != "stored":
        return Display(_levels(page, path)[::-1])
    return Display(_levels(page, path)) if page.bitspersample < np.iinfo(np.uint8).bits else None


def tiff_display_notes(page: Any, path: Path, pick: Selection) -> tuple[str, ...]:
    """Sentences about how the pixels of a TIFF image are read."""
    is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if pick.labels or not is_inverted or pick.min_is_white is not None:
        return ()
    note = (
        f"{path.name} is a 'min is white' TIFF: its gray levels are inverted, as Fiji and Photoshop display them; "
        "--min-is-white stored takes them as they are stored."
    )
    return (note,)


def palette_display(palette: NDArray[Any], name: str) -> Display | None:
    """How an image with a palette (entries, 3) is read; None where it shows every number as itself.

    Raises:
        InputError: the palette has colors.
    """
    red, green, blue = palette.T
    if not (np.array_equal(red, green) and np.array_equal(red, blue)):
        raise InputError(
            f"{name} has a color palette; expected a gray image. If its stored numbers are the gray levels, choose "
            "Image > Lookup Tables > Grays in Fiji and save it; labels have commands of their own, annotate import or import --as-labels."
        )
    is_identity = np.array_equal(red, np.arange(len(red)))
    return None if is_identity else Display(np.ascontiguousarray(red))


def refuse_color(name: str, shape: tuple[int, ...], pixels: NDArray[Any], labels: bool) -> None:
    """Refuse an image with several samples a pixel; the advice depends on what they hold.

    Args:
        name: the file.
        shape: (y, x, samples).
        pixels: of that shape.
        labels: whether it was to hold labels.

    Raises:
        InputError: always.
    """
    if shape[-1] == ALPHA_BANDS:
        raise InputError(
            f"{name} has an alpha channel {shape}; save it as a gray image without one."
        )
    colors = pixels[..., :3]
    if (colors == colors[..., :1]).all():
        raise InputError(
            f"{name} is a color image {shape} whose channels are equal; save it as a gray image, which keeps its numbers "
            "(in Fiji, Image > Type > 8-bit)."
        )
    if labels:
        raise InputError(
            f"{name} is a color image {shape}: converting it to gray mixes classes up. Export the numbers of classes or objects, as a "
            "gray or an indexed image, or one mask for each color."
        )
    raise InputError(
        f"{name} is a color image {shape}; convert it to gray first (in Fiji, Image > Type > 8-bit)."
    )


def refuse_color_tiff(page: Any, path: Path, labels: bool) -> None:
    """Refuse a TIFF page with several samples a pixel; see ``refuse_color``."""
    pixels = np.asarray(page.asarray())
    if page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    refuse_color(path.name, pixels.shape, pixels, labels)


def _labels_display(page: Any, path: Path, pick: Selection) -> Display | None:
    """How labels in a "min is white" TIFF are read."""
    if pick.min_is_white is None:
        raise InputError(
            f"{path.name} is a 'min is white' TIFF: its stored numbers, which napari and scikit-image read, and its display in Fiji "
            "and Photoshop are opposite. Give --min-is-white stored or displayed (annotate import, import, score), or save it with "
            "Fiji after Image > Lookup Tables > Invert LUT, which keeps the stored numbers."
        )
    if pick.min_is_white == "stored":
        return None
    return Display(_stored_range(page, path)[::-1], is_mask=True)


def _levels(page: Any, path: Path) -> NDArray[Any]:
    """The gray level of each number, in ascending order: fewer than 8 bits fill the range of 8, as viewers display them."""
    numbers = _stored_range(page, path)
    if page.bitspersample >= np.iinfo(np.uint8).bits:
        return numbers
    return full_range_levels(page.bitspersample)


def full_range_levels(bits: int) -> NDArray[np.uint8]:
    """The 8 bit gray level of each number of up to 8 bits, (2^bits,)."""
    highest = 2**bits - 1
    levels = np.arange(highest + 1) * np.iinfo(np.uint8).max // highest
    return np.asarray(levels, np.uint8)


def _stored_range(page: Any, path: Path) -> NDArray[Any]:
    """Every number that a page can store, ascending."""
    bits = int(page.bitspersample)
    kind = np.dtype(page.dtype).kind
    if kind not in "bu" or bits > MAX_BITS:
        raise InputError(
            f"{path.name} is a 'min is white' TIFF of {page.dtype}, whose inverse is not defined; save it as 'min is black' "
            "(in Fiji, Image > Lookup Tables > Invert LUT keeps the stored numbers), or give --min-is-white stored."
        )
    return np.arange(2**bits, dtype=np.uint8 if bits <= np.iinfo(np.uint8).bits else np.uint16)


def _palette_of(colormap: NDArray[Any]) -> NDArray[Any]:
    """A TIFF's color map (3, 2^bits) of 16 bit numbers as a palette (2^bits, 3), of 8 bit where pixels have no more."""
    entries = np.asarray(colormap).T
    has_16_bit_pixels = len(entries) > np.iinfo(np.uint8).max + 1
    if has_16_bit_pixels:
        return entries.astype(np.uint16)
    is_8_bit_map = (
        entries.max(initial=0) <= np.iinfo(np.uint8).max
    )  # some writers leave the lower byte
    return (entries if is_8_bit_map else entries >> 8).astype(np.uint8)
