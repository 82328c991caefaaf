"""Pictures and meshes as small pieces of text for a page that loads nothing: data URIs and compressed base64."""

import base64
import io
import zlib
from typing import Any

import numpy as np
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray
from PIL import Image

from sparsem.report.mesh import Mesh
from sparsem.report.plots.figures import GOLDEN

SHADES = 47  # colors of cells in a picture, besides none and outline
OPAQUE, CLEAR = 255, 0

Gray = NDArray[np.uint8]


def gray_picture(gray: Gray, quality: int) -> str:
    """A gray image (y, x) as a WebP data URI."""
    return _uri(_saved(Image.fromarray(gray), "WEBP", quality=quality), "image/webp")


def color_picture(picture: Image.Image, quality: int) -> str:
    """A picture of PIL's as a WebP data URI."""
    return _uri(_saved(picture.convert("RGB"), "WEBP", quality=quality), "image/webp")


def mask_picture(mask: NDArray[np.bool_], color: tuple[int, int, int]) -> str:
    """A mask (y, x) as a transparent PNG in one color, with a darker outline that shows where neighbors of its color begin."""
    inside = mask.copy()
    inside[1:-1, 1:-1] = (
        mask[1:-1, 1:-1] & mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    )
    places = mask.astype(np.uint8) + (mask & ~inside)
    outline = tuple(int(0.55 * one) for one in color) if max(color) > 60 else (110, 110, 110)
    return _palette_png(places, [(0, 0, 0), color, outline], [CLEAR, OPAQUE, OPAQUE])


def cells_picture(labels: NDArray[Any]) -> str:
    """Labels (y, x) as a transparent PNG: a color for each id, the same wherever it is, and outlines."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    places = np.where(labels > 0, labels % SHADES + 1, 0).astype(np.uint8)
    places[edge] = SHADES + 1
    colors = [(0, 0, 0), *(cell_color(number) for number in range(SHADES)), (20, 20, 20)]
    return _palette_png(places, colors, [CLEAR, *[OPAQUE] * (SHADES + 1)])


def cell_color(number: int) -> tuple[int, int, int]:
    """Of the cell with that id: random to the eye, the same in every picture."""
    number %= SHADES
    red, green, blue = hsv_to_rgb((number * GOLDEN % 1, 0.62, 0.78 + 0.11 * (number * 7 % 3)))
    return int(red * 255), int(green * 255), int(blue * 255)


def packed_mesh(mesh: Mesh, low: NDArray[np.float64], size: float) -> dict[str, Any]:
    """A mesh for the page: vertices as 16 bit x, y, z in a cube of edge ``size`` from ``low`` (z, y, x); zlib and base64."""
    steps = np.clip((mesh.vertices - low) / size * 65535, 0, 65535).round().astype("<u2")[:, ::-1]
    return {
        "vertices": _packed(np.ascontiguousarray(steps)),
        "triangles": _packed(mesh.triangles.astype("<u4")),
        "count": len(mesh.triangles),
    }


def text_uri(text: str, kind: str = "text/csv") -> str:
    """Text as a data URI, to download."""
    return _uri(text.encode(), f"{kind};charset=utf-8")


def _packed(array: NDArray[Any]) -> str:
    # Bytes of equal significance together: they compress to half of what whole numbers do.
    planes = array.view(np.uint8).reshape(-1, array.dtype.itemsize).T
    return base64.b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 9)).decode()


def _palette_png(places: Gray, colors: list[Any], opacity: list[int]) -> str:
    picture = Image.frombytes("P", places.shape[::-1], np.ascontiguousarray(places).tobytes())
    picture.putpalette([part for color in colors for part in color])
    return _uri(_saved(picture, "PNG", transparency=bytes(opacity), optimize=True), "image/png")


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def _uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
