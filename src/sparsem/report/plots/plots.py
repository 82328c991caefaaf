"""Plots of tables, as SVG with text that stays text. Numbers of an object that the volume's border cuts are drawn hollow, and no median
counts them unless there is nothing else.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from sparsem.measure.dictionary import describe_column

SAMPLE_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
)  # Okabe and Ito: told apart by everybody
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
RASTER_FROM = 6000  # dots of a figure: more are drawn as pixels, or a page of ten thousand vesicles weighs 50 MB
DECADES = 15  # times its median that a column reaches before its axis is logarithmic
ACROSS = 5  # panels in a row
PAGE = 13.0  # width of a figure, inches

Floats = NDArray[np.float64]


class Strip(NamedTuple):
    """Objects of one sample in a strip plot.

    Attributes:
        sample: its name.
        values: by column, (n,) each; NaN where not known.
        cut: by the name of a column of the dictionary (see ``Column.cut_by``), which objects the border spoils, (n,).
    """

    sample: str
    values: Mapping[str, Floats]
    cut: Mapping[str, NDArray[np.bool_]]

    def of(self, column: str) -> tuple[Floats, NDArray[np.bool_]]:
        """Values of a column, and which of them the border spoils."""
        values, found = self.values.get(column, np.empty(0)), describe_column(column)
        spoilt = [
            self.cut[name]
            for name in {"cut_by_edge", found.cut_by if found else ""}
            if name in self.cut
        ]
        return values, np.logical_or.reduce([np.zeros(len(values), bool), *spoilt]) if len(
            values
        ) else np.empty(0, bool)


def strips(samples: Sequence[Strip], columns: Sequence[str]) -> str:
    """A panel a column: a dot an object, side by side by sample, with the median and the quartiles."""
    rows = -(-len(columns) // ACROSS)
    figure = _panels(rows)
    raster = sum(len(values) for one in samples for values in one.values.values()) > RASTER_FROM
    panels = list(figure.axes)
    for axis, column in zip(panels, columns, strict=False):
        for place, one in enumerate(samples):
            _strip(axis, place, *one.of(column), raster)
        if _spans_decades(np.concatenate([one.of(column)[0] for one in samples])):
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
        found = describe_column(column)
        unit = f" ({found.unit})" if found and found.unit not in ("", "1", "ratio", "count") else ""
        axis.set_title(
            _words(column) + unit, fontsize=8.5, y=1.0
        )  # where it would be put, but to look for room takes a fifth of the time
        axis.set_xlim(-0.6, len(samples) - 0.4)
        axis.set_xticks(
            range(len(samples)),
            [f"{_short(one.sample)}\n{_counts(one, column)}" for one in samples],
            fontsize=7,
        )
        axis.tick_params(axis="y", labelsize=7.5)
    for axis in panels[len(columns) :]:
        axis.set_axis_off()
    return as_svg(figure)


def organelles_per_cell(
    cells: Sequence[str], volumes: Mapping[str, Floats], colors: Mapping[str, str]
) -> str:
    """A bar a cell: volume of every organelle, one upon the other, in the CSS colors that they have elsewhere."""
    figure = figure_of(max(6.0, min(13.0, 0.32 * len(cells) + 3)), 3.6)
    axis = figure.subplots()
    total = np.zeros(len(cells))
    for name, volume in volumes.items():
        axis.bar(
            range(len(cells)),
            volume,
            bottom=total,
            color=colors.get(name) or "#888888",
            edgecolor="#444444",
            linewidth=0.6,
            label=plain(name),
        )
        total = total + volume
    axis.set_xticks(range(len(cells)), cells, fontsize=7.5, rotation=90 if len(cells) > 12 else 0)
    axis.set(xlabel="cell", ylabel="volume (µm³)")
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5, reverse=True)
    return as_svg(figure)


class DiceCurve(NamedTuple):
    """Dice of the slices that ground truth labels.

    Attributes:
        z: (n,) numbers of the slices, ascending.
        dice: (n,), NaN where neither mask has a pixel.
        trained: (n,) whether training used the slice.
    """

    z: NDArray[np.int64]
    dice: Floats
    trained: NDArray[np.bool_]


def dice_curves(curves: Mapping[str, DiceCurve]) -> str:
    """Draw the Dice of every slice by structure; slices that training used are marked.

    Only neighboring slices are joined by a line: between others nothing is known.
    """
    figure = figure_of(PAGE, 3.2)
    axis = figure.subplots()
    for place, (name, curve) in enumerate(curves.items()):
        color, marker = SAMPLE_COLORS[place % len(SAMPLE_COLORS)], MARKERS[place % len(MARKERS)]
        whole = np.full(int(curve.z.max()) + 1, np.nan)
        whole[curve.z] = curve.dice
        is_dense = len(curve.z) > 1 and np.diff(curve.z).min() == 1
        axis.plot(
            whole, color=color, linewidth=1.3, label=plain(name), marker=None if is_dense else "."
        )
        axis.plot(
            curve.z[curve.trained], curve.dice[curve.trained], marker, color=color, markersize=4.5
        )
    axis.set(xlabel="slice (marks: used for training)", ylabel="Dice", ylim=(0, 1.02))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5)
    return as_svg(figure)


def networks(trained: Mapping[str, Sequence[tuple[int, float, float]]]) -> str:
    """Networks, each with (labeled slices, seconds of training, Dice) of its trainings: Dice by slices, and Dice by time."""
    figure = figure_of(PAGE, 3.6)
    left, right = figure.subplots(1, 2, sharey=True)
    counts = sorted({labeled for runs in trained.values() for labeled, _, _ in runs})
    longest = max(seconds for runs in trained.values() for _, seconds, _ in runs)
    unit, word = (60, "minutes") if longest >= 120 else (1, "seconds")
    for place, (name, runs) in enumerate(trained.items()):
        style = {
            "color": SAMPLE_COLORS[place % len(SAMPLE_COLORS)],
            "marker": MARKERS[(place + place // len(SAMPLE_COLORS)) % len(MARKERS)],
            "markersize": 5,
        }
        labeled, seconds, dice = zip(*sorted(runs), strict=True)
        left.plot(
            [counts.index(one) for one in labeled], dice, linewidth=1.2, label=plain(name), **style
        )
        right.plot([one / unit for one in seconds], dice, linestyle="", **style)
    left.set_xticks(range(len(counts)), [str(count) for count in counts])
    left.set(xlabel="labeled slices", ylabel="3D Dice")
    right.set(xlabel=f"training ({word})", xscale="log")
    for which in ("major", "minor"):
        getattr(right.xaxis, f"set_{which}_formatter")(FuncFormatter(_shown_tick))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5)
    return as_svg(figure)


def _shown_tick(value: float, _: int) -> str:
    """1, 2 and 5 and their tenfold on a logarithmic axis; the others without a number."""
    return f"{value:g}" if f"{value:e}"[0] in "125" else ""


def drift_curves(shifts: Mapping[str, Floats], marked: Mapping[str, Sequence[int]]) -> str:
    """By how much alignment moved every slice, px, along each axis (n,); slices with a remark are marked."""
    figure = figure_of(PAGE, 2.8)
    axis = figure.subplots()
    for place, (name, shift) in enumerate(shifts.items()):
        axis.plot(shift, color=SAMPLE_COLORS[place], linewidth=1.3, label=name)
    for place, (remark, slices) in enumerate(marked.items()):
        for number, z in enumerate(slices):
            color = SAMPLE_COLORS[(len(shifts) + place) % len(SAMPLE_COLORS)]
            axis.axvline(
                z, color=color, linewidth=0.9, linestyle=":", label=remark if not number else None
            )
    axis.set(xlabel="slice", ylabel="moved by (px)")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5)
    return as_svg(figure)


def spectra(samples: Mapping[str, tuple[Floats, Floats]]) -> str:
    """Pattern spectra by sample, (sizes in nm (k,), parts (objects, k)): the median over objects, and the quartiles as a band."""
    figure = figure_of(7, 3.0)
    axis = figure.subplots()
    for place, (name, (sizes, parts)) in enumerate(samples.items()):
        if not np.isfinite(parts).any():
            continue
        color = SAMPLE_COLORS[place % len(SAMPLE_COLORS)]
        low, middle, high = np.nanpercentile(parts, (25, 50, 75), axis=0)
        axis.fill_between(sizes, low, high, color=color, alpha=0.2, linewidth=0)
        axis.plot(
            sizes,
            middle,
            color=color,
            marker=MARKERS[place % len(MARKERS)],
            markersize=3.5,
            linewidth=1.2,
            label=plain(name),
        )
    axis.axvline(0, color="#888888", linewidth=0.7)
    axis.set(xlabel="size (nm); negative: dark structures", ylabel="part of brightness")
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5)
    return as_svg(figure)


def _spans_decades(values: Floats) -> bool:
    """Whether values are told apart on a logarithmic axis alone: all above 0, and the large far from the middle."""
    known = values[np.isfinite(values)]
    return bool(
        len(known) and known.min() > 0 and np.percentile(known, 98) > DECADES * np.median(known)
    )


def _strip(axis: Any, place: int, values: Floats, cut: NDArray[np.bool_], raster: bool) -> None:
    known = np.isfinite(values)
    if not known.any():
        return
    color = SAMPLE_COLORS[place % len(SAMPLE_COLORS)]
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(values))  # the same picture every time
    whole = known & ~cut
    marker = MARKERS[place % len(MARKERS)]
    axis.scatter(
        place + spread[whole],
        values[whole],
        s=9,
        color=color,
        marker=marker,
        alpha=0.6,
        linewidth=0,
        rasterized=raster,
    )
    hollow = known & cut
    axis.scatter(
        place + spread[hollow],
        values[hollow],
        s=9,
        facecolor="none",
        edgecolor=color,
        marker=marker,
        linewidth=0.6,
        rasterized=raster,
    )
    low, middle, high = np.percentile(values[whole if whole.any() else known], (25, 50, 75))
    axis.hlines((low, high), place - 0.28, place + 0.28, color="black", linewidth=0.8)
    axis.hlines(middle, place - 0.4, place + 0.4, color="black", linewidth=1.8)


def _counts(one: Strip, column: str) -> str:
    """How many objects a median is of, and how many more are cut by the border."""
    values, cut = one.of(column)
    known = np.isfinite(values)
    whole = int((known & ~cut).sum())
    return f"n = {whole}, cut {int(known.sum()) - whole}"


def figure_of(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _panels(rows: int) -> Figure:
    """A figure of ``rows`` by ``ACROSS`` panels that lie where they are put: to find room for the words of sixty takes seconds."""
    high, between, left, gap = 1.75, 0.6, 0.65, 0.62  # inches
    height = rows * (high + between) + 0.1
    figure = Figure(figsize=(PAGE, height))
    FigureCanvasSVG(figure)
    wide = (PAGE - left - 0.1 - (ACROSS - 1) * gap) / ACROSS
    figure.subplots(
        rows,
        ACROSS,
        squeeze=False,
        gridspec_kw={
            "left": left / PAGE,
            "right": 1 - 0.1 / PAGE,
            "top": 1 - 0.3 / height,
            "bottom": 0.4 / height,
            "wspace": gap / wide,
            "hspace": between / high,
        },
    )
    return figure


def as_svg(figure: Figure) -> str:
    """The picture as an element that scales with the page."""
    sink = io.StringIO()
    # Names inside an SVG must differ between pictures of a page, and be the same whenever the page is made.
    salt = "-".join(
        axis.get_title() + axis.get_xlabel() + str(len(axis.get_children())) for axis in figure.axes
    )
    with mpl.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif"}
    ):
        figure.savefig(sink, format="svg", dpi=110, metadata={"Date": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]


def _words(column: str) -> str:
    """A column's name without its unit."""
    for ending in ("_per_um3", "_um3", "_um2", "_um", "_voxels"):
        column = (
            column.removesuffix(ending)
            if ending != "_per_um3"
            else column.replace(ending, " per µm³")
        )
    return column.replace("_", " ")


