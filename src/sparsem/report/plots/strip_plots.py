"""Strip plots of measured features: one panel per column, one mark per object.

Objects that the border of the volume cuts are drawn hollow. Median and quartiles leave them out,
unless there are no other objects.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from sparsem.measure.dictionary import describe_column
from sparsem.measure.statistics import cut_objects
from sparsem.report.plots.colors import series_color, series_marker
from sparsem.report.plots.svg import (
    PAGE_WIDTH_IN,
    escape_label,
    new_unarranged_figure,
    svg_text,
)

# Marks of a figure. More are drawn as pixels: as vectors, ten thousand vesicles weigh 50 MB.
MAX_VECTOR_MARKS = 6000
# The axis is logarithmic if the 98th percentile is more than so many times the median.
LOG_AXIS_RATIO = 15
PANELS_PER_ROW = 5
MAX_INTERVALS = 4  # between the ticks of an axis
MAX_NAME_LENGTH = 12  # characters of a sample's name below a panel

# Layout of the panels, inches.
PANEL_HEIGHT_IN = 1.75
ROW_GAP_IN = 0.6
COLUMN_GAP_IN = 0.62
LEFT_MARGIN_IN = 0.65

UNITS_NOT_SHOWN = ("", "1", "ratio", "count")

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Strip(NamedTuple):
    """Objects of one sample in a strip plot.

    Attributes:
        sample: name of the sample.
        values: column -> (n,) values, NaN where not known.
        cut: column of the dictionary (see ``Column.cut_by``) -> (n,), the objects whose values
            the border of the volume falsifies.
    """

    sample: str
    values: Mapping[str, Floats]
    cut: Mapping[str, Mask]

    def column_values(self, column: str) -> tuple[Floats, Mask]:
        """Return the values of a column (n,), and which of them the border falsifies (n,)."""
        values = self.values.get(column, np.empty(0))
        if not len(values):
            return values, np.empty(0, bool)
        return values, cut_objects(self.cut, column, len(values))

    def count_text(self, column: str) -> str:
        """Return the number of complete objects and of objects that the border cuts, as text."""
        values, is_cut = self.column_values(column)
        is_known = np.isfinite(values)
        n_complete = int((is_known & ~is_cut).sum())
        n_cut = int(is_known.sum()) - n_complete
        return f"n = {n_complete}, cut {n_cut}"


def strip_plots(samples: Sequence[Strip], columns: Sequence[str]) -> str:
    """Draw one panel per column as SVG: a mark per object, samples next to each other.

    Every sample has its median as a thick line and its quartiles as thin lines.
    """
    n_rows = -(-len(columns) // PANELS_PER_ROW)
    figure = _panel_figure(n_rows)
    n_marks = sum(len(values) for strip in samples for values in strip.values.values())
    panels = list(figure.axes)
    for axis, column in zip(panels, columns, strict=False):
        _draw_panel(axis, samples, column, as_pixels=n_marks > MAX_VECTOR_MARKS)
    for axis in panels[len(columns) :]:
        axis.set_axis_off()
    return svg_text(figure)


def _panel_figure(n_rows: int) -> Figure:
    """Return a figure of panels at fixed positions.

    Automatic layout would take seconds to arrange the labels of sixty panels.
    """
    height_in = n_rows * (PANEL_HEIGHT_IN + ROW_GAP_IN) + 0.1
    figure = new_unarranged_figure(PAGE_WIDTH_IN, height_in)
    gaps_in = (PANELS_PER_ROW - 1) * COLUMN_GAP_IN
    panel_width_in = (PAGE_WIDTH_IN - LEFT_MARGIN_IN - 0.1 - gaps_in) / PANELS_PER_ROW
    grid = {
        "left": LEFT_MARGIN_IN / PAGE_WIDTH_IN,
        "right": 1 - 0.1 / PAGE_WIDTH_IN,
        "top": 1 - 0.3 / height_in,
        "bottom": 0.4 / height_in,
        "wspace": COLUMN_GAP_IN / panel_width_in,
        "hspace": ROW_GAP_IN / PANEL_HEIGHT_IN,
    }
    figure.subplots(n_rows, PANELS_PER_ROW, squeeze=False, gridspec_kw=grid)
    return figure


def _draw_panel(axis: Any, samples: Sequence[Strip], column: str, as_pixels: bool) -> None:
    """Draw a column of all samples next to each other."""
    for index, strip in enumerate(samples):
        values, is_cut = strip.column_values(column)
        _draw_strip(axis, index, values, is_cut, as_pixels)
    if _needs_log_axis(np.concatenate([strip.column_values(column)[0] for strip in samples])):
        axis.set_yscale("log")
        axis.yaxis.set_minor_locator(NullLocator())  # every tick costs time, in 200 panels
    else:
        axis.yaxis.set_major_locator(MaxNLocator(MAX_INTERVALS))
    # Matplotlib would put the title there, too, but searching for space takes a fifth of the time.
    axis.set_title(_panel_title(column), fontsize=8.5, y=1.0)
    axis.set_xlim(-0.6, len(samples) - 0.4)
    axis.set_xticks(range(len(samples)), _sample_labels(samples, column), fontsize=7)
    axis.tick_params(axis="y", labelsize=7.5)


def _sample_labels(samples: Sequence[Strip], column: str) -> list[str]:
    """Return the names of samples with their numbers of objects."""
    return [f"{_short_name(strip.sample)}\n{strip.count_text(column)}" for strip in samples]


def _draw_strip(axis: Any, index: int, values: Floats, is_cut: Mask, as_pixels: bool) -> None:
    """Draw the objects of a sample, cut ones hollow, with the median and the quartiles."""
    is_known = np.isfinite(values)
    if not is_known.any():
        return
    color = series_color(index)
    offsets = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))  # the same figure each time
    style = {"s": 9, "marker": series_marker(index), "rasterized": as_pixels}

    complete = is_known & ~is_cut
    x_complete = index + offsets[complete]
    axis.scatter(x_complete, values[complete], color=color, alpha=0.6, linewidth=0, **style)

    cut = is_known & is_cut
    x_cut = index + offsets[cut]
    axis.scatter(x_cut, values[cut], facecolor="none", edgecolor=color, linewidth=0.6, **style)
    _draw_quartiles(axis, index, values[complete if complete.any() else is_known])


def _draw_quartiles(axis: Any, index: int, values: Floats) -> None:
    """Draw the median of a sample as a thick line, and its quartiles as thin lines."""
    low, median, high = np.percentile(values, (25, 50, 75))
    axis.hlines((low, high), index - 0.28, index + 0.28, color="black", linewidth=0.8)
    axis.hlines(median, index - 0.4, index + 0.4, color="black", linewidth=1.8)


def _needs_log_axis(values: Floats) -> bool:
    """Return whether all values are above 0 and the large ones are far above the median."""
    known = values[np.isfinite(values)]
    if not len(known) or known.min() <= 0:
        return False
    return bool(np.percentile(known, 98) > LOG_AXIS_RATIO * np.median(known))


def _panel_title(column: str) -> str:
    """Return the name of a column in words, with its unit in parentheses."""
    name = column.replace("_per_um3", " per µm³")
    for ending in ("_per_um", "_um3", "_um2", "_um", "_voxels"):
        name = name.removesuffix(ending)
    entry = describe_column(column)
    has_unit = entry is not None and entry.unit not in UNITS_NOT_SHOWN
    unit = f" ({entry.unit})" if entry is not None and has_unit else ""
    return name.replace("_", " ") + unit


def _short_name(name: str) -> str:
    """Return a name of a sample that fits below a panel."""
    if len(name) > MAX_NAME_LENGTH:
        name = name[: MAX_NAME_LENGTH - 1] + "…"
    return escape_label(name)
