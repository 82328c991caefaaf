"""The HTML page of a study of protocols: figures 4, 5 and 6 of the thesis' second chapter."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from sparsem import __version__
from sparsem.quality.compare import ProtocolComparison
from sparsem.quality.comparison_tests import SIGNIFICANCE, GroupTest
from sparsem.quality.image_metrics import METRICS
from sparsem.quality.settings import CompareSettings, GroupStep
from sparsem.report.encode import rgb_image_uri
from sparsem.report.page import template_environment
from sparsem.report.plots.colors import series_color
from sparsem.report.plots.quality_plots import (
    boxes_by_group,
    correlation_matrices,
    noise_before_and_after,
)
from sparsem.store.sample import now

EXAMPLE_PX = 420  # longest edge of the example of a group
EXAMPLE_QUALITY = 80  # of WebP
COEFFICIENTS = ("Pearson", "Spearman")

# The noise of the references, drawn only next to that of the images.
REFERENCE_NOISE = "resin_noise_reference"

ValuesByGroup = Mapping[str, NDArray[np.float64]]


def comparison_page(
    result: ProtocolComparison, study: CompareSettings, tables: Mapping[str, pa.Table], folder: Path
) -> str:
    """Return the HTML of a page that loads nothing.

    Args:
        result: measurements, tests and correlations of the study.
        study: settings of the study.
        tables: name -> table, of the CSV files next to the page.
        folder: of the study; it holds an image of the resin of every image.
    """
    template = template_environment().get_template("comparison.html")
    return template.render(
        title=study.title,
        groups=[_group_card(result, group, folder) for group in study.group],
        notices=result.notices,
        figures=comparison_figures(result, study),
        medians=_median_rows(result),
        tests=_test_rows(result.tests),
        n_tests=sum(not np.isnan(test.difference.p) for test in result.tests),
        metrics=_metric_rows(result),
        files=[(f"{name}.csv", table.num_rows) for name, table in tables.items()],
        made=now(),
        version=__version__,
    )


def _metric_rows(result: ProtocolComparison) -> list[tuple[str, str, int, str]]:
    """Return name, unit, better direction and explanation of every metric that was measured."""
    rows = []
    for metric, about in METRICS.items():
        if metric in result.values:
            rows.append((about.name, about.unit, about.better, about.about))
    return rows


def comparison_figures(result: ProtocolComparison, study: CompareSettings) -> list[dict[str, str]]:
    """Return title, caption and SVG of every figure."""
    shown = {
        metric: values
        for metric, values in result.values.items()
        if metric != REFERENCE_NOISE and _varies(values)
    }
    figures = []
    if shown:
        figures.append(_metrics_figure(shown, study))
    if "resin_noise" in result.values and REFERENCE_NOISE in result.values:
        figures.append(_noise_figure(result, study))
    if len(shown) > 1:
        figures.append(_correlation_figure(result))
    return figures


def _metrics_figure(shown: Mapping[str, ValuesByGroup], study: CompareSettings) -> dict[str, str]:
    """Return the figure of every metric by group."""
    titles = {metric: _metric_title(metric) for metric in shown}
    caption = (
        f"Each dot is one {study.by}. Boxes reach from the lower to the upper quartile, the line "
        "is the median, and whiskers reach to 1.5 times the height of the box. Arrows: higher (↑) "
        "or lower (↓) is better."
    )
    svg = boxes_by_group(shown, titles, _group_colors(study.group))
    return {"title": "Every metric by group", "caption": caption, "svg": svg}


def _noise_figure(result: ProtocolComparison, study: CompareSettings) -> dict[str, str]:
    """Return the figure of the noise in resin, next to that of references or denoised images."""
    if study.denoise:
        title, after_label = "Noise before and after denoising", "denoised"
    else:
        title, after_label = "Noise of the images and of their references", "reference"
    before, after = result.values["resin_noise"], result.values[REFERENCE_NOISE]
    caption = (
        "Standard deviation in resin. Bars: means; error bars: standard deviations; dots: single "
        "measurements."
    )
    svg = noise_before_and_after(before, after, after_label)
    return {"title": title, "caption": caption, "svg": svg}


def _correlation_figure(result: ProtocolComparison) -> dict[str, str]:
    """Return the figure of the correlations of metrics."""
    n = max(correlation.pearson.n for correlation in result.correlations)
    caption = (
        f"Correlation over all measurements (at most n = {n}). Bold: significantly different from "
        f"0 (p < {SIGNIFICANCE:g}, corrected for all pairs by Holm's method). The table of "
        "correlations gives the confidence intervals. All groups are pooled, so two metrics can "
        "correlate only because groups differ in both."
    )
    return {
        "title": "Correlation of the metrics",
        "caption": caption,
        "svg": _correlation_svg(result),
    }


def _varies(values: ValuesByGroup) -> bool:
    """Return whether the values of a metric differ; saturation may be 0 everywhere."""
    all_values = np.concatenate(list(values.values()))
    return bool(np.nanmax(all_values) > np.nanmin(all_values))


def _metric_title(metric: str) -> str:
    """Return the name of a metric with its unit, and an arrow to its better side."""
    about = METRICS[metric]
    unit = f" ({about.unit})" if about.unit else ""
    arrow = "↑" if about.better > 0 else "↓"
    return f"{about.name}{unit}  {arrow}"


def _group_colors(groups: Sequence[GroupStep]) -> dict[str, str]:
    """Return the CSS color of every group; groups of one protocol have the same color."""
    protocols = list(dict.fromkeys(group.protocol for group in groups))
    return {group.name: series_color(protocols.index(group.protocol)) for group in groups}


def _correlation_svg(result: ProtocolComparison) -> str:
    """Draw the matrices of both coefficients."""
    metrics = [metric for metric, values in result.values.items() if _varies(values)]
    shape = (len(metrics), len(metrics))
    matrices = {title: np.eye(len(metrics)) for title in COEFFICIENTS}
    significant = {title: np.zeros(shape, bool) for title in COEFFICIENTS}
    for pair in result.correlations:
        if not set(pair.metrics) <= set(metrics):
            continue
        row, column = (metrics.index(metric) for metric in pair.metrics)
        coefficients = (pair.pearson, pair.spearman)
        for title, coefficient, p in zip(COEFFICIENTS, coefficients, pair.corrected, strict=True):
            for index in ((row, column), (column, row)):
                matrices[title][index] = coefficient.value
                significant[title][index] = p < SIGNIFICANCE
    names = [METRICS[metric].name for metric in metrics]
    return correlation_matrices(names, matrices, significant)


def _group_card(result: ProtocolComparison, group: GroupStep, folder: Path) -> dict[str, Any]:
    """Return what the page says of a group, with its first image as an example."""
    images = result.groups[group.name]
    example = images[0]
    return {
        "name": group.name,
        "facts": {
            "protocol": group.protocol,
            "tissue": group.tissue,
            "microscope": group.microscope,
        },
        "n_images": len(images),
        "example": _example_uri(folder / group.folder / "resin" / f"{example.name}.png"),
        "resin": example.resin,
    }


def _example_uri(path: Path) -> str:
    """Return an image with its resin, small enough for the page, as a data URI."""
    with Image.open(path) as image:
        image.thumbnail((EXAMPLE_PX, EXAMPLE_PX))
        return rgb_image_uri(image, EXAMPLE_QUALITY)


def _median_rows(result: ProtocolComparison) -> dict[str, list[str]]:
    """Return the names of all metrics under an empty key, and the medians of every group."""
    rows = {"": [METRICS[metric].name for metric in result.values]}
    for group in result.groups:
        rows[group] = [_median_text(values[group]) for values in result.values.values()]
    return rows


def _median_text(values: NDArray[np.float64]) -> str:
    """Return the median of the known values as text."""
    known = values[np.isfinite(values)]
    return f"{np.median(known):.4g}" if len(known) else "–"


def _test_rows(tests: Sequence[GroupTest]) -> list[dict[str, Any]]:
    """Return the tests that could be made, the most significant first."""
    valid = [test for test in tests if not np.isnan(test.difference.p)]
    valid.sort(key=lambda test: (test.corrected, test.difference.p))
    return [_test_row(test) for test in valid]


def _test_row(test: GroupTest) -> dict[str, Any]:
    """Return the texts of a test."""
    difference = test.difference
    return {
        "metric": METRICS[test.metric].name,
        "groups": " and ".join(test.groups),
        "n": " and ".join(map(str, difference.n)),
        "medians": " and ".join(f"{value:.4g}" for value in difference.medians),
        "delta": f"{difference.delta:+.2f}",
        "p": f"{difference.p:.2g}",
        "corrected": f"{test.corrected:.2g}",
        "significant": test.corrected < SIGNIFICANCE,
    }
