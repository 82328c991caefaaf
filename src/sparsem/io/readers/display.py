"""Stored and displayed pixels: labels keep the stored numbers, images the displayed gray levels.

The two differ in TIFF and PNG files with a palette, with fewer than 8 bits a pixel, or with "min is
white". A lookup table (2^bits,) of uint8 or uint16 leads from stored to displayed numbers; None
where they are the same.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from sparsem.errors import InputError
from sparsem.io.readers.selection import Selection

BYTE_BITS = 8
MAX_BITS = 16  # of pixels that a lookup table can translate
ALPHA_SAMPLES = 2  # gray and alpha


@dataclass(frozen=True, eq=False)
class Display:
    """The lookup table from the stored to the displayed pixels of one file.

    Attributes:
        table: (2^bits,) the number to read for each stored one.
        is_mask: the pixels are an inverted mask: only the lowest and the highest number may occur.
    """

    table: NDArray[Any]
    is_mask: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the displayed numbers."""
        return np.dtype(self.table.dtype)

    def read(self, stored: NDArray[Any], name: str) -> NDArray[Any]:
        """Return the displayed numbers of stored pixels, of any shape.

        Raises:
            InputError: labels to invert hold other numbers than the two of a mask; ``name`` is the
                file.
        """
        pixels = stored.astype(np.uint8) if stored.dtype == bool else stored
        if self.is_mask:
            self._refuse_between(pixels, name)
        return np.asarray(self.table[pixels])

    def _refuse_between(self, pixels: NDArray[Any], name: str) -> None:
        """Refuse numbers between the lowest and the highest one."""
        highest = len(self.table) - 1
        between = pixels[(pixels != 0) & (pixels != highest)]
        if between.size:
            raise InputError(
                f"{name} holds the number {int(between[0])}, and only masks of 0 and {highest} "
                "can be inverted; use --min-is-white stored to read the numbers as they are "
                "stored."
            )


def tiff_display(page: Any, path: Path, selection: Selection) -> Display | None:
    """Return the lookup table of a TIFF page; None if pixels are read as they are stored.

    Raises:
        InputError: an image with a color palette; labels in a "min is white" TIFF without a
            choice of ``min_is_white``; numbers that cannot be inverted.
    """
    is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if selection.labels:
        return _labels_display(page, path, selection) if is_inverted else None
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        return palette_display(_palette_of(page.colormap), path.name)
    if is_inverted and selection.min_is_white != "stored":
        return Display(_gray_levels(page, path)[::-1])
    if page.bitspersample < BYTE_BITS:
        return Display(_gray_levels(page, path))
    return None


def tiff_display_notes(page: Any, path: Path, selection: Selection) -> tuple[str, ...]:
    """Return sentences about how the pixels of a TIFF image are read."""
    is_inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE
    if selection.labels or not is_inverted or selection.min_is_white is not None:
        return ()
    note = (
        f"{path.name} is a 'min is white' TIFF: its gray levels are inverted, "
        "as Fiji and Photoshop display them; "
        "--min-is-white stored reads them as they are stored."
    )
    return (note,)


def palette_display(palette: NDArray[Any], name: str) -> Display | None:
    """Return the lookup table of a palette (entries, 3); None if it shows numbers unchanged.

    Raises:
        InputError: the palette has colors.
    """
    red, green, blue = palette.T
    is_gray = np.array_equal(red, green) and np.array_equal(red, blue)
    if not is_gray:
        raise InputError(
            f"{name} has a color palette; expected a gray image. If its stored numbers are the "
            "gray levels, choose Image > Lookup Tables > Grays in Fiji and save it. Labels have "
            "commands of their own: annotate import, or import --as-labels."
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
    if shape[-1] == ALPHA_SAMPLES:
        raise InputError(
            f"{name} has an alpha channel {shape}; save it as a gray image without one."
        )
    colors = pixels[..., :3]
    if (colors == colors[..., :1]).all():
        raise InputError(
            f"{name} is a color image {shape} whose channels are equal; save it as a gray image, "
            "which keeps its numbers (in Fiji, Image > Type > 8-bit)."
        )
    if labels:
        raise InputError(
            f"{name} is a color image {shape}: converting it to gray mixes classes up. Export the "
            "numbers of classes or objects, as a gray or an indexed image, or one mask for each "
            "color."
        )
    raise InputError(
        f"{name} is a color image {shape}; "
        "convert it to gray first (in Fiji, Image > Type > 8-bit)."
    )


def refuse_color_tiff(page: Any, path: Path, labels: bool) -> None:
    """Refuse a TIFF page with several samples a pixel; see ``refuse_color``."""
    pixels = np.asarray(page.asarray())
    if page.axes.startswith("S"):
        pixels = np.moveaxis(pixels, 0, -1)
    refuse_color(path.name, pixels.shape, pixels, labels)


def full_range_levels(bits: int) -> NDArray[np.uint8]:
    """Return the 8 bit gray level of each number of up to 8 bits, (2^bits,)."""
    highest = 2**bits - 1
    levels = np.arange(highest + 1) * np.iinfo(np.uint8).max // highest
    return np.asarray(levels, np.uint8)


def _labels_display(page: Any, path: Path, selection: Selection) -> Display | None:
    """Return the lookup table of labels in a "min is white" TIFF."""
    if selection.min_is_white is None:
        raise InputError(
            f"{path.name} is a 'min is white' TIFF: its stored numbers, which napari and "
            "scikit-image read, and its display in Fiji and Photoshop are opposite. Give "
            "--min-is-white stored or displayed (annotate import, import, score), or save it with "
            "Fiji after Image > Lookup Tables > Invert LUT, which keeps the stored numbers."
        )
    if selection.min_is_white == "stored":
        return None
    return Display(_storable_numbers(page, path)[::-1], is_mask=True)


def _gray_levels(page: Any, path: Path) -> NDArray[Any]:
    """Return the gray level of each number that a page can store, in ascending order.

    Fewer than 8 bits fill the range of 8, as viewers display them.
    """
    numbers = _storable_numbers(page, path)
    if page.bitspersample >= BYTE_BITS:
        return numbers
    return full_range_levels(page.bitspersample)


def _storable_numbers(page: Any, path: Path) -> NDArray[Any]:
    """Return every number that a page can store, ascending."""
    bits = int(page.bitspersample)
    kind = np.dtype(page.dtype).kind
    if kind not in "bu" or bits > MAX_BITS:
        raise InputError(
            f"{path.name} is a 'min is white' TIFF of {page.dtype}, whose inverse is not defined; "
            "save it as 'min is black' (in Fiji, Image > Lookup Tables > Invert LUT keeps the "
            "stored numbers), or give --min-is-white stored."
        )
    return np.arange(2**bits, dtype=np.uint8 if bits <= BYTE_BITS else np.uint16)


def _palette_of(colormap: NDArray[Any]) -> NDArray[Any]:
    """Return a TIFF's color map (3, 2^bits) of 16 bit numbers as a palette (2^bits, 3).

    The palette is of 8 bit where pixels have no more.
    """
    entries = np.asarray(colormap).T
    has_16_bit_pixels = len(entries) > 2**BYTE_BITS
    if has_16_bit_pixels:
        return entries.astype(np.uint16)
    # Some writers fill the lower byte of an entry only.
    is_8_bit_map = entries.max(initial=0) <= np.iinfo(np.uint8).max
    return (entries if is_8_bit_map else entries >> BYTE_BITS).astype(np.uint8)
