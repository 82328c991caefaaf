"""The commands that tell how good images are."""

import math
from collections import Counter
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from sparsem.cli.options import Outcome, SamplePath, command, in_shell
from sparsem.cli.score_format import MOST_LISTED
from sparsem.experiment.protocols import compare_protocols
from sparsem.quality.compare import SURE
from sparsem.quality.image_metrics import METRICS
from sparsem.quality.images import ImagesSettings, pictures, write_tables
from sparsem.quality.learned_metrics import LEARNT
from sparsem.quality.quality import Quality, QualitySettings, quality
from sparsem.store.sample import Sample
from sparsem.workflow.execution import Execution

AT_LIMIT = ", the finest that can be told"
Folder = Annotated[Path, typer.Option("--out", help="folder for the tables and what was measured")]


@command(QualitySettings, spread=True)
def quality_sample(path: SamplePath, *, settings: QualitySettings, on: Execution) -> Outcome:
    """Tell of every slice how noisy, sharp, striped, charged or misplaced it is, and which ones to look at. 'sample' may be left out.

    Example: sparsem quality liver.zarr
    """
    sample = Sample.open(path)
    found = quality(sample, settings, on=on)
    data = {
        "sample": sample.path,
        "image": found.image,
        "light": found.light,
        "medians": medians(found),
    }
    worst = [{"z": z, "light": one.light, "remarks": one.remarks} for z, one in found.worst()]
    table = f"Wrote {path}/tables/quality_{found.image}.parquet and .csv"
    return Outcome(
        [*quality_lines(found), table],
        f"sparsem report {in_shell(path)}",
        data | {"look_at": worst},
    )


def medians(found: Quality) -> dict[str, float]:
    """Over all slices."""
    return {name: _median(values) for name, values in found.columns.items()}


def _median(values: NDArray[np.float64]) -> float:
    """Of what is known; NaN of nothing."""
    return float(np.nanmedian(values)) if np.isfinite(values).any() else math.nan


def quality_lines(found: Quality) -> list[str]:
    """For people: the light, the usual slice, and the slices to look at."""
    usual, worst = medians(found), found.worst()
    count = (
        f"{len(worst)} of {len(found.verdicts)} slices to look at"
        if worst
        else f"{len(found.verdicts)} slices, none to look at"
    )
    lights = Counter(one.light.value for _, one in worst)
    counted = "".join(f", {lights[light]} {light}" for light in ("red", "amber") if lights[light])
    lines = [f"{found.image}: {found.light.value} ({count}{counted})"]
    lines.append(
        f"The usual slice: noise {100 * usual['noise']:.1f} % of the range of gray levels, contrast {100 * usual['contrast']:.1f} %, "
        f"SNR {usual['snr_db']:.1f} dB, details from {usual['resolution_px']:.1f} px on{AT_LIMIT if usual['resolution_px'] < 4.05 else ''}"
    )
    if len(found.verdicts) > 2 and np.isnan(found.columns["spacing"]).mean() > 0.5:
        lines.append(
            f"Whether slices are lost cannot be told: neighbors are little alike ({usual['likeness']:.2f} of 1), or do not change at all"
        )
    if not math.isnan(found.stripes_degrees):
        lines.append(
            f"Stripes of {100 * usual['stripes']:.1f} % run at {found.stripes_degrees:.0f} degrees (0 is along x, -90 along y)"
        )
    lines += [
        f"  slice {z}: {one.light.value}, {', '.join(one.remarks)}"
        for z, one in worst[:MOST_LISTED]
    ]
    return lines + (
        [f"  and {len(worst) - MOST_LISTED} more, in the table"] if len(worst) > MOST_LISTED else []
    )


@command(ImagesSettings, spread=True)
def quality_images(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="PICTURE...", help="files of pictures or stacks, folders, or patterns"
        ),
    ],
    folder: Folder = Path("quality"),
    *,
    settings: ImagesSettings,
    on: Execution,
) -> Outcome:
    """Measure pictures by themselves, in their resin, and beside a reference; as a whole and by tile.

    Examples: sparsem quality images bench.tif asp.tif --resin bench_resin.tif --resin asp_resin.tif
    or sparsem quality images bench.tif asp.tif --denoise nlm
    """
    found = pictures(sources, folder, settings, on=on)
    files = write_tables(found, folder)
    shown = [name for name in METRICS if any(not math.isnan(one.values[name]) for one in found)]
    width = max(len(one.name) for one in found)
    lines = ["  ".join([" " * width, *(f"{_head(name):>8}" for name in shown)])]
    lines += [
        "  ".join([f"{one.name:{width}}", *(_under(name, one.values[name]) for name in shown)])
        for one in found
    ]
    told = {word: [one.name for one in found if one.resin == word] for word in ("proposed", "none")}
    if told["proposed"]:
        lines.append(
            f"Nobody marked resin in {len(told['proposed'])}: the most featureless squares are a proposal; look at {folder}/resin."
        )
    if told["none"]:
        lines.append(
            f"Nobody marked resin in {len(told['none'])}, and nothing there is as featureless as resin; mark it with --resin."
        )
    if doubtful := [one.name for one in found if one.is_resin_doubtful]:
        lines.append(
            f"What is marked varies more than twice as much as noise does in {', '.join(doubtful[:MOST_LISTED])}: is it resin?"
        )
    if absent := [about.name for name, about in LEARNT.items() if name not in shown]:
        lines.append(
            f"Not measured: {', '.join(absent)}; see --weights, and for DISTS --reference or --denoise."
        )
    rows = [{"picture": one.name, "resin_marked": one.resin_marked, **one.values} for one in found]
    return Outcome(
        [*lines, *(f"Wrote {file}" for file in files)], "", {"pictures": rows, "files": files}
    )


def _head(metric: str) -> str:
    """A name with its unit."""
    return " ".join(filter(None, (METRICS[metric].name, METRICS[metric].unit)))


def _under(metric: str, value: float) -> str:
    """A number as wide as the name over it."""
    return f"{'--' if math.isnan(value) else f'{value:.4g}':>{max(8, len(_head(metric)))}}"


@command(spread=True)
def quality_compare(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="the groups of pictures")],
    *,
    on: Execution,
) -> Outcome:
    """Compare protocols, tissues and microscopes by the quality of their pictures: figures, tests and correlations on one page.

    Example: sparsem quality compare protocols.toml
    """
    made = compare_protocols(study, on)
    found = made.found
    width = max(map(len, found.groups))
    lines = [
        "  ".join([" " * width, f"{'n':>4}", *(f"{_head(metric):>8}" for metric in found.values)])
    ]
    for name, own in found.groups.items():
        middle = (_under(metric, _median(one[name])) for metric, one in found.values.items())
        lines.append("  ".join([f"{name:{width}}", f"{len(own):4}", *middle]))
    sure = [
        one for one in found.tests if one.corrected < SURE and found.by == "image"
    ]  # of tiles p is too good to be told first
    told = [
        f"{METRICS[one.metric].name} differs between {' and '.join(one.groups)} (p = {one.corrected:.2g}, corrected)"
        for one in sure
    ]
    lines += told[:MOST_LISTED] + (
        [f"and {len(told) - MOST_LISTED} differences more, on the page"]
        if len(told) > MOST_LISTED
        else []
    )
    lines += [
        *(f"Note: {text}" for text in found.notices),
        *(f"Wrote {file}" for file in made.files),
    ]
    return Outcome(
        lines,
        "",
        {
            "files": made.files,
            "notices": found.notices,
            "sure": [[one.metric, *one.groups] for one in sure],
        },
    )
