"""Plots of image quality, as SVG: slices of a stack along z, and images by protocol.

The plots by protocol are figures 4, 5 and 6 of the thesis, chapter 2.
"""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sparsem.report.plots.colors import SERIES_COLORS
from sparsem.report.plots.svg import PAGE_WIDTH_IN, escape_label, new_figure, svg_text

LIGHT_COLORS = {"amber": "#E69F00", "red": "#D40000"}
SLICE_PANELS_PER_ROW = 3
METRIC_PANELS_PER_ROW = 4
# Dots of a group. More are drawn as pixels: as vectors, a page of tiles weighs 50 MB.
MAX_VECTOR_DOTS = 300
MAX_MARKED_SLICES = 60  # curves of fewer slices have a dot at each slice
MAX_UPRIGHT_GROUPS = 3  # names of more groups are turned so that they do not overlap
GROUP_NAME_WIDTH = 15  # characters in a line of an upright name

# Columns of a table of image quality -> titles of their panels.
SLICE_MEASURES = {
    "brightness": "brightness",
    "contrast": "contrast",
    "noise": "noise",
    "snr_db": "SNR (dB)",
    "sharpness": "sharpness",
    "resolution_nm": "resolution (nm)",
    "stripes": "stripes",
    "charging": "charging",
    "saturated": "saturated (fraction of pixels)",
    "shift_y_nm": "shift from previous slice, y (nm)",
    "shift_x_nm": "shift from previous slice, x (nm)",
    "similarity": "similarity to previous slice",
    "spacing": "distance from previous slice (slices)",
}

Floats = NDArray[np.float64]


