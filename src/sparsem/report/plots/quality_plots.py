"""Plots of image quality, as SVG: a stack along z, and pictures by protocol (figures 4, 5 and 6 of the thesis, chapter 2)."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from sparsem.report.plots.plots import PAGE, SAMPLE_COLORS, as_svg, figure_of, plain

LIGHTS = {"amber": "#E69F00", "red": "#D40000"}
COLUMNS = 4  # panels in a row
RASTER_FROM = 300  # dots of a group: more are drawn as pixels, or a page of tiles weighs 50 MB
CURVES = {
    "brightness": "brightness",
    "contrast": "contrast",
    "noise": "noise",
    "snr_db": "SNR (dB)",
    "sharpness": "sharpness",
    "resolution_nm": "resolution (nm)",
    "stripes": "stripes",
    "charging": "charging",
    "saturated": "saturated (part of the pixels)",
    "shift_y_nm": "off the slice before, y (nm)",
    "shift_x_nm": "off the slice before, x (nm)",
    "likeness": "likeness with the slice before",
    "spacing": "distance to the slice before (slices)",
}

Floats = NDArray[np.float64]


def along_z(curves: Mapping[str, Floats], lights: Sequence[str]) -> str:
    """A panel a measure, (n,) by slice; slices that are amber or red are marked in all panels."""
    shown = {
        name: curves[name] for name in CURVES if name in curves and np.isfinite(curves[name]).any()
    }
    rows = -(-len(shown) // 3)
    figure = figure_of(PAGE, 1.75 * rows + 0.4)
    axes = list(np.atleast_1d(figure.subplots(rows, 3, squeeze=False, sharex=True)).ravel())
    for axis, (name, values) in zip(axes, shown.items(), strict=False):
        for light, color in LIGHTS.items():
            for z in [z for z, one in enumerate(lights) if one == light]:
                axis.axvline(z, color=color, linewidth=2.2, alpha=0.35)
        axis.plot(
            values,
            color=SAMPLE_COLORS[0],
            linewidth=1.1,
            marker="." if len(values) < 60 else None,
            markersize=3.5,
        )
        axis.set_title(CURVES[name], fontsize=9)
        axis.set_ylim(*_room(values))
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.grid(alpha=0.3)
        axis.tick_params(labelsize=7.5)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(shown) - 3) : len(shown)]:
        axis.set_xlabel("slice", fontsize=8)
        axis.tick_params(labelbottom=True)
    return as_svg(figure)


def _room(values: Floats) -> tuple[float, float]:
    """Limits that hold all values, and at least a tenth of the middle one: what does not change shall not look as if it did."""
    low, high, middle = (
        float(one) for one in (np.nanmin(values), np.nanmax(values), np.nanmedian(values))
    )
    half = max(0.55 * (high - low), 0.05 * abs(middle), 1e-3)
    return (low + high) / 2 - half, (low + high) / 2 + half


def boxes_by_group(
    values: Mapping[str, Mapping[str, Floats]],
    titles: Mapping[str, str],
    colors: Mapping[str, str],
) -> str:
    """A panel a metric: a box a group from quartile to quartile with the median, whiskers to 1.5 times its height, a dot a measurement.

    Args:
        values: metric -> group -> (n,).
        titles: of every metric.
        colors: of every group.
    """
    rows = -(-len(values) // COLUMNS)
    groups = list(colors)
    names, turn, below = _group_names(groups)
    figure = figure_of(PAGE, rows * 2.4 + below + 0.3)
    axes = list(figure.subplots(rows, COLUMNS, squeeze=False).ravel())
    for axis, (metric, own) in zip(axes, values.items(), strict=False):
        _boxes(axis, own, colors)
        axis.set_title(titles[metric], fontsize=9)
        axis.tick_params(axis="y", labelsize=7.5)
    for axis in axes[len(values) :]:
        axis.set_axis_off()
    for place, axis in enumerate(axes[: len(values)]):
        is_lowest = place + COLUMNS >= len(values)
        axis.set_xticks(
            range(len(groups)),
            names if is_lowest else [""] * len(groups),
            rotation=turn,
            fontsize=7.5,
        )
    return as_svg(figure)


def _group_names(groups: Sequence[str]) -> tuple[list[str], int, float]:
    """What stands below an axis, how it is turned, and how many inches it takes: in lines where there is room beside each other."""
    if len(groups) > 3:
        return [plain(name) for name in groups], 90, 0.06 * max(map(len, groups))
    folded = [textwrap.wrap(name, 15) for name in groups]
    return [plain("\n".join(lines)) for lines in folded], 0, 0.14 * max(map(len, folded))


def _boxes(axis: Any, own: Mapping[str, Floats], colors: Mapping[str, str]) -> None:
    for place, (group, color) in enumerate(colors.items()):
        known = own[group][np.isfinite(own[group])]
        if not len(known):
            continue
        axis.boxplot(
            known,
            positions=[place],
            widths=0.6,
            showfliers=False,
            patch_artist=True,
            boxprops={"facecolor": color, "alpha": 0.35, "linewidth": 0.7},
            medianprops={"color": "black", "linewidth": 1.4},
        )
        spread = np.random.default_rng(0).uniform(
            -0.2, 0.2, len(known)
        )  # the same picture every time
        axis.scatter(
            place + spread,
            known,
            s=8,
            color=color,
            linewidth=0,
            zorder=3,
            rasterized=len(known) > RASTER_FROM,
        )
    axis.set_xlim(-0.6, len(colors) - 0.4)
    axis.grid(axis="y", alpha=0.3)


def before_and_after(before: Mapping[str, Floats], after: Mapping[str, Floats], other: str) -> str:
    """Noise in resin by group, of pictures and of what they are compared with: bars are means, lines standard deviations, dots pictures."""
    names, turn, below = _group_names(list(before))
    figure = figure_of(max(6.0, min(PAGE, 0.9 * len(before) + 2.5)), 3.2 + below)
    axis = figure.subplots()
    for shift, color, title, values in (
        (-0.2, SAMPLE_COLORS[0], "as imaged", before),
        (0.2, SAMPLE_COLORS[5], other, after),
    ):
        known = [one[np.isfinite(one)] for one in values.values()]
        means = [float(one.mean()) if len(one) else 0.0 for one in known]
        spreads = [float(one.std(ddof=1)) if len(one) > 1 else 0.0 for one in known]
        places = np.arange(len(known)) + shift
        axis.bar(
            places,
            means,
            0.38,
            yerr=spreads,
            color=color,
            alpha=0.6,
            label=title,
            capsize=3,
            error_kw={"linewidth": 0.8},
        )
        for place, one in zip(places, known, strict=True):
            axis.scatter(
                np.full(len(one), place),
                one,
                s=7,
                color="black",
                alpha=0.6,
                linewidth=0,
                zorder=3,
                rasterized=len(one) > RASTER_FROM,
            )
    axis.set_xticks(range(len(before)), names, rotation=turn, fontsize=8)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("standard deviation in resin\n(part of the range of gray levels)")
    axis.grid(axis="y", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8.5)
    return as_svg(figure)


def correlation_matrices(
    names: Sequence[str], matrices: Mapping[str, Floats], sure: Mapping[str, NDArray[np.bool_]]
) -> str:
    """Correlations -1..1 (k, k) of k metrics, a square matrix each; bold where it is not 0 for certain (``sure``)."""
    figure = figure_of(PAGE, min(0.36 * len(names), 5.2) + 1.4)
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
        drawn = axis.imshow(
            np.where(np.isfinite(matrix), matrix, 0), cmap="RdBu_r", vmin=-1, vmax=1
        )
        for row in range(len(names)):
            for column in range(len(names)):
                value = matrix[row, column]
                text = f"{value:.2f}" if np.isfinite(value) else "–"
                weight = "bold" if sure[title][row, column] else "normal"
                color = "white" if np.isfinite(value) and abs(value) > 0.6 else "black"
                axis.text(
                    column,
                    row,
                    text,
                    ha="center",
                    va="center",
                    fontsize=7,
                    color=color,
                    weight=weight,
                )
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=7.5)
        axis.set_yticks(range(len(names)), names, fontsize=7.5)
        axis.set_title(title, fontsize=9.5)
    figure.colorbar(drawn, ax=list(axes), shrink=0.7, label="correlation")
    return as_svg(figure)
