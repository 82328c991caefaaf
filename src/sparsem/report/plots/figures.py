"""Figures of a study and of experiments, as image files.

Images are (y, x), masks are boolean (y, x), labels are integers (y, x), RGB images are
(y, x, 3) uint8. Structures have the papers' colors.
"""

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

from sparsem.report.plots.colors import (
    FALLBACK_COLORS,
    GOLDEN_RATIO,
    structure_color,
    unit_rgb,
)

PANELS_PER_ROW = 3
FIGURE_WIDTH_IN = 12  # of rows of images, inches
CIRCLE_RADIUS = 0.025  # around a place to review, as a fraction of the image's width
KIND_GAP = 0.12  # between kinds of training at the same number of labeled slices, on the x axis

RGBImage = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Panel = tuple[str, RGBImage]  # title and image
UnitColor = tuple[float, float, float]  # red, green and blue, 0 to 1


def stretch_contrast(image: NDArray[Any]) -> RGBImage:
    """Return an image (y, x) as RGB, stretched from the 0.5th to the 99.5th percentile."""
    low, high = np.percentile(image, (0.5, 99.5))
    stretched = (image.astype(np.float32) - low) / max(high - low, 1e-6) * 255
    gray = np.clip(stretched, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1)


def mask_overlay(image: NDArray[Any], masks: Mapping[str, Mask], opacity: float = 0.5) -> RGBImage:
    """Return an image with the masks of structures over it; later masks lie on top."""
    rgb = stretch_contrast(image).astype(np.float32)
    for index, (structure, mask) in enumerate(masks.items()):
        color = np.array(structure_color(structure, index), np.float32)
        rgb[mask] = (1 - opacity) * rgb[mask] + opacity * color
    return rgb.astype(np.uint8)


def cell_overlay(image: NDArray[Any], labels: NDArray[Any], opacity: float = 0.4) -> RGBImage:
    """Return an image with colored, outlined cells over it; the same number has the same color."""
    ids, indices = np.unique(labels, return_inverse=True)
    colors = _cell_colors(ids)
    gray = stretch_contrast(image)
    tinted = (1 - opacity) * gray + opacity * colors[indices.reshape(labels.shape)]
    rgb = np.where((labels > 0)[..., None], tinted, gray)
    edge = label_outlines(labels)
    rgb[edge] = 0.25 * rgb[edge]
    return rgb.astype(np.uint8)


def _cell_colors(ids: NDArray[Any]) -> NDArray[np.float64]:
    """Return the color of each number of a cell, (n, 3) from 0 to 255."""
    hue = (ids.astype(np.float64) * GOLDEN_RATIO) % 1
    brightness = 0.75 + 0.25 * ((ids * 7) % 3) / 2
    saturation = np.full(len(ids), 0.65)
    return np.asarray(hsv_to_rgb(np.stack([hue, saturation, brightness], axis=1)) * 255)


