"""What a sample holds, in a few lines: its representation in a Python session and in a notebook."""

import html
from typing import TYPE_CHECKING

from sparsem.errors import SparsemError

if TYPE_CHECKING:
    from sparsem.store.sample import Sample

MAX_LISTED = 12  # names on a line


def text_summary(sample: "Sample") -> str:
    """Return the contents of a sample as text; it never raises, since debuggers call it."""
    rows = _rows(sample)
    width = max((len(title) for title, _ in rows), default=0)
    lines = [f"Sample {sample.path}"]
    lines += [f"  {title:{width}}  {content}" for title, content in rows]
    return "\n".join(lines)


def html_summary(sample: "Sample") -> str:
    """Return the contents of a sample as an HTML table; it never raises, since notebooks call it."""
    cells = [
        f"<tr><th style='text-align:left'>{html.escape(title)}</th>"
        f"<td style='text-align:left'>{html.escape(content)}</td></tr>"
        for title, content in _rows(sample)
    ]
    heading = f"<b>Sample</b> <code>{html.escape(str(sample.path))}</code>"
    return f"{heading}<table>{''.join(cells)}</table>"


def _rows(sample: "Sample") -> list[tuple[str, str]]:
    """Return (title, content) of every line."""
    try:
        rows = _image_rows(sample)
        for folder in ("annotations", "probabilities", "labels", "truth"):
            rows.append((folder, _listed(sample.names(folder))))
        rows.append(("tables", _listed(list(sample.tables))))
    except (SparsemError, OSError) as error:
        return [("damaged", str(error))]
    return [(title, content) for title, content in rows if content]


def _image_rows(sample: "Sample") -> list[tuple[str, str]]:
    if not sample.has_image:
        return [("image", "none")]
    image = sample.image("raw")
    z, y, x = image.shape
    nm = " x ".join(f"{length:g}" for length in image.voxel_size)
    content = f"{z} x {y} x {x} voxels (z y x) of {nm} nm, {image.dtype}"
    if image.sizes:
        content = f"montage of {z} images, {nm} nm (z y x), {image.dtype}"
    return [("image", content), ("images", _listed(sample.names("images")))]


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:MAX_LISTED])
    hidden = len(names) - MAX_LISTED
    return f"{shown} and {hidden} more" if hidden > 0 else shown
