"""A study of protocols as one page: figures 4, 5 and 6 of the thesis' second chapter, with the tables behind them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from sparsem import __version__
from sparsem.quality.compare import SURE, Compared, CompareSettings, GroupStep, Test
from sparsem.quality.image_metrics import METRICS
from sparsem.report.encode import color_picture
from sparsem.report.plots.plots import SAMPLE_COLORS
from sparsem.report.plots.quality_plots import (
    before_and_after,
    boxes_by_group,
    correlation_matrices,
)
from sparsem.store.sample import now

SHOWN_PX = 420  # longest edge of an example of a group


def figures(found: Compared, study: CompareSettings) -> list[dict[str, str]]:
    """Title, caption and SVG of every figure."""
    shown = {
        metric: own
        for metric, own in found.values.items()
        if metric != "resin_noise_reference" and _varies(own)
    }
    titles = {metric: _title(metric) for metric in shown}
    one = f"one {study.by}"
    made = []
    if shown:
        every = {
            "title": "Every metric by group",
            "about": f"A dot is {one}; boxes reach from quartile to quartile, the line is the median, whiskers end at 1.5 times the box. "
            "An arrow says where better is.",
            "svg": boxes_by_group(shown, titles, _colors(study.group)),
        }
        made.append(every)
    if "resin_noise" in found.values and "resin_noise_reference" in found.values:
        before, after = (
            found.values[metric] for metric in ("resin_noise", "resin_noise_reference")
        )
        other = "denoised" if study.denoise else "reference"
        title = (
            "Noise before and after denoising"
            if study.denoise
            else "Noise of pictures and of their reference"
        )
        about = "Standard deviation in resin. Bars: means; lines: standard deviations; dots: measurements."
        made.append({"title": title, "about": about, "svg": before_and_after(before, after, other)})
    if len(shown) > 1:
        n = max(each.pearson.n for each in found.correlations)
        about = (
            f"Over all measurements (n = {n} at most). Bold: not 0 (p < {SURE:g}, corrected for all pairs after Holm). Intervals are in "
            "the table of correlations. All groups are taken together: where groups differ, two metrics go together for that alone."
        )
        made.append(
            {"title": "Correlation of the metrics", "about": about, "svg": _matrices(found)}
        )
    return made


def _varies(own: Mapping[str, NDArray[np.float64]]) -> bool:
    """Whether there is anything to see: no part of any picture is saturated, say."""
    values = np.concatenate(list(own.values()))
    return bool(np.nanmax(values) > np.nanmin(values))


def _title(metric: str) -> str:
    about = METRICS[metric]
    unit = f" ({about.unit})" if about.unit else ""
    return f"{about.name}{unit}  {'↑' if about.better > 0 else '↓'}"


def _colors(groups: Sequence[GroupStep]) -> dict[str, str]:
    """A color a protocol, whatever the tissue and the microscope."""
    protocols = list(dict.fromkeys(one.protocol for one in groups))
    return {
        one.name: SAMPLE_COLORS[protocols.index(one.protocol) % len(SAMPLE_COLORS)]
        for one in groups
    }


def _matrices(found: Compared) -> str:
    metrics = [metric for metric, own in found.values.items() if _varies(own)]
    ways = ("Pearson", "Spearman")
    values = {way: np.eye(len(metrics)) for way in ways}
    sure: dict[str, NDArray[np.bool_]] = {
        way: np.zeros((len(metrics), len(metrics)), bool) for way in ways
    }
    for one in found.correlations:
        if not set(one.metrics) <= set(metrics):
            continue
        row, column = (metrics.index(metric) for metric in one.metrics)
        for way, own, p in zip(ways, (one.pearson, one.spearman), one.corrected, strict=True):
            values[way][row, column] = values[way][column, row] = own.value
            sure[way][row, column] = sure[way][column, row] = p < SURE
    return correlation_matrices([METRICS[metric].name for metric in metrics], values, sure)


def comparison_page(
    found: Compared, study: CompareSettings, tables: Mapping[str, pa.Table], folder: Path
) -> str:
    """HTML of one page that loads nothing.

    Args:
        found: what is shown.
        study: its settings.
        tables: that lie beside the page.
        folder: of the study, with a picture of the resin of every picture.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsem.report", "template"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    groups = [
        {
            "name": one.name,
            "facts": {"protocol": one.protocol, "tissue": one.tissue, "microscope": one.microscope},
            "pictures": len(found.groups[one.name]),
            "example": _example(
                folder / one.folder / "resin" / f"{found.groups[one.name][0].name}.png"
            ),
            "resin": found.groups[one.name][0].resin,
        }
        for one in study.group
    ]
    return environment.get_template("comparison.html").render(
        title=study.title,
        groups=groups,
        notices=found.notices,
        figures=figures(found, study),
        medians=_medians(found),
        tests=_told_tests(found.tests),
        tested=sum(not np.isnan(one.difference.p) for one in found.tests),
        metrics=[
            (about.name, about.unit, about.better, about.about)
            for name, about in METRICS.items()
            if name in found.values
        ],
        files=[(f"{name}.csv", table.num_rows) for name, table in tables.items()],
        made=now(),
        version=__version__,
    )


def _example(path: Path) -> str:
    """A picture with its resin, small enough for the page."""
    with Image.open(path) as image:
        image.thumbnail((SHOWN_PX, SHOWN_PX))
        return color_picture(image, 80)


def _medians(found: Compared) -> dict[str, list[str]]:
    """A row a group: the median of every metric, and how many it is of."""
    names = list(found.groups)
    rows = {"": [METRICS[metric].name for metric in found.values]}
    for name in names:
        known = [own[name][np.isfinite(own[name])] for own in found.values.values()]
        rows[name] = [f"{np.median(one):.4g}" if len(one) else "–" for one in known]
    return rows


def _told_tests(tests: Sequence[Test]) -> list[dict[str, Any]]:
    """Those that could be made, the surest first."""
    made = sorted(
        (one for one in tests if not np.isnan(one.difference.p)),
        key=lambda one: (one.corrected, one.difference.p),
    )
    return [
        {
            "metric": METRICS[one.metric].name,
            "groups": " and ".join(one.groups),
            "n": " and ".join(map(str, one.difference.n)),
            "medians": " and ".join(f"{value:.4g}" for value in one.difference.medians),
            "delta": f"{one.difference.delta:+.2f}",
            "p": f"{one.difference.p:.2g}",
            "corrected": f"{one.corrected:.2g}",
            "sure": one.corrected < SURE,
        }
        for one in made
    ]