def label_outlines(labels: NDArray[Any]) -> Mask:
    """Return the pixels (y, x) whose label differs from that of the upper or the left neighbor."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return edge


@dataclass(frozen=True)
class ComparedSlice:
    """One slice with masks of structures, for ``write_slice_comparison``.

    Attributes:
        title: of its row.
        image: (y, x).
        truth: structure -> mask of the ground truth (y, x).
        predicted: structure -> predicted mask (y, x).
    """

    title: str
    image: NDArray[Any]
    truth: Mapping[str, Mask]
    predicted: Mapping[str, Mask]

    def panels(self) -> list[Panel]:
        """Return image, ground truth and prediction, with their titles."""
        return [
            (self.title, stretch_contrast(self.image)),
            ("ground truth", mask_overlay(self.image, self.truth)),
            ("sparsem", mask_overlay(self.image, self.predicted)),
        ]


@dataclass(frozen=True)
class ComparedCells:
    """One slice with numbered cells, for ``write_cell_comparison``.

    Attributes:
        title: of its row.
        image: (y, x).
        truth: labels of the ground truth (y, x).
        predicted: predicted labels (y, x).
        places: (y, x) of the places to review.
    """

    title: str
    image: NDArray[Any]
    truth: NDArray[Any]
    predicted: NDArray[Any]
    places: Sequence[tuple[int, int]] = ()

    def panels(self) -> list[Panel]:
        """Return image, ground truth and prediction, with their titles."""
        return [
            (self.title, stretch_contrast(self.image)),
            ("ground truth", cell_overlay(self.image, self.truth)),
            ("sparsem (circles: places to review)", cell_overlay(self.image, self.predicted)),
        ]


def write_slice_comparison(slices: Sequence[ComparedSlice], path: str | Path) -> Path:
    """Write a row per slice with image, ground truth and prediction, and a legend of structures.

    The ending of the path names the format, for example PNG.
    """
    figure, _ = _rows_of_panels([compared.panels() for compared in slices])
    names = list(slices[0].predicted)
    patches = [
        Patch(facecolor=unit_rgb(structure_color(name, index)), edgecolor="gray", label=name)
        for index, name in enumerate(names)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(names), frameon=False)
    return _save(figure, path)


def write_cell_comparison(slices: Sequence[ComparedCells], path: str | Path) -> Path:
    """Write a row per slice with image, true cells and predicted cells.

    Circles in the last image mark the places to review.
    """
    figure, axes = _rows_of_panels([compared.panels() for compared in slices])
    for row_axes, compared in zip(axes, slices, strict=True):
        radius = CIRCLE_RADIUS * compared.image.shape[1]
        for y, x in compared.places:
            circle = Circle((x, y), radius, fill=False, edgecolor="white", linewidth=1.5)
            row_axes[2].add_patch(circle)
    return _save(figure, path)


def _rows_of_panels(rows: Sequence[Sequence[Panel]]) -> tuple[Figure, Any]:
    """Return a figure of titled images, three in a row, and its axes (rows, 3)."""
    height, width = rows[0][0][1].shape[:2]
    row_height_in = FIGURE_WIDTH_IN / PANELS_PER_ROW * height / width
    figure = _new_figure(FIGURE_WIDTH_IN, row_height_in * len(rows) + 0.7)
    axes = figure.subplots(len(rows), PANELS_PER_ROW, squeeze=False)
    for axis, (title, image) in zip(axes.ravel(), chain.from_iterable(rows), strict=True):
        axis.imshow(image, interpolation="lanczos")
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    return figure, axes


def write_dice_along_z(
    scores: Mapping[str, tuple[Sequence[float], Sequence[int]]], path: str | Path
) -> Path:
    """Write a plot of the Dice of every slice; dots mark the labeled slices.

    Dotted lines mark slices that were used for training and have no Dice.

    Args:
        scores: name of a curve -> Dice of every slice, NaN where not known; numbers of the labeled
            slices.
        path: the file to write.
    """
    figure = _new_figure(9, 3.5)
    axis = figure.subplots()
    trained_only: set[int] = set()
    for index, (name, (dice, labeled)) in enumerate(scores.items()):
        scored = [z for z in labeled if not math.isnan(dice[z])]
        _draw_dice_along_z(axis, name, dice, scored, _fallback_color(index))
        trained_only |= {*labeled} - {*scored}
    for z in sorted(trained_only):
        axis.axvline(z, color="black", linewidth=0.8, linestyle=":")
    dotted = "; dotted: used for training, not scored" if trained_only else ""
    axis.set(xlabel=f"slice (dots: labeled by hand{dotted})", ylabel="Dice", ylim=(0, 1.02))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    return _save(figure, path)


def _draw_dice_along_z(
    axis: Any, name: str, dice: Sequence[float], scored: Sequence[int], color: UnitColor
) -> None:
    """Draw the known Dice of slices as a line, and those of labeled slices as dots."""
    known = [z for z, value in enumerate(dice) if not math.isnan(value)]
    axis.plot(known, [dice[z] for z in known], label=name, color=color, linewidth=1.4)
    axis.plot(scored, [dice[z] for z in scored], "o", color=color, markersize=4)


def write_dice_by_labeled(
    runs: Sequence[tuple[int, str, float]], structure: str, path: str | Path
) -> Path:
    """Write a plot of the 3D Dice by number of labeled slices (figure 2 of the paper).

    Every run is a dot; squares are means, error bars are standard deviations.

    Args:
        runs: (number of labeled slices, kind of training, 3D Dice) of every run.
        structure: name for the title.
        path: the file to write.
    """
    figure = _new_figure(7, 4)
    axis = figure.subplots()
    counts = sorted({n_labeled for n_labeled, _, _ in runs})
    kinds = list(dict.fromkeys(kind for _, kind, _ in runs))
    for index, kind in enumerate(kinds):
        dice_by_count = {count: _dice_of(runs, count, kind) for count in counts}
        offset = (index - (len(kinds) - 1) / 2) * KIND_GAP
        _draw_dice_by_count(axis, dice_by_count, offset, _fallback_color(index), kind)
    axis.set_xticks(range(len(counts)), [str(count) for count in counts])
    axis.set_xlabel("labeled slices")
    axis.set_ylabel("3D Dice on slices not used for training")
    axis.set_title(f"{structure}: mean and standard deviation")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return _save(figure, path)


def _dice_of(runs: Sequence[tuple[int, str, float]], count: int, kind: str) -> list[float]:
    """Return the 3D Dice of the runs of one kind with a number of labeled slices."""
    return [dice for n, run_kind, dice in runs if (n, run_kind) == (count, kind)]


def _draw_dice_by_count(
    axis: Any,
    dice_by_count: Mapping[int, Sequence[float]],
    offset: float,
    color: UnitColor,
    label: str,
) -> None:
    """Draw the runs of one kind, ``offset`` to the right of the positions of their counts."""
    positions = [k + offset for k, dice in enumerate(dice_by_count.values()) if dice]
    runs = [dice for dice in dice_by_count.values() if dice]
    means = [float(np.mean(dice)) for dice in runs]
    deviations = [_deviation(dice) for dice in runs]
    squares = {"marker": "s", "markersize": 5, "linewidth": 1.2, "capsize": 4}
    axis.errorbar(np.array(positions), means, deviations, color=color, label=label, **squares)
    for position, dice in zip(positions, runs, strict=True):
        x = [position + 0.05] * len(dice)
        axis.plot(x, dice, "o", color=color, markersize=3, alpha=0.5)


def _deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of values; 0 for a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def _fallback_color(index: int) -> UnitColor:
    """Return one of the colors of structures without a color of the papers."""
    return unit_rgb(FALLBACK_COLORS[index % len(FALLBACK_COLORS)])


def _new_figure(width_in: float, height_in: float) -> Figure:
    """Return an empty figure, inches."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: str | Path) -> Path:
    """Write a figure to a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path
