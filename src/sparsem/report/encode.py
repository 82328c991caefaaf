"""Images and meshes as text for a self-contained page: data URIs and compressed base64.

Gray images are (y, x) uint8, masks (y, x) boolean, labels (y, x) integers.
"""

import base64
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sparsem.report.mesh import Mesh
from sparsem.report.plots.colors import RGB

OPAQUE, TRANSPARENT = 255, 0
BACKGROUND: RGB = (0, 0, 0)  # transparent, so its color is never visible
# An outline is darker than its mask; where that would be invisible, it is gray.
OUTLINE_DARKENING = 0.55
DARKEST_COLOR = 60
OUTLINE_OF_DARK: RGB = (110, 110, 110)

MAX_UINT16 = 65535
COMPRESSION = 6  # of zlib; 9 saves one percent of a page, and takes longer

Gray = NDArray[np.uint8]


def gray_image_uri(gray: Gray, quality: int) -> str:
    """Return a gray image as a WebP data URI; ``quality`` is 0 to 100."""
    return _data_uri(_file_content(Image.fromarray(gray), "WEBP", quality=quality), "image/webp")


def rgb_image_uri(image: Image.Image, quality: int) -> str:
    """Return an image of PIL as a WebP data URI; ``quality`` is 0 to 100."""
    content = _file_content(image.convert("RGB"), "WEBP", quality=quality)
    return _data_uri(content, "image/webp")


def mask_uri(mask: NDArray[np.bool_], color: RGB) -> str:
    """Return a mask as a transparent PNG data URI in one color.

    A darker outline shows where objects of the same color touch.
    """
    indices = mask.astype(np.uint8) + (mask & ~_inside(mask))
    is_dark = max(color) <= DARKEST_COLOR
    red, green, blue = (int(OUTLINE_DARKENING * part) for part in color)
    outline = OUTLINE_OF_DARK if is_dark else (red, green, blue)
    return _palette_png_uri(indices, [BACKGROUND, color, outline], [TRANSPARENT, OPAQUE, OPAQUE])


def _inside(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask with four neighbors in it; at the border all pixels of it."""
    inside = mask.copy()
    rows = mask[:-2, 1:-1] & mask[2:, 1:-1]
    columns = mask[1:-1, :-2] & mask[1:-1, 2:]
    inside[1:-1, 1:-1] &= rows & columns
    return inside


def encode_numbers(labels: NDArray[Any]) -> dict[str, Any]:
    """Return the numbers of objects (y, x) for the page, which draws them in their colors.

    Returns:
        ``height`` and ``width``; ``numbers``, the 32-bit numbers of all pixels, row by row.
    """
    height, width = labels.shape
    return {"height": height, "width": width, "numbers": _compress(labels.ravel().astype("<u4"))}


def encode_lines(points: NDArray[np.float64], ends: NDArray[np.int64], size: float) -> Any:
    """Return lines for the page, compressed.

    Args:
        points: (n, 3) z, y, x from the corner of the volume.
        ends: (m, 2) indices of the two ends of every line.
        size: edge of the cube in which points are counted.

    Returns:
        ``vertices`` and ``ends``, see ``encode_mesh``.
    """
    return {"vertices": _steps(points, size), "ends": _compress(ends.astype("<u4"))}


def encode_mesh(mesh: Mesh, size: float) -> dict[str, Any]:
    """Return a mesh for the page, compressed.

    Args:
        mesh: vertices (z, y, x) from the corner of the volume.
        size: edge of the cube in which vertices are counted.

    Returns:
        ``vertices``, x, y, z as 16-bit fractions of the cube; ``triangles``, 32-bit indices of
        vertices; ``count``, the number of triangles.
    """
    return {
        "vertices": _steps(mesh.vertices, size),
        "triangles": _compress(mesh.triangles.astype("<u4")),
        "count": len(mesh.triangles),
    }


def _steps(points: NDArray[np.float64], size: float) -> str:
    """Return points (n, 3) z, y, x as 16-bit fractions x, y, z of a cube, compressed."""
    fractions = points / size * MAX_UINT16
    steps = np.clip(fractions, 0, MAX_UINT16).round().astype("<u2")
    return _compress(np.ascontiguousarray(steps[:, ::-1]))


def _compress(array: NDArray[Any]) -> str:
    """Return the bytes of an array, compressed and in base64."""
    # Bytes of equal significance together compress to half the size of complete numbers.
    planes = array.view(np.uint8).reshape(-1, array.dtype.itemsize).T
    compressed = zlib.compress(np.ascontiguousarray(planes).tobytes(), COMPRESSION)
    return base64.b64encode(compressed).decode()


def _palette_png_uri(indices: Gray, colors: Sequence[RGB], opacity: Sequence[int]) -> str:
    """Return an image of indices into colors as a PNG data URI."""
    content = np.ascontiguousarray(indices).tobytes()
    image = Image.frombytes("P", indices.shape[::-1], content)
    image.putpalette([part for color in colors for part in color])
    opacities = bytes(opacity)
    png = _file_content(image, "PNG", transparency=opacities, compress_level=COMPRESSION)
    return _data_uri(png, "image/png")


def _file_content(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return the bytes of an image file."""
    sink = io.BytesIO()
    image.save(sink, file_format, **options)
    return sink.getvalue()


def _data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
