"""Summaries of the content of a sample, for a Python session and for a notebook."""

import html
from collections.abc import Sequence

MAX_LISTED = 12  # names on a line

Row = tuple[str, str]  # title and content of a line


def text_summary(heading: str, rows: Sequence[Row]) -> str:
    """Return a heading and titled lines as text."""
    width = max((len(title) for title, _ in rows), default=0)
    lines = [f"  {title:{width}}  {content}" for title, content in rows]
    return "\n".join([heading, *lines])


def html_summary(heading: str, rows: Sequence[Row]) -> str:
    """Return a heading and titled lines as an HTML table."""
    style = "style='text-align:left'"
    cells = [
        f"<tr><th {style}>{html.escape(title)}</th><td {style}>{html.escape(content)}</td></tr>"
        for title, content in rows
    ]
    return f"<b>{html.escape(heading)}</b><table>{''.join(cells)}</table>"


def list_first(items: Sequence[object]) -> str:
    """Return names or numbers with commas between them; of many the first dozen.

    >>> list_first((3, 5))
    '3, 5'
    """
    shown = ", ".join(map(str, items[:MAX_LISTED]))
    hidden = len(items) - MAX_LISTED
    return f"{shown} and {hidden} more" if hidden > 0 else shown
