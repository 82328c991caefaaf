"""Plots of detected boxes for the report, as SVG: precision and recall, counts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsem.report.plots.svg import (
    PAGE_WIDTH_IN,
    add_legend,
    escape_label,
    new_figure,
    svg_text,
)

Floats = NDArray[np.float64]


def precision_and_recall(
    curves: Mapping[tuple[str, str], tuple[Floats, Floats]], colors: Mapping[str, str]
) -> str:
    """Draw the precision of every structure at each recall; dashed after biological constraints.

    Args:
        curves: (structure, ``predicted`` or ``constrained``) -> recall and precision, (n,) each.
        colors: CSS colors of structures and of their boxes.
    """
    figure = new_figure(6.4, 3.8)
    axis = figure.subplots()
    for (name, kind), (recall, precision) in curves.items():
        is_predicted = kind == "predicted"
        label = name if is_predicted else f"{name}, constrained"
        line = "-" if is_predicted else "--"
        color = _structure_or_box_color(name, colors)
        axis.plot(recall, precision, line, color=color, linewidth=1.6, label=label)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    add_legend(figure)
    return svg_text(figure)


def counted_and_annotated(
    counts: Mapping[str, Sequence[tuple[int, int]]], colors: Mapping[str, str]
) -> str:
    """Draw one panel per structure, one mark per image: annotated objects and counted objects.

    Args:
        counts: structure -> (annotated, counted) of every image.
        colors: CSS colors of structures and of their boxes.
    """
    width_in = min(PAGE_WIDTH_IN, max(6.4, 2.6 * len(counts)))
    figure = new_figure(width_in, 2.8)
    panels = np.atleast_1d(figure.subplots(1, max(1, len(counts))))
    for axis, (name, pairs) in zip(panels, counts.items(), strict=False):
        ylabel = "counted" if axis is panels[0] else ""
        _draw_counts(axis, pairs, _structure_or_box_color(name, colors), ylabel)
        axis.set_title(escape_label(name), fontsize=9)
        axis.set_aspect("equal")
    return svg_text(figure)


def _draw_counts(axis: Any, pairs: Sequence[tuple[int, int]], color: str, ylabel: str) -> None:
    """Draw the (annotated, counted) objects of images, and the line on which both are equal."""
    end = 1.05 * max([1, *(max(pair) for pair in pairs)])
    axis.plot([0, end], [0, end], color="#999999", linewidth=0.8)
    outline = {"edgecolors": "#333333", "linewidths": 0.4}
    axis.scatter(*zip(*pairs, strict=True), s=16, color=color, **outline)
    axis.set(xlabel="annotated", ylabel=ylabel, xlim=(0, end), ylim=(0, end))


def _structure_or_box_color(name: str, colors: Mapping[str, str]) -> str:
    """Return the color of a structure, or that of its boxes."""
    return colors.get(name) or colors.get(f"{name}, boxes") or "#555555"
