"""Figures from arrays and tables, in the papers' colors. Images are (y, x), masks boolean (y, x), pictures (y, x, 3) uint8."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

# Machireddy et al. 2023, figure 4. Other structures take the remaining colors of Okabe and Ito in turn.
COLORS = {
    "nucleus": (240, 228, 66),
    "nucleolus": (213, 40, 30),
    "mitochondrion": (255, 105, 180),
    "mitochondria": (255, 105, 180),
    "endosome": (255, 255, 255),
    "lysosome": (0, 0, 0),
}
OTHER_COLORS = ((86, 180, 233), (0, 158, 115), (230, 159, 0), (0, 114, 178), (204, 121, 167))

GOLDEN = 0.61803398875  # of the circle of hues: ids that follow each other look unlike

Picture = NDArray[np.uint8]


def color_of(structure: str, place: int = 0) -> tuple[int, int, int]:
    """The papers' color of a structure, or the ``place``-th of the others."""
    return COLORS.get(structure, OTHER_COLORS[place % len(OTHER_COLORS)])


def shown(image: NDArray[Any]) -> Picture:
    """Gray levels stretched from the 0.5th to the 99.5th percentile, as (y, x, 3)."""
    low, high = np.percentile(image, (0.5, 99.5))
    gray = np.clip((image.astype(np.float32) - low) / max(high - low, 1e-6) * 255, 0, 255).astype(
        np.uint8
    )
    return np.repeat(gray[..., None], 3, axis=-1)


def overlay(
    image: NDArray[Any], masks: Mapping[str, NDArray[np.bool_]], opacity: float = 0.5
) -> Picture:
    """An image with structures laid over it; later ones lie on top."""
    picture = shown(image).astype(np.float32)
    for place, (structure, mask) in enumerate(masks.items()):
        picture[mask] = (1 - opacity) * picture[mask] + opacity * np.array(
            color_of(structure, place), np.float32
        )
    return picture.astype(np.uint8)


@dataclass(frozen=True)
class ComparedSlice:
    """One slice for ``comparison``."""

    title: str
    image: NDArray[Any]
    truth: Mapping[str, NDArray[np.bool_]]
    predicted: Mapping[str, NDArray[np.bool_]]


def comparison(slices: Sequence[ComparedSlice], path: str | Path) -> Path:
    """A row a slice: image, truth, prediction; with a legend of the structures. Written as PNG (or what the ending says)."""
    figure, _ = _panels(
        [
            (
                (one.title, shown(one.image)),
                ("truth", overlay(one.image, one.truth)),
                ("sparsem", overlay(one.image, one.predicted)),
            )
            for one in slices
        ]
    )
    names = list(slices[0].predicted)
    patches = [
        Patch(facecolor=_shade(color_of(name, place)), edgecolor="gray", label=name)
        for place, name in enumerate(names)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(names), frameon=False)
    return _save(figure, path)


@dataclass(frozen=True)
class ComparedCells:
    """One slice for ``cells_beside_truth``; places to look at are (y, x)."""

    title: str
    image: NDArray[Any]
    truth: NDArray[Any]
    predicted: NDArray[Any]
    places: Sequence[tuple[int, int]] = ()


def cells_overlay(image: NDArray[Any], labels: NDArray[Any], opacity: float = 0.4) -> Picture:
    """An image with every cell in a color of its own, the same for the same id wherever it is, and its outline."""
    ids, which = np.unique(labels, return_inverse=True)
    hue = (ids.astype(np.float64) * GOLDEN) % 1
    light = 0.75 + 0.25 * ((ids * 7) % 3) / 2
    colors = hsv_to_rgb(np.stack([hue, np.full(len(ids), 0.65), light], axis=1)) * 255
    tinted = (1 - opacity) * shown(image) + opacity * colors[which.reshape(labels.shape)]
    picture = np.where((labels > 0)[..., None], tinted, shown(image))
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    picture[edge] = 0.25 * picture[edge]
    return picture.astype(np.uint8)


