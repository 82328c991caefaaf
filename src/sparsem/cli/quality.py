"""The commands that measure how good images are."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

import sparsem
from sparsem.cli.format import MAX_LISTED, in_shell
from sparsem.cli.options import Outcome, SamplePath, command
from sparsem.quality.settings import ImagesSettings, QualitySettings
from sparsem.workflow.execution import Execution

if TYPE_CHECKING:
    from sparsem.quality.compare import ProtocolComparison
    from sparsem.quality.image_metrics import MeasuredImage
    from sparsem.quality.quality import Quality

FINEST_PX = 4.05  # a resolution of two pixels a period is the finest that a spectrum shows
MAX_UNKNOWN_SPACING = 0.5  # fraction of slices
MIN_WIDTH = 8  # characters of a column
MISSING = "--"

Folder = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", help="folder for the tables and the results")
]


@command(QualitySettings, spread=True)
def quality_sample_command(
    path: SamplePath, *, settings: QualitySettings, on: Execution
) -> Outcome:
    """Measure noise, sharpness, stripes, charging and position of every slice, and list slices to
    review.

    The word 'sample' may be left out.

    sparsem quality liver.zarr
    """
    sample = sparsem.Sample.open(path)
    stack = sparsem.quality(sample, settings, on=on)
    review = [
        {"z": z, "light": flag.light, "remarks": flag.remarks}
        for z, flag in stack.slices_to_review()
    ]
    data = {
        "sample": sample.path,
        "image": stack.image,
        "light": stack.light,
        "medians": medians(stack),
        "review": review,
    }
    lines = [
        *quality_lines(stack),
        f"Wrote {path}/tables/quality_{stack.image}.parquet and .csv",
    ]
    return Outcome(lines, f"sparsem report {in_shell(path)}", data)


def medians(stack: "Quality") -> dict[str, float]:
    """Return the median of each measure over all slices; NaN if it is not known of any."""
    return {name: _median(values) for name, values in stack.columns.items()}


def _median(values: NDArray[np.float64]) -> float:
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def quality_lines(stack: "Quality") -> list[str]:
    """Return the light of a stack, its median slice, and the slices to review."""
    typical = medians(stack)
    limit = ", the finest that can be measured" if typical["resolution_px"] < FINEST_PX else ""
    lines = [
        _light_line(stack),
        (
            f"Median of the slices: noise {100 * typical['noise']:.1f} % of the range of gray "
            f"levels, contrast {100 * typical['contrast']:.1f} %, SNR {typical['snr_db']:.1f} dB, "
            f"resolution {typical['resolution_px']:.1f} px{limit}"
        ),
    ]
    unknown_spacing = np.isnan(stack.columns["spacing"]).mean()
    if len(stack.flags) > 2 and unknown_spacing > MAX_UNKNOWN_SPACING:
        lines.append(
            "Lost slices cannot be detected: neighbors are hardly similar "
            f"({typical['similarity']:.2f} of 1), or do not change at all"
        )
    if not math.isnan(stack.stripes_degrees):
        lines.append(
            f"Stripes of {100 * typical['stripes']:.1f} % run at {stack.stripes_degrees:.0f} "
            "degrees (0 is along x, -90 along y)"
        )
    review = stack.slices_to_review()
    for z, flag in review[:MAX_LISTED]:
        lines.append(f"  slice {z}: {flag.light.value}, {', '.join(flag.remarks)}")
    if len(review) > MAX_LISTED:
        lines.append(f"  and {len(review) - MAX_LISTED} more, in the table")
    return lines


def _light_line(stack: "Quality") -> str:
    review = stack.slices_to_review()
    n_slices = len(stack.flags)
    if not review:
        return f"{stack.image}: {stack.light.value} ({n_slices} slices, none to review)"
    counts = Counter(flag.light.value for _, flag in review)
    colors = "".join(f", {counts[light]} {light}" for light in ("red", "amber") if counts[light])
    return (
        f"{stack.image}: {stack.light.value} ({len(review)} of {n_slices} slices to review{colors})"
    )


@command(ImagesSettings, spread=True)
def quality_images_command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE...", help="files of images or stacks, folders, or patterns"),
    ],
    folder: Folder = Path("quality"),
    *,
    settings: ImagesSettings,
    on: Execution,
) -> Outcome:
    """Measure single images: alone, in their resin, and compared with a reference; as a whole and
    by tile.

    sparsem quality images bench.tif asp.tif --resin bench_resin.tif --resin asp_resin.tif
    sparsem quality images bench.tif asp.tif --denoise nlm
    """
    from sparsem.quality.image_metrics import METRICS

    result = sparsem.measure_image_quality(sources, folder, settings, on=on)
    images = result.images
    known = [
        name for name in METRICS if any(not math.isnan(image.values[name]) for image in images)
    ]
    lines = [
        *_metric_table(images, known),
        *_resin_lines(images, folder),
        *_missing_lines(known),
        *(f"Wrote {file}" for file in result.files),
    ]
    rows = [
        {"image": image.name, "resin_marked": image.resin_marked, **image.values}
        for image in images
    ]
    return Outcome(lines, data={"images": rows, "files": result.files})


def _metric_table(images: "Sequence[MeasuredImage]", metrics: Sequence[str]) -> list[str]:
    """Return a line for each image, and a heading."""
    width = max(len(image.name) for image in images)
    headings = [f"{_heading(name):>{MIN_WIDTH}}" for name in metrics]
    lines = ["  ".join([" " * width, *headings])]
    for image in images:
        values = [_aligned(name, image.values[name]) for name in metrics]
        lines.append("  ".join([f"{image.name:{width}}", *values]))
    return lines


def _resin_lines(images: "Sequence[MeasuredImage]", folder: Path) -> list[str]:
    lines = []
    proposed = [image for image in images if image.resin == "proposed"]
    if proposed:
        lines.append(
            f"Resin is not marked in {len(proposed)} images: the most featureless squares are "
            f"proposed; review them in {folder}/resin."
        )
    without = [image for image in images if image.resin == "none"]
    if without:
        lines.append(
            f"Resin is not marked in {len(without)} images, and nothing in them is as "
            "featureless as resin; mark it with --resin."
        )
    suspicious = [image.name for image in images if image.is_resin_suspicious]
    if suspicious:
        lines.append(
            "The marked resin varies more than twice as much as noise does in "
            f"{', '.join(suspicious[:MAX_LISTED])}: is it resin?"
        )
    return lines


def _missing_lines(known: Sequence[str]) -> list[str]:
    from sparsem.quality.learned_metrics import TRAINED_METRICS

    missing = [metric.name for name, metric in TRAINED_METRICS.items() if name not in known]
    if not missing:
        return []
    names = ", ".join(missing)
    return [f"Not measured: {names}; see --weights, and for DISTS --reference or --denoise."]


def _heading(metric: str) -> str:
    """Return the name of a metric with its unit."""
    from sparsem.quality.image_metrics import METRICS

    return f"{METRICS[metric].name} {METRICS[metric].unit}".strip()


def _aligned(metric: str, value: float) -> str:
    """Return a number that is as wide as the heading above it."""
    text = MISSING if math.isnan(value) else f"{value:.4g}"
    width = max(MIN_WIDTH, len(_heading(metric)))
    return f"{text:>{width}}"


@command(spread=True)
def quality_compare_command(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="the groups of images")],
    *,
    on: Execution,
) -> Outcome:
    """Compare protocols, tissues and microscopes by the quality of their images: figures, tests and
    correlations on one page.

    sparsem quality compare protocols.toml
    """
    from sparsem.experiment.protocols import compare_protocols
    from sparsem.quality.comparison_tests import SIGNIFICANCE
    from sparsem.quality.image_metrics import METRICS

    page = compare_protocols(study, on)
    comparison = page.comparison
    significant = [test for test in comparison.tests if test.corrected < SIGNIFICANCE]
    if comparison.by != "image":
        significant = []  # tiles of an image are not independent, so their p values are too small
    sentences = [
        f"{METRICS[test.metric].name} differs between {' and '.join(test.groups)} "
        f"(p = {test.corrected:.2g}, corrected)"
        for test in significant
    ]
    lines = [*_group_table(comparison), *sentences[:MAX_LISTED]]
    if len(sentences) > MAX_LISTED:
        lines.append(f"and {len(sentences) - MAX_LISTED} more differences, on the page")
    lines += [f"Note: {text}" for text in comparison.notices]
    lines += [f"Wrote {file}" for file in page.files]
    data: dict[str, Any] = {
        "files": page.files,
        "notices": comparison.notices,
        "significant": [[test.metric, *test.groups] for test in significant],
    }
    return Outcome(lines, data=data)


def _group_table(comparison: "ProtocolComparison") -> list[str]:
    """Return the medians of each group, and a heading."""
    width = max(map(len, comparison.groups))
    headings = [f"{_heading(metric):>{MIN_WIDTH}}" for metric in comparison.values]
    lines = ["  ".join([" " * width, f"{'n':>4}", *headings])]
    for name, images in comparison.groups.items():
        values = [
            _aligned(metric, _median(groups[name])) for metric, groups in comparison.values.items()
        ]
        lines.append("  ".join([f"{name:{width}}", f"{len(images):4}", *values]))
    return lines