def _short(name: str) -> str:
    return plain(name if len(name) <= 12 else name[:11] + "…")


def plain(name: str) -> str:
    """A name that matplotlib neither takes for a formula nor leaves out of a legend."""
    return (
        name.replace("$", r"\$")
        if not name.startswith("_")
        else "\u200b" + name.replace("$", r"\$")
    )


def precision_and_recall(
    curves: Mapping[tuple[str, str], tuple[Floats, Floats]], colors: Mapping[str, str]
) -> str:
    """A line a structure: precision at each recall; dashed of boxes that are held to biology.

    Args:
        curves: (structure, ``predicted`` or ``constrained``) to recall and precision, (n,) each.
        colors: CSS colors of structures and of their boxes.
    """
    figure = figure_of(6.4, 3.8)
    axis = figure.subplots()
    for (name, kind), (recall, precision) in curves.items():
        told = name if kind == "predicted" else f"{name}, constrained"
        style = "-" if kind == "predicted" else "--"
        axis.plot(recall, precision, style, color=_color(name, colors), linewidth=1.6, label=told)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5)
    return as_svg(figure)


def counted_and_annotated(
    numbers: Mapping[str, Sequence[tuple[int, int]]], colors: Mapping[str, str]
) -> str:
    """A mark a picture: objects that were annotated, and that were counted; one panel a structure."""
    figure = figure_of(min(PAGE, max(6.4, 2.6 * len(numbers))), 2.8)
    panels = np.atleast_1d(figure.subplots(1, max(1, len(numbers))))
    for axis, (name, pairs) in zip(panels, numbers.items(), strict=False):
        most = 1.05 * max([1, *(max(pair) for pair in pairs)])
        axis.plot([0, most], [0, most], color="#999999", linewidth=0.8)
        axis.scatter(
            *zip(*pairs, strict=True),
            s=16,
            color=_color(name, colors),
            edgecolors="#333333",
            linewidths=0.4,
        )
        axis.set(
            xlabel="annotated",
            ylabel="counted" if axis is panels[0] else "",
            xlim=(0, most),
            ylim=(0, most),
        )
        axis.set_title(plain(name), fontsize=9)
        axis.set_aspect("equal")
    return as_svg(figure)


def _color(name: str, colors: Mapping[str, str]) -> str:
    return colors.get(name) or colors.get(f"{name}, boxes") or "#555555"