def cells_beside_truth(slices: Sequence[ComparedCells], path: str | Path) -> Path:
    """A row a slice: image, true cells, cells found, with rings around the places to look at."""
    panels = [
        (cells_overlay(one.image, one.truth), cells_overlay(one.image, one.predicted))
        for one in slices
    ]
    figure, axes = _panels(
        [
            (
                (one.title, shown(one.image)),
                ("true cells", true),
                ("sparsem; rings: worth a look", found),
            )
            for one, (true, found) in zip(slices, panels, strict=True)
        ]
    )
    for row, one in zip(axes, slices, strict=True):
        for y, x in one.places:
            row[2].add_patch(
                Circle(
                    (x, y), 0.025 * one.image.shape[1], fill=False, edgecolor="white", linewidth=1.5
                )
            )
    return _save(figure, path)


def dice_along_z(
    scores: Mapping[str, tuple[Sequence[float], Sequence[int]]], path: str | Path
) -> Path:
    """Dice of every slice for each structure, (values, annotated slices), with the annotated slices marked."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    unmeasured: set[int] = (
        set()
    )  # slices that all curves learnt from, where only others were measured
    for place, (structure, (dice, annotated)) in enumerate(scores.items()):
        color = _shade(OTHER_COLORS[place % len(OTHER_COLORS)])
        known = [z for z, value in enumerate(dice) if not math.isnan(value)]
        axis.plot(known, [dice[z] for z in known], label=structure, color=color, linewidth=1.4)
        measured = [z for z in annotated if not math.isnan(dice[z])]
        axis.plot(measured, [dice[z] for z in measured], "o", color=color, markersize=4)
        unmeasured |= {*annotated} - {*measured}
    for z in sorted(unmeasured):
        axis.axvline(z, color="black", linewidth=0.8, linestyle=":")
    dotted = "; dotted: learnt from, not measured" if unmeasured else ""
    axis.set(xlabel=f"slice (dots: labeled by hand{dotted})", ylabel="Dice", ylim=(0, 1.02))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    return _save(figure, path)


def dice_by_labeled(
    runs: Sequence[tuple[int, str, float]], structure: str, path: str | Path
) -> Path:
    """3D Dice by number of labeled slices (figure 2 of the paper): every run (labeled, kind, dice) a point, means and spreads as bars."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    counts = sorted({labeled for labeled, _, _ in runs})
    kinds = list(dict.fromkeys(kind for _, kind, _ in runs))
    for place, kind in enumerate(kinds):
        color = _shade(OTHER_COLORS[place % len(OTHER_COLORS)])
        aside = (place - (len(kinds) - 1) / 2) * 0.12
        values = {
            count: [dice for labeled, one, dice in runs if (labeled, one) == (count, kind)]
            for count in counts
        }
        known = [count for count in counts if values[count]]
        where = np.array([counts.index(count) + aside for count in known])
        means = [float(np.mean(values[count])) for count in known]
        spreads = [
            float(np.std(values[count], ddof=1)) if len(values[count]) > 1 else 0.0
            for count in known
        ]
        axis.errorbar(
            where,
            means,
            spreads,
            color=color,
            marker="s",
            markersize=5,
            linewidth=1.2,
            capsize=4,
            label=kind,
        )
        for x, count in zip(where, known, strict=True):
            axis.plot(
                [x + 0.05] * len(values[count]),
                values[count],
                "o",
                color=color,
                markersize=3,
                alpha=0.5,
            )
    axis.set_xticks(range(len(counts)), [str(count) for count in counts])
    axis.set(
        xlabel="labeled slices",
        ylabel="3D Dice on slices not learnt from",
        title=f"{structure}: mean and standard deviation",
    )
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return _save(figure, path)


def _panels(rows: Sequence[Sequence[tuple[str, Picture]]]) -> tuple[Figure, Any]:
    """Pictures with their titles, three a row."""
    height, width = rows[0][0][1].shape[:2]
    figure = Figure(figsize=(12, 12 / 3 * height / width * len(rows) + 0.7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for axis, (title, picture) in zip(axes.ravel(), chain.from_iterable(rows), strict=True):
        axis.imshow(picture, interpolation="lanczos")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    return figure, axes


def _shade(color: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = color
    return red / 255, green / 255, blue / 255


def _save(figure: Figure, path: str | Path) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
