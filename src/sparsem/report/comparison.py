"""A study of protocols as one page: figures 4, 5 and 6 of the thesis' second chapter, with the tables behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from sparsem import __version__
from sparsem.execution import HERE, Execution
from sparsem.quality.compare import Compared, CompareSettings, GroupStep, Test, compare, comparison_tables, read_comparison
from sparsem.quality.picture import METRICS
from sparsem.quality.pictures import write_csv
from sparsem.report.encode import colour_picture
from sparsem.report.plots import SAMPLE_COLOURS
from sparsem.report.quality_plots import before_and_after, boxes_by_group, correlation_matrices
from sparsem.store.sample import now
from sparsem.store.volume import write_atomically

SURE = 0.05  # corrected p below which a difference or a correlation is printed bold
SHOWN_PX = 420  # longest edge of an example of a group


@dataclass(frozen=True)
class Comparison:
    """What a study found, and the files that tell it."""

    found: Compared
    files: tuple[Path, ...]


def compare_protocols(path: str | Path, on: Execution = HERE) -> Comparison:
    """Measure and compare (see ``quality.compare``), and write into the study's folder ``comparison.html`` and tables as CSV.

    Files of an earlier run are replaced; what was measured is not measured again.

    Args:
        path: the study.toml.
        on: how denoising is spread, and whether progress is shown.

    Raises:
        SettingsError: the file is not a study.
        InputError: pictures of a group are missing, differ in size, or cannot be measured.
    """
    path = Path(path).resolve()
    study, found = read_comparison(path), compare(path, on)
    folder = path.parent / study.out
    tables = comparison_tables(found)
    files = [write_csv(table, folder / f"{name}.csv") for name, table in tables.items()]
    page = folder / "comparison.html"
    write_atomically(page, _page(found, study, tables, folder).encode())
    return Comparison(found, (page, *files))


def figures(found: Compared, study: CompareSettings) -> list[dict[str, str]]:
    """Title, caption and SVG of every figure."""
    shown = {metric: own for metric, own in found.values.items() if metric != "resin_noise_reference" and _varies(own)}
    titles = {metric: _title(metric) for metric in shown}
    one = f"one {study.by}"
    made = [
        {
            "title": "Every metric by group",
            "about": f"A dot is {one}; boxes reach from quartile to quartile, the line is the median, whiskers end at 1.5 times the box. "
            "An arrow says where better is.",
            "svg": boxes_by_group(shown, titles, _colours(study.group)),
        }
    ]
    if "resin_noise" in found.values and "resin_noise_reference" in found.values:
        before, after = (found.values[metric] for metric in ("resin_noise", "resin_noise_reference"))
        about = "Standard deviation in resin, of the pictures and of what they are compared with. Bars: means; lines: standard deviations."
        made.append({"title": "Noise before and after denoising", "about": about, "svg": before_and_after(before, after)})
    if found.correlations:
        n = max(each.pearson.n for each in found.correlations)
        about = (
            f"Over all measurements (n = {n} at most). Bold: not 0 (p < {SURE:g}, corrected for all pairs after Holm). Intervals are in "
            "the table of correlations."
        )
        made.append({"title": "Correlation of the metrics", "about": about, "svg": _matrices(found)})
    return made


def _varies(own: Mapping[str, NDArray[np.float64]]) -> bool:
    """Whether there is anything to see: no part of any picture is saturated, say."""
    values = np.concatenate(list(own.values()))
    return bool(np.nanmax(values) > np.nanmin(values))


def _title(metric: str) -> str:
    about = METRICS[metric]
    unit = f" ({about.unit})" if about.unit else ""
    return f"{about.name}{unit}  {'↑' if about.better > 0 else '↓'}"


def _colours(groups: Sequence[GroupStep]) -> dict[str, str]:
    """A colour a protocol, whatever the tissue and the microscope."""
    protocols = list(dict.fromkeys(one.protocol for one in groups))
    return {one.name: SAMPLE_COLOURS[protocols.index(one.protocol) % len(SAMPLE_COLOURS)] for one in groups}


def _matrices(found: Compared) -> str:
    metrics = [metric for metric, own in found.values.items() if _varies(own)]
    ways = ("Pearson", "Spearman")
    values = {way: np.eye(len(metrics)) for way in ways}
    sure: dict[str, NDArray[np.bool_]] = {way: np.zeros((len(metrics), len(metrics)), bool) for way in ways}
    for one in found.correlations:
        if not set(one.metrics) <= set(metrics):
            continue
        row, column = (metrics.index(metric) for metric in one.metrics)
        for way, own, p in zip(ways, (one.pearson, one.spearman), one.corrected, strict=True):
            values[way][row, column] = values[way][column, row] = own.value
            sure[way][row, column] = sure[way][column, row] = p < SURE
    return correlation_matrices([METRICS[metric].name for metric in metrics], values, sure)


def _page(found: Compared, study: CompareSettings, tables: Mapping[str, pa.Table], folder: Path) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparsem.report", "template"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    groups = [
        {
            "name": one.name,
            "facts": {"protocol": one.protocol, "tissue": one.tissue, "microscope": one.microscope},
            "pictures": len(found.groups[one.name]),
            "example": _example(folder / f"group-{place + 1}" / "resin" / f"{found.groups[one.name][0].name}.png"),
            "marked": all(each.resin_marked for each in found.groups[one.name]),
        }
        for place, one in enumerate(study.group)
    ]
    return environment.get_template("comparison.html").render(
        title=study.title,
        groups=groups,
        notices=found.notices,
        figures=figures(found, study),
        medians=_medians(found),
        tests=_told_tests(found.tests),
        tested=sum(not np.isnan(one.difference.p) for one in found.tests),
        metrics=[(about.name, about.unit, about.better, about.about) for name, about in METRICS.items() if name in found.values],
        files=[(f"{name}.csv", table.num_rows) for name, table in tables.items()],
        made=now(),
        version=__version__,
    )


def _example(path: Path) -> str:
    """A picture with its resin, small enough for the page."""
    with Image.open(path) as image:
        image.thumbnail((SHOWN_PX, SHOWN_PX))
        return colour_picture(image, 80)


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
    made = sorted((one for one in tests if not np.isnan(one.difference.p)), key=lambda one: (one.corrected, one.difference.p))
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