def quality_along_z(curves: Mapping[str, Floats], lights: Sequence[str]) -> str:
    """Draw one panel per measure of image quality along z; bands mark amber and red slices.

    Args:
        curves: column -> (n slices,) values.
        lights: ``green``, ``amber`` or ``red`` of every slice.
    """
    shown = [name for name in SLICE_MEASURES if name in curves and np.isfinite(curves[name]).any()]
    n_rows = -(-len(shown) // SLICE_PANELS_PER_ROW)
    figure = new_figure(PAGE_WIDTH_IN, 1.75 * n_rows + 0.4)
    panels = figure.subplots(n_rows, SLICE_PANELS_PER_ROW, squeeze=False, sharex=True)
    axes = list(np.atleast_1d(panels).ravel())
    for axis, name in zip(axes, shown, strict=False):
        _mark_slices(axis, lights)
        _draw_measure(axis, curves[name])
        axis.set_title(SLICE_MEASURES[name], fontsize=9)
    _hide_axes(axes[len(shown) :])
    for axis in axes[max(0, len(shown) - SLICE_PANELS_PER_ROW) : len(shown)]:
        axis.set_xlabel("slice", fontsize=8)
        axis.tick_params(labelbottom=True)
    return svg_text(figure)


def _hide_axes(axes: Sequence[Any]) -> None:
    """Hide panels that are not used."""
    for axis in axes:
        axis.set_axis_off()


def _mark_slices(axis: Any, lights: Sequence[str]) -> None:
    """Draw a band at every amber and red slice."""
    for marked_light, color in LIGHT_COLORS.items():
        for z, light in enumerate(lights):
            if light == marked_light:
                axis.axvline(z, color=color, linewidth=2.2, alpha=0.35)


def _draw_measure(axis: Any, values: Floats) -> None:
    """Draw a measure of all slices."""
    marker = "." if len(values) < MAX_MARKED_SLICES else None
    axis.plot(values, color=SERIES_COLORS[0], linewidth=1.1, marker=marker, markersize=3.5)
    axis.set_ylim(*_axis_limits(values))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    axis.tick_params(labelsize=7.5)


def _axis_limits(values: Floats) -> tuple[float, float]:
    """Return limits that contain all values and span at least a tenth of the median.

    Otherwise a constant measure would look as if it varied.
    """
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    median = float(np.nanmedian(values))
    half_range = max(0.55 * (high - low), 0.05 * abs(median), 1e-3)
    center = (low + high) / 2
    return center - half_range, center + half_range


def boxes_by_group(
    values: Mapping[str, Mapping[str, Floats]],
    titles: Mapping[str, str],
    colors: Mapping[str, str],
) -> str:
    """Draw one panel per metric: one box per group, one dot per measurement.

    A box reaches from the lower to the upper quartile, with a line at the median; whiskers reach
    to 1.5 times its height.

    Args:
        values: metric -> group -> (n,) measurements.
        titles: metric -> title of its panel.
        colors: group -> CSS color.
    """
    n_rows = -(-len(values) // METRIC_PANELS_PER_ROW)
    labels = _group_labels(list(colors))
    figure = new_figure(PAGE_WIDTH_IN, n_rows * 2.4 + labels.height_in + 0.3)
    axes = list(figure.subplots(n_rows, METRIC_PANELS_PER_ROW, squeeze=False).ravel())
    for axis, (metric, values_by_group) in zip(axes, values.items(), strict=False):
        _draw_boxes(axis, values_by_group, colors)
        axis.set_title(titles[metric], fontsize=9)
        axis.tick_params(axis="y", labelsize=7.5)
    _hide_axes(axes[len(values) :])
    _label_groups(axes[: len(values)], labels)
    return svg_text(figure)


class GroupLabels(NamedTuple):
    """Names of groups below an axis.

    Attributes:
        texts: one for each group.
        rotation: degrees.
        height_in: height that they take, inches.
    """

    texts: list[str]
    rotation: int
    height_in: float


def _group_labels(groups: Sequence[str]) -> GroupLabels:
    """Return the labels of groups: wrapped if they fit next to each other, turned otherwise."""
    if len(groups) > MAX_UPRIGHT_GROUPS:
        texts = [escape_label(name) for name in groups]
        return GroupLabels(texts, 90, 0.06 * max(map(len, groups)))
    wrapped = [textwrap.wrap(name, GROUP_NAME_WIDTH) for name in groups]
    texts = [escape_label("\n".join(lines)) for lines in wrapped]
    return GroupLabels(texts, 0, 0.14 * max(map(len, wrapped)))


def _label_groups(axes: Sequence[Any], labels: GroupLabels) -> None:
    """Write the names of groups below the lowest panel of every column only."""
    n_groups = len(labels.texts)
    for index, axis in enumerate(axes):
        is_lowest = index + METRIC_PANELS_PER_ROW >= len(axes)
        texts = labels.texts if is_lowest else [""] * n_groups
        axis.set_xticks(range(n_groups), texts, rotation=labels.rotation, fontsize=7.5)


def _draw_boxes(
    axis: Any, values_by_group: Mapping[str, Floats], colors: Mapping[str, str]
) -> None:
    """Draw the box and the dots of every group."""
    for index, (group, color) in enumerate(colors.items()):
        values = values_by_group[group]
        known = values[np.isfinite(values)]
        if len(known):
            _draw_box(axis, index, known, color)
    axis.set_xlim(-0.6, len(colors) - 0.4)
    axis.grid(axis="y", alpha=0.3)


def _draw_box(axis: Any, position: int, values: Floats, color: str) -> None:
    """Draw the box of a group, and its values as dots."""
    axis.boxplot(
        values,
        positions=[position],
        widths=0.6,
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": color, "alpha": 0.35, "linewidth": 0.7},
        medianprops={"color": "black", "linewidth": 1.4},
    )
    offsets = np.random.default_rng(0).uniform(-0.2, 0.2, len(values))  # the same figure each time
    as_pixels = len(values) > MAX_VECTOR_DOTS
    style = {"s": 8, "linewidth": 0, "zorder": 3}
    axis.scatter(position + offsets, values, color=color, rasterized=as_pixels, **style)


def noise_before_and_after(
    before: Mapping[str, Floats], after: Mapping[str, Floats], after_label: str
) -> str:
    """Draw the noise in resin by group, of the images and of what they are compared with.

    Bars are means, error bars are standard deviations, dots are single images.

    Args:
        before: group -> (n,) noise of the images.
        after: group -> (n,) noise of their references or denoised images.
        after_label: name of the second series.
    """
    labels = _group_labels(list(before))
    width_in = max(6.0, min(PAGE_WIDTH_IN, 0.9 * len(before) + 2.5))
    figure = new_figure(width_in, 3.2 + labels.height_in)
    axis = figure.subplots()
    _draw_noise_bars(axis, list(before.values()), -0.2, SERIES_COLORS[0], "as imaged")
    _draw_noise_bars(axis, list(after.values()), 0.2, SERIES_COLORS[5], after_label)
    axis.set_xticks(range(len(before)), labels.texts, rotation=labels.rotation, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("standard deviation in resin\n(fraction of the range of gray levels)")
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    return svg_text(figure)


def _draw_noise_bars(
    axis: Any, values_by_group: Sequence[Floats], shift: float, color: str, label: str
) -> None:
    """Draw means as bars, standard deviations as error bars, and single values as dots."""
    groups = [values[np.isfinite(values)] for values in values_by_group]
    means = [float(values.mean()) if len(values) else 0.0 for values in groups]
    deviations = [float(values.std(ddof=1)) if len(values) > 1 else 0.0 for values in groups]
    positions = np.arange(len(groups)) + shift
    style = {"alpha": 0.6, "capsize": 3, "error_kw": {"linewidth": 0.8}}
    axis.bar(positions, means, 0.38, yerr=deviations, color=color, label=label, **style)
    for position, values in zip(positions, groups, strict=True):
        _draw_dots(axis, position, values)


def _draw_dots(axis: Any, position: float, values: Floats) -> None:
    """Draw single values above each other."""
    dots = {"s": 7, "color": "black", "alpha": 0.6, "linewidth": 0, "zorder": 3}
    x = np.full(len(values), position)
    axis.scatter(x, values, rasterized=len(values) > MAX_VECTOR_DOTS, **dots)


def correlation_matrices(
    names: Sequence[str],
    matrices: Mapping[str, Floats],
    significant: Mapping[str, NDArray[np.bool_]],
) -> str:
    """Draw correlations of metrics as square matrices, significant ones in bold.

    Args:
        names: of the k metrics.
        matrices: title -> (k, k) correlations, -1 to 1, NaN where not known.
        significant: title -> (k, k), where the correlation differs significantly from 0.
    """
    figure = new_figure(PAGE_WIDTH_IN, min(0.36 * len(names), 5.2) + 1.4)
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        image = _draw_matrix(axis, matrix, significant[title])
        _label_metrics(axis, names)
        axis.set_title(title, fontsize=9.5)
    figure.colorbar(image, ax=list(axes), shrink=0.7, label="correlation")
    return svg_text(figure)


def _label_metrics(axis: Any, names: Sequence[str]) -> None:
    """Write the names of metrics along both axes of a matrix."""
    axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
    axis.set_yticks(range(len(names)), names, fontsize=7.5)


def _draw_matrix(axis: Any, matrix: Floats, significant: NDArray[np.bool_]) -> Any:
    """Draw a matrix of correlations with their values, and return its image."""
    finite = np.where(np.isfinite(matrix), matrix, 0)
    image = axis.imshow(finite, cmap="RdBu_r", vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        _write_correlation(axis, row, column, value, bold=bool(significant[row, column]))
    return image


def _write_correlation(axis: Any, row: int, column: int, value: float, bold: bool) -> None:
    """Write the value of a correlation into its square."""
    is_known = np.isfinite(value)
    text = f"{value:.2f}" if is_known else "–"
    color = "white" if is_known and abs(value) > 0.6 else "black"
    style = {"ha": "center", "va": "center", "fontsize": 7, "color": color}
    axis.text(column, row, text, weight="bold" if bold else "normal", **style)
