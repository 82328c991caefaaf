"""Figures as SVG elements of a page, with text that stays text."""

import io
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

PAGE_WIDTH_IN = 13.0  # width of a figure that fills the page, inches


def new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure of that size in inches; matplotlib arranges what is drawn in it."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def new_unarranged_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure of that size in inches, without automatic layout."""
    figure = Figure(figsize=(width_in, height_in))
    FigureCanvasSVG(figure)
    return figure


def add_legend(figure: Figure, reverse: bool = False) -> None:
    """Add a legend to the right of all axes."""
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5, reverse=reverse)


def svg_text(figure: Figure) -> str:
    """Return a figure as an ``<svg>`` element that scales with the page."""
    # Identifiers inside an SVG must differ between the figures of a page, and must be the same
    # whenever the page is made.
    parts = [
        axis.get_title() + axis.get_xlabel() + str(len(axis.get_children())) for axis in figure.axes
    ]
    options: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "-".join(parts),
        "font.family": "sans-serif",
    }
    sink = io.StringIO()
    with mpl.rc_context(options):
        figure.savefig(sink, format="svg", dpi=110, metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]


def escape_label(name: str) -> str:
    """Return a name that matplotlib neither parses as a formula nor omits from a legend."""
    escaped = name.replace("$", r"\$")
    # Matplotlib omits labels that begin with an underscore; an invisible space prevents that.
    return "\u200b" + escaped if name.startswith("_") else escaped
