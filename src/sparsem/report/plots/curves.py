"""Plots of curves and bars for the report, as SVG: Dice, networks, drift, spectra, cells."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from sparsem.report.plots.colors import SERIES_COLORS, series_color, series_marker
from sparsem.report.plots.svg import (
    PAGE_WIDTH_IN,
    add_legend,
    escape_label,
    new_figure,
    svg_text,
)

MINUTES_FROM_S = 120  # training times are shown in minutes if the longest reaches this
UPRIGHT_CELL_NAMES = 12  # names of more cells are turned so that they do not overlap

Floats = NDArray[np.float64]
Run = tuple[int, float, float]


class DiceCurve(NamedTuple):
    """Dice of the slices that ground truth labels.

    Attributes:
        z: (n,) slice numbers, ascending.
        dice: (n,), NaN where neither mask has a pixel.
        trained: (n,), whether training used the slice.
    """

    z: NDArray[np.int64]
    dice: Floats
    trained: NDArray[np.bool_]


def dice_curves(curves: Mapping[str, DiceCurve]) -> str:
    """Draw the Dice of every slice by structure; marks show the slices that training used.

    Lines connect neighboring slices only, because the Dice of slices between others is not known.
    """
    figure = new_figure(PAGE_WIDTH_IN, 3.2)
    axis = figure.subplots()
    for index, (name, curve) in enumerate(curves.items()):
        _draw_dice_curve(axis, index, name, curve)
    axis.set(xlabel="slice (marks: used for training)", ylabel="Dice", ylim=(0, 1.02))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    add_legend(figure)
    return svg_text(figure)


def _draw_dice_curve(axis: Any, index: int, name: str, curve: DiceCurve) -> None:
    """Draw the Dice of a structure, and marks at the slices that training used."""
    color = series_color(index)
    dice_of_all_slices = np.full(int(curve.z.max()) + 1, np.nan)
    dice_of_all_slices[curve.z] = curve.dice
    has_neighbors = len(curve.z) > 1 and np.diff(curve.z).min() == 1
    dots = None if has_neighbors else "."
    label = escape_label(name)
    axis.plot(dice_of_all_slices, color=color, linewidth=1.3, label=label, marker=dots)
    trained_z, trained_dice = curve.z[curve.trained], curve.dice[curve.trained]
    axis.plot(trained_z, trained_dice, series_marker(index), color=color, markersize=4.5)


def network_comparison(runs_by_network: Mapping[str, Sequence[Run]]) -> str:
    """Draw the Dice of networks by number of labeled slices and by training time.

    Args:
        runs_by_network: network -> its training runs, each (number of labeled slices, seconds of
            training, 3D Dice).
    """
    figure = new_figure(PAGE_WIDTH_IN, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    all_runs = [run for runs in runs_by_network.values() for run in runs]
    counts = sorted({n_labeled for n_labeled, _, _ in all_runs})
    longest_s = max(seconds for _, seconds, _ in all_runs)
    unit_s, unit_name = (60, "minutes") if longest_s >= MINUTES_FROM_S else (1, "seconds")
    for index, (name, runs) in enumerate(runs_by_network.items()):
        style = _network_style(index)
        n_labeled, seconds, dice = zip(*sorted(runs), strict=True)
        positions = [counts.index(count) for count in n_labeled]
        left.plot(positions, dice, linewidth=1.2, label=escape_label(name), **style)
        right.plot([value / unit_s for value in seconds], dice, linestyle="", **style)
    left.set_xticks(range(len(counts)), [str(count) for count in counts])
    left.set(xlabel="labeled slices", ylabel="3D Dice")
    _label_time_axis(right, unit_name)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    add_legend(figure)
    return svg_text(figure)


def _label_time_axis(axis: Any, unit_name: str) -> None:
    """Make the axis of training times logarithmic, and label it."""
    axis.set(xlabel=f"training ({unit_name})", xscale="log")
    axis.xaxis.set_major_formatter(FuncFormatter(_tick_label_1_2_5))
    axis.xaxis.set_minor_formatter(FuncFormatter(_tick_label_1_2_5))


def _network_style(index: int) -> dict[str, Any]:
    """Return a color and a marker; networks of the same color have different markers."""
    round_of_colors = index // len(SERIES_COLORS)
    marker = series_marker(index + round_of_colors)
    return {"color": series_color(index), "marker": marker, "markersize": 5}


def _tick_label_1_2_5(value: float, _: int) -> str:
    """Return the label of a tick of a logarithmic axis: only 1, 2, 5, 10, 20, 50, ... have one."""
    first_digit = f"{value:e}"[0]
    return f"{value:g}" if first_digit in "125" else ""


def drift_curves(shifts: Mapping[str, Floats], marked: Mapping[str, Sequence[int]]) -> str:
    """Draw how far alignment moved every slice.

    Args:
        shifts: axis -> (n,) shift of every slice, pixels.
        marked: remark -> slices with that remark.
    """
    figure = new_figure(PAGE_WIDTH_IN, 2.8)
    axis = figure.subplots()
    for index, (name, shift) in enumerate(shifts.items()):
        axis.plot(shift, color=series_color(index), linewidth=1.3, label=name)
    for index, (remark, slices) in enumerate(marked.items(), len(shifts)):
        _mark_remark(axis, remark, slices, series_color(index))
    axis.set(xlabel="slice", ylabel="moved by (px)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    add_legend(figure)
    return svg_text(figure)


def _mark_remark(axis: Any, remark: str, slices: Sequence[int], color: str) -> None:
    """Draw a dotted line at every slice with a remark."""
    label: str | None = remark
    for z in slices:
        axis.axvline(z, color=color, linewidth=0.9, linestyle=":", label=label)
        label = None  # once in the legend


def pattern_spectra(samples: Mapping[str, tuple[Floats, Floats]]) -> str:
    """Draw pattern spectra: the median over the objects of a sample, and the quartiles as a band.

    Args:
        samples: sample -> sizes in nm (k,), and fractions of the brightness (n objects, k).
    """
    figure = new_figure(7, 3.0)
    axis = figure.subplots()
    for index, (name, (sizes, fractions)) in enumerate(samples.items()):
        if np.isfinite(fractions).any():
            _draw_spectrum(axis, index, name, sizes, fractions)
    axis.axvline(0, color="#888888", linewidth=0.7)
    axis.set(xlabel="size (nm); negative: dark structures", ylabel="fraction of brightness")
    add_legend(figure)
    return svg_text(figure)


def _draw_spectrum(axis: Any, index: int, name: str, sizes: Floats, fractions: Floats) -> None:
    """Draw the median spectrum of a sample, and the quartiles as a band."""
    color = series_color(index)
    low, median, high = np.nanpercentile(fractions, (25, 50, 75), axis=0)
    axis.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
    style: dict[str, Any] = {
        "marker": series_marker(index),
        "markersize": 3.5,
        "linewidth": 1.2,
    }
    axis.plot(sizes, median, color=color, label=escape_label(name), **style)


def organelles_per_cell(
    cells: Sequence[str], volumes: Mapping[str, Floats], colors: Mapping[str, str]
) -> str:
    """Draw one bar per cell: the volumes of its organelles, stacked.


    Args:
        cells: names of the cells.
        volumes: organelle -> (n cells,) volume in µm³.
        colors: organelle -> CSS color that it has in the rest of the page.
    """
    width_in = max(6.0, min(PAGE_WIDTH_IN, 0.32 * len(cells) + 3))
    figure = new_figure(width_in, 3.6)
    axis = figure.subplots()
    _draw_stacked_bars(axis, volumes, colors, len(cells))
    rotation = 90 if len(cells) > UPRIGHT_CELL_NAMES else 0
    axis.set_xticks(range(len(cells)), cells, fontsize=7.5, rotation=rotation)
    axis.set(xlabel="cell", ylabel="volume (µm³)")
    add_legend(figure, reverse=True)
    return svg_text(figure)


def _draw_stacked_bars(
    axis: Any, volumes: Mapping[str, Floats], colors: Mapping[str, str], n_cells: int
) -> None:
    """Draw the volumes of organelles on top of each other, a bar for each cell."""
    outline: dict[str, Any] = {"edgecolor": "#444444", "linewidth": 0.6}
    positions = range(n_cells)
    bottom = np.zeros(n_cells)
    for name, volume in volumes.items():
        color = colors.get(name) or "#888888"
        axis.bar(positions, volume, bottom=bottom, color=color, label=escape_label(name), **outline)
        bottom = bottom + volume
